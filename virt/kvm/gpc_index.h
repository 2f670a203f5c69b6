/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_GPC_INDEX_H
#define __KVM_GPC_INDEX_H

/*
 * The index of a VM's gfn-to-pfn caches by the host virtual address of their pages.
 * The MMU notifier uses it to find the caches in a range, so that it doesn't look
 * at any other.
 *
 * Each cache has one page, and many caches may have the same page.
 */

#include <linux/interval_tree.h>
#include <linux/kvm_types.h>
#include <linux/lockdep.h>
#include <linux/mm.h>
#include <linux/spinlock.h>

static inline void gpc_index_init(struct gpc_index *index)
{
	spin_lock_init(&index->lock);
	index->pages = RB_ROOT_CACHED;
}

/* Initialize a node that is in no index. */
static inline void gpc_index_init_node(struct interval_tree_node *node)
{
	RB_CLEAR_NODE(&node->rb);
}

/**
 * gpc_index_remove() - Remove a node from the index, if it is in there
 * @index: the index; the caller holds its lock
 * @node: the node
 */
static inline void gpc_index_remove(struct gpc_index *index,
				    struct interval_tree_node *node)
{
	lockdep_assert_held(&index->lock);

	if (RB_EMPTY_NODE(&node->rb))
		return;

	interval_tree_remove(node, &index->pages);
	RB_CLEAR_NODE(&node->rb);
}

/* Is the node in an index, with the page of @uhva? */
static inline bool gpc_index_has(struct interval_tree_node *node, unsigned long uhva)
{
	return !RB_EMPTY_NODE(&node->rb) && node->start == (uhva & PAGE_MASK);
}

/**
 * gpc_index_set() - Add a node to the index, or give it another page
 * @index: the index; the caller holds its lock
 * @node: the node
 * @uhva: an address in the page
 */
static inline void gpc_index_set(struct gpc_index *index,
				 struct interval_tree_node *node,
				 unsigned long uhva)
{
	gpc_index_remove(index, node);
	node->start = uhva & PAGE_MASK;
	node->last = uhva | ~PAGE_MASK;
	interval_tree_insert(node, &index->pages);
}

/**
 * gpc_index_first() - Find the first node whose page is in a range
 * @index: the index; the caller holds its lock
 * @start: the first address of the range
 * @last: the last address of the range, inclusive
 *
 * Return: the node, or NULL.  interval_tree_iter_next() finds the next one.
 */
static inline struct interval_tree_node *
gpc_index_first(struct gpc_index *index, unsigned long start, unsigned long last)
{
	lockdep_assert_held(&index->lock);
	return interval_tree_iter_first(&index->pages, start, last);
}

#endif /* __KVM_GPC_INDEX_H */
