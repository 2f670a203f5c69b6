/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which pages of a memslot are to be protected, so that the next write to each
 * is logged: what KVM_CLEAR_DIRTY_LOG, KVM_GET_DIRTY_LOG and
 * KVM_RESET_DIRTY_RINGS ask of the architecture.
 *
 * The order is: clear the bits, protect the pages, invalidate the TLBs, and then
 * return to userspace, which copies the pages.  Documentation/virt/kvm/dirty-log.rst
 * says why no write is lost, whatever vCPUs do meanwhile.
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
 * @nbits:	number of pages; what is in @bits after them is zero
 * @bits:	a bit for each page
 */
struct kvm_dirty_mask {
	u64 base_gfn;
	unsigned long nbits;
	const unsigned long *bits;
};

/* @gfn is one of the mask's. */
static inline bool kvm_dirty_mask_test(const struct kvm_dirty_mask *mask, u64 gfn)
{
	return test_bit(gfn - mask->base_gfn, mask->bits);
}

/* Some pages of the mask, as bits: those of its @i-th group of @size. */
static inline unsigned long kvm_dirty_mask_group(const struct kvm_dirty_mask *mask,
						 unsigned long i, unsigned int size)
{
	return mask->bits[i * size / BITS_PER_LONG] >> i * size % BITS_PER_LONG &
	       GENMASK(size - 1, 0);
}

/**
 * kvm_dirty_mask_next_span() - find pages to protect in one walk
 * @mask:	the pages
 * @group:	pages that are looked at together: 8 or BITS_PER_LONG
 * @start:	where the span that is found begins
 * @end:	in: where the one before ended, &kvm_dirty_mask.base_gfn for the
 *		first; out: where this one ends (exclusive)
 *
 * A span begins and ends with a page of the mask, and is whole: no run of
 * pages is in two.  It goes on over up to 2 * (@group - 1) pages in a row that
 * are not of the mask, which should cost who walks less than another walk.
 *
 * Return: false if there are no more.
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
