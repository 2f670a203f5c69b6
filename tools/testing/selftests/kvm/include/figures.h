/* SPDX-License-Identifier: GPL-2.0-only */
/* Helpers to measure the figures of a performance test and print one per line. */
#ifndef SELFTEST_KVM_FIGURES_H
#define SELFTEST_KVM_FIGURES_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "test_util.h"

static inline uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return timespec_to_ns(ts);
}

static inline int compare_values(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return x < y ? -1 : x > y;
}

/* Sort the values; return the value that @percent of them do not exceed. */
static inline int64_t percentile(int64_t *v, int n, int percent)
{
	qsort(v, n, sizeof(*v), compare_values);
	return v[(n - 1) * percent / 100];
}

static inline int64_t median(int64_t *v, int n)
{
	qsort(v, n, sizeof(*v), compare_values);
	return v[n / 2];
}

/* Print a figure.  Its name is @fmt with the arguments that follow. */
static inline void __printf(3, 4) figure(int64_t value, const char *unit,
					 const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf(" %ld %s\n", value, unit);
	fflush(stdout);
}

#endif
