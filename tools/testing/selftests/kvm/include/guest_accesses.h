/* SPDX-License-Identifier: GPL-2.0-only */
/* A guest that accesses the memory that the host asks for, and checks what it reads. */
#ifndef SELFTEST_KVM_GUEST_ACCESSES_H
#define SELFTEST_KVM_GUEST_ACCESSES_H

#include "kvm_util.h"
#include "ucall_common.h"

#define MAX_ACCESSES	48
#define MAX_VCPUS	2

/* What a vCPU does until its next GUEST_SYNC: check words, and perhaps write them. */
static struct accesses {
	uint32_t nr;
	struct access {
		uint64_t gpa, expect, value;
		bool write;
	} access[MAX_ACCESSES];
} guest_accesses[MAX_VCPUS];

static void guest_make_accesses(uint64_t id)
{
	struct accesses *all = &guest_accesses[id];
	struct access *a;
	uint64_t value;

	for (;;) {
		for (a = all->access; a < all->access + all->nr; a++) {
			value = READ_ONCE(*(uint64_t *)a->gpa);
			__GUEST_ASSERT(value == a->expect, "0x%lx has 0x%lx instead of 0x%lx",
				       a->gpa, value, a->expect);
			if (a->write)
				WRITE_ONCE(*(uint64_t *)a->gpa, a->value);
		}
		GUEST_SYNC(0);
	}
}

/* Call it once the vCPU exists.  Return where the host says what the vCPU does. */
static inline struct accesses *vcpu_set_up_accesses(struct kvm_vcpu *vcpu)
{
	vcpu_args_set(vcpu, 1, (uint64_t)vcpu->id);
	return addr_gva2hva(vcpu->vm, (vm_vaddr_t)&guest_accesses[vcpu->id]);
}

#endif
