/* SPDX-License-Identifier: GPL-2.0-only */
/* Declarations for ../slab.c: the kernel's allocators, with failures on demand. */
#ifndef _KVM_MEM_SLAB_H
#define _KVM_MEM_SLAB_H

#include <urcu.h>
#include "../../../include/linux/slab.h"

/* Number of allocations that succeed before others fail; if negative, none fails. */
extern long slab_fail_after;
/* If true, only one allocation fails, and the next ones succeed. */
extern bool slab_fail_once;
/* Number of allocations that have failed. */
extern long slab_failures;
/* Return the number of objects that are allocated now. */
long slab_live(void);

#define kmalloc_size_roundup(size)	(size)

void slab_kfree_rcu(void *p);
#define kfree_rcu(p, ...)	slab_kfree_rcu(p)

#endif
