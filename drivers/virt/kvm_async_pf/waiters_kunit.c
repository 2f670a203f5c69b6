// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of the table of waiters.
 *
 * Most waiters are the task that runs the test, which a spurious wake-up does not harm.
 */
#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/kthread.h>
#include <linux/prandom.h>
#include <linux/sched.h>

#include "waiters.h"

#define NR_WAITERS	200
#define NR_TOKENS	64

struct waiters_test {
	struct apf_waiters waiters;
	struct apf_waiter waiter[NR_WAITERS];
	bool waits[NR_WAITERS];		/* what to expect */
	struct completion woken;
};

static int waiters_test_init(struct kunit *test)
{
	struct waiters_test *t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);

	if (!t)
		return -ENOMEM;
	apf_waiters_init(&t->waiters);
	test->priv = t;
	return 0;
}

/* Tokens that differ in their upper bits, or in their lower bits */
static u32 token_of(unsigned int i)
{
	return i % 2 ? i : i << 25 | 1;
}

static void add(struct waiters_test *t, unsigned int i, u32 token)
{
	t->waiter[i].token = token;
	t->waiter[i].task = current;
	apf_waiters_add(&t->waiters, &t->waiter[i]);
	t->waits[i] = true;
}

static void wake(struct waiters_test *t, u32 token)
{
	unsigned int i;

	apf_waiters_wake(&t->waiters, token);
	for (i = 0; i < NR_WAITERS; i++)
		if (t->waiter[i].token == token)
			t->waits[i] = false;
}

static void check(struct kunit *test)
{
	struct waiters_test *t = test->priv;
	unsigned int i;

	for (i = 0; i < NR_WAITERS; i++)
		KUNIT_ASSERT_EQ_MSG(test, t->waits[i], apf_waiter_waits(&t->waiter[i]),
				    "waiter %u", i);
}

/* A token wakes the tasks that wait for it, each once, and no others. */
static void several_waiters(struct kunit *test)
{
	struct waiters_test *t = test->priv;

	add(t, 0, 1);
	add(t, 1, 2);
	add(t, 2, 1);
	check(test);
	wake(t, 1);
	check(test);
	KUNIT_EXPECT_FALSE(test, apf_waiter_waits(&t->waiter[0]));
	KUNIT_EXPECT_TRUE(test, apf_waiter_waits(&t->waiter[1]));
	KUNIT_EXPECT_FALSE(test, apf_waiter_waits(&t->waiter[2]));
	apf_waiters_remove(&t->waiters, &t->waiter[1]);
}

/* Tokens that nobody waits for: never seen, seen before, and of a wait that has ended. */
static void other_tokens(struct kunit *test)
{
	struct waiters_test *t = test->priv;

	wake(t, 0);
	wake(t, U32_MAX);
	add(t, 0, 1);
	wake(t, 2);
	check(test);
	wake(t, 1);
	wake(t, 1);
	check(test);

	add(t, 0, 1);
	apf_waiters_remove(&t->waiters, &t->waiter[0]);
	t->waits[0] = false;
	wake(t, 1);
	check(test);

	/* The task removes itself, although it was woken. */
	add(t, 0, 1);
	wake(t, 1);
	apf_waiters_remove(&t->waiters, &t->waiter[0]);
	check(test);
}

static void wake_all(struct kunit *test)
{
	struct waiters_test *t = test->priv;
	unsigned int i;

	apf_waiters_wake_all(&t->waiters);
	for (i = 0; i < NR_WAITERS; i++)
		add(t, i, token_of(i % NR_TOKENS));
	apf_waiters_wake_all(&t->waiters);
	memset(t->waits, 0, sizeof(t->waits));
	check(test);
}

/* The table agrees with an array. */
static void random_waiters(struct kunit *test)
{
	struct waiters_test *t = test->priv;
	struct rnd_state rnd;
	unsigned int i, n;

	prandom_seed_state(&rnd, 1);
	for (n = 0; n < 5000; n++) {
		i = prandom_u32_state(&rnd) % NR_WAITERS;
		if (!t->waits[i]) {
			add(t, i, token_of(prandom_u32_state(&rnd) % NR_TOKENS));
		} else if (prandom_u32_state(&rnd) % 2) {
			apf_waiters_remove(&t->waiters, &t->waiter[i]);
			t->waits[i] = false;
		} else {
			wake(t, token_of(prandom_u32_state(&rnd) % NR_TOKENS));
		}
		check(test);
	}
	apf_waiters_wake_all(&t->waiters);
}

/* A task that sleeps as the driver lets it sleep */
static int sleep_until_woken(void *data)
{
	struct waiters_test *t = data;

	for (;;) {
		set_current_state(TASK_INTERRUPTIBLE);
		if (!apf_waiter_waits(&t->waiter[0]))
			break;
		schedule();
	}
	__set_current_state(TASK_RUNNING);
	apf_waiters_remove(&t->waiters, &t->waiter[0]);
	complete(&t->woken);
	return 0;
}

/* The wake-up reaches a task that sleeps, or that is about to. */
static void sleeper(struct kunit *test)
{
	struct waiters_test *t = test->priv;
	struct task_struct *task;
	unsigned int i;

	for (i = 0; i < 200; i++) {
		task = kthread_create(sleep_until_woken, t, "apf_waiter");
		KUNIT_ASSERT_NOT_ERR_OR_NULL(test, task);
		t->waiter[0].token = i;
		t->waiter[0].task = task;
		apf_waiters_add(&t->waiters, &t->waiter[0]);
		init_completion(&t->woken);
		wake_up_process(task);
		if (i % 2)
			schedule_timeout_uninterruptible(1);
		apf_waiters_wake(&t->waiters, i);
		KUNIT_ASSERT_NE(test, 0, wait_for_completion_timeout(&t->woken, 60 * HZ));
	}
}

static struct kunit_case waiters_cases[] = {
	KUNIT_CASE(several_waiters),
	KUNIT_CASE(other_tokens),
	KUNIT_CASE(wake_all),
	KUNIT_CASE(random_waiters),
	KUNIT_CASE(sleeper),
	{}
};

static struct kunit_suite waiters_suite = {
	.name = "kvm_async_pf_waiters",
	.init = waiters_test_init,
	.test_cases = waiters_cases,
};

kunit_test_suite(waiters_suite);
