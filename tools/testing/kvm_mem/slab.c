// SPDX-License-Identifier: GPL-2.0-only
/*
 * The kernel's allocators in userspace.  They get each object from the C library,
 * so that the address sanitizer watches it, and they fail on demand.
 */
#include <stdlib.h>
#include <string.h>
#include <linux/kernel.h>
#include <linux/slab.h>

struct kmem_cache {
	unsigned int size;
	unsigned int align;
	void (*ctor)(void *p);
};

struct deferred {
	struct rcu_head rcu;
	void *p;
};

long slab_fail_after = -1;
bool slab_fail_once;
long slab_failures;
static long live;

/* The code in tools/testing/shared needs these. */
int nr_allocated;
int preempt_count;
int test_verbose;
int kmalloc_verbose;

long slab_live(void)
{
	return uatomic_read(&live);
}

static bool shall_fail(gfp_t gfp)
{
	if (gfp & __GFP_NOFAIL || slab_fail_after < 0)
		return false;
	if (slab_fail_after > 0) {
		slab_fail_after--;
		return false;
	}
	if (slab_fail_once)
		slab_fail_after = -1;
	slab_failures++;
	return true;
}

static void *alloc(size_t size, size_t align, gfp_t gfp)
{
	void *p;

	if (shall_fail(gfp))
		return NULL;
	if (posix_memalign(&p, align > sizeof(p) ? align : sizeof(p), size))
		abort();
	memset(p, gfp & __GFP_ZERO ? 0 : 0xa5, size);
	uatomic_inc(&live);
	return p;
}

void *kmalloc(size_t size, gfp_t gfp)
{
	return alloc(size, 0, gfp);
}

void kfree(void *p)
{
	if (p)
		uatomic_dec(&live);
	free(p);
}

static void free_deferred(struct rcu_head *rcu)
{
	struct deferred *d = caa_container_of(rcu, struct deferred, rcu);

	kfree(d->p);
	free(d);
}

void slab_kfree_rcu(void *p)
{
	struct deferred *d = malloc(sizeof(*d));

	d->p = p;
	call_rcu(&d->rcu, free_deferred);
}

struct kmem_cache *kmem_cache_create(const char *name, unsigned int size,
				     unsigned int align, unsigned int flags,
				     void (*ctor)(void *p))
{
	struct kmem_cache *cache = malloc(sizeof(*cache));

	*cache = (struct kmem_cache) { size, align, ctor };
	return cache;
}

void *kmem_cache_alloc_lru(struct kmem_cache *cache, struct list_lru *lru,
			   int gfp)
{
	void *p = alloc(cache->size, cache->align, gfp);

	if (p && cache->ctor)
		cache->ctor(p);
	return p;
}

int kmem_cache_alloc_bulk(struct kmem_cache *cache, gfp_t gfp, size_t size,
			  void **list)
{
	size_t i;

	for (i = 0; i < size; i++) {
		list[i] = kmem_cache_alloc(cache, gfp);
		if (!list[i]) {
			kmem_cache_free_bulk(cache, i, list);
			return 0;
		}
	}
	return size;
}

void kmem_cache_free(struct kmem_cache *cache, void *p)
{
	kfree(p);
}

void kmem_cache_free_bulk(struct kmem_cache *cache, size_t size, void **list)
{
	size_t i;

	for (i = 0; i < size; i++)
		kfree(list[i]);
}
