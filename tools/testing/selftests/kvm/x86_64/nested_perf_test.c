// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measure a round trip from L2 to L1 and back, that is a nested exit and a nested
 * entry: L2 executes an instruction that L1 intercepts, and L1 resumes L2.
 *
 *   exit	for comparison: L1 executes CPUID, which KVM emulates
 *   plain	hardware uses no page of L1
 *   msr	L1 protects MSRs with a bitmap
 *   apic	VMX: hardware uses L1's APIC-access page and virtual-APIC page
 *   all	both
 *
 * L1 reads the TSC.  Emulators that count instructions advance it by one, or nearly
 * so, for each instruction.
 *
 * The test prints one figure per line: name, value, unit.
 */
#include "figures.h"
#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "test_util.h"
#include "vmx.h"

#define PAGES_GPA	BIT_ULL(30)
#define PAGES_SLOT	10
#define WARM_UP		20
#define TIMES		200
#define RUNS		5

enum { USE_MSR = 1, USE_APIC = 2 };

static void l2_vmx_code(void)
{
	for (;;)
		asm volatile("vmcall" : : : "rax", "rbx", "rcx", "rdx", "rsi", "rdi",
			     "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15");
}

static void l2_svm_code(void)
{
	for (;;)
		asm volatile("vmmcall");
}

static void resume_vmx(void)
{
	GUEST_ASSERT(!vmresume());
	GUEST_ASSERT(vmreadz(VM_EXIT_REASON) == EXIT_REASON_VMCALL);
	vmwrite(GUEST_RIP, vmreadz(GUEST_RIP) + vmreadz(VM_EXIT_INSTRUCTION_LEN));
}

static void l1_exit_code(void)
{
	uint32_t eax, ebx, ecx, edx;
	uint64_t begin;
	int i;

	for (;;) {
		begin = rdtsc();
		for (i = 0; i < TIMES; i++)
			cpuid(0, &eax, &ebx, &ecx, &edx);
		GUEST_SYNC((rdtsc() - begin) / TIMES);
	}
}

static void l1_vmx_code(struct vmx_pages *vmx, int use)
{
	static unsigned long l2_stack[64];
	uint64_t begin;
	int i;

	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	GUEST_ASSERT(load_vmcs(vmx));
	prepare_vmcs(vmx, l2_vmx_code, &l2_stack[ARRAY_SIZE(l2_stack)]);

	if (use & USE_MSR)
		vmwrite(CPU_BASED_VM_EXEC_CONTROL, vmreadz(CPU_BASED_VM_EXEC_CONTROL) |
			CPU_BASED_USE_MSR_BITMAPS);
	if (use & USE_APIC) {
		vmwrite(CPU_BASED_VM_EXEC_CONTROL, vmreadz(CPU_BASED_VM_EXEC_CONTROL) |
			CPU_BASED_TPR_SHADOW);
		vmwrite(SECONDARY_VM_EXEC_CONTROL, vmreadz(SECONDARY_VM_EXEC_CONTROL) |
			SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES);
		vmwrite(VIRTUAL_APIC_PAGE_ADDR, PAGES_GPA);
		vmwrite(APIC_ACCESS_ADDR, PAGES_GPA + PAGE_SIZE);
	}

	GUEST_ASSERT(!vmlaunch());
	GUEST_ASSERT(vmreadz(VM_EXIT_REASON) == EXIT_REASON_VMCALL);
	vmwrite(GUEST_RIP, vmreadz(GUEST_RIP) + vmreadz(VM_EXIT_INSTRUCTION_LEN));
	for (i = 0; i < WARM_UP; i++)
		resume_vmx();

	for (;;) {
		begin = rdtsc();
		for (i = 0; i < TIMES; i++)
			resume_vmx();
		GUEST_SYNC((rdtsc() - begin) / TIMES);
	}
}

static void l1_svm_code(struct svm_test_data *svm, int use)
{
	static unsigned long l2_stack[64];
	struct vmcb *vmcb = svm->vmcb;
	uint64_t begin;
	int i;

	generic_svm_setup(svm, l2_svm_code, &l2_stack[ARRAY_SIZE(l2_stack)]);
	if (use & USE_MSR)
		vmcb->control.intercept |= BIT_ULL(INTERCEPT_MSR_PROT);

	for (;;) {
		begin = rdtsc();
		for (i = 0; i < TIMES; i++) {
			run_guest(vmcb, svm->vmcb_gpa);
			GUEST_ASSERT(vmcb->control.exit_code == SVM_EXIT_VMMCALL);
			vmcb->save.rip += 3;
		}
		GUEST_SYNC((rdtsc() - begin) / TIMES);
	}
}

static void measure(const char *name, void *l1_code, int use)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int64_t trips[RUNS];
	vm_vaddr_t gva;
	int i;

	vm = vm_create_with_one_vcpu(&vcpu, l1_code);
	if (kvm_cpu_has(X86_FEATURE_VMX))
		vcpu_alloc_vmx(vm, &gva);
	else
		vcpu_alloc_svm(vm, &gva);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, PAGES_GPA, PAGES_SLOT, 2, 0);
	vcpu_args_set(vcpu, 2, gva, use);

	vcpu_run_until_sync(vcpu);
	for (i = 0; i < RUNS; i++)
		trips[i] = vcpu_run_until_sync(vcpu).args[1];
	figure(median(trips, RUNS), "ticks", "nested_%s", name);
	kvm_vm_free(vm);
}

int main(void)
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX) || kvm_cpu_has(X86_FEATURE_SVM));

	measure("exit", l1_exit_code, 0);
	if (kvm_cpu_has(X86_FEATURE_VMX)) {
		measure("plain", l1_vmx_code, 0);
		measure("msr", l1_vmx_code, USE_MSR);
		measure("apic", l1_vmx_code, USE_APIC);
		measure("all", l1_vmx_code, USE_MSR | USE_APIC);
	} else {
		measure("plain", l1_svm_code, 0);
		measure("msr", l1_svm_code, USE_MSR);
	}
	return 0;
}
