/* SPDX-License-Identifier: GPL-2.0-only */
/* Helpers for the tests of the dirty log. */
#ifndef SELFTEST_KVM_DIRTY_LOG_H
#define SELFTEST_KVM_DIRTY_LOG_H

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <asm/barrier.h>

#include "kvm_util.h"
#include "test_util.h"
#include "ucall_common.h"

static inline bool dirty_ring_supported(void)
{
	return kvm_has_cap(KVM_CAP_DIRTY_LOG_RING) ||
	       kvm_has_cap(KVM_CAP_DIRTY_LOG_RING_ACQ_REL);
}

/* How a test reads and clears the dirty log. */
enum how { HOW_GET, HOW_CLEAR, HOW_RING };

/*
 * Call it before the first vCPU is added.  With @all_set and HOW_CLEAR, all pages are
 * dirty when logging begins.
 */
static inline void vm_set_up_log(struct kvm_vm *vm, enum how how, bool all_set,
				 uint32_t ring_entries)
{
	uint64_t manual = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;

	if (how == HOW_RING)
		vm_enable_dirty_ring(vm, ring_entries * sizeof(struct kvm_dirty_gfn));
	if (all_set)
		manual |= KVM_DIRTY_LOG_INITIALLY_SET;
	if (how == HOW_CLEAR)
		vm_enable_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, manual);
}

/* Take the next entry of a vCPU's ring.  Return false if there is none. */
static inline bool vcpu_harvest_entry(struct kvm_vcpu *vcpu, uint32_t ring_entries,
				      uint32_t *slot, uint64_t *offset)
{
	struct kvm_dirty_gfn *entry = &vcpu->dirty_gfns[vcpu->fetch_index % ring_entries];

	/* Read a whole entry; pairs with smp_wmb() in kvm_dirty_ring_push(). */
	if (smp_load_acquire(&entry->flags) != KVM_DIRTY_GFN_F_DIRTY)
		return false;
	*slot = entry->slot;
	*offset = entry->offset;
	/* Return the entry once it is read; pairs with kvm_dirty_gfn_harvested(). */
	smp_store_release(&entry->flags, KVM_DIRTY_GFN_F_RESET);
	vcpu->fetch_index++;
	return true;
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
