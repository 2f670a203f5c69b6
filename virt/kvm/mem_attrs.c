// SPDX-License-Identifier: GPL-2.0-only
/*
 * The store of a VM's memory attributes
 *
 * KVM keeps for each gfn a few attributes (today: private or shared) and must
 * know, when it maps a large page, that all gfns under it have the same ones.
 * Both are read from one structure; there is no second copy to keep true.
 *
 * Structure
 * ---------
 * Guest-physical memory is cut into blocks, aligned and of the size of the
 * smallest large page (2 MiB where pages have 4 KiB).  A maple tree, indexed by
 * gfn, maps every gfn to one of:
 *
 *   a value   a run of whole blocks, all gfns of which have these attributes;
 *             no entry at all is such a run, too, of gfns without attributes
 *   a leaf    one block whose gfns differ: a bitmap for each attribute
 *
 *    gfn 0x000     0x200     0x400              0x1000
 *        |  leaf   |  leaf   |  PRIVATE         |  (nothing) ...
 *        +---------+---------+------------------+-----------
 *         pp.pp....  ......pp
 *
 * Invariants, at every moment but between prepare and commit or abort:
 *
 *   - runs begin and end at block boundaries, and neighbouring runs differ;
 *   - a leaf covers exactly one block and holds at least two values.
 *
 * So a large page of one block is possible exactly where the entry isn't a
 * leaf, and a larger one where a single run covers it.  A VM takes at most one
 * leaf and one entry for each block, however its guest fragments it, and the
 * structure depends on the attributes alone, not on how they came about.
 *
 * Changing a range
 * ----------------
 * The blocks in the middle become one run, merged with its neighbours.  The
 * first and the last block, where the range covers them in part, end up mixed,
 * and are changed in their leaf, or uniform, and join the run.  So a change is
 * at most two leaves, new or not, and one run.  All it needs is there before
 * anything changes:
 *
 *   prepare   puts leaves where the ends will be mixed and aren't yet, with
 *             the values that the gfns have, and allocates nodes for the run
 *   commit    writes bits and stores the run; can't fail
 *   abort     folds the leaves that prepare has put; can't fail
 *
 * A new leaf holds one value up to the commit, which breaks an invariant.  A
 * reader sees the same attributes of every gfn as before, and takes the block
 * for mixed, which costs it a large page, until commit or abort.
 *
 * Concurrency
 * -----------
 * Writers hold a lock of the caller.  Readers hold rcu_read_lock(): tree nodes
 * and leaves are freed a grace period after they were unlinked, and a linked
 * leaf is changed a word at a time.  A reader that runs beside commit sees each
 * gfn before or after the change, and the gfns in no given order.  It follows
 * for a block of which a change covers a part:
 *
 *   - it was uniform: a reader may take it for uniform or mixed;
 *   - it was mixed: a reader that finds it uniform sees its final state.  The
 *     gfns of the change all go to one value.  As long as one of them is
 *     missing the block holds two values, unless all gfns had the same before.
 *
 * The second needs an attribute to change at once, and so a single one of them
 * (KVM_MEM_ATTRS_NR).  KVM relies on it for the invalidation of large pages.
 *
 * Overflow
 * --------
 * Ranges are given as first and last gfn, inclusive, so that the last gfn there
 * is can be named; a block's last gfn is computed with OR, not by adding.
 *
 * Glossary
 * --------
 *   block  aligned group of KVM_MEM_ATTRS_BLOCK gfns
 *   run    adjacent gfns with the same attributes
 *   mixed  having gfns with different attributes
 *   fold   to replace a leaf whose gfns are all alike by a part of a run
 */
#include <linux/bitmap.h>
#include <linux/export.h>
#include <linux/kvm_mem_attrs.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/xarray.h>

#define BLOCK_MASK	(KVM_MEM_ATTRS_BLOCK - 1)

struct kvm_mem_attrs_leaf {
	unsigned long map[KVM_MEM_ATTRS_NR][BITS_TO_LONGS(KVM_MEM_ATTRS_BLOCK)];
	union {
		struct rcu_head rcu;
		struct kvm_mem_attrs_leaf *next_dead;
	};
};

static unsigned long block_start(unsigned long gfn)
{
	return gfn & ~BLOCK_MASK;
}

static unsigned long block_last(unsigned long gfn)
{
	return gfn | BLOCK_MASK;
}

static void *value_to_entry(unsigned long attrs)
{
	return attrs ? xa_mk_value(attrs) : NULL;
}

static struct kvm_mem_attrs_leaf *entry_to_leaf(void *entry)
{
	return xa_is_value(entry) ? NULL : entry;
}

static unsigned long entry_to_value(void *entry)
{
	return entry ? xa_to_value(entry) : 0;
}

static unsigned long leaf_get(const struct kvm_mem_attrs_leaf *leaf,
			      unsigned long gfn)
{
	unsigned long attrs = 0;
	int i;

	for (i = 0; i < KVM_MEM_ATTRS_NR; i++)
		if (test_bit(gfn & BLOCK_MASK, leaf->map[i]))
			attrs |= BIT(KVM_MEM_ATTRS_SHIFT + i);

	return attrs;
}

/* Write the bits of [@start, @last], each word once: readers look on. */
static void leaf_set(struct kvm_mem_attrs_leaf *leaf, unsigned long start,
		     unsigned long last, unsigned long attrs)
{
	unsigned long first_bit = start & BLOCK_MASK;
	unsigned long last_bit = last & BLOCK_MASK;
	unsigned long word;
	int i;

	for (word = BIT_WORD(first_bit); word <= BIT_WORD(last_bit); word++) {
		unsigned long bits = ~0UL;

		if (word == BIT_WORD(first_bit))
			bits &= BITMAP_FIRST_WORD_MASK(first_bit);
		if (word == BIT_WORD(last_bit))
			bits &= BITMAP_LAST_WORD_MASK(last_bit + 1);

		for (i = 0; i < KVM_MEM_ATTRS_NR; i++) {
			unsigned long *map = leaf->map[i];

			if (attrs & BIT(KVM_MEM_ATTRS_SHIFT + i))
				WRITE_ONCE(map[word], map[word] | bits);
			else
				WRITE_ONCE(map[word], map[word] & ~bits);
		}
	}
}

/* The last gfn of the run that starts at @start in its block. */
static unsigned long leaf_run(const struct kvm_mem_attrs_leaf *leaf,
			      unsigned long start, unsigned long attrs)
{
	unsigned long next, end = KVM_MEM_ATTRS_BLOCK;
	int i;

	for (i = 0; i < KVM_MEM_ATTRS_NR; i++) {
		if (attrs & BIT(KVM_MEM_ATTRS_SHIFT + i))
			next = find_next_zero_bit(leaf->map[i], end,
						  start & BLOCK_MASK);
		else
			next = find_next_bit(leaf->map[i], end,
					     start & BLOCK_MASK);
		end = min(end, next);
	}

	/* A reader may meet a writer that has just changed the first bit. */
	return max(block_start(start) + end - 1, start);
}

static bool leaf_has(const struct kvm_mem_attrs_leaf *leaf, unsigned long start,
		     unsigned long last, unsigned long mask, unsigned long attrs)
{
	unsigned long val;

	for (;;) {
		val = leaf_get(leaf, start);
		if ((val & mask) != attrs)
			return false;
		start = leaf_run(leaf, start, val);
		if (start >= last)
			return true;
		start++;
	}
}

void kvm_mem_attrs_init(struct kvm_mem_attrs *ma)
{
	/*
	 * ALLOC_RANGE isn't for its gaps.  Without it, an inner node that isn't
	 * full keeps metadata in its last slot, and mt_destroy_walk(), in RCU
	 * mode, takes the last child of a full one for that.
	 */
	mt_init_flags(&ma->mt, MT_FLAGS_ALLOC_RANGE | MT_FLAGS_USE_RCU |
			       MT_FLAGS_LOCK_EXTERN);
	ma->nr_leaves = 0;
}

void kvm_mem_attrs_destroy(struct kvm_mem_attrs *ma)
{
	MA_STATE(mas, &ma->mt, 0, 0);
	void *entry;

	mas_for_each(&mas, entry, ULONG_MAX) {
		kfree(entry_to_leaf(entry));
		cond_resched();
	}

	__mt_destroy(&ma->mt);
	ma->nr_leaves = 0;
}

static noinline unsigned long lookup_in_leaf(struct kvm_mem_attrs *ma,
					     unsigned long gfn, bool *mixed)
{
	struct kvm_mem_attrs_leaf *leaf;
	unsigned long attrs;
	void *entry;

	rcu_read_lock();
	entry = mtree_load(&ma->mt, gfn);
	leaf = entry_to_leaf(entry);
	attrs = leaf ? leaf_get(leaf, gfn) : entry_to_value(entry);
	rcu_read_unlock();

	*mixed = leaf;
	return attrs;
}

unsigned long kvm_mem_attrs_lookup(struct kvm_mem_attrs *ma, unsigned long gfn,
				   bool *mixed)
{
	void *entry;

	*mixed = false;

	/* Most VMs end here. */
	if (mtree_empty(&ma->mt))
		return 0;

	/*
	 * Only a leaf, which isn't looked into here, needs more protection than
	 * mtree_load() takes for itself.
	 */
	entry = mtree_load(&ma->mt, gfn);
	if (entry_to_leaf(entry))
		return lookup_in_leaf(ma, gfn, mixed);

	return entry_to_value(entry);
}
EXPORT_SYMBOL_GPL(kvm_mem_attrs_lookup);

void kvm_mem_attrs_extent(struct kvm_mem_attrs *ma, unsigned long gfn,
			  unsigned long *start, unsigned long *last)
{
	MA_STATE(mas, &ma->mt, gfn, gfn);
	void *entry;

	rcu_read_lock();
	entry = mas_walk(&mas);
	if (entry_to_leaf(entry)) {
		*start = gfn;
		*last = gfn;
	} else {
		*start = mas.index;
		*last = mas.last;
	}
	rcu_read_unlock();
}

unsigned long kvm_mem_attrs_run(struct kvm_mem_attrs *ma, unsigned long start,
				unsigned long last, unsigned long *attrs)
{
	MA_STATE(mas, &ma->mt, start, start);
	struct kvm_mem_attrs_leaf *leaf;
	unsigned long gfn = start;
	unsigned long val;
	void *entry;

	rcu_read_lock();
	for (;;) {
		/*
		 * From the root each time: beside a writer mas_next_range() may
		 * skip entries, or find no node in a tree that had some.
		 */
		mas_set(&mas, gfn);
		entry = mas_walk(&mas);
		leaf = entry_to_leaf(entry);
		val = leaf ? leaf_get(leaf, gfn) : entry_to_value(entry);
		if (gfn == start)
			*attrs = val;
		if (val != *attrs) {
			gfn--;
			break;
		}

		gfn = leaf ? leaf_run(leaf, gfn, val) : mas.last;
		if (gfn >= last || gfn != mas.last)
			break;
		gfn++;
	}
	rcu_read_unlock();

	return min(gfn, last);
}

bool kvm_mem_attrs_uniform(struct kvm_mem_attrs *ma, unsigned long start,
			   unsigned long last, unsigned long mask,
			   unsigned long attrs)
{
	MA_STATE(mas, &ma->mt, start, start);
	struct kvm_mem_attrs_leaf *leaf;
	bool same;
	void *entry;

	rcu_read_lock();
	for (entry = mas_walk(&mas); ; entry = mas_next_range(&mas, last)) {
		leaf = entry_to_leaf(entry);
		if (leaf)
			same = leaf_has(leaf, max(start, mas.index),
					min(last, mas.last), mask, attrs);
		else
			same = (entry_to_value(entry) & mask) == attrs;

		if (!same || mas.last >= last)
			break;
	}
	rcu_read_unlock();

	return same;
}

/* Take the neighbours of [@start, @last] in, that have the same value. */
static void merge_neighbours(struct kvm_mem_attrs *ma, void *entry,
			     unsigned long *start, unsigned long *last)
{
	MA_STATE(mas, &ma->mt, 0, 0);

	if (*start) {
		mas_set(&mas, *start - 1);
		if (mas_walk(&mas) == entry)
			*start = mas.index;
	}
	if (*last != ULONG_MAX) {
		mas_set(&mas, *last + 1);
		if (mas_walk(&mas) == entry)
			*last = mas.last;
	}
}

/*
 * Make a leaf of the block of @gfn, all of which has the value of @entry.  No
 * gfn changes.  Returns NULL if there is no memory for it.
 */
static struct kvm_mem_attrs_leaf *leaf_make(struct kvm_mem_attrs *ma,
					    unsigned long gfn, void *entry)
{
	MA_STATE(mas, &ma->mt, block_start(gfn), block_last(gfn));
	struct kvm_mem_attrs_leaf *leaf;

	leaf = kzalloc(sizeof(*leaf), GFP_KERNEL_ACCOUNT);
	if (!leaf)
		return NULL;

	leaf_set(leaf, block_start(gfn), block_last(gfn), entry_to_value(entry));
	/* mas_store_gfp() would try first without charging anyone. */
	if (mas_preallocate(&mas, leaf, GFP_KERNEL_ACCOUNT)) {
		kfree(leaf);
		return NULL;
	}
	mas_store_prealloc(&mas, leaf);

	ma->nr_leaves++;
	return leaf;
}

/* Undo leaf_make(): the gfns of @leaf, at the block of @gfn, are all alike. */
static void leaf_fold(struct kvm_mem_attrs *ma, unsigned long gfn,
		      struct kvm_mem_attrs_leaf *leaf)
{
	MA_STATE(mas, &ma->mt, 0, 0);
	unsigned long start = block_start(gfn), last = block_last(gfn);
	void *entry = value_to_entry(leaf_get(leaf, gfn));

	merge_neighbours(ma, entry, &start, &last);
	mas_set_range(&mas, start, last);
	/*
	 * The tree was as small a moment ago, and giving the memory back must
	 * not fail for want of some.
	 */
	mas_preallocate(&mas, entry, GFP_KERNEL_ACCOUNT | __GFP_NOFAIL);
	mas_store_prealloc(&mas, entry);
	ma->nr_leaves--;
	kfree_rcu(leaf, rcu);
}

static void drop_new_leaves(struct kvm_mem_attrs_op *op)
{
	if (op->new_tail)
		leaf_fold(op->ma, op->last, op->tail);
	if (op->new_head)
		leaf_fold(op->ma, op->start, op->head);
}

/*
 * Will the block of @gfn, which is at an end of the change, be mixed?  It will
 * if a gfn of it that the change doesn't cover has other attributes.  @entry
 * is what the block has now.
 */
static bool will_be_mixed(struct kvm_mem_attrs_op *op, unsigned long gfn,
			  void *entry)
{
	unsigned long start = block_start(gfn), last = block_last(gfn);
	struct kvm_mem_attrs_leaf *leaf = entry_to_leaf(entry);

	if (!leaf)
		return (start < op->start || last > op->last) &&
		       entry_to_value(entry) != op->attrs;

	return (start < op->start &&
		!leaf_has(leaf, start, op->start - 1, ~0UL, op->attrs)) ||
	       (last > op->last &&
		!leaf_has(leaf, op->last + 1, last, ~0UL, op->attrs));
}

/*
 * See to the block of @gfn, at an end of the change.  If it will be mixed,
 * @leaf is the leaf that it has or gets, or else NULL.
 */
static int prepare_end(struct kvm_mem_attrs_op *op, unsigned long gfn,
		       struct kvm_mem_attrs_leaf **leaf, bool *new)
{
	void *entry = mtree_load(&op->ma->mt, gfn);

	if (!will_be_mixed(op, gfn, entry))
		return 0;

	*leaf = entry_to_leaf(entry);
	if (*leaf)
		return 0;

	*leaf = leaf_make(op->ma, gfn, entry);
	*new = *leaf;
	return *leaf ? 0 : -ENOMEM;
}

/* Allocate what it takes to store the run, with its equal neighbours. */
static int prepare_run(struct kvm_mem_attrs_op *op, unsigned long start,
		       unsigned long last)
{
	void *entry = value_to_entry(op->attrs);

	merge_neighbours(op->ma, entry, &start, &last);
	mas_init(&op->mas, &op->ma->mt, start);
	mas_set_range(&op->mas, start, last);
	return mas_preallocate(&op->mas, entry, GFP_KERNEL_ACCOUNT);
}

int kvm_mem_attrs_prepare(struct kvm_mem_attrs *ma, struct kvm_mem_attrs_op *op,
			  unsigned long start, unsigned long last,
			  unsigned long attrs)
{
	unsigned long first_block, last_block;
	int r;

	op->ma = ma;
	op->start = start;
	op->last = last;
	op->attrs = attrs;
	op->head = NULL;
	op->tail = NULL;
	op->new_head = false;
	op->new_tail = false;

	r = prepare_end(op, start, &op->head, &op->new_head);
	if (!r && block_start(start) != block_start(last))
		r = prepare_end(op, last, &op->tail, &op->new_tail);
	if (r)
		goto undo;

	/* What is left in the middle, if anything is, becomes the run. */
	first_block = (start >> KVM_MEM_ATTRS_BLOCK_SHIFT) + !!op->head;
	last_block = (last >> KVM_MEM_ATTRS_BLOCK_SHIFT) - !!op->tail;
	op->has_run = first_block <= last_block;
	if (op->has_run)
		r = prepare_run(op, first_block << KVM_MEM_ATTRS_BLOCK_SHIFT,
				block_last(last_block << KVM_MEM_ATTRS_BLOCK_SHIFT));
	if (!r)
		return 0;
undo:
	drop_new_leaves(op);
	return r;
}

/* The leaves that the run of @op will replace, as a list. */
static struct kvm_mem_attrs_leaf *list_dead_leaves(struct kvm_mem_attrs_op *op)
{
	MA_STATE(mas, &op->ma->mt, op->mas.index, op->mas.index);
	struct kvm_mem_attrs_leaf *leaf, *dead = NULL;
	void *entry;

	mas_for_each(&mas, entry, op->mas.last) {
		leaf = entry_to_leaf(entry);
		if (!leaf)
			continue;
		leaf->next_dead = dead;
		dead = leaf;
		cond_resched();
	}

	return dead;
}

static void store_run(struct kvm_mem_attrs_op *op)
{
	struct kvm_mem_attrs_leaf *leaf, *dead = list_dead_leaves(op);

	mas_store_prealloc(&op->mas, value_to_entry(op->attrs));

	/* No reader finds them any more; those that did may still read bits. */
	while ((leaf = dead)) {
		dead = leaf->next_dead;
		op->ma->nr_leaves--;
		kfree_rcu(leaf, rcu);
		cond_resched();
	}
}

void kvm_mem_attrs_commit(struct kvm_mem_attrs_op *op)
{
	if (op->head)
		leaf_set(op->head, op->start,
			 min(op->last, block_last(op->start)), op->attrs);
	if (op->has_run)
		store_run(op);
	if (op->tail)
		leaf_set(op->tail, block_start(op->last), op->last, op->attrs);
}

void kvm_mem_attrs_abort(struct kvm_mem_attrs_op *op)
{
	if (op->has_run)
		mas_destroy(&op->mas);
	drop_new_leaves(op);
}

void kvm_mem_attrs_usage(struct kvm_mem_attrs *ma,
			 struct kvm_mem_attrs_usage *usage)
{
	MA_STATE(mas, &ma->mt, 0, 0);
	struct maple_enode *node = NULL;
	void *entry;

	*usage = (struct kvm_mem_attrs_usage) {
		.leaves = ma->nr_leaves,
		.bytes = ma->nr_leaves *
			 kmalloc_size_roundup(sizeof(struct kvm_mem_attrs_leaf)),
	};

	mas_for_each(&mas, entry, ULONG_MAX) {
		if (xa_is_value(entry))
			usage->runs++;
		if (mas.node != node) {
			node = mas.node;
			usage->bytes += sizeof(struct maple_node);
		}
		cond_resched();
	}
}
