// SPDX-License-Identifier: GPL-2.0-only
/*
 * The last group leaves a VFIO container that an ioctl is using
 *
 * Each ioctl of the IOMMU driver is held at the copy of its argument, which is on a
 * page that isn't there yet.  The group leaves without waiting for the ioctl.  What the
 * driver has of the container must stay until the ioctl ends.  KASAN tells if it
 * doesn't.
 *
 * The device is one of drivers/vfio/vfio_test_dev.c.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/mman.h>

#include "../kselftest_harness.h"
#include "container.h"

struct call {
	struct container c;
	unsigned long request;
	void *arg;
	int r;
};

static void *make_call(void *arg)
{
	struct call *call = arg;

	call->r = do_ioctl(call->c.fd, call->request, call->arg);
	return NULL;
}

FIXTURE(container) {
};

FIXTURE_VARIANT(container) {
	unsigned long request;
};

FIXTURE_VARIANT_ADD(container, get_info) {
	.request = VFIO_IOMMU_GET_INFO,
};

FIXTURE_VARIANT_ADD(container, map_dma) {
	.request = VFIO_IOMMU_MAP_DMA,
};

FIXTURE_VARIANT_ADD(container, unmap_dma) {
	.request = VFIO_IOMMU_UNMAP_DMA,
};

FIXTURE_VARIANT_ADD(container, dirty_pages) {
	.request = VFIO_IOMMU_DIRTY_PAGES,
};

FIXTURE_SETUP(container)
{
}

FIXTURE_TEARDOWN(container)
{
}

TEST_F(container, last_group_leaves_during_an_ioctl)
{
	struct call call = { .request = variant->request };
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ,
		.size = PAGE,
	};
	struct uffdio_copy copy = { .len = PAGE };
	char page[PAGE] = {};
	struct uffd_msg msg;
	pthread_t caller;
	int uffd;

	ASSERT_EQ(0, container_open(&call.c, VFIO_TEST_EMULATED, VFIO_TYPE1v2_IOMMU));
	call.arg = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, call.arg);
	uffd = hold_pages(call.arg, PAGE);
	ASSERT_LE(0, uffd);

	ASSERT_EQ(0, pthread_create(&caller, NULL, make_call, &call));
	ASSERT_EQ(sizeof(msg), read(uffd, &msg, sizeof(msg)));
	ASSERT_EQ(0, container_detach(&call.c, VFIO_TEST_EMULATED));
	/* There is no IOMMU any more, though there is an ioctl in it. */
	EXPECT_EQ(-EINVAL, do_ioctl(call.c.fd, VFIO_IOMMU_MAP_DMA, &map));

	/* A mapping is made, and removed; for the others, argsz is too small. */
	if (variant->request == VFIO_IOMMU_MAP_DMA) {
		map.vaddr = (uintptr_t)call.arg;
		memcpy(page, &map, sizeof(map));
	}
	copy.dst = (uintptr_t)call.arg;
	copy.src = (uintptr_t)page;
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_COPY, &copy));
	pthread_join(caller, NULL);
	EXPECT_EQ(variant->request == VFIO_IOMMU_MAP_DMA ? 0 : -EINVAL, call.r);
	close(uffd);
	close(call.c.fd);
}

TEST_HARNESS_MAIN
