// SPDX-License-Identifier: GPL-2.0-only
/*
 * Dirty pages of VFIO containers of type 1
 *
 * The devices are those of drivers/vfio/vfio_test_dev.c, which pin pages and write
 * to memory when told so.  The module must be loaded, and vfio_iommu_type1 needs the
 * parameter allow_unsafe_interrupts=1.
 *
 * The tests of the fixture "container" say what Linux has always done; they pass on
 * any kernel.  Those of "fixes" fail without the fixes of vfio/type1 and the store of
 * dirty pages.  Those of "runs" fail without <linux/vfio_dirty.h>.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>

#include "../kselftest_harness.h"
#include "container.h"

#define E1		VFIO_TEST_EMULATED
#define E2		VFIO_TEST_EMULATED_2
#define PHYS		VFIO_TEST_IOMMU_4K
#define PHYS_64K	VFIO_TEST_IOMMU_64K

#define PAGES		512UL
/* A piece of the store, of 254 * 64 pages, ends at page 256. */
#define IOVA		((17UL * 254 * 64 - 256) * PAGE)

static void *memory(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

/* A huge page, since an IOMMU with large pages needs memory without a gap */
static void *huge_page(void)
{
	const size_t size = PAGES * PAGE;
	void *p = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *aligned = (void *)(((uintptr_t)p + size - 1) & -size);

	if (p == MAP_FAILED)
		return NULL;
	munmap(p, aligned - p);
	munmap(aligned + size, p + size - aligned);
	madvise(aligned, size, MADV_HUGEPAGE);
	memset(aligned, 0, size);
	return aligned;
}

static bool bit(uint64_t *bitmap, unsigned long i)
{
	return bitmap[i / 64] >> i % 64 & 1;
}

static unsigned long count(uint64_t *bitmap, unsigned long nr)
{
	unsigned long i, n = 0;

	for (i = 0; i < nr; i++)
		n += bit(bitmap, i);
	return n;
}

/* ---- What Linux has always done ------------------------------------------------ */

FIXTURE(container) {
	struct container c;
	uint8_t *mem;
	uint64_t bitmap[PAGES / 64];
};

FIXTURE_SETUP(container)
{
	self->mem = memory(PAGES * PAGE);
	ASSERT_NE(NULL, self->mem);
	memset(self->bitmap, 0, sizeof(self->bitmap));
	ASSERT_EQ(0, container_open(&self->c, E1, VFIO_TYPE1v2_IOMMU)) {
		TH_LOG("is the module vfio_test_dev loaded?");
	}
	ASSERT_EQ(0, map(&self->c, IOVA, PAGES * PAGE, self->mem));
}

FIXTURE_TEARDOWN(container)
{
	container_close(&self->c);
	munmap(self->mem, PAGES * PAGE);
}

/* How many pages of the mapping are dirty, and clear them */
#define DIRTY_PAGES() ({						\
	ASSERT_EQ(0, get_bitmap(&self->c, IOVA, PAGES * PAGE, self->bitmap)); \
	count(self->bitmap, PAGES);					\
})

TEST_F(container, nothing_is_dirty_at_first)
{
	ASSERT_EQ(0, start(&self->c));
	memset(self->bitmap, 0xff, sizeof(self->bitmap));
	EXPECT_EQ(0, DIRTY_PAGES());
}

TEST_F(container, pinned_pages_stay_dirty)
{
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_PIN, IOVA + 5 * PAGE, 2));
	ASSERT_EQ(0, start(&self->c));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_PIN, IOVA + 63 * PAGE, 2));
	EXPECT_EQ(4, DIRTY_PAGES());
	EXPECT_EQ(4, DIRTY_PAGES());
	EXPECT_TRUE(bit(self->bitmap, 5) && bit(self->bitmap, 6));
	EXPECT_TRUE(bit(self->bitmap, 63) && bit(self->bitmap, 64));

	/* A page that is unpinned is reported once more. */
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_UNPIN, IOVA + 5 * PAGE, 1));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_UNPIN, IOVA + 63 * PAGE, 1));
	EXPECT_EQ(4, DIRTY_PAGES());
	EXPECT_EQ(2, DIRTY_PAGES());
	EXPECT_TRUE(bit(self->bitmap, 6) && bit(self->bitmap, 64));
}

TEST_F(container, page_that_is_pinned_twice)
{
	ASSERT_EQ(0, start(&self->c));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_PIN, IOVA, 1));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_PIN, IOVA, 1));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_UNPIN, IOVA, 1));
	EXPECT_EQ(1, DIRTY_PAGES());
	EXPECT_EQ(1, DIRTY_PAGES());
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_UNPIN, IOVA, 1));
	EXPECT_EQ(1, DIRTY_PAGES());
	EXPECT_EQ(0, DIRTY_PAGES());
}

/* A driver may pin by an address within the page, as often as it likes. */
TEST_F(container, two_pins_within_a_page)
{
	ASSERT_EQ(0, start(&self->c));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_PIN, IOVA, 1));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_PIN, IOVA + PAGE / 2, 1));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_UNPIN, IOVA, 1));
	EXPECT_EQ(1, DIRTY_PAGES());
	EXPECT_EQ(1, DIRTY_PAGES());
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_UNPIN, IOVA + PAGE / 2, 1));
	EXPECT_EQ(1, DIRTY_PAGES());
	EXPECT_EQ(0, DIRTY_PAGES());
}

TEST_F(container, two_devices_pin_a_page)
{
	ASSERT_EQ(0, container_attach(&self->c, E2, 0));
	ASSERT_EQ(0, start(&self->c));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_PIN, IOVA, 1));
	ASSERT_EQ(0, tell(&self->c, E2, VFIO_TEST_PIN, IOVA, 1));
	ASSERT_EQ(0, container_detach(&self->c, E2));
	EXPECT_EQ(1, DIRTY_PAGES());
	EXPECT_EQ(1, DIRTY_PAGES());
}

TEST_F(container, writes_are_dirty_once)
{
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_WRITE, IOVA, 1));
	ASSERT_EQ(0, start(&self->c));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_WRITE, IOVA + 3 * PAGE - 1, 2));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_WRITE, IOVA + 100 * PAGE, 3 * PAGE));
	EXPECT_EQ(0x5a, self->mem[3 * PAGE - 1]);
	EXPECT_EQ(5, DIRTY_PAGES());
	EXPECT_TRUE(bit(self->bitmap, 2) && bit(self->bitmap, 3));
	EXPECT_TRUE(bit(self->bitmap, 100) && bit(self->bitmap, 102));
	EXPECT_EQ(0, DIRTY_PAGES());
}

/* A second START or STOP changes nothing.  After STOP, START finds no dirty page. */
TEST_F(container, start_and_stop)
{
	EXPECT_EQ(-EINVAL, get_bitmap(&self->c, IOVA, PAGES * PAGE, self->bitmap));
	EXPECT_EQ(0, stop(&self->c));
	EXPECT_EQ(0, start(&self->c));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_WRITE, IOVA, 1));
	EXPECT_EQ(0, start(&self->c));
	EXPECT_EQ(1, DIRTY_PAGES());
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_WRITE, IOVA, 1));
	EXPECT_EQ(0, stop(&self->c));
	EXPECT_EQ(0, stop(&self->c));
	EXPECT_EQ(-EINVAL, get_bitmap(&self->c, IOVA, PAGES * PAGE, self->bitmap));
	EXPECT_EQ(0, start(&self->c));
	EXPECT_EQ(0, DIRTY_PAGES());
}

/* Three mappings, a hole between the last two: one query, and words of the hole */
TEST_F(container, query_of_several_mappings)
{
	uint64_t size = PAGES * PAGE, bitmap[6], i;

	ASSERT_EQ(0, unmap(&self->c, IOVA, &size, NULL, 0));
	ASSERT_EQ(PAGES * PAGE, size);
	ASSERT_EQ(0, map(&self->c, IOVA, 70 * PAGE, self->mem));
	ASSERT_EQ(0, map(&self->c, IOVA + 70 * PAGE, 3 * PAGE, self->mem));
	ASSERT_EQ(0, map(&self->c, IOVA + 260 * PAGE, 100 * PAGE, self->mem));
	ASSERT_EQ(0, start(&self->c));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_WRITE, IOVA + 69 * PAGE, 2 * PAGE));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_WRITE, IOVA + 319 * PAGE, 2 * PAGE));
	for (i = 0; i < 6; i++)
		bitmap[i] = i == 4 ? 1 : 0x8000000000000001;
	ASSERT_EQ(0, get_bitmap(&self->c, IOVA, 384 * PAGE, bitmap));
	EXPECT_EQ(0, bitmap[0]);
	EXPECT_EQ(3 << 5, bitmap[1]);
	EXPECT_EQ(0x8000000000000001, bitmap[2]);
	EXPECT_EQ(0x8000000000000001, bitmap[3]);
	/* The word where a mapping begins keeps the bits that it had. */
	EXPECT_EQ(0x8000000000000001, bitmap[4]);
	EXPECT_EQ(1, bitmap[5]);
}

TEST_F(container, query_must_not_cut_a_mapping)
{
	ASSERT_EQ(0, start(&self->c));
	EXPECT_EQ(-EINVAL, get_bitmap(&self->c, IOVA + PAGE, PAGES * PAGE, self->bitmap));
	EXPECT_EQ(-EINVAL, get_bitmap(&self->c, IOVA, PAGES * PAGE / 2, self->bitmap));
	EXPECT_EQ(0, get_bitmap(&self->c, IOVA - 64 * PAGE, 64 * PAGE, self->bitmap));
	EXPECT_EQ(0, get_bitmap(&self->c, IOVA + PAGES * PAGE, PAGE, self->bitmap));
}

TEST_F(container, unmap_returns_dirty_pages)
{
	uint64_t size = PAGES * PAGE;

	ASSERT_EQ(-EINVAL, unmap(&self->c, IOVA, &size, self->bitmap, PAGE));
	size = PAGES * PAGE;
	ASSERT_EQ(0, start(&self->c));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_WRITE, IOVA + 9 * PAGE, 1));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_PIN, IOVA + 11 * PAGE, 1));
	ASSERT_EQ(0, unmap(&self->c, IOVA, &size, self->bitmap, PAGE));
	EXPECT_EQ(PAGES * PAGE, size);
	EXPECT_EQ(2, count(self->bitmap, PAGES));
	EXPECT_TRUE(bit(self->bitmap, 9) && bit(self->bitmap, 11));

	/* The next mapping begins clean. */
	ASSERT_EQ(0, map(&self->c, IOVA, PAGES * PAGE, self->mem));
	EXPECT_EQ(0, DIRTY_PAGES());
}

/* All that a device writes to unseen is dirty at each query, until it goes away. */
TEST_F(container, device_behind_an_iommu)
{
	ASSERT_EQ(0, container_attach(&self->c, PHYS, 0)) {
		TH_LOG("vfio_iommu_type1 needs allow_unsafe_interrupts=1");
	}
	ASSERT_EQ(0, start(&self->c));
	EXPECT_EQ(PAGES, DIRTY_PAGES());
	EXPECT_EQ(PAGES, DIRTY_PAGES());
	ASSERT_EQ(0, container_detach(&self->c, PHYS));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_PIN, IOVA, 1));
	EXPECT_EQ(PAGES, DIRTY_PAGES());
	EXPECT_EQ(1, DIRTY_PAGES());
}

TEST_F(container, device_joins_and_leaves_while_tracking)
{
	ASSERT_EQ(0, start(&self->c));
	EXPECT_EQ(0, DIRTY_PAGES());
	ASSERT_EQ(0, container_attach(&self->c, PHYS, 0));
	EXPECT_EQ(PAGES, DIRTY_PAGES());
	ASSERT_EQ(0, container_detach(&self->c, PHYS));
	EXPECT_EQ(PAGES, DIRTY_PAGES());
	EXPECT_EQ(0, DIRTY_PAGES());
}

TEST_F(container, bad_input)
{
	const uint32_t get = VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP;
	uint64_t *b = self->bitmap, size = PAGES * PAGE;
	struct {
		struct vfio_iommu_type1_dirty_bitmap dirty;
		struct vfio_iommu_type1_dirty_bitmap_get get;
	} arg = { .dirty.argsz = sizeof(arg), .dirty.flags = get };

	EXPECT_EQ(-EINVAL, dirty_op(&self->c, 0));
	EXPECT_EQ(-EINVAL, dirty_op(&self->c, 1 << 3));
	EXPECT_EQ(-EINVAL, dirty_op(&self->c, 1U << 31));
	EXPECT_EQ(-EINVAL, dirty_op(&self->c, VFIO_IOMMU_DIRTY_PAGES_FLAG_START |
					      VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP));
	EXPECT_EQ(-EINVAL, dirty_op(&self->c, get));
	ASSERT_EQ(0, start(&self->c));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_WRITE, IOVA, 1));

	/* Page sizes, alignment, sizes, overflow */
	EXPECT_EQ(-EINVAL, get_bitmap_of(&self->c, IOVA, size, b, 0, 0));
	EXPECT_EQ(-EINVAL, get_bitmap_of(&self->c, IOVA, size, b, 2 * PAGE, 0));
	EXPECT_EQ(-EINVAL, get_bitmap_of(&self->c, IOVA, size, b, PAGE / 2, 0));
	EXPECT_EQ(-EINVAL, get_bitmap(&self->c, IOVA + 1, size, b));
	EXPECT_EQ(-EINVAL, get_bitmap(&self->c, IOVA, size + 1, b));
	EXPECT_EQ(-EINVAL, get_bitmap(&self->c, IOVA, 0, b));
	EXPECT_EQ(-EINVAL, get_bitmap(&self->c, -PAGE, 2 * PAGE, b));
	EXPECT_EQ(-EFAULT, get_bitmap(&self->c, IOVA, size, NULL));
	EXPECT_EQ(-EINVAL, get_bitmap(&self->c, IOVA, size, (void *)-PAGE));

	/* Sizes of the bitmap, and of the argument */
	arg.get.iova = IOVA;
	arg.get.size = size;
	arg.get.bitmap.pgsize = PAGE;
	arg.get.bitmap.data = (void *)b;
	arg.get.bitmap.size = sizeof(self->bitmap) - 1;
	EXPECT_EQ(-EINVAL, do_ioctl(self->c.fd, VFIO_IOMMU_DIRTY_PAGES, &arg));
	arg.get.bitmap.size = (1UL << 28) + 1;
	EXPECT_EQ(-EINVAL, do_ioctl(self->c.fd, VFIO_IOMMU_DIRTY_PAGES, &arg));
	arg.get.bitmap.pgsize = PAGE + 1;
	arg.get.bitmap.size = size / 8;
	EXPECT_EQ(-EINVAL, do_ioctl(self->c.fd, VFIO_IOMMU_DIRTY_PAGES, &arg));
	arg.get.bitmap.pgsize = PAGE;
	arg.get.bitmap.size = sizeof(self->bitmap);
	arg.dirty.argsz--;
	EXPECT_EQ(-EINVAL, do_ioctl(self->c.fd, VFIO_IOMMU_DIRTY_PAGES, &arg));
	arg.dirty.argsz = 4;
	EXPECT_EQ(-EINVAL, do_ioctl(self->c.fd, VFIO_IOMMU_DIRTY_PAGES, &arg));
	EXPECT_EQ(-EFAULT, do_ioctl(self->c.fd, VFIO_IOMMU_DIRTY_PAGES, NULL));
	EXPECT_EQ(-EINVAL, unmap(&self->c, IOVA, &size, b, 0));
	size = PAGES * PAGE;
	EXPECT_EQ(-EINVAL, unmap(&self->c, IOVA, &size, b, 2 * PAGE));

	/* None of them has changed anything. */
	EXPECT_EQ(1, DIRTY_PAGES());
}

/* A container of the first version has no dirty pages. */
TEST(version_1)
{
	struct container c;

	ASSERT_EQ(0, container_open(&c, PHYS, VFIO_TYPE1_IOMMU));
	EXPECT_EQ(0, migration_cap(&c).flags);
	EXPECT_EQ(-EACCES, start(&c));
	container_close(&c);
}

/* ---- What the fixes change ------------------------------------------------------- */

FIXTURE(fixes) {
	struct container c;
	uint8_t *mem;
	uint64_t *bitmap;	/* One page.  The page behind it isn't mapped. */
};

FIXTURE_SETUP(fixes)
{
	self->mem = huge_page();
	ASSERT_NE(NULL, self->mem);
	self->bitmap = memory(2 * PAGE);
	ASSERT_NE(NULL, self->bitmap);
	ASSERT_EQ(0, munmap((void *)self->bitmap + PAGE, PAGE));
	ASSERT_EQ(0, container_open(&self->c, E1, VFIO_TYPE1v2_IOMMU));
}

FIXTURE_TEARDOWN(fixes)
{
	container_close(&self->c);
	munmap(self->mem, PAGES * PAGE);
	munmap(self->bitmap, PAGE);
}

/*
 * A query whose bitmap ends at a page that isn't mapped.  The mappings are 3, 200
 * and 100 pages, so that all but the first one begin within a word.
 */
TEST_F(fixes, failed_query_changes_nothing)
{
	const unsigned long dirty[] = { 1, 2, 3, 130, 202, 203, 302 };
	uint64_t *end = self->bitmap + PAGE / 8;
	unsigned long i, n = 0;

	ASSERT_EQ(0, map(&self->c, IOVA, 3 * PAGE, self->mem));
	ASSERT_EQ(0, map(&self->c, IOVA + 3 * PAGE, 200 * PAGE, self->mem));
	ASSERT_EQ(0, map(&self->c, IOVA + 203 * PAGE, 100 * PAGE, self->mem));
	ASSERT_EQ(0, start(&self->c));
	for (i = 0; i < ARRAY_SIZE(dirty); i++)
		n += !tell(&self->c, E1, VFIO_TEST_WRITE, IOVA + dirty[i] * PAGE, 1);
	ASSERT_EQ(ARRAY_SIZE(dirty), n);

	for (n = 0; n < 5 && get_bitmap(&self->c, IOVA, 303 * PAGE, end - n) == -EFAULT; )
		n++;
	ASSERT_EQ(5, n);

	memset(self->bitmap, 0, PAGE);
	ASSERT_EQ(0, get_bitmap(&self->c, IOVA, 303 * PAGE, end - 5));
	for (i = n = 0; i < ARRAY_SIZE(dirty); i++)
		n += bit(end - 5, dirty[i]);
	EXPECT_EQ(ARRAY_SIZE(dirty), n);
	EXPECT_EQ(ARRAY_SIZE(dirty), count(end - 5, 303));
}

/* The bits of a mapping that begins within a word are cleared, too. */
TEST_F(fixes, query_leaves_nothing_behind)
{
	ASSERT_EQ(0, map(&self->c, IOVA, 6 * PAGE, self->mem));
	ASSERT_EQ(0, map(&self->c, IOVA + 6 * PAGE, 3 * PAGE, self->mem));
	ASSERT_EQ(0, start(&self->c));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_WRITE, IOVA + 6 * PAGE, 1));
	ASSERT_EQ(0, get_bitmap(&self->c, IOVA, 64 * PAGE, self->bitmap));
	EXPECT_EQ(1 << 6, self->bitmap[0]);
	self->bitmap[0] = 0;
	ASSERT_EQ(0, get_bitmap(&self->c, IOVA, 64 * PAGE, self->bitmap));
	EXPECT_EQ(0, self->bitmap[0]);
}

TEST_F(fixes, failed_unmap_changes_nothing)
{
	uint64_t *end = self->bitmap + PAGE / 8, size = 128 * PAGE;

	ASSERT_EQ(0, map(&self->c, IOVA, 64 * PAGE, self->mem));
	ASSERT_EQ(0, map(&self->c, IOVA + 64 * PAGE, 64 * PAGE, self->mem));
	ASSERT_EQ(0, start(&self->c));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_WRITE, IOVA, 1));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_PIN, IOVA + 65 * PAGE, 1));

	ASSERT_EQ(-EFAULT, unmap(&self->c, IOVA, &size, end - 1, PAGE));
	EXPECT_EQ(-EEXIST, map(&self->c, IOVA, 64 * PAGE, self->mem));
	EXPECT_EQ(-EEXIST, map(&self->c, IOVA + 64 * PAGE, 64 * PAGE, self->mem));

	size = 128 * PAGE;
	ASSERT_EQ(0, unmap(&self->c, IOVA, &size, end - 2, PAGE));
	EXPECT_EQ(128 * PAGE, size);
	EXPECT_EQ(1, end[-2]);
	EXPECT_EQ(2, end[-1]);
}

struct unmapping {
	struct container *c;
	uint64_t iova;
	uint64_t *bitmap;
	int r;
};

static void *unmap_64_pages(void *arg)
{
	struct unmapping *u = arg;
	uint64_t size = 64 * PAGE;

	u->r = unmap(u->c, u->iova, &size, u->bitmap, PAGE);
	return NULL;
}

/* Without its fix, the kernel follows a NULL pointer. */
TEST_F(fixes, tracking_stops_during_an_unmap)
{
	struct unmapping u = { .c = &self->c, .iova = IOVA, .bitmap = self->bitmap };
	pthread_t thread;

	ASSERT_EQ(0, map(&self->c, IOVA, 64 * PAGE, self->mem));
	ASSERT_EQ(0, start(&self->c));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_PIN, IOVA, 1));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_HOLD, 0, 0));
	ASSERT_EQ(0, pthread_create(&thread, NULL, unmap_64_pages, &u));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_WAIT, 0, 0));
	EXPECT_EQ(0, stop(&self->c));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_GO, 0, 0));
	pthread_join(thread, NULL);
	EXPECT_EQ(-EINVAL, u.r);
	EXPECT_EQ(-EEXIST, map(&self->c, IOVA, 64 * PAGE, self->mem));
}

/*
 * While a device is told of an unmap, the same memory and other memory is unmapped.
 * The container must not be locked: the device waits for 10 s in vain to be told that it
 * can go on.
 */
TEST_F(fixes, other_unmaps_while_a_device_is_told)
{
	struct unmapping u = { .c = &self->c, .iova = IOVA };
	struct unmapping other = { .c = &self->c, .iova = IOVA + 64 * PAGE };
	pthread_t thread, other_thread;
	uint64_t size = 64 * PAGE;
	time_t begin = time(NULL);

	ASSERT_EQ(0, container_attach(&self->c, E2, 0));
	ASSERT_EQ(0, map(&self->c, IOVA, size, self->mem));
	ASSERT_EQ(0, map(&self->c, IOVA + size, size, self->mem + size));
	ASSERT_EQ(0, tell(&self->c, E2, VFIO_TEST_PIN, IOVA, 1));
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_PIN, IOVA + size, 1));
	ASSERT_EQ(0, tell(&self->c, E2, VFIO_TEST_HOLD, 0, 0));
	ASSERT_EQ(0, pthread_create(&thread, NULL, unmap_64_pages, &u));
	ASSERT_EQ(0, tell(&self->c, E2, VFIO_TEST_WAIT, 0, 0));
	ASSERT_EQ(0, tell(&self->c, E2, VFIO_TEST_UNPIN, IOVA, 1));
	EXPECT_EQ(0, unmap(&self->c, IOVA, &size, NULL, 0));
	EXPECT_EQ(64 * PAGE, size);

	ASSERT_EQ(0, pthread_create(&other_thread, NULL, unmap_64_pages, &other));
	usleep(100000);
	EXPECT_EQ(0, map(&self->c, IOVA, size, self->mem));
	EXPECT_EQ(0, tell(&self->c, E1, VFIO_TEST_WRITE, IOVA, 1));
	EXPECT_GT(5, time(NULL) - begin);

	ASSERT_EQ(0, tell(&self->c, E2, VFIO_TEST_GO, 0, 0));
	pthread_join(thread, NULL);
	pthread_join(other_thread, NULL);
	EXPECT_EQ(0, u.r);
	EXPECT_EQ(0, other.r);
}

/* With a device whose IOMMU has pages of 64 KiB, each bit is 64 KiB. */
TEST_F(fixes, page_size_while_tracking)
{
	const uint64_t k64 = 16 * PAGE, size = PAGES * PAGE;
	uint64_t one = PAGE;

	ASSERT_EQ(0, container_attach(&self->c, PHYS, 0));
	ASSERT_EQ(0, map(&self->c, IOVA, size, self->mem));
	ASSERT_EQ(PAGE, migration_cap(&self->c).pgsize_bitmap);
	ASSERT_EQ(0, container_attach(&self->c, PHYS_64K, 0));
	ASSERT_EQ(k64, migration_cap(&self->c).pgsize_bitmap);
	ASSERT_EQ(0, start(&self->c));
	ASSERT_EQ(0, container_detach(&self->c, PHYS_64K));

	/* An older kernel would use pages of 4 KiB now, with bitmaps for 64 KiB. */
	ASSERT_EQ(k64, migration_cap(&self->c).pgsize_bitmap);
	EXPECT_EQ(-EINVAL, get_bitmap(&self->c, IOVA, size, self->bitmap));
	EXPECT_EQ(-EINVAL, map(&self->c, IOVA + 2 * size, PAGE, self->mem));
	memset(self->bitmap, 0, PAGE);
	EXPECT_EQ(0, get_bitmap_of(&self->c, IOVA, size, self->bitmap, k64, 0));
	EXPECT_EQ(size / k64, count(self->bitmap, PAGES));
	EXPECT_EQ(0, container_detach(&self->c, PHYS));
	EXPECT_EQ(0, get_bitmap_of(&self->c, IOVA, size, self->bitmap, k64, 0));
	EXPECT_EQ(size / k64, count(self->bitmap, PAGES));

	/* The last bit of a page of 64 KiB counts. */
	ASSERT_EQ(0, tell(&self->c, E1, VFIO_TEST_WRITE, IOVA + 3 * k64 - 1, 1));
	ASSERT_EQ(0, get_bitmap_of(&self->c, IOVA, size, self->bitmap, k64, 0));
	EXPECT_EQ(1 << 2, self->bitmap[0]);

	ASSERT_EQ(0, stop(&self->c));
	EXPECT_EQ(PAGE, migration_cap(&self->c).pgsize_bitmap);
	EXPECT_EQ(0, map(&self->c, IOVA + 2 * size, PAGE, self->mem));
	EXPECT_EQ(0, unmap(&self->c, IOVA + 2 * size, &one, NULL, 0));

	/* The other way round: an IOMMU with larger pages joins. */
	ASSERT_EQ(0, start(&self->c));
	ASSERT_EQ(0, container_attach(&self->c, PHYS_64K, 0));
	EXPECT_EQ(PAGE, migration_cap(&self->c).pgsize_bitmap);
	EXPECT_EQ(0, get_bitmap(&self->c, IOVA, size, self->bitmap));
	EXPECT_EQ(PAGES, count(self->bitmap, PAGES));
}

/* The last page of the address space is a page like others. */
TEST_F(fixes, end_of_the_address_space)
{
	uint64_t size = 2 * PAGE;

	ASSERT_EQ(0, map(&self->c, -2 * PAGE, 2 * PAGE, self->mem));
	EXPECT_EQ(-EEXIST, map(&self->c, -PAGE, PAGE, self->mem));
	ASSERT_EQ(0, start(&self->c));
	EXPECT_EQ(0, tell(&self->c, E1, VFIO_TEST_PIN, -PAGE, 1));
	EXPECT_EQ(0, tell(&self->c, E1, VFIO_TEST_WRITE, -2 * PAGE, 1));
	ASSERT_EQ(0, get_bitmap(&self->c, -2 * PAGE, 2 * PAGE, self->bitmap));
	EXPECT_EQ(3, self->bitmap[0]);
	EXPECT_EQ(0, container_attach(&self->c, PHYS, 0));
	EXPECT_EQ(0, unmap(&self->c, -2 * PAGE, &size, NULL, 0));
	EXPECT_EQ(2 * PAGE, size);
	EXPECT_EQ(0, map(&self->c, -PAGE, PAGE, self->mem));
}

/* A mapping of 16 TiB isn't too large to be tracked. */
TEST_F(fixes, mapping_of_16_tib)
{
	const uint64_t size = 1UL << 44;

	ASSERT_EQ(0, map(&self->c, IOVA, size, self->mem));
	ASSERT_EQ(0, start(&self->c));
	EXPECT_EQ(0, map(&self->c, IOVA + 2 * size, size, self->mem));
	EXPECT_EQ(0, stop(&self->c));
}

/* ---- Runs --------------------------------------------------------------------- */

#define GET_RUNS	VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_RUNS
#define CLEAR_RUNS	VFIO_IOMMU_DIRTY_PAGES_FLAG_CLEAR_RUNS
#define NO_CLEAR	VFIO_IOMMU_DIRTY_PAGES_FLAG_NO_CLEAR
#define ANY_RANGE	VFIO_IOMMU_DIRTY_PAGES_FLAG_ANY_RANGE
#define MAX_RUNS	1024U

/* A container, an array of MAX_RUNS entries, and what the last call has returned */
struct query {
	struct container c;
	uint8_t *mem;
	struct vfio_iommu_type1_dirty_run *run;
	uint32_t nr;
	uint64_t next;
	bool more;
};

FIXTURE(runs) {
	struct query q;
};

FIXTURE_SETUP(runs)
{
	self->q.mem = huge_page();
	ASSERT_NE(NULL, self->q.mem);
	self->q.run = memory(MAX_RUNS * sizeof(*self->q.run));
	ASSERT_NE(NULL, self->q.run);
	ASSERT_EQ(0, container_open(&self->q.c, E1, VFIO_TYPE1v2_IOMMU));
	ASSERT_EQ(GET_RUNS | CLEAR_RUNS | NO_CLEAR | ANY_RANGE, migration_cap(&self->q.c).flags) {
		TH_LOG("vfio_iommu_type1 has no runs of dirty pages");
	}
	ASSERT_EQ(0, map(&self->q.c, IOVA, PAGES * PAGE, self->q.mem));
	ASSERT_EQ(0, start(&self->q.c));
}

FIXTURE_TEARDOWN(runs)
{
	container_close(&self->q.c);
	munmap(self->q.mem, PAGES * PAGE);
	munmap(self->q.run, MAX_RUNS * sizeof(*self->q.run));
}

static int get_runs(struct query *q, uint64_t first, uint64_t last,
		    uint32_t nr, uint32_t flags)
{
	struct vfio_iommu_type1_dirty_runs arg = {
		.first = first, .last = last, .runs = (uintptr_t)q->run, .nr = nr,
	};
	int r = runs_op(&q->c, GET_RUNS | flags, &arg);

	q->nr = arg.nr;
	q->next = arg.first;
	q->more = arg.more;
	return r;
}

static int clear_runs(struct query *q, uint32_t nr)
{
	struct vfio_iommu_type1_dirty_runs arg = { .runs = (uintptr_t)q->run, .nr = nr };
	int r = runs_op(&q->c, CLEAR_RUNS, &arg);

	q->nr = arg.nr;
	q->more = arg.more;
	return r;
}

#define WRITE(page, nr)							\
	ASSERT_EQ(0, tell(&self->q.c, E1, VFIO_TEST_WRITE, IOVA + (page) * PAGE, (nr) * PAGE))

static bool run_is(struct query *q, unsigned int i, unsigned long page, unsigned long nr)
{
	return q->run[i].start == IOVA + page * PAGE && q->run[i].length == nr * PAGE;
}

#define EXPECT_RUN(i, page, nr)	EXPECT_TRUE(run_is(&self->q, i, page, nr))

#define EXPECT_RUNS(nr_runs, flags) do {				\
	ASSERT_EQ(0, get_runs(&self->q, 0, -1UL, MAX_RUNS, flags));		\
	ASSERT_EQ(nr_runs, self->q.nr);					\
	EXPECT_FALSE(self->q.more);					\
} while (0)

static int write_every(struct query *q, unsigned int step, unsigned int nr)
{
	unsigned int i;
	int r = 0;

	for (i = 0; !r && i < nr; i++)
		r = tell(&q->c, E1, VFIO_TEST_WRITE, IOVA + i * step * PAGE, 1);
	return r;
}

TEST_F(runs, one_query_of_everything)
{
	/* The second mapping touches the first one, and the third one is far away. */
	ASSERT_EQ(0, map(&self->q.c, IOVA + PAGES * PAGE, PAGES * PAGE, self->q.mem));
	ASSERT_EQ(0, map(&self->q.c, -PAGE, PAGE, self->q.mem));
	WRITE(1, 1);
	WRITE(PAGES - 2, 2);
	WRITE(PAGES, 1);
	ASSERT_EQ(0, tell(&self->q.c, E1, VFIO_TEST_PIN, -PAGE, 1));
	EXPECT_RUNS(3, 0);
	EXPECT_RUN(0, 1, 1);
	EXPECT_RUN(1, PAGES - 2, 3);
	EXPECT_EQ(-PAGE, self->q.run[2].start);
	EXPECT_EQ(PAGE, self->q.run[2].length);
	EXPECT_RUNS(1, 0);
	EXPECT_EQ(-PAGE, self->q.run[0].start);
	ASSERT_EQ(0, tell(&self->q.c, E1, VFIO_TEST_UNPIN, -PAGE, 1));
	EXPECT_RUNS(1, 0);
	EXPECT_RUNS(0, 0);
}

/* A page that becomes dirty between a query and CLEAR_RUNS stays dirty. */
TEST_F(runs, clear_what_was_read)
{
	WRITE(3, 2);
	WRITE(8, 1);
	EXPECT_RUNS(2, NO_CLEAR);
	EXPECT_RUNS(2, NO_CLEAR);
	WRITE(6, 1);
	ASSERT_EQ(0, clear_runs(&self->q, 2));
	EXPECT_EQ(2, self->q.nr);
	EXPECT_FALSE(self->q.more);
	EXPECT_RUNS(1, 0);
	EXPECT_RUN(0, 6, 1);

	/* A page that is pinned can't be cleared. */
	ASSERT_EQ(0, tell(&self->q.c, E1, VFIO_TEST_PIN, IOVA + 20 * PAGE, 1));
	WRITE(19, 3);
	EXPECT_RUNS(1, NO_CLEAR);
	EXPECT_RUN(0, 19, 3);
	ASSERT_EQ(0, clear_runs(&self->q, 1));
	EXPECT_RUNS(1, 0);
	EXPECT_RUN(0, 20, 1);
}

/* An array that is too small: what doesn't fit stays dirty, and the next call goes on. */
TEST_F(runs, small_array)
{
	uint64_t first = IOVA;
	unsigned int i;

	ASSERT_EQ(0, write_every(&self->q, 3, 10));
	for (i = 0; i < 9; i++) {
		ASSERT_EQ(0, get_runs(&self->q, first, -1UL, 1, 0));
		ASSERT_EQ(1, self->q.nr);
		ASSERT_TRUE(self->q.more);
		EXPECT_RUN(0, 3 * i, 1);
		first = self->q.next;
	}
	EXPECT_RUNS(1, 0);
	EXPECT_RUN(0, 27, 1);
}

/* Only the range is looked at, and a run is cut at its ends. */
TEST_F(runs, range)
{
	WRITE(10, 10);
	ASSERT_EQ(0, get_runs(&self->q, IOVA + 12 * PAGE, IOVA + 15 * PAGE - 1, 5, 0));
	ASSERT_EQ(1, self->q.nr);
	EXPECT_RUN(0, 12, 3);
	EXPECT_RUNS(2, 0);
	EXPECT_RUN(0, 10, 2);
	EXPECT_RUN(1, 15, 5);
}

/* More runs than the kernel collects at once, and an array that ends too early */
TEST_F(runs, failed_query_clears_what_it_returned)
{
	const unsigned int fits = PAGE / sizeof(*self->q.run);

	ASSERT_EQ(0, map(&self->q.c, IOVA + PAGES * PAGE, PAGES * PAGE, self->q.mem));
	ASSERT_EQ(0, write_every(&self->q, 2, PAGES));

	/* There is room for the first chunk, and for half of the second one. */
	ASSERT_EQ(0, mprotect(self->q.run + 2 * fits, 2 * PAGE, PROT_READ));
	self->q.run += fits / 2;
	EXPECT_EQ(-EFAULT, get_runs(&self->q, 0, -1UL, MAX_RUNS - fits, 0));
	EXPECT_EQ(fits, self->q.nr);
	EXPECT_TRUE(self->q.more);
	EXPECT_EQ(IOVA + (2 * fits - 1) * PAGE, self->q.next);
	self->q.run -= fits / 2;
	ASSERT_EQ(0, mprotect(self->q.run, 4 * PAGE, PROT_READ | PROT_WRITE));
	EXPECT_RUNS(PAGES - fits, 0);
	EXPECT_RUN(0, 2 * fits, 1);
}

/* A device that writes unseen: everything is dirty, whatever has been cleared. */
TEST_F(runs, device_behind_an_iommu)
{
	uint64_t w;

	ASSERT_EQ(0, map(&self->q.c, IOVA + PAGES * PAGE, PAGES * PAGE, self->q.mem));
	ASSERT_EQ(0, container_attach(&self->q.c, PHYS, 0));
	WRITE(1, 1);
	for (w = 0; w < 2; w++) {
		EXPECT_RUNS(1, 0);
		EXPECT_RUN(0, 0, 2 * PAGES);
		ASSERT_EQ(0, clear_runs(&self->q, 1));
	}

	/* When it has gone, once more.  A range that is cleared is cut off. */
	ASSERT_EQ(0, container_detach(&self->q.c, PHYS));
	ASSERT_EQ(0, tell(&self->q.c, E1, VFIO_TEST_PIN, IOVA + 3 * PAGE, 1));
	EXPECT_RUNS(1, NO_CLEAR);
	EXPECT_RUN(0, 0, 2 * PAGES);
	for (w = 0; w < 2 * PAGES; w += 64) {
		ASSERT_EQ(0, get_runs(&self->q, IOVA + w * PAGE, IOVA + (w + 64) * PAGE - 1, 2, 0));
		ASSERT_EQ(1, self->q.nr);
		EXPECT_RUN(0, w, 64);
	}
	EXPECT_RUNS(1, 0);
	EXPECT_RUN(0, 3, 1);
}

/* Within an all-dirty mapping, a part in the middle stays; at the end, it is cut off. */
TEST_F(runs, part_of_a_dirty_mapping)
{
	ASSERT_EQ(0, container_attach(&self->q.c, PHYS, 0));
	ASSERT_EQ(0, container_detach(&self->q.c, PHYS));
	self->q.run[0].start = IOVA + 5 * PAGE;
	self->q.run[0].length = 5 * PAGE;
	ASSERT_EQ(0, clear_runs(&self->q, 1));
	EXPECT_RUNS(1, NO_CLEAR);
	EXPECT_RUN(0, 0, PAGES);
	self->q.run[0].start = IOVA + 5 * PAGE;
	self->q.run[0].length = (PAGES - 5) * PAGE;
	ASSERT_EQ(0, clear_runs(&self->q, 1));
	EXPECT_RUNS(1, 0);
	EXPECT_RUN(0, 0, 5);
	EXPECT_RUNS(0, 0);
}

/* More dirty mappings than are looked at with the lock of the container held */
TEST_F(runs, many_dirty_mappings)
{
	const uint64_t iova = IOVA + PAGES * PAGE, nr = 3000;
	uint64_t i;

	for (i = 0; i < nr; i++)
		ASSERT_EQ(0, map(&self->q.c, iova + 2 * i * PAGE, 2 * PAGE, self->q.mem));
	ASSERT_EQ(0, container_attach(&self->q.c, PHYS, 0));
	ASSERT_EQ(0, container_detach(&self->q.c, PHYS));
	EXPECT_RUNS(1, NO_CLEAR);
	EXPECT_RUN(0, 0, PAGES + 2 * nr);

	/* All but the first and the last page, twice */
	for (i = 0; i < 2; i++) {
		self->q.run[i].start = IOVA + PAGE;
		self->q.run[i].length = (PAGES + 2 * nr - 2) * PAGE;
	}
	ASSERT_EQ(0, clear_runs(&self->q, 2));
	EXPECT_RUNS(2, NO_CLEAR);
	EXPECT_RUN(0, 0, 1);
	EXPECT_RUN(1, PAGES + 2 * nr - 1, 1);

	/* A query that ends before the last */
	ASSERT_EQ(0, get_runs(&self->q, IOVA, iova + 2 * PAGE - 1, MAX_RUNS, 0));
	ASSERT_EQ(1, self->q.nr);
	EXPECT_RUN(0, 0, 1);
	EXPECT_RUNS(1, 0);
	EXPECT_RUN(0, PAGES + 2 * nr - 1, 1);
}

/* If a page that is tracked has 64 KiB, so has a run at least. */
TEST_F(runs, pages_of_64_kib)
{
	uint64_t bitmap;

	ASSERT_EQ(0, stop(&self->q.c));
	ASSERT_EQ(0, container_attach(&self->q.c, PHYS_64K, 0));
	ASSERT_EQ(0, start(&self->q.c));
	ASSERT_EQ(0, container_detach(&self->q.c, PHYS_64K));
	EXPECT_RUNS(1, 0);
	EXPECT_RUN(0, 0, PAGES);
	EXPECT_RUNS(0, 0);

	WRITE(3, 1);
	WRITE(14, 1);
	ASSERT_EQ(0, tell(&self->q.c, E1, VFIO_TEST_PIN, IOVA + 50 * PAGE, 1));
	EXPECT_EQ(-EINVAL, get_runs(&self->q, IOVA + PAGE, -1UL, MAX_RUNS, 0));
	EXPECT_RUNS(2, NO_CLEAR);
	EXPECT_RUN(0, 0, 16);
	EXPECT_RUN(1, 48, 16);
	ASSERT_EQ(0, get_bitmap_of(&self->q.c, IOVA - 16 * PAGE, 64 * 16 * PAGE, &bitmap,
				   16 * PAGE, ANY_RANGE | NO_CLEAR));
	EXPECT_EQ(1 << 1 | 1 << 4, bitmap);
	ASSERT_EQ(0, clear_runs(&self->q, 2));
	EXPECT_RUNS(1, 0);
	EXPECT_RUN(0, 48, 16);
}

TEST_F(runs, bitmap_of_any_range)
{
	uint64_t bitmap[4], size = 192 * PAGE;

	ASSERT_EQ(0, map(&self->q.c, -PAGE, PAGE, self->q.mem));
	ASSERT_EQ(0, tell(&self->q.c, E1, VFIO_TEST_WRITE, -PAGE, 1));
	WRITE(0, 2);
	WRITE(63, 3);
	WRITE(PAGES - 1, 1);

	/* The range begins before the mapping and cuts it.  Its last word is short. */
	memset(bitmap, 0xff, sizeof(bitmap));
	ASSERT_EQ(0, get_bitmap_of(&self->q.c, IOVA - 100 * PAGE, 164 * PAGE, bitmap, PAGE,
				   ANY_RANGE | NO_CLEAR));
	EXPECT_EQ(0, bitmap[0]);
	EXPECT_EQ(3UL << 36, bitmap[1]);
	EXPECT_EQ(1UL << 35, bitmap[2]);
	EXPECT_EQ(-1UL, bitmap[3]);
	ASSERT_EQ(0, get_bitmap_of(&self->q.c, IOVA - 100 * PAGE, 164 * PAGE, bitmap, PAGE,
				   ANY_RANGE));

	/* Only what it reported is clean. */
	EXPECT_RUNS(3, NO_CLEAR);
	EXPECT_RUN(0, 64, 2);
	EXPECT_RUN(1, PAGES - 1, 1);

	/* Nothing is mapped there, or it is the end of the address space. */
	memset(bitmap, 0xff, sizeof(bitmap));
	ASSERT_EQ(0, get_bitmap_of(&self->q.c, IOVA + 2 * PAGES * PAGE, size, bitmap, PAGE,
				   ANY_RANGE));
	EXPECT_EQ(0, count(bitmap, 192));
	ASSERT_EQ(0, get_bitmap_of(&self->q.c, -size, size, bitmap, PAGE, ANY_RANGE));
	EXPECT_EQ(1UL << 63, bitmap[2]);
	EXPECT_EQ(1, count(bitmap, 192));
	EXPECT_RUNS(2, 0);
	EXPECT_EQ(-EFAULT, get_bitmap_of(&self->q.c, IOVA, size, NULL, PAGE, ANY_RANGE));
}

/*
 * Random steps, compared with a model of two bits for each page.  Now and then a
 * half of the range is unmapped and mapped again.
 */
#define DIRTY		1
#define PINNED		2

struct model {
	uint8_t page[PAGES];
	struct vfio_iommu_type1_dirty_run read[MAX_RUNS];	/* To clear later */
	uint32_t nr_read;
};

static void model_clear(struct model *m, unsigned long first, unsigned long nr)
{
	for (; nr--; first++)
		if (!(m->page[first] & PINNED))
			m->page[first] = 0;
}

static void random_range(unsigned long *first, unsigned long *nr)
{
	*first = rand() % PAGES;
	*nr = 1 + rand() % (PAGES - *first);
	if (rand() % 2)
		*nr = 1 + *nr % 4 % (PAGES - *first);
}

/* Are the runs of the last call those of the model, in the pages from @first on? */
static bool runs_are_right(struct query *q, struct model *m,
			   unsigned long first, unsigned long nr)
{
	unsigned long end = q->more ? (q->next - IOVA) / PAGE : first + nr;
	unsigned long i, page = first, run_first, run_end;

	for (i = 0; i <= q->nr; i++) {
		run_first = i < q->nr ? (q->run[i].start - IOVA) / PAGE : end;
		run_end = i < q->nr ? run_first + q->run[i].length / PAGE : end;
		if (run_first < page || run_end > end)
			return false;
		for (; page < run_first; page++)
			if (m->page[page])
				return false;
		for (; page < run_end; page++)
			if (!m->page[page])
				return false;
	}
	return true;
}

static int random_get_runs(struct query *q, struct model *m)
{
	uint32_t i, flags = rand() % 2 ? NO_CLEAR : 0;
	unsigned long first, nr;
	int r;

	random_range(&first, &nr);
	r = get_runs(q, IOVA + first * PAGE, IOVA + (first + nr) * PAGE - 1,
		     rand() % 2 ? MAX_RUNS : 1 + rand() % 8, flags);
	if (r)
		return r;
	if (!runs_are_right(q, m, first, nr))
		return -1;
	if (flags) {
		memcpy(m->read, q->run, q->nr * sizeof(*q->run));
		m->nr_read = q->nr;
		return 0;
	}
	for (i = 0; i < q->nr; i++)
		model_clear(m, (q->run[i].start - IOVA) / PAGE,
			    q->run[i].length / PAGE);
	return 0;
}

static int random_clear_runs(struct query *q, struct model *m)
{
	uint32_t i;
	int r;

	if (!m->nr_read)
		return 0;
	memcpy(q->run, m->read, m->nr_read * sizeof(*q->run));
	r = clear_runs(q, m->nr_read);
	for (i = 0; i < m->nr_read; i++)
		model_clear(m, (m->read[i].start - IOVA) / PAGE, m->read[i].length / PAGE);
	if (r)
		return r;
	return q->nr == m->nr_read ? 0 : -1;
}

static int random_bitmap(struct query *q, struct model *m)
{
	uint32_t flags = rand() % 2 ? NO_CLEAR : 0;
	unsigned long first = 0, nr = PAGES, i;
	uint64_t bitmap[PAGES / 64];
	int r;

	if (rand() % 2) {
		random_range(&first, &nr);
		flags |= ANY_RANGE;
	}
	r = get_bitmap_of(&q->c, IOVA + first * PAGE, nr * PAGE, bitmap, PAGE, flags);
	for (i = 0; !r && i < nr; i++)
		if (bit(bitmap, i) != !!m->page[first + i])
			return -1;
	if (!(flags & NO_CLEAR))
		model_clear(m, first, nr);
	return r;
}

static int random_step(struct query *q, struct model *m)
{
	unsigned long first, nr;
	uint64_t size;
	int r;

	random_range(&first, &nr);
	switch (rand() % 16) {
	case 0 ... 3:
		if (m->page[first] & PINNED)
			return 0;
		m->page[first] = DIRTY | PINNED;
		return tell(&q->c, E1, VFIO_TEST_PIN, IOVA + first * PAGE, 1);
	case 4 ... 7:
		if (!(m->page[first] & PINNED))
			return 0;
		m->page[first] = DIRTY;
		return tell(&q->c, E1, VFIO_TEST_UNPIN, IOVA + first * PAGE, 1);
	case 8 ... 10:
		if (nr > 9)
			nr = 9;
		r = tell(&q->c, E1, VFIO_TEST_WRITE, IOVA + first * PAGE, nr * PAGE);
		while (nr--)
			m->page[first++] |= DIRTY;
		return r;
	case 11 ... 12:
		return random_get_runs(q, m);
	case 13:
		return random_clear_runs(q, m);
	case 14:
		return random_bitmap(q, m);
	}

	/* The memory is two mappings.  Now and then, one goes away and comes back. */
	if (rand() % 8)
		return 0;
	size = PAGES / 2 * PAGE;
	first = rand() % 2 * PAGES / 2;
	memset(m->page + first, 0, PAGES / 2);
	r = unmap(&q->c, IOVA + first * PAGE, &size, NULL, 0);
	if (r)
		return r;
	return map(&q->c, IOVA + first * PAGE, size, q->mem + first * PAGE);
}

TEST_F_TIMEOUT(runs, random_steps, 300)	/* KASAN is slow */
{
	static struct model m;
	uint64_t size = PAGES * PAGE;
	int i, r = 0;

	ASSERT_EQ(0, unmap(&self->q.c, IOVA, &size, NULL, 0));
	ASSERT_EQ(0, map(&self->q.c, IOVA, size / 2, self->q.mem));
	ASSERT_EQ(0, map(&self->q.c, IOVA + size / 2, size / 2, self->q.mem + size / 2));
	memset(&m, 0, sizeof(m));
	srand(1);
	for (i = 0; !r && i < 50000; i++)
		r = random_step(&self->q, &m);
	EXPECT_EQ(0, r) {
		TH_LOG("step %d", i - 1);
	}
}

/* Two pages of a mapping of 16 TiB are dirty. */
TEST_F(runs, mapping_of_16_tib)
{
	const uint64_t size = 1UL << 44, iova = 1UL << 45;

	ASSERT_EQ(0, map(&self->q.c, iova, size, self->q.mem));
	ASSERT_EQ(0, tell(&self->q.c, E1, VFIO_TEST_WRITE, iova, 1));
	ASSERT_EQ(0, tell(&self->q.c, E1, VFIO_TEST_PIN, iova + PAGE, 1));
	EXPECT_RUNS(1, 0);
	EXPECT_EQ(iova, self->q.run[0].start);
	EXPECT_EQ(2 * PAGE, self->q.run[0].length);
	EXPECT_RUNS(1, 0);
	EXPECT_EQ(iova + PAGE, self->q.run[0].start);
}

/* ---- A query that waits for the page of its array ------------------------------ */

struct held {
	struct query *q;
	pthread_t thread;
	int uffd;
	int r;
};

static void *held_query(void *arg)
{
	struct held *held = arg;

	held->r = get_runs(held->q, 0, -1UL, MAX_RUNS, 0);
	return NULL;
}

/* Begin a query whose array isn't there yet, and wait until it needs the array. */
static int hold_query(struct held *held, struct query *q)
{
	struct uffd_msg msg;

	held->q = q;
	madvise(q->run, MAX_RUNS * sizeof(*q->run), MADV_DONTNEED);
	held->uffd = hold_pages(q->run, MAX_RUNS * sizeof(*q->run));
	if (held->uffd < 0)
		return held->uffd;
	if (pthread_create(&held->thread, NULL, held_query, held))
		return -1;
	return read(held->uffd, &msg, sizeof(msg)) == sizeof(msg) ? 0 : -errno;
}

/* Closing the userfaultfd lets the query go on. */
static int end_query(struct held *held)
{
	close(held->uffd);
	pthread_join(held->thread, NULL);
	return held->r;
}

/*
 * While a query waits, the container isn't locked.  A page that becomes dirty again
 * meanwhile is clean after the query, whose caller has not looked at it yet.  A page
 * that the query hasn't reported is not.
 */
TEST_F(runs, container_is_usable_while_a_query_waits)
{
	uint64_t size = PAGES * PAGE;
	struct held held;

	WRITE(3, 1);
	WRITE(10, 1);
	ASSERT_EQ(0, tell(&self->q.c, E1, VFIO_TEST_PIN, IOVA + 20 * PAGE, 1));
	ASSERT_EQ(0, hold_query(&held, &self->q));
	WRITE(3, 1);
	WRITE(4, 1);
	ASSERT_EQ(0, tell(&self->q.c, E1, VFIO_TEST_UNPIN, IOVA + 20 * PAGE, 1));
	ASSERT_EQ(0, tell(&self->q.c, E1, VFIO_TEST_PIN, IOVA + 10 * PAGE, 1));
	ASSERT_EQ(0, end_query(&held));
	EXPECT_EQ(3, self->q.nr);
	EXPECT_RUN(0, 3, 1);
	EXPECT_RUN(1, 10, 1);
	EXPECT_RUN(2, 20, 1);
	EXPECT_RUNS(2, 0);
	EXPECT_RUN(0, 4, 1);
	EXPECT_RUN(1, 10, 1);

	/* The mapping goes away. */
	WRITE(3, 1);
	ASSERT_EQ(0, hold_query(&held, &self->q));
	ASSERT_EQ(0, unmap(&self->q.c, IOVA, &size, NULL, 0));
	ASSERT_EQ(0, end_query(&held));
	EXPECT_EQ(2, self->q.nr);
	EXPECT_RUNS(0, 0);
}

struct waiter {
	struct query *q;
	bool detach;
	bool done;
	int r;
};

static void *wait_for_query(void *arg)
{
	struct waiter *w = arg;

	w->r = w->detach ? container_detach(&w->q->c, E1) : stop(&w->q->c);
	__atomic_store_n(&w->done, true, __ATOMIC_RELEASE);
	return NULL;
}

/*
 * Tracking doesn't stop within a query.  What the query needs stays if the last
 * device leaves; some kernels let it wait.
 */
TEST_F(runs, end_of_tracking_waits_for_a_query)
{
	struct waiter w = { .q = &self->q };
	struct held held;
	pthread_t thread;

	do {
		w.done = false;
		ASSERT_EQ(0, start(&self->q.c));
		WRITE(3, 1);
		ASSERT_EQ(0, hold_query(&held, &self->q));
		ASSERT_EQ(0, pthread_create(&thread, NULL, wait_for_query, &w));
		usleep(100000);
		EXPECT_TRUE(w.detach || !__atomic_load_n(&w.done, __ATOMIC_ACQUIRE));
		EXPECT_EQ(0, end_query(&held));
		pthread_join(thread, NULL);
		EXPECT_EQ(0, w.r);
		EXPECT_EQ(1, self->q.nr);
		EXPECT_GT(0, get_runs(&self->q, 0, -1UL, MAX_RUNS, 0));
		w.detach = !w.detach;
	} while (w.detach);
}

/* ---- Memory -------------------------------------------------------------------- */

#define CGROUP		"/tmp/vfio_dirty_cgroup"

static long memory_of_cgroup(void)
{
	int fd = open(CGROUP "/test/memory.current", O_RDONLY);
	char text[32] = "";

	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		return -1;
	close(fd);
	return atol(text);
}

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	ssize_t n = write(fd, text, strlen(text));

	close(fd);
	return n == strlen(text) ? 0 : -1;
}

static bool kernel_has_kasan(void)
{
	FILE *f = fopen("/proc/kallsyms", "r");
	bool found = false;
	char line[256];

	while (f && !found && fgets(line, sizeof(line), f))
		found = strstr(line, " kasan_report\n");
	if (f)
		fclose(f);
	return found;
}

/* Each page that is dirty, far from others, costs 4 KiB, or 8 KiB with KASAN. */
TEST_F(runs, memory_is_charged)
{
	const unsigned int nr = 1000;
	const unsigned int most = kernel_has_kasan() ? nr * PAGE * 5 / 2 : nr * PAGE * 2;
	long before, after, i;
	int r = 0;

	mkdir(CGROUP, 0700);
	ASSERT_EQ(0, mount("cgroup2", CGROUP, "cgroup2", 0, NULL));
	ASSERT_EQ(0, write_file(CGROUP "/cgroup.subtree_control", "+memory"));
	mkdir(CGROUP "/test", 0700);
	ASSERT_EQ(0, write_file(CGROUP "/test/cgroup.procs", "0"));

	for (i = 1; !r && i <= nr; i++)
		r = map(&self->q.c, IOVA + (i << 30), PAGE, self->q.mem);
	before = memory_of_cgroup();
	ASSERT_LE(0, before);
	for (i = 1; !r && i <= nr; i++)
		r = tell(&self->q.c, E1, VFIO_TEST_WRITE, IOVA + (i << 30), 1);
	ASSERT_EQ(0, r);
	after = memory_of_cgroup();
	EXPECT_LT(before + (long)(nr * PAGE * 9 / 10), after);
	EXPECT_GT(before + (long)most, after);
	EXPECT_RUNS(nr, 0);
	umount2(CGROUP, MNT_DETACH);
}

/* ---- Bad input ----------------------------------------------------------------- */

TEST_F(runs, bad_input)
{
	const uint64_t last = IOVA + PAGES * PAGE - 1;
	struct vfio_iommu_type1_dirty_runs runs = {
		.first = IOVA, .last = last, .runs = (uintptr_t)self->q.run, .nr = 4,
	}, arg;
	struct runs_arg whole = { .dirty.argsz = sizeof(whole), .dirty.flags = GET_RUNS };
	uint64_t bitmap[PAGES / 64];
	unsigned int i;
	const struct {
		uint32_t flags;
		uint64_t first, last;
		uint32_t nr, more;
	} bad_arg[] = {
		{ GET_RUNS, IOVA, last, 0, 0 },			/* no entry */
		{ GET_RUNS, IOVA, last, 4, 1 },			/* more is set */
		{ GET_RUNS, IOVA + 1, last, 4, 0 },		/* not a page */
		{ GET_RUNS, IOVA, last - 1, 4, 0 },
		{ GET_RUNS, IOVA, last + 1, 4, 0 },
		{ GET_RUNS, IOVA, IOVA - 1, 4, 0 },		/* nothing */
		{ GET_RUNS, last + 1, IOVA - 1, 4, 0 },
		{ GET_RUNS | CLEAR_RUNS, IOVA, last, 4, 0 },	/* two operations */
		{ GET_RUNS | VFIO_IOMMU_DIRTY_PAGES_FLAG_START, IOVA, last, 4, 0 },
		{ GET_RUNS | VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP, IOVA, last, 4, 0 },
		{ GET_RUNS | ANY_RANGE, IOVA, last, 4, 0 },	/* doesn't go with it */
		{ GET_RUNS | 1 << 20, IOVA, last, 4, 0 },	/* unknown */
		{ NO_CLEAR, IOVA, last, 4, 0 },			/* no operation */
		{ ANY_RANGE, IOVA, last, 4, 0 },
		{ CLEAR_RUNS | NO_CLEAR, 0, 0, 1, 0 },
		{ CLEAR_RUNS | ANY_RANGE, 0, 0, 1, 0 },
		{ CLEAR_RUNS, 0, 0, 0, 0 },
		{ CLEAR_RUNS, 0, 0, 1, 1 },
		{ CLEAR_RUNS, IOVA, 0, 1, 0 },			/* not a range */
		{ CLEAR_RUNS, 0, last, 1, 0 },
	};
	const struct vfio_iommu_type1_dirty_run bad_run[] = {
		{ IOVA, 0 },
		{ IOVA + 1, PAGE },
		{ IOVA, PAGE + 1 },
		{ IOVA, PAGE - 1 },
		{ -PAGE, 2 * PAGE },
	};

	WRITE(7, 1);
	for (i = 0; i < ARRAY_SIZE(bad_arg); i++) {
		self->q.run[0].start = IOVA;
		self->q.run[0].length = PAGES * PAGE;
		arg = runs;
		arg.first = bad_arg[i].first;
		arg.last = bad_arg[i].last;
		arg.nr = bad_arg[i].nr;
		arg.more = bad_arg[i].more;
		EXPECT_EQ(-EINVAL, runs_op(&self->q.c, bad_arg[i].flags, &arg)) {
			TH_LOG("row %u", i);
		}
		EXPECT_EQ(bad_arg[i].nr, arg.nr);
	}

	/* A bad run behind a good one: neither is cleared. */
	for (i = 0; i < ARRAY_SIZE(bad_run); i++) {
		self->q.run[0].start = IOVA;
		self->q.run[0].length = PAGES * PAGE;
		self->q.run[1] = bad_run[i];
		EXPECT_EQ(-EINVAL, clear_runs(&self->q, 2)) {
			TH_LOG("row %u", i);
		}
		EXPECT_EQ(2, self->q.nr);
	}

	/* Pointers: the argument, its end, and the array */
	EXPECT_EQ(-EFAULT, do_ioctl(self->q.c.fd, VFIO_IOMMU_DIRTY_PAGES, NULL));
	whole.runs = runs;
	whole.dirty.argsz = sizeof(whole) - 1;
	EXPECT_EQ(-EINVAL, do_ioctl(self->q.c.fd, VFIO_IOMMU_DIRTY_PAGES, &whole));
	whole.dirty.argsz = sizeof(whole.dirty);
	EXPECT_EQ(-EINVAL, do_ioctl(self->q.c.fd, VFIO_IOMMU_DIRTY_PAGES, &whole));
	arg = runs;
	arg.runs = 0;
	EXPECT_EQ(-EFAULT, runs_op(&self->q.c, GET_RUNS, &arg));
	EXPECT_EQ(0, arg.nr);
	arg = (struct vfio_iommu_type1_dirty_runs) { .nr = 1 };
	EXPECT_EQ(-EFAULT, runs_op(&self->q.c, CLEAR_RUNS, &arg));
	EXPECT_EQ(0, arg.nr);
	EXPECT_EQ(1, arg.more);

	/* Bitmaps of any range still are of pages, and not too large. */
	EXPECT_EQ(-EINVAL, get_bitmap_of(&self->q.c, IOVA + 1, PAGE, bitmap, PAGE, ANY_RANGE));
	EXPECT_EQ(-EINVAL, get_bitmap_of(&self->q.c, IOVA, PAGE + 1, bitmap, PAGE, ANY_RANGE));
	EXPECT_EQ(-EINVAL, get_bitmap_of(&self->q.c, IOVA, 0, bitmap, PAGE, ANY_RANGE));
	EXPECT_EQ(-EINVAL, get_bitmap_of(&self->q.c, IOVA, PAGE, bitmap, 0, ANY_RANGE));
	EXPECT_EQ(-EINVAL, get_bitmap_of(&self->q.c, -PAGE, 2 * PAGE, bitmap, PAGE, ANY_RANGE));
	EXPECT_EQ(-EINVAL, get_bitmap_of(&self->q.c, 0, 1UL << 44, bitmap, PAGE, ANY_RANGE));

	/* None of them has changed anything. */
	EXPECT_RUNS(1, 0);
	EXPECT_RUN(0, 7, 1);

	ASSERT_EQ(0, stop(&self->q.c));
	EXPECT_EQ(-EINVAL, get_runs(&self->q, 0, -1UL, 1, 0));
	self->q.run[0].length = PAGE;
	EXPECT_EQ(-EINVAL, clear_runs(&self->q, 1));
}

TEST_HARNESS_MAIN
