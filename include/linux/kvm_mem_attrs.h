/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The store of a VM's memory attributes.  It knows which attributes each gfn
 * has, i.e. whether the gfn is private or shared, and where gfns with different
 * attributes rule out a large page.  The comment at the top of
 * virt/kvm/mem_attrs.c describes the structure, its invariants and its locking.
 */
#ifndef __KVM_MEM_ATTRS_H
#define __KVM_MEM_ATTRS_H

#include <linux/bits.h>
#include <linux/maple_tree.h>
#include <linux/types.h>

/* Number of pages in a block, the smallest large page: 2 MiB on x86. */
#ifndef KVM_MEM_ATTRS_BLOCK_SHIFT
#define KVM_MEM_ATTRS_BLOCK_SHIFT	(PMD_SHIFT - PAGE_SHIFT)
#endif
#define KVM_MEM_ATTRS_BLOCK		BIT(KVM_MEM_ATTRS_BLOCK_SHIFT)

/*
 * The attributes that a page can have, as bits of KVM_SET_MEMORY_ATTRIBUTES.
 * They are a contiguous field, and a leaf has one bitmap for each of them.
 * PRIVATE is the only attribute today.
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
 * @mt: runs of gfns; the tree's external lock is the writers' lock
 * @nr_leaves: number of blocks with more than one value, protected by the
 *	       writers' lock
 * @generation: number of committed changes, protected by the writers' lock
 *
 * Writers exclude each other with the lock that the caller passed to
 * mt_set_external_lock() (slots_lock in KVM).  Readers hold either
 * rcu_read_lock() or the writers' lock.  The functions below take
 * rcu_read_lock() themselves where they need it.
 */
struct kvm_mem_attrs {
	struct maple_tree mt;
	unsigned long nr_leaves;
	u64 generation;
};

/**
 * struct kvm_mem_attrs_op - a prepared change, which can't fail
 * @ma: the store to change
 * @mas: position of the run, with the tree nodes needed to store it
 * @start: first gfn of the change
 * @last: last gfn of the change, inclusive
 * @attrs: the attributes that the gfns get
 * @head: leaf of the block that holds @start, if the change leaves that block
 *	  mixed, or else NULL
 * @tail: leaf of the block that holds @last, if that is a different block and
 *	  the change leaves it mixed, or else NULL
 * @new_head: true if prepare allocated @head
 * @new_tail: true if prepare allocated @tail
 * @has_run: true if the change leaves at least one block uniform
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
 * struct kvm_mem_attrs_usage - the contents of a store, in numbers
 * @runs: number of maximal runs of uniform blocks with at least one attribute
 * @leaves: number of blocks with more than one value
 * @bytes: memory of the leaves and of the bottom nodes of the tree; the nodes
 *	   above them take a fraction of that and are not counted
 */
struct kvm_mem_attrs_usage {
	unsigned long runs;
	unsigned long leaves;
	unsigned long bytes;
};

/**
 * kvm_mem_attrs_init() - Make an empty store: no gfn has attributes.
 * @ma: the store
 *
 * The caller names the writers' lock with mt_set_external_lock(&ma->mt, lock).
 */
void kvm_mem_attrs_init(struct kvm_mem_attrs *ma);

/**
 * kvm_mem_attrs_destroy() - Free everything that the store holds.
 * @ma: the store, which must have no readers left
 *
 * Context: the caller holds the writers' lock.  May sleep.
 */
void kvm_mem_attrs_destroy(struct kvm_mem_attrs *ma);

/**
 * kvm_mem_attrs_lookup() - Get the attributes of one gfn, and check its block.
 * @ma: the store
 * @gfn: any gfn
 * @mixed: returns true if the block of @gfn has more than one value, which
 *	   rules out a large page
 *
 * Context: any context in which rcu_read_lock() is allowed.
 * Return: the attributes of @gfn, or 0 if @gfn never had any.
 */
unsigned long kvm_mem_attrs_lookup(struct kvm_mem_attrs *ma, unsigned long gfn,
				   bool *mixed);

/**
 * kvm_mem_attrs_get() - Get the attributes of one gfn.
 * @ma: the store
 * @gfn: any gfn
 *
 * Context: any context in which rcu_read_lock() is allowed.
 * Return: the attributes of @gfn, or 0 if @gfn never had any.
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
 * All gfns of the extent have the attributes of @gfn.  If the block of @gfn has
 * one value, the extent is the maximal run of blocks around @gfn.  If the block
 * has more than one value, no large page is possible and the extent is @gfn
 * alone.
 *
 * Without the writers' lock, a gfn that a writer is changing counts with either
 * its old or its new attributes, and the extent may be smaller.  Don't combine
 * the extent with attributes from another call: a writer may have merged @gfn
 * with its neighbours between the two.
 *
 * Context: any context in which rcu_read_lock() is allowed.
 * Return: the attributes of @gfn.
 */
unsigned long kvm_mem_attrs_extent(struct kvm_mem_attrs *ma, unsigned long gfn,
				   unsigned long *start, unsigned long *last);

/**
 * kvm_mem_attrs_run() - Find the run that starts at a gfn.
 * @ma: the store
 * @start: first gfn of the run
 * @last: last gfn to look at, inclusive, at least @start
 * @attrs: returns the attributes of @start
 *
 * If the caller holds the writers' lock, the result is a snapshot and the
 * longest possible run.  Without that lock the run may end early, and a gfn
 * that a writer is changing counts with either its old or its new attributes.
 *
 * Context: any context in which rcu_read_lock() is allowed.
 * Return: the last gfn, at most @last, up to which all gfns have @attrs.
 */
unsigned long kvm_mem_attrs_run(struct kvm_mem_attrs *ma, unsigned long start,
				unsigned long last, unsigned long *attrs);

/**
 * kvm_mem_attrs_skip() - Find the end of a part of the store of limited size.
 * @ma: the store
 * @start: first gfn of the part
 * @last: last gfn that the part may have, inclusive, at least @start
 * @nr: the number of runs and mixed blocks that the part may have, at least 1
 *
 * A change of the part takes time in proportion to @nr, not to its gfns.
 *
 * Context: the caller holds the writers' lock.
 * Return: the last gfn of the part, the end of a block or @last.
 */
unsigned long kvm_mem_attrs_skip(struct kvm_mem_attrs *ma, unsigned long start,
				 unsigned long last, unsigned long nr);

/**
 * kvm_mem_attrs_uniform() - Check that a whole range has certain attributes.
 * @ma: the store
 * @start: first gfn of the range
 * @last: last gfn of the range, inclusive
 * @mask: the attributes to check
 * @attrs: the expected value of these attributes
 *
 * Context: the caller holds the writers' lock.
 * Return: true if (attributes & @mask) == @attrs for every gfn of the range.
 */
bool kvm_mem_attrs_uniform(struct kvm_mem_attrs *ma, unsigned long start,
			   unsigned long last, unsigned long mask,
			   unsigned long attrs);

/**
 * kvm_mem_attrs_prepare() - Allocate everything that a change of a range needs.
 * @ma: the store
 * @op: the change; the caller must finish it with kvm_mem_attrs_commit() or
 *	kvm_mem_attrs_abort() before it prepares another change of @ma
 * @start: first gfn of the range
 * @last: last gfn of the range, inclusive
 * @attrs: the attributes that the gfns get, within %KVM_MEM_ATTRS_MASK
 * @gfp: how to allocate.  With %__GFP_NOFAIL the function can't fail.
 *
 * The attributes of all gfns stay the same.
 *
 * Context: the caller holds the writers' lock.  May sleep if @gfp allows it.
 * Return: 0, or -ENOMEM, in which case the caller must abort the change.
 */
int kvm_mem_attrs_prepare(struct kvm_mem_attrs *ma, struct kvm_mem_attrs_op *op,
			  unsigned long start, unsigned long last,
			  unsigned long attrs, gfp_t gfp);

/**
 * kvm_mem_attrs_commit() - Make a prepared change.
 * @op: the change
 *
 * Context: the caller holds the writers' lock.  May sleep.  Can't fail.
 */
void kvm_mem_attrs_commit(struct kvm_mem_attrs_op *op);

/**
 * kvm_mem_attrs_abort() - Drop a change that isn't committed.
 * @op: the change, prepared or only in part
 *
 * Context: the caller holds the writers' lock.  May sleep.  Can't fail.
 */
void kvm_mem_attrs_abort(struct kvm_mem_attrs_op *op);

/**
 * kvm_mem_attrs_usage() - Count the contents of the store.
 * @ma: the store
 * @usage: returns the counts
 *
 * Walks the whole tree.
 *
 * Context: the caller holds the writers' lock.  May sleep.
 */
void kvm_mem_attrs_usage(struct kvm_mem_attrs *ma,
			 struct kvm_mem_attrs_usage *usage);

#endif /* __KVM_MEM_ATTRS_H */
