// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test gfn-to-pfn caches beside threads of the VMM that drop pages.
 *
 * The cache is that of Xen's shared info page, at an address outside of all
 * memslots.
 *
 * A cache never keeps a page that was dropped: one thread activates the cache,
 * over and over.  Another thread drops the page at random times.  It runs on the
 * same CPU with a realtime priority, so with full preemption it can drop the page
 * between any two instructions of the refresh, which then continues with a page
 * that is gone.
 *
 * A cache waits while its page is dropped, but not while other pages are: a
 * thread drops a lot of memory, and a thread with a realtime priority takes its
 * CPU in the middle of that.  The activation of a cache in that memory must wait.
 * The activation of another cache must succeed meanwhile.
 *
 * The host doesn't lose what KVM writes when it reclaims memory: a page that user
 * space has only read is clean, until KVM writes to it through a cache.
 *
 * A signal ends the wait of a vCPU: the page of its clock is in memory whose drop
 * is held.  KVM_RUN must return, and the next one must update the clock.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <time.h>

#include <asm/kvm_para.h>
#include <asm/pvclock-abi.h>
#include <linux/time64.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

#define PREEMPTION	"/sys/kernel/debug/sched/preempt"
#define SECONDS		5
#define PORT		5
#define HELD_SIZE	(256UL << 20)

/* The first event channels' pending bits in struct shared_info of 64-bit guests. */
#define PENDING_OFFSET	2048

static bool quiet, stop;
static int drops;

static uint64_t *pending_bits(void *page)
{
	return page + PENDING_OFFSET;
}

static void *map_pages(size_t size)
{
	void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	TEST_ASSERT(mem != MAP_FAILED, __KVM_SYSCALL_ERROR("mmap()", -1));
	return mem;
}

static void advise(void *mem, size_t size, int advice)
{
	TEST_ASSERT(!madvise(mem, size, advice), __KVM_SYSCALL_ERROR("madvise()", -1));
}

static void *drop_pages(void *page)
{
	struct timespec pause = {};
	unsigned int seed = 1;

	while (!READ_ONCE(stop)) {
		pause.tv_nsec = rand_r(&seed) % 300000;
		clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
		if (READ_ONCE(quiet))
			continue;
		advise(page, getpagesize(), MADV_DONTNEED);
		/* Fault another page in, so that a refresh finds it without waiting. */
		WRITE_ONCE(*pending_bits(page), 0);
		WRITE_ONCE(drops, drops + 1);
	}
	return NULL;
}

/* The mode of the kernel's preemption before the test. */
static char old_preemption[16];

static void set_preemption(const char *mode)
{
	FILE *f = fopen(PREEMPTION, "w");

	TEST_ASSERT(f, __KVM_SYSCALL_ERROR("fopen()", -1));
	fputs(mode, f);
	fclose(f);
}

static void restore_preemption(void)
{
	set_preemption(old_preemption);
}

/* Turn full preemption on until the test ends, if the kernel can change it. */
static void turn_preemption_on(void)
{
	FILE *f = fopen(PREEMPTION, "r");
	char modes[64] = "";
	char *mode;

	if (!f)
		return;
	fgets(modes, sizeof(modes), f);
	fclose(f);
	/* The mode that is in use is in parentheses. */
	mode = strchr(modes, '(');
	if (mode && sscanf(mode, "(%15[a-z])", old_preemption) == 1) {
		atexit(restore_preemption);
		set_preemption("full");
	}
}

/* A call of madvise() that drops a lot of memory, and doesn't get on. */
struct held_drop {
	void *mem;
	int cpu;
	int limit;	/* in ms; it gets on after this */
	bool populated, held, release;
	pthread_t dropper, hog;
};

static void *last_page(struct held_drop *drop)
{
	return drop->mem + HELD_SIZE - getpagesize();
}

static bool is_mapped(void *page)
{
	unsigned char in_core;

	TEST_ASSERT(!mincore(page, getpagesize(), &in_core),
		    __KVM_SYSCALL_ERROR("mincore()", -1));
	return in_core & 1;
}

/* Has the drop begun, but not ended?  It goes from the first page to the last. */
static bool is_dropping(struct held_drop *drop)
{
	return !is_mapped(drop->mem) && is_mapped(last_page(drop));
}

static void *drop_memory(void *arg)
{
	struct held_drop *drop = arg;

	kvm_pin_this_task_to_pcpu(drop->cpu);
	advise(drop->mem, HELD_SIZE, MADV_POPULATE_WRITE);
	WRITE_ONCE(drop->populated, true);
	advise(drop->mem, HELD_SIZE, MADV_DONTNEED);
	return NULL;
}

/* Once the drop has begun, take its CPU. */
static void *hog_cpu(void *arg)
{
	struct held_drop *drop = arg;
	struct sched_param param = { .sched_priority = 1 };
	struct timespec begin;

	kvm_pin_this_task_to_pcpu(drop->cpu);
	TEST_ASSERT(!sched_setscheduler(0, SCHED_FIFO, &param),
		    __KVM_SYSCALL_ERROR("sched_setscheduler()", -1));
	while (!READ_ONCE(drop->populated) || is_mapped(drop->mem))
		usleep(100);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	WRITE_ONCE(drop->held, true);
	while (!READ_ONCE(drop->release) &&
	       timespec_to_ns(timespec_elapsed(begin)) < drop->limit * NSEC_PER_MSEC)
		cpu_relax();
	return NULL;
}

/* Return whether the drop was going on until now. */
static bool release_drop(struct held_drop *drop)
{
	bool dropping = is_dropping(drop);

	WRITE_ONCE(drop->release, true);
	pthread_join(drop->hog, NULL);
	pthread_join(drop->dropper, NULL);
	return dropping;
}

static void hold_drop(struct held_drop *drop, int limit)
{
	int tries;

	for (tries = 0; tries < 20; tries++) {
		drop->limit = limit;
		drop->populated = false;
		drop->held = false;
		drop->release = false;
		pthread_create(&drop->hog, NULL, hog_cpu, drop);
		pthread_create(&drop->dropper, NULL, drop_memory, drop);
		while (!READ_ONCE(drop->held))
			usleep(100);
		if (is_dropping(drop))
			return;
		/* It was too fast. */
		release_drop(drop);
	}
	TEST_FAIL("No drop could be held");
}

static void set_shared_info(struct kvm_vm *vm, void *hva)
{
	struct kvm_xen_hvm_attr attr = {
		.type = KVM_XEN_ATTR_TYPE_SHARED_INFO_HVA,
		.u.shared_info.hva = (uintptr_t)hva,
	};

	vm_ioctl(vm, KVM_XEN_HVM_SET_ATTR, &attr);
}

static void send_event(struct kvm_vm *vm, struct kvm_vcpu *vcpu)
{
	struct kvm_irq_routing_xen_evtchn event = {
		.port = PORT,
		.vcpu = vcpu->id,
		.priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL,
	};

	TEST_ASSERT(__vm_ioctl(vm, KVM_XEN_HVM_EVTCHN_SEND, &event) >= 0,
		    KVM_IOCTL_ERROR(KVM_XEN_HVM_EVTCHN_SEND, -1));
}

/* With the cache valid, KVM must write to the page that is mapped now. */
static void check_page(struct kvm_vm *vm, struct kvm_vcpu *vcpu, void *page)
{
	WRITE_ONCE(*pending_bits(page), 0);
	send_event(vm, vcpu);
	TEST_ASSERT(READ_ONCE(*pending_bits(page)) == BIT(PORT),
		    "KVM wrote the event to a page that was dropped");
}

static void test_reclaim(struct kvm_vm *vm, struct kvm_vcpu *vcpu)
{
	size_t size = getpagesize();
	void *page, *other;
	int fd;

	fd = memfd_create("gpc_test", 0);
	TEST_ASSERT(fd >= 0, __KVM_SYSCALL_ERROR("memfd_create()", fd));
	TEST_ASSERT(!ftruncate(fd, 2 * size), __KVM_SYSCALL_ERROR("ftruncate()", -1));
	page = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	TEST_ASSERT(page != MAP_FAILED, __KVM_SYSCALL_ERROR("mmap()", -1));
	other = page + size;

	/* The pages are mapped for writing, but clean. */
	advise(page, 2 * size, MADV_POPULATE_READ);
	set_shared_info(vm, page);
	send_event(vm, vcpu);
	advise(page, 2 * size, MADV_PAGEOUT);

	TEST_ASSERT(!is_mapped(other), "The host doesn't reclaim a clean page");
	TEST_ASSERT(READ_ONCE(*pending_bits(page)) == BIT(PORT),
		    "The host reclaimed a page that KVM had written to");

	set_shared_info(vm, NULL);
	munmap(page, 2 * size);
	close(fd);
}

static void test_drops_of_the_page(struct kvm_vm *vm, struct kvm_vcpu *vcpu, void *page)
{
	struct sched_param param = { .sched_priority = 1 };
	struct timespec begin;
	pthread_t thread;
	int before, hits = 0;

	pthread_create(&thread, NULL, drop_pages, page);
	TEST_REQUIRE(!pthread_setschedparam(thread, SCHED_FIFO, &param));

	clock_gettime(CLOCK_MONOTONIC, &begin);
	while (timespec_elapsed(begin).tv_sec < SECONDS) {
		before = READ_ONCE(drops);
		set_shared_info(vm, page);
		if (READ_ONCE(drops) != before) {
			WRITE_ONCE(quiet, true);
			check_page(vm, vcpu, page);
			WRITE_ONCE(quiet, false);
			hits++;
		}
		set_shared_info(vm, NULL);
	}
	pr_info("%d drops, %d of them during an activation\n", drops, hits);

	WRITE_ONCE(stop, true);
	pthread_join(thread, NULL);
}

static void *map_small_pages(void)
{
	void *mem = map_pages(HELD_SIZE);

	/* To drop them takes long. */
	madvise(mem, HELD_SIZE, MADV_NOHUGEPAGE);
	return mem;
}

static void test_held_drops(struct kvm_vm *vm, struct kvm_vcpu *vcpu, void *page, int cpu)
{
	struct held_drop drop = { .cpu = cpu };

	drop.mem = map_small_pages();

	hold_drop(&drop, SECONDS * MSEC_PER_SEC);
	set_shared_info(vm, page);
	TEST_ASSERT(release_drop(&drop), "The activation waited for a drop of other pages");

	/* Move the cache to a page that is being dropped. */
	hold_drop(&drop, 200);
	set_shared_info(vm, last_page(&drop));
	release_drop(&drop);
	check_page(vm, vcpu, last_page(&drop));

	/* KVM knows where the cache is now. */
	advise(last_page(&drop), getpagesize(), MADV_DONTNEED);
	/* Take the page that was freed, so that the next one is another. */
	memset(drop.mem, 1, getpagesize());
	check_page(vm, vcpu, last_page(&drop));
	set_shared_info(vm, NULL);
	munmap(drop.mem, HELD_SIZE);
}

#define CLOCK_GPA	BIT_ULL(32)
#define CLOCK_SLOT	10

static void guest_code(uint64_t clock_gpa)
{
	wrmsr(MSR_KVM_SYSTEM_TIME_NEW, clock_gpa | KVM_MSR_ENABLED);
	for (;;)
		GUEST_SYNC(0);
}

static void ignore_signal(int signal)
{
}

/* Send signals to the main thread, every so many ms.  0 stops them. */
static void send_signals(int ms)
{
	const struct itimerval timer = {
		.it_value.tv_usec = ms * 1000,
		.it_interval.tv_usec = ms * 1000,
	};

	setitimer(ITIMER_REAL, &timer, NULL);
}

/*
 * KVM_RUN while the page of the vCPU's clock is being dropped, and the thread gets
 * signals.  Return false if the vCPU got into the guest.
 */
static bool run_with_signals(struct kvm_vm *vm, struct kvm_vcpu *vcpu)
{
	struct kvm_clock_data clock = {};
	int ret;

	/* Each vCPU has to update its clock. */
	vm_ioctl(vm, KVM_SET_CLOCK, &clock);

	send_signals(10);
	ret = __vcpu_run(vcpu);
	TEST_ASSERT(!ret || errno == EINTR, KVM_IOCTL_ERROR(KVM_RUN, ret));
	send_signals(0);
	return ret;
}

static void test_signals(int cpu)
{
	const struct sigaction action = { .sa_handler = ignore_signal };
	struct held_drop drop = { .cpu = cpu };
	struct pvclock_vcpu_time_info *clock;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	bool interrupted;

	sigaction(SIGALRM, &action, NULL);
	drop.mem = map_small_pages();
	clock = last_page(&drop);

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	vm_set_user_memory_region(vm, CLOCK_SLOT, 0, CLOCK_GPA, HELD_SIZE, drop.mem);
	vcpu_args_set(vcpu, 1, CLOCK_GPA + HELD_SIZE - getpagesize());
	vcpu_run(vcpu);
	/* 100 ms after the guest has set the clock, KVM updates it once more. */
	usleep(200000);
	vcpu_run(vcpu);
	TEST_ASSERT(clock->version && !(clock->version & 1), "KVM sets no clock");

	hold_drop(&drop, SECONDS * MSEC_PER_SEC);
	interrupted = run_with_signals(vm, vcpu);
	TEST_ASSERT(release_drop(&drop), "No signal ended KVM_RUN");
	TEST_ASSERT(interrupted, "The vCPU didn't wait for its clock");

	TEST_ASSERT(!clock->version, "The page of the clock was not dropped");
	vcpu_run(vcpu);
	TEST_ASSERT(clock->version && !(clock->version & 1), "The clock was not updated later");
	kvm_vm_free(vm);
	munmap(drop.mem, HELD_SIZE);
}

/* Each of these addresses is refused, and a good one works after it. */
static void test_bad_addresses(struct kvm_vm *vm, struct kvm_vcpu *vcpu, void *page)
{
	const uint64_t size = getpagesize(), gap = BIT_ULL(40);
	void *unmapped = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	const struct {
		const char *what;
		bool is_hva;
		uint64_t address;
		int error;
	} bad[] = {
		{ "a gpa across a page boundary", false, size - 8, EINVAL },
		{ "a gpa without a memslot", false, gap, EFAULT },
		{ "the last gpa", false, -4ull, EINVAL },
		{ "an hva across a page boundary", true, (uintptr_t)page + size - 8, EINVAL },
		{ "an hva of the kernel", true, BIT_ULL(63) + size, EINVAL },
		{ "an hva that isn't mapped", true, (uintptr_t)unmapped, EFAULT },
	};
	struct kvm_xen_vcpu_attr attr = {}, good = {
		.type = KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO_HVA,
		.u.hva = (uintptr_t)page,
	};
	int i, ret;

	TEST_ASSERT(unmapped != MAP_FAILED, __KVM_SYSCALL_ERROR("mmap()", -1));
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		attr.type = bad[i].is_hva ? KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO_HVA :
					    KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO;
		attr.u.hva = bad[i].address;
		ret = __vcpu_ioctl(vcpu, KVM_XEN_VCPU_SET_ATTR, &attr);
		TEST_ASSERT(ret == -1 && errno == bad[i].error,
			    "%s: %d, errno %d, not %d", bad[i].what, ret, errno, bad[i].error);
		vcpu_ioctl(vcpu, KVM_XEN_VCPU_SET_ATTR, &good);
	}
	munmap(unmapped, size);
}

int main(void)
{
	struct kvm_xen_hvm_attr long_mode = {
		.type = KVM_XEN_ATTR_TYPE_LONG_MODE,
		.u.long_mode = 1,
	};
	struct kvm_xen_hvm_config config = {
		.flags = KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL |
			 KVM_XEN_HVM_CONFIG_EVTCHN_SEND,
		.msr = 0x40000000,
	};
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	void *page;

	TEST_REQUIRE(kvm_check_cap(KVM_CAP_XEN_HVM) & KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA);

	vm = vm_create_with_one_vcpu(&vcpu, NULL);
	vm_ioctl(vm, KVM_XEN_HVM_CONFIG, &config);
	vm_ioctl(vm, KVM_XEN_HVM_SET_ATTR, &long_mode);
	page = map_pages(getpagesize());

	kvm_pin_this_task_to_pcpu(0);
	turn_preemption_on();

	if (get_nprocs() > 1) {
		test_held_drops(vm, vcpu, page, 1);
		test_signals(1);
	} else {
		print_skip("A drop that doesn't get on takes a second CPU");
	}
	test_bad_addresses(vm, vcpu, page);
	test_reclaim(vm, vcpu);
	test_drops_of_the_page(vm, vcpu, page);

	kvm_vm_free(vm);
	return 0;
}
