/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_MEM_ATTRS_VM_H
#define __KVM_MEM_ATTRS_VM_H

#include <linux/kvm.h>
#include <linux/kvm_types.h>

/**
 * struct kvm_mem_attrs_range - a range of gfns and the attributes to set
 * @start: first gfn
 * @end: gfn after the last one
 * @attributes: bits of kvm_supported_mem_attributes()
 */
struct kvm_mem_attrs_range {
	gfn_t start;
	gfn_t end;
	unsigned long attributes;
};

#ifdef CONFIG_KVM_GENERIC_MEMORY_ATTRIBUTES
void kvm_mem_attrs_init_vm(struct kvm *kvm);
void kvm_mem_attrs_destroy_vm(struct kvm *kvm);
void kvm_mem_attrs_create_vm_debugfs(struct kvm *kvm);

/**
 * kvm_supported_mem_attributes() - Get the supported memory attributes.
 * @kvm: the VM, or NULL to ask for any VM
 *
 * Return: KVM_MEMORY_ATTRIBUTE_* bits, or 0 if the VM supports no attributes.
 */
u64 kvm_supported_mem_attributes(struct kvm *kvm);

/**
 * kvm_mem_attrs_check_range() - Check a range from userspace.
 * @kvm: the VM
 * @attrs: the range, in bytes
 * @r: returns the range in gfns
 *
 * Return: 0, or -EINVAL if the flags aren't 0, if the VM doesn't support the
 * attributes, if the size is 0, if the address or the size isn't a multiple of
 * the page size, or if the end is at or above 2^64.
 */
int kvm_mem_attrs_check_range(struct kvm *kvm,
			      const struct kvm_memory_attributes *attrs,
			      struct kvm_mem_attrs_range *r);

/**
 * kvm_vm_set_mem_attributes() - Set the attributes of ranges.
 * @kvm: the VM
 * @r: the ranges, in ascending order, without overlaps; changed by the call
 * @nr: number of ranges, at least one
 * @next: if the call fails, returns the gfn after the last one that was set
 *
 * Works in steps that limit how long faults and MMU notifiers wait.  A step
 * converts ranges that are close together with one TLB flush.
 *
 * Context: takes slots_lock and mmu_lock.  May sleep.
 * Return: 0, -ENOMEM, or -EINTR if a signal is pending.
 */
int kvm_vm_set_mem_attributes(struct kvm *kvm, struct kvm_mem_attrs_range *r,
			      unsigned long nr, gfn_t *next);

int kvm_vm_ioctl_set_mem_attributes(struct kvm *kvm,
				    struct kvm_memory_attributes *attrs);
int kvm_vm_ioctl_get_mem_attributes(struct kvm *kvm, void __user *argp);
int kvm_vm_ioctl_set_mem_attributes_list(struct kvm *kvm, void __user *argp);
int kvm_check_extension_mem_attributes(struct kvm *kvm, long cap);
#else
static inline void kvm_mem_attrs_init_vm(struct kvm *kvm)
{
}

static inline void kvm_mem_attrs_destroy_vm(struct kvm *kvm)
{
}

static inline void kvm_mem_attrs_create_vm_debugfs(struct kvm *kvm)
{
}
#endif /* CONFIG_KVM_GENERIC_MEMORY_ATTRIBUTES */

#endif /* __KVM_MEM_ATTRS_VM_H */
