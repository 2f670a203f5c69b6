// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compare the store of memory attributes with an oracle of one byte per page
 *
 * Each variant of the store (see the Makefile) runs the same cases.  After each
 * step the test compares the attributes of every page of a small arena with the
 * oracle, and checks the invariants that virt/kvm/mem_attrs.c lists.  In a large
 * arena it compares the pages only after some of the steps.
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Include the source, as the cases look into leaves. */
#include "../../../virt/kvm/mem_attrs.c"
#include "cases.h"

void maple_tree_init(void);

#define BLOCK		KVM_MEM_ATTRS_BLOCK
#ifndef ARENA_BLOCKS
#define ARENA_BLOCKS	6
#define WANT_HEIGHT	1
#endif
#define ARENA		(ARENA_BLOCKS * BLOCK)

/* A store, its arena, and the oracle: the attributes of each page. */
struct world {
	struct kvm_mem_attrs ma;
	unsigned long base;
	uint8_t page[ARENA];
};

static unsigned long random_attrs(void)
{
	return (rng() & (BIT(KVM_MEM_ATTRS_NR) - 1)) << KVM_MEM_ATTRS_SHIFT;
}

static unsigned long oracle(struct world *w, unsigned long gfn)
{
	/* Unsigned: a gfn below the base is far above the arena. */
	return gfn - w->base < ARENA ? w->page[gfn - w->base] : 0;
}

static void world_init(struct world *w, unsigned long base)
{
	kvm_mem_attrs_init(&w->ma);
	w->base = base;
	memset(w->page, 0, sizeof(w->page));
}

static void world_destroy(struct world *w)
{
	kvm_mem_attrs_destroy(&w->ma);
	rcu_barrier();
	if (slab_live())
		fail("%ld objects leaked", slab_live());
}

/* Check the invariants of the tree's entries, and the count of leaves. */
static void check_structure(struct world *w)
{
	MA_STATE(mas, &w->ma.mt, 0, 0);
	unsigned long leaves = 0, prev_last = 0;
	void *entry, *prev = NULL;

	mas_for_each(&mas, entry, ULONG_MAX) {
		struct kvm_mem_attrs_leaf *leaf = entry_to_leaf(entry);

		if (mas.index & BLOCK_MASK || ~mas.last & BLOCK_MASK)
			fail("entry %lx-%lx isn't whole blocks", mas.index, mas.last);
		if (leaf) {
			leaves++;
			if (mas.last != block_last(mas.index))
				fail("leaf %lx-%lx isn't one block", mas.index, mas.last);
			if (leaf_has(leaf, mas.index, mas.last, ~0UL,
				     leaf_get(leaf, mas.index)))
				fail("leaf %lx isn't mixed", mas.index);
		} else if (prev == entry && prev_last + 1 == mas.index) {
			fail("run %lx-%lx isn't merged", mas.index, mas.last);
		}
		prev = entry;
		prev_last = mas.last;
	}
	if (leaves != w->ma.nr_leaves)
		fail("%lu leaves, counted %lu", leaves, w->ma.nr_leaves);
}

static void check_extent(struct world *w, unsigned long gfn)
{
	unsigned long start, last, end, i, attrs = oracle(w, gfn);
	unsigned long b = block_start(gfn);
	bool mixed = false, said_mixed;

	for (i = b; ; i++) {
		mixed |= oracle(w, i) != attrs;
		if (i == block_last(gfn))
			break;
	}

	if (kvm_mem_attrs_lookup(&w->ma, gfn, &said_mixed) != attrs ||
	    said_mixed != mixed)
		fail("lookup of %lx is wrong (mixed: %d)", gfn, said_mixed);

	if (kvm_mem_attrs_extent(&w->ma, gfn, &start, &last) != attrs)
		fail("attributes of the extent of %lx are wrong", gfn);
	end = kvm_mem_attrs_skip(&w->ma, gfn, ULONG_MAX, 1);
	if (end != (mixed ? block_last(gfn) : last))
		fail("the run or leaf of %lx ends at %lx", gfn, end);
	if (kvm_mem_attrs_skip(&w->ma, gfn, ULONG_MAX, 2) !=
	    (~end ? kvm_mem_attrs_skip(&w->ma, end + 1, ULONG_MAX, 1) : end))
		fail("two runs or leaves from %lx aren't one and the next", gfn);
	if (mixed) {
		if (start != gfn || last != gfn)
			fail("extent of %lx in a mixed block is %lx-%lx", gfn, start, last);
		return;
	}
	if (start > b || last < block_last(gfn))
		fail("extent of %lx is %lx-%lx, less than its block", gfn, start, last);
	/* The extent must be right within the arena, and as large as possible. */
	for (i = 0; i < ARENA; i++) {
		unsigned long g = w->base + i;

		if (g >= start && g <= last && w->page[i] != attrs)
			fail("extent of %lx, %lx-%lx, has other attributes at %lx",
			     gfn, start, last, g);
	}
	if (start && kvm_mem_attrs_uniform(&w->ma, block_start(start - 1),
					   start - 1, ~0UL, attrs))
		fail("extent %lx-%lx of %lx could begin earlier", start, last, gfn);
	if (~last && kvm_mem_attrs_uniform(&w->ma, last + 1, block_last(last + 1),
					   ~0UL, attrs))
		fail("extent %lx-%lx of %lx could end later", start, last, gfn);
}

/*
 * Compare all pages of the arena with the oracle, by get() and by run().  The
 * pages next to the arena must have no attributes.
 */
static void check_pages(struct world *w)
{
	unsigned long i, last, attrs, end;

	for (i = 0; i < ARENA; i++) {
		attrs = kvm_mem_attrs_get(&w->ma, w->base + i);
		if (attrs != w->page[i])
			fail("gfn %lx has %lx, not %x", w->base + i, attrs, w->page[i]);
	}
	if (w->base && kvm_mem_attrs_get(&w->ma, w->base - 1))
		fail("the gfn before the arena has attributes");
	if (w->base + ARENA && kvm_mem_attrs_get(&w->ma, w->base + ARENA))
		fail("the gfn after the arena has attributes");

	for (i = 0; i < ARENA; i = end) {
		for (end = i + 1; end < ARENA && w->page[end] == w->page[i]; )
			end++;
		last = kvm_mem_attrs_run(&w->ma, w->base + i,
					 w->base + ARENA - 1, &attrs);
		if (attrs != w->page[i] || last != w->base + end - 1)
			fail("run %lx-%lx %lx, not to %lx %x", w->base + i, last, attrs,
			     w->base + end - 1, w->page[i]);
	}
}

static void check_uniform(struct world *w)
{
	unsigned long start = rng_below(ARENA), last = start + rng_below(ARENA - start);
	unsigned long mask = random_attrs(), attrs = random_attrs();
	bool want = true;
	unsigned long i;

	for (i = start; i <= last; i++)
		want &= (w->page[i] & mask) == attrs;
	if (kvm_mem_attrs_uniform(&w->ma, w->base + start, w->base + last,
				  mask, attrs) != want)
		fail("uniform(%lx-%lx, %lx, %lx) isn't %d", start, last, mask, attrs, want);
}

static void check(struct world *w)
{
	check_structure(w);
	check_pages(w);
	check_uniform(w);
	check_extent(w, w->base + rng_below(ARENA));
}

static void oracle_set(struct world *w, unsigned long start, unsigned long last,
		       unsigned long attrs)
{
	memset(w->page + (start - w->base), attrs, last - start + 1);
}

static void set(struct world *w, unsigned long start, unsigned long last,
		unsigned long attrs)
{
	struct kvm_mem_attrs_op op;

	if (kvm_mem_attrs_prepare(&w->ma, &op, start, last, attrs, GFP_KERNEL))
		fail("prepare(%lx-%lx) failed", start, last);
	kvm_mem_attrs_commit(&op);
	oracle_set(w, start, last, attrs);
}

/*
 * Let each allocation of a change fail in turn: first together with all later
 * allocations, then alone.  Each failure must leave the old attributes and the old
 * structure.  With __GFP_NOFAIL, no allocation may fail.  At the end the change
 * must succeed.  Return the number of failed attempts.
 */
static int set_with_failures(struct world *w, unsigned long start,
			     unsigned long last, unsigned long attrs)
{
	struct kvm_mem_attrs_op op;
	int once, r, failed = 0;
	long n, injected;

	for (once = 0; once < 2; once++) {
		for (n = 0; ; n++) {
			injected = slab_failures;
			slab_fail_once = once;
			slab_fail_after = n;
			r = kvm_mem_attrs_prepare(&w->ma, &op, start, last, attrs, GFP_KERNEL);
			slab_fail_after = -1;
			kvm_mem_attrs_abort(&op);
			if (r && r != -ENOMEM)
				fail("prepare returned %d", r);
			failed += !!r;
			check(w);
			if (slab_failures == injected)
				break;
		}
	}

	slab_fail_after = 0;
	r = kvm_mem_attrs_prepare(&w->ma, &op, start, last, attrs,
				  GFP_KERNEL | __GFP_NOFAIL);
	slab_fail_after = -1;
	kvm_mem_attrs_abort(&op);
	if (r)
		fail("prepare failed in spite of __GFP_NOFAIL: %d", r);
	check(w);

	set(w, start, last, attrs);
	return failed;
}

/* Usually below 2: frequent large ranges would keep the tree small. */
static unsigned long random_below_often_few(unsigned long n)
{
	return rng_below(rng_below(512) ? min(n, 2UL) : n);
}

static void random_range(unsigned long *start, unsigned long *last)
{
	unsigned long block = rng_below(ARENA_BLOCKS) * BLOCK;

	switch (rng_below(6)) {
	case 0:	/* one page */
		*start = *last = rng_below(ARENA);
		break;
	case 1:	/* within a block */
		*start = block + rng_below(BLOCK);
		*last = *start + rng_below(block + BLOCK - *start);
		break;
	case 2:	/* a block, and some blocks that follow */
		*start = block;
		*last = block + random_below_often_few(ARENA_BLOCKS - block / BLOCK) *
			BLOCK + BLOCK - 1;
		break;
	case 3:	/* all but the first or the last page of a block */
		*start = block + rng_below(2);
		*last = *start + BLOCK - 2;
		break;
	default:
		*start = rng_below(ARENA);
		*last = *start + random_below_often_few((ARENA - *start + BLOCK - 1) / BLOCK) *
			BLOCK + rng_below(BLOCK);
		*last = min(*last, ARENA - 1);
		break;
	}
}

static void random_steps(unsigned long base, long steps, time_t until)
{
	unsigned long start, last, attrs;
	static struct world w;
	unsigned int height = 0;
	long step, failed = 0;

	world_init(&w, base);
	for (step = 0; step < steps; step++) {
		if (!(step & 255) && time(NULL) >= until)
			break;
		random_range(&start, &last);
		attrs = random_attrs();
		if (!(step & 1023))
			failed += set_with_failures(&w, base + start, base + last, attrs);
		else
			set(&w, base + start, base + last, attrs);
		height = max(height, mt_height(&w.ma.mt));
		/* Checking all pages of a large arena at each step takes too long. */
		if (ARENA <= 100 || !(step & 63))
			check(&w);
		else
			check_structure(&w);
	}
	check(&w);
	world_destroy(&w);
	printf("# %ld steps at gfn %lx, %ld failed allocations\n", step, base, failed);
	if (step > 1024 && !failed)
		fail("no allocation failed");
	if (step > 5000 && height < WANT_HEIGHT)
		fail("the tree never had more than %u levels", height);
}

static const unsigned long bases[] = {
	0,				/* gfn 0 */
	(1UL << 40) - 3 * BLOCK,	/* across a boundary of every level */
	0UL - ARENA,			/* up to the last gfn */
};

static void case_random(void)
{
	time_t begin = time(NULL);
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bases); i++)
		random_steps(bases[i], max_steps / ARRAY_SIZE(bases),
			     begin + (i + 1) * max_seconds / ARRAY_SIZE(bases));
}

#define P	BIT(KVM_MEM_ATTRS_SHIFT)

static void case_empty(void)
{
	unsigned long start, last, attrs;
	static struct world w;

	world_init(&w, 0);
	check(&w);
	kvm_mem_attrs_extent(&w.ma, 12345, &start, &last);
	if (start || last != ULONG_MAX)
		fail("extent in an empty store is %lx-%lx", start, last);
	if (kvm_mem_attrs_run(&w.ma, 0, ULONG_MAX, &attrs) != ULONG_MAX || attrs)
		fail("wrong run in an empty store");
	world_destroy(&w);
}

static void case_whole_space(void)
{
	struct kvm_mem_attrs_op op;
	static struct world w;

	world_init(&w, 0);
	assert(!kvm_mem_attrs_prepare(&w.ma, &op, 0, ULONG_MAX, P, GFP_KERNEL));
	kvm_mem_attrs_commit(&op);
	if (kvm_mem_attrs_get(&w.ma, 0) != P ||
	    kvm_mem_attrs_get(&w.ma, ULONG_MAX) != P ||
	    !kvm_mem_attrs_uniform(&w.ma, 0, ULONG_MAX, ~0UL, P))
		fail("the whole space isn't private");
	/* Make a hole at each end, then clear everything. */
	assert(!kvm_mem_attrs_prepare(&w.ma, &op, ULONG_MAX, ULONG_MAX, 0, GFP_KERNEL));
	kvm_mem_attrs_commit(&op);
	assert(!kvm_mem_attrs_prepare(&w.ma, &op, 0, 0, 0, GFP_KERNEL));
	kvm_mem_attrs_commit(&op);
	if (kvm_mem_attrs_get(&w.ma, 0) || kvm_mem_attrs_get(&w.ma, ULONG_MAX) ||
	    w.ma.nr_leaves != 2 ||
	    !kvm_mem_attrs_uniform(&w.ma, 1, ULONG_MAX - 1, ~0UL, P))
		fail("wrong attributes with holes at the ends");
	assert(!kvm_mem_attrs_prepare(&w.ma, &op, 0, ULONG_MAX, 0, GFP_KERNEL));
	kvm_mem_attrs_commit(&op);
	check(&w);
	if (!mtree_empty(&w.ma.mt))
		fail("the tree isn't empty");
	world_destroy(&w);
}

/* A classic mistake: pages A and B of a block change, then only B changes back. */
static void case_classic(void)
{
	static const struct {
		unsigned long a, b;
		const char *why;
	} t[] = {
		{ 0, 1, "neighbours at the head" },
		{ 0, BLOCK - 1, "head and tail" },
		{ BLOCK - 1, 0, "tail and head" },
		{ BLOCK - 2, BLOCK - 1, "neighbours at the tail" },
		{ BLOCK / 2, BLOCK / 2 - 1, "middle, downwards" },
	};
	unsigned long start, last;
	static struct world w;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(t); i++) {
		world_init(&w, 0);
		set(&w, 0, ARENA - 1, P);
		set(&w, BLOCK + t[i].a, BLOCK + t[i].a, 0);
		set(&w, BLOCK + t[i].b, BLOCK + t[i].b, 0);
		check(&w);
		set(&w, BLOCK + t[i].b, BLOCK + t[i].b, P);
		check(&w);
		kvm_mem_attrs_extent(&w.ma, BLOCK + t[i].b, &start, &last);
		if (start != last)
			fail("%s: the block counts as uniform", t[i].why);
		set(&w, BLOCK + t[i].a, BLOCK + t[i].a, P);
		check(&w);
		kvm_mem_attrs_extent(&w.ma, BLOCK + t[i].b, &start, &last);
		if (start != 0 || last != ARENA - 1)
			fail("%s: the run isn't whole again", t[i].why);
		world_destroy(&w);
	}
}

/* A store that is split and reunited is as small as it was before. */
static void case_reunite(void)
{
	struct kvm_mem_attrs_usage before, after;
	unsigned long gfn;
	static struct world w;

	world_init(&w, bases[1]);
	set(&w, w.base, w.base + ARENA - 1, P);
	kvm_mem_attrs_usage(&w.ma, &before);
	for (gfn = 0; gfn < ARENA; gfn += 2)
		set(&w, w.base + gfn, w.base + gfn, 0);
	check(&w);
	kvm_mem_attrs_usage(&w.ma, &after);
	if (after.leaves != ARENA_BLOCKS)
		fail("%lu leaves, not %d", after.leaves, ARENA_BLOCKS);
	for (gfn = 0; gfn < ARENA; gfn += 2)
		set(&w, w.base + gfn, w.base + gfn, P);
	check(&w);
	kvm_mem_attrs_usage(&w.ma, &after);
	if (memcmp(&before, &after, sizeof(before)))
		fail("%lu runs, %lu leaves, %lu bytes became %lu, %lu, %lu",
		     before.runs, before.leaves, before.bytes,
		     after.runs, after.leaves, after.bytes);
	if (before.runs != 1)
		fail("%lu runs, not 1", before.runs);
	world_destroy(&w);
}

/* Free trees with every number of entries, so that some have full nodes. */
static void case_free_every_size(void)
{
	unsigned long n, i, max_blocks = min(ARENA_BLOCKS, 300);
	static struct world w;

	for (n = 1; n <= max_blocks; n++) {
		world_init(&w, 0);
		for (i = 0; i < n; i++)
			set(&w, i * BLOCK, (i + 1) * BLOCK - 1, i % 2 ? 0 : P);
		check_structure(&w);
		world_destroy(&w);
	}
}

static void case_abort(void)
{
	struct kvm_mem_attrs_op op;
	static struct world w;
	long live;

	world_init(&w, bases[1]);
	set(&w, w.base + 1, w.base + ARENA - 2, P);
	check(&w);
	rcu_barrier();
	live = slab_live();
	assert(!kvm_mem_attrs_prepare(&w.ma, &op, w.base + BLOCK + 1,
				      w.base + 3 * BLOCK + 1, 0, GFP_KERNEL));
	kvm_mem_attrs_abort(&op);
	check(&w);
	rcu_barrier();
	if (slab_live() != live)
		fail("abort left %ld objects", slab_live() - live);
	world_destroy(&w);
}

/*
 * Readers run concurrently with a writer.  @seq is odd during a commit.  @before
 * and @after are the states of the arena before and after that change.
 */
static struct {
	struct world w;
	unsigned long seq;
	uint8_t before[ARENA], after[ARENA];
	bool stop;
	long seen;
} race;

static bool block_is(const uint8_t *state, unsigned long gfn, unsigned long attrs)
{
	unsigned long i;

	for (i = block_start(gfn); i <= block_last(gfn); i++)
		if (state[i] != attrs)
			return false;
	return true;
}

static void *race_reader(void *arg)
{
	uint64_t x = 88172645463325252ull + (uintptr_t)arg;
	unsigned long gfn, seq, start, last, attrs, run, run_last, extent, e, g;
	bool was_mixed, is_final, old_or_new;

	rcu_register_thread();
	while (!uatomic_read(&race.stop)) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		gfn = x % ARENA;
		seq = CMM_LOAD_SHARED(race.seq);
		cmm_smp_mb();
		if (!(seq & 1))
			continue;
		attrs = kvm_mem_attrs_get(&race.w.ma, gfn);
		extent = kvm_mem_attrs_extent(&race.w.ma, gfn, &start, &last);
		run_last = kvm_mem_attrs_run(&race.w.ma, gfn, ARENA - 1, &run);
		/*
		 * In an extent and in a run, only pages that are changing may have
		 * other attributes.
		 */
		for (e = start; e <= min(last, ARENA - 1); e++)
			if (race.before[e] == race.after[e] && race.before[e] != extent)
				break;
		for (g = gfn; g <= run_last; g++)
			if (race.before[g] == race.after[g] && race.before[g] != run)
				break;
		old_or_new = attrs == race.before[gfn] || attrs == race.after[gfn];
		was_mixed = !block_is(race.before, gfn, race.before[gfn]);
		is_final = block_is(race.after, gfn, race.after[gfn]);
		cmm_smp_mb();
		if (CMM_LOAD_SHARED(race.seq) != seq)
			continue;
		if (!old_or_new)
			fail("gfn %lx has neither the old nor the new attributes", gfn);
		if (e <= min(last, ARENA - 1))
			fail("gfn %lx doesn't change, and doesn't belong in the extent %lx-%lx",
			     e, start, last);
		if (g <= run_last)
			fail("gfn %lx doesn't change, and doesn't belong in the run %lx-%lx",
			     g, gfn, run_last);
		if (KVM_MEM_ATTRS_NR == 1 && was_mixed && start != last && !is_final)
			fail("block of %lx looks uniform, but is mixed before and after", gfn);
		uatomic_inc(&race.seen);
	}
	rcu_unregister_thread();
	return NULL;
}

static void case_race(void)
{
	struct kvm_mem_attrs_op op;
	unsigned long start, last, attrs;
	time_t until = time(NULL) + (max_seconds < 10 ? 1 : 5);
	pthread_t reader[2];
	size_t i;

	world_init(&race.w, 0);
	for (i = 0; i < ARRAY_SIZE(reader); i++)
		pthread_create(&reader[i], NULL, race_reader, (void *)(i + 1));
	/* On a busy machine it may take a while until a reader meets the writer. */
	while (time(NULL) < until ||
	       (!uatomic_read(&race.seen) && time(NULL) < until + 30)) {
		random_range(&start, &last);
		/* A change affects only one attribute; the others stay 0. */
		attrs = rng_below(2) ? P : 0;
		memcpy(race.before, race.w.page, ARENA);
		oracle_set(&race.w, start, last, attrs);
		memcpy(race.after, race.w.page, ARENA);
		assert(!kvm_mem_attrs_prepare(&race.w.ma, &op, start, last, attrs,
					      GFP_KERNEL));
		cmm_smp_mb();
		CMM_STORE_SHARED(race.seq, race.seq + 1);
		cmm_smp_mb();
		kvm_mem_attrs_commit(&op);
		cmm_smp_mb();
		CMM_STORE_SHARED(race.seq, race.seq + 1);
	}
	uatomic_set(&race.stop, true);
	for (i = 0; i < ARRAY_SIZE(reader); i++)
		pthread_join(reader[i], NULL);
	check(&race.w);
	printf("# %lu changes, %ld reads during a change\n", race.seq / 2, race.seen);
	if (!race.seen)
		fail("no reader met the writer");
	world_destroy(&race.w);
}

static const struct test_case cases[] = {
	{ "an empty store",				case_empty },
	{ "the whole space, and holes at its ends",	case_whole_space },
	{ "two pages of a block, one changes back",	case_classic },
	{ "split and reunited, as small as before",	case_reunite },
	{ "trees of every size are freed",		case_free_every_size },
	{ "abort changes nothing and leaks nothing",	case_abort },
	{ "readers concurrent with a writer",		case_race },
	{ "random steps, with failing allocations",	case_random },
};

static void init(void)
{
	maple_tree_init();
	printf("# blocks of %lu pages, %d attributes\n", BLOCK, KVM_MEM_ATTRS_NR);
}

int main(int argc, char **argv)
{
	return run_cases(argc, argv, init, cases, ARRAY_SIZE(cases));
}
