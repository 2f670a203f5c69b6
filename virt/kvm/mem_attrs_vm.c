// SPDX-License-Identifier: GPL-2.0-only
/*
 * Setting the memory attributes of a VM
 *
 * A conversion affects the store (mem_attrs.c), the existing mappings of the
 * old kind of memory, and the faults that are creating new mappings.
 *
 *   conversion, under slots_lock         vCPU fault
 *   ----------------------------         ----------
 *   allocate (prepare)                   F1 read mmu_invalidate_seq
 *   C1 mmu_lock: begin, add, zap         F2 read the store: private or shared?
 *   C2 flush TLBs                           is the gfn's block mixed?
 *   C3 change the store (commit)         F3 get the pfn
 *   C4 mmu_lock: end                     F4 mmu_lock: retry if a conversion
 *                                           includes the gfn, or ended since F1
 *                                        F5   read the store, for a page larger
 *                                             than a block: is it one run?
 *                                             (on arm64, before F3)
 *                                        F6   map
 *
 * Consider a fault on a gfn that C1 adds to the invalidation.  If F4 comes
 * before C1, C1 zaps the mapping that F6 creates.  If F4 comes between C1 and
 * C4, KVM retries the fault.  If F4 comes after C4, there are two cases.
 * Either F1 comes after C4 as well, and F2 sees C3: a barrier stands between C3
 * and C4, another one between F1 and F2.  Or mmu_invalidate_seq has changed
 * since F1, and KVM retries the fault.
 *
 * A fault on another gfn may map a large page over gfns of the conversion.
 * Large pages begin and end at multiples of their size, so such a page contains
 * the first or the last gfn of the conversion.  If all gfns of the page had the
 * same attributes before, C1 adds the whole page, and the argument above holds.
 * If the page was mixed and F4 comes between C1 and C4, there are two cases.
 * Either F2 and F5 found the page mixed.  Or C3 was done with the page, and F2
 * and F5 found its final attributes (mem_attrs.c, "Concurrency").  Then the
 * large page is correct, because C2 has removed the old mappings.
 *
 * While a conversion is between C1 and C4, faults on its gfns retry and MMU
 * notifiers may wait for mmu_lock.  So KVM converts a large range in steps.
 * Each step is a conversion with its own C1 to C4, and does a limited amount of
 * work, no matter how large the range is and how many memslots it meets.
 *
 * A step can convert several ranges that are close together.  Then C1 covers
 * all of them, and C3 changes them one by one.  Between two ranges a large page
 * may become uniform and then mixed again, so C1 adds the whole large pages at
 * the ends, mixed or not.
 */
#include <linux/debugfs.h>
#include <linux/kvm_host.h>
#include <linux/seq_file.h>

#include "kvm_mm.h"
#include "mem_attrs_vm.h"

/*
 * Limits of a step: the number of ranges, the number of runs and leaves that the
 * store has between its first and its last gfn, and, for each address space, how
 * many gfns that may be mapped and how many memslots are there.  A step may be
 * one block longer.  Zapping 16384 SPTEs takes less than a scheduler tick.
 */
#define STEP_RANGES	64
#define STEP_RUNS	4096
#define STEP_GFNS	16384
#define STEP_SLOTS	512

u64 kvm_supported_mem_attributes(struct kvm *kvm)
{
	if (!kvm || kvm_arch_has_private_mem(kvm))
		return KVM_MEMORY_ATTRIBUTE_PRIVATE;

	return 0;
}

bool kvm_range_has_memory_attributes(struct kvm *kvm, gfn_t start, gfn_t end,
				     unsigned long mask, unsigned long attrs)
{
	mask &= kvm_supported_mem_attributes(kvm);
	if (attrs & ~mask)
		return false;

	return kvm_mem_attrs_uniform(&kvm->mem_attrs, start, end - 1, mask, attrs);
}

static bool has_attributes(struct kvm *kvm, const struct kvm_mem_attrs_range *r)
{
	return kvm_range_has_memory_attributes(kvm, r->start, r->end, ~0UL,
					       r->attributes);
}

/*
 * Find the largest page around @gfn that the attributes allow now.  Call this
 * before prepare, which creates leaves for blocks that a fault may already have
 * found uniform.
 */
static void largest_page(struct kvm *kvm, gfn_t gfn, gfn_t *start, gfn_t *end)
{
	static const u8 shift[] = { PUD_SHIFT, PMD_SHIFT, PAGE_SHIFT };
	unsigned long first, last;
	gfn_t nr;
	int i;

	kvm_mem_attrs_extent(&kvm->mem_attrs, gfn, &first, &last);
	for (i = 0; i < ARRAY_SIZE(shift); i++) {
		nr = BIT(shift[i] - PAGE_SHIFT);
		*start = round_down(gfn, nr);
		*end = *start + nr;
		if (first <= *start && *end - 1 <= last)
			return;
	}
}

static bool zap_in_slots(struct kvm *kvm, struct kvm_memslots *slots,
			 const struct kvm_mem_attrs_range *r, bool flush)
{
	struct kvm_gfn_range range = {
		.arg.attributes = r->attributes,
		.may_block = true,
	};
	struct kvm_memslot_iter iter;

	kvm_for_each_memslot_in_gfn_range(&iter, slots, r->start, r->end) {
		range.slot = iter.slot;
		range.start = max(r->start, iter.slot->base_gfn);
		range.end = min(r->end, iter.slot->base_gfn + iter.slot->npages);
		range.flush_pending = flush;
		if (range.start < range.end)
			flush |= kvm_arch_pre_set_memory_attributes(kvm, &range);
	}

	return flush;
}

/*
 * C1 and C2.  When this returns, no vCPU uses a mapping of the old kind of
 * memory in the ranges.  Until invalidate_end(), no vCPU creates a new mapping
 * in [@start, @end), which includes the ranges.
 */
static void invalidate_begin(struct kvm *kvm, const struct kvm_mem_attrs_range *r,
			     unsigned long nr, gfn_t start, gfn_t end)
{
	bool flush = false;
	unsigned long i;
	int as_id;

	lockdep_assert_held(&kvm->slots_lock);

	KVM_MMU_LOCK(kvm);
	kvm_mmu_invalidate_begin(kvm);
	/* Add everything before the first zap, which may drop the lock. */
	kvm_mmu_invalidate_range_add(kvm, start, end);
	for (i = 0; i < nr; i++) {
		/* The caller knows that the first one hasn't. */
		if (i && has_attributes(kvm, &r[i]))
			continue;
		for (as_id = 0; as_id < kvm_arch_nr_memslot_as_ids(kvm); as_id++)
			flush = zap_in_slots(kvm, __kvm_memslots(kvm, as_id),
					     &r[i], flush);
	}
	if (flush)
		kvm_flush_remote_tlbs(kvm);
	KVM_MMU_UNLOCK(kvm);
}

static void invalidate_end(struct kvm *kvm)
{
	KVM_MMU_LOCK(kvm);
	/*
	 * Order C3 before the new mmu_invalidate_seq, since taking mmu_lock does
	 * not.  Pairs with the smp_rmb() between F1 and F2.
	 */
	smp_wmb();
	kvm_mmu_invalidate_end(kvm);
	KVM_MMU_UNLOCK(kvm);
}

/* Nothing before @mapped was mapped a moment ago, so there is little to zap. */
static gfn_t limit_step(struct kvm_memslots *slots, gfn_t start, gfn_t mapped,
			gfn_t end)
{
	gfn_t first, last, left = STEP_GFNS;
	struct kvm_memslot_iter iter;
	int nr_slots = 0;

	kvm_for_each_memslot_in_gfn_range(&iter, slots, start, end) {
		first = max(start, iter.slot->base_gfn);
		last = min(end, iter.slot->base_gfn + iter.slot->npages) - 1;
		if (first > last)
			continue;
		if (nr_slots++ == STEP_SLOTS)
			return first;
		if (last < mapped)
			continue;
		first = max(first, mapped);
		if (last - first >= left)
			return first + left;
		left -= last - first + 1;
	}

	return end;
}

/*
 * Return the gfn after the step that begins at @start and ends at @end or
 * before.  A step ends with a block, so that it leaves no block mixed that the
 * whole conversion doesn't leave mixed.
 */
static gfn_t step_end(struct kvm *kvm, gfn_t start, gfn_t end)
{
	gfn_t limit, mapped;
	int as_id;

	if (end - start <= min3(STEP_GFNS, STEP_SLOTS, STEP_RUNS))
		return end;

	end = kvm_mem_attrs_skip(&kvm->mem_attrs, start, end - 1, STEP_RUNS) + 1;
	limit = end;

	/* Don't look at page tables if the range is small. */
	for (as_id = 0; as_id < kvm_arch_nr_memslot_as_ids(kvm); as_id++)
		limit = limit_step(__kvm_memslots(kvm, as_id), start, start, limit);
	if (limit == end)
		return end;

	limit = end;
	mapped = kvm_arch_skip_unmapped(kvm, start, end);
	for (as_id = 0; as_id < kvm_arch_nr_memslot_as_ids(kvm); as_id++)
		limit = limit_step(__kvm_memslots(kvm, as_id), start, mapped, limit);
	if (limit == end)
		return end;

	limit = max(round_down(limit, KVM_MEM_ATTRS_BLOCK),
		    round_up(start + 1, KVM_MEM_ATTRS_BLOCK));
	return min(limit, end);
}

/*
 * Convert @nr ranges at once.  Return how many are done, at least one, or an
 * error.  The memory for the first range is allocated before KVM zaps anything.
 * What the others need depends on the ranges before them, so it is allocated
 * while faults wait, without sleeping.  If that fails, the step ends early.
 */
static long set_step(struct kvm *kvm, const struct kvm_mem_attrs_range *r,
		     unsigned long nr, gfp_t gfp)
{
	const gfn_t largest = BIT(PUD_SHIFT - PAGE_SHIFT);
	struct kvm_mem_attrs *ma = &kvm->mem_attrs;
	struct kvm_mem_attrs_op op;
	gfn_t start, end, unused;
	unsigned long i;
	int ret;

	if (nr > 1) {
		start = round_down(r[0].start, largest);
		end = round_up(r[nr - 1].end, largest);
	} else {
		largest_page(kvm, r->start, &start, &end);
		if (end < r->end)
			largest_page(kvm, r->end - 1, &unused, &end);
	}

	ret = kvm_mem_attrs_prepare(ma, &op, r->start, r->end - 1,
				    r->attributes, gfp);
	if (ret) {
		kvm_mem_attrs_abort(&op);
		return ret;
	}

	invalidate_begin(kvm, r, nr, start, end);
	kvm_mem_attrs_commit(&op);
	for (i = 1; i < nr; i++) {
		if (has_attributes(kvm, &r[i]))
			continue;
		ret = kvm_mem_attrs_prepare(ma, &op, r[i].start, r[i].end - 1,
					    r[i].attributes,
					    GFP_NOWAIT | __GFP_ACCOUNT);
		if (ret)
			break;
		kvm_mem_attrs_commit(&op);
	}
	invalidate_end(kvm);

	/* This may sleep. */
	if (ret)
		kvm_mem_attrs_abort(&op);

	return i;
}

/* Take a step at the front of the ranges, and remove what it did from them. */
static int next_step(struct kvm *kvm, struct kvm_mem_attrs_range **r,
		     unsigned long *nr, gfp_t gfp)
{
	struct kvm_mem_attrs_range *first = *r, *last;
	unsigned long n = 1;
	gfn_t limit, end;
	long done;

	limit = step_end(kvm, first->start, first[*nr - 1].end);
	while (n < *nr && n < STEP_RANGES && first[n].start < limit)
		n++;

	last = &first[n - 1];
	end = last->end;
	last->end = min(end, limit);
	done = set_step(kvm, first, n, gfp);
	if (done == n && last->end < end) {
		last->start = last->end;
		done--;
	}
	last->end = end;
	if (done < 0)
		return done;

	*r += done;
	*nr -= done;
	return 0;
}

/*
 * If @atomic, only the first step may fail, so that the call sets everything or
 * nothing.  The other steps allocate the leaf for the end of the range and, for
 * a short time, a few tree nodes.  A signal that kills the process stops the
 * call halfway, since nobody sees it.
 */
static int set_ranges(struct kvm *kvm, struct kvm_mem_attrs_range *r,
		      unsigned long nr, bool atomic, gfn_t *next)
{
	gfp_t gfp = GFP_KERNEL_ACCOUNT;
	unsigned long last, attrs;
	int ret = 0;

	lockdep_assert_held(&kvm->slots_lock);

	while (nr) {
		cond_resched();
		last = kvm_mem_attrs_run(&kvm->mem_attrs, r->start, r->end - 1,
					 &attrs);
		if (attrs == r->attributes) {
			r->start = last + 1;
			if (r->start == r->end) {
				r++;
				nr--;
			}
			continue;
		}

		ret = next_step(kvm, &r, &nr, gfp);
		if (ret)
			break;
		if (atomic)
			gfp |= __GFP_NOFAIL;

		if (nr && (atomic ? fatal_signal_pending(current) :
				    signal_pending(current))) {
			ret = -EINTR;
			break;
		}
	}

	if (nr)
		*next = r->start;
	return ret;
}

int kvm_vm_set_mem_attributes(struct kvm *kvm, struct kvm_mem_attrs_range *r,
			      unsigned long nr, gfn_t *next)
{
	guard(mutex)(&kvm->slots_lock);

	return set_ranges(kvm, r, nr, false, next);
}

int kvm_mem_attrs_check_range(struct kvm *kvm,
			      const struct kvm_memory_attributes *attrs,
			      struct kvm_mem_attrs_range *r)
{
	/* The store keeps attributes as longs. */
	BUILD_BUG_ON(sizeof(attrs->attributes) != sizeof(r->attributes));
	BUILD_BUG_ON(KVM_MEM_ATTRS_MASK != KVM_MEMORY_ATTRIBUTE_PRIVATE);

	/* flags is currently not used. */
	if (attrs->flags)
		return -EINVAL;
	if (attrs->attributes & ~kvm_supported_mem_attributes(kvm))
		return -EINVAL;
	if (!attrs->size || attrs->address + attrs->size < attrs->address)
		return -EINVAL;
	if (!PAGE_ALIGNED(attrs->address) || !PAGE_ALIGNED(attrs->size))
		return -EINVAL;

	r->start = attrs->address >> PAGE_SHIFT;
	r->end = (attrs->address + attrs->size) >> PAGE_SHIFT;
	r->attributes = attrs->attributes;
	return 0;
}

int kvm_vm_ioctl_set_mem_attributes(struct kvm *kvm,
				    struct kvm_memory_attributes *attrs)
{
	struct kvm_mem_attrs_range r;
	gfn_t unused;
	int ret;

	ret = kvm_mem_attrs_check_range(kvm, attrs, &r);
	if (ret)
		return ret;

	guard(mutex)(&kvm->slots_lock);

	return set_ranges(kvm, &r, 1, true, &unused);
}

void kvm_mem_attrs_init_vm(struct kvm *kvm)
{
	kvm_mem_attrs_init(&kvm->mem_attrs);
	mt_set_external_lock(&kvm->mem_attrs.mt, &kvm->slots_lock);
}

void kvm_mem_attrs_destroy_vm(struct kvm *kvm)
{
	/* The VM has no users now.  The store asserts that its lock is held. */
	guard(mutex)(&kvm->slots_lock);
	kvm_mem_attrs_destroy(&kvm->mem_attrs);
}

static int mem_attrs_stat_show(struct seq_file *m, void *v)
{
	struct kvm *kvm = m->private;
	struct kvm_mem_attrs_usage usage;

	scoped_guard(mutex, &kvm->slots_lock)
		kvm_mem_attrs_usage(&kvm->mem_attrs, &usage);

	seq_printf(m, "runs %lu\nleaves %lu\nbytes %lu\n",
		   usage.runs, usage.leaves, usage.bytes);
	return 0;
}

static int mem_attrs_stat_open(struct inode *inode, struct file *file)
{
	struct kvm *kvm = inode->i_private;
	int r;

	if (!kvm_get_kvm_safe(kvm))
		return -ENOENT;

	r = single_open(file, mem_attrs_stat_show, kvm);
	if (r < 0)
		kvm_put_kvm(kvm);

	return r;
}

static int mem_attrs_stat_release(struct inode *inode, struct file *file)
{
	kvm_put_kvm(inode->i_private);
	return single_release(inode, file);
}

static const struct file_operations mem_attrs_stat_fops = {
	.owner		= THIS_MODULE,
	.open		= mem_attrs_stat_open,
	.read		= seq_read,
	.llseek		= seq_lseek,
	.release	= mem_attrs_stat_release,
};

void kvm_mem_attrs_create_vm_debugfs(struct kvm *kvm)
{
	if (kvm_supported_mem_attributes(kvm))
		debugfs_create_file("mem_attrs", 0444, kvm->debugfs_dentry, kvm,
				    &mem_attrs_stat_fops);
}
