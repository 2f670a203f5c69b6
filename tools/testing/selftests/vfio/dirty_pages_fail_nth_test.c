// SPDX-License-Identifier: GPL-2.0-only
/*
 * Failed allocations in the calls of a VFIO container that tracks dirty pages
 *
 * For each call, and for n = 1, 2, ... until nothing fails any more, the n-th
 * allocation of the call fails in a new container.  If the call then returns an
 * error, no page may have become dirty or clean.  The same call must succeed when it
 * is made again, and then the right pages are dirty.  At last, kmemleak must find
 * nothing that VFIO has lost.
 *
 * The devices are those of drivers/vfio/vfio_test_dev.c.  vfio_iommu_type1 needs the
 * parameter allow_unsafe_interrupts=1.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "../fail_nth.h"
#include "container.h"

#define E1		VFIO_TEST_EMULATED
#define PHYS		VFIO_TEST_IOMMU_4K

#define PAGES		512UL
/* A piece of the store, of 254 * 64 pages, ends at page 256. */
#define IOVA		((17ULL * 254 * 64 - 256) * PAGE)
#define MAX_RUNS	8
#define MAX_NTH		1000

struct run {
	uint64_t page;
	uint64_t nr;
};

struct test {
	const char *name;
	/* Does what comes before the call; optional.  Returns 0 or a negative errno. */
	int (*prepare)(struct container *c);
	/* Makes the call.  Returns 0 or a negative errno. */
	int (*call)(struct container *c);
	/* The pages that are dirty after it, up to a run of 0 pages */
	struct run after[MAX_RUNS];
};

static uint8_t *mem;
static uint64_t *bitmap;

/* ---- Dirty pages ------------------------------------------------------------------ */

/* The runs of dirty pages, or an errno, as text */
static void describe_state(struct container *c, char *text, size_t size)
{
	struct vfio_iommu_type1_dirty_run run[MAX_RUNS];
	struct vfio_iommu_type1_dirty_runs runs = {
		.last = -1ULL, .runs = (uintptr_t)run, .nr = MAX_RUNS,
	};
	int r, n;
	uint32_t i;

	r = runs_op(c, VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_RUNS |
		       VFIO_IOMMU_DIRTY_PAGES_FLAG_NO_CLEAR, &runs);
	n = snprintf(text, size, "%d%s:", r, runs.more ? "+" : "");
	for (i = 0; !r && i < runs.nr; i++)
		n += snprintf(text + n, size - n, " %lld+%lld",
			      (long long)(run[i].start - IOVA) / (long long)PAGE,
			      (long long)run[i].length / (long long)PAGE);
}

static void describe_runs(const struct run *run, char *text, size_t size)
{
	int n = snprintf(text, size, "0:");

	for (; run->nr; run++)
		n += snprintf(text + n, size - n, " %lld+%lld", (long long)run->page,
			      (long long)run->nr);
}

/* ---- Calls ------------------------------------------------------------------------ */

static int map_memory(struct container *c)
{
	return map(c, IOVA, PAGES * PAGE, mem);
}

/* Two pages are pinned, and one in each of two pieces was written to. */
static int make_dirty(struct container *c)
{
	return tell(c, E1, VFIO_TEST_PIN, IOVA + 3 * PAGE, 2) ?:
	       tell(c, E1, VFIO_TEST_WRITE, IOVA + 10 * PAGE, 1) ?:
	       tell(c, E1, VFIO_TEST_WRITE, IOVA + 300 * PAGE, 1);
}

static int track(struct container *c)
{
	return map_memory(c) ?: start(c);
}

static int track_dirty(struct container *c)
{
	return track(c) ?: make_dirty(c);
}

static int pin_first(struct container *c)
{
	return map_memory(c) ?: tell(c, E1, VFIO_TEST_PIN, IOVA + 3 * PAGE, 2);
}

static int track_with_phys(struct container *c)
{
	return container_attach(c, PHYS, 0) ?: start(c);
}

/* The device is not opened, since all is dirty once its group has joined. */
static int track_before_join(struct container *c)
{
	c->group[PHYS] = open_test_group(PHYS);
	return c->group[PHYS] < 0 ? c->group[PHYS] : track(c);
}

static int join(struct container *c)
{
	return do_ioctl(c->group[PHYS], VFIO_GROUP_SET_CONTAINER, &c->fd);
}

static int stop_tracking(struct container *c)
{
	return track_dirty(c) ?: stop(c);
}

static int pin_page(struct container *c)
{
	return tell(c, E1, VFIO_TEST_PIN, IOVA + 3 * PAGE, 1);
}

static int write_page(struct container *c)
{
	return tell(c, E1, VFIO_TEST_WRITE, IOVA + 300 * PAGE, 1);
}

static int query_runs(struct container *c)
{
	struct vfio_iommu_type1_dirty_run run[MAX_RUNS];
	struct vfio_iommu_type1_dirty_runs runs = {
		.last = -1ULL, .runs = (uintptr_t)run, .nr = MAX_RUNS,
	};

	return runs_op(c, VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_RUNS, &runs) ?:
	       runs.nr == 3 ? 0 : -ERANGE;
}

static int clear_page(struct container *c)
{
	struct vfio_iommu_type1_dirty_run run = { IOVA + 10 * PAGE, PAGE };
	struct vfio_iommu_type1_dirty_runs runs = { .runs = (uintptr_t)&run, .nr = 1 };

	return runs_op(c, VFIO_IOMMU_DIRTY_PAGES_FLAG_CLEAR_RUNS, &runs);
}

static int query_bitmap(struct container *c)
{
	return get_bitmap(c, IOVA, PAGES * PAGE, bitmap);
}

static int unmap_memory(struct container *c)
{
	uint64_t size = PAGES * PAGE;

	return unmap(c, IOVA, &size, bitmap, PAGE);
}

#define ALL	{ { 0, PAGES } }

static const struct test tests[] = {
	{ "MAP_DMA", start, map_memory },
	{ "START", map_memory, start },
	{ "START with pinned pages", pin_first, start, { { 3, 2 } } },
	{ "a page is pinned", track, pin_page, { { 3, 1 } } },
	{ "a page is written to", track, write_page, { { 300, 1 } } },
	{ "GET_RUNS", track_dirty, query_runs, { { 3, 2 } } },
	{ "CLEAR_RUNS", track_dirty, clear_page, { { 3, 2 }, { 300, 1 } } },
	{ "GET_BITMAP", track_dirty, query_bitmap, { { 3, 2 } } },
	{ "UNMAP_DMA with a bitmap", track_dirty, unmap_memory },
	{ "START after STOP", stop_tracking, start, { { 3, 2 } } },
	{ "MAP_DMA, device behind an IOMMU", track_with_phys, map_memory, ALL },
	{ "device behind an IOMMU joins", track_before_join, join, ALL },
};

#define NR_TESTS	((int)ARRAY_SIZE(tests))

/* Return 1 if the n-th allocation has failed, 0 if not, and -1 if anything is wrong. */
static int run_nth(const struct test *t, int n)
{
	char before[256], after[256];
	struct container c;
	int r, failed = 0;

	r = container_open(&c, E1, VFIO_TYPE1v2_IOMMU);
	if (!r && t->prepare)
		r = t->prepare(&c);
	if (r) {
		ksft_print_msg("%s: prepare: errno %d\n", t->name, -r);
		container_close(&c);
		return -1;
	}

	describe_state(&c, before, sizeof(before));
	fail_nth(n);
	r = t->call(&c);
	failed = stop_failing();
	if (r && !failed) {
		ksft_print_msg("%s: errno %d, but nothing failed\n", t->name, -r);
		failed = -1;
	} else if (r) {
		describe_state(&c, after, sizeof(after));
		if (strcmp(before, after)) {
			ksft_print_msg("%s: allocation %d fails, errno %d: was %s, is %s\n",
				       t->name, n, -r, before, after);
			failed = -1;
		}
		r = t->call(&c);
		if (r) {
			ksft_print_msg("%s: allocation %d: errno %d when called again\n",
				       t->name, n, -r);
			failed = -1;
		}
	}

	describe_runs(t->after, before, sizeof(before));
	describe_state(&c, after, sizeof(after));
	if (strcmp(before, after)) {
		ksft_print_msg("%s: allocation %d: should be %s, is %s\n", t->name, n,
			       before, after);
		failed = -1;
	}
	container_close(&c);
	return failed;
}

static void run_test(const struct test *t)
{
	int r, n = 0;

	do {
		n++;
		r = run_nth(t, n);
	} while (r == 1 && n < MAX_NTH);
	ksft_test_result(!r, "%s: %d allocations\n", t->name, n - 1);
}

int main(void)
{
	static const char *const names[] = { "vfio", NULL };
	bool kmemleak;
	int i;

	ksft_print_header();
	set_up_fault_injection();
	mem = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bitmap = calloc(PAGES / 64, sizeof(*bitmap));
	if (mem == MAP_FAILED || !bitmap)
		ksft_exit_fail_msg("no memory\n");
	memset(mem, 0, PAGES * PAGE);
	ksft_set_plan(NR_TESTS + 1);

	kmemleak = forget_leaks();
	for (i = 0; i < NR_TESTS; i++)
		run_test(&tests[i]);
	if (kmemleak)
		ksft_test_result(!has_leaks(names), "no leaks\n");
	else
		ksft_test_result_skip("no leaks: needs CONFIG_DEBUG_KMEMLEAK\n");
	ksft_finished();
}
