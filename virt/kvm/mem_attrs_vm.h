/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_MEM_ATTRS_VM_H
#define __KVM_MEM_ATTRS_VM_H

#include <linux/kvm.h>
#include <linux/kvm_types.h>

/**
 * struct kvm_mem_attrs_range - gfns and the attributes they shall get
 * @start: first gfn
 * @end: gfn after the last one
 * @attributes: of kvm_supported_mem_attributes()
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
 * kvm_supported_mem_attributes() - Get the attributes that memory can have.
 * @kvm: the VM, or NULL for what some VM could have
 *
 * Return: KVM_MEMORY_ATTRIBUTE_* bits, 0 if this VM has no such thing.
 */
u64 kvm_supported_mem_attributes(struct kvm *kvm);

/**
 * kvm_mem_attrs_check_range() - Check a range that userspace gave.
 * @kvm: the VM
 * @attrs: what userspace gave, in bytes
 * @r: returns the same, in gfns
 *
 * Return: 0, or -EINVAL for flags, attributes that the VM doesn't support, no
 * size, an address or a size not of whole pages, or an end at or above 2^64.
 */
int kvm_mem_attrs_check_range(struct kvm *kvm,
			      const struct kvm_memory_attributes *attrs,
			      struct kvm_mem_attrs_range *r);

/**
 * kvm_vm_set_mem_attributes() - Set the attributes of ranges, in their order.
 * @kvm: the VM
 * @r: the ranges, which may overlap: the last one holds
 * @nr: how many ranges, at least one
 * @done: returns how many ranges were set; what follows is as it was
 *
 * All mappings of the ranges are gone before the first one changes, with one
 * TLB flush.
 *
 * Context: takes slots_lock and mmu_lock.  May sleep.
 * Return: 0, or -ENOMEM.
 */
int kvm_vm_set_mem_attributes(struct kvm *kvm, const struct kvm_mem_attrs_range *r,
			      unsigned long nr, unsigned long *done);

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
