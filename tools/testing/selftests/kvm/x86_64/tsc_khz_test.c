// SPDX-License-Identifier: GPL-2.0
/*
 * Test that a guest and KVM_GET_MSRS read the same TSC in a VM that was given
 * another TSC frequency than the host's, whether or not the CPU can scale the TSC.
 */
#include "kvm_util.h"
#include "processor.h"

static void guest_code(void)
{
	GUEST_SYNC(rdtsc());
}

static void test_khz(uint32_t khz)
{
	uint64_t before, guest, after;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	struct ucall uc;

	vm = vm_create(1);
	vm_ioctl(vm, KVM_SET_TSC_KHZ, (void *)(uintptr_t)khz);
	vcpu = vm_vcpu_add(vm, 0, guest_code);

	before = vcpu_get_msr(vcpu, MSR_IA32_TSC);
	vcpu_run(vcpu);
	after = vcpu_get_msr(vcpu, MSR_IA32_TSC);

	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
	guest = uc.args[1];
	TEST_ASSERT(before <= guest && guest <= after,
		    "%u kHz: the guest read %lu, expected %lu to %lu",
		    khz, guest, before, after);

	kvm_vm_free(vm);
}

int main(void)
{
	uint32_t khz;
	struct kvm_vm *vm;

	vm = vm_create_barebones();
	khz = __vm_ioctl(vm, KVM_GET_TSC_KHZ, NULL);
	kvm_vm_free(vm);

	test_khz(khz);
	test_khz(khz * 3 / 4);
	test_khz(khz / 4 * 5);

	return 0;
}
