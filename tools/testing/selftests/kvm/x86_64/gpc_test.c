// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that a gfn-to-pfn cache never keeps a page that its VMM has dropped.
 *
 * The cache is that of Xen's shared info page, at an address outside of all
 * memslots.  One thread activates the cache, over and over.  Another thread drops
 * the page at random times.  It runs on the same CPU with a realtime priority, so
 * with full preemption it can drop the page between any two instructions of the
 * refresh, which then continues with a page that is gone.
 */
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <time.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

#define PREEMPTION	"/sys/kernel/debug/sched/preempt"
#define SECONDS		5
#define PORT		5

/* The first event channels' pending bits in struct shared_info of 64-bit guests. */
#define PENDING_OFFSET	2048

static uint64_t *pending;
static bool quiet, stop;
static int drops;

static void *drop_pages(void *page)
{
	struct timespec pause = {};
	unsigned int seed = 1;

	while (!READ_ONCE(stop)) {
		pause.tv_nsec = rand_r(&seed) % 300000;
		clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
		if (READ_ONCE(quiet))
			continue;
		TEST_ASSERT(!madvise(page, getpagesize(), MADV_DONTNEED),
			    __KVM_SYSCALL_ERROR("madvise()", -1));
		/* Fault another page in, so that a refresh finds it without waiting. */
		WRITE_ONCE(*pending, 0);
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

	if (!f)
		return;
	/* The mode that is in use is in parentheses. */
	if (fscanf(f, "%*[^(](%15[a-z])", old_preemption) == 1) {
		atexit(restore_preemption);
		set_preemption("full");
	}
	fclose(f);
}

static void set_shared_info(struct kvm_vm *vm, void *hva)
{
	struct kvm_xen_hvm_attr attr = {
		.type = KVM_XEN_ATTR_TYPE_SHARED_INFO_HVA,
		.u.shared_info.hva = (uintptr_t)hva,
	};

	vm_ioctl(vm, KVM_XEN_HVM_SET_ATTR, &attr);
}

/* With the cache valid, KVM must write to the page that is mapped now. */
static void check_page(struct kvm_vm *vm, struct kvm_vcpu *vcpu)
{
	struct kvm_irq_routing_xen_evtchn event = {
		.port = PORT,
		.vcpu = vcpu->id,
		.priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL,
	};

	WRITE_ONCE(*pending, 0);
	TEST_ASSERT(__vm_ioctl(vm, KVM_XEN_HVM_EVTCHN_SEND, &event) >= 0,
		    KVM_IOCTL_ERROR(KVM_XEN_HVM_EVTCHN_SEND, -1));
	TEST_ASSERT(READ_ONCE(*pending) == BIT(PORT),
		    "KVM wrote the event to a page that was dropped");
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
	struct sched_param param = { .sched_priority = 1 };
	struct timespec begin;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	pthread_t thread;
	int before, hits = 0;
	void *page;

	TEST_REQUIRE(kvm_check_cap(KVM_CAP_XEN_HVM) & KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA);

	vm = vm_create_with_one_vcpu(&vcpu, NULL);
	vm_ioctl(vm, KVM_XEN_HVM_CONFIG, &config);
	vm_ioctl(vm, KVM_XEN_HVM_SET_ATTR, &long_mode);
	page = mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(page != MAP_FAILED, __KVM_SYSCALL_ERROR("mmap()", -1));
	pending = page + PENDING_OFFSET;

	kvm_pin_this_task_to_pcpu(sched_getcpu());
	pthread_create(&thread, NULL, drop_pages, page);
	TEST_REQUIRE(!pthread_setschedparam(thread, SCHED_FIFO, &param));
	turn_preemption_on();

	clock_gettime(CLOCK_MONOTONIC, &begin);
	while (timespec_elapsed(begin).tv_sec < SECONDS) {
		before = READ_ONCE(drops);
		set_shared_info(vm, page);
		if (READ_ONCE(drops) != before) {
			WRITE_ONCE(quiet, true);
			check_page(vm, vcpu);
			WRITE_ONCE(quiet, false);
			hits++;
		}
		set_shared_info(vm, NULL);
	}
	pr_info("%d drops, %d of them during an activation\n", drops, hits);

	WRITE_ONCE(stop, true);
	pthread_join(thread, NULL);
	kvm_vm_free(vm);
	return 0;
}
