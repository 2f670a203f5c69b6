/* SPDX-License-Identifier: GPL-2.0 */
/* Finds splats in a kernel log by the rules of lab/splat-policy. */
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
 * @bad:	rules for messages that are splats
 * @fine:	rules for messages that are no splats, though @bad matches them
 * @emit:	gets each splat, and the messages after it
 * @splats:	number of splats so far; a failed scan counts as one
 * @context:	number of messages that @emit still gets
 */
struct scanner {
	struct rules bad;
	struct rules fine;
	emit_fn emit;
	int splats;
	int context;
};

/* Reads the policy; counts a splat and returns false if the policy is unusable. */
bool scanner_start(struct scanner *s, const char *policy, emit_fn emit);

/* Scans a message; its time stamp must be cut off. */
void scanner_message(struct scanner *s, const char *text);

/* Reports a problem with the log itself, and counts it as a splat. */
void scanner_complain(struct scanner *s, const char *what);

/* Returns the whole file, NUL-terminated, its length in *len; NULL if unreadable. */
char *slurp(const char *path, size_t *len);

/* An emit_fn that prints to standard output. */
void print_line(const char *line);

#endif
