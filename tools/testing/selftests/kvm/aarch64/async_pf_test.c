// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test asynchronous page faults on arm64.
 *
 * The guest accesses pages that a userfaultfd handler of the VMM holds back.  KVM gives
 * it a token for such a page, and the guest goes on without the page.  When the handler
 * has installed the page, KVM tells the guest the token again.
 *
 * The guest runs one command of the VMM after another.  It has no operating system: its
 * code at EL0 only accesses the page that the VMM names, and leaves the rest to the
 * exception handlers, at EL1.
 */
#include <linux/arm-smccc.h>
#include <linux/kvm_arm_async_pf.h>
#include <linux/kvm_mem.h>
#include <linux/psci.h>
#include <linux/sizes.h>
#include <signal.h>
#include <sys/time.h>

#include "kvm_util.h"
#include "gic.h"
#include "gic_v3.h"
#include "held_pages.h"
#include "kvm_test_harness.h"
#include "private_mem.h"
#include "processor.h"
#include "test_util.h"
#include "vgic.h"

#define PAGES_GPA	BIT_ULL(31)
#define PAGES_GVA	0xc0000000ull
#define PAGES_SLOT	10
#define AREA_GPA	(PAGES_GPA + BIT_ULL(24))
#define AREA_GVA	(PAGES_GVA + BIT_ULL(24))
#define AREA_SLOT	11
/* Each vCPU's area is here. */
#define AREA_SIZE	0x10000

#define MAX_FAULTS	64
#define MAX_VCPUS	2
#define MAX_REPEATS	16
#define RING_ORDER	7
#define NR_IRQS		64
#define PPI		22
#define OTHER_PPI	23
#define PRIORITY	0xa0

enum command {
	READ,		/* Read a page at EL0, or get a token for it. */
	WRITE,
	EXECUTE,	/* Branch to it: it begins with an undefined instruction. */
	READ_MASKED,	/* Read it at EL0 with interrupts masked. */
	READ_AT_EL1,
	READ_ACTIVE,	/* Read it at EL0 while an interrupt is active. */
	READ_MANY,	/* Read so many pages at EL0, all of them present. */
	WAIT,		/* Wait until so many pages have become ready. */
	SPIN,		/* The same, without WFI. */
	CALL,		/* Make the hypercall, with three arguments. */
	CALL_FEATURES,	/* Make the call that returns which hypercalls KVM has. */
	CALL_CPU_ON,	/* Turn another vCPU on. */
	SET_PPI,	/* Enable the PPI, or disable it. */
	SET_PRIORITY,	/* Set its priority. */
	SET_GROUP,	/* Enable interrupts of group 1, or disable them. */
	SET_GIC,	/* Enable the distributor, or disable it. */
};

/* What the handler of the PPI does with a token, or with a ring that isn't empty */
enum behaviour {
	SLEEP,		/* Leave the access, as if another task ran now. */
	TRY_AGAIN,	/* Access the page again. */
	KEEP,		/* Leave the access, and the token in the area. */
	KEEP_AND_TRY,	/* Access the page again, and leave the token in the area. */
	KEEP_RING,	/* Sleep, and leave the ring as it is. */
};

/* What the guest and the VMM share, for each vCPU. */
static struct guest {
	enum command command;
	uint64_t args[3];
	enum behaviour behaviour;

	uint32_t token;
	uint64_t value;
	uint64_t results[4];
	int nr_spurious;
	int nr_ready;
	uint32_t ready[4 * MAX_FAULTS];
	uint32_t generation;
	int order;	/* of the ring */
	uint64_t stack;
} guests[MAX_VCPUS];

static struct guest *this_guest(void)
{
	return &guests[guest_get_vcpuid()];
}

static struct kvm_arm_async_pf_area *this_area(void)
{
	return (void *)(AREA_GVA + guest_get_vcpuid() * AREA_SIZE);
}

/*
 * At EL0: x0 is the address of a page; x2 says whether to write to it, x5 whether to branch
 * to it, and x3 how many pages of x4 bytes to read in a row.  Each access is one instruction.
 * If there is a token, the handler goes on at EL0_DONE.
 */
void el0_code(void);
asm("	.pushsection .text\n"
"	.balign	65536\n"
"el0_code:\n"
"	svc	#0\n"
"	b	el0_access\n"
"	svc	#1\n"
"el0_access:\n"
"	cbnz	x2, el0_write\n"
"	cbnz	x3, el0_read_many\n"
"	cbnz	x5, el0_execute\n"
"	ldr	x1, [x0]\n"
"	svc	#1\n"
"el0_execute:\n"
"	br	x0\n"
"el0_write:\n"
"	str	x2, [x0, #8]\n"
"	svc	#1\n"
"el0_read_many:\n"
"	ldr	x1, [x0]\n"
"	add	x0, x0, x4\n"
"	sub	x3, x3, #1\n"
"	cbnz	x3, el0_read_many\n"
"	svc	#1\n"
"	.balign	65536\n"
"	.popsection");

#define EL0_DONE	((uint64_t)el0_code + 8)

static void call(uint64_t function, uint64_t op, uint64_t arg1, uint64_t arg2,
		 uint64_t *results)
{
	struct arm_smccc_res res;

	smccc_hvc(function, op, arg1, arg2, 0, 0, 0, 0, &res);
	results[0] = res.a0;
	results[1] = res.a1;
	results[2] = res.a2;
	results[3] = res.a3;
}

static void resume(void)
{
	uint64_t results[4];

	call(ARM_SMCCC_VENDOR_HYP_KVM_ASYNC_PF_FUNC_ID, KVM_ARM_ASYNC_PF_RESUME, 0, 0, results);
	GUEST_ASSERT_EQ(results[0], 0);
}

static void handle_token(struct guest *guest, struct ex_regs *regs)
{
	struct kvm_arm_async_pf_area *area = this_area();
	uint32_t token = READ_ONCE(area->token);

	if (!token)
		return;

	GUEST_ASSERT_EQ(area->pc, regs->pc);
	GUEST_ASSERT_EQ(area->sp, guest->stack);
	if (guest->behaviour != TRY_AGAIN && guest->behaviour != KEEP_AND_TRY) {
		guest->token = token;
		regs->pc = EL0_DONE;
	}
	if (guest->behaviour != KEEP && guest->behaviour != KEEP_AND_TRY)
		WRITE_ONCE(area->token, 0);
}

static void handle_ring(struct guest *guest)
{
	struct kvm_arm_async_pf_area *area = this_area();
	uint32_t head = READ_ONCE(area->head), tail = area->tail;
	uint32_t mask = (1 << guest->order) - 1;

	guest->generation = READ_ONCE(area->generation);
	if (guest->behaviour == KEEP_RING)
		return;

	for (; tail != head; tail++) {
		GUEST_ASSERT(guest->nr_ready < ARRAY_SIZE(guest->ready));
		guest->ready[guest->nr_ready++] = READ_ONCE(area->ready[tail & mask]);
	}
	WRITE_ONCE(area->tail, tail);
	if (READ_ONCE(area->full)) {
		WRITE_ONCE(area->full, 0);
		resume();
	}
}

static void irq_handler(struct ex_regs *regs)
{
	struct guest *guest = this_guest();
	unsigned int intid = gic_get_and_ack_irq();

	if (intid == IAR_SPURIOUS) {
		guest->nr_spurious++;
		return;
	}
	GUEST_ASSERT_EQ(intid, PPI);
	if ((regs->pstate & PSR_MODE_MASK) == PSR_MODE_EL0t)
		handle_token(guest, regs);
	handle_ring(guest);
	gic_set_eoi(intid);
}

/* The host's page number @page, as EL1 sees it: PAN keeps EL1 from the mapping of EL0. */
static uint64_t read_at_el1(struct guest *guest, uint64_t page)
{
	return READ_ONCE(*(uint64_t *)(AREA_GVA + MAX_VCPUS * AREA_SIZE + page * guest->args[1]));
}

static void wait_at_el1(struct guest *guest, bool use_wfi)
{
	while (READ_ONCE(guest->nr_ready) < guest->args[0]) {
		if (use_wfi)
			wfi();
		local_irq_enable();
		isb();
		local_irq_disable();
	}
}

/* Run commands until one of them is to access a page at EL0. */
static void run_commands(struct guest *guest, struct ex_regs *regs)
{
	for (;;) {
		GUEST_SYNC(0);
		guest->token = 0;
		regs->pstate &= ~PSR_I_BIT;
		regs->regs[0] = PAGES_GVA + guest->args[0] * guest->args[1];
		regs->regs[1] = 0;
		regs->regs[2] = 0;
		regs->regs[3] = 0;
		regs->regs[5] = 0;

		switch (READ_ONCE(guest->command)) {
		case WRITE:
			regs->regs[2] = 1;
			return;
		case EXECUTE:
			regs->regs[5] = 1;
			return;
		case READ:
			return;
		case READ_MANY:
			regs->regs[0] = PAGES_GVA;
			regs->regs[3] = guest->args[0];
			regs->regs[4] = guest->args[1];
			return;
		case READ_MASKED:
			regs->pstate |= PSR_I_BIT;
			return;
		case READ_ACTIVE:
			gic_irq_set_pending(OTHER_PPI);
			while (gic_get_and_ack_irq() != OTHER_PPI)
				cpu_relax();
			return;
		case READ_AT_EL1:
			guest->value = read_at_el1(guest, guest->args[0]);
			break;
		case WAIT:
			wait_at_el1(guest, true);
			break;
		case SPIN:
			wait_at_el1(guest, false);
			break;
		case CALL:
			call(ARM_SMCCC_VENDOR_HYP_KVM_ASYNC_PF_FUNC_ID, guest->args[0],
			     guest->args[1], guest->args[2], guest->results);
			break;
		case CALL_FEATURES:
			call(ARM_SMCCC_VENDOR_HYP_KVM_FEATURES_FUNC_ID, 0, 0, 0, guest->results);
			break;
		case CALL_CPU_ON:
			call(PSCI_0_2_FN64_CPU_ON, guest->args[0], 0, 0, guest->results);
			break;
		case SET_PPI:
			if (guest->args[0])
				gic_irq_enable(PPI);
			else
				gic_irq_disable(PPI);
			break;
		case SET_PRIORITY:
			gic_set_priority(PPI, guest->args[0]);
			break;
		case SET_GROUP:
			write_sysreg_s(guest->args[0], SYS_ICC_IGRPEN1_EL1);
			isb();
			break;
		case SET_GIC:
			writel_relaxed(GICD_CTLR_ARE_NS | (guest->args[0] ?
				       GICD_CTLR_ENABLE_G1A | GICD_CTLR_ENABLE_G1 : 0),
				       GICD_BASE_GVA + GICD_CTLR);
			break;
		}
	}
}

static void svc_handler(struct ex_regs *regs)
{
	struct guest *guest = this_guest();

	if (read_sysreg(esr_el1) & 0xffff) {
		guest->value = regs->regs[1];
		if (guest->command == READ_ACTIVE)
			gic_set_eoi(OTHER_PPI);
	}
	run_commands(guest, regs);
	regs->pc = (uint64_t)el0_code + 4;
}

/* The guest has executed the first instruction of a page. */
static void undefined_handler(struct ex_regs *regs)
{
	struct guest *guest = this_guest();

	GUEST_ASSERT_EQ(guest->command, EXECUTE);
	GUEST_ASSERT_EQ(regs->pc, PAGES_GVA + guest->args[0] * guest->args[1]);
	guest->value = read_at_el1(guest, guest->args[0]);
	run_commands(guest, regs);
	regs->pc = (uint64_t)el0_code + 4;
}

static void guest_code(void)
{
	struct guest *guest = this_guest();

	gic_init(GIC_V3, MAX_VCPUS);
	gic_irq_enable(PPI);
	gic_set_priority(PPI, PRIORITY);
	gic_irq_enable(OTHER_PPI);
	gic_set_priority(OTHER_PPI, PRIORITY);
	asm volatile("msr elr_el1, %0\n\t"
		     "msr spsr_el1, xzr\n\t"
		     "msr sp_el0, %1\n\t"
		     "isb\n\t"
		     "eret"
		     : : "r"(el0_code), "r"(guest->stack));
}

struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	int nr_vcpus;
	int gic_fd;
	struct held_pages pages;
};

static struct guest *host_guest(struct env *env, int i)
{
	return addr_gva2hva(env->vm, (vm_vaddr_t)&guests[i]);
}

static struct kvm_arm_async_pf_area *host_area(struct env *env, int i)
{
	return addr_gpa2hva(env->vm, AREA_GPA + i * AREA_SIZE);
}

static void run_vcpu(struct env *env, int i)
{
	struct ucall uc;

	vcpu_run(env->vcpus[i]);
	switch (get_ucall(env->vcpus[i], &uc)) {
	case UCALL_SYNC:
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
		break;
	default:
		TEST_FAIL("Unexpected exit: %s", exit_reason_str(env->vcpus[i]->run->exit_reason));
	}
}

/* Run a vCPU until it has executed a command. */
static struct guest *run(struct env *env, int i, enum command command, uint64_t arg)
{
	struct guest *guest = host_guest(env, i);

	guest->command = command;
	guest->args[0] = arg;
	guest->args[1] = env->pages.size;
	run_vcpu(env, i);
	return guest;
}

static int64_t hypercall(struct env *env, int i, uint64_t op, uint64_t arg1, uint64_t arg2)
{
	struct guest *guest = host_guest(env, i);

	guest->command = CALL;
	guest->args[0] = op;
	guest->args[1] = arg1;
	guest->args[2] = arg2;
	run_vcpu(env, i);
	return (int32_t)guest->results[0];
}

static void turn_on(struct env *env, int i, int order)
{
	struct kvm_arm_async_pf_area *area = host_area(env, i);

	memset(area, 0, AREA_SIZE);
	TEST_ASSERT_EQ(hypercall(env, i, KVM_ARM_ASYNC_PF_ENABLE, AREA_GPA + i * AREA_SIZE,
				 order), 0);
	host_guest(env, i)->order = order;
	host_guest(env, i)->nr_ready = 0;
}

static uint32_t start_fault(struct env *env, int i, int page)
{
	uint32_t token = run(env, i, READ, page)->token;

	TEST_ASSERT(token, "The fault on page %d is synchronous", page);
	return token;
}

static void wait_for_ready(struct env *env, int i, int nr, uint32_t token)
{
	struct guest *guest = run(env, i, WAIT, nr);

	TEST_ASSERT_EQ(guest->nr_ready, nr);
	TEST_ASSERT_EQ(guest->ready[nr - 1], token);
}

static void check_page(struct env *env, int i, int page)
{
	struct guest *guest = run(env, i, READ, page);

	TEST_ASSERT(!guest->token, "Page %d isn't present, token %x", page, guest->token);
	TEST_ASSERT_EQ(guest->value, page + 1);
}

static uint64_t statistic(struct env *env, int i, const char *name)
{
	int fd = vcpu_get_stats_fd(env->vcpus[i]);
	struct kvm_stats_desc *descs, *desc;
	struct kvm_stats_header header;
	uint64_t value;
	int j;

	read_stats_header(fd, &header);
	descs = read_stats_descriptors(fd, &header);
	for (j = 0; j < header.num_desc; j++) {
		desc = get_stats_descriptor(descs, j, &header);
		if (!strcmp(desc->name, name))
			break;
	}
	TEST_ASSERT(j < header.num_desc, "KVM doesn't count %s", name);
	read_stat_data(fd, &header, desc, &value, 1);
	free(descs);
	close(fd);
	return value;
}

static int set_ppi(struct kvm_vcpu *vcpu, int ppi)
{
	return __kvm_device_attr_set(vcpu->fd, KVM_ARM_VCPU_ASYNC_PF_CTRL,
				     KVM_ARM_VCPU_ASYNC_PF_IRQ, &ppi) ? errno : 0;
}

static void allow_el0(struct kvm_vm *vm, vm_vaddr_t gva, bool writable)
{
	*virt_get_pte_hva(vm, gva) |= (writable ? 1 : 3) << 6;
}

/* Only measure() runs without. */
static bool has_async_pf;

/* Give the VM a GIC, and its vCPUs a PPI for asynchronous page faults. */
static void create_gic(struct env *env)
{
	env->gic_fd = vgic_v3_setup(env->vm, env->nr_vcpus, NR_IRQS);
	__TEST_REQUIRE(env->gic_fd >= 0, "KVM has no GICv3");
	for (int i = 0; i < env->nr_vcpus; i++)
		TEST_ASSERT_EQ(set_ppi(env->vcpus[i], PPI), has_async_pf ? 0 : ENXIO);
}

/*
 * A page is one of the host or of the guest, whichever is larger.  @flags are those of
 * the pages' memslot.
 */
static void create_memory(struct env *env, int nr_pages, uint32_t flags)
{
	struct kvm_vm *vm = env->vm;
	size_t size = max_t(size_t, getpagesize(), vm->page_size);
	int nr_guest_pages = nr_pages * size / vm->page_size;
	int nr_area_pages = MAX_VCPUS * AREA_SIZE / vm->page_size;

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, PAGES_GPA, PAGES_SLOT,
				    nr_guest_pages, flags);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, AREA_GPA, AREA_SLOT,
				    nr_area_pages, 0);
	virt_map(vm, PAGES_GVA, PAGES_GPA, nr_guest_pages);
	virt_map(vm, AREA_GVA, AREA_GPA, nr_area_pages);
	/* For read_at_el1() */
	virt_map(vm, AREA_GVA + MAX_VCPUS * AREA_SIZE, PAGES_GPA, nr_guest_pages);
	for (int i = 0; i < nr_guest_pages; i++)
		allow_el0(vm, PAGES_GVA + i * vm->page_size, true);
	allow_el0(vm, (vm_vaddr_t)el0_code, false);
	hold_pages(&env->pages, addr_gpa2hva(vm, PAGES_GPA), nr_pages, size,
		   UFFDIO_REGISTER_MODE_MISSING);
}

static struct kvm_vcpu_init vcpu_init(struct kvm_vm *vm)
{
	struct kvm_vcpu_init init;

	vm_ioctl(vm, KVM_ARM_PREFERRED_TARGET, &init);
	init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
	return init;
}

struct options {
	int limit;	/* so many faults can be in flight on a vCPU, or 0 for KVM's default */
	int ring_size;	/* entries of the vCPUs' dirty rings, or 0 for none */
	bool private;	/* the pages can be private memory */
};

/* A VM whose vCPUs share @nr_pages pages. */
static struct env *create_with(struct options options, int nr_vcpus, int nr_pages)
{
	struct vm_shape shape = options.private ? sw_protected_shape() : VM_SHAPE_DEFAULT;
	struct env *env = calloc(1, sizeof(*env));
	struct kvm_vcpu_init init;

	env->nr_vcpus = nr_vcpus;
	env->vm = __vm_create(shape, nr_vcpus, 0);
	init = vcpu_init(env->vm);
	if (options.ring_size)
		vm_enable_dirty_ring(env->vm, options.ring_size * sizeof(struct kvm_dirty_gfn));
	if (options.limit)
		vm_enable_cap(env->vm, KVM_CAP_ASYNC_PF_LIMIT, options.limit);
	vm_init_descriptor_tables(env->vm);
	for (int i = 0; i < nr_vcpus; i++) {
		env->vcpus[i] = aarch64_vcpu_add(env->vm, i, &init, guest_code);
		vcpu_init_descriptor_tables(env->vcpus[i]);
		if (has_async_pf)
			vcpu_set_reg(env->vcpus[i], KVM_REG_ARM_ASYNC_PF_BMAP,
				     BIT(KVM_REG_ARM_ASYNC_PF_BIT_V1));
	}
	vm_install_sync_handler(env->vm, VECTOR_SYNC_LOWER_64, ESR_EC_SVC64, svc_handler);
	vm_install_sync_handler(env->vm, VECTOR_SYNC_LOWER_64, ESR_EC_UNKNOWN,
				undefined_handler);
	vm_install_exception_handler(env->vm, VECTOR_IRQ_LOWER_64, irq_handler);
	vm_install_exception_handler(env->vm, VECTOR_IRQ_CURRENT, irq_handler);
	create_memory(env, nr_pages, options.private ? KVM_MEM_GUEST_MEMFD : 0);
	create_gic(env);

	for (int i = 0; i < nr_vcpus; i++) {
		vm_vaddr_t stack = vm_vaddr_alloc_page(env->vm);

		allow_el0(env->vm, stack, true);
		host_guest(env, i)->stack = stack + env->vm->page_size;
		run_vcpu(env, i);
		if (has_async_pf)
			turn_on(env, i, RING_ORDER);
	}
	return env;
}

static struct env *create(int nr_vcpus, int nr_pages)
{
	return create_with((struct options){}, nr_vcpus, nr_pages);
}

static void destroy(struct env *env)
{
	stop_server(&env->pages);
	kvm_vm_free(env->vm);
	close(env->pages.uffd);
	free(env);
}

/* A page is not present, then it is ready, and the guest reads it. */
TEST(one_fault)
{
	struct env *env = create(1, 1);
	uint32_t token = start_fault(env, 0, 0);

	wait_for_events(&env->pages, 1);
	install_page(&env->pages, 0);
	wait_for_ready(env, 0, 1, token);
	check_page(env, 0, 0);
	TEST_ASSERT_EQ(env->pages.nr_events, 1);
	TEST_ASSERT_EQ(env->pages.first_event.arg.pagefault.flags, 0);
	TEST_ASSERT_EQ(host_guest(env, 0)->nr_spurious, 0);
	TEST_ASSERT_EQ(statistic(env, 0, "async_pf_sent"), 1);
	TEST_ASSERT_EQ(statistic(env, 0, "async_pf_ready"), 1);
	destroy(env);
}

static uint64_t exits_of_access(struct env *env, enum command access, int page)
{
	uint64_t before = statistic(env, 0, "exits");

	TEST_ASSERT(!run(env, 0, access, page)->token, "Page %d isn't present", page);
	return statistic(env, 0, "exits") - before;
}

#define NR_TRIES	16

/*
 * KVM fetches the page for the access that the guest has made, and maps it for that: the
 * next access causes no exit for a fault.  An interrupt of the host may cause one, so try
 * several times.
 */
static void check_access(enum command access, uint64_t uffd_flags)
{
	struct env *env = create(1, NR_TRIES);
	struct guest *guest = host_guest(env, 0);
	uint64_t first = -1, later = -1;

	hold_events(&env->pages, NR_TRIES);
	for (int page = 0; page < NR_TRIES; page++) {
		run(env, 0, access, page);
		TEST_ASSERT(guest->token, "The fault on page %d is synchronous", page);
		wait_for_events(&env->pages, page + 1);
		TEST_ASSERT_EQ(env->pages.first_event.arg.pagefault.flags, uffd_flags);
		install_page(&env->pages, page);
		wait_for_ready(env, 0, page + 1, guest->token);
		first = min(first, exits_of_access(env, access, page));
		later = min(later, exits_of_access(env, access, page));
		check_page(env, 0, page);
	}
	TEST_ASSERT_EQ(first, later);
	destroy(env);
}

TEST(read_fault)
{
	check_access(READ, 0);
}

TEST(write_fault)
{
	check_access(WRITE, UFFD_PAGEFAULT_FLAG_WRITE);
}

TEST(instruction_fault)
{
	check_access(EXECUTE, 0);
}

/* KVM doesn't interrupt a guest that would not take the interrupt. */
TEST(conditions)
{
	const struct {
		const char *name;
		enum command before;
		uint64_t arg, undo;
		enum command access;
		const char *statistic;
	} cases[] = {
		{ "at EL1", WAIT, 0, 0, READ_AT_EL1, "async_pf_sync_context" },
		{ "interrupts masked", WAIT, 0, 0, READ_MASKED, "async_pf_sync_context" },
		{ "PPI disabled", SET_PPI, 0, 1, READ, "async_pf_sync_irq" },
		{ "priority too low", SET_PRIORITY, 0xf0, PRIORITY, READ, "async_pf_sync_irq" },
		{ "group 1 disabled", SET_GROUP, 0, 1, READ, "async_pf_sync_irq" },
		{ "distributor disabled", SET_GIC, 0, 1, READ, "async_pf_sync_irq" },
		{ "an interrupt active", WAIT, 0, 0, READ_ACTIVE, "async_pf_sync_irq" },
	};
	struct env *env = create(1, 2 * ARRAY_SIZE(cases) + 1);
	struct kvm_guest_debug debug = { .control = KVM_GUESTDBG_ENABLE };
	struct guest *guest;
	uint64_t before;
	uint32_t token;
	int page = 0;

	for (int i = 0; i < ARRAY_SIZE(cases); i++) {
		run(env, 0, cases[i].before, cases[i].arg);
		hold_events(&env->pages, 0);
		before = statistic(env, 0, cases[i].statistic);
		guest = run(env, 0, cases[i].access, page);
		TEST_ASSERT(!guest->token, "%s: token %x", cases[i].name, guest->token);
		TEST_ASSERT(guest->value == page + 1, "%s: value %lx", cases[i].name, guest->value);
		TEST_ASSERT(statistic(env, 0, cases[i].statistic) == before + 1,
			    "%s: %s was %lu, is %lu", cases[i].name, cases[i].statistic, before,
			    statistic(env, 0, cases[i].statistic));
		page++;

		/* It is asynchronous again afterwards. */
		run(env, 0, cases[i].before, cases[i].undo);
		hold_events(&env->pages, env->pages.nr_events + 1);
		token = start_fault(env, 0, page);
		install_page(&env->pages, page++);
		wait_for_ready(env, 0, i + 1, token);
	}

	hold_events(&env->pages, 0);
	before = statistic(env, 0, "async_pf_sync_context");
	vcpu_guest_debug_set(env->vcpus[0], &debug);
	check_page(env, 0, page);
	TEST_ASSERT_EQ(statistic(env, 0, "async_pf_sync_context"), before + 1);
	destroy(env);
}

/* Several tasks wait for a page.  They get the same token. */
TEST(several_waiters)
{
	struct env *env = create(1, 1);
	uint32_t token = start_fault(env, 0, 0);

	TEST_ASSERT_EQ(start_fault(env, 0, 0), token);
	TEST_ASSERT_EQ(start_fault(env, 0, 0), token);
	wait_for_events(&env->pages, 1);
	install_page(&env->pages, 0);
	wait_for_ready(env, 0, 1, token);
	check_page(env, 0, 0);
	TEST_ASSERT_EQ(env->pages.nr_events, 1);
	TEST_ASSERT_EQ(statistic(env, 0, "async_pf_sent"), 3);
	destroy(env);
}

/* The page wakes a vCPU that waits for an interrupt. */
TEST(idle)
{
	struct env *env = create(1, 1);
	uint32_t token = start_fault(env, 0, 0);
	pthread_t thread;

	wait_for_events(&env->pages, 1);
	pthread_create(&thread, NULL, install_soon, &env->pages);
	wait_for_ready(env, 0, 1, token);
	pthread_join(thread, NULL);
	destroy(env);
}

/* Two vCPUs wait for the same page, with a token each. */
TEST(two_vcpus)
{
	struct env *env = create(2, 1);
	uint32_t tokens[2];

	for (int i = 0; i < 2; i++)
		tokens[i] = start_fault(env, i, 0);
	TEST_ASSERT(tokens[0] != tokens[1], "Both tokens are %x", tokens[0]);
	wait_for_events(&env->pages, 2);
	install_page(&env->pages, 0);
	for (int i = 0; i < 2; i++) {
		wait_for_ready(env, i, 1, tokens[i]);
		check_page(env, i, 0);
	}
	destroy(env);
}

/* The guest comes back to the page again and again: in the end, KVM waits for the page. */
static void check_repeats(enum behaviour behaviour)
{
	struct env *env = create(1, 1);
	bool keep = behaviour == KEEP_AND_TRY;
	struct guest *guest = host_guest(env, 0);
	pthread_t thread;

	guest->behaviour = behaviour;
	pthread_create(&thread, NULL, install_soon, &env->pages);
	check_page(env, 0, 0);
	pthread_join(thread, NULL);
	guest->behaviour = SLEEP;
	run(env, 0, WAIT, 1);

	TEST_ASSERT_EQ(guest->nr_spurious, keep ? MAX_REPEATS : 0);
	TEST_ASSERT_EQ(statistic(env, 0, "async_pf_sent"), keep ? 1 : 1 + MAX_REPEATS);
	TEST_ASSERT_EQ(statistic(env, 0, "async_pf_entered_again"), keep ? MAX_REPEATS : 0);
	TEST_ASSERT_EQ(statistic(env, 0, "async_pf_sync_repeated"), 1);
	destroy(env);
}

/* The handler finds no task to wait. */
TEST(ignored_token)
{
	check_repeats(TRY_AGAIN);
}

/* The handler doesn't look at the token, as if it had another interrupt to handle. */
TEST(unseen_token)
{
	check_repeats(KEEP_AND_TRY);
}

/* While the guest has not seen one token, KVM has no other for it. */
TEST(two_tokens)
{
	struct env *env = create(1, 2);

	host_guest(env, 0)->behaviour = KEEP;
	start_fault(env, 0, 0);
	wait_for_events(&env->pages, 1);
	hold_events(&env->pages, 1);
	check_page(env, 0, 1);
	TEST_ASSERT_EQ(statistic(env, 0, "async_pf_sync_token"), 1);
	destroy(env);
}

/* The vCPU has as many faults in flight as KVM allows, and waits for the next page. */
static void check_limit(int limit)
{
	struct env *env = create_with((struct options){ .limit = limit }, 1, limit + 1);
	struct guest *guest = host_guest(env, 0);
	uint32_t tokens[4 * MAX_FAULTS];

	hold_events(&env->pages, limit);
	for (int i = 0; i < limit; i++)
		tokens[i] = start_fault(env, 0, i);
	wait_for_events(&env->pages, limit);
	check_page(env, 0, limit);
	TEST_ASSERT_EQ(statistic(env, 0, "async_pf_sync_limit"), 1);

	install_all_pages(&env->pages);
	run(env, 0, WAIT, limit);
	for (int i = 0; i < limit; i++) {
		int seen = 0;

		for (int j = 0; j < limit; j++)
			seen += guest->ready[j] == tokens[i];
		TEST_ASSERT(seen == 1, "Token %x of page %d came %d times", tokens[i], i, seen);
		check_page(env, 0, i);
	}
	destroy(env);
}

TEST(all_faults)
{
	check_limit(MAX_FAULTS);
}

TEST(more_faults)
{
	check_limit(3 * MAX_FAULTS);
}

/* The ring has two entries, and the guest reads them late. */
TEST(full_ring)
{
	struct env *env = create(1, 5);
	struct guest *guest = host_guest(env, 0);
	struct kvm_arm_async_pf_area *area = host_area(env, 0);

	turn_on(env, 0, 1);
	for (int i = 0; i < 5; i++)
		start_fault(env, 0, i);
	wait_for_events(&env->pages, 5);
	guest->behaviour = KEEP_RING;
	install_all_pages(&env->pages);
	/* Give the workers time.  The outcome is the same without. */
	usleep(100000);
	run(env, 0, READ, 0);
	run(env, 0, READ, 0);
	TEST_ASSERT_EQ(area->head, 2);
	TEST_ASSERT_EQ(area->full, 1);
	TEST_ASSERT_EQ(guest->nr_ready, 0);

	/* The interrupt has been handled, so the guest does what its next handler would do. */
	guest->behaviour = SLEEP;
	guest->ready[guest->nr_ready++] = area->ready[0];
	guest->ready[guest->nr_ready++] = area->ready[1];
	area->tail = 2;
	area->full = 0;
	TEST_ASSERT_EQ(hypercall(env, 0, KVM_ARM_ASYNC_PF_RESUME, 0, 0), 0);
	run(env, 0, WAIT, 5);
	TEST_ASSERT_EQ(area->head, 5);
	for (int i = 0; i < 5; i++)
		for (int j = 0; j < i; j++)
			TEST_ASSERT(guest->ready[i] != guest->ready[j], "A token came twice");
	destroy(env);
}

/* The guest turns them off with a fault in flight, and on again. */
TEST(turned_off)
{
	struct env *env = create(1, 2);
	uint32_t token;

	start_fault(env, 0, 0);
	wait_for_events(&env->pages, 1);
	TEST_ASSERT_EQ(hypercall(env, 0, KVM_ARM_ASYNC_PF_DISABLE, 0, 0), 0);
	hold_events(&env->pages, 1);
	check_page(env, 0, 1);

	turn_on(env, 0, RING_ORDER);
	token = start_fault(env, 0, 0);
	install_page(&env->pages, 0);
	wait_for_ready(env, 0, 1, token);
	destroy(env);
}

/* The VMM resets the vCPU, with a fault in flight. */
TEST(reset)
{
	struct env *env = create(1, 1);
	struct kvm_vcpu *vcpu = env->vcpus[0];
	struct kvm_vcpu_init init = vcpu_init(env->vm);
	uint64_t area;

	start_fault(env, 0, 0);
	wait_for_events(&env->pages, 1);
	vcpu_ioctl(vcpu, KVM_ARM_VCPU_INIT, &init);
	vcpu_get_reg(vcpu, KVM_REG_ARM_ASYNC_PF, &area);
	TEST_ASSERT_EQ(area, 0);
	destroy(env);
}

/* Another vCPU turns this one on, which is off and has a fault in flight. */
TEST(powered_on)
{
	struct env *env = create(2, 1);
	struct kvm_mp_state mp_state = { .mp_state = KVM_MP_STATE_STOPPED };
	struct guest *guest;
	uint64_t area;

	start_fault(env, 1, 0);
	wait_for_events(&env->pages, 1);
	vcpu_mp_state_set(env->vcpus[1], &mp_state);
	guest = run(env, 0, CALL_CPU_ON, 1);
	TEST_ASSERT_EQ(guest->results[0], PSCI_RET_SUCCESS);
	vcpu_get_reg(env->vcpus[1], KVM_REG_ARM_ASYNC_PF, &area);
	TEST_ASSERT_EQ(area, 0);
	destroy(env);
}

static void ignore_signal(int signal)
{
}

/* The page doesn't wake a vCPU that is suspended.  A signal ends its KVM_RUN. */
TEST(suspended)
{
	struct env *env = create(1, 1);
	struct kvm_mp_state mp_state = { .mp_state = KVM_MP_STATE_SUSPENDED };
	struct itimerval timer = { .it_value.tv_usec = 300000 };
	uint32_t token = start_fault(env, 0, 0);

	vm_enable_cap(env->vm, KVM_CAP_ARM_SYSTEM_SUSPEND, 0);
	wait_for_events(&env->pages, 1);
	vcpu_mp_state_set(env->vcpus[0], &mp_state);
	install_page(&env->pages, 0);
	signal(SIGALRM, ignore_signal);
	setitimer(ITIMER_REAL, &timer, NULL);
	TEST_ASSERT_EQ(__vcpu_run(env->vcpus[0]), -1);
	TEST_ASSERT_EQ(errno, EINTR);

	mp_state.mp_state = KVM_MP_STATE_RUNNABLE;
	vcpu_mp_state_set(env->vcpus[0], &mp_state);
	wait_for_ready(env, 0, 1, token);
	destroy(env);
}

/* KVM can't access the area while its memslot is elsewhere. */
TEST(no_area)
{
	struct env *env = create(1, 3);
	uint32_t tokens[2] = { start_fault(env, 0, 0) };

	wait_for_events(&env->pages, 1);
	hold_events(&env->pages, 1);
	vm_mem_region_move(env->vm, AREA_SLOT, 2 * AREA_GPA);
	check_page(env, 0, 1);
	TEST_ASSERT_EQ(statistic(env, 0, "async_pf_sync_area"), 1);

	/* KVM can't tell the guest that this page is ready, either. */
	install_page(&env->pages, 0);
	usleep(100000);
	check_page(env, 0, 1);
	TEST_ASSERT_EQ(statistic(env, 0, "async_pf_ready"), 0);

	vm_mem_region_move(env->vm, AREA_SLOT, AREA_GPA);
	wait_for_ready(env, 0, 1, tokens[0]);
	check_page(env, 0, 0);
	hold_events(&env->pages, 3);
	tokens[1] = start_fault(env, 0, 2);
	install_page(&env->pages, 2);
	wait_for_ready(env, 0, 2, tokens[1]);
	destroy(env);
}

/*
 * The page becomes private while it is on its way, and shared again.  Private memory has
 * no userfaultfd to wait for.
 */
TEST(converted)
{
	struct env *env = create_with((struct options){ .private = true }, 1, 2);
	uint32_t token = start_fault(env, 0, 0);
	struct guest *guest;

	wait_for_events(&env->pages, 1);
	vm_mem_set_private(env->vm, PAGES_GPA, 2 * env->pages.size);
	install_page(&env->pages, 0);
	wait_for_ready(env, 0, 1, token);
	for (int page = 0; page < 2; page++) {
		guest = run(env, 0, READ, page);
		TEST_ASSERT(!guest->token, "Page %d isn't present", page);
		TEST_ASSERT_EQ(guest->value, 0);
	}

	vm_mem_set_shared(env->vm, PAGES_GPA, 2 * env->pages.size);
	check_page(env, 0, 0);
	token = start_fault(env, 0, 1);
	wait_for_events(&env->pages, 2);
	install_page(&env->pages, 1);
	wait_for_ready(env, 0, 2, token);
	check_page(env, 0, 1);
	TEST_ASSERT_EQ(env->pages.nr_events, 2);
	destroy(env);
}

/* The area is as long as it can be, and spans pages. */
TEST(longest_ring)
{
	struct env *env = create(1, 1);
	uint32_t token;

	turn_on(env, 0, KVM_ARM_ASYNC_PF_MAX_ORDER);
	host_area(env, 0)->head = BIT(KVM_ARM_ASYNC_PF_MAX_ORDER) - 1;
	host_area(env, 0)->tail = BIT(KVM_ARM_ASYNC_PF_MAX_ORDER) - 1;
	token = start_fault(env, 0, 0);
	wait_for_events(&env->pages, 1);
	install_page(&env->pages, 0);
	wait_for_ready(env, 0, 1, token);
	check_page(env, 0, 0);
	destroy(env);
}

static void run_into_error(struct env *env, int page, int error)
{
	struct guest *guest = host_guest(env, 0);

	guest->command = READ;
	guest->args[0] = page;
	guest->args[1] = env->pages.size;
	TEST_ASSERT_EQ(__vcpu_run(env->vcpus[0]), -1);
	TEST_ASSERT_EQ(errno, error);
}

/* There is no page behind the end of a file.  The VMM gets the error. */
TEST(no_page)
{
	struct env *env = create(1, 2);

	truncate_last_page(&env->pages);
	run_into_error(env, 1, EFAULT);
	TEST_ASSERT_EQ(statistic(env, 0, "async_pf_sent"), 0);
	destroy(env);
}

static int nr_poisoned;

static void count_poison(int signal, siginfo_t *info, void *context)
{
	nr_poisoned += info->si_code == BUS_MCEERR_AR;
}

/* The page turns out to be broken.  The VMM hears of it when the guest accesses it again. */
TEST(poisoned_page)
{
	struct sigaction action = { .sa_sigaction = count_poison, .sa_flags = SA_SIGINFO };
	struct env *env = create(1, 1);
	struct uffdio_poison poison = {
		.range = { (uintptr_t)env->pages.mem, env->pages.size },
	};
	uint32_t token = start_fault(env, 0, 0);

	sigaction(SIGBUS, &action, NULL);
	wait_for_events(&env->pages, 1);
	TEST_ASSERT(!ioctl(env->pages.uffd, UFFDIO_POISON, &poison),
		    __KVM_IOCTL_ERROR(UFFDIO_POISON, -1));
	wait_for_ready(env, 0, 1, token);
	TEST_ASSERT_EQ(nr_poisoned, 0);
	run_into_error(env, 0, EINTR);
	TEST_ASSERT_EQ(nr_poisoned, 1);
	destroy(env);
}

/* A small ring, that is a page at least */
static int ring_size(void)
{
	return max_t(int, 256, getpagesize() / sizeof(struct kvm_dirty_gfn));
}

/* Let the VMM have what is in the dirty ring. */
static int empty_dirty_ring(struct kvm_vm *vm, struct kvm_dirty_gfn *ring)
{
	int nr = 0;

	for (int i = 0; i < ring_size(); i++) {
		if (__atomic_load_n(&ring[i].flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
			continue;
		__atomic_store_n(&ring[i].flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
		nr++;
	}
	TEST_ASSERT_EQ(kvm_vm_reset_dirty_ring(vm), nr);
	return nr;
}

/* Many pages become ready at once, and each makes three pages dirty. */
TEST(dirty_ring)
{
	const int nr_faults = 2 * MAX_FAULTS;
	struct options options = { .limit = nr_faults, .ring_size = ring_size() };
	struct env *env = create_with(options, 1, nr_faults);
	struct kvm_vcpu *vcpu = env->vcpus[0];
	struct kvm_dirty_gfn *ring = vcpu_map_dirty_ring(vcpu);
	struct guest *guest = host_guest(env, 0);
	int nr = 0;

	vm_mem_region_set_flags(env->vm, PAGES_SLOT, KVM_MEM_LOG_DIRTY_PAGES);
	vm_mem_region_set_flags(env->vm, AREA_SLOT, KVM_MEM_LOG_DIRTY_PAGES);
	for (int i = 0; i < nr_faults; i++) {
		TEST_ASSERT(run(env, 0, WRITE, i)->token, "Fault %d is synchronous", i);
		/* Each has written to the area twice. */
		if (i % 16 == 15)
			empty_dirty_ring(env->vm, ring);
	}
	wait_for_events(&env->pages, nr_faults);
	install_all_pages(&env->pages);
	usleep(100000);

	guest->command = WAIT;
	guest->args[0] = nr_faults;
	do {
		vcpu_run(vcpu);
		nr += empty_dirty_ring(env->vm, ring);
	} while (vcpu->run->exit_reason == KVM_EXIT_DIRTY_RING_FULL);
	TEST_ASSERT_EQ(guest->nr_ready, nr_faults);
	TEST_ASSERT(nr >= 3 * nr_faults, "Only %d entries", nr);
	destroy(env);
}

static const struct {
	uint32_t group;
	uint64_t attr;
} gic_regs[] = {
	{ KVM_DEV_ARM_VGIC_GRP_DIST_REGS, GICD_CTLR },
	{ KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, SZ_64K + GICR_IGROUPR0 },
	{ KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, SZ_64K + GICR_ISENABLER0 },
	{ KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, SZ_64K + GICR_ISPENDR0 },
	{ KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, SZ_64K + GICR_IPRIORITYR0 + (PPI & ~3) },
};

static const uint32_t gic_sysregs[] = { SYS_ICC_PMR_EL1, SYS_ICC_CTLR_EL1, SYS_ICC_IGRPEN1_EL1 };

/* The attribute has the fields of the register's encoding without its 5 lowest bits. */
static uint64_t sysreg_attr(uint32_t reg)
{
	return (reg >> 5) & KVM_DEV_ARM_VGIC_SYSREG_INSTR_MASK;
}

static void copy_gic(struct env *env, uint64_t *saved,
		     void (*copy)(int fd, uint32_t group, uint64_t attr, void *val))
{
	for (int i = 0; i < ARRAY_SIZE(gic_regs); i++)
		copy(env->gic_fd, gic_regs[i].group, gic_regs[i].attr, saved++);
	for (int i = 0; i < ARRAY_SIZE(gic_sysregs); i++)
		copy(env->gic_fd, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, sysreg_attr(gic_sysregs[i]),
		     saved++);
}

/* A VM is saved with a fault in flight.  The new VM tells the guest to try again. */
TEST(restored)
{
	struct env *env = create(1, 2);
	struct guest *guest = host_guest(env, 0);
	uint64_t regs[2048], gic[ARRAY_SIZE(gic_regs) + ARRAY_SIZE(gic_sysregs)] = {};
	struct kvm_reg_list *list;
	struct kvm_vcpu_init init;
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	int nr_refused = 0;

	start_fault(env, 0, 0);
	wait_for_events(&env->pages, 1);
	TEST_ASSERT_EQ(guest->generation, 0);

	list = vcpu_get_reg_list(env->vcpus[0]);
	TEST_ASSERT(list->n < ARRAY_SIZE(regs), "%llu registers", list->n);
	for (int i = 0; i < list->n; i++)
		if (KVM_REG_SIZE(list->reg[i]) == 8)
			vcpu_get_reg(env->vcpus[0], list->reg[i], &regs[i]);
	kvm_device_attr_set(env->gic_fd, KVM_DEV_ARM_VGIC_GRP_CTRL,
			    KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES, NULL);
	copy_gic(env, gic, kvm_device_attr_get);
	/* KVM waits for the page before it destroys the vCPU. */
	pthread_create(&thread, NULL, install_soon, &env->pages);
	close(env->gic_fd);
	kvm_vm_release(env->vm);
	pthread_join(thread, NULL);

	vcpu = vm_recreate_with_one_vcpu(env->vm);
	env->vcpus[0] = vcpu;
	init = vcpu_init(env->vm);
	vcpu_ioctl(vcpu, KVM_ARM_VCPU_INIT, &init);
	create_gic(env);
	copy_gic(env, gic, kvm_device_attr_set);
	for (int i = 0; i < list->n; i++)
		if (KVM_REG_SIZE(list->reg[i]) == 8)
			nr_refused += !!__vcpu_set_reg(vcpu, list->reg[i], regs[i]);
	TEST_ASSERT_EQ(nr_refused, 0);
	free(list);

	check_page(env, 0, 0);
	TEST_ASSERT_EQ(guest->generation, 1);
	destroy(env);
}

static void *run_randomly(void *arg)
{
	struct env *env = arg;
	static int next;
	int i = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED) % MAX_VCPUS;
	struct guest *guest = host_guest(env, i);
	unsigned int seed = i;
	time_t end = time(NULL) + 20;

	while (time(NULL) < end) {
		int page = rand_r(&seed) % env->pages.nr;

		guest->nr_ready = 0;
		run(env, i, READ, page);
		if (!guest->token)
			TEST_ASSERT_EQ(guest->value, page + 1);
		else if (rand_r(&seed) % 2)
			run(env, i, WAIT, 1);
		if (rand_r(&seed) % 4 == 0)
			madvise(env->pages.mem + page * env->pages.size, env->pages.size,
				MADV_DONTNEED);
	}
	return NULL;
}

static struct held_pages *vmm_that_is_killed(void)
{
	struct env *env = create(1, 1);

	start_fault(env, 0, 0);
	return &env->pages;
}

TEST(killed_vmm)
{
	kill_vmm(vmm_that_is_killed);
}

/* Two vCPUs read pages that are dropped all the time, and come late. */
TEST(random_faults)
{
	struct env *env = create(2, 32);
	pthread_t threads[2];

	hold_events(&env->pages, 0);
	env->pages.max_delay = 2000;
	for (int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, run_randomly, env);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < 2; i++)
		TEST_ASSERT(statistic(env, i, "async_pf_sent") > 10, "vCPU %d had few faults", i);
	destroy(env);
}

#define READ_ONLY_GPA	(AREA_GPA + BIT_ULL(24))

/* Areas and rings that the guest can't have, or the VMM can't give it */
static const struct {
	const char *what;
	uint64_t address, order;
} bad_areas[] = {
	{ "an address that is not aligned", AREA_GPA + 32, 0 },
	{ "no memory", AREA_GPA - BIT_ULL(23), 0 },
	{ "only the beginning is memory", AREA_GPA + MAX_VCPUS * AREA_SIZE - 64, 1 },
	{ "read-only memory", READ_ONLY_GPA, 0 },
	{ "beyond the address space", BIT_ULL(60), 0 },
	{ "too many entries", AREA_GPA, KVM_ARM_ASYNC_PF_MAX_ORDER + 1 },
};

TEST(bad_hypercalls)
{
	struct env *env = create(1, 1);
	uint64_t before, after;
	struct guest *guest;

	vm_userspace_mem_region_add(env->vm, VM_MEM_SRC_ANONYMOUS, READ_ONLY_GPA, 12, 16,
				    KVM_MEM_READONLY);
	vcpu_get_reg(env->vcpus[0], KVM_REG_ARM_ASYNC_PF, &before);
	TEST_ASSERT_EQ(before, AREA_GPA | RING_ORDER << 1 | 1);
	for (int i = 0; i < ARRAY_SIZE(bad_areas); i++) {
		int64_t r = hypercall(env, 0, KVM_ARM_ASYNC_PF_ENABLE, bad_areas[i].address,
				      bad_areas[i].order);

		TEST_ASSERT(r == SMCCC_RET_INVALID_PARAMETER, "%s: %ld", bad_areas[i].what, r);
		vcpu_get_reg(env->vcpus[0], KVM_REG_ARM_ASYNC_PF, &after);
		TEST_ASSERT(after == before, "%s: the area changes", bad_areas[i].what);
	}
	TEST_ASSERT_EQ(hypercall(env, 0, KVM_ARM_ASYNC_PF_ENABLE, AREA_GPA, BIT_ULL(32)),
		       SMCCC_RET_INVALID_PARAMETER);
	TEST_ASSERT_EQ(hypercall(env, 0, 4, 0, 0), SMCCC_RET_NOT_SUPPORTED);
	TEST_ASSERT_EQ(hypercall(env, 0, BIT_ULL(32), 0, 0), SMCCC_RET_NOT_SUPPORTED);

	TEST_ASSERT_EQ(hypercall(env, 0, KVM_ARM_ASYNC_PF_FEATURES, 0, 0), 0);
	guest = host_guest(env, 0);
	TEST_ASSERT_EQ(guest->results[1], KVM_ARM_ASYNC_PF_VERSION);
	TEST_ASSERT_EQ(guest->results[2], PPI);
	run(env, 0, CALL_FEATURES, 0);
	TEST_ASSERT_EQ(guest->results[3], 1);
	destroy(env);
}

static int set_reg(struct kvm_vcpu *vcpu, uint64_t id, uint64_t value)
{
	return __vcpu_set_reg(vcpu, id, value) ? errno : 0;
}

TEST(bad_registers)
{
	struct env *env = create(1, 1);
	struct kvm_vcpu *vcpu = env->vcpus[0];
	uint64_t before, after;

	vm_userspace_mem_region_add(env->vm, VM_MEM_SRC_ANONYMOUS, READ_ONLY_GPA, 12, 16,
				    KVM_MEM_READONLY);
	vcpu_get_reg(vcpu, KVM_REG_ARM_ASYNC_PF, &before);
	for (int i = 0; i < ARRAY_SIZE(bad_areas); i++) {
		int r = set_reg(vcpu, KVM_REG_ARM_ASYNC_PF,
				bad_areas[i].address | bad_areas[i].order << 1 | 1);

		TEST_ASSERT(r == EINVAL, "%s: errno %d", bad_areas[i].what, r);
	}
	TEST_ASSERT_EQ(set_reg(vcpu, KVM_REG_ARM_ASYNC_PF, AREA_GPA), EINVAL);
	vcpu_get_reg(vcpu, KVM_REG_ARM_ASYNC_PF, &after);
	TEST_ASSERT_EQ(after, before);

	TEST_ASSERT_EQ(set_reg(vcpu, KVM_REG_ARM_ASYNC_PF_BMAP, 2), EINVAL);
	TEST_ASSERT_EQ(set_reg(vcpu, KVM_REG_ARM_ASYNC_PF_BMAP, 0), EBUSY);
	TEST_ASSERT_EQ(set_reg(vcpu, KVM_REG_ARM_ASYNC_PF_BMAP, 1), 0);
	TEST_ASSERT_EQ(set_reg(vcpu, KVM_REG_ARM_ASYNC_PF, 0), 0);
	destroy(env);
}

static bool lists_reg(struct kvm_vcpu *vcpu, uint64_t id)
{
	struct kvm_reg_list *list = vcpu_get_reg_list(vcpu);
	bool found = false;

	for (int i = 0; i < list->n; i++)
		found |= list->reg[i] == id;
	free(list);
	return found;
}

/* A VM that isn't offered asynchronous page faults is as it is in a KVM without them. */
TEST(not_offered)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	uint64_t value;

	for (int on = 0; on < 2; on++) {
		TEST_ASSERT_EQ(set_reg(vcpu, KVM_REG_ARM_ASYNC_PF_BMAP, on), 0);
		TEST_ASSERT_EQ(lists_reg(vcpu, KVM_REG_ARM_ASYNC_PF_BMAP), on);
		TEST_ASSERT_EQ(lists_reg(vcpu, KVM_REG_ARM_ASYNC_PF), on);
		TEST_ASSERT_EQ(__vcpu_get_reg(vcpu, KVM_REG_ARM_ASYNC_PF, &value), on ? 0 : -1);
		/* There is no interrupt. */
		TEST_ASSERT_EQ(set_reg(vcpu, KVM_REG_ARM_ASYNC_PF, 1), on ? EINVAL : ENOENT);
	}
	kvm_vm_free(vm);
}

static int get_ppi(struct kvm_vcpu *vcpu, int *ppi)
{
	return __kvm_device_attr_get(vcpu->fd, KVM_ARM_VCPU_ASYNC_PF_CTRL,
				     KVM_ARM_VCPU_ASYNC_PF_IRQ, ppi) ? errno : 0;
}

TEST(bad_attributes)
{
	struct kvm_vcpu *vcpus[2];
	struct kvm_vm *vm = vm_create_with_vcpus(2, guest_code, vcpus);
	int gic_fd, ppi;

	TEST_ASSERT_EQ(set_ppi(vcpus[0], PPI), ENODEV);
	gic_fd = vgic_v3_setup(vm, 2, NR_IRQS);
	TEST_ASSERT_EQ(get_ppi(vcpus[0], &ppi), ENXIO);
	TEST_ASSERT_EQ(__kvm_has_device_attr(vcpus[0]->fd, KVM_ARM_VCPU_ASYNC_PF_CTRL, 1), -1);
	TEST_ASSERT_EQ(__kvm_has_device_attr(vcpus[0]->fd, KVM_ARM_VCPU_ASYNC_PF_CTRL,
					     KVM_ARM_VCPU_ASYNC_PF_IRQ), 0);
	TEST_ASSERT_EQ(set_ppi(vcpus[0], 15), EINVAL);
	TEST_ASSERT_EQ(set_ppi(vcpus[0], 32), EINVAL);
	TEST_ASSERT_EQ(set_ppi(vcpus[0], -1), EINVAL);
	/* The virtual timer has it, unless the VMM chooses another one. */
	TEST_ASSERT_EQ(set_ppi(vcpus[0], 27), EEXIST);
	TEST_ASSERT_EQ(__kvm_device_attr_set(vcpus[0]->fd, KVM_ARM_VCPU_ASYNC_PF_CTRL,
					     KVM_ARM_VCPU_ASYNC_PF_IRQ, (void *)1), -1);
	TEST_ASSERT_EQ(errno, EFAULT);

	TEST_ASSERT_EQ(set_ppi(vcpus[0], PPI), 0);
	TEST_ASSERT_EQ(set_ppi(vcpus[0], PPI), EBUSY);
	TEST_ASSERT_EQ(set_ppi(vcpus[1], OTHER_PPI), EINVAL);
	TEST_ASSERT_EQ(get_ppi(vcpus[0], &ppi), 0);
	TEST_ASSERT_EQ(ppi, PPI);
	close(gic_fd);
	kvm_vm_free(vm);
}

#define NR_MEASURED	1024

/* How long does a fault on a page take that the host has? */
static uint64_t time_fault(bool on)
{
	struct env *env = create(1, NR_MEASURED);
	struct timespec start, elapsed;

	if (has_async_pf && !on)
		TEST_ASSERT_EQ(hypercall(env, 0, KVM_ARM_ASYNC_PF_DISABLE, 0, 0), 0);
	install_all_pages(&env->pages);
	clock_gettime(CLOCK_MONOTONIC, &start);
	run(env, 0, READ_MANY, NR_MEASURED);
	elapsed = timespec_elapsed(start);
	TEST_ASSERT_EQ(host_guest(env, 0)->value, NR_MEASURED);
	destroy(env);
	return timespec_to_ns(elapsed) / NR_MEASURED;
}

static void measure_faults(void)
{
	uint64_t least[2] = { -1, -1 };

	for (int i = 0; i < 2 * NR_TRIES; i++)
		least[i % 2] = min(least[i % 2], time_fault(i % 2));
	printf("apf_fault_off %lu instructions\n", least[0]);
	printf("apf_fault_on %lu instructions\n", least[1]);
}

static void *install_first_page(void *pages)
{
	usleep(2000);
	install_page(pages, 0);
	return NULL;
}

/*
 * Print how many exits a fault causes, until the guest has read the page.  The page
 * becomes ready while the vCPU runs.
 */
static void measure_exits(void)
{
	struct env *env = create(1, 1);
	uint64_t before, exits, least = -1;
	pthread_t thread;

	hold_events(&env->pages, NR_TRIES);
	for (int i = 0; i < NR_TRIES; i++) {
		before = statistic(env, 0, "exits");
		start_fault(env, 0, 0);
		pthread_create(&thread, NULL, install_first_page, &env->pages);
		run(env, 0, SPIN, i + 1);
		check_page(env, 0, 0);
		exits = statistic(env, 0, "exits") - before;
		pthread_join(thread, NULL);

		/* The same commands without a fault. */
		before = statistic(env, 0, "exits");
		check_page(env, 0, 0);
		run(env, 0, SPIN, i + 1);
		check_page(env, 0, 0);
		exits -= statistic(env, 0, "exits") - before;
		least = min(least, exits);
		madvise(env->pages.mem, env->pages.size, MADV_DONTNEED);
	}
	printf("apf_exits %ld exits\n", least);
	destroy(env);
}

/* Print figures for bench/run. */
static int measure(void)
{
	has_async_pf = kvm_check_cap(KVM_CAP_ARM_ASYNC_PF);
	measure_faults();
	if (has_async_pf)
		measure_exits();
	return 0;
}

int main(int argc, char *argv[])
{
	if (argc == 2 && !strcmp(argv[1], "-p"))
		return measure();

	has_async_pf = kvm_check_cap(KVM_CAP_ARM_ASYNC_PF);
	TEST_REQUIRE(has_async_pf);

	return test_harness_run(argc, argv);
}
