// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of the slots of asynchronous page faults.
 */
#include <kunit/test.h>
#include <linux/kvm_apf_slots.h>
#include <linux/prandom.h>
#include <linux/slab.h>

/* More pages than slots, so that all slots are taken now and then. */
#define PAGES	96

/* Slots, and what to expect: the slot of each page, and the token of its fault. */
struct apf_slots_test {
	struct kvm_apf_slots slots;
	struct kvm_apf_slot *slot[PAGES];
	u32 token[PAGES];
	int nr_taken;
};

static int apf_slots_test_init(struct kunit *test)
{
	test->priv = kunit_kzalloc(test, sizeof(struct apf_slots_test), GFP_KERNEL);
	return test->priv ? 0 : -ENOMEM;
}

static void apf_slots_test_exit(struct kunit *test)
{
	struct apf_slots_test *t = test->priv;

	kvm_apf_slots_free(&t->slots);
}

static void alloc_slots(struct kunit *test, unsigned int nr)
{
	struct apf_slots_test *t = test->priv;

	kvm_apf_slots_free(&t->slots);
	memset(t, 0, sizeof(*t));
	KUNIT_ASSERT_EQ(test, 0, kvm_apf_slots_alloc(&t->slots, nr, GFP_KERNEL));
}

/* The pages are as far apart as gfns can be, and some of them are neighbours. */
static gfn_t gfn_of(int page)
{
	static const gfn_t bases[] = { 0, BIT_ULL(20), BIT_ULL(40), ~0ull - PAGES };

	return bases[page / (PAGES / ARRAY_SIZE(bases))] + page;
}

static void take(struct kunit *test, int page)
{
	struct apf_slots_test *t = test->priv;
	struct kvm_apf_slot *slot = kvm_apf_slots_take(&t->slots, gfn_of(page));

	if (t->nr_taken == t->slots.nr) {
		KUNIT_ASSERT_NULL(test, slot);
		return;
	}
	KUNIT_ASSERT_NOT_NULL(test, slot);
	KUNIT_ASSERT_EQ(test, gfn_of(page), slot->gfn);
	t->slot[page] = slot;
	t->token[page] = slot->token;
	t->nr_taken++;
}

static void release(struct kunit *test, int page)
{
	struct apf_slots_test *t = test->priv;

	kvm_apf_slots_release(&t->slots, t->slot[page]);
	t->slot[page] = NULL;
	t->nr_taken--;
}

static bool has_token_of_other(struct apf_slots_test *t, int page)
{
	int i;

	for (i = 0; i < PAGES; i++)
		if (i != page && t->slot[i] && t->token[i] == t->token[page])
			return true;
	return false;
}

static bool is_bad_token(u32 token)
{
	return !token || token >> KVM_APF_TOKEN_BITS ||
	       token == BIT(KVM_APF_TOKEN_BITS) - 1;
}

/* Return the first page whose slot is not as expected, or PAGES if there is none. */
static int first_wrong_page(struct apf_slots_test *t)
{
	int i;

	for (i = 0; i < PAGES; i++) {
		if (kvm_apf_slots_find(&t->slots, gfn_of(i)) != t->slot[i])
			break;
		if (t->slot[i] && (t->slot[i]->token != t->token[i] ||
				   is_bad_token(t->token[i]) || has_token_of_other(t, i)))
			break;
	}
	return i;
}

static void apf_slots_test_unallocated(struct kunit *test)
{
	struct apf_slots_test *t = test->priv;

	KUNIT_EXPECT_NULL(test, kvm_apf_slots_find(&t->slots, 0));
	KUNIT_EXPECT_NULL(test, kvm_apf_slots_take(&t->slots, 0));
	kvm_apf_slots_release_all(&t->slots);
	kvm_apf_slots_free(&t->slots);
}

#define GENERATIONS	254

/* A slot's token comes again only after all generations, and is never a bad one. */
static void apf_slots_test_generations(struct kunit *test)
{
	struct apf_slots_test *t = test->priv;
	struct kvm_apf_slot *slot;
	u32 tokens[GENERATIONS];
	int i, j;

	alloc_slots(test, 1);
	for (i = 0; i < 2 * GENERATIONS; i++) {
		slot = kvm_apf_slots_take(&t->slots, i);
		KUNIT_ASSERT_NOT_NULL(test, slot);
		KUNIT_ASSERT_FALSE(test, is_bad_token(slot->token));
		if (i >= GENERATIONS)
			KUNIT_ASSERT_EQ(test, tokens[i - GENERATIONS], slot->token);
		else
			tokens[i] = slot->token;
		for (j = 0; j < min(i, GENERATIONS); j++)
			KUNIT_ASSERT_EQ(test, i - GENERATIONS == j, tokens[j] == slot->token);
		kvm_apf_slots_release(&t->slots, slot);
	}
}

/* The slot that has been free for longest is taken next. */
static void apf_slots_test_order(struct kunit *test)
{
	struct apf_slots_test *t = test->priv;
	int i;

	alloc_slots(test, 3);
	for (i = 0; i < 3; i++)
		take(test, i);
	release(test, 1);
	release(test, 2);
	release(test, 0);
	take(test, 3);
	take(test, 4);
	take(test, 5);
	KUNIT_EXPECT_PTR_EQ(test, t->slot[3], &t->slots.slot[1]);
	KUNIT_EXPECT_PTR_EQ(test, t->slot[4], &t->slots.slot[2]);
	KUNIT_EXPECT_PTR_EQ(test, t->slot[5], &t->slots.slot[0]);
}

/* All slots are taken, also the last one, and are released all at once. */
static void apf_slots_test_all(struct kunit *test)
{
	struct apf_slots_test *t = test->priv;
	struct kvm_apf_slot *slot;
	int i;

	alloc_slots(test, KVM_APF_MAX_SLOTS);
	for (i = 0; i < KVM_APF_MAX_SLOTS; i++) {
		slot = kvm_apf_slots_take(&t->slots, i);
		KUNIT_ASSERT_PTR_EQ(test, slot, &t->slots.slot[i]);
		/* All tokens differ, since their low bits do. */
		KUNIT_ASSERT_EQ(test, i, slot->token & (KVM_APF_MAX_SLOTS - 1));
	}
	KUNIT_EXPECT_NULL(test, kvm_apf_slots_take(&t->slots, i));
	for (i = 0; i < KVM_APF_MAX_SLOTS; i++)
		KUNIT_ASSERT_PTR_EQ(test, kvm_apf_slots_find(&t->slots, i),
				    &t->slots.slot[i]);

	kvm_apf_slots_release_all(&t->slots);
	KUNIT_EXPECT_EQ(test, 0, t->slots.nr_taken);
	KUNIT_EXPECT_NULL(test, kvm_apf_slots_find(&t->slots, 0));
	KUNIT_EXPECT_NOT_NULL(test, kvm_apf_slots_take(&t->slots, 0));
}

/* Take and release slots at random.  The test notes which slot and token each page has. */
static void apf_slots_test_random(struct kunit *test)
{
	static const unsigned int sizes[] = { 1, 2, 3, 63, 64, 65 };
	struct apf_slots_test *t = test->priv;
	struct rnd_state rnd;
	int i, page;

	prandom_seed_state(&rnd, 11);
	for (i = 0; i < 12000; i++) {
		if (!(i % 2000))
			alloc_slots(test, sizes[i / 2000]);
		page = prandom_u32_state(&rnd) % PAGES;
		if (t->slot[page])
			release(test, page);
		else
			take(test, page);
		if (prandom_u32_state(&rnd) % 1000 == 0) {
			kvm_apf_slots_release_all(&t->slots);
			memset(t->slot, 0, sizeof(t->slot));
			t->nr_taken = 0;
		}
		KUNIT_ASSERT_EQ(test, PAGES, first_wrong_page(t));
		KUNIT_ASSERT_EQ(test, t->nr_taken, t->slots.nr_taken);
	}
}

static struct kunit_case apf_slots_test_cases[] = {
	KUNIT_CASE(apf_slots_test_unallocated),
	KUNIT_CASE(apf_slots_test_generations),
	KUNIT_CASE(apf_slots_test_order),
	KUNIT_CASE(apf_slots_test_all),
	KUNIT_CASE(apf_slots_test_random),
	{}
};

static struct kunit_suite apf_slots_test_suite = {
	.name = "kvm_apf_slots",
	.init = apf_slots_test_init,
	.exit = apf_slots_test_exit,
	.test_cases = apf_slots_test_cases,
};

kunit_test_suite(apf_slots_test_suite);
