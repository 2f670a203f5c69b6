// SPDX-License-Identifier: GPL-2.0-only
/*
 * What it costs to find dirty pages of a VFIO container, and to pin pages
 *
 * The container has a device of drivers/vfio/vfio_test_dev.c, and mappings that fill
 * 39 bits of IOVA.  Each figure is a line "NAME VALUE UNIT".  A machine whose clock
 * counts instructions gives the same figures in each run.
 *
 *   dirty_loop_M_D      a bitmap for each of M mappings, with D dirty pages
 *   dirty_bitmap_M_D    one bitmap of the whole range
 *   dirty_query_M_D     runs of the whole range; without <linux/vfio_dirty.h>, the
 *                       better one of the two above
 *   dirty_pin           pin and unpin a page, while pages are tracked
 *   dirty_start_M       begin to track, with M mappings
 *
 * An argument replaces "dirty" in the names of the bitmaps.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <time.h>

#include "container.h"

#define SPACE		0x8000000000UL
#define BITMAP_SIZE	(SPACE / PAGE / 8)
#define MAX_RUNS	16384U
#define PINS		10000U

static struct container c;
static void *bitmap;
static struct vfio_iommu_type1_dirty_run *runs;

static void check(int r, const char *what)
{
	if (r) {
		fprintf(stderr, "%s: %s\n", what, strerror(-r));
		exit(1);
	}
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000UL + t.tv_nsec;
}

/* Neither an IOVA nor a size is a power of two, but for a single mapping. */
static uint64_t size_of(unsigned int mappings)
{
	return SPACE / mappings & -PAGE;
}

static void query_loop(unsigned int mappings)
{
	uint64_t size = size_of(mappings);
	unsigned int i;

	for (i = 0; i < mappings; i++)
		check(get_bitmap(&c, i * size, size, bitmap), "GET_BITMAP");
}

static void query_bitmap(unsigned int mappings)
{
	check(get_bitmap(&c, 0, SPACE, bitmap), "GET_BITMAP of all mappings");
}

static void query_runs(unsigned int mappings)
{
	struct vfio_iommu_type1_dirty_runs arg = {};

	do {
		arg.last = -1UL;
		arg.runs = (uintptr_t)runs;
		arg.nr = MAX_RUNS;
		arg.more = 0;
		check(runs_op(&c, VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_RUNS, &arg), "GET_RUNS");
	} while (arg.more);
}

/* The time of a query that is made when @dirty pages, far from each other, are dirty */
static uint64_t measure(void (*query)(unsigned int), unsigned int mappings, unsigned int dirty)
{
	uint64_t step = SPACE / dirty & -PAGE, begin;
	unsigned int i;

	for (i = 0; i < dirty; i++)
		check(tell(&c, VFIO_TEST_EMULATED, VFIO_TEST_WRITE, i * step, 1), "write");
	begin = now_ns();
	query(mappings);
	return now_ns() - begin;
}

static void measure_queries(const char *prefix, unsigned int mappings, unsigned int dirty)
{
	uint64_t loop, whole, best;

	/* The first round allocates the pages that the device writes to. */
	measure(query_loop, mappings, dirty);
	loop = measure(query_loop, mappings, dirty);
	whole = measure(query_bitmap, mappings, dirty);
	if (migration_cap(&c).flags & VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_RUNS)
		best = measure(query_runs, mappings, dirty);
	else
		best = loop < whole ? loop : whole;
	printf("%s_loop_%u_%u %lu ns\n", prefix, mappings, dirty, loop);
	printf("%s_bitmap_%u_%u %lu ns\n", prefix, mappings, dirty, whole);
	printf("dirty_query_%u_%u %lu ns\n", mappings, dirty, best);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static const unsigned int numbers[] = { 1, 100, 10000 };
	const char *prefix = argc > 1 ? argv[1] : "dirty";
	unsigned int m, d, i, mappings;
	uint64_t begin, size;
	uint8_t *mem;

	mem = mmap(NULL, SPACE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	bitmap = mmap(NULL, BITMAP_SIZE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	runs = mmap(NULL, MAX_RUNS * sizeof(*runs), PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	check(mem == MAP_FAILED || bitmap == MAP_FAILED || runs == MAP_FAILED ? -ENOMEM : 0,
	      "mmap");
	check(madvise(mem, SPACE, MADV_NOHUGEPAGE) ? -errno : 0, "madvise");

	for (m = 0; m < 3; m++) {
		mappings = numbers[m];
		size = size_of(mappings);
		check(container_open(&c, VFIO_TEST_EMULATED, VFIO_TYPE1v2_IOMMU),
		      "a container with vfio_test.0 of vfio_test_dev.ko");
		for (i = 0; i < mappings; i++)
			check(map(&c, i * size, size, mem + i * size), "map");

		begin = now_ns();
		check(start(&c), "START");
		printf("dirty_start_%u %lu ns\n", mappings, now_ns() - begin);

		for (d = 0; d < 3; d++)
			measure_queries(prefix, mappings, numbers[d]);

		if (mappings == 1) {
			check(tell(&c, VFIO_TEST_EMULATED, VFIO_TEST_CHURN, 0, 10), "pin");
			begin = now_ns();
			check(tell(&c, VFIO_TEST_EMULATED, VFIO_TEST_CHURN, 0, PINS), "pin");
			printf("dirty_pin %lu ns\n", (now_ns() - begin) / PINS);
		}
		container_close(&c);
	}
	return 0;
}
