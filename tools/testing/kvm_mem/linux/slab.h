/* SPDX-License-Identifier: GPL-2.0-only */
/* The kernel's allocators, with failures on demand: see ../slab.c */
#ifndef _KVM_MEM_SLAB_H
#define _KVM_MEM_SLAB_H

#include <urcu.h>
#include "../../../include/linux/slab.h"

/* Allocations to let pass before they fail; negative: never. */
extern long slab_fail_after;
/* Only one fails, the next ones pass. */
extern bool slab_fail_once;
/* Allocations that have failed. */
extern long slab_failures;
/* Objects that are allocated now. */
long slab_live(void);

#define kmalloc_size_roundup(size)	(size)

void slab_kfree_rcu(void *p);
#define kfree_rcu(p, ...)	slab_kfree_rcu(p)

#endif
