/* SPDX-License-Identifier: GPL-2.0 */
/* Finds splats in a kernel log, by the rules of lab/splat-policy. */
#ifndef LAB_SPLATS_H
#define LAB_SPLATS_H

#include <regex.h>
#include <stdbool.h>
#include <stddef.h>

#define MAX_RULES	128

typedef void (*emit_fn)(const char *line);

struct rules {
	regex_t regex[MAX_RULES];
	int nr;
};

/**
 * struct scanner - one scan of a kernel log
 * @bad:	messages that are splats
 * @fine:	messages that are none, though @bad matches them
 * @emit:	gets each splat, and the messages after it
 * @splats:	splats so far; a scan that cannot be done counts as one
 * @context:	messages that @emit still gets
 */
struct scanner {
	struct rules bad;
	struct rules fine;
	emit_fn emit;
	int splats;
	int context;
};

/* Reads the policy; returns false, after a splat, if that cannot be used. */
bool scanner_start(struct scanner *s, const char *policy, emit_fn emit);

/* Judges a message, given without its time stamp. */
void scanner_message(struct scanner *s, const char *text);

/* Counts a splat that is no message: something is wrong with the log itself. */
void scanner_complain(struct scanner *s, const char *what);

/* Whole file, NUL-terminated; its length in *len.  NULL when unreadable. */
char *slurp(const char *path, size_t *len);

/* An emit_fn for standard output. */
void print_line(const char *line);

#endif
