// SPDX-License-Identifier: GPL-2.0-only
/* The kernel's xarray in userspace.  Its nodes come from slab.c. */
#include "shared.h"
#include <linux/bug.h>
#include <linux/slab.h>
#include "../../../lib/xarray.c"

struct kmem_cache *radix_tree_node_cachep;

void radix_tree_node_rcu_free(struct rcu_head *head)
{
	kmem_cache_free(radix_tree_node_cachep,
			container_of(head, struct xa_node, rcu_head));
}

static void init_node(void *p)
{
	struct xa_node *node = p;

	memset(node, 0, sizeof(*node));
	INIT_LIST_HEAD(&node->private_list);
}

void xarray_init(void)
{
	radix_tree_node_cachep = kmem_cache_create("xa_node", sizeof(struct xa_node),
						   0, 0, init_node);
}
