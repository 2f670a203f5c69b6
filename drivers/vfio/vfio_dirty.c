// SPDX-License-Identifier: GPL-2.0-only
/*
 * The dirty pages of an IOVA space
 *
 * Devices dirty pages in two ways.  A driver that pins a page lets its device
 * write to it at any time, until the driver unpins it.  So a page is dirty as
 * long as it is pinned, and after that until somebody has read that it was.  Or
 * a driver writes to a page itself.
 *
 * The store is an xarray of pieces, each with the state of VFIO_DIRTY_PIECE
 * pages: a bitmap of those that are dirty, and one of those that are pinned.
 * These are its rules:
 *
 *  - A page that is pinned is dirty.  Clearing leaves it dirty, so that nobody
 *    has to go through the pinned pages after that.
 *
 *  - A piece that has no dirty page is freed.
 *
 * The size of the store depends on the pages that are dirty or pinned, not on those
 * that are mapped.  Only vfio_dirty_pin() and vfio_dirty_mark() allocate memory, and
 * can fail.  They charge it to the cgroup of the current task.
 */
#include <linux/bitmap.h>
#include <linux/export.h>
#include <linux/find.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "vfio_dirty.h"

#define WORDS	(VFIO_DIRTY_PIECE / BITS_PER_LONG)

/*
 * A bit of @busy is set if the word of @dirty with that number isn't 0.  Mostly, few
 * are, and the others need no look.
 */
struct vfio_dirty_piece {
	DECLARE_BITMAP(busy, WORDS);
	unsigned long dirty[WORDS];
	unsigned long pinned[WORDS];
};

/**
 * vfio_dirty_init() - set up an empty store
 * @dirty: the store
 */
void vfio_dirty_init(struct vfio_dirty *dirty)
{
	xa_init_flags(&dirty->pieces, XA_FLAGS_ACCOUNT);
	dirty->last = NULL;
}
EXPORT_SYMBOL_GPL(vfio_dirty_init);

/**
 * vfio_dirty_destroy() - free all memory of a store
 * @dirty: the store.  It is empty after that, and can be used again.
 */
void vfio_dirty_destroy(struct vfio_dirty *dirty)
{
	struct vfio_dirty_piece *piece;
	unsigned long index;

	xa_for_each(&dirty->pieces, index, piece)
		kfree(piece);
	xa_destroy(&dirty->pieces);
	dirty->last = NULL;
}
EXPORT_SYMBOL_GPL(vfio_dirty_destroy);

static struct vfio_dirty_piece *find_piece(struct vfio_dirty *dirty,
					   unsigned long index)
{
	struct vfio_dirty_piece *piece;

	if (dirty->last && dirty->last_index == index)
		return dirty->last;

	piece = xa_load(&dirty->pieces, index);
	if (piece) {
		dirty->last = piece;
		dirty->last_index = index;
	}
	return piece;
}

/* Return the piece with this index.  It is new, and empty, if there was none. */
static struct vfio_dirty_piece *get_piece(struct vfio_dirty *dirty,
					  unsigned long index)
{
	struct vfio_dirty_piece *piece = find_piece(dirty, index);

	if (piece)
		return piece;

	piece = kzalloc(sizeof(*piece), GFP_KERNEL_ACCOUNT);
	if (!piece)
		return NULL;

	if (xa_err(xa_store(&dirty->pieces, index, piece, GFP_KERNEL))) {
		kfree(piece);
		return NULL;
	}
	return piece;
}

static void put_piece(struct vfio_dirty *dirty, struct vfio_dirty_piece *piece,
		      unsigned long index)
{
	if (bitmap_empty(piece->busy, WORDS)) {
		if (dirty->last == piece)
			dirty->last = NULL;
		xa_erase(&dirty->pieces, index);
		kfree(piece);
	}
}

/* The part of a range of pages that lies in the piece with this index */
static unsigned int first_bit(unsigned long index, unsigned long first)
{
	return first / VFIO_DIRTY_PIECE == index ? first % VFIO_DIRTY_PIECE : 0;
}

static unsigned int last_bit(unsigned long index, unsigned long last)
{
	return last / VFIO_DIRTY_PIECE == index ? last % VFIO_DIRTY_PIECE :
						  VFIO_DIRTY_PIECE - 1;
}

/**
 * vfio_dirty_pin() - make a page dirty until it is unpinned and cleared
 * @dirty: the store
 * @page: the page
 *
 * Return: 0, or -ENOMEM if nothing has changed
 */
int vfio_dirty_pin(struct vfio_dirty *dirty, unsigned long page)
{
	unsigned int bit = page % VFIO_DIRTY_PIECE;
	struct vfio_dirty_piece *piece;

	piece = get_piece(dirty, page / VFIO_DIRTY_PIECE);
	if (!piece)
		return -ENOMEM;

	__set_bit(bit, piece->dirty);
	__set_bit(bit, piece->pinned);
	__set_bit(bit / BITS_PER_LONG, piece->busy);
	return 0;
}
EXPORT_SYMBOL_GPL(vfio_dirty_pin);

/**
 * vfio_dirty_unpin() - let the next vfio_dirty_clear() make a page clean
 * @dirty: the store
 * @page: the page.  If it isn't pinned, nothing happens.
 */
void vfio_dirty_unpin(struct vfio_dirty *dirty, unsigned long page)
{
	struct vfio_dirty_piece *piece;

	piece = find_piece(dirty, page / VFIO_DIRTY_PIECE);
	if (piece)
		__clear_bit(page % VFIO_DIRTY_PIECE, piece->pinned);
}
EXPORT_SYMBOL_GPL(vfio_dirty_unpin);

/**
 * vfio_dirty_mark() - make pages dirty
 * @dirty: the store
 * @first: the first page
 * @last: the last page
 *
 * Return: 0, or -ENOMEM if a part of the range, or none of it, is dirty
 */
int vfio_dirty_mark(struct vfio_dirty *dirty, unsigned long first,
		    unsigned long last)
{
	unsigned long index = first / VFIO_DIRTY_PIECE;

	for (;;) {
		unsigned int from = first_bit(index, first);
		unsigned int to = last_bit(index, last);
		struct vfio_dirty_piece *piece;

		piece = get_piece(dirty, index);
		if (!piece)
			return -ENOMEM;

		bitmap_set(piece->dirty, from, to - from + 1);
		bitmap_set(piece->busy, from / BITS_PER_LONG,
			   to / BITS_PER_LONG - from / BITS_PER_LONG + 1);
		if (index++ == last / VFIO_DIRTY_PIECE)
			return 0;
	}
}
EXPORT_SYMBOL_GPL(vfio_dirty_mark);

/*
 * Clear the dirty bits of a range but those that are in @keep, which is a bitmap of
 * the piece, or NULL.
 */
static void clear_bits_of(struct vfio_dirty_piece *piece, unsigned int from,
			  unsigned int to, const unsigned long *keep)
{
	unsigned int i, end = to / BITS_PER_LONG + 1;
	unsigned long mask;

	for (i = find_next_bit(piece->busy, end, from / BITS_PER_LONG); i < end;
	     i = find_next_bit(piece->busy, end, i + 1)) {
		mask = i == from / BITS_PER_LONG ? BITMAP_FIRST_WORD_MASK(from) : ~0UL;
		if (i == to / BITS_PER_LONG)
			mask &= BITMAP_LAST_WORD_MASK(to + 1);

		piece->dirty[i] &= ~mask | (keep ? keep[i] : 0);
		if (!piece->dirty[i])
			__clear_bit(i, piece->busy);
	}
}

/**
 * vfio_dirty_clear() - make pages clean that aren't pinned
 * @dirty: the store
 * @first: the first page.  Returns where to go on, if the call returns false.
 * @last: the last page
 * @budget: number of pieces that the call may look at.  Returns how many of them
 *	    are left.
 *
 * Return: whether all pages have been dealt with
 */
bool vfio_dirty_clear(struct vfio_dirty *dirty, unsigned long *first,
		      unsigned long last, unsigned int *budget)
{
	unsigned long index;
	struct vfio_dirty_piece *piece;

	xa_for_each_range(&dirty->pieces, index, piece,
			  *first / VFIO_DIRTY_PIECE, last / VFIO_DIRTY_PIECE) {
		if (!*budget) {
			*first = max(*first, index * VFIO_DIRTY_PIECE);
			return false;
		}
		--*budget;

		clear_bits_of(piece, first_bit(index, *first),
			      last_bit(index, last), piece->pinned);
		put_piece(dirty, piece, index);
	}
	return true;
}
EXPORT_SYMBOL_GPL(vfio_dirty_clear);

/**
 * vfio_dirty_forget() - drop the state of pages that are no longer mapped
 * @dirty: the store
 * @first: the first page
 * @last: the last page
 *
 * The pages are neither dirty nor pinned after that.
 */
void vfio_dirty_forget(struct vfio_dirty *dirty, unsigned long first,
		       unsigned long last)
{
	unsigned long index;
	struct vfio_dirty_piece *piece;

	xa_for_each_range(&dirty->pieces, index, piece,
			  first / VFIO_DIRTY_PIECE, last / VFIO_DIRTY_PIECE) {
		unsigned int from = first_bit(index, first);
		unsigned int to = last_bit(index, last);

		bitmap_clear(piece->pinned, from, to - from + 1);
		clear_bits_of(piece, from, to, NULL);
		put_piece(dirty, piece, index);
	}
}
EXPORT_SYMBOL_GPL(vfio_dirty_forget);

/* Find the first dirty page from @bit on.  Returns more than @to if there is none. */
static unsigned int next_dirty(struct vfio_dirty_piece *piece, unsigned int bit,
			       unsigned int to)
{
	unsigned int i = bit / BITS_PER_LONG, end = to / BITS_PER_LONG + 1;
	unsigned long word = piece->dirty[i] & BITMAP_FIRST_WORD_MASK(bit);

	if (!word) {
		i = find_next_bit(piece->busy, end, i + 1);
		if (i >= end)
			return to + 1;
		word = piece->dirty[i];
	}
	return i * BITS_PER_LONG + __ffs(word);
}

/**
 * vfio_dirty_next() - find dirty pages
 * @dirty: the store
 * @first: the first page to look at.  Returns the first dirty one.
 * @last: the last page to look at.  Returns the last one of those that are dirty
 *	  without a gap from @first on, in at most VFIO_DIRTY_RUN pieces.
 *
 * Return: whether there is a dirty page.  If not, @first and @last don't change.
 */
bool vfio_dirty_next(struct vfio_dirty *dirty, unsigned long *first,
		     unsigned long *last)
{
	unsigned long index = *first / VFIO_DIRTY_PIECE;
	unsigned long end = *last / VFIO_DIRTY_PIECE;
	struct vfio_dirty_piece *piece;
	unsigned int bit, to;

	XA_STATE(xas, &dirty->pieces, index);

	rcu_read_lock();
	xas_for_each(&xas, piece, end) {
		to = last_bit(xas.xa_index, *last);
		bit = next_dirty(piece, first_bit(xas.xa_index, *first), to);
		if (bit <= to)
			break;
	}
	if (!piece) {
		rcu_read_unlock();
		return false;
	}

	index = xas.xa_index;
	*first = index * VFIO_DIRTY_PIECE + bit;
	if (end - index >= VFIO_DIRTY_RUN) {
		*last = (index + VFIO_DIRTY_RUN) * VFIO_DIRTY_PIECE - 1;
		end = *last / VFIO_DIRTY_PIECE;
	}
	do {
		to = last_bit(index, *last);
		bit = find_next_zero_bit(piece->dirty, to + 1, bit);
		if (bit <= to) {
			*last = index * VFIO_DIRTY_PIECE + bit - 1;
			break;
		}
		if (index == end)
			break;
		bit = 0;
		index++;
		piece = xas_next(&xas);
		if (!piece)
			*last = index * VFIO_DIRTY_PIECE - 1;
	} while (piece);
	rcu_read_unlock();

	return true;
}
EXPORT_SYMBOL_GPL(vfio_dirty_next);

/* Return the bits of @map from @bit on, as far as they fit into a long. */
static unsigned long bits_from(const unsigned long *map, unsigned int bit)
{
	unsigned int i = bit / BITS_PER_LONG, shift = bit % BITS_PER_LONG;
	unsigned long bits = map[i] >> shift;

	if (shift && i + 1 < WORDS)
		bits |= map[i + 1] << (BITS_PER_LONG - shift);
	return bits;
}

/**
 * vfio_dirty_copy() - add dirty pages to a bitmap
 * @dirty: the store
 * @first: the first page
 * @nr: number of pages, not 0.  @first + @nr - 1 doesn't overflow.
 * @bitmap: a bitmap
 * @offset: the bit of page @first.  Only the @nr bits from there on are changed.
 */
void vfio_dirty_copy(struct vfio_dirty *dirty, unsigned long first,
		     unsigned long nr, unsigned long *bitmap,
		     unsigned long offset)
{
	unsigned long last = first + nr - 1;
	unsigned long index, at, n;
	struct vfio_dirty_piece *piece;

	xa_for_each_range(&dirty->pieces, index, piece,
			  first / VFIO_DIRTY_PIECE, last / VFIO_DIRTY_PIECE) {
		unsigned int bit = first_bit(index, first);
		unsigned int to = last_bit(index, last);

		for (bit = next_dirty(piece, bit, to); bit <= to;
		     bit = next_dirty(piece, bit + n, to)) {
			unsigned long bits = bits_from(piece->dirty, bit);

			at = index * VFIO_DIRTY_PIECE + bit - first + offset;
			n = min_t(unsigned long, to - bit + 1,
				  BITS_PER_LONG - at % BITS_PER_LONG);
			bits &= BITMAP_LAST_WORD_MASK(n);
			bitmap[at / BITS_PER_LONG] |= bits << at % BITS_PER_LONG;
			if (bit + n > to)
				break;
		}
	}
}
EXPORT_SYMBOL_GPL(vfio_dirty_copy);

MODULE_DESCRIPTION("Dirty pages of VFIO's IOMMU drivers");
MODULE_LICENSE("GPL");
