/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * KVM_CLEAR_DIRTY_LOG, KVM_GET_DIRTY_LOG and KVM_RESET_DIRTY_RINGS ask the
 * architecture to protect some pages of a memslot, so that KVM logs the next
 * write to each of these pages.
 *
 * The order is: clear the bits, protect the pages, invalidate the TLBs, and then
 * return to userspace, which copies the pages.
 * Documentation/virt/kvm/dirty-log.rst argues why no write is lost, whatever
 * vCPUs do in the meantime.
 */
#ifndef __KVM_DIRTY_LOG_H
#define __KVM_DIRTY_LOG_H

#include <linux/bitops.h>
#include <linux/find.h>
#include <linux/math.h>
#include <linux/types.h>

/**
 * struct kvm_dirty_mask - pages whose dirty bits were cleared
 * @base_gfn:	the page of the first bit
 * @nbits:	number of pages; bits in @bits beyond this number are zero
 * @bits:	one bit for each page
 */
struct kvm_dirty_mask {
	u64 base_gfn;
	unsigned long nbits;
	const unsigned long *bits;
};

/* @gfn must be in the range that @mask covers. */
static inline bool kvm_dirty_mask_test(const struct kvm_dirty_mask *mask, u64 gfn)
{
	return test_bit(gfn - mask->base_gfn, mask->bits);
}

/* The bits of the @i-th group of @size pages of the mask. */
static inline unsigned long kvm_dirty_mask_group(const struct kvm_dirty_mask *mask,
						 unsigned long i, unsigned int size)
{
	return mask->bits[i * size / BITS_PER_LONG] >> i * size % BITS_PER_LONG &
	       GENMASK(size - 1, 0);
}

/**
 * kvm_dirty_mask_next_span() - find the pages to protect in one walk
 * @mask:	the pages
 * @group:	number of pages to look at together: 8 or BITS_PER_LONG
 * @start:	where the span begins
 * @end:	in: where the previous span ended, &kvm_dirty_mask.base_gfn for the
 *		first; out: where this span ends (exclusive)
 *
 * A span begins and ends with a page of the mask.  No run of pages is split
 * across two spans.  A span may contain up to 2 * (@group - 1) consecutive
 * pages that are not in the mask; walking over these pages should cost less
 * than another walk.
 *
 * Return: false if there are no more spans.
 */
static __always_inline bool kvm_dirty_mask_next_span(const struct kvm_dirty_mask *mask,
						     unsigned int group,
						     u64 *start, u64 *end)
{
	unsigned long bit = find_next_bit(mask->bits, mask->nbits, *end - mask->base_gfn);
	unsigned long groups = DIV_ROUND_UP(mask->nbits, group);
	unsigned long i = bit / group;

	if (bit >= mask->nbits)
		return false;

	*start = mask->base_gfn + bit;
	while (i + 1 < groups && kvm_dirty_mask_group(mask, i + 1, group))
		i++;
	*end = mask->base_gfn + i * group + __fls(kvm_dirty_mask_group(mask, i, group)) + 1;
	return true;
}

#endif
