/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * Guest memory of KVM: what the kvm-mem series adds to <linux/kvm.h>.
 *
 * Capabilities start at 1000 and ioctls at 0xf0, which no kernel up to 7.3
 * uses.  Documentation/virt/kvm/memory-attributes.rst shows them in use.
 */
#ifndef _UAPI_LINUX_KVM_MEM_H
#define _UAPI_LINUX_KVM_MEM_H

#include <linux/kvm.h>

/*
 * KVM_GET_MEMORY_ATTRIBUTES is there for this VM: KVM_CHECK_EXTENSION of a VM
 * returns the attributes that it reports, as KVM_CAP_MEMORY_ATTRIBUTES does.
 */
#define KVM_CAP_GET_MEMORY_ATTRIBUTES		1000

/*
 * KVM_SET_MEMORY_ATTRIBUTES_LIST is there for this VM: KVM_CHECK_EXTENSION of
 * a VM returns the largest &struct kvm_memory_attributes_list.nr.
 */
#define KVM_CAP_SET_MEMORY_ATTRIBUTES_LIST	1001

/*
 * KVM_CREATE_VM of arm64 takes KVM_VM_TYPE_ARM_SW_PROTECTED in a VM's type,
 * beside the size of its IPA space: memory of such a VM can be private, backed
 * by a guest_memfd.  See Documentation/virt/kvm/arm/private-memory.rst.
 */
#define KVM_CAP_ARM_SW_PROTECTED_VM		1002
#define KVM_VM_TYPE_ARM_SW_PROTECTED		(1UL << 30)

/*
 * KVM_ENABLE_CAP of a VM of arm64 with args[0] of 1: hardware (FEAT_HAFDBS), not
 * a fault, notes the first write to a page whose dirty bit was cleared since, or
 * that was mapped by a read.  KVM_GET_DIRTY_LOG collects what it noted;
 * KVM_CLEAR_DIRTY_LOG clears only what was collected.  Guests of a guest, and huge
 * mappings that can't be split, go on with faults.  With args[0] of 0 faults tell
 * of all again; what was written till then is in the log.  It can be switched at
 * any time, repeatedly.  The rest of args is 0.  See
 * Documentation/virt/kvm/dirty-log.rst.
 *
 * KVM_CHECK_EXTENSION returns 1 if all CPUs that there can be have come online,
 * and have it; 0 in protected mode, or with an erratum of one of them.
 *
 * Errors: EINVAL for other arguments, or where KVM_CHECK_EXTENSION returns 0;
 * EBUSY to turn it on for a VM with a dirty ring.  Where a ring is enabled after
 * it, it has no effect.
 */
#define KVM_CAP_ARM_HW_DIRTY			1003

/**
 * struct kvm_get_memory_attributes - for KVM_GET_MEMORY_ATTRIBUTES
 * @address: guest-physical address to begin at, in bytes, a multiple of the
 *	     page size.  Returns where to go on: the end of the last run.
 * @size: bytes to report, a multiple of the page size, not 0.  Returns what is
 *	  left: 0 when all of it was reported.
 * @runs: userspace address of an array of &struct kvm_memory_attributes
 * @nr: entries that the array has room for, not 0.  Returns how many were
 *	written.
 * @flags: 0
 * @reserved: 0
 *
 * Reports the attributes of guest memory as runs: entries in ascending order,
 * without gaps, that together are what the call reports.  Neighbours differ in
 * attributes, so memory that has one kind throughout is one entry.  Entries
 * have flags of 0: they can go to KVM_SET_MEMORY_ATTRIBUTES or
 * KVM_SET_MEMORY_ATTRIBUTES_LIST, of this or of another VM, as they are.
 *
 * One call is a snapshot.  Between two calls another thread may convert memory.
 *
 * Errors: EINVAL for a non-zero @flags or @reserved, an @address or a @size not
 * of whole pages, an end at or above 2^64, @size or @nr of 0; EFAULT for a bad
 * address, after which the array may have been written in part and this
 * structure is as it was; EOPNOTSUPP for a VM without attributes.
 */
struct kvm_get_memory_attributes {
	__u64 address;
	__u64 size;
	__u64 runs;
	__u32 nr;
	__u32 flags;
	__u64 reserved[4];
};

#define KVM_GET_MEMORY_ATTRIBUTES	\
	_IOWR(KVMIO, 0xf0, struct kvm_get_memory_attributes)

/**
 * struct kvm_memory_attributes_list - for KVM_SET_MEMORY_ATTRIBUTES_LIST
 * @ranges: userspace address of an array of &struct kvm_memory_attributes
 * @nr: entries of the array, from 1 to what
 *	KVM_CAP_SET_MEMORY_ATTRIBUTES_LIST returns
 * @done: returns how many entries were set, counted from the first
 * @flags: 0
 * @pad: 0
 * @reserved: 0
 *
 * Does what KVM_SET_MEMORY_ATTRIBUTES does for each entry, in their order, with
 * one TLB flush for all.  Entries may overlap; the last one holds.  All entries
 * are checked before the first one is set.
 *
 * Errors: EINVAL for non-zero @flags, @pad or @reserved, and for an @nr out of
 * range; EINVAL for an entry that KVM_SET_MEMORY_ATTRIBUTES would refuse, when
 * nothing is set and @done is the index of that entry; ENOMEM when memory ran
 * out after @done entries, which stay set; EFAULT for a bad address, when nothing
 * is set; EOPNOTSUPP for a VM without attributes.
 */
struct kvm_memory_attributes_list {
	__u64 ranges;
	__u32 nr;
	__u32 done;
	__u32 flags;
	__u32 pad;
	__u64 reserved[3];
};

#define KVM_SET_MEMORY_ATTRIBUTES_LIST	\
	_IOWR(KVMIO, 0xf1, struct kvm_memory_attributes_list)

#endif /* _UAPI_LINUX_KVM_MEM_H */
