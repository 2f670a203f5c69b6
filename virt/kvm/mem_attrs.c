// SPDX-License-Identifier: GPL-2.0-only
/*
 * The store of a VM's memory attributes
 *
 * KVM tracks a few attributes for each gfn (today: private or shared).  Before
 * KVM maps a large page, it must also know that all gfns of the page have the
 * same attributes.  One structure provides both, so there is no second copy to
 * keep in sync.
 *
 * Structure
 * ---------
 * The store divides guest-physical memory into aligned blocks.  A block has the
 * size of the smallest large page: 2 MiB with 4 KiB pages.  A maple tree,
 * indexed by gfn, maps every gfn to one of:
 *
 *   a value   The gfn is in a run of whole blocks, and all gfns of the run have
 *             these attributes.  A gfn without an entry is in a run of blocks
 *             without attributes.
 *   a leaf    The gfn is in a block whose gfns have different attributes.  The
 *             leaf covers this one block and has a bitmap for each attribute.
 *
 *    gfn 0x000     0x200     0x400              0x1000
 *        |  leaf   |  leaf   |  PRIVATE         |  (nothing) ...
 *        +---------+---------+------------------+-----------
 *         pp.pp....  ......pp
 *
 * Two invariants always hold, except between prepare and the commit or abort
 * that follows it:
 *
 *   - A run begins and ends at a block boundary, and neighbouring runs differ.
 *   - A leaf covers exactly one block and holds at least two values.
 *
 * So KVM can map a large page of one block exactly where the entry isn't a
 * leaf, and a larger page where a single run covers it.  The store has at most
 * one leaf and one entry for each block, no matter how the guest fragments the
 * block.  The structure depends only on the attributes, not on the changes that
 * led to them.
 *
 * Changing a range
 * ----------------
 * The blocks in the middle of the range become one run, which merges with equal
 * neighbours.  If the range covers only part of its first or last block, there
 * are two cases.  Either the block will be mixed, and the change updates its
 * leaf.  Or the block will be uniform, and it joins the run.  So a change needs
 * at most two leaves, new or existing, and one run.  KVM allocates all memory
 * before it changes anything:
 *
 *   prepare   Creates a leaf for each end block that is uniform now and will be
 *             mixed, fills the leaf with the current values, and allocates
 *             nodes for the run.
 *   commit    Writes bits and stores the run.  Can't fail.
 *   abort     Folds the leaves that prepare created.  Can't fail.
 *
 * Until the commit, a new leaf holds only one value, which breaks an invariant.
 * Until the commit or abort, a reader still sees the old attributes of every
 * gfn but considers the block mixed, which only costs it a large page.
 *
 * Concurrency
 * -----------
 * Writers hold a lock that the caller provides.  Readers hold rcu_read_lock():
 * a writer frees unlinked tree nodes and leaves only after a grace period, and
 * changes a linked leaf one word at a time.  A reader that runs concurrently
 * with a commit sees each gfn either before or after the change, and the gfns
 * change in no particular order.  Two rules follow for a block that the change
 * covers only in part:
 *
 *   - If the block was uniform, a reader may find it uniform or mixed.
 *   - If the block was mixed and a reader finds it uniform, the reader sees the
 *     block's final state.  The change sets all of its gfns to one value.
 *     Until the last of these gfns has changed, the block holds two values,
 *     unless all gfns had the same value before.
 *
 * The second rule holds only if each change affects a single attribute,
 * and KVM_MEM_ATTRS_NR is 1 today.  KVM relies on this rule when it invalidates
 * large pages (mem_attrs_vm.c).
 *
 * Overflow
 * --------
 * Functions take the first and the last gfn of a range, inclusive, so that a
 * range can end at the highest possible gfn.  block_last() uses OR instead of
 * an addition.
 *
 * Glossary
 * --------
 *   block  aligned group of KVM_MEM_ATTRS_BLOCK gfns
 *   run    adjacent gfns with the same attributes
 *   mixed  having gfns with different attributes
 *   fold   replace a leaf whose gfns are all equal with part of a run
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

/*
 * Write the bits of [@start, @last].  Write each word only once, because
 * readers may look at it at the same time.
 */
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

/* Return the last gfn of the run that starts at @start, within its block. */
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

	/* A writer may have changed the first bit since the caller read it. */
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
	 * The store doesn't need the gaps that ALLOC_RANGE tracks.  However, without
	 * this flag an inner node that isn't full keeps metadata in its last
	 * slot, and mt_destroy_walk(), in RCU mode, mistakes the last child of a
	 * full inner node for such metadata.
	 */
	mt_init_flags(&ma->mt, MT_FLAGS_ALLOC_RANGE | MT_FLAGS_USE_RCU |
			       MT_FLAGS_LOCK_EXTERN);
	ma->nr_leaves = 0;
	ma->generation = 0;
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

	/* Most VMs have no attributes at all.  mtree_empty() reads this unmarked. */
	if (!READ_ONCE(ma->mt.ma_root))
		return 0;

	/*
	 * mtree_load() takes rcu_read_lock() itself.  Only a reader that looks
	 * into a leaf must hold it longer, and lookup_in_leaf() does that.
	 */
	entry = mtree_load(&ma->mt, gfn);
	if (entry_to_leaf(entry))
		return lookup_in_leaf(ma, gfn, mixed);

	return entry_to_value(entry);
}
EXPORT_SYMBOL_GPL(kvm_mem_attrs_lookup);

unsigned long kvm_mem_attrs_extent(struct kvm_mem_attrs *ma, unsigned long gfn,
				   unsigned long *start, unsigned long *last)
{
	MA_STATE(mas, &ma->mt, gfn, gfn);
	struct kvm_mem_attrs_leaf *leaf;
	unsigned long attrs;
	void *entry;

	rcu_read_lock();
	entry = mas_walk(&mas);
	leaf = entry_to_leaf(entry);
	if (leaf) {
		attrs = leaf_get(leaf, gfn);
		*start = gfn;
		*last = gfn;
	} else {
		attrs = entry_to_value(entry);
		/* While a writer changes the entry, its bounds may look moved. */
		*start = min(mas.index, gfn);
		*last = max(mas.last, gfn);
	}
	rcu_read_unlock();

	return attrs;
}

unsigned long kvm_mem_attrs_run(struct kvm_mem_attrs *ma, unsigned long start,
				unsigned long last, unsigned long *attrs)
{
	MA_STATE(mas, &ma->mt, start, start);
	struct kvm_mem_attrs_leaf *leaf;
	unsigned long gfn = start;
	unsigned long val, entry_last;
	void *entry;

	rcu_read_lock();
	for (;;) {
		/*
		 * Walk from the root each time: while a writer changes the
		 * tree, mas_next_range() may skip entries, or may find no node
		 * in a tree that had some.
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

		/* A writer that changes the entry may have moved mas.last. */
		entry_last = max(mas.last, gfn);
		gfn = leaf ? leaf_run(leaf, gfn, val) : entry_last;
		if (gfn >= last || gfn != entry_last)
			break;
		gfn++;
	}
	rcu_read_unlock();

	return min(gfn, last);
}

unsigned long kvm_mem_attrs_skip(struct kvm_mem_attrs *ma, unsigned long start,
				 unsigned long last, unsigned long nr)
{
	MA_STATE(mas, &ma->mt, start, start);

	for (mas_walk(&mas); --nr && mas.last < last; mas_next_range(&mas, last))
		;

	return min(mas.last, last);
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

/* Extend [@start, @last] over neighbouring runs with the same value. */
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
 * Create a leaf for the block of @gfn, whose gfns all have the value of @entry.
 * The attributes of all gfns stay the same.  Return NULL if out of memory.
 */
static struct kvm_mem_attrs_leaf *leaf_make(struct kvm_mem_attrs *ma,
					    unsigned long gfn, void *entry,
					    gfp_t gfp)
{
	MA_STATE(mas, &ma->mt, block_start(gfn), block_last(gfn));
	struct kvm_mem_attrs_leaf *leaf;

	leaf = kzalloc(sizeof(*leaf), gfp);
	if (!leaf)
		return NULL;

	leaf_set(leaf, block_start(gfn), block_last(gfn), entry_to_value(entry));
	/* mas_store_gfp() would first try without charging the memory. */
	if (mas_preallocate(&mas, leaf, gfp)) {
		kfree(leaf);
		return NULL;
	}
	mas_store_prealloc(&mas, leaf);

	ma->nr_leaves++;
	return leaf;
}

/* Undo leaf_make() for the block of @gfn.  All gfns of @leaf are equal. */
static void leaf_fold(struct kvm_mem_attrs *ma, unsigned long gfn,
		      struct kvm_mem_attrs_leaf *leaf)
{
	MA_STATE(mas, &ma->mt, 0, 0);
	unsigned long start = block_start(gfn), last = block_last(gfn);
	void *entry = value_to_entry(leaf_get(leaf, gfn));

	merge_neighbours(ma, entry, &start, &last);
	mas_set_range(&mas, start, last);
	/*
	 * The tree was this small before.  Folding a leaf frees memory, so it
	 * must not fail for lack of memory.
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
 * Return true if the block of @gfn, at one end of the change, will be mixed
 * after the change, i.e. if a gfn of the block that the change doesn't cover
 * has other attributes.  @entry is the block's current entry.
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
 * Prepare the block of @gfn, at one end of the change.  If the block will be
 * mixed, set @leaf to its current leaf or to a new one.
 */
static int prepare_end(struct kvm_mem_attrs_op *op, unsigned long gfn,
		       struct kvm_mem_attrs_leaf **leaf, bool *new, gfp_t gfp)
{
	void *entry = mtree_load(&op->ma->mt, gfn);

	if (!will_be_mixed(op, gfn, entry))
		return 0;

	*leaf = entry_to_leaf(entry);
	if (*leaf)
		return 0;

	*leaf = leaf_make(op->ma, gfn, entry, gfp);
	*new = *leaf;
	return *leaf ? 0 : -ENOMEM;
}

/* Allocate the nodes to store the run, merged with its equal neighbours. */
static int prepare_run(struct kvm_mem_attrs_op *op, unsigned long start,
		       unsigned long last, gfp_t gfp)
{
	void *entry = value_to_entry(op->attrs);

	merge_neighbours(op->ma, entry, &start, &last);
	mas_init(&op->mas, &op->ma->mt, start);
	mas_set_range(&op->mas, start, last);
	return mas_preallocate(&op->mas, entry, gfp);
}

int kvm_mem_attrs_prepare(struct kvm_mem_attrs *ma, struct kvm_mem_attrs_op *op,
			  unsigned long start, unsigned long last,
			  unsigned long attrs, gfp_t gfp)
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
	op->has_run = false;

	r = prepare_end(op, start, &op->head, &op->new_head, gfp);
	if (!r && block_start(start) != block_start(last))
		r = prepare_end(op, last, &op->tail, &op->new_tail, gfp);
	if (r)
		return r;

	/* The blocks between the mixed ends, if any, become the run. */
	first_block = (start >> KVM_MEM_ATTRS_BLOCK_SHIFT) + !!op->head;
	last_block = (last >> KVM_MEM_ATTRS_BLOCK_SHIFT) - !!op->tail;
	if (first_block > last_block)
		return 0;

	r = prepare_run(op, first_block << KVM_MEM_ATTRS_BLOCK_SHIFT,
			block_last(last_block << KVM_MEM_ATTRS_BLOCK_SHIFT), gfp);
	op->has_run = !r;
	return r;
}

/* Return a list of the leaves that the run of @op will replace. */
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

	/*
	 * No new reader can find these leaves.  A reader that found one earlier
	 * may still read its bits.
	 */
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
	op->ma->generation++;
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
