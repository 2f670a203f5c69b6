// SPDX-License-Identifier: GPL-2.0
/*
 * Prints the splats in a machine's console output, with the lines that follow
 * them.  It runs on the host.
 *
 * usage: scan POLICY [FILE]	without FILE, it reads standard input
 *
 * Exit status: 0 without a splat, 1 with one, 2 if POLICY or FILE is unusable.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>

#include "splats.h"

/* Drops line ends.  A NUL becomes a space: it would hide the rest of the line. */
static void clean(char *line, size_t len)
{
	char *to = line;

	for (char *from = line; from < line + len; from++)
		if (*from != '\r' && *from != '\n')
			*to++ = *from ? *from : ' ';
	*to = '\0';
}

/* Returns the message in a line, "[   12.345678] message". */
static const char *message(const char *line)
{
	size_t stamp;

	if (*line != '[')
		return line;
	stamp = 1 + strspn(line + 1, " 0123456789.");
	return strncmp(line + stamp, "] ", 2) ? line : line + stamp + 2;
}

int main(int argc, char **argv)
{
	static struct scanner scanner;
	char *line = NULL;
	size_t room = 0;
	ssize_t len;

	if (argc < 2 || argc > 3) {
		fprintf(stderr, "usage: %s POLICY [FILE]\n", argv[0]);
		return 2;
	}
	if (argc == 3 && !freopen(argv[2], "r", stdin)) {
		perror(argv[2]);
		return 2;
	}
	if (!scanner_start(&scanner, argv[1], print_line))
		return 2;
	while ((len = getline(&line, &room, stdin)) > 0) {
		clean(line, len);
		scanner_message(&scanner, message(line));
	}
	if (ferror(stdin)) {
		perror("the log");
		return 2;
	}
	return !!scanner.splats;
}
