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
 * With -m, the pages are from /dev/mem, and have no struct page.  The figures are then
 * called devmem_plain and so on.
 *
 * L1 reads the TSC.  Emulators that count instructions advance it by one, or nearly
 * so, for each instruction.
 *
 * The test prints one figure per line: name, value, unit.
 */
#include "devmem.h"
#include "figures.h"
#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "test_util.h"
#include "vmx.h"

#define PAGES_GPA	BIT_ULL(30)
#define PAGES_GVA	0xc0000000ull
#define PAGES_SLOT	10
#define WARM_UP		20
#define TIMES		200
#define RUNS		5

enum { USE_MSR = 1, USE_APIC = 2 };
enum { VIRTUAL_APIC, APIC_ACCESS, MSR_OR_VMCB, NR_PAGES };

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
		vmwrite(VIRTUAL_APIC_PAGE_ADDR, PAGES_GPA + VIRTUAL_APIC * PAGE_SIZE);
		vmwrite(APIC_ACCESS_ADDR, PAGES_GPA + APIC_ACCESS * PAGE_SIZE);
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

/* The host-physical address of memory without struct page, or 0. */
static uint64_t devmem;

static void measure(const char *name, void *l1_code, int use)
{
	struct svm_test_data *svm;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int64_t trips[RUNS];
	vm_vaddr_t gva;
	int i;

	vm = vm_create_with_one_vcpu(&vcpu, l1_code);
	if (devmem)
		vm_set_user_memory_region(vm, PAGES_SLOT, 0, PAGES_GPA, NR_PAGES * PAGE_SIZE,
					  map_devmem(NULL, devmem, NR_PAGES * PAGE_SIZE));
	else
		vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, PAGES_GPA, PAGES_SLOT,
					    NR_PAGES, 0);
	virt_map(vm, PAGES_GVA, PAGES_GPA, NR_PAGES);

	if (kvm_cpu_has(X86_FEATURE_VMX)) {
		vcpu_alloc_vmx(vm, &gva)->msr_gpa = PAGES_GPA + MSR_OR_VMCB * PAGE_SIZE;
	} else {
		svm = vcpu_alloc_svm(vm, &gva);
		svm->vmcb = (void *)(PAGES_GVA + MSR_OR_VMCB * PAGE_SIZE);
		svm->vmcb_gpa = PAGES_GPA + MSR_OR_VMCB * PAGE_SIZE;
	}
	vcpu_args_set(vcpu, 2, gva, use);

	vcpu_run_until_sync(vcpu);
	for (i = 0; i < RUNS; i++)
		trips[i] = vcpu_run_until_sync(vcpu).args[1];
	figure(median(trips, RUNS), "ticks", "%s_%s", devmem ? "devmem" : "nested", name);
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	int opt;

	while ((opt = getopt(argc, argv, "hm:")) != -1) {
		if (opt != 'm') {
			printf("usage: %s [-m ADDRESS]\n"
			       "  -m  a host-physical address; boot with mem= so that the kernel\n"
			       "      leaves 16 KiB from there on alone\n", argv[0]);
			exit(KSFT_FAIL);
		}
		devmem = strtoull(optarg, NULL, 0);
	}

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
