/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The store of a VM's memory attributes: what each gfn is (private or shared),
 * and which large pages that rules out.  virt/kvm/mem_attrs.c opens with its
 * structure, invariants and locking.
 */
#ifndef __KVM_MEM_ATTRS_H
#define __KVM_MEM_ATTRS_H

#include <linux/bits.h>
#include <linux/maple_tree.h>
#include <linux/types.h>

/* Pages of a block, the smallest large page: 2 MiB on x86. */
#ifndef KVM_MEM_ATTRS_BLOCK_SHIFT
#define KVM_MEM_ATTRS_BLOCK_SHIFT	(PMD_SHIFT - PAGE_SHIFT)
#endif
#define KVM_MEM_ATTRS_BLOCK		BIT(KVM_MEM_ATTRS_BLOCK_SHIFT)

/*
 * The attributes a page can have, as bits of KVM_SET_MEMORY_ATTRIBUTES: a
 * contiguous field, one bitmap of a leaf for each.  Today it is PRIVATE alone.
 */
#ifndef KVM_MEM_ATTRS_SHIFT
#define KVM_MEM_ATTRS_SHIFT		3
#define KVM_MEM_ATTRS_NR		1
#endif
#define KVM_MEM_ATTRS_MASK	\
	GENMASK(KVM_MEM_ATTRS_SHIFT + KVM_MEM_ATTRS_NR - 1, KVM_MEM_ATTRS_SHIFT)

struct kvm_mem_attrs_leaf;

/**
 * struct kvm_mem_attrs - the memory attributes of a VM
 * @mt: runs of gfns, with an external lock: the writers'
 * @nr_leaves: blocks with more than one value, under the writers' lock
 *
 * Writers exclude each other with the lock that was given to
 * mt_set_external_lock() (slots_lock in KVM).  Readers hold rcu_read_lock(),
 * which the functions below take where they need it, or the writers' lock.
 */
struct kvm_mem_attrs {
	struct maple_tree mt;
	unsigned long nr_leaves;
};

/**
 * struct kvm_mem_attrs_op - a change that has its memory, and can't fail
 * @ma: the store it changes
 * @mas: where the run goes, with the tree nodes that takes
 * @start: first gfn of the change
 * @last: last gfn of the change, inclusive
 * @attrs: what the gfns get
 * @head: leaf of the block that holds @start, if that block ends up mixed
 * @tail: leaf of the block that holds @last, if that is another one, and mixed
 * @new_head: @head was made for this change
 * @new_tail: @tail was made for this change
 * @has_run: some blocks end up uniform
 */
struct kvm_mem_attrs_op {
	struct kvm_mem_attrs *ma;
	struct ma_state mas;
	unsigned long start;
	unsigned long last;
	unsigned long attrs;
	struct kvm_mem_attrs_leaf *head;
	struct kvm_mem_attrs_leaf *tail;
	bool new_head;
	bool new_tail;
	bool has_run;
};

/**
 * struct kvm_mem_attrs_usage - what a store holds
 * @runs: maximal runs of uniform blocks with at least one attribute
 * @leaves: blocks with more than one value
 * @bytes: memory of the leaves and of the tree's bottom nodes; the nodes above
 *	   those, a fraction of them, are not counted
 */
struct kvm_mem_attrs_usage {
	unsigned long runs;
	unsigned long leaves;
	unsigned long bytes;
};

/**
 * kvm_mem_attrs_init() - Make an empty store: no gfn has any attribute.
 * @ma: the store
 *
 * The caller names the writers' lock with mt_set_external_lock(&ma->mt, lock).
 */
void kvm_mem_attrs_init(struct kvm_mem_attrs *ma);

/**
 * kvm_mem_attrs_destroy() - Free all that the store holds.
 * @ma: the store, which has no readers any more
 *
 * Context: the writers' lock is held.  May sleep.
 */
void kvm_mem_attrs_destroy(struct kvm_mem_attrs *ma);

/**
 * kvm_mem_attrs_lookup() - Get the attributes of one gfn, and of its block.
 * @ma: the store
 * @gfn: any gfn
 * @mixed: returns whether the block of @gfn has more than one value, so that
 *	   no large page is possible
 *
 * Context: any in which rcu_read_lock() is allowed.
 * Return: the attributes of @gfn, 0 for a gfn that never had any.
 */
unsigned long kvm_mem_attrs_lookup(struct kvm_mem_attrs *ma, unsigned long gfn,
				   bool *mixed);

/**
 * kvm_mem_attrs_get() - Get the attributes of one gfn.
 * @ma: the store
 * @gfn: any gfn
 *
 * Context: any in which rcu_read_lock() is allowed.
 * Return: the attributes, 0 for a gfn that never had any.
 */
static inline unsigned long kvm_mem_attrs_get(struct kvm_mem_attrs *ma,
					      unsigned long gfn)
{
	bool mixed;

	return kvm_mem_attrs_lookup(ma, gfn, &mixed);
}

/**
 * kvm_mem_attrs_extent() - Find how far a large page around a gfn may reach.
 * @ma: the store
 * @gfn: any gfn
 * @start: returns the first gfn of the extent
 * @last: returns the last gfn of the extent, inclusive
 *
 * All gfns of the extent have the attributes of @gfn.  It is the maximal run of
 * blocks around @gfn, or, in a block with more than one value, where no large
 * page is possible, @gfn alone.
 *
 * Context: any in which rcu_read_lock() is allowed.
 */
void kvm_mem_attrs_extent(struct kvm_mem_attrs *ma, unsigned long gfn,
			  unsigned long *start, unsigned long *last);

/**
 * kvm_mem_attrs_run() - Find a run that starts at a gfn.
 * @ma: the store
 * @start: first gfn of the run
 * @last: where to stop looking, inclusive, at least @start
 * @attrs: returns the attributes of @start
 *
 * Context: any in which rcu_read_lock() is allowed.  With the writers' lock
 * the answer is a snapshot, and the longest run there is.  Without it the run
 * may end early, and gfns that are being changed may be as before or as after.
 * Return: the last gfn, at most @last, up to which all gfns have @attrs.
 */
unsigned long kvm_mem_attrs_run(struct kvm_mem_attrs *ma, unsigned long start,
				unsigned long last, unsigned long *attrs);

/**
 * kvm_mem_attrs_uniform() - Check that a whole range has some attributes.
 * @ma: the store
 * @start: first gfn of the range
 * @last: last gfn of the range, inclusive
 * @mask: the attributes to look at
 * @attrs: what they shall be
 *
 * Context: the writers' lock is held.
 * Return: true if (attributes & @mask) == @attrs for every gfn of the range.
 */
bool kvm_mem_attrs_uniform(struct kvm_mem_attrs *ma, unsigned long start,
			   unsigned long last, unsigned long mask,
			   unsigned long attrs);

/**
 * kvm_mem_attrs_prepare() - Allocate all that a change of a range needs.
 * @ma: the store
 * @op: the change; to be ended by commit() or abort(), with no other change of
 *	@ma in between
 * @start: first gfn of the range
 * @last: last gfn of the range, inclusive
 * @attrs: the attributes that the gfns get, in %KVM_MEM_ATTRS_MASK
 *
 * The attributes are the same before and after.
 *
 * Context: the writers' lock is held.  May sleep.
 * Return: 0, or -ENOMEM, after which @op is to be dropped.
 */
int kvm_mem_attrs_prepare(struct kvm_mem_attrs *ma, struct kvm_mem_attrs_op *op,
			  unsigned long start, unsigned long last,
			  unsigned long attrs);

/**
 * kvm_mem_attrs_commit() - Make a prepared change.
 * @op: the change
 *
 * Context: the writers' lock is held.  May sleep, doesn't fail.
 */
void kvm_mem_attrs_commit(struct kvm_mem_attrs_op *op);

/**
 * kvm_mem_attrs_abort() - Give a prepared change up.
 * @op: the change
 *
 * Context: the writers' lock is held.  May sleep, doesn't fail.
 */
void kvm_mem_attrs_abort(struct kvm_mem_attrs_op *op);

/**
 * kvm_mem_attrs_usage() - Count what the store holds.
 * @ma: the store
 * @usage: returns the counts
 *
 * Context: the writers' lock is held.  May sleep; the time is that of a walk
 * of the whole tree.
 */
void kvm_mem_attrs_usage(struct kvm_mem_attrs *ma,
			 struct kvm_mem_attrs_usage *usage);

#endif /* __KVM_MEM_ATTRS_H */
