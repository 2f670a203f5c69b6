/* SPDX-License-Identifier: GPL-2.0-only */
/* Helpers for the tests of the dirty log. */
#ifndef SELFTEST_KVM_DIRTY_LOG_H
#define SELFTEST_KVM_DIRTY_LOG_H

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvm_util.h"
#include "test_util.h"
#include "ucall_common.h"

static inline bool dirty_ring_supported(void)
{
	return kvm_has_cap(KVM_CAP_DIRTY_LOG_RING) ||
	       kvm_has_cap(KVM_CAP_DIRTY_LOG_RING_ACQ_REL);
}

/*
 * Let arm64 split blocks before it protects their pages.  KVM accepts that only while
 * there is no memslot.
 */
static inline void vm_enable_eager_split(struct kvm_vm *vm)
{
#ifdef __aarch64__
	struct kvm_userspace_memory_region2 *slot = &memslot2region(vm, 0)->region;
	uint64_t size = slot->memory_size;

	slot->memory_size = 0;
	vm_ioctl(vm, KVM_SET_USER_MEMORY_REGION2, slot);
	vm_enable_cap(vm, KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE, get_trans_hugepagesz());
	slot->memory_size = size;
	vm_ioctl(vm, KVM_SET_USER_MEMORY_REGION2, slot);
#endif
}

/* The vCPU statistic that counts faults; on arm64 it counts all exits. */
#ifdef __aarch64__
#define FAULTS		"exits"
#else
#define FAULTS		"pf_taken"
#endif

static inline uint64_t vcpu_faults(struct kvm_vcpu *vcpu)
{
	struct kvm_stats_header header;
	struct kvm_stats_desc *descs, *desc;
	int fd = vcpu_get_stats_fd(vcpu), i;
	uint64_t value = 0;
	bool found = false;

	read_stats_header(fd, &header);
	descs = read_stats_descriptors(fd, &header);
	for (i = 0; i < header.num_desc && !found; i++) {
		desc = get_stats_descriptor(descs, i, &header);
		found = !strcmp(desc->name, FAULTS);
		if (found)
			read_stat_data(fd, &header, desc, &value, 1);
	}
	TEST_ASSERT(found, "vCPUs have no statistic " FAULTS);
	free(descs);
	close(fd);
	return value;
}

/* Run one sweep of the vCPU, up to its GUEST_SYNC; return the number of faults. */
static inline int64_t sweep_faults(struct kvm_vcpu *vcpu)
{
	uint64_t before = vcpu_faults(vcpu);

	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, NULL), UCALL_SYNC);
	return vcpu_faults(vcpu) - before;
}

#endif
