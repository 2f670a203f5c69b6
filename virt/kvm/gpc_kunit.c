// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of the index of gfn-to-pfn caches.
 */
#include <kunit/test.h>
#include <linux/prandom.h>
#include <linux/slab.h>

#include "gpc_index.h"

#define NODES	96
#define PAGES	24
#define NO_PAGE	(-1)

/* An index, and the page to expect of each node. */
struct gpc_index_test {
	struct gpc_index index;
	struct interval_tree_node node[NODES];
	int page[NODES];
	unsigned long base;
	bool seen[NODES];
};

static int gpc_index_test_init(struct kunit *test)
{
	struct gpc_index_test *t;
	int i;

	t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);
	if (!t)
		return -ENOMEM;

	gpc_index_init(&t->index);
	for (i = 0; i < NODES; i++) {
		gpc_index_init_node(&t->node[i]);
		t->page[i] = NO_PAGE;
	}
	test->priv = t;
	return 0;
}

static unsigned long address(struct gpc_index_test *t, int page, int offset)
{
	return t->base + page * PAGE_SIZE + offset;
}

static void set_page(struct gpc_index_test *t, int node, int page, int offset)
{
	spin_lock(&t->index.lock);
	if (page == NO_PAGE)
		gpc_index_remove(&t->index, &t->node[node]);
	else
		gpc_index_set(&t->index, &t->node[node], address(t, page, offset));
	spin_unlock(&t->index.lock);
	t->page[node] = page;
}

/* Visit the nodes in some pages.  Return how many visits are wrong. */
static int wrong_visits(struct gpc_index_test *t, int first_page, int last_page)
{
	unsigned long start = address(t, first_page, 0);
	unsigned long last = address(t, last_page, PAGE_SIZE - 1);
	struct interval_tree_node *node;
	int i, wrong = 0;

	memset(t->seen, 0, sizeof(t->seen));
	spin_lock(&t->index.lock);
	for (node = gpc_index_first(&t->index, start, last); node;
	     node = interval_tree_iter_next(node, start, last)) {
		wrong += t->seen[node - t->node];
		t->seen[node - t->node] = true;
	}
	spin_unlock(&t->index.lock);
	for (i = 0; i < NODES; i++)
		wrong += t->seen[i] != (t->page[i] != NO_PAGE &&
					t->page[i] >= first_page &&
					t->page[i] <= last_page);
	return wrong;
}

static void gpc_index_test_empty(struct kunit *test)
{
	struct gpc_index_test *t = test->priv;

	KUNIT_EXPECT_EQ(test, 0, wrong_visits(t, 0, PAGES - 1));
	/* Removing what isn't there does nothing. */
	set_page(t, 0, NO_PAGE, 0);
	KUNIT_EXPECT_EQ(test, 0, wrong_visits(t, 0, PAGES - 1));
	KUNIT_EXPECT_FALSE(test, gpc_index_has(&t->node[0], 0));
}

/* All nodes have one page: each is visited once, and not from the pages beside it. */
static void gpc_index_test_one_page(struct kunit *test)
{
	struct gpc_index_test *t = test->priv;
	int i;

	t->base = BIT(40);
	for (i = 0; i < NODES; i++)
		set_page(t, i, 7, i);
	KUNIT_EXPECT_EQ(test, 0, wrong_visits(t, 7, 7));
	KUNIT_EXPECT_EQ(test, 0, wrong_visits(t, 0, 6));
	KUNIT_EXPECT_EQ(test, 0, wrong_visits(t, 8, PAGES - 1));
	KUNIT_EXPECT_TRUE(test, gpc_index_has(&t->node[3], address(t, 7, 100)));
	KUNIT_EXPECT_FALSE(test, gpc_index_has(&t->node[3], address(t, 8, 0)));
	for (i = 0; i < NODES; i++)
		set_page(t, i, NO_PAGE, 0);
	KUNIT_EXPECT_TRUE(test, RB_EMPTY_ROOT(&t->index.pages.rb_root));
}

/* Any order of changes, at both ends of the address space and in between. */
static void gpc_index_test_random(struct kunit *test)
{
	static const unsigned long bases[] = { 0, BIT(40), 0UL - PAGES * PAGE_SIZE };
	struct gpc_index_test *t = test->priv;
	int i, first, last;
	struct rnd_state rnd;

	prandom_seed_state(&rnd, 10);
	for (i = 0; i < 30000; i++) {
		if (!(i % 10000)) {
			for (first = 0; first < NODES; first++)
				set_page(t, first, NO_PAGE, 0);
			t->base = bases[i / 10000];
		}
		/* One of three loses its page. */
		first = prandom_u32_state(&rnd) % (PAGES + PAGES / 2);
		set_page(t, prandom_u32_state(&rnd) % NODES,
			 first < PAGES ? first : NO_PAGE,
			 prandom_u32_state(&rnd) % PAGE_SIZE);

		first = prandom_u32_state(&rnd) % PAGES;
		last = first + prandom_u32_state(&rnd) % (PAGES - first);
		KUNIT_ASSERT_EQ(test, 0, wrong_visits(t, first, last));
	}
}

static struct kunit_case gpc_index_test_cases[] = {
	KUNIT_CASE(gpc_index_test_empty),
	KUNIT_CASE(gpc_index_test_one_page),
	KUNIT_CASE(gpc_index_test_random),
	{}
};

static struct kunit_suite gpc_index_test_suite = {
	.name = "kvm_gpc_index",
	.init = gpc_index_test_init,
	.test_cases = gpc_index_test_cases,
};

kunit_test_suite(gpc_index_test_suite);
