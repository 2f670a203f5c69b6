// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test asynchronous page faults.
 *
 * The guest reads pages that a userfaultfd handler of the VMM holds back.  KVM tells
 * the guest that a page is not present, with a token, and the guest goes on without
 * it.  When the handler has installed the page, KVM tells the guest the token again.
 *
 * The guest runs one command of the VMM after another.  Its interrupts are enabled,
 * and it is at CPL 0, where it has asked for asynchronous page faults as well.
 */
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/kvm_mem.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <asm/kvm_para.h>

#include "apic.h"
#include "held_pages.h"
#include "kvm_test_harness.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

#define PAGES_GPA	BIT_ULL(30)
#define PAGES_GVA	0xc0000000ull
#define PAGES_SLOT	10

/* As many faults as KVM has in flight for one vCPU, unless the VMM wants more. */
#define MAX_FAULTS	64
#define MAX_VCPUS	5
/* As many faults as KVM has in flight on one CPU of the host. */
#define CPU_FAULTS	512
#define READY_VECTOR	0xe0
#define WAKE_ALL	(~0u)

#define APF_ON		(KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_SEND_ALWAYS | \
			 KVM_ASYNC_PF_DELIVERY_AS_INT)

enum command {
	READ,		/* Read a page, or get a token for it. */
	WAIT,		/* Halt until so many pages have become ready. */
	HALT,		/* Halt, with interrupts disabled. */
	KEEP_TOKEN,	/* From now on, acknowledge no page-ready event. */
	TURN_OFF,	/* Turn asynchronous page faults off. */
	TURN_ON,
	SEND_INIT,	/* Send an INIT to another vCPU. */
};

/* What the guest and the VMM share, for each vCPU. */
static struct apf {
	struct kvm_vcpu_pv_apf_data page;

	enum command command;
	int arg;

	/* Where to go on if the page that is being read isn't present. */
	uint64_t resume;
	uint32_t token;
	uint64_t value;

	bool keeps_token;
	int nr_ready;
	uint32_t ready[CPU_FAULTS + 1];
} __aligned(64) apfs[MAX_VCPUS];

static struct apf *this_apf(void)
{
	return &apfs[x2apic_read_reg(APIC_ID)];
}

static void page_fault_handler(struct ex_regs *regs)
{
	struct apf *apf = this_apf();
	uint64_t cr2;

	asm volatile("mov %%cr2, %0" : "=r"(cr2));
	__GUEST_ASSERT(apf->page.flags == KVM_PV_REASON_PAGE_NOT_PRESENT,
		       "#PF at %lx, flags %x", cr2, apf->page.flags);
	WRITE_ONCE(apf->page.flags, 0);
	GUEST_ASSERT(cr2);
	apf->token = cr2;
	regs->rip = apf->resume;
}

static void ready_handler(struct ex_regs *regs)
{
	struct apf *apf = this_apf();

	GUEST_ASSERT(apf->nr_ready < ARRAY_SIZE(apf->ready));
	apf->ready[apf->nr_ready++] = apf->page.token;
	if (!apf->keeps_token) {
		WRITE_ONCE(apf->page.token, 0);
		wrmsr(MSR_KVM_ASYNC_PF_ACK, 1);
	}
	x2apic_write_reg(APIC_EOI, 0);
}

static void read_page(struct apf *apf, int page)
{
	uint64_t tmp;

	apf->token = 0;
	apf->value = 0;
	asm volatile("lea 1f(%%rip), %0\n\t"
		     "mov %0, %1\n\t"
		     "mov (%3), %0\n\t"
		     "mov %0, %2\n"
		     "1:"
		     : "=&r"(tmp), "=m"(apf->resume), "+m"(apf->value)
		     : "r"(PAGES_GVA + page * PAGE_SIZE)
		     : "memory");
}

static void guest_code(struct apf *apf, uint64_t gpa)
{
	x2apic_enable();
	wrmsr(MSR_KVM_ASYNC_PF_INT, READY_VECTOR);
	wrmsr(MSR_KVM_ASYNC_PF_EN, gpa | APF_ON);

	for (;;) {
		asm volatile("sti");
		GUEST_SYNC(0);
		switch (READ_ONCE(apf->command)) {
		case READ:
			read_page(apf, apf->arg);
			break;
		case WAIT:
			asm volatile("cli");
			while (READ_ONCE(apf->nr_ready) < apf->arg)
				asm volatile("sti; hlt; cli" : : : "memory");
			break;
		case HALT:
			asm volatile("cli; hlt" : : : "memory");
			break;
		case KEEP_TOKEN:
			apf->keeps_token = true;
			break;
		case TURN_OFF:
			wrmsr(MSR_KVM_ASYNC_PF_EN, 0);
			break;
		case TURN_ON:
			wrmsr(MSR_KVM_ASYNC_PF_EN, gpa | APF_ON);
			break;
		case SEND_INIT:
			x2apic_write_reg(APIC_ICR, (uint64_t)apf->arg << 32 |
					 APIC_INT_ASSERT | APIC_DM_INIT);
			break;
		}
	}
}

struct env {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[MAX_VCPUS];

	struct held_pages pages;
};

static struct apf *host_apf(struct env *env, int i)
{
	return addr_gva2hva(env->vm, (vm_vaddr_t)&apfs[i]);
}

/* Run a vCPU until it has executed a command. */
static struct apf *run(struct env *env, int i, enum command command, int arg)
{
	struct apf *apf = host_apf(env, i);
	struct ucall uc;

	apf->command = command;
	apf->arg = arg;
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
	return apf;
}

/* Read a page that isn't there, and return the token that the guest gets for it. */
static uint32_t start_fault(struct env *env, int i, int page)
{
	uint32_t token = run(env, i, READ, page)->token;

	TEST_ASSERT(token, "The fault on page %d is synchronous", page);
	return token;
}

/* Run a vCPU until @nr pages have become ready, and check the token of the last one. */
static void wait_for_ready(struct env *env, int i, int nr, uint32_t token)
{
	struct apf *apf = run(env, i, WAIT, nr);

	TEST_ASSERT_EQ(apf->ready[nr - 1], token);
}

/* Read a page that is there, and check what is in it. */
static void check_page(struct env *env, int i, int page)
{
	struct apf *apf = run(env, i, READ, page);

	TEST_ASSERT(!apf->token, "Page %d isn't present, token %x", page, apf->token);
	TEST_ASSERT_EQ(apf->value, page + 1);
}

static void create_memory(struct env *env, int nr_pages, __u64 uffd_mode)
{
	vm_userspace_mem_region_add(env->vm, VM_MEM_SRC_ANONYMOUS, PAGES_GPA, PAGES_SLOT,
				    nr_pages, 0);
	virt_map(env->vm, PAGES_GVA, PAGES_GPA, nr_pages);
	hold_pages(&env->pages, addr_gpa2hva(env->vm, PAGES_GPA), nr_pages, PAGE_SIZE, uffd_mode);
}

/*
 * vCPU i has @nr_pages pages, from page i * @nr_pages on, and can have @limit faults in
 * flight.
 */
static struct env *create_with_limit(int limit, int nr_vcpus, int nr_pages, __u64 uffd_mode)
{
	struct env *env = calloc(1, sizeof(*env));

	env->vm = vm_create(nr_vcpus);
	if (limit != MAX_FAULTS)
		vm_enable_cap(env->vm, KVM_CAP_ASYNC_PF_LIMIT, limit);
	for (int i = 0; i < nr_vcpus; i++)
		env->vcpus[i] = vm_vcpu_add(env->vm, i, guest_code);
	vm_install_exception_handler(env->vm, PF_VECTOR, page_fault_handler);
	vm_install_exception_handler(env->vm, READY_VECTOR, ready_handler);
	create_memory(env, nr_vcpus * nr_pages, uffd_mode);

	for (int i = 0; i < nr_vcpus; i++) {
		struct apf *apf = host_apf(env, i);

		vcpu_args_set(env->vcpus[i], 2, &apfs[i],
			      addr_hva2gpa(env->vm, &apf->page));
		run(env, i, READ, 0);
		/* KVM tells the guest to wake all tasks when they are turned on. */
		wait_for_ready(env, i, 1, WAKE_ALL);
		apf->nr_ready = 0;
	}
	return env;
}

static struct env *create(int nr_vcpus, int nr_pages, __u64 uffd_mode)
{
	return create_with_limit(MAX_FAULTS, nr_vcpus, nr_pages, uffd_mode);
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
	struct env *env = create(1, 1, UFFDIO_REGISTER_MODE_MISSING);
	uint32_t token = start_fault(env, 0, 0);

	wait_for_events(&env->pages, 1);
	install_page(&env->pages, 0);
	wait_for_ready(env, 0, 1, token);
	check_page(env, 0, 0);
	TEST_ASSERT_EQ(env->pages.nr_events, 1);
	destroy(env);
}

/* The guest reads a page again that is on its way: KVM halts it. */
TEST(repeated_fault)
{
	struct env *env = create(1, 1, UFFDIO_REGISTER_MODE_MISSING);
	uint32_t token = start_fault(env, 0, 0);
	pthread_t thread;

	wait_for_events(&env->pages, 1);
	pthread_create(&thread, NULL, install_soon, &env->pages);
	check_page(env, 0, 0);
	pthread_join(thread, NULL);
	wait_for_ready(env, 0, 1, token);
	TEST_ASSERT_EQ(env->pages.nr_events, 1);
	destroy(env);
}

static void check_tokens(const uint32_t *tokens, const uint32_t *ready)
{
	for (int i = 0; i < MAX_FAULTS; i++) {
		int seen = 0;

		for (int j = 0; j < MAX_FAULTS; j++)
			seen += ready[j] == tokens[i];
		TEST_ASSERT(seen == 1, "Token %x of fault %d came %d times", tokens[i], i, seen);
	}
}

/* The vCPU has as many faults in flight as KVM allows, and waits for the next page. */
TEST(all_faults)
{
	struct env *env = create(1, MAX_FAULTS + 1, UFFDIO_REGISTER_MODE_MISSING);
	uint32_t tokens[MAX_FAULTS];
	struct apf *apf;

	hold_events(&env->pages, MAX_FAULTS);
	for (int i = 0; i < MAX_FAULTS; i++)
		tokens[i] = start_fault(env, 0, i);
	wait_for_events(&env->pages, MAX_FAULTS);
	check_page(env, 0, MAX_FAULTS);
	install_all_pages(&env->pages);
	apf = run(env, 0, WAIT, MAX_FAULTS);
	check_tokens(tokens, apf->ready);
	for (int i = 0; i < MAX_FAULTS; i++)
		check_page(env, 0, i);
	destroy(env);
}

/* A write of MSR_KVM_ASYNC_PF_EN that fails changes nothing. */
TEST(bad_shared_page)
{
	struct env *env = create(1, 1, UFFDIO_REGISTER_MODE_MISSING);
	uint64_t old = vcpu_get_msr(env->vcpus[0], MSR_KVM_ASYNC_PF_EN);
	uint64_t bad = BIT_ULL(35) | APF_ON;
	uint32_t token;

	TEST_ASSERT(_vcpu_set_msr(env->vcpus[0], MSR_KVM_ASYNC_PF_EN, bad) == 0,
		    "An address outside all memslots is accepted");
	TEST_ASSERT_EQ(vcpu_get_msr(env->vcpus[0], MSR_KVM_ASYNC_PF_EN), old);

	token = start_fault(env, 0, 0);
	install_page(&env->pages, 0);
	wait_for_ready(env, 0, 1, token);
	destroy(env);
}

/* Turning asynchronous page faults off doesn't wait for those in flight. */
TEST(turned_off)
{
	struct env *env = create(1, 2, UFFDIO_REGISTER_MODE_MISSING);
	struct apf *apf = host_apf(env, 0);
	uint32_t token;

	start_fault(env, 0, 0);
	wait_for_events(&env->pages, 1);
	run(env, 0, TURN_OFF, 0);
	run(env, 0, TURN_ON, 0);
	wait_for_ready(env, 0, 1, WAKE_ALL);

	/* The guest reads the same page again, and gets a new token. */
	token = start_fault(env, 0, 0);
	wait_for_events(&env->pages, 2);
	install_page(&env->pages, 0);
	wait_for_ready(env, 0, 2, token);
	check_page(env, 0, 0);
	TEST_ASSERT_EQ(apf->nr_ready, 2);
	destroy(env);
}

static void ignore_signal(int signal)
{
}

/* Run a vCPU that has nothing to do for 300 ms.  Return the time on the CPU, in us. */
static long run_until_signal(struct kvm_vcpu *vcpu)
{
	struct itimerval timer = { .it_value.tv_usec = 300000 };
	struct rusage before, after;

	signal(SIGALRM, ignore_signal);
	getrusage(RUSAGE_THREAD, &before);
	setitimer(ITIMER_REAL, &timer, NULL);
	TEST_ASSERT_EQ(__vcpu_run(vcpu), -1);
	TEST_ASSERT_EQ(errno, EINTR);
	getrusage(RUSAGE_THREAD, &after);
	return (after.ru_stime.tv_sec - before.ru_stime.tv_sec) * 1000000 +
	       after.ru_stime.tv_usec - before.ru_stime.tv_usec;
}

/* Nor does the reset of a vCPU. */
TEST(reset)
{
	struct env *env = create(2, 1, UFFDIO_REGISTER_MODE_MISSING);
	struct kvm_mp_state mp_state;

	start_fault(env, 1, 1);
	wait_for_events(&env->pages, 1);
	run(env, 0, SEND_INIT, 1);
	/* KVM resets the vCPU when it is asked for its state. */
	vcpu_mp_state_get(env->vcpus[1], &mp_state);
	TEST_ASSERT_EQ(mp_state.mp_state, KVM_MP_STATE_INIT_RECEIVED);
	TEST_ASSERT_EQ(vcpu_get_msr(env->vcpus[1], MSR_KVM_ASYNC_PF_EN), 0);

	/* The page doesn't wake the vCPU, which waits for a SIPI until the signal. */
	install_page(&env->pages, 1);
	TEST_ASSERT(run_until_signal(env->vcpus[1]) < 100000,
		    "The vCPU keeps its CPU busy while it waits for a SIPI");
	destroy(env);
}

/* Faults that were forgotten count until their pages arrive. */
TEST(all_faults_turned_off)
{
	struct env *env = create(1, MAX_FAULTS + 1, UFFDIO_REGISTER_MODE_MISSING);

	hold_events(&env->pages, MAX_FAULTS);
	for (int i = 0; i < MAX_FAULTS; i++) {
		start_fault(env, 0, i);
		run(env, 0, TURN_OFF, 0);
		run(env, 0, TURN_ON, 0);
	}
	wait_for_events(&env->pages, MAX_FAULTS);
	check_page(env, 0, MAX_FAULTS);
	destroy(env);
}

/* The vCPU can have @limit faults in flight, and waits for the page of the next one. */
static void check_limit(struct env *env, int limit)
{
	hold_events(&env->pages, limit);
	for (int i = 0; i < limit; i++)
		start_fault(env, 0, i);
	wait_for_events(&env->pages, limit);
	check_page(env, 0, limit);
	install_all_pages(&env->pages);
	run(env, 0, WAIT, limit);
}

/* The VMM wants more faults in flight than KVM allows by itself. */
TEST(more_faults)
{
	const int limit = 200;
	struct env *env = create_with_limit(limit, 1, limit + 1, UFFDIO_REGISTER_MODE_MISSING);

	check_limit(env, limit);
	for (int i = 0; i < limit; i++)
		check_page(env, 0, i);
	destroy(env);
}

TEST(bad_limit)
{
	const int highest = kvm_check_cap(KVM_CAP_ASYNC_PF_LIMIT);
	struct {
		const char *what;
		struct kvm_enable_cap cap;
		int error;
	} cases[] = {
		{ "no fault", { .args = { 0 } }, EINVAL },
		{ "one too many", { .args = { highest + 1 } }, EINVAL },
		{ "more than 32 bits", { .args = { BIT_ULL(32) | 1 } }, EINVAL },
		{ "a flag", { .flags = 1, .args = { 1 } }, EINVAL },
		{ "a second argument", { .args = { 1, 1 } }, EINVAL },
		{ "a third argument", { .args = { 1, 0, 1 } }, EINVAL },
		{ "a fourth argument", { .args = { 1, 0, 0, 1 } }, EINVAL },
		{ "the lowest", { .args = { 1 } }, 0 },
		{ "the highest", { .args = { highest } }, 0 },
		{ "a VM with a vCPU", { .args = { 1 } }, EBUSY },
	};
	struct kvm_vm *vm = vm_create_barebones();

	TEST_ASSERT_EQ(highest, 4096);
	for (int i = 0; i < ARRAY_SIZE(cases); i++) {
		if (cases[i].error == EBUSY)
			__vm_vcpu_add(vm, 0);
		cases[i].cap.cap = KVM_CAP_ASYNC_PF_LIMIT;
		errno = 0;
		__vm_ioctl(vm, KVM_ENABLE_CAP, &cases[i].cap);
		TEST_ASSERT(errno == cases[i].error, "%s: errno %d, not %d",
			    cases[i].what, errno, cases[i].error);
	}
	kvm_vm_free(vm);
}

struct snapshot {
	struct kvm_x86_state *vcpu;
	struct kvm_lapic_state lapic;
};

static uint64_t *saved_msr(struct snapshot *snapshot, uint32_t index)
{
	struct kvm_msrs *msrs = &snapshot->vcpu->msrs;

	for (int i = 0; i < msrs->nmsrs; i++)
		if (msrs->entries[i].index == index)
			return &msrs->entries[i].data;
	TEST_FAIL("KVM doesn't list MSR %x", index);
	return NULL;
}

/* Save the vCPU with a fault for page 0 in flight, and destroy the VM. */
static struct snapshot save(struct env *env)
{
	struct snapshot snapshot;
	pthread_t thread;

	start_fault(env, 0, 0);
	wait_for_events(&env->pages, 1);
	snapshot.vcpu = vcpu_save_state(env->vcpus[0]);
	vcpu_ioctl(env->vcpus[0], KVM_GET_LAPIC, &snapshot.lapic);
	/* KVM waits for the page before it destroys the vCPU. */
	pthread_create(&thread, NULL, install_soon, &env->pages);
	kvm_vm_release(env->vm);
	pthread_join(thread, NULL);
	return snapshot;
}

static void restore(struct env *env, struct snapshot *snapshot)
{
	env->vcpus[0] = vm_recreate_with_one_vcpu(env->vm);
	vcpu_load_state(env->vcpus[0], snapshot->vcpu);
	vcpu_ioctl(env->vcpus[0], KVM_SET_LAPIC, &snapshot->lapic);
	kvm_x86_state_cleanup(snapshot->vcpu);
}

/* A VM is saved with a fault in flight.  The new VM tells the guest to wake all tasks. */
TEST(restored)
{
	struct env *env = create(1, 2, UFFDIO_REGISTER_MODE_MISSING);
	struct snapshot snapshot = save(env);

	restore(env, &snapshot);
	wait_for_ready(env, 0, 1, WAKE_ALL);
	check_page(env, 0, 0);
	destroy(env);
}

/* The VMM doesn't restore the vector, and does so later. */
TEST(restored_without_vector)
{
	struct env *env = create(1, 2, UFFDIO_REGISTER_MODE_MISSING);
	struct snapshot snapshot = save(env);

	*saved_msr(&snapshot, MSR_KVM_ASYNC_PF_INT) = 0;
	restore(env, &snapshot);
	hold_events(&env->pages, 0);
	check_page(env, 0, 1);
	TEST_ASSERT_EQ(host_apf(env, 0)->nr_ready, 0);

	vcpu_set_msr(env->vcpus[0], MSR_KVM_ASYNC_PF_INT, READY_VECTOR);
	wait_for_ready(env, 0, 1, WAKE_ALL);
	destroy(env);
}

/* The VMM goes back to a snapshot, and the vCPU has a page-ready event to deliver. */
TEST(restored_beside_ready_page)
{
	struct env *env = create(1, 2, UFFDIO_REGISTER_MODE_MISSING);
	struct kvm_vcpu *vcpu = env->vcpus[0];
	struct apf *apf = host_apf(env, 0);
	uint32_t tokens[2];

	run(env, 0, KEEP_TOKEN, 0);
	for (int i = 0; i < 2; i++) {
		tokens[i] = start_fault(env, 0, i);
		install_page(&env->pages, i);
		/* The guest keeps the first token.  So the second one has to wait. */
		run(env, 0, i ? HALT : WAIT, 1);
	}
	TEST_ASSERT_EQ(apf->nr_ready, 1);
	TEST_ASSERT_EQ(apf->ready[0], tokens[0]);

	/* In the snapshot, no event was pending. */
	apf->page.token = 0;
	apf->keeps_token = false;
	vcpu_set_msr(vcpu, MSR_KVM_ASYNC_PF_EN, vcpu_get_msr(vcpu, MSR_KVM_ASYNC_PF_EN));
	vcpu_set_msr(vcpu, MSR_KVM_ASYNC_PF_EN, vcpu_get_msr(vcpu, MSR_KVM_ASYNC_PF_EN));
	wait_for_ready(env, 0, 2, WAKE_ALL);
	TEST_ASSERT_EQ(apf->nr_ready, 2);
	destroy(env);
}

/* A page that the guest reads is not fetched for writing. */
TEST(read_of_protected_page)
{
	struct env *env = create(1, 1, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
	uint32_t token = start_fault(env, 0, 0);

	env->pages.copy_mode = UFFDIO_COPY_MODE_WP;
	wait_for_events(&env->pages, 1);
	TEST_ASSERT_EQ(env->pages.first_event.arg.pagefault.flags, 0);
	install_page(&env->pages, 0);
	wait_for_ready(env, 0, 1, token);
	check_page(env, 0, 0);
	TEST_ASSERT_EQ(env->pages.nr_events, 1);
	destroy(env);
}

/* The VMM has mapped the page read-only.  The handler must be asked for it. */
TEST(read_of_read_only_mapping)
{
	struct env *env = create(1, 1, UFFDIO_REGISTER_MODE_MISSING);

	TEST_ASSERT(!mprotect(env->pages.mem, PAGE_SIZE, PROT_READ),
		    __KVM_SYSCALL_ERROR("mprotect()", -1));
	start_fault(env, 0, 0);
	wait_for_events(&env->pages, 1);
	install_page(&env->pages, 0);
	run(env, 0, WAIT, 1);
	check_page(env, 0, 0);
	destroy(env);
}

/* There is no page behind the end of a file.  The VMM gets the error. */
TEST(no_page)
{
	struct env *env = create(1, 2, UFFDIO_REGISTER_MODE_MISSING);
	struct apf *apf = host_apf(env, 0);

	truncate_last_page(&env->pages);
	apf->command = READ;
	apf->arg = 1;
	TEST_ASSERT_EQ(__vcpu_run(env->vcpus[0]), -1);
	TEST_ASSERT_EQ(errno, EFAULT);
	destroy(env);
}

static void pin_to_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	TEST_ASSERT(!sched_setaffinity(0, sizeof(set), &set),
		    __KVM_SYSCALL_ERROR("sched_setaffinity()", -1));
}

/* Asynchronous fsync() runs on the host's system workqueue, on the CPU of its caller. */
static int fsync_asynchronously(void)
{
	struct timespec timeout = { .tv_sec = 5 };
	struct iocb iocb = { .aio_lio_opcode = IOCB_CMD_FSYNC };
	struct iocb *iocbs[] = { &iocb };
	struct io_event event;
	aio_context_t ctx = 0;

	iocb.aio_fildes = memfd_create("fsync", 0);
	TEST_ASSERT(!syscall(__NR_io_setup, 1, &ctx), __KVM_SYSCALL_ERROR("io_setup()", -1));
	TEST_ASSERT(syscall(__NR_io_submit, ctx, 1, iocbs) == 1,
		    __KVM_SYSCALL_ERROR("io_submit()", -1));
	return syscall(__NR_io_getevents, ctx, 1, 1, &event, &timeout);
}

/* More faults than the system workqueue runs work items on a CPU don't stall it. */
TEST(host_workqueue)
{
	struct env *env;

	pin_to_cpu(0);
	env = create(MAX_VCPUS, MAX_FAULTS, UFFDIO_REGISTER_MODE_MISSING);
	for (int page = 0; page < env->pages.nr; page++)
		start_fault(env, page / MAX_FAULTS, page);
	TEST_ASSERT_EQ(fsync_asynchronously(), 1);
	wait_for_events(&env->pages, env->pages.nr);
	destroy(env);
}

/* If a CPU has as many faults as it can work on at once, the vCPU waits for its page. */
TEST(full_cpu)
{
	struct env *env;

	pin_to_cpu(0);
	env = create_with_limit(CPU_FAULTS + 1, 1, CPU_FAULTS + 1,
				UFFDIO_REGISTER_MODE_MISSING);
	check_limit(env, CPU_FAULTS);
	destroy(env);
}

static struct held_pages *vmm_that_is_killed(void)
{
	struct env *env = create(1, 1, UFFDIO_REGISTER_MODE_MISSING);

	start_fault(env, 0, 0);
	return &env->pages;
}

TEST(killed_vmm)
{
	kill_vmm(vmm_that_is_killed);
}

int main(int argc, char *argv[])
{
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_KVM_ASYNC_PF_INT));

	return test_harness_run(argc, argv);
}
