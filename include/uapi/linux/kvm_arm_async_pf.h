/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * Asynchronous page faults of arm64 guests: what a guest and KVM share.
 *
 * Documentation/virt/kvm/arm/async-pf.rst describes how a guest uses this.
 */
#ifndef _UAPI_LINUX_KVM_ARM_ASYNC_PF_H
#define _UAPI_LINUX_KVM_ARM_ASYNC_PF_H

#include <linux/types.h>

/*
 * The number of the hypercall among KVM's vendor-specific ones, and its function
 * ID: a fast call with 64-bit arguments.  A guest has it if bit 96 of the features
 * that ARM_SMCCC_VENDOR_HYP_KVM_FEATURES_FUNC_ID returns in w0 to w3 is set.
 *
 * x1 says what to do, and w0 returns 0, or NOT_SUPPORTED (-1) if x1 is unknown or
 * the VMM has chosen no interrupt, or INVALID_PARAMETER (-3).
 */
#define ARM_SMCCC_KVM_FUNC_ASYNC_PF		96
#define ARM_SMCCC_VENDOR_HYP_KVM_ASYNC_PF_FUNC_ID	0xc6000060

/* Returns the version of this interface in x1, and the INTID of the PPI in x2. */
#define KVM_ARM_ASYNC_PF_FEATURES		0
#define KVM_ARM_ASYNC_PF_VERSION		1

/*
 * Turn asynchronous page faults of this vCPU on.  x2 is the physical address of the area,
 * which is aligned to 64 bytes and filled with zeros, and x3 the number of entries of its
 * ring, log2.  INVALID_PARAMETER if the address is not aligned, the area is not in
 * writable memory of the VM, or the number of entries is too large.  A guest that
 * has turned them on already gets another area.
 */
#define KVM_ARM_ASYNC_PF_ENABLE			1
#define KVM_ARM_ASYNC_PF_MAX_ORDER		12

/*
 * Turn them off.  The guest won't hear of any page that is on its way, or see KVM
 * write to the area.
 */
#define KVM_ARM_ASYNC_PF_DISABLE		2

/* The ring was full, and the guest has read all entries. */
#define KVM_ARM_ASYNC_PF_RESUME			3

/**
 * struct kvm_arm_async_pf_area - shared by KVM and one vCPU
 * @token: identifies a page that the guest has tried to access, and that is not
 *	   present.  KVM writes it if it is 0, and the guest writes 0.
 * @generation: KVM increments it when it has forgotten all pages.  Each waiter must
 *		try again.
 * @pc: where the access to the page was
 * @sp: SP_EL0 of the access
 * @head: so many tokens has KVM written to the ring, modulo 2^32
 * @tail: so many has the guest read
 * @full: not 0 if KVM waits for the guest to read the ring.  The guest writes 0 when it has,
 *	  and then makes a hypercall with KVM_ARM_ASYNC_PF_RESUME.
 * @reserved: 0
 * @ready: the ring.  Token number n is in entry n modulo the number of entries.  Its
 *	   page is present, or the guest has to access it again to see the error.
 *
 * All fields are little-endian.  Only the vCPU itself, and KVM in its thread, write to the
 * area, so neither needs barriers.
 *
 * The handler of the PPI looks at @token, @generation, @ready and @full, in this order: the
 * page of a token may be ready already.  A task may wait for @token only if the PPI itself
 * has interrupted it at EL0, and if @pc and @sp are its own.  Otherwise the handler drops the
 * token.
 */
struct kvm_arm_async_pf_area {
	__le32 token;
	__le32 generation;
	__le64 pc;
	__le64 sp;
	__le32 head;
	__le32 tail;
	__le32 full;
	__le32 reserved[7];
	__le32 ready[];
};

#endif
