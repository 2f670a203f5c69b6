// SPDX-License-Identifier: GPL-2.0-only
/*
 * KVM_GET_MEMORY_ATTRIBUTES and KVM_SET_MEMORY_ATTRIBUTES_LIST, as described in
 * include/uapi/linux/kvm_mem.h.  mem_attrs_vm.c describes how conversions work.
 */
#include <linux/cleanup.h>
#include <linux/kvm_host.h>
#include <linux/kvm_mem.h>
#include <linux/maple_tree.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/xarray.h>

#include "mem_attrs_vm.h"

/* Limits the time with slots_lock, and the memory for copies of the array. */
#define MAX_ENTRIES	4096

int kvm_check_extension_mem_attributes(struct kvm *kvm, long cap)
{
	switch (cap) {
	case KVM_CAP_GET_MEMORY_ATTRIBUTES:
		return kvm_supported_mem_attributes(kvm);
	case KVM_CAP_SET_MEMORY_ATTRIBUTES_LIST:
		return kvm_supported_mem_attributes(kvm) ? MAX_ENTRIES : 0;
	default:
		return 0;
	}
}

/* Return the run that starts at @addr, at most @size bytes of it. */
static struct kvm_memory_attributes run_at(struct kvm *kvm, u64 addr, u64 size)
{
	gfn_t last = ((addr + size) >> PAGE_SHIFT) - 1;
	unsigned long attrs;

	last = kvm_mem_attrs_run(&kvm->mem_attrs, addr >> PAGE_SHIFT, last, &attrs);

	return (struct kvm_memory_attributes) {
		.address = addr,
		.size = ((last + 1) << PAGE_SHIFT) - addr,
		.attributes = attrs,
	};
}

static int check_get(struct kvm *kvm, const struct kvm_get_memory_attributes *get)
{
	const struct kvm_memory_attributes range = {
		.address = get->address,
		.size = get->size,
	};
	struct kvm_mem_attrs_range unused;

	if (get->flags || get->reserved)
		return -EINVAL;
	if (get->mask & ~kvm_supported_mem_attributes(kvm) ||
	    get->attributes & ~get->mask)
		return -EINVAL;

	return kvm_mem_attrs_check_range(kvm, &range, &unused);
}

/*
 * Count the ranges to report, up to @max, and write them to @ranges, which is
 * NULL or has room for @max.  Advance @get behind the last one, and behind memory
 * after it that @get doesn't ask for.
 */
static u32 get_ranges(struct kvm *kvm, struct kvm_get_memory_attributes *get,
		      struct kvm_memory_attributes *ranges, u32 max)
{
	struct kvm_memory_attributes run;
	u32 seen, n = 0;

	lockdep_assert_held(&kvm->slots_lock);

	for (seen = 0; get->size && seen < 2 * MAX_ENTRIES; seen++) {
		run = run_at(kvm, get->address, get->size);
		if ((run.attributes & get->mask) == get->attributes) {
			if (n == max)
				break;
			if (ranges)
				ranges[n] = run;
			n++;
		}
		get->address += run.size;
		get->size -= run.size;
		cond_resched();
	}

	return n;
}

static int report(struct kvm *kvm, struct kvm_get_memory_attributes *get)
{
	u32 max = min(get->nr, MAX_ENTRIES);
	struct kvm_memory_attributes *ranges __free(kvfree) =
		kvmalloc_array(max, sizeof(*ranges), GFP_KERNEL_ACCOUNT);

	if (!ranges)
		return -ENOMEM;

	scoped_guard(mutex, &kvm->slots_lock) {
		get->generation = kvm->mem_attrs.generation;
		get->nr = get_ranges(kvm, get, ranges, max);
	}

	/* This may wait for userspace to handle a fault, so drop the lock first. */
	return copy_to_user(u64_to_user_ptr(get->ranges), ranges,
			    get->nr * sizeof(*ranges)) ? -EFAULT : 0;
}

static int count(struct kvm *kvm, struct kvm_get_memory_attributes *get)
{
	struct kvm_get_memory_attributes rest = *get;
	u64 n = 0;

	for (;;) {
		scoped_guard(mutex, &kvm->slots_lock) {
			if (rest.address == get->address)
				get->generation = kvm->mem_attrs.generation;
			n += get_ranges(kvm, &rest, NULL, MAX_ENTRIES);
		}
		if (!rest.size)
			break;
		if (signal_pending(current))
			return -EINTR;
	}

	get->nr = min(n, U32_MAX);
	return 0;
}

int kvm_vm_ioctl_get_mem_attributes(struct kvm *kvm, void __user *argp)
{
	struct kvm_get_memory_attributes get;
	int ret;

	if (!kvm_supported_mem_attributes(kvm))
		return -EOPNOTSUPP;
	if (copy_from_user(&get, argp, sizeof(get)))
		return -EFAULT;
	ret = check_get(kvm, &get);
	if (ret)
		return ret;

	ret = get.nr ? report(kvm, &get) : count(kvm, &get);
	if (ret)
		return ret;

	return copy_to_user(argp, &get, sizeof(get)) ? -EFAULT : 0;
}

/* Check all entries.  @done counts the entries before the first bad one. */
static int check_list(struct kvm *kvm, const struct kvm_memory_attributes *attrs,
		      struct kvm_mem_attrs_range *r, u32 nr, u32 *done)
{
	int ret;

	for (*done = 0; *done < nr; ++*done) {
		ret = kvm_mem_attrs_check_range(kvm, &attrs[*done], &r[*done]);
		if (ret)
			return ret;
	}

	return 0;
}

/*
 * Lay the ranges over each other in the order of the list, so that the last one
 * wins.  Write what results to @flat: ranges in ascending order, without
 * overlaps, merged with equal neighbours.  Return their number, which is less
 * than 2 * @nr, or -ENOMEM.
 */
static long flatten(const struct kvm_mem_attrs_range *r, u32 nr,
		    struct kvm_mem_attrs_range *flat)
{
	struct maple_tree mt;
	struct ma_state mas;
	unsigned long attrs;
	void *entry;
	long n = 0;
	u32 i;

	mt_init(&mt);
	for (i = 0; i < nr; i++) {
		if (mtree_store_range(&mt, r[i].start, r[i].end - 1,
				      xa_mk_value(r[i].attributes),
				      GFP_KERNEL_ACCOUNT)) {
			n = -ENOMEM;
			goto out;
		}
	}

	mas_init(&mas, &mt, 0);
	rcu_read_lock();
	mas_for_each(&mas, entry, ULONG_MAX) {
		attrs = xa_to_value(entry);
		if (n && flat[n - 1].end == mas.index &&
		    flat[n - 1].attributes == attrs) {
			flat[n - 1].end = mas.last + 1;
			continue;
		}
		flat[n++] = (struct kvm_mem_attrs_range) {
			.start = mas.index,
			.end = mas.last + 1,
			.attributes = attrs,
		};
	}
	rcu_read_unlock();
out:
	mtree_destroy(&mt);
	return n;
}

/*
 * KVM sets memory in ascending order.  Return the number of ranges at the front
 * of the list that end at @next or below.
 */
static u32 count_done(const struct kvm_mem_attrs_range *r, u32 nr, gfn_t next)
{
	u32 i;

	for (i = 0; i < nr && r[i].end <= next; i++)
		;

	return i;
}

static int set_list(struct kvm *kvm, struct kvm_set_memory_attributes_list *list)
{
	struct kvm_memory_attributes *attrs __free(kvfree) =
		vmemdup_array_user(u64_to_user_ptr(list->ranges), list->nr,
				   sizeof(*attrs));
	struct kvm_mem_attrs_range *flat __free(kvfree) = NULL;
	struct kvm_mem_attrs_range *r __free(kvfree) = NULL;
	gfn_t next;
	long n;
	int ret;

	if (IS_ERR(attrs))
		return PTR_ERR(attrs);

	r = kvmalloc_array(list->nr, sizeof(*r), GFP_KERNEL_ACCOUNT);
	flat = kvmalloc_array(list->nr, 2 * sizeof(*flat), GFP_KERNEL_ACCOUNT);
	if (!r || !flat)
		return -ENOMEM;

	ret = check_list(kvm, attrs, r, list->nr, &list->done);
	if (ret)
		return ret;

	list->done = 0;
	n = flatten(r, list->nr, flat);
	if (n < 0)
		return n;

	ret = kvm_vm_set_mem_attributes(kvm, flat, n, &next);
	list->done = ret ? count_done(r, list->nr, next) : list->nr;
	return ret;
}

int kvm_vm_ioctl_set_mem_attributes_list(struct kvm *kvm, void __user *argp)
{
	struct kvm_set_memory_attributes_list __user *ulist = argp;
	struct kvm_set_memory_attributes_list list;
	int ret;

	if (!kvm_supported_mem_attributes(kvm))
		return -EOPNOTSUPP;
	if (copy_from_user(&list, ulist, sizeof(list)))
		return -EFAULT;

	/*
	 * Write @done before anything is set, so that a structure that can't be
	 * written fails now.  @nr says that no entry is to blame.
	 */
	if (put_user(list.nr, &ulist->done))
		return -EFAULT;
	if (list.flags || list.pad ||
	    memchr_inv(list.reserved, 0, sizeof(list.reserved)))
		return -EINVAL;
	if (!list.nr || list.nr > MAX_ENTRIES)
		return -EINVAL;

	list.done = 0;
	ret = set_list(kvm, &list);
	if (put_user(list.done, &ulist->done))
		return -EFAULT;

	return ret;
}
