/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _KVM_MEM_SCHED_H
#define _KVM_MEM_SCHED_H
#define cond_resched()	do { } while (0)
#endif
