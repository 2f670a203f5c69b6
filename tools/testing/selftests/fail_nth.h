/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For tests that let each allocation of a call fail in turn, and then look for leaks
 *
 * A test calls set_up_fault_injection() once, and fail_nth() before a call and
 * stop_failing() after it, for n = 1, 2, ... until stop_failing() returns false.
 */
#ifndef SELFTEST_FAIL_NTH_H
#define SELFTEST_FAIL_NTH_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kselftest.h"

static int fail_nth_fd;

static inline bool write_file(const char *path, const char *what)
{
	int fd = open(path, O_WRONLY);
	bool ok = fd >= 0 && write(fd, what, strlen(what)) == strlen(what);

	if (fd >= 0)
		close(fd);
	return ok;
}

/* Skip the test if the kernel can't do it. */
static inline void set_up_fault_injection(void)
{
	fail_nth_fd = open("/proc/thread-self/fail-nth", O_RDWR);
	if (fail_nth_fd < 0 ||
	    !write_file("/sys/kernel/debug/failslab/ignore-gfp-wait", "N") ||
	    !write_file("/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", "N"))
		ksft_exit_skip("needs CONFIG_FAILSLAB, CONFIG_FAIL_PAGE_ALLOC and debugfs\n");

	write_file("/sys/kernel/debug/fail_page_alloc/min-order", "0");
	write_file("/sys/kernel/debug/failslab/verbose", "0");
	write_file("/sys/kernel/debug/fail_page_alloc/verbose", "0");
}

/* Let the n-th allocation from now fail, in this thread; 0 for none. */
static inline void fail_nth(int n)
{
	char buf[16];

	snprintf(buf, sizeof(buf), "%d", n);
	/* This write may be what fails. */
	while (pwrite(fail_nth_fd, buf, strlen(buf), 0) < 0) {
		if (errno != EFAULT && errno != ENOMEM)
			ksft_exit_fail_msg("fail-nth, errno %d\n", errno);
	}
}

/* Let no allocation fail any more.  Return true if one has failed. */
static inline bool stop_failing(void)
{
	char buf[16] = { };
	bool failed = pread(fail_nth_fd, buf, sizeof(buf) - 1, 0) < 0 || !atoi(buf);

	fail_nth(0);
	return failed;
}

#define KMEMLEAK	"/sys/kernel/debug/kmemleak"

/* Forget all leaks so far.  Return false if the kernel doesn't look for leaks. */
static inline bool forget_leaks(void)
{
	return write_file(KMEMLEAK, "scan") && write_file(KMEMLEAK, "clear");
}

/*
 * Print all leaks since forget_leaks().  Return true if a backtrace has any of the names,
 * which end with NULL, or if the kernel could not look for leaks.
 */
static inline bool has_leaks(const char *const names[])
{
	bool leaks = false;
	char line[256];
	FILE *f;
	int i;

	/* An object is only reported once it is 5 s old. */
	sleep(6);
	if (!write_file(KMEMLEAK, "scan") || !write_file(KMEMLEAK, "scan"))
		return true;

	f = fopen(KMEMLEAK, "r");
	if (!f)
		return true;

	while (fgets(line, sizeof(line), f)) {
		ksft_print_msg("%s", line);
		for (i = 0; names[i]; i++)
			leaks |= !!strstr(line, names[i]);
	}
	fclose(f);
	return leaks;
}

#endif
