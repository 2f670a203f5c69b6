// SPDX-License-Identifier: GPL-2.0-only
/*
 * Private memory on arm64: which pages KVM maps, unmaps and refuses in a VM of
 * type KVM_VM_TYPE_ARM_SW_PROTECTED, and how its guest asks for conversions.
 *
 * The guest does one operation per run.  To convert memory, it makes the hypercalls
 * that Linux makes in a protected guest (MEM_SHARE and MEM_UNSHARE,
 * drivers/virt/coco/pkvm-guest).  The SMCCC filter forwards them to this VMM.  The
 * dump of the stage-2 page table shows which pages are mapped.
 *
 * Sizes are in pages of the host, which may have 4, 16 or 64 KiB.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/arm-smccc.h>
#include <linux/falloc.h>
#include <linux/sizes.h>

#include "kselftest.h"
#include "kvm_util.h"
#include "private_mem.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
#define SLOT		10
#define BASE		((uint64_t)SZ_4G)

#define VENDOR_HYP(n)	ARM_SMCCC_CALL_VAL(ARM_SMCCC_FAST_CALL, ARM_SMCCC_SMC_64, \
					   ARM_SMCCC_OWNER_VENDOR_HYP, n)
#define HYP_FEATURES	ARM_SMCCC_CALL_VAL(ARM_SMCCC_FAST_CALL, ARM_SMCCC_SMC_32, \
					   ARM_SMCCC_OWNER_VENDOR_HYP, 0)
#define HYP_MEMINFO	VENDOR_HYP(2)
#define MEM_SHARE	VENDOR_HYP(3)
#define MEM_UNSHARE	VENDOR_HYP(4)
#define SERVICES	(BIT(2) | BIT(3) | BIT(4))

static uint64_t psz;		/* page size of the host */

/* ---- Guest -------------------------------------------------------------- */

enum op { OP_READ, OP_WRITE, OP_EXEC, OP_SERVICES, OP_SHARE, OP_UNSHARE };

static struct {
	enum op op;
	uint64_t gpa;
	uint64_t value;
} cmd;

static uint64_t hypercall(uint32_t function, uint64_t gpa)
{
	struct arm_smccc_res res;

	smccc_hvc(function, gpa, 0, 0, 0, 0, 0, 0, &res);
	return res.a0;
}

/* Write "ret" to the page and call it. */
static void guest_exec(uint64_t gpa)
{
	WRITE_ONCE(*(uint32_t *)gpa, 0xd65f03c0);
	asm volatile("dc cvau, %0; dsb ish; ic ivau, %0; dsb ish; isb"
		     : : "r" (gpa) : "memory");
	((void (*)(void))gpa)();
}

static void guest_code(void)
{
	for (;;) {
		switch (cmd.op) {
		case OP_READ:
			cmd.value = READ_ONCE(*(uint64_t *)cmd.gpa);
			break;
		case OP_WRITE:
			WRITE_ONCE(*(uint64_t *)cmd.gpa, cmd.value);
			break;
		case OP_EXEC:
			guest_exec(cmd.gpa);
			break;
		case OP_SERVICES:
			cmd.value = hypercall(HYP_FEATURES, 0);
			GUEST_ASSERT_EQ(hypercall(HYP_MEMINFO, 0), cmd.gpa);
			break;
		case OP_SHARE:
			cmd.value = hypercall(MEM_SHARE, cmd.gpa);
			break;
		case OP_UNSHARE:
			cmd.value = hypercall(MEM_UNSHARE, cmd.gpa);
			break;
		}
		GUEST_SYNC(0);
	}
}

/* ---- VMM ---------------------------------------------------------------- */

static uint64_t page(int n)
{
	return BASE + n * psz;
}

/* Return the size of the smallest block: the memory that a page of entries maps. */
static uint64_t block_size(void)
{
	return psz / 8 * psz;
}

static void forward(struct kvm_vm *vm, uint32_t first, int nr)
{
	struct kvm_smccc_filter filter = {
		.base = first,
		.nr_functions = nr,
		.action = KVM_SMCCC_FILTER_FWD_TO_USER,
	};

	kvm_device_attr_set(vm->fd, KVM_ARM_VM_SMCCC_CTRL, KVM_ARM_VM_SMCCC_FILTER,
			    &filter);
}

/* Create a VM whose guest maps @pages pages at BASE, without a slot yet. */
static struct kvm_vm *create_vm(struct kvm_vcpu **vcpu, int pages)
{
	struct kvm_vm *vm;

	vm = vm_create_shape_with_one_vcpu(sw_protected_shape(), vcpu, guest_code);
	virt_map(vm, BASE, BASE, pages * psz / vm->page_size);
	return vm;
}

/* Handle a hypercall as a VMM does that lets its guest convert memory. */
static void handle_hypercall(struct kvm_vcpu *vcpu)
{
	uint64_t gpa, ret = SMCCC_RET_SUCCESS;

	vcpu_get_reg(vcpu, ARM64_CORE_REG(regs.regs[1]), &gpa);
	switch (vcpu->run->hypercall.nr) {
	case HYP_FEATURES:
		ret = SERVICES;
		break;
	case HYP_MEMINFO:
		ret = psz;
		break;
	case MEM_SHARE:
		vm_mem_set_shared(vcpu->vm, gpa, psz);
		break;
	case MEM_UNSHARE:
		vm_mem_set_private(vcpu->vm, gpa, psz);
		break;
	default:
		TEST_FAIL("Unexpected call 0x%llx", vcpu->run->hypercall.nr);
	}
	vcpu_set_reg(vcpu, ARM64_CORE_REG(regs.regs[0]), ret);
}

/* Run one operation; return 0, or the errno of KVM_RUN. */
static int try_op(struct kvm_vcpu *vcpu, enum op op, uint64_t gpa, uint64_t *value)
{
	struct ucall uc;

	cmd.op = op;
	cmd.gpa = gpa;
	cmd.value = value ? *value : 0;
	sync_global_to_guest(vcpu->vm, cmd);
	while (!_vcpu_run(vcpu)) {
		if (vcpu->run->exit_reason == KVM_EXIT_HYPERCALL) {
			handle_hypercall(vcpu);
			continue;
		}
		switch (get_ucall(vcpu, &uc)) {
		case UCALL_SYNC:
			sync_global_from_guest(vcpu->vm, cmd);
			if (value)
				*value = cmd.value;
			return 0;
		case UCALL_ABORT:
			REPORT_GUEST_ASSERT(uc);
			break;
		default:
			TEST_FAIL("Exit %s", exit_reason_str(vcpu->run->exit_reason));
		}
	}
	return errno;
}

static uint64_t do_op(struct kvm_vcpu *vcpu, enum op op, uint64_t gpa, uint64_t value)
{
	int error = try_op(vcpu, op, gpa, &value);

	TEST_ASSERT(!error, "KVM_RUN failed, errno %d", error);
	return value;
}

#define expect_read(vcpu, gpa, want) \
	TEST_ASSERT_EQ(do_op(vcpu, OP_READ, gpa, 0), (uint64_t)(want))

/* Add a slot of @pages pages at BASE, with a guest_memfd unless @gmem is NULL. */
static char *add_slot(struct kvm_vm *vm, int pages, int *gmem)
{
	char *hva = mmap(NULL, pages * psz, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	TEST_ASSERT(hva != MAP_FAILED, "mmap");
	if (gmem)
		*gmem = vm_create_guest_memfd(vm, pages * psz, 0);
	vm_set_user_memory_region2(vm, SLOT, gmem ? KVM_MEM_GUEST_MEMFD : 0, BASE,
				   pages * psz, hva, gmem ? *gmem : -1, 0);
	return hva;
}

static void punch_hole(int gmem, uint64_t offset, uint64_t size)
{
	TEST_ASSERT(!fallocate(gmem, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
			       offset, size), "Punching a hole failed, errno %d", errno);
}

/* Read from the stage-2 page table which of @nr pages from @gpa on are mapped. */
static void read_mapped(struct kvm_vm *vm, uint64_t gpa, bool *mapped, int nr)
{
	FILE *f = vm_open_debugfs(vm, "stage2_page_tables");
	uint64_t start, end;
	char line[256];
	int i;

	memset(mapped, 0, nr * sizeof(*mapped));
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "0x%lx-0x%lx", &start, &end) != 2 ||
		    !strstr(line, " AF") || strstr(line, " F "))
			continue;
		for (i = 0; i < nr; i++)
			mapped[i] |= start <= gpa + i * psz && gpa + i * psz < end;
	}
	fclose(f);
}

static bool is_mapped(struct kvm_vm *vm, uint64_t gpa)
{
	bool mapped;

	read_mapped(vm, gpa, &mapped, 1);
	return mapped;
}

/* ---- Tests -------------------------------------------------------------- */

static void test_conversion_by_guest(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, 4);
	uint64_t value = 0;
	int gmem, i;
	char *hva;

	forward(vm, HYP_FEATURES, 1);
	forward(vm, HYP_MEMINFO, 3);
	hva = add_slot(vm, 4, &gmem);
	vm_mem_set_private(vm, BASE, 4 * psz);

	TEST_ASSERT_EQ(do_op(vcpu, OP_SERVICES, psz, 0), (uint64_t)SERVICES);
	for (i = 0; i < 4; i++)
		do_op(vcpu, OP_WRITE, page(i), 0x100 + i);
	for (i = 0; i < 4; i++)
		TEST_ASSERT_EQ(*(uint64_t *)(hva + i * psz), 0ul);

	/* Share pages 1 and 2: the guest gets other memory, which the host can write. */
	for (i = 1; i <= 2; i++) {
		TEST_ASSERT_EQ(do_op(vcpu, OP_SHARE, page(i), 0), 0ul);
		expect_read(vcpu, page(i), 0);
		*(uint64_t *)(hva + i * psz) = 0x200 + i;
		expect_read(vcpu, page(i), 0x200 + i);
		do_op(vcpu, OP_WRITE, page(i), 0x300 + i);
		TEST_ASSERT_EQ(*(uint64_t *)(hva + i * psz), 0x300ul + i);
	}
	expect_read(vcpu, page(0), 0x100);
	expect_read(vcpu, page(3), 0x103);

	/* Back to private: the old contents return, until the VMM drops them. */
	TEST_ASSERT_EQ(do_op(vcpu, OP_UNSHARE, page(1), 0), 0ul);
	expect_read(vcpu, page(1), 0x101);
	punch_hole(gmem, psz, psz);
	expect_read(vcpu, page(1), 0);
	expect_read(vcpu, page(2), 0x302);
	expect_read(vcpu, page(3), 0x103);
	TEST_ASSERT(!try_op(vcpu, OP_EXEC, page(1), &value), "Private memory can't be executed");
	TEST_ASSERT(!try_op(vcpu, OP_EXEC, page(2), &value), "Shared memory can't be executed");

	close(gmem);
	kvm_vm_free(vm);
	munmap(hva, 4 * psz);
}

/* A conversion, the host and guest_memfd each unmap only memory of one kind. */
static void test_who_unmaps_what(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, 6);
	int gmem, i;
	char *hva;

	hva = add_slot(vm, 6, &gmem);
	/* Pages 0, 2 and 4 are private. */
	for (i = 0; i < 6; i += 2)
		vm_mem_set_private(vm, page(i), psz);
	for (i = 0; i < 6; i++)
		do_op(vcpu, OP_WRITE, page(i), i);
	for (i = 0; i < 6; i++)
		TEST_ASSERT(is_mapped(vm, page(i)), "Page %d isn't mapped", i);

	/* Convert pages 0 to 2 to private: only page 1 changes. */
	vm_mem_set_private(vm, page(0), 3 * psz);
	TEST_ASSERT(is_mapped(vm, page(0)) && !is_mapped(vm, page(1)) &&
		    is_mapped(vm, page(2)), "To private: %d %d %d mapped",
		    is_mapped(vm, page(0)), is_mapped(vm, page(1)), is_mapped(vm, page(2)));

	/* Convert pages 3 to 5 to shared: only page 4 changes. */
	vm_mem_set_shared(vm, page(3), 3 * psz);
	TEST_ASSERT(is_mapped(vm, page(3)) && !is_mapped(vm, page(4)) &&
		    is_mapped(vm, page(5)), "To shared: %d %d %d mapped",
		    is_mapped(vm, page(3)), is_mapped(vm, page(4)), is_mapped(vm, page(5)));

	/* The host drops its memory: pages 0 to 2 are private, and not affected. */
	TEST_ASSERT(!madvise(hva, 6 * psz, MADV_DONTNEED), "madvise");
	for (i = 0; i < 6; i++)
		TEST_ASSERT(is_mapped(vm, page(i)) == (i == 0 || i == 2),
			    "MADV_DONTNEED: page %d is mapped: %d", i, is_mapped(vm, page(i)));
	expect_read(vcpu, page(3), 0);
	expect_read(vcpu, page(0), 0);
	expect_read(vcpu, page(2), 2);

	/* The guest_memfd loses its memory: page 3 is shared, and not affected. */
	punch_hole(gmem, 0, 6 * psz);
	for (i = 0; i < 6; i++)
		TEST_ASSERT(is_mapped(vm, page(i)) == (i == 3),
			    "Hole: page %d is mapped: %d", i, is_mapped(vm, page(i)));
	expect_read(vcpu, page(2), 0);

	close(gmem);
	kvm_vm_free(vm);
	munmap(hva, 6 * psz);
}

/*
 * Memory of both kinds, in runs of a page up to more than a block: the host drops
 * its memory, or a part of the guest_memfd, and exactly those pages are unmapped.
 */
static void test_unmap_random_ranges(void)
{
	enum { NR = 2048, ROUNDS = 8 };
	bool private[NR], want[NR], mapped[NR], kind = false;
	int gmem, i, len, round, first, nr;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, NR);
	char *hva;

	hva = add_slot(vm, NR, &gmem);
	TEST_ASSERT(!madvise(hva, NR * psz, MADV_NOHUGEPAGE), "madvise");
	for (i = 0; i < NR; i += len, kind = !kind) {
		len = 1 + rand() % (rand() % 8 ? 8 : 900);
		len = min(len, NR - i);
		memset(&private[i], kind, len);
		if (kind)
			vm_mem_set_private(vm, page(i), len * psz);
	}

	memset(want, false, sizeof(want));
	for (round = 0; round < ROUNDS; round++) {
		for (i = 0; i < NR; i++)
			if (!want[i])
				do_op(vcpu, OP_WRITE, page(i), i);
		first = rand() % NR;
		nr = 1 + rand() % (NR - first);
		for (i = 0; i < NR; i++)
			want[i] = i < first || i >= first + nr || private[i] == !(round % 2);

		if (round % 2)
			punch_hole(gmem, first * psz, nr * psz);
		else
			TEST_ASSERT(!madvise(hva + first * psz, nr * psz, MADV_DONTNEED),
				    "madvise");
		read_mapped(vm, page(0), mapped, NR);
		for (i = 0; i < NR; i++)
			TEST_ASSERT(mapped[i] == want[i],
				    "Round %d, pages %d to %d: page %d, private %d, is mapped: %d",
				    round, first, first + nr - 1, i, private[i], mapped[i]);
	}

	close(gmem);
	kvm_vm_free(vm);
	munmap(hva, NR * psz);
}

/* KVM maps a block only where all of it is shared. */
static void test_block(void)
{
	const uint64_t block = block_size();
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, 2);
	char *area, *hva;
	int gmem, pmds, puds, i;

	area = mmap(NULL, 2 * block, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	hva = align_ptr_up(area, block);
	TEST_ASSERT(area != MAP_FAILED && !madvise(hva, block, MADV_HUGEPAGE), "No huge page");
	WRITE_ONCE(*hva, 1);
	gmem = vm_create_guest_memfd(vm, block, 0);
	vm_set_user_memory_region2(vm, SLOT, KVM_MEM_GUEST_MEMFD, BASE, block, hva, gmem, 0);

	for (i = 0; i < 3; i++) {
		do_op(vcpu, OP_READ, page(1), 0);
		vm_get_large_pages(vm, &pmds, &puds);
		TEST_ASSERT(pmds == 1 && !puds, "Shared: %d blocks, round %d", pmds, i);

		vm_mem_set_private(vm, BASE + block - psz, psz);
		vm_get_large_pages(vm, &pmds, &puds);
		TEST_ASSERT(!pmds, "The block stays mapped, round %d", i);
		do_op(vcpu, OP_READ, page(1), 0);
		vm_get_large_pages(vm, &pmds, &puds);
		TEST_ASSERT(!pmds, "A block maps both kinds, round %d", i);

		vm_mem_set_private(vm, BASE, block);
		expect_read(vcpu, page(1), 0);
		vm_get_large_pages(vm, &pmds, &puds);
		TEST_ASSERT(!pmds, "A block maps guest_memfd, round %d", i);
		vm_mem_set_shared(vm, BASE, block);
	}
	close(gmem);
	kvm_vm_free(vm);
	munmap(area, 2 * block);
}

static void expect_fault(struct kvm_vcpu *vcpu, enum op op, const char *why)
{
	struct kvm_run *run = vcpu->run;
	int error = try_op(vcpu, op, BASE, NULL);

	TEST_ASSERT(error == EFAULT && run->exit_reason == KVM_EXIT_MEMORY_FAULT &&
		    run->memory_fault.flags == KVM_MEMORY_EXIT_FLAG_PRIVATE &&
		    run->memory_fault.gpa == BASE && run->memory_fault.size == psz,
		    "%s: errno %d, %s, flags 0x%llx, 0x%llx + 0x%llx", why, error,
		    exit_reason_str(run->exit_reason), run->memory_fault.flags,
		    run->memory_fault.gpa, run->memory_fault.size);
}

/* KVM reports private memory that is missing, and the VMM can supply it. */
static void test_no_memory(void)
{
	static const enum op ops[] = { OP_READ, OP_WRITE };
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int gmem, i;
	char *hva;

	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		vm = create_vm(&vcpu, 1);
		vm_mem_set_private(vm, BASE, psz);
		expect_fault(vcpu, ops[i], "No slot");
		hva = add_slot(vm, 1, NULL);
		expect_fault(vcpu, ops[i], "A slot without guest_memfd");
		vm_set_user_memory_region2(vm, SLOT, 0, BASE, 0, hva, -1, 0);
		expect_fault(vcpu, ops[i], "A deleted slot");
		munmap(hva, psz);
		hva = add_slot(vm, 1, &gmem);
		do_op(vcpu, ops[i], BASE, 0);
		close(gmem);
		kvm_vm_free(vm);
		munmap(hva, psz);
	}
}

/* Dirty logging of a slot without guest_memfd works as in any VM. */
static void test_dirty_log(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, 4);
	struct kvm_dirty_log log = { .slot = SLOT };
	uint64_t bitmap = 0;
	char *hva = add_slot(vm, 4, NULL);

	do_op(vcpu, OP_WRITE, page(0), 1);
	vm_set_user_memory_region2(vm, SLOT, KVM_MEM_LOG_DIRTY_PAGES, BASE, 4 * psz,
				   hva, -1, 0);
	do_op(vcpu, OP_READ, page(1), 0);
	do_op(vcpu, OP_WRITE, page(2), 1);
	log.dirty_bitmap = &bitmap;
	vm_ioctl(vm, KVM_GET_DIRTY_LOG, &log);
	TEST_ASSERT_EQ(bitmap, 4ul);
	vm_ioctl(vm, KVM_GET_DIRTY_LOG, &log);
	TEST_ASSERT_EQ(bitmap, 0ul);
	kvm_vm_free(vm);
	munmap(hva, 4 * psz);
}

static void test_pre_fault(void)
{
	struct kvm_pre_fault_memory range;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, 4);
	int gmem, i;
	char *hva = add_slot(vm, 4, &gmem);

	static const struct {
		const char *why;
		int start, pages, left, error;
		bool flags;
	} cases[] = {
		{ "private and shared pages",	0, 4, 0, 0 },
		{ "already mapped",		1, 2, 0, 0 },
		{ "beyond the slot",		4, 1, 1, ENOENT },
		{ "flags",			0, 1, 1, EINVAL, true },
	};

	memset(hva, 1, 4 * psz);
	vm_mem_set_private(vm, page(2), 2 * psz);
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		int ret = 0;

		range = (struct kvm_pre_fault_memory) {
			.gpa = page(cases[i].start),
			.size = cases[i].pages * psz,
			.flags = cases[i].flags,
		};
		while (range.size && !ret)
			ret = __vcpu_ioctl(vcpu, KVM_PRE_FAULT_MEMORY, &range);
		TEST_ASSERT((ret ? errno : 0) == cases[i].error &&
			    range.size == cases[i].left * psz, "%s: %d, errno %d, 0x%llx left",
			    cases[i].why, ret, errno, range.size);
	}
	for (i = 0; i < 4; i++)
		TEST_ASSERT(is_mapped(vm, page(i)), "Page %d isn't mapped", i);
	range = (struct kvm_pre_fault_memory) { .gpa = 1ull << 60, .size = psz };
	TEST_ASSERT(__vcpu_ioctl(vcpu, KVM_PRE_FAULT_MEMORY, &range) == -1 &&
		    errno == ENOENT, "Beyond the IPA space: errno %d", errno);
	expect_read(vcpu, page(3), 0);

	/* The call keeps an exit that the VMM has yet to handle. */
	vm_mem_set_private(vm, page(8), psz);
	vcpu->run->exit_reason = KVM_EXIT_UNKNOWN;
	vm_set_user_memory_region2(vm, SLOT + 1, 0, page(8), psz, hva, -1, 0);
	range = (struct kvm_pre_fault_memory) { .gpa = page(8), .size = psz };
	TEST_ASSERT(__vcpu_ioctl(vcpu, KVM_PRE_FAULT_MEMORY, &range) == -1 &&
		    errno == EFAULT, "No guest_memfd: errno %d", errno);
	TEST_ASSERT_EQ(vcpu->run->exit_reason, KVM_EXIT_UNKNOWN);

	/* A vCPU that isn't initialised can't be loaded. */
	vcpu = __vm_vcpu_add(vm, 1);
	range = (struct kvm_pre_fault_memory) { .gpa = page(0), .size = psz };
	TEST_ASSERT(__vcpu_ioctl(vcpu, KVM_PRE_FAULT_MEMORY, &range) == -1 &&
		    errno == ENOEXEC, "No KVM_ARM_VCPU_INIT: errno %d", errno);

	close(gmem);
	kvm_vm_free(vm);
	munmap(hva, 4 * psz);
}

static int create_vm_of_type(uint64_t type)
{
	int kvm_fd = open_kvm_dev_path_or_exit();
	int fd = ioctl(kvm_fd, KVM_CREATE_VM, type);
	int error = errno;

	close(kvm_fd);
	if (fd < 0)
		return error;
	close(fd);
	return 0;
}

static void test_types_and_caps(void)
{
	const uint64_t limit = kvm_check_cap(KVM_CAP_ARM_VM_IPA_SIZE);
	const uint64_t type = KVM_VM_TYPE_ARM_SW_PROTECTED;
	struct kvm_enable_cap mte = { .cap = KVM_CAP_ARM_MTE };
	struct kvm_vm *plain = vm_create_barebones();
	struct kvm_vm *vm = ____vm_create(sw_protected_shape());

	static const int caps[] = { KVM_CAP_MEMORY_ATTRIBUTES, KVM_CAP_GUEST_MEMFD,
				    KVM_CAP_GET_MEMORY_ATTRIBUTES, KVM_CAP_MEMORY_FAULT_INFO,
				    KVM_CAP_SET_MEMORY_ATTRIBUTES_LIST };
	int i;

	TEST_ASSERT_EQ(create_vm_of_type(type | limit), 0);
	TEST_ASSERT_EQ(create_vm_of_type(type | (limit + 1)), EINVAL);
	TEST_ASSERT_EQ(create_vm_of_type(type | 20), EINVAL);
	TEST_ASSERT_EQ(create_vm_of_type(type | BIT(29)), EINVAL);
	TEST_ASSERT_EQ(create_vm_of_type(type | 1ul << 31), EINVAL);

	for (i = 0; i < ARRAY_SIZE(caps); i++)
		TEST_ASSERT(vm_check_cap(vm, caps[i]) && !vm_check_cap(plain, caps[i]),
			    "Capability %d: %d, and %d of a plain VM", caps[i],
			    vm_check_cap(vm, caps[i]), vm_check_cap(plain, caps[i]));
	TEST_ASSERT(vm_check_cap(vm, KVM_CAP_USER_MEMORY2) &&
		    vm_check_cap(vm, KVM_CAP_PRE_FAULT_MEMORY), "Capabilities are missing");

	/* The VMM couldn't save the tags of private pages. */
	TEST_ASSERT(!vm_check_cap(vm, KVM_CAP_ARM_MTE), "MTE is offered");
	TEST_ASSERT(__vm_ioctl(vm, KVM_ENABLE_CAP, &mte) == -1 && errno == EINVAL,
		    "MTE is accepted, errno %d", errno);
	kvm_vm_free(vm);
	kvm_vm_free(plain);
}

static void test_bad_slots(void)
{
	struct kvm_vm *vm = ____vm_create(sw_protected_shape());
	struct kvm_vm *other = ____vm_create(sw_protected_shape());
	struct kvm_vm *plain = vm_create_barebones();
	const uint64_t end = 1ull << vm->pa_bits;
	int gmem = vm_create_guest_memfd(vm, 4 * psz, 0);
	int alien = vm_create_guest_memfd(other, 4 * psz, 0);
	void *hva = mmap(NULL, 4 * psz, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	const struct {
		const char *why;
		struct kvm_vm *vm;
		uint32_t flags;
		uint64_t gpa;
		int gmem;
		uint64_t offset;
		int error;
	} cases[] = {
		{ "another VM's file",	vm, 0, BASE, alien, 0, EINVAL },
		{ "no such file",	vm, 0, BASE, 1000, 0, EBADF },
		{ "dirty logging",	vm, KVM_MEM_LOG_DIRTY_PAGES, BASE, gmem, 0, EINVAL },
		{ "read-only",		vm, KVM_MEM_READONLY, BASE, gmem, 0, EINVAL },
		{ "unaligned offset",	vm, 0, BASE, gmem, 8, EINVAL },
		{ "beyond the file",	vm, 0, BASE, gmem, 4 * psz, EINVAL },
		{ "overlaps a binding",	vm, 0, BASE + 16 * psz, gmem, psz, EINVAL },
		{ "overlaps a slot",	vm, 0, BASE + 7 * psz, gmem, 2 * psz, EEXIST },
		{ "beyond the IPA space", vm, 0, end - psz, gmem, 2 * psz, EFAULT },
		{ "a plain VM",		plain, 0, BASE, gmem, 0, EINVAL },
	};
	int i, ret;

	vm_set_user_memory_region2(vm, SLOT + 1, KVM_MEM_GUEST_MEMFD, BASE + 8 * psz,
				   2 * psz, hva, gmem, 0);
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		ret = __vm_set_user_memory_region2(cases[i].vm, SLOT,
						   KVM_MEM_GUEST_MEMFD | cases[i].flags,
						   cases[i].gpa, 2 * psz, hva,
						   cases[i].gmem, cases[i].offset);
		TEST_ASSERT(ret == -1 && errno == cases[i].error, "%s: %d, errno %d, not %d",
			    cases[i].why, ret, errno, cases[i].error);
	}
	close(gmem);
	close(alien);
	kvm_vm_free(vm);
	kvm_vm_free(other);
	kvm_vm_free(plain);
	munmap(hva, 4 * psz);
}

int main(void)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} tests[] = {
		{ "conversion by the guest",			test_conversion_by_guest },
		{ "unmapping affects only one kind of memory",	test_who_unmaps_what },
		{ "unmapping random ranges of both kinds",	test_unmap_random_ranges },
		{ "only shared memory is mapped by blocks",	test_block },
		{ "missing private memory is reported",		test_no_memory },
		{ "dirty logging",				test_dirty_log },
		{ "pre-faulting",				test_pre_fault },
		{ "types and capabilities",			test_types_and_caps },
		{ "bad slots are refused",			test_bad_slots },
	};
	int i;

	TEST_REQUIRE(sw_protected_vm_supported());
	psz = getpagesize();

	ksft_print_header();
	ksft_set_plan(ARRAY_SIZE(tests));
	for (i = 0; i < ARRAY_SIZE(tests); i++) {
		tests[i].run();
		ksft_test_result_pass("%s\n", tests[i].name);
	}
	ksft_finished();
}
