/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef DRIVERS_VFIO_TEST_DEV_H
#define DRIVERS_VFIO_TEST_DEV_H

#include <linux/types.h>

/*
 * The devices of vfio_test_dev.c.  The driver pins what an emulated device may
 * write to.  A device behind an IOMMU may write anywhere, unseen.
 */
enum vfio_test_dev_id {
	VFIO_TEST_EMULATED,
	VFIO_TEST_EMULATED_2,
	VFIO_TEST_IOMMU_4K,		/* Pages of 4 KiB, 64 KiB and 2 MiB */
	VFIO_TEST_IOMMU_64K,		/* Pages of 64 KiB and 512 MiB */
	NR_VFIO_TEST_DEVS
};

enum vfio_test_op {
	VFIO_TEST_PIN,			/* Pin @nr pages from @iova on */
	VFIO_TEST_UNPIN,		/* Unpin them */
	VFIO_TEST_WRITE,		/* Let the CPU write @nr bytes to @iova */
	VFIO_TEST_CHURN,		/* Pin and unpin a page @nr times */
	VFIO_TEST_HOLD,			/* Hold the next unmap before it unpins */
	VFIO_TEST_WAIT,			/* Wait until an unmap is held */
	VFIO_TEST_GO,			/* Let it go on */
};

/**
 * struct vfio_test_cmd - what a write to an emulated device tells it to do
 * @op: one of &enum vfio_test_op
 * @nr: a number of pages, of bytes or of times
 * @iova: the IOVA of the first page or byte
 *
 * The write returns its length, or the error of vfio_pin_pages() or vfio_dma_rw(),
 * or ETIME after 10 s of waiting.
 */
struct vfio_test_cmd {
	__u32 op;
	__u32 nr;
	__u64 iova;
};

#endif
