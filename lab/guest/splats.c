// SPDX-License-Identifier: GPL-2.0
/*
 * The only reader of lab/splat-policy.  init links it to scan the kernel log of
 * a running machine, and scan links it to scan a console on the host.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "splats.h"

#define CONTEXT		40	/* messages shown, from the one that matches */

char *slurp(const char *path, size_t *len)
{
	size_t room = 1 << 16, n = 0;
	char *buf = malloc(room + 1);
	FILE *f = fopen(path, "re");

	if (!f || !buf)
		return NULL;
	while ((*len = fread(buf + n, 1, room - n, f)) > 0) {
		n += *len;
		if (n == room)
			buf = realloc(buf, (room *= 2) + 1);
		if (!buf)
			return NULL;
	}
	if (ferror(f))
		return NULL;
	fclose(f);
	buf[n] = '\0';
	*len = n;
	return buf;
}

void print_line(const char *line)
{
	puts(line);
}

void scanner_complain(struct scanner *s, const char *what)
{
	s->emit(what);
	s->splats++;
}

static bool add_rule(struct rules *rules, const char *line)
{
	const int flags = REG_EXTENDED | REG_NEWLINE | REG_NOSUB;

	if (rules->nr == MAX_RULES || regcomp(rules->regex + rules->nr, line, flags))
		return false;
	rules->nr++;
	return true;
}

/* Except for comments and empty lines, each line is a regex; "!" marks exceptions. */
static bool read_rule(struct scanner *s, const char *line)
{
	if (!*line || *line == '#')
		return true;
	return *line == '!' ? add_rule(&s->fine, line + 1) : add_rule(&s->bad, line);
}

bool scanner_start(struct scanner *s, const char *policy, emit_fn emit)
{
	size_t len;
	char *text = slurp(policy, &len), *line;

	memset(s, 0, sizeof(*s));
	s->emit = emit;
	if (!text) {
		scanner_complain(s, "lab: the splat policy cannot be read");
		return false;
	}
	while ((line = strsep(&text, "\n"))) {
		if (!read_rule(s, line)) {
			scanner_complain(s, "lab: the splat policy has a line that is no regex:");
			emit(line);
			return false;
		}
	}
	if (!s->bad.nr)
		scanner_complain(s, "lab: the splat policy is empty");
	return s->bad.nr;
}

static bool any_match(const struct rules *rules, const char *text)
{
	for (int i = 0; i < rules->nr; i++)
		if (!regexec(rules->regex + i, text, 0, NULL, 0))
			return true;
	return false;
}

void scanner_message(struct scanner *s, const char *text)
{
	if (any_match(&s->bad, text) && !any_match(&s->fine, text)) {
		s->splats++;
		s->context = CONTEXT;
	}
	if (s->context > 0) {
		s->context--;
		s->emit(text);
	}
}
