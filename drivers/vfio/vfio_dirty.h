/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __VFIO_DIRTY_H
#define __VFIO_DIRTY_H

#include <linux/bits.h>
#include <linux/types.h>
#include <linux/xarray.h>

/**
 * struct vfio_dirty - which pages of an IOVA space are dirty
 * @pieces: the dirty pages and the pinned ones, by page / VFIO_DIRTY_PIECE
 *
 * A page is named by its IOVA >> PAGE_SHIFT.  Ranges of pages are inclusive: from
 * first to last.  The caller serializes all calls for the same store, and can
 * sleep in them.
 */
struct vfio_dirty {
	struct xarray pieces;
/* private: the piece that was used last, and its index */
	struct vfio_dirty_piece *last;
	unsigned long last_index;
};

/*
 * Pages of a piece, a multiple of BITS_PER_LONG: as many as a piece of 4 KiB has
 * room for, just below 64 MiB if pages have 4 KiB.  Tests use smaller pieces, too.
 */
#ifndef VFIO_DIRTY_PIECE
#define VFIO_DIRTY_PIECE	(BITS_PER_LONG == 64 ? 254 * 64UL : 252 * 64UL)
#endif

/* Pieces that vfio_dirty_next() looks at for one run: 63.5 GiB, if pages have 4 KiB */
#ifndef VFIO_DIRTY_RUN
#define VFIO_DIRTY_RUN		BIT(10)
#endif

void vfio_dirty_init(struct vfio_dirty *dirty);
void vfio_dirty_destroy(struct vfio_dirty *dirty);
int vfio_dirty_pin(struct vfio_dirty *dirty, unsigned long page);
void vfio_dirty_unpin(struct vfio_dirty *dirty, unsigned long page);
int vfio_dirty_mark(struct vfio_dirty *dirty, unsigned long first,
		    unsigned long last);
bool vfio_dirty_clear(struct vfio_dirty *dirty, unsigned long *first,
		      unsigned long last, unsigned int *budget);
void vfio_dirty_forget(struct vfio_dirty *dirty, unsigned long first,
		       unsigned long last);
bool vfio_dirty_next(struct vfio_dirty *dirty, unsigned long *first,
		     unsigned long *last);
void vfio_dirty_copy(struct vfio_dirty *dirty, unsigned long first,
		     unsigned long nr, unsigned long *bitmap,
		     unsigned long offset);

#endif /* __VFIO_DIRTY_H */
