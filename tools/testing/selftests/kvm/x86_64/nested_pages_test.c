// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test pages of L1 that hardware or KVM uses for L2, and that the VMM replaces.
 *
 * VMX: L2 stops in the VMM, which replaces a page and runs the vCPU again.  Hardware
 * has to use the new page at once:
 *
 *  - The virtual-APIC page: L2 writes CR8, and the VMM finds it in the new page.  The
 *    VMM writes VTPR to the new page, and L2 reads it from CR8.
 *  - The APIC-access page: L2 reads TPR there and gets VTPR, not bytes of the page.
 *  - The posted-interrupt descriptor: the VMM posts an interrupt in the new page, and L2
 *    receives it.
 *
 * If a page is gone for good, KVM_RUN returns an error, and L2 goes on when the page is
 * back.  A page whose fault userspace handles keeps the vCPU waiting until a signal
 * arrives.  Pages are not pinned, so the host can move them.
 *
 * KVM itself uses the MSR bitmap, at each entry into L2, and an enlightened VMCS, at each
 * entry and exit.  The VMM replaces them between two of these.
 *
 * SVM: KVM itself uses VMCB12, at VMRUN, #VMEXIT, VMLOAD and VMSAVE.  The VMM replaces
 * it between each two of them.  If it is gone at #VMEXIT, L1 is shut down.
 *
 * With -m, L1's pages are from /dev/mem, and have no struct page.
 *
 * A storm ends the test: a vCPU goes to L2 and back as fast as it can, while threads
 * of the VMM give these pages other memory all the time, with the same contents, and
 * change memslots.  No write may get lost.
 */
#include <linux/bitmap.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "apic.h"
#include "devmem.h"
#include "hyperv.h"
#include "kvm_util.h"
#include "processor.h"
#include "svm_util.h"
#include "test_util.h"
#include "vmx.h"

#define PAGES_GPA	BIT_ULL(30)
#define PAGES_GVA	0xc0000000ull
#define PAGES_SLOT	10
#define OTHER_GPA	BIT_ULL(31)

enum apic_page {
	VIRTUAL_APIC, APIC_ACCESS, PI_DESC, NR_PAGES,
	MSR_PERMISSIONS = APIC_ACCESS,
	EVMCS = APIC_ACCESS,
	VMCB = APIC_ACCESS,
	HOST_SAVE_AREA = VIRTUAL_APIC,
};

static const char * const page_names[] = {
	"virtual-APIC page", "APIC-access page", "posted-interrupt descriptor",
};

/* What the host does to a page. */
enum way { DROP, MAP_OVER, MOVE_SLOT, SOFT_OFFLINE, NR_WAYS };
static const char * const way_names[] = {
	"dropped", "mapped over", "in a memslot with other memory", "moved by the host",
};

/* L2 writes it to CR8, unless it is 0. */
static uint64_t next_cr8;

static uint64_t read_cr8(void)
{
	uint64_t cr8;

	asm volatile("mov %%cr8, %0" : "=r"(cr8));
	return cr8;
}

static void write_cr8(uint64_t cr8)
{
	asm volatile("mov %0, %%cr8" : : "r"(cr8) : "memory");
}

static void l2_guest_code(void)
{
	uint32_t *tpr = (void *)(PAGES_GVA + APIC_ACCESS * PAGE_SIZE + APIC_TASKPRI);

	for (;;) {
		if (READ_ONCE(next_cr8))
			write_cr8(READ_ONCE(next_cr8));
		GUEST_SYNC_ARGS(0, read_cr8(), READ_ONCE(*tpr), 0, 0);
	}
}

/* Where a vCPU has stopped. */
enum stop { IN_L2, VMEXIT, SAVED, FAULTED };

/* Prepare to launch L2 with the two pages. */
static void start_l2(struct vmx_pages *vmx, void *code, void *stack)
{
	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	GUEST_ASSERT(load_vmcs(vmx));
	prepare_vmcs(vmx, code, stack);

	vmwrite(CPU_BASED_VM_EXEC_CONTROL, vmreadz(CPU_BASED_VM_EXEC_CONTROL) |
		CPU_BASED_ACTIVATE_SECONDARY_CONTROLS | CPU_BASED_TPR_SHADOW);
	vmwrite(SECONDARY_VM_EXEC_CONTROL, vmreadz(SECONDARY_VM_EXEC_CONTROL) |
		SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES);
	vmwrite(VIRTUAL_APIC_PAGE_ADDR, PAGES_GPA + VIRTUAL_APIC * PAGE_SIZE);
	vmwrite(APIC_ACCESS_ADDR, PAGES_GPA + APIC_ACCESS * PAGE_SIZE);
	vmwrite(TPR_THRESHOLD, 0);
}

static void l1_guest_code(struct vmx_pages *vmx)
{
	static unsigned long l2_stack[64];

	start_l2(vmx, l2_guest_code, &l2_stack[ARRAY_SIZE(l2_stack)]);
	GUEST_ASSERT(!vmlaunch());
	GUEST_FAIL("L2 exited to L1, reason %lx", vmreadz(VM_EXIT_REASON));
}

/* L1 runs with the registers of L2, so L2 keeps nothing in them when it exits. */
#define EXIT_TO_L1(insns)							\
({										\
	asm volatile("push %%rbp\n\t"						\
		     insns "\n\t"						\
		     "pop %%rbp" : : : "rax", "rbx", "rcx", "rdx", "rsi",	\
		     "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",	\
		     "r15", "memory");						\
})

static void l2_msr_code(void)
{
	for (;;)
		EXIT_TO_L1("mov $" __stringify(MSR_FS_BASE) ", %%ecx\n\t"
			   "rdmsr\n\t"
			   "vmcall");
}

/* Tell whether L1 intercepts RDMSR. */
static void l1_msr_code(struct vmx_pages *vmx)
{
	static unsigned long l2_stack[64];
	bool intercepted = false;

	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	GUEST_ASSERT(load_vmcs(vmx));
	prepare_vmcs(vmx, l2_msr_code, &l2_stack[ARRAY_SIZE(l2_stack)]);
	vmwrite(CPU_BASED_VM_EXEC_CONTROL,
		vmreadz(CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_USE_MSR_BITMAPS);
	vmwrite(MSR_BITMAP, PAGES_GPA + MSR_PERMISSIONS * PAGE_SIZE);

	GUEST_ASSERT(!vmlaunch());
	for (;;) {
		if (vmreadz(VM_EXIT_REASON) == EXIT_REASON_MSR_READ) {
			intercepted = true;
		} else {
			GUEST_ASSERT(vmreadz(VM_EXIT_REASON) == EXIT_REASON_VMCALL);
			GUEST_SYNC(intercepted);
			intercepted = false;
		}
		vmwrite(GUEST_RIP, vmreadz(GUEST_RIP) + vmreadz(VM_EXIT_INSTRUCTION_LEN));
		GUEST_ASSERT(!vmresume());
	}
}

/* What L1 gives L2 for the interrupts that the VMM posts. */
#define NOTIFICATION_VECTOR	0xe0
#define POSTED_VECTOR		0xd1
#define APIC_ISR		0x100

static uint64_t nr_received;

static void l2_posted_handler(struct ex_regs *regs)
{
	uint32_t *apic = (void *)(PAGES_GVA + APIC_ACCESS * PAGE_SIZE);

	GUEST_ASSERT_EQ(READ_ONCE(apic[(APIC_ISR + POSTED_VECTOR / 32 * 16) / 4]),
			BIT(POSTED_VECTOR % 32));
	nr_received++;
	WRITE_ONCE(apic[APIC_EOI / 4], 0);
}

static void l2_posted_code(void)
{
	asm volatile("sti");
	for (;;)
		GUEST_SYNC(nr_received);
}

static void l1_posted_code(struct vmx_pages *vmx)
{
	static unsigned long l2_stack[256];

	x2apic_enable();
	start_l2(vmx, l2_posted_code, &l2_stack[ARRAY_SIZE(l2_stack)]);
	vmwrite(PIN_BASED_VM_EXEC_CONTROL, vmreadz(PIN_BASED_VM_EXEC_CONTROL) |
		PIN_BASED_EXT_INTR_MASK | PIN_BASED_POSTED_INTR);
	vmwrite(SECONDARY_VM_EXEC_CONTROL, vmreadz(SECONDARY_VM_EXEC_CONTROL) |
		SECONDARY_EXEC_APIC_REGISTER_VIRT | SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY);
	vmwrite(VM_EXIT_CONTROLS, vmreadz(VM_EXIT_CONTROLS) | VM_EXIT_ACK_INTR_ON_EXIT);
	vmwrite(GUEST_INTR_STATUS, 0);
	vmwrite(EOI_EXIT_BITMAP0, 0);
	vmwrite(EOI_EXIT_BITMAP1, 0);
	vmwrite(EOI_EXIT_BITMAP2, 0);
	vmwrite(EOI_EXIT_BITMAP3, 0);
	vmwrite(POSTED_INTR_NV, NOTIFICATION_VECTOR);
	vmwrite(POSTED_INTR_DESC_ADDR, PAGES_GPA + PI_DESC * PAGE_SIZE);

	GUEST_ASSERT(!vmlaunch());
	GUEST_FAIL("L2 exited to L1, reason %lx", vmreadz(VM_EXIT_REASON));
}

static void l2_evmcs_code(void)
{
	for (;;) {
		GUEST_SYNC_ARGS(IN_L2, get_idt().size, 0, 0, 0);
		EXIT_TO_L1("vmcall");
	}
}

static void l1_evmcs_code(struct vmx_pages *vmx, struct hyperv_test_pages *hv)
{
	static unsigned long l2_stack[64];

	wrmsr(HV_X64_MSR_GUEST_OS_ID, HYPERV_LINUX_OS_ID);
	enable_vp_assist(hv->vp_assist_gpa, hv->vp_assist);
	evmcs_enable();
	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	GUEST_ASSERT(load_evmcs(hv));
	prepare_vmcs(vmx, l2_evmcs_code, &l2_stack[ARRAY_SIZE(l2_stack)]);

	GUEST_ASSERT(!vmlaunch());
	for (;;) {
		GUEST_SYNC(VMEXIT);
		current_evmcs->guest_rip += 3;
		GUEST_ASSERT(!vmresume());
	}
}

/* What L2 leaves in registers that #VMEXIT and VMSAVE store. */
#define OF_L2		5

static void l2_svm_code(void)
{
	uint64_t cr2;

	for (;;) {
		asm volatile("mov %%cr2, %0" : "=r"(cr2));
		GUEST_SYNC_ARGS(IN_L2, cr2, rdmsr(MSR_KERNEL_GS_BASE), 0, 0);
		asm volatile("mov %0, %%cr2" : : "r"((uint64_t)OF_L2));
		wrmsr(MSR_KERNEL_GS_BASE, OF_L2);
		EXIT_TO_L1("vmmcall");
	}
}

/* run_guest() without VMLOAD and VMSAVE, and without accesses to the VMCB. */
static void enter_l2(uint64_t gpa)
{
	asm volatile("push %%rbp\n\t"
		     "vmrun %%rax\n\t"
		     "pop %%rbp" : "+a"(gpa) : : "rbx", "rcx", "rdx", "rsi", "rdi",
		     "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory");
}

static void l1_svm_code(struct svm_test_data *svm)
{
	static unsigned long l2_stack[64];
	uint64_t gpa = svm->vmcb_gpa;

	generic_svm_setup(svm, l2_svm_code, &l2_stack[ARRAY_SIZE(l2_stack)]);
	for (;;) {
		asm volatile("vmload %%rax" : : "a"(gpa) : "memory");
		enter_l2(gpa);
		GUEST_SYNC(VMEXIT);
		asm volatile("vmsave %%rax" : : "a"(gpa) : "memory");
		GUEST_SYNC(SAVED);
		svm->vmcb->save.rip += 3;
	}
}

static void check_no_vmcb(uint64_t gpa)
{
	GUEST_ASSERT_EQ(kvm_asm_safe("vmrun %%rax", "a"(gpa)), GP_VECTOR);
	GUEST_ASSERT_EQ(kvm_asm_safe("vmload %%rax", "a"(gpa)), GP_VECTOR);
	GUEST_ASSERT_EQ(kvm_asm_safe("vmsave %%rax", "a"(gpa)), GP_VECTOR);
}

/* Use an address without memory, before and after KVM has found a VMCB. */
static void l1_svm_no_memory(struct svm_test_data *svm)
{
	const uint64_t nowhere[] = { BIT_ULL(35), BIT_ULL(35) + 1, -1ull, -1ull << 12 };
	uint64_t gpa = svm->vmcb_gpa;
	int i;

	generic_svm_setup(svm, NULL, NULL);
	for (i = 0; i < ARRAY_SIZE(nowhere); i++)
		check_no_vmcb(nowhere[i]);

	/* VMRUN finds this VMCB, and rejects it. */
	svm->vmcb->control.asid = 0;
	asm volatile("vmrun %%rax" : : "a"(gpa) : "memory");
	GUEST_ASSERT_EQ(svm->vmcb->control.exit_code, (u32)SVM_EXIT_ERR);
	GUEST_SYNC(FAULTED);

	check_no_vmcb(gpa);
	GUEST_SYNC(FAULTED);
}

/* The last value that L2 has given to a register, or L1 to a page. */
static uint64_t last;

static void l2_vmx_storm(void)
{
	for (last = 0;; last++) {
		write_cr8(last & 15);
		cpu_relax();
		EXIT_TO_L1("vmcall");
		GUEST_ASSERT_EQ(read_cr8(), last & 15);
	}
}

static void l1_vmx_storm(struct vmx_pages *vmx)
{
	uint32_t *vtpr = (void *)(PAGES_GVA + VIRTUAL_APIC * PAGE_SIZE + APIC_TASKPRI);
	static unsigned long l2_stack[64];

	start_l2(vmx, l2_vmx_storm, &l2_stack[ARRAY_SIZE(l2_stack)]);
	GUEST_ASSERT(!vmlaunch());
	for (;;) {
		GUEST_ASSERT_EQ(vmreadz(VM_EXIT_REASON), EXIT_REASON_VMCALL);
		GUEST_ASSERT_EQ(READ_ONCE(*vtpr), (last & 15) << 4);
		WRITE_ONCE(*vtpr, (++last & 15) << 4);
		if (last % 256 == 255)
			GUEST_SYNC(last);
		vmwrite(GUEST_RIP, vmreadz(GUEST_RIP) + vmreadz(VM_EXIT_INSTRUCTION_LEN));
		GUEST_ASSERT(!vmresume());
	}
}

static void l2_svm_storm(void)
{
	uint64_t cr2;

	for (last = 0;; last++) {
		asm volatile("mov %0, %%cr2" : : "r"(last));
		wrmsr(MSR_KERNEL_GS_BASE, last);
		/* An emulator lets the other CPU run now. */
		cpu_relax();
		EXIT_TO_L1("vmmcall");
		asm volatile("mov %%cr2, %0" : "=r"(cr2));
		GUEST_ASSERT_EQ(cr2, last);
		GUEST_ASSERT_EQ(rdmsr(MSR_KERNEL_GS_BASE), last);
	}
}

static void l1_svm_storm(struct svm_test_data *svm)
{
	struct vmcb *vmcb = svm->vmcb;
	static unsigned long l2_stack[64];
	uint64_t gpa = svm->vmcb_gpa;

	generic_svm_setup(svm, l2_svm_storm, &l2_stack[ARRAY_SIZE(l2_stack)]);
	for (;;) {
		vmcb->control.exit_code = 0;
		asm volatile("vmload %%rax" : : "a"(gpa) : "memory");
		enter_l2(gpa);
		asm volatile("vmsave %%rax" : : "a"(gpa) : "memory");
		GUEST_ASSERT_EQ(vmcb->control.exit_code, (u32)SVM_EXIT_VMMCALL);
		GUEST_ASSERT_EQ(vmcb->save.cr2, last);
		GUEST_ASSERT_EQ(vmcb->save.kernel_gs_base, last);
		vmcb->save.cr2 = ++last;
		vmcb->save.kernel_gs_base = last;
		if (last % 256 == 255)
			GUEST_SYNC(last);
		vmcb->save.rip += 3;
	}
}

/* Where the memory begins that has no struct page and is not used yet, or 0. */
static uint64_t devmem;

static void *map_pages(void *where)
{
	void *mem;

	if (devmem) {
		mem = map_devmem(where, devmem, NR_PAGES * PAGE_SIZE);
		devmem += NR_PAGES * PAGE_SIZE;
		return mem;
	}

	mem = mmap(where, NR_PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | (where ? MAP_FIXED : 0), -1, 0);
	TEST_ASSERT(mem != MAP_FAILED, __KVM_SYSCALL_ERROR("mmap()", -1));
	return mem;
}

static uint32_t *vtpr(void *mem)
{
	return mem + VIRTUAL_APIC * PAGE_SIZE + APIC_TASKPRI;
}

static struct kvm_vm *create_vm(struct kvm_vcpu **vcpu, void *code, void *mem)
{
	struct kvm_vm *vm = vm_create_with_one_vcpu(vcpu, code);
	struct svm_test_data *svm;
	vm_vaddr_t gva;

	if (kvm_cpu_has(X86_FEATURE_VMX)) {
		vcpu_alloc_vmx(vm, &gva);
	} else {
		svm = vcpu_alloc_svm(vm, &gva);
		svm->vmcb = (void *)(PAGES_GVA + VMCB * PAGE_SIZE);
		svm->vmcb_gpa = PAGES_GPA + VMCB * PAGE_SIZE;
		svm->save_area_gpa = PAGES_GPA + HOST_SAVE_AREA * PAGE_SIZE;
	}
	vcpu_args_set(*vcpu, 1, gva);
	vm_set_user_memory_region(vm, PAGES_SLOT, 0, PAGES_GPA, NR_PAGES * PAGE_SIZE, mem);
	virt_map(vm, PAGES_GVA, PAGES_GPA, NR_PAGES);
	return vm;
}

/* Run L2 until it stops, and check what it has read. */
static void run_l2(struct kvm_vm *vm, struct kvm_vcpu *vcpu, uint64_t cr8, uint64_t expected)
{
	struct ucall uc;

	next_cr8 = cr8;
	sync_global_to_guest(vm, next_cr8);
	uc = vcpu_run_until_sync(vcpu);
	TEST_ASSERT(uc.args[2] == expected, "CR8 is %lu, not %lu", uc.args[2], expected);
	TEST_ASSERT(uc.args[3] == expected << 4,
		    "L2 reads TPR from the APIC-access page, and gets %lx, not %lx",
		    uc.args[3], expected << 4);
}

/* A page has a reference while it is in a CPU's list of pages to activate. */
static void empty_lists_of_cpus(void)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);

	TEST_ASSERT(fd >= 0 && write(fd, "1", 1) == 1, "Can't write to drop_caches");
	close(fd);
}

static bool can_replace(enum way way)
{
	return !devmem || way == MAP_OVER || way == MOVE_SLOT;
}

/* Return where the pages are then. */
static void *replace(struct kvm_vm *vm, void *mem, enum apic_page page, enum way way)
{
	void *addr = mem + page * PAGE_SIZE;
	void *new;

	switch (way) {
	case DROP:
		TEST_ASSERT(!madvise(addr, PAGE_SIZE, MADV_DONTNEED),
			    __KVM_SYSCALL_ERROR("madvise()", -1));
		break;
	case MAP_OVER:
		TEST_ASSERT(mmap(addr, PAGE_SIZE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == addr,
			    __KVM_SYSCALL_ERROR("mmap()", -1));
		break;
	case MOVE_SLOT:
		new = map_pages(NULL);
		vm_set_user_memory_region(vm, PAGES_SLOT, 0, PAGES_GPA, 0, NULL);
		vm_set_user_memory_region(vm, PAGES_SLOT, 0, PAGES_GPA,
					  NR_PAGES * PAGE_SIZE, new);
		return new;
	case SOFT_OFFLINE:
		empty_lists_of_cpus();
		TEST_ASSERT(!madvise(addr, PAGE_SIZE, MADV_SOFT_OFFLINE),
			    __KVM_SYSCALL_ERROR("madvise(MADV_SOFT_OFFLINE)", -1));
		break;
	default:
		TEST_FAIL("No way %d", way);
	}

	/* Use the page that was freed, so that the new one is another. */
	map_pages(NULL);
	return mem;
}

/* The new page has what the old one had. */
static void *replace_by_copy(struct kvm_vm *vm, void *mem, enum apic_page page, enum way way)
{
	void *copy = malloc(PAGE_SIZE);

	TEST_ASSERT(copy, "malloc()");
	memcpy(copy, mem + page * PAGE_SIZE, PAGE_SIZE);
	mem = replace(vm, mem, page, way);
	memcpy(mem + page * PAGE_SIZE, copy, PAGE_SIZE);
	free(copy);
	return mem;
}

static struct ucall run_to(struct kvm_vcpu *vcpu, enum stop stop)
{
	struct ucall uc = vcpu_run_until_sync(vcpu);

	TEST_ASSERT(uc.args[1] == stop, "Stop %lu, not %u", uc.args[1], stop);
	return uc;
}

/* KVM writes to the page before each stop until @last, and nobody else does. */
static void check_dirty(struct kvm_vm *vm, struct kvm_vcpu *vcpu, void *mem,
			enum apic_page page, enum stop last)
{
	unsigned long *bitmap = bitmap_zalloc(NR_PAGES);
	enum stop stop;

	vm_set_user_memory_region(vm, PAGES_SLOT, KVM_MEM_LOG_DIRTY_PAGES, PAGES_GPA,
				  NR_PAGES * PAGE_SIZE, mem);
	run_to(vcpu, IN_L2);
	for (stop = VMEXIT; stop <= last; stop++) {
		kvm_vm_get_dirty_log(vm, PAGES_SLOT, bitmap);
		run_to(vcpu, stop);
		kvm_vm_get_dirty_log(vm, PAGES_SLOT, bitmap);
		TEST_ASSERT(test_bit(page, bitmap), "Before stop %u: the page isn't dirty",
			    stop);
	}
	free(bitmap);
}

static void test_replace(enum apic_page page, enum way way)
{
	void *old = map_pages(NULL), *mem;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, l1_guest_code, old);

	pr_info("%s, %s\n", page_names[page], way_names[way]);

	run_l2(vm, vcpu, 5, 5);
	TEST_ASSERT(*vtpr(old) == 5 << 4, "VTPR is %x", *vtpr(old));

	mem = replace(vm, old, page, way);
	run_l2(vm, vcpu, 6, 6);
	TEST_ASSERT(*vtpr(mem) == 6 << 4, "The new page has VTPR %x", *vtpr(mem));
	TEST_ASSERT(mem == old || *vtpr(old) == 5 << 4,
		    "Hardware still writes to the old page: %x", *vtpr(old));

	mem = replace(vm, mem, page, way);
	*vtpr(mem) = 7 << 4;
	run_l2(vm, vcpu, 0, 7);

	kvm_vm_free(vm);
}

/* KVM_RUN fails until the page is there again. */
static void check_error_stays(struct kvm_vcpu *vcpu)
{
	int i;

	for (i = 0; i < 2; i++) {
		vcpu_run(vcpu);
		TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_INTERNAL_ERROR);
		TEST_ASSERT(vcpu->run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION,
			    "suberror %u", vcpu->run->internal.suberror);
	}
}

/* Take the page away, see KVM_RUN fail, and map new pages. */
static void check_gone(struct kvm_vcpu *vcpu, void *mem, enum apic_page page)
{
	munmap(mem + page * PAGE_SIZE, PAGE_SIZE);
	check_error_stays(vcpu);
	map_pages(mem);
}

static void test_gone(enum apic_page page)
{
	void *mem = map_pages(NULL);
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, l1_guest_code, mem);

	pr_info("%s, gone\n", page_names[page]);

	run_l2(vm, vcpu, 5, 5);
	check_gone(vcpu, mem, page);
	*vtpr(mem) = 7 << 4;
	run_l2(vm, vcpu, 0, 7);
	kvm_vm_free(vm);
}

/* Post an interrupt, as a device does, and let L2 receive it. */
static void post(struct kvm_vm *vm, struct kvm_vcpu *vcpu, void *mem, uint64_t nr)
{
	struct kvm_msi msi = { .address_lo = 0xfee00000, .data = NOTIFICATION_VECTOR };
	unsigned long *pir = mem + PI_DESC * PAGE_SIZE, *control = pir + 4;
	struct ucall uc;

	__set_bit(POSTED_VECTOR, pir);
	*control |= 1;
	TEST_ASSERT(__vm_ioctl(vm, KVM_SIGNAL_MSI, &msi) == 1,
		    __KVM_SYSCALL_ERROR("KVM_SIGNAL_MSI", -1));
	uc = vcpu_run_until_sync(vcpu);
	TEST_ASSERT(uc.args[1] == nr, "L2 has received %lu interrupts, not %lu", uc.args[1], nr);
	TEST_ASSERT(!test_bit(POSTED_VECTOR, pir) && !(*control & 1),
		    "The descriptor still has the interrupt");
}

static struct kvm_vm *create_posted_vm(struct kvm_vcpu **vcpu, void *mem)
{
	struct kvm_vm *vm = create_vm(vcpu, l1_posted_code, mem);
	struct ucall uc;

	vm_install_exception_handler(vm, POSTED_VECTOR, l2_posted_handler);
	/* Bochs 3.0 takes the vector from RVI, after it has cleared RVI. */
	vm_install_exception_handler(vm, 0, l2_posted_handler);
	uc = vcpu_run_until_sync(*vcpu);
	TEST_ASSERT(!uc.args[1], "L2 has received %lu interrupts", uc.args[1]);
	post(vm, *vcpu, mem, 1);
	return vm;
}

static void test_replace_pi_desc(enum way way)
{
	void *mem = map_pages(NULL);
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_posted_vm(&vcpu, mem);

	pr_info("%s, %s\n", page_names[PI_DESC], way_names[way]);

	mem = replace(vm, mem, PI_DESC, way);
	post(vm, vcpu, mem, 2);
	mem = replace(vm, mem, PI_DESC, way);
	post(vm, vcpu, mem, 3);
	kvm_vm_free(vm);
}

static void test_no_pi_desc(void)
{
	void *mem = map_pages(NULL);
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_posted_vm(&vcpu, mem);

	pr_info("%s, gone\n", page_names[PI_DESC]);

	check_gone(vcpu, mem, PI_DESC);
	post(vm, vcpu, mem, 2);
	kvm_vm_free(vm);
}

static bool has_posted_interrupts(void)
{
	return kvm_get_feature_msr(MSR_IA32_VMX_TRUE_PINBASED_CTLS) >> 32 &
	       PIN_BASED_POSTED_INTR;
}

/* Have L1 intercept all MSRs, or none. */
static void check_msr(struct kvm_vcpu *vcpu, void *mem, bool intercept)
{
	struct ucall uc;

	memset(mem + MSR_PERMISSIONS * PAGE_SIZE, intercept ? 0xff : 0, PAGE_SIZE);
	uc = vcpu_run_until_sync(vcpu);
	TEST_ASSERT(uc.args[1] == intercept, "RDMSR %s to L1",
		    uc.args[1] ? "exits" : "doesn't exit");
}

static void test_msr_bitmap(enum way way)
{
	void *mem = map_pages(NULL);
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, l1_msr_code, mem);

	pr_info("MSR bitmap, %s\n", way_names[way]);

	check_msr(vcpu, mem, true);
	check_msr(vcpu, mem, false);
	mem = replace(vm, mem, MSR_PERMISSIONS, way);
	check_msr(vcpu, mem, true);
	mem = replace(vm, mem, MSR_PERMISSIONS, way);
	check_msr(vcpu, mem, false);
	kvm_vm_free(vm);
}

static void ignore_signal(int signal)
{
}

static void test_signal(enum apic_page page)
{
	const struct sigaction action = { .sa_handler = ignore_signal };
	const struct itimerval timer = {
		.it_value.tv_usec = 20000,
		.it_interval.tv_usec = 20000,
	}, no_timer = {};
	void *mem = map_pages(NULL), *addr = mem + page * PAGE_SIZE;
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)addr, .len = PAGE_SIZE },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	struct uffdio_zeropage zero = { .range = reg.range };
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, l1_guest_code, mem);
	int uffd, ret;

	pr_info("%s, missing until a signal arrives\n", page_names[page]);

	run_l2(vm, vcpu, 5, 5);

	uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	TEST_ASSERT(uffd >= 0, __KVM_SYSCALL_ERROR("userfaultfd()", uffd));
	TEST_ASSERT(!ioctl(uffd, UFFDIO_API, &api), __KVM_SYSCALL_ERROR("UFFDIO_API", -1));
	TEST_ASSERT(!ioctl(uffd, UFFDIO_REGISTER, &reg),
		    __KVM_SYSCALL_ERROR("UFFDIO_REGISTER", -1));
	replace(vm, mem, page, DROP);

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
	ret = __vcpu_run(vcpu);
	TEST_ASSERT(ret == -1 && errno == EINTR, "KVM_RUN: %d, errno %d", ret, errno);
	setitimer(ITIMER_REAL, &no_timer, NULL);

	TEST_ASSERT(!ioctl(uffd, UFFDIO_ZEROPAGE, &zero),
		    __KVM_SYSCALL_ERROR("UFFDIO_ZEROPAGE", -1));
	close(uffd);
	*vtpr(mem) = 7 << 4;
	run_l2(vm, vcpu, 0, 7);
	kvm_vm_free(vm);
}

static struct hv_enlightened_vmcs *evmcs(void *mem)
{
	return mem + EVMCS * PAGE_SIZE;
}

static struct kvm_vm *create_evmcs_vm(struct kvm_vcpu **vcpu, void *mem)
{
	struct kvm_vm *vm = create_vm(vcpu, l1_evmcs_code, mem);
	struct hyperv_test_pages *hv;
	struct kvm_regs regs;
	vm_vaddr_t gva;

	vcpu_set_hv_cpuid(*vcpu);
	vcpu_enable_evmcs(*vcpu);
	hv = vcpu_alloc_hyperv_test_pages(vm, &gva);
	hv->enlightened_vmcs = (void *)(PAGES_GVA + EVMCS * PAGE_SIZE);
	hv->enlightened_vmcs_gpa = PAGES_GPA + EVMCS * PAGE_SIZE;

	/* The second argument of l1_evmcs_code() */
	vcpu_regs_get(*vcpu, &regs);
	regs.rsi = gva;
	vcpu_regs_set(*vcpu, &regs);
	return vm;
}

static void test_evmcs(enum way way)
{
	void *mem = map_pages(NULL), *old = mem;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_evmcs_vm(&vcpu, mem);
	struct ucall uc;

	pr_info("Enlightened VMCS, %s\n", way_names[way]);

	run_to(vcpu, IN_L2);
	mem = replace_by_copy(vm, mem, EVMCS, way);
	run_to(vcpu, VMEXIT);
	TEST_ASSERT(evmcs(mem)->vm_exit_reason == EXIT_REASON_VMCALL,
		    "The new page has exit reason %x", evmcs(mem)->vm_exit_reason);
	TEST_ASSERT(mem == old || evmcs(old)->vm_exit_reason != EXIT_REASON_VMCALL,
		    "KVM still writes to the old page");

	mem = replace_by_copy(vm, mem, EVMCS, way);
	evmcs(mem)->guest_idtr_limit = 0x1234;
	evmcs(mem)->hv_clean_fields = 0;
	uc = run_to(vcpu, IN_L2);
	TEST_ASSERT(uc.args[2] == 0x1234, "L2 has an IDT limit of %lx", uc.args[2]);
	kvm_vm_free(vm);
}

static void test_dirty_evmcs(void)
{
	void *mem = map_pages(NULL);
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_evmcs_vm(&vcpu, mem);

	pr_info("Enlightened VMCS, logged as dirty\n");

	check_dirty(vm, vcpu, mem, EVMCS, VMEXIT);
	kvm_vm_free(vm);
}

/* Move the vCPU and its memory to another VM. */
static struct kvm_vcpu *migrate(struct kvm_vm *vm, struct kvm_vcpu *vcpu, void *mem)
{
	struct kvm_x86_state *state = vcpu_save_state(vcpu);

	kvm_vm_release(vm);
	vcpu = vm_recreate_with_one_vcpu(vm);
	vcpu_set_hv_cpuid(vcpu);
	vcpu_enable_evmcs(vcpu);
	vm_set_user_memory_region(vm, PAGES_SLOT, 0, PAGES_GPA, NR_PAGES * PAGE_SIZE, mem);
	vcpu_load_state(vcpu, state);
	kvm_x86_state_cleanup(state);
	return vcpu;
}

/* The VP assist page tells where the enlightened VMCS is. */
static void check_no_vp_assist(struct kvm_vcpu *vcpu)
{
	uint64_t msr = vcpu_get_msr(vcpu, HV_X64_MSR_VP_ASSIST_PAGE);
	void *hva = addr_gpa2hva(vcpu->vm, msr & HV_X64_MSR_VP_ASSIST_PAGE_ADDRESS_MASK);

	TEST_ASSERT(!mprotect(hva, PAGE_SIZE, PROT_NONE), "mprotect");
	check_error_stays(vcpu);
	TEST_ASSERT(!mprotect(hva, PAGE_SIZE, PROT_READ | PROT_WRITE), "mprotect");
}

static void test_no_evmcs(bool migrated)
{
	struct hv_enlightened_vmcs copy;
	void *mem = map_pages(NULL);
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_evmcs_vm(&vcpu, mem);

	pr_info("Enlightened VMCS, gone%s\n", migrated ? " after a migration" : "");

	run_to(vcpu, IN_L2);
	copy = *evmcs(mem);
	if (migrated) {
		vcpu = migrate(vm, vcpu, mem);
		check_no_vp_assist(vcpu);
	}
	check_gone(vcpu, mem, EVMCS);
	*evmcs(mem) = copy;
	run_to(vcpu, VMEXIT);
	TEST_ASSERT(evmcs(mem)->vm_exit_reason == EXIT_REASON_VMCALL,
		    "The new page has exit reason %x", evmcs(mem)->vm_exit_reason);
	run_to(vcpu, IN_L2);
	kvm_vm_free(vm);
}

static struct vmcb *vmcb(void *mem)
{
	return mem + VMCB * PAGE_SIZE;
}

/* Fields that KVM or L2 must change get other values in the new page. */
static void *replace_vmcb(struct kvm_vm *vm, void *mem, enum way way, uint64_t value)
{
	mem = replace_by_copy(vm, mem, VMCB, way);
	vmcb(mem)->control.exit_code = 0;
	vmcb(mem)->save.cr2 = value;
	vmcb(mem)->save.kernel_gs_base = value;
	return mem;
}

static void test_vmcb(enum way way)
{
	void *mem = map_pages(NULL), *old;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, l1_svm_code, mem);
	struct ucall uc;

	pr_info("VMCB, %s\n", way_names[way]);

	run_to(vcpu, IN_L2);
	old = mem;
	mem = replace_vmcb(vm, mem, way, 1);
	run_to(vcpu, VMEXIT);
	TEST_ASSERT(vmcb(mem)->control.exit_code == SVM_EXIT_VMMCALL,
		    "The new page has exit code %x", vmcb(mem)->control.exit_code);
	TEST_ASSERT(vmcb(mem)->save.cr2 == OF_L2, "The new page has CR2 %lx",
		    (long)vmcb(mem)->save.cr2);
	TEST_ASSERT(mem == old || vmcb(old)->control.exit_code != SVM_EXIT_VMMCALL,
		    "KVM still writes to the old page");

	mem = replace_vmcb(vm, mem, way, 2);
	run_to(vcpu, SAVED);
	TEST_ASSERT(vmcb(mem)->save.kernel_gs_base == OF_L2,
		    "The new page has KERNEL_GS_BASE %lx", (long)vmcb(mem)->save.kernel_gs_base);

	mem = replace_vmcb(vm, mem, way, 3);
	uc = run_to(vcpu, IN_L2);
	TEST_ASSERT(uc.args[2] == 3 && uc.args[3] == 3,
		    "L2 has CR2 %lx and KERNEL_GS_BASE %lx", uc.args[2], uc.args[3]);
	kvm_vm_free(vm);
}

static void test_dirty_vmcb(void)
{
	void *mem = map_pages(NULL);
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, l1_svm_code, mem);

	pr_info("VMCB, logged as dirty\n");

	check_dirty(vm, vcpu, mem, VMCB, SAVED);
	kvm_vm_free(vm);
}

static void test_no_vmcb(bool delete)
{
	void *mem = map_pages(NULL);
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, l1_svm_code, mem);

	pr_info("VMCB, %s\n", delete ? "its memslot deleted" : "gone");

	run_to(vcpu, IN_L2);
	if (delete)
		vm_set_user_memory_region(vm, PAGES_SLOT, 0, PAGES_GPA, 0, NULL);
	else
		munmap(vmcb(mem), PAGE_SIZE);
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_SHUTDOWN);
	kvm_vm_free(vm);
}

static void test_vmcb_without_memory(void)
{
	void *mem = map_pages(NULL);
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, l1_svm_no_memory, mem);

	pr_info("VMCB, at addresses without memory\n");

	run_to(vcpu, FAULTED);
	vm_set_user_memory_region(vm, PAGES_SLOT, 0, PAGES_GPA, 0, NULL);
	run_to(vcpu, FAULTED);
	kvm_vm_free(vm);
}

/* KVM gives the VM up if it can't store L1's state at an SMI.  No call works then. */
static void test_dead_vm(void)
{
	struct kvm_xen_vcpu_attr attr = { .type = KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO };
	void *mem = map_pages(NULL);
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, l1_svm_code, mem);
	int ret;

	pr_info("VMCB, of a VM that has died\n");

	run_to(vcpu, IN_L2);
	munmap(mem + HOST_SAVE_AREA * PAGE_SIZE, PAGE_SIZE);
	vcpu_ioctl(vcpu, KVM_SMI, NULL);
	ret = __vcpu_run(vcpu);
	TEST_ASSERT(ret == -1 && errno == EIO, "KVM_RUN: %d, errno %d", ret, errno);
	ret = __vcpu_ioctl(vcpu, KVM_XEN_VCPU_SET_ATTR, &attr);
	TEST_ASSERT(ret == -1 && errno == EIO, "KVM_XEN_VCPU_SET_ATTR: %d, errno %d",
		    ret, errno);
	/* kvm_vm_free() would delete memslots first. */
	kvm_vm_release(vm);
}

static void test_svm(void)
{
	enum way way;

	for (way = 0; way < NR_WAYS; way++)
		if (can_replace(way))
			test_vmcb(way);
	test_dirty_vmcb();
	test_no_vmcb(false);
	test_no_vmcb(true);
	test_vmcb_without_memory();
	if (kvm_has_cap(KVM_CAP_X86_SMM))
		test_dead_vm();
	else
		print_skip("KVM has no SMM, which a VM that dies takes");
}

static void test_vmx(void)
{
	enum apic_page page;
	enum way way;

	for (page = VIRTUAL_APIC; page <= APIC_ACCESS; page++) {
		for (way = 0; way < NR_WAYS; way++)
			if (can_replace(way))
				test_replace(page, way);
		test_gone(page);
		if (!devmem)
			test_signal(page);
	}
	for (way = 0; way < NR_WAYS; way++)
		if (can_replace(way))
			test_msr_bitmap(way);

	if (has_posted_interrupts()) {
		for (way = 0; way < NR_WAYS; way++)
			if (can_replace(way))
				test_replace_pi_desc(way);
		test_no_pi_desc();
	} else {
		print_skip("KVM doesn't let L1 post interrupts to L2");
	}

	if (!kvm_has_cap(KVM_CAP_HYPERV_ENLIGHTENED_VMCS)) {
		print_skip("KVM has no enlightened VMCS");
		return;
	}
	for (way = 0; way < NR_WAYS; way++)
		if (can_replace(way))
			test_evmcs(way);
	test_dirty_evmcs();
	test_no_evmcs(false);
	test_no_evmcs(true);
}

struct storm {
	struct kvm_vm *vm;
	void *mem;
	bool stop;
};

/* Fork, and have KVM copy each page at the next write, since a child has it, too. */
static void *storm_copies(void *arg)
{
	struct storm *storm = arg;
	long copies = 0;
	pid_t child;

	for (; !READ_ONCE(storm->stop); copies++) {
		child = fork();
		TEST_ASSERT(child >= 0, __KVM_SYSCALL_ERROR("fork()", child));
		if (!child) {
			usleep(1000);
			_exit(0);
		}
		waitpid(child, NULL, 0);
		/* The vCPU has to get on. */
		usleep(1000);
	}
	return (void *)copies;
}

/* Add, change and delete a memslot, so that KVM looks all memslots up again. */
static void *storm_memslots(void *arg)
{
	struct storm *storm = arg;
	void *mem = map_pages(NULL);
	long changes = 0;

	for (; !READ_ONCE(storm->stop); changes += 3) {
		vm_set_user_memory_region(storm->vm, PAGES_SLOT + 1, 0, OTHER_GPA,
					  NR_PAGES * PAGE_SIZE, mem);
		vm_set_user_memory_region(storm->vm, PAGES_SLOT + 1, KVM_MEM_LOG_DIRTY_PAGES,
					  OTHER_GPA, NR_PAGES * PAGE_SIZE, mem);
		vm_set_user_memory_region(storm->vm, PAGES_SLOT + 1, 0, OTHER_GPA, 0, NULL);
	}
	munmap(mem, NR_PAGES * PAGE_SIZE);
	return (void *)changes;
}

/* Have the host move the pages, which fails while something has a reference to them. */
static void *storm_moves(void *arg)
{
	struct storm *storm = arg;
	long moves = 0;
	int i;

	for (i = 0; !READ_ONCE(storm->stop); i++) {
		if (!madvise(storm->mem + i % NR_PAGES * PAGE_SIZE, PAGE_SIZE,
			     MADV_SOFT_OFFLINE))
			moves++;
		/* Each move takes a page from the host. */
		usleep(100000);
	}
	return (void *)moves;
}

static void test_storm(int seconds)
{
	bool vmx = kvm_cpu_has(X86_FEATURE_VMX);
	struct storm storm = { .mem = map_pages(NULL) };
	void *copies, *changes, *moves;
	pthread_t threads[3];
	struct kvm_vcpu *vcpu;
	struct timespec begin;
	uint64_t trips;

	storm.vm = create_vm(&vcpu, vmx ? (void *)l1_vmx_storm : (void *)l1_svm_storm,
			     storm.mem);
	pthread_create(&threads[0], NULL, storm_copies, &storm);
	pthread_create(&threads[1], NULL, storm_memslots, &storm);
	pthread_create(&threads[2], NULL, storm_moves, &storm);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	do {
		trips = vcpu_run_until_sync(vcpu).args[1] / 2;
	} while (timespec_elapsed(begin).tv_sec < seconds);
	WRITE_ONCE(storm.stop, true);
	pthread_join(threads[0], &copies);
	pthread_join(threads[1], &changes);
	pthread_join(threads[2], &moves);

	pr_info("Storm: %lu round trips, %ld times copied, %ld memslot changes, %ld pages moved\n",
		trips, (long)copies, (long)changes, (long)moves);
	TEST_ASSERT(copies && changes && moves, "Something was never done");
	kvm_vm_free(storm.vm);
}

static void help(const char *name)
{
	printf("usage: %s [-t SECONDS | -m ADDRESS]\n"
	       "  -t  how long the storm lasts, 2 by default\n"
	       "  -m  a host-physical address; boot with mem= so that the kernel leaves\n"
	       "      16 MiB from there on alone; without what needs a struct page\n", name);
	exit(KSFT_FAIL);
}

int main(int argc, char *argv[])
{
	int seconds = 2, opt;

	while ((opt = getopt(argc, argv, "hm:t:")) != -1) {
		if (opt == 'm')
			devmem = strtoull(optarg, NULL, 0);
		else if (opt == 't')
			seconds = atoi_positive("Seconds", optarg);
		else
			help(argv[0]);
	}

	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX) || kvm_cpu_has(X86_FEATURE_SVM));

	if (kvm_cpu_has(X86_FEATURE_VMX))
		test_vmx();
	else
		test_svm();
	if (!devmem)
		test_storm(seconds);
	return 0;
}
