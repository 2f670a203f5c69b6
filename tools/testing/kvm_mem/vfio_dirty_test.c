// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compare the store of VFIO's dirty pages with an oracle of two bits per page
 *
 * Each variant of the store (see the Makefile) runs the same cases.  After each
 * step the test compares the dirty pages of a small arena with the oracle, by
 * vfio_dirty_next() and by vfio_dirty_copy(), and checks the rules that
 * drivers/vfio/vfio_dirty.c lists.
 */
#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "shared.h"

/* Include the source, as the cases look into pieces. */
#include "../../../drivers/vfio/vfio_dirty.c"
#include "cases.h"

void xarray_init(void);

#define PIECE		VFIO_DIRTY_PIECE
#define ARENA		(4 * PIECE)
#define DIRTY		1
#define PINNED		2

/* A store, its arena, and the oracle: the state of each page. */
struct world {
	struct vfio_dirty dirty;
	unsigned long base;
	uint8_t page[ARENA];
};

/* tools/lib/bitmap.c needs more of tools/lib than this. */
void __bitmap_clear(unsigned long *map, unsigned int start, int len)
{
	while (len--)
		__clear_bit(start++, map);
}

static void world_init(struct world *w, unsigned long base)
{
	vfio_dirty_init(&w->dirty);
	w->base = base;
	memset(w->page, 0, sizeof(w->page));
}

static void world_destroy(struct world *w)
{
	vfio_dirty_destroy(&w->dirty);
	rcu_barrier();
	if (slab_live())
		fail("%ld objects leaked", slab_live());
}

/* Pinned pages are dirty, and no piece is without a dirty page. */
static void check_structure(struct world *w)
{
	struct vfio_dirty_piece *piece;
	unsigned long index, i, any;

	xa_for_each(&w->dirty.pieces, index, piece) {
		for (i = any = 0; i < WORDS; i++) {
			if (!piece->dirty[i] != !test_bit(i, piece->busy))
				fail("busy bit %lu of piece %lx is wrong", i, index);
			if (piece->pinned[i] & ~piece->dirty[i])
				fail("piece %lx has a pinned page that isn't dirty", index);
			any |= piece->dirty[i];
		}
		if (!any)
			fail("piece %lx is empty", index);
	}
}

/* All runs of a part of the arena begin and end where the oracle says so. */
static void check_runs(struct world *w, unsigned long from, unsigned long to)
{
	unsigned long i = from, j, end, first, last;

	for (;;) {
		while (i <= to && !(w->page[i] & DIRTY))
			i++;
		first = w->base + from;
		last = w->base + to;
		if (!vfio_dirty_next(&w->dirty, &first, &last)) {
			if (i <= to)
				fail("page %lx isn't dirty", w->base + i);
			if (first != w->base + from || last != w->base + to)
				fail("the range has changed to %lx-%lx", first, last);
			return;
		}
		/* The last page that the run can have */
		end = ((w->base + i) / PIECE + VFIO_DIRTY_RUN) * PIECE - 1 - w->base;
		for (j = i; j < min(to, end) && w->page[j + 1] & DIRTY; )
			j++;
		if (i > to || first != w->base + i || last != w->base + j)
			fail("run %lx-%lx, not %lx-%lx", first, last, w->base + i,
			     w->base + j);
		if (j == to)
			return;
		from = j + 1;
		i = from;
	}
}

/* A part of the arena is copied into a bitmap that has bits set already. */
static void check_copy(struct world *w, unsigned long from, unsigned long to)
{
	static unsigned long bitmap[ARENA / BITS_PER_LONG + 2];
	unsigned long i, nr = to - from + 1, offset = rng_below(BITS_PER_LONG);

	for (i = 0; i < ARRAY_SIZE(bitmap); i++)
		bitmap[i] = 0x1111111111111111UL;
	vfio_dirty_copy(&w->dirty, w->base + from, nr, bitmap, offset);
	for (i = 0; i < ARRAY_SIZE(bitmap) * BITS_PER_LONG; i++) {
		bool want = i % 4 == 0 || (i - offset < nr &&
					   w->page[from + i - offset] & DIRTY);

		if (!!(bitmap[i / BITS_PER_LONG] & BIT(i % BITS_PER_LONG)) != want)
			fail("bit %lu of %lx-%lx at %lu isn't %d", i, w->base + from,
			     w->base + to, offset, want);
	}
}

static void random_range(unsigned long *first, unsigned long *last)
{
	unsigned long piece = rng_below(4) * PIECE;

	switch (rng_below(5)) {
	case 0:	/* one page */
		*first = *last = rng_below(ARENA);
		break;
	case 1:	/* pieces */
		*first = piece;
		*last = piece + (rng_below(4 - piece / PIECE) + 1) * PIECE - 1;
		break;
	case 2:	/* about a word */
		*first = rng_below(ARENA - 2 * BITS_PER_LONG);
		*last = *first + rng_below(2 * BITS_PER_LONG);
		break;
	case 3:	/* across the border of two pieces */
		piece = min(piece, ARENA - 2 * PIECE);
		*first = piece + rng_below(PIECE);
		*last = piece + PIECE + rng_below(PIECE);
		break;
	default:
		*first = rng_below(ARENA);
		*last = *first + rng_below(ARENA - *first);
		break;
	}
}

static void check(struct world *w)
{
	unsigned long first, last;

	check_structure(w);
	check_runs(w, 0, ARENA - 1);
	random_range(&first, &last);
	check_runs(w, first, last);
	check_copy(w, first, last);
}

static void pin(struct world *w, unsigned long i)
{
	long injected = slab_failures;
	int r = vfio_dirty_pin(&w->dirty, w->base + i);

	if (!r)
		w->page[i] = DIRTY | PINNED;
	else if (r != -ENOMEM || slab_failures == injected)
		fail("pinning %lx returns %d", w->base + i, r);
}

static void unpin(struct world *w, unsigned long i)
{
	vfio_dirty_unpin(&w->dirty, w->base + i);
	w->page[i] &= ~PINNED;
}

/* If it fails, the oracle takes over which pages are dirty, from the range only. */
static void mark(struct world *w, unsigned long first, unsigned long last)
{
	long injected = slab_failures;
	int r = vfio_dirty_mark(&w->dirty, w->base + first, w->base + last);
	unsigned long i, f, l;

	if (r && (r != -ENOMEM || slab_failures == injected))
		fail("marking %lx-%lx returns %d", w->base + first, w->base + last, r);
	for (i = first; i <= last; i++) {
		f = w->base + i;
		l = f;
		if (!r || vfio_dirty_next(&w->dirty, &f, &l))
			w->page[i] |= DIRTY;
	}
}

static void clear(struct world *w, unsigned long first, unsigned long last)
{
	unsigned long from = w->base + first;
	unsigned int budget = rng_below(3);

	while (!vfio_dirty_clear(&w->dirty, &from, w->base + last, &budget)) {
		if (budget || from < w->base + first || from > w->base + last)
			fail("a part of %lx-%lx was cleared, to %lx", w->base + first,
			     w->base + last, from);
		check_structure(w);
		budget = 1 + rng_below(2);
	}
	for (; first <= last; first++)
		if (!(w->page[first] & PINNED))
			w->page[first] = 0;
}

static void forget(struct world *w, unsigned long first, unsigned long last)
{
	vfio_dirty_forget(&w->dirty, w->base + first, w->base + last);
	memset(w->page + first, 0, last - first + 1);
}

/* Few pages are dirty for long: ranges are cleared more often than they are marked. */
static void random_step(struct world *w)
{
	unsigned long first, last;

	random_range(&first, &last);
	switch (rng_below(16)) {
	case 0 ... 3:
		pin(w, first);
		break;
	case 4 ... 7:
		unpin(w, first);
		break;
	case 8 ... 9:
		mark(w, first, min(last, first + rng_below(70)));
		break;
	case 10:
		mark(w, first, last);
		break;
	case 11:
		forget(w, first, last);
		break;
	default:
		clear(w, first, last);
		break;
	}
}

static void random_steps(unsigned long base, long steps, time_t until)
{
	static struct world w;
	long step, failures = slab_failures;

	world_init(&w, base);
	for (step = 0; step < steps; step++) {
		if (!(step & 255) && time(NULL) >= until)
			break;
		/* Now and then, allocations fail. */
		slab_fail_after = rng_below(16) ? -1 : rng_below(3);
		random_step(&w);
		slab_fail_after = -1;
		check(&w);
	}
	printf("# base %lx: %ld steps, %ld failed allocations\n", base, step,
	       slab_failures - failures);
	if (slab_failures == failures)
		fail("no allocation has failed");
	world_destroy(&w);
}

static void case_random(void)
{
	static const unsigned long bases[] = {
		0, (1UL << 27) / PIECE * PIECE, -1UL / 4096 + 1 - ARENA
	};
	time_t start = time(NULL);
	unsigned long i;

	for (i = 0; i < ARRAY_SIZE(bases); i++)
		random_steps(bases[i], max_steps / ARRAY_SIZE(bases),
			     start + max_seconds * (i + 1) / ARRAY_SIZE(bases));
}

static void case_empty(void)
{
	static struct world w;

	world_init(&w, 0);
	check(&w);
	unpin(&w, 0);
	clear(&w, 0, ARENA - 1);
	forget(&w, 0, ARENA - 1);
	check(&w);
	if (slab_live())
		fail("an empty store has %ld objects", slab_live());
	world_destroy(&w);
}

static void case_pinned(void)
{
	static struct world w;

	world_init(&w, 0);
	pin(&w, PIECE - 1);
	pin(&w, PIECE);
	clear(&w, 0, ARENA - 1);
	check(&w);
	unpin(&w, PIECE);
	check(&w);
	clear(&w, 0, ARENA - 1);
	check(&w);
	unpin(&w, PIECE - 1);
	clear(&w, 0, ARENA - 1);
	check(&w);
	rcu_barrier();
	if (slab_live())
		fail("a store without dirty pages has %ld objects", slab_live());
	world_destroy(&w);
}

/* Two pages with nearly the whole space between them, and all that it costs */
static void case_far_apart(void)
{
	unsigned long first = 0, last = -1UL / 4096;
	struct vfio_dirty dirty;
	unsigned int budget = 2;

	vfio_dirty_init(&dirty);
	if (vfio_dirty_mark(&dirty, 0, 0) || vfio_dirty_pin(&dirty, last))
		fail("no memory");
	if (!vfio_dirty_next(&dirty, &first, &last) || first || last)
		fail("first run %lx-%lx", first, last);
	first = 1;
	last = -1UL / 4096;
	if (!vfio_dirty_next(&dirty, &first, &last) || first != last ||
	    last != -1UL / 4096)
		fail("last run %lx-%lx", first, last);
	first = 0;
	if (!vfio_dirty_clear(&dirty, &first, -1UL / 4096, &budget) || budget)
		fail("two pieces aren't cleared");
	if (!vfio_dirty_next(&dirty, &first, &last) || first != -1UL / 4096)
		fail("the pinned page is clean");
	if (slab_live() > 20)
		fail("%ld objects for two pages", slab_live());
	vfio_dirty_destroy(&dirty);
	rcu_barrier();
	if (slab_live())
		fail("%ld objects leaked", slab_live());
}

static const struct test_case cases[] = {
	{ "an empty store",				case_empty },
	{ "a pinned page stays dirty",			case_pinned },
	{ "two pages far apart",			case_far_apart },
	{ "random steps, with failing allocations",	case_random },
};

static void init(void)
{
	xarray_init();
	printf("# pieces of %lu pages\n", PIECE);
}

int main(int argc, char **argv)
{
	return run_cases(argc, argv, init, cases, ARRAY_SIZE(cases));
}
