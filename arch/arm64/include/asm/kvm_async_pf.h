/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Asynchronous page faults of arm64 guests: see arch/arm64/kvm/async_pf.c.
 */
#ifndef __ARM64_KVM_ASYNC_PF_H__
#define __ARM64_KVM_ASYNC_PF_H__

#include <linux/kvm_arm_async_pf.h>
#include <linux/kvm_host.h>
#include <linux/kvm_mem.h>

/* Has the guest turned them on? */
static inline bool kvm_arm_async_pf_enabled(struct kvm_vcpu *vcpu)
{
	return vcpu->arch.apf.area;
}

bool kvm_arm_async_pf_fault(struct kvm_vcpu *vcpu, gpa_t gpa, unsigned long hva,
			    bool write, bool exec);
void kvm_arm_async_pf_complete(struct kvm_vcpu *vcpu);
void kvm_arm_async_pf_run(struct kvm_vcpu *vcpu);
bool kvm_arm_async_pf_can_wake(struct kvm_vcpu *vcpu);
void kvm_arm_async_pf_reset(struct kvm_vcpu *vcpu);
void kvm_arm_async_pf_call(struct kvm_vcpu *vcpu, u64 *val);

/* Map a page that is present. */
void kvm_arm_map_ready_page(struct kvm_vcpu *vcpu, gpa_t gpa, bool write, bool exec);

bool kvm_arm_async_pf_supported(void);
bool kvm_arm_async_pf_offered(struct kvm *kvm);
u64 kvm_arm_async_pf_get_reg(struct kvm_vcpu *vcpu);
int kvm_arm_async_pf_set_reg(struct kvm_vcpu *vcpu, u64 val);
int kvm_arm_async_pf_has_attr(struct kvm_vcpu *vcpu, struct kvm_device_attr *attr);
int kvm_arm_async_pf_set_attr(struct kvm_vcpu *vcpu, struct kvm_device_attr *attr);
int kvm_arm_async_pf_get_attr(struct kvm_vcpu *vcpu, struct kvm_device_attr *attr);

#endif
