// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of the memory attribute store.  They run with the kernel's own
 * maple tree, allocators and lockdep.  tools/testing/kvm_mem has longer tests,
 * which check the store against an oracle and make allocations fail.
 */
#include <kunit/test.h>
#include <linux/cleanup.h>
#include <linux/kvm.h>
#include <linux/kvm_mem_attrs.h>
#include <linux/mutex.h>
#include <linux/prandom.h>

#define BLOCK	KVM_MEM_ATTRS_BLOCK
#define ARENA	(4 * BLOCK)
#define P	KVM_MEMORY_ATTRIBUTE_PRIVATE

/* A store with a lock, as in struct kvm, and the attributes to expect. */
struct mem_attrs_test {
	struct kvm_mem_attrs ma;
	struct mutex lock;	/* the writers' lock */
	unsigned long base;
	u8 page[ARENA];
};

static int mem_attrs_test_init(struct kunit *test)
{
	struct mem_attrs_test *t;

	t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);
	if (!t)
		return -ENOMEM;

	mutex_init(&t->lock);
	kvm_mem_attrs_init(&t->ma);
	mt_set_external_lock(&t->ma.mt, &t->lock);
	test->priv = t;
	return 0;
}

static void mem_attrs_test_exit(struct kunit *test)
{
	struct mem_attrs_test *t = test->priv;

	guard(mutex)(&t->lock);
	kvm_mem_attrs_destroy(&t->ma);
}

static void set(struct kunit *test, unsigned long start, unsigned long last,
		unsigned long attrs)
{
	struct mem_attrs_test *t = test->priv;
	struct kvm_mem_attrs_op op;
	int r;

	/* Assert only after the unlock: a failing assertion doesn't return. */
	scoped_guard(mutex, &t->lock) {
		r = kvm_mem_attrs_prepare(&t->ma, &op, t->base + start,
					  t->base + last, attrs, GFP_KERNEL);
		if (r)
			kvm_mem_attrs_abort(&op);
		else
			kvm_mem_attrs_commit(&op);
	}
	KUNIT_ASSERT_EQ(test, 0, r);
	memset(t->page + start, attrs, last - start + 1);
}

/* Return the first page with wrong attributes, or ARENA if there is none. */
static unsigned long first_wrong_page(struct mem_attrs_test *t)
{
	unsigned long i;

	for (i = 0; i < ARENA; i++)
		if (kvm_mem_attrs_get(&t->ma, t->base + i) != t->page[i])
			break;
	return i;
}

static unsigned long mixed_blocks(struct mem_attrs_test *t)
{
	unsigned long i, mixed = 0;

	for (i = 0; i < ARENA; i += BLOCK)
		mixed += !!memchr_inv(t->page + i, t->page[i], BLOCK);
	return mixed;
}

static void check(struct kunit *test)
{
	struct mem_attrs_test *t = test->priv;

	KUNIT_ASSERT_EQ(test, ARENA, first_wrong_page(t));
	KUNIT_ASSERT_EQ(test, mixed_blocks(t), t->ma.nr_leaves);
}

static void mem_attrs_test_ends(struct kunit *test)
{
	/* The first gfns, the gfns before 2^64 bytes, and the last gfns of the store. */
	static const unsigned long bases[] = {
		0, BIT(64 - PAGE_SHIFT) - ARENA, 0UL - ARENA
	};
	struct mem_attrs_test *t = test->priv;
	unsigned long i;

	for (i = 0; i < ARRAY_SIZE(bases); i++) {
		t->base = bases[i];
		set(test, 0, 0, P);
		check(test);
		set(test, ARENA - 1, ARENA - 1, P);
		check(test);
		set(test, 0, ARENA - 1, P);
		check(test);
		set(test, 0, ARENA - 1, 0);
		check(test);
		KUNIT_EXPECT_TRUE(test, mtree_empty(&t->ma.mt));
	}
}

/* If two pages of a block change and one changes back, the block is mixed. */
static void mem_attrs_test_one_of_two_back(struct kunit *test)
{
	struct mem_attrs_test *t = test->priv;
	unsigned long start, last;

	set(test, 0, ARENA - 1, P);
	set(test, BLOCK, BLOCK, 0);
	set(test, BLOCK + 1, BLOCK + 1, 0);
	set(test, BLOCK + 1, BLOCK + 1, P);
	check(test);
	kvm_mem_attrs_extent(&t->ma, BLOCK + 1, &start, &last);
	KUNIT_EXPECT_EQ(test, start, last);

	set(test, BLOCK, BLOCK, P);
	check(test);
	kvm_mem_attrs_extent(&t->ma, BLOCK + 1, &start, &last);
	KUNIT_EXPECT_EQ(test, 0, start);
	KUNIT_EXPECT_EQ(test, ARENA - 1, last);
}

static void mem_attrs_test_runs(struct kunit *test)
{
	struct mem_attrs_test *t = test->priv;
	unsigned long attrs;

	/* From the middle of a leaf through a run into the next leaf. */
	set(test, BLOCK / 2, 2 * BLOCK + 10, P);
	KUNIT_EXPECT_EQ(test, BLOCK / 2 - 1, kvm_mem_attrs_run(&t->ma, 0, ARENA, &attrs));
	KUNIT_EXPECT_EQ(test, 0, attrs);
	KUNIT_EXPECT_EQ(test, 2 * BLOCK + 10,
			kvm_mem_attrs_run(&t->ma, BLOCK / 2, ARENA, &attrs));
	KUNIT_EXPECT_EQ(test, P, attrs);
	KUNIT_EXPECT_TRUE(test, kvm_mem_attrs_uniform(&t->ma, BLOCK / 2,
						      2 * BLOCK + 10, ~0UL, P));
	KUNIT_EXPECT_FALSE(test, kvm_mem_attrs_uniform(&t->ma, BLOCK / 2 - 1,
						       2 * BLOCK + 10, ~0UL, P));
	KUNIT_EXPECT_FALSE(test, kvm_mem_attrs_uniform(&t->ma, BLOCK / 2,
						       2 * BLOCK + 11, ~0UL, P));
}

static void mem_attrs_test_abort(struct kunit *test)
{
	struct mem_attrs_test *t = test->priv;
	struct kvm_mem_attrs_op op;
	int r;

	set(test, 0, ARENA - 1, P);
	scoped_guard(mutex, &t->lock) {
		r = kvm_mem_attrs_prepare(&t->ma, &op, 1, ARENA - 2, 0, GFP_KERNEL);
		kvm_mem_attrs_abort(&op);
	}
	KUNIT_EXPECT_EQ(test, 0, r);
	check(test);
}

static struct kvm_mem_attrs_usage usage(struct kunit *test)
{
	struct mem_attrs_test *t = test->priv;
	struct kvm_mem_attrs_usage usage;

	guard(mutex)(&t->lock);
	kvm_mem_attrs_usage(&t->ma, &usage);
	return usage;
}

static void mem_attrs_test_usage(struct kunit *test)
{
	struct kvm_mem_attrs_usage before, split, after;
	unsigned long i;

	set(test, 0, ARENA - 1, P);
	before = usage(test);
	for (i = 0; i < ARENA; i += 2)
		set(test, i, i, 0);
	split = usage(test);
	for (i = 0; i < ARENA; i += 2)
		set(test, i, i, P);
	after = usage(test);

	KUNIT_EXPECT_EQ(test, 1, before.runs);
	KUNIT_EXPECT_EQ(test, ARENA / BLOCK, split.leaves);
	KUNIT_EXPECT_GT(test, split.bytes, before.bytes);
	KUNIT_EXPECT_MEMEQ(test, &before, &after, sizeof(before));
}

static void mem_attrs_test_random(struct kunit *test)
{
	struct mem_attrs_test *t = test->priv;
	unsigned long start, last;
	struct rnd_state rnd;
	int i;

	prandom_seed_state(&rnd, 6);
	t->base = BIT(30);
	for (i = 0; i < 2000; i++) {
		start = prandom_u32_state(&rnd) % ARENA;
		last = start + prandom_u32_state(&rnd) % (ARENA - start);
		set(test, start, last, prandom_u32_state(&rnd) & 1 ? P : 0);
		check(test);
	}
}

static struct kunit_case mem_attrs_test_cases[] = {
	KUNIT_CASE(mem_attrs_test_ends),
	KUNIT_CASE(mem_attrs_test_one_of_two_back),
	KUNIT_CASE(mem_attrs_test_runs),
	KUNIT_CASE(mem_attrs_test_abort),
	KUNIT_CASE(mem_attrs_test_usage),
	KUNIT_CASE_SLOW(mem_attrs_test_random),
	{}
};

static struct kunit_suite mem_attrs_test_suite = {
	.name = "kvm_mem_attrs",
	.init = mem_attrs_test_init,
	.exit = mem_attrs_test_exit,
	.test_cases = mem_attrs_test_cases,
};

kunit_test_suite(mem_attrs_test_suite);
