/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tasks that wait for pages of one CPU, by the tokens of the pages.
 *
 * The host gives a page's token with the fault, and again when the page is ready.  Several
 * tasks may wait for a token.  If no task waits for a token, it has no effect.
 */
#ifndef DRIVERS_VIRT_KVM_ASYNC_PF_WAITERS_H
#define DRIVERS_VIRT_KVM_ASYNC_PF_WAITERS_H

#include <linux/hashtable.h>
#include <linux/spinlock.h>
#include <linux/types.h>

struct task_struct;

#define APF_WAITERS_BITS	6

/**
 * struct apf_waiter - one task that waits for one page
 * @node: in the table, or unhashed if the task need not wait any more
 * @token: identifies the page
 * @task: stays alive until it has called apf_waiters_remove()
 */
struct apf_waiter {
	struct hlist_node node;
	u32 token;
	struct task_struct *task;
};

/**
 * struct apf_waiters - the tasks that wait for pages of one CPU
 * @lock: protects the table.  The CPU's interrupt handler takes it, and so do the tasks,
 *	  which may run on other CPUs by then.
 * @table: the waiters, hashed by their tokens
 */
struct apf_waiters {
	raw_spinlock_t lock;
	DECLARE_HASHTABLE(table, APF_WAITERS_BITS);
};

void apf_waiters_init(struct apf_waiters *waiters);
void apf_waiters_add(struct apf_waiters *waiters, struct apf_waiter *waiter);
void apf_waiters_remove(struct apf_waiters *waiters, struct apf_waiter *waiter);
void apf_waiters_wake(struct apf_waiters *waiters, u32 token);
void apf_waiters_wake_all(struct apf_waiters *waiters);

/* Does the task still have to wait?  May be called without the lock. */
static inline bool apf_waiter_waits(struct apf_waiter *waiter)
{
	return !hlist_unhashed_lockless(&waiter->node);
}

#endif
