/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
#ifndef _UAPI_LINUX_VFIO_DIRTY_H
#define _UAPI_LINUX_VFIO_DIRTY_H

#include <linux/types.h>

/*
 * Flags of VFIO_IOMMU_DIRTY_PAGES, beside those in <linux/vfio.h>.  The flags of
 * &struct vfio_iommu_type1_info_cap_migration have those that the container
 * knows.  The documentation, "Dirty pages of VFIO type 1 containers", shows how a VMM
 * uses them.
 *
 * Addresses and lengths are in bytes.  They are multiples of the page size, the
 * lowest bit of pgsize_bitmap in the same capability.  It doesn't change while
 * pages are tracked.
 */

/*
 * Report dirty pages as runs: argsz and flags are followed by a
 * &struct vfio_iommu_type1_dirty_runs.
 */
#define VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_RUNS	(1 << 16)

/*
 * Clear the pages of an array of runs: argsz and flags are followed by a
 * &struct vfio_iommu_type1_dirty_runs.
 */
#define VFIO_IOMMU_DIRTY_PAGES_FLAG_CLEAR_RUNS	(1 << 17)

/*
 * With VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_RUNS or
 * VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP: what is reported stays dirty.
 */
#define VFIO_IOMMU_DIRTY_PAGES_FLAG_NO_CLEAR	(1 << 18)

/*
 * With VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP: the range may begin and end
 * anywhere, also within a mapping, and may end at 2^64.  The bits of pages that
 * aren't mapped are 0.  Without this flag, the bitmap's words of such pages are
 * left alone.
 */
#define VFIO_IOMMU_DIRTY_PAGES_FLAG_ANY_RANGE	(1 << 19)

/**
 * struct vfio_iommu_type1_dirty_run - dirty pages without a gap
 * @start: IOVA of the first page
 * @length: number of bytes, not 0
 */
struct vfio_iommu_type1_dirty_run {
	__u64 start;
	__u64 length;
};

/**
 * struct vfio_iommu_type1_dirty_runs - dirty pages, as an array of runs
 * @first: the first IOVA to report.  Returns the IOVA where the next call can go
 *	   on, if @more is 1.
 * @last: the last IOVA to report, inclusive.  It is the last byte of a page.
 * @runs: userspace address of an array of &struct vfio_iommu_type1_dirty_run
 * @nr: number of entries of the array, not 0.  Returns the number of entries that
 *	the call has dealt with.
 * @more: 0.  Returns 1 if there may be more.
 *
 * VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_RUNS writes the dirty pages from @first to
 * @last, which may be mapped or not, to the array, in ascending order.  Pages that
 * have been written to the array are made clean, those of one chunk after another,
 * unless the call has VFIO_IOMMU_DIRTY_PAGES_FLAG_NO_CLEAR.  Two entries that
 * touch mean no more than one entry.  A signal may end the call early, with @more
 * set.
 *
 * VFIO_IOMMU_DIRTY_PAGES_FLAG_CLEAR_RUNS makes the pages of all entries of the
 * array clean.  @first and @last are 0.  The call takes the runs that have been
 * read, and not a range, because a page between them may have become dirty since.
 * The caller copies the pages only after that: a page that is written to between
 * the copy and the call would be clean, with old data in the copy.  A signal may
 * end the call early, with @more set and @nr entries done.
 *
 * Clearing leaves a page dirty if it is pinned, or if a device writes to its
 * mapping unseen.  If such a device has left, the mapping is dirty once more, and
 * clearing only pages in the middle of it has no effect; see the documentation.
 *
 * Errors: EACCES if the container is of type VFIO_TYPE1_IOMMU.  EINVAL if argsz
 * is too small, if there is an unknown flag or not exactly one operation, if @nr
 * or a length is 0, if @more isn't 0, if @first or @last isn't 0 although the call
 * clears, if an address or a length isn't a multiple of the page size, if a range
 * ends before it begins, or if dirty pages aren't tracked.  ENOMEM if memory runs
 * out.  EINTR if a signal kills the caller.  If one of these errors is returned,
 * nothing has changed, unless the array has changed during the call.  EFAULT if
 * this structure or the array can't be read or written.  @nr then returns the
 * number of entries that the call has dealt with before, if this structure can be
 * written.  No page was made clean but those of these entries.
 */
struct vfio_iommu_type1_dirty_runs {
	__u64 first;
	__u64 last;
	__u64 runs;
	__u32 nr;
	__u32 more;
};

#endif /* _UAPI_LINUX_VFIO_DIRTY_H */
