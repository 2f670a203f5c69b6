/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * KVM guest memory: additions to <linux/kvm.h>
 *
 * Capabilities start at 1000 and ioctls at 0xf0, which no kernel up to 7.3 uses.
 * Documentation/virt/kvm/memory-attributes.rst has an overview and an example.
 */
#ifndef _UAPI_LINUX_KVM_MEM_H
#define _UAPI_LINUX_KVM_MEM_H

#include <linux/kvm.h>

#ifndef KVM_MEMORY_ATTRIBUTE_PRIVATE
#error "linux/kvm_mem.h needs the linux/kvm.h of Linux 6.8 or later"
#endif

/*
 * The VM has KVM_GET_MEMORY_ATTRIBUTES.  KVM_CHECK_EXTENSION on a VM returns the
 * attributes that the ioctl reports, as KVM_CAP_MEMORY_ATTRIBUTES does.  On
 * /dev/kvm it returns those that KVM knows, even if this host can't create a VM
 * that has them.
 */
#define KVM_CAP_GET_MEMORY_ATTRIBUTES		1000

/*
 * The VM has KVM_SET_MEMORY_ATTRIBUTES_LIST.  KVM_CHECK_EXTENSION on a VM returns
 * the largest &struct kvm_set_memory_attributes_list.nr, 4096.
 */
#define KVM_CAP_SET_MEMORY_ATTRIBUTES_LIST	1001

/*
 * If KVM_CAP_ARM_SW_PROTECTED_VM is not 0, KVM_CREATE_VM on arm64 accepts
 * KVM_VM_TYPE_ARM_SW_PROTECTED, or-ed to the size of the IPA space.  Memory of
 * such a VM can be private.  See Documentation/virt/kvm/arm/private-memory.rst.
 */
#define KVM_CAP_ARM_SW_PROTECTED_VM		1002
#define KVM_VM_TYPE_ARM_SW_PROTECTED		(1UL << 30)

/*
 * Let arm64 hardware (FEAT_HAFDBS) note the first write to a clean page, so
 * that the write takes no fault.  A page becomes clean when its dirty bit is
 * cleared, when logging begins without KVM_DIRTY_LOG_INITIALLY_SET, and when a
 * read maps the page while its memslot is logging.
 * Documentation/virt/kvm/dirty-log.rst explains how a VMM uses this.
 *
 * KVM_CHECK_EXTENSION returns 1 if hardware can do this for a VM, otherwise 0.
 * Every possible CPU must have come online, have the feature, and have no known
 * erratum that breaks it.  In protected mode, KVM returns 0.  A CPU that comes
 * online later does not change the answer for a VM that exists.
 *
 * KVM_ENABLE_CAP on a VM turns this on if args[0] is 1, off if args[0] is 0.
 * flags and the other args must be 0.  A VMM may make the call at any time and
 * repeatedly, even while vCPUs run and memslots are logging.  The capability is
 * off in a new VM.  The call waits for other calls that change memslots, or
 * that read or clear the dirty log.
 *
 * While the capability is on, KVM_GET_DIRTY_LOG also reports the pages that
 * hardware made dirty.  As always, each bit of the log stands for one page of
 * the host's page size.  KVM_CLEAR_DIRTY_LOG does not collect such pages: a
 * page that hardware made dirty after the last KVM_GET_DIRTY_LOG stays dirty
 * for the next one.  Nested guests, and huge mappings that cannot be split,
 * still take faults.
 *
 * Turning the capability on changes no mapping.  A page that is already
 * writable is left to hardware once its dirty bit is cleared.  A page that is
 * read-only takes one more fault before that.
 *
 * Once the call that turns the capability off returns, the log has all pages
 * that hardware made dirty.  From then on, each first write takes a fault.
 *
 * Errors of KVM_ENABLE_CAP: EINVAL if an argument is not as above, or if
 * KVM_CHECK_EXTENSION returns 0; EBUSY if args[0] is 1 and the VM has a dirty ring.
 * If a dirty ring is enabled later, this capability has no effect.
 */
#define KVM_CAP_ARM_HW_DIRTY			1003

/*
 * KVM_CHECK_EXTENSION returns 1 if vCPUs handle faults while KVM_CLEAR_DIRTY_LOG,
 * KVM_GET_DIRTY_LOG or KVM_RESET_DIRTY_RINGS runs, and if these calls protect only
 * the pages that they clear.  A VMM can then clear as much memory in one call as it
 * copies soon afterwards, and gains by leaving other pages out of the mask.
 * Otherwise it returns 0, and calls should be small.
 * Documentation/virt/kvm/dirty-log.rst lists the exceptions.
 */
#define KVM_CAP_DIRTY_LOG_EXACT			1004

/*
 * How many asynchronous page faults each vCPU can have in flight.  A vCPU that has reached
 * the limit waits for the page of its next fault.  Each fault in flight keeps a thread of
 * the host busy.  Whatever the limit, no more than 512 faults are in flight that began on
 * the same CPU of the host.
 *
 * KVM_CHECK_EXTENSION returns the highest limit, 4096, or 0 if a VM can't choose it.
 *
 * KVM_ENABLE_CAP on a VM without vCPUs sets the limit to args[0], from 1 to the
 * highest.  flags and the other args must be 0.  The limit of a new VM is 64.  Errors,
 * which leave the limit as it is:
 *
 * EINVAL	args[0] is out of range, or flags or another arg is not 0
 * EBUSY	the VM has vCPUs: set the limit before the first KVM_CREATE_VCPU
 */
#define KVM_CAP_ASYNC_PF_LIMIT			1005

/*
 * If KVM_CHECK_EXTENSION returns 1, arm64 guests can have asynchronous page faults.  A
 * VM needs a GICv3 of KVM for them, and no protected mode of KVM.
 * Documentation/virt/kvm/arm/async-pf.rst explains how a VMM offers them to its guest.
 */
#define KVM_CAP_ARM_ASYNC_PF			1006

#if defined(__aarch64__)
/*
 * Bit 0 of this register offers asynchronous page faults to the guest.  All vCPUs
 * share it, and it is 0 in a new VM.  KVM_GET_REG_LIST has it if it is not 0.
 *
 * Errors of KVM_SET_ONE_REG: EINVAL if another bit is set, or bit 0 while
 * KVM_CAP_ARM_ASYNC_PF is 0; EBUSY if a vCPU has run, and the value differs.
 */
#define KVM_REG_ARM_ASYNC_PF_BMAP		KVM_REG_ARM_FW_FEAT_BMAP_REG(1000)
#define KVM_REG_ARM_ASYNC_PF_BIT_V1		0

/*
 * What the guest has chosen for the vCPU: 0 if asynchronous page faults are off, or the
 * address of the area, with the number of entries of its ring (log2) in bits 4:1, and
 * 1 in bit 0.  KVM_GET_REG_LIST has the register if they are offered to the guest.
 *
 * A VMM that migrates or restores a vCPU copies it, and should not write it at other times.
 * KVM_SET_ONE_REG forgets all faults in flight, as a reset does.  At the next KVM_RUN, KVM
 * lets the guest wake the tasks that wait for them.
 *
 * Errors of KVM_SET_ONE_REG: ENOENT if they are not offered; EINVAL if the area is not
 * in writable memory of the VM, if bit 5 is set, if the ring has more than 4096 entries, if
 * bit 0 is 0 and another bit is not, or if the vCPU has no interrupt for them.
 */
#define KVM_REG_ARM_ASYNC_PF			KVM_REG_ARM_FW_REG(1000)
#define KVM_REG_ARM_ASYNC_PF_ON			(1ULL << 0)
#define KVM_REG_ARM_ASYNC_PF_ORDER_SHIFT	1
#define KVM_REG_ARM_ASYNC_PF_ORDER_MASK		(0xfULL << 1)
#define KVM_REG_ARM_ASYNC_PF_ADDRESS_MASK	(~0x3fULL)

/*
 * A group of attributes of a vCPU.  KVM_ARM_VCPU_ASYNC_PF_IRQ is an int, the INTID of the PPI
 * that KVM uses for asynchronous page faults, from 16 to 31.  All vCPUs that have
 * one must have the same.  KVM makes it an edge-triggered interrupt.
 *
 * Errors: ENXIO if KVM_CAP_ARM_ASYNC_PF is 0, or, when it is read, if the vCPU has
 * none; ENODEV if the VM's GICv3 is not initialized; EINVAL if the number is no PPI, or if
 * another vCPU has another PPI; EEXIST if the PMU or a timer has the PPI; EBUSY if
 * the vCPU has one already; EFAULT if the address is bad.
 */
#define KVM_ARM_VCPU_ASYNC_PF_CTRL		1000
#define   KVM_ARM_VCPU_ASYNC_PF_IRQ		0
#endif

/**
 * struct kvm_get_memory_attributes - argument of KVM_GET_MEMORY_ATTRIBUTES
 * @address: guest-physical address to begin at, in bytes, a multiple of the
 *	     page size.  Returns the address where the next call can continue.
 * @size: number of bytes to report, a multiple of the page size, not 0.  Returns
 *	  the number of bytes left to report: 0 if the call reported everything.
 * @ranges: userspace address of an array of &struct kvm_memory_attributes
 * @nr: number of entries that the array has room for, or 0 to count.  Returns
 *	the number of entries that the call wrote or counted.
 * @flags: 0
 * @generation: returns a number that changes whenever the attributes of any
 *		memory of the VM change
 * @mask: attributes to compare with @attributes, or 0 to report all memory
 * @attributes: report only memory with (attributes & @mask) == @attributes
 * @reserved: 0
 *
 * Reports the attributes of guest memory as ranges, in ascending order.  Each
 * entry is as long as possible: ranges that touch have different attributes.
 * If @mask is 0, the entries leave no gaps.  The flags of each entry are 0.
 * Userspace can pass the entries as they are to KVM_SET_MEMORY_ATTRIBUTES or
 * KVM_SET_MEMORY_ATTRIBUTES_LIST, of this VM or of another VM.
 *
 * One call is a snapshot of at most 4096 entries, even if the array has room for
 * more.  Only @size tells whether there is more to report.  Another thread may
 * convert memory between two calls.  If both calls return the same @generation,
 * no thread did.
 *
 * If @nr is 0, the call only counts.  It ignores @ranges and leaves @address and
 * @size as they are.  The count stops at 2^32 - 1.  It isn't a snapshot: it is
 * exact if the next call returns the same @generation.
 *
 * Errors: EINVAL if @flags or @reserved isn't 0, if @address or @size isn't a
 * multiple of the page size, if the end is at or above 2^64, if @size is 0, if
 * @mask has a bit that KVM_CAP_GET_MEMORY_ATTRIBUTES doesn't return, or if
 * @attributes has a bit that @mask doesn't have.  EFAULT if an address can't be
 * read or written; the call leaves this structure unchanged, but may have
 * written part of the array.  ENOMEM if memory runs out.  EINTR if a signal
 * interrupts a count.  EOPNOTSUPP if the VM has no attributes, i.e. if
 * KVM_CAP_MEMORY_ATTRIBUTES is 0.
 */
struct kvm_get_memory_attributes {
	__u64 address;
	__u64 size;
	__u64 ranges;
	__u32 nr;
	__u32 flags;
	__u64 generation;
	__u64 mask;
	__u64 attributes;
	__u64 reserved;
};

#define KVM_GET_MEMORY_ATTRIBUTES	\
	_IOWR(KVMIO, 0xf0, struct kvm_get_memory_attributes)

/**
 * struct kvm_set_memory_attributes_list - argument of KVM_SET_MEMORY_ATTRIBUTES_LIST
 * @ranges: userspace address of an array of &struct kvm_memory_attributes
 * @nr: number of entries in the array, from 1 to the value of
 *	KVM_CAP_SET_MEMORY_ATTRIBUTES_LIST
 * @done: returns the number of entries that were set, counted from the first,
 *	  or the index of an invalid entry
 * @flags: 0
 * @pad: 0
 * @reserved: 0
 *
 * Gives memory the attributes that it would have after one call of
 * KVM_SET_MEMORY_ATTRIBUTES for each entry, in the order of the array: if
 * entries overlap, the last one wins.  KVM checks all entries first, merges
 * them, and then sets memory in the order of addresses.  Ranges that are close
 * together share one invalidation and, on x86, one TLB flush.
 *
 * A signal can stop the call before all entries are set.  The call then returns
 * EINTR, the entries before @done are set, and the other entries may be unset,
 * set in part, or set.  To finish, call again with the entries from @done on.
 * Each call sets at least some memory.
 *
 * Errors: EINVAL if @flags, @pad or @reserved isn't 0, or if @nr is out of
 * range; @done is then equal to @nr.  EINVAL if KVM_SET_MEMORY_ATTRIBUTES would
 * refuse an entry; nothing is set, and @done is the index of that entry.  EINTR
 * as above.  ENOMEM if memory runs out; @done is as for EINTR.  EFAULT if an
 * address can't be read or written; nothing is set, unless this structure
 * becomes read-only or goes away during the call.  EOPNOTSUPP if the VM has no
 * attributes; @done is unchanged.
 */
struct kvm_set_memory_attributes_list {
	__u64 ranges;
	__u32 nr;
	__u32 done;
	__u32 flags;
	__u32 pad;
	__u64 reserved[3];
};

#define KVM_SET_MEMORY_ATTRIBUTES_LIST	\
	_IOWR(KVMIO, 0xf1, struct kvm_set_memory_attributes_list)

#endif /* _UAPI_LINUX_KVM_MEM_H */
