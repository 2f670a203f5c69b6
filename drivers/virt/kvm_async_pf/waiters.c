// SPDX-License-Identifier: GPL-2.0-only
#include <linux/sched.h>

#include "waiters.h"

void apf_waiters_init(struct apf_waiters *waiters)
{
	raw_spin_lock_init(&waiters->lock);
	hash_init(waiters->table);
}

/**
 * apf_waiters_add - let a task wait for a token
 * @waiters: the table
 * @waiter: has @token and @task set
 *
 * Context: any but NMI.
 */
void apf_waiters_add(struct apf_waiters *waiters, struct apf_waiter *waiter)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&waiters->lock, flags);
	hash_add(waiters->table, &waiter->node, waiter->token);
	raw_spin_unlock_irqrestore(&waiters->lock, flags);
}

/**
 * apf_waiters_remove - end a wait
 * @waiters: the table that the waiter was added to
 * @waiter: may have been woken already
 *
 * Only when it returns may the task free @waiter, or end: apf_waiters_wake() may be about
 * to wake it, with the lock held.
 *
 * Context: any but NMI.
 */
void apf_waiters_remove(struct apf_waiters *waiters, struct apf_waiter *waiter)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&waiters->lock, flags);
	hash_del(&waiter->node);
	raw_spin_unlock_irqrestore(&waiters->lock, flags);
}

/*
 * The task sets its state, and then looks at the node.  wake_up_process() orders the
 * change of the node before it reads the state.
 */
static void wake(struct apf_waiter *waiter)
{
	hash_del(&waiter->node);
	wake_up_process(waiter->task);
}

/**
 * apf_waiters_wake - wake all tasks that wait for a token
 * @waiters: the table
 * @token: any number
 *
 * Context: any but NMI.
 */
void apf_waiters_wake(struct apf_waiters *waiters, u32 token)
{
	struct apf_waiter *waiter;
	struct hlist_node *next;
	unsigned long flags;

	raw_spin_lock_irqsave(&waiters->lock, flags);
	hash_for_each_possible_safe(waiters->table, waiter, next, node, token)
		if (waiter->token == token)
			wake(waiter);
	raw_spin_unlock_irqrestore(&waiters->lock, flags);
}

/**
 * apf_waiters_wake_all - wake all tasks
 * @waiters: the table
 *
 * Context: any but NMI.
 */
void apf_waiters_wake_all(struct apf_waiters *waiters)
{
	struct apf_waiter *waiter;
	struct hlist_node *next;
	unsigned long flags;
	int bucket;

	raw_spin_lock_irqsave(&waiters->lock, flags);
	hash_for_each_safe(waiters->table, bucket, next, waiter, node)
		wake(waiter);
	raw_spin_unlock_irqrestore(&waiters->lock, flags);
}
