// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test pages of L1 that hardware uses while L2 runs, and that the VMM replaces.
 *
 * L2 stops in the VMM, which replaces a page and runs the vCPU again.  Hardware has to
 * use the new page at once:
 *
 *  - The virtual-APIC page: L2 writes CR8, and the VMM finds it in the new page.  The
 *    VMM writes VTPR to the new page, and L2 reads it from CR8.
 *  - The APIC-access page: L2 reads TPR there and gets VTPR, not bytes of the page.
 *
 * If a page is gone for good, KVM_RUN returns an error, and L2 goes on when the page is
 * back.  A page whose fault userspace handles keeps the vCPU waiting until a signal
 * arrives.  Pages are not pinned, so the host can move them.
 *
 * KVM itself uses the MSR bitmap, at each entry into L2.  The VMM replaces it between
 * two entries.
 */
#include <linux/mman.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "vmx.h"

#define PAGES_GPA	BIT_ULL(30)
#define PAGES_GVA	0xc0000000ull
#define PAGES_SLOT	10

enum apic_page { VIRTUAL_APIC, APIC_ACCESS, NR_PAGES, MSR_PERMISSIONS = APIC_ACCESS };
static const char * const page_names[] = { "virtual-APIC page", "APIC-access page" };

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

static void l1_guest_code(struct vmx_pages *vmx)
{
	static unsigned long l2_stack[64];

	GUEST_ASSERT(prepare_for_vmx_operation(vmx));
	GUEST_ASSERT(load_vmcs(vmx));
	prepare_vmcs(vmx, l2_guest_code, &l2_stack[ARRAY_SIZE(l2_stack)]);

	vmwrite(CPU_BASED_VM_EXEC_CONTROL, vmreadz(CPU_BASED_VM_EXEC_CONTROL) |
		CPU_BASED_ACTIVATE_SECONDARY_CONTROLS | CPU_BASED_TPR_SHADOW);
	vmwrite(SECONDARY_VM_EXEC_CONTROL, vmreadz(SECONDARY_VM_EXEC_CONTROL) |
		SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES);
	vmwrite(VIRTUAL_APIC_PAGE_ADDR, PAGES_GPA + VIRTUAL_APIC * PAGE_SIZE);
	vmwrite(APIC_ACCESS_ADDR, PAGES_GPA + APIC_ACCESS * PAGE_SIZE);
	vmwrite(TPR_THRESHOLD, 0);

	GUEST_ASSERT(!vmlaunch());
	GUEST_FAIL("L2 exited to L1, reason %lx", vmreadz(VM_EXIT_REASON));
}

static void l2_msr_code(void)
{
	for (;;) {
		rdmsr(MSR_FS_BASE);
		vmcall();
	}
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

static void *map_pages(void *where)
{
	void *mem = mmap(where, NR_PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | (where ? MAP_FIXED : 0),
			 -1, 0);

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
	vm_vaddr_t vmx_gva;

	vcpu_alloc_vmx(vm, &vmx_gva);
	vcpu_args_set(*vcpu, 1, vmx_gva);
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

/* Return where the pages are then. */
static void *replace(struct kvm_vm *vm, void *mem, enum apic_page page, enum way way)
{
	void *addr = mem + page * PAGE_SIZE;
	void *new;

	switch (way) {
	case DROP:
		TEST_ASSERT(!madvise(addr, PAGE_SIZE, MADV_DONTNEED),
			    __KVM_SYSCALL_ERROR("madvise()", -1));
		return mem;
	case MAP_OVER:
		TEST_ASSERT(mmap(addr, PAGE_SIZE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == addr,
			    __KVM_SYSCALL_ERROR("mmap()", -1));
		return mem;
	case MOVE_SLOT:
		new = map_pages(NULL);
		vm_set_user_memory_region(vm, PAGES_SLOT, 0, PAGES_GPA, 0, NULL);
		vm_set_user_memory_region(vm, PAGES_SLOT, 0, PAGES_GPA,
					  NR_PAGES * PAGE_SIZE, new);
		return new;
	case SOFT_OFFLINE:
		TEST_ASSERT(!madvise(addr, PAGE_SIZE, MADV_SOFT_OFFLINE),
			    __KVM_SYSCALL_ERROR("madvise(MADV_SOFT_OFFLINE)", -1));
		return mem;
	default:
		TEST_FAIL("No way %d", way);
		return NULL;
	}
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

static void test_gone(enum apic_page page)
{
	void *mem = map_pages(NULL);
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, l1_guest_code, mem);
	int i;

	pr_info("%s, gone\n", page_names[page]);

	run_l2(vm, vcpu, 5, 5);
	munmap(mem + page * PAGE_SIZE, PAGE_SIZE);
	/* The error stays. */
	for (i = 0; i < 2; i++) {
		vcpu_run(vcpu);
		TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_INTERNAL_ERROR);
		TEST_ASSERT(vcpu->run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION,
			    "suberror %u", vcpu->run->internal.suberror);
	}

	map_pages(mem);
	*vtpr(mem) = 7 << 4;
	run_l2(vm, vcpu, 0, 7);
	kvm_vm_free(vm);
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

int main(void)
{
	enum apic_page page;
	enum way way;

	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX));

	for (page = 0; page < NR_PAGES; page++) {
		for (way = 0; way < NR_WAYS; way++)
			test_replace(page, way);
		test_gone(page);
		test_signal(page);
	}
	for (way = 0; way < NR_WAYS; way++)
		test_msr_bitmap(way);
	return 0;
}
