/* SPDX-License-Identifier: GPL-2.0-only */
/* What the tests in this directory share: options, random numbers, cases in TAP. */
#ifndef _KVM_MEM_CASES_H
#define _KVM_MEM_CASES_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <urcu.h>

struct test_case {
	const char *name;
	void (*run)(void);
};

static long max_steps = 10000000;
static long max_seconds = 60;
static uint64_t rng_state = 88172645463325252ull;
static unsigned int test_nr;
static const char *current_case = "start";

#define fail(fmt, ...) do {						\
	printf("# line %d: " fmt "\n", __LINE__, ##__VA_ARGS__);	\
	printf("not ok %u - %s\n", ++test_nr, current_case);		\
	exit(1);							\
} while (0)

static uint64_t rng(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return rng_state;
}

static unsigned long rng_below(unsigned long n)
{
	return rng() % n;
}

static void read_options(int argc, char **argv)
{
	int opt;

	while ((opt = getopt(argc, argv, "n:t:s:")) != -1) {
		switch (opt) {
		case 'n':
			max_steps = atol(optarg);
			break;
		case 't':
			max_seconds = atol(optarg);
			break;
		case 's':
			rng_state = strtoull(optarg, NULL, 0) | 1;
			break;
		default:
			fprintf(stderr, "usage: %s [-n STEPS] [-t SECONDS] [-s SEED]\n",
				argv[0]);
			exit(2);
		}
	}
}

/* Run the cases.  @init prepares the kernel's code, and prints what is tested. */
static int run_cases(int argc, char **argv, void (*init)(void),
		     const struct test_case *cases, unsigned int nr)
{
	read_options(argc, argv);
	setvbuf(stdout, NULL, _IOLBF, 0);
	rcu_register_thread();
	printf("TAP version 14\n1..%u\n", nr);
	init();
	printf("# seed %#llx\n", (unsigned long long)rng_state);
	while (test_nr < nr) {
		current_case = cases[test_nr].name;
		cases[test_nr].run();
		printf("ok %u - %s\n", ++test_nr, current_case);
	}
	rcu_unregister_thread();
	return 0;
}

#endif
