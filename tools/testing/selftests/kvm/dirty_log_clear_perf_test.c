// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measure what clearing the dirty log, and starting and stopping it, costs the
 * caller, a vCPU that writes meanwhile, and a thread that unmaps other memory.
 *
 * The test prints one figure per line: name, value, unit.  It requires no ioctl that
 * an unpatched kernel lacks, so that two kernels can be compared.
 */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/bitops.h>
#include <linux/kvm_mem.h>
#include <linux/sizes.h>

#include "dirty_log.h"
#include "figures.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define SLOT		10
#define OTHER_SLOT	11
#define BASE		((uint64_t)SZ_4G)
#define OTHER_BASE	(BASE + 64 * (uint64_t)SZ_1G)
#define MAX_SAMPLES	16384
#define AHEAD		512	/* pages */
#define PATIENCE	60	/* seconds that a write may take */
#define MANUAL		KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE
#define MANUAL_INIT	(MANUAL | KVM_DIRTY_LOG_INITIALLY_SET)

static uint64_t psz;
static int seconds = 3;

/* ---- Guest -------------------------------------------------------------- */

static struct {
	uint64_t pages, psz;
	uint64_t nr_writes;	/* in a sweep */
	bool random;		/* write to random pages, instead of in order */
	bool timed;		/* write until told to stop, and measure the time */
	bool stop, sampling;
	uint64_t page;		/* the next page to write to */
	uint64_t writes;
	uint64_t nr_samples;
} shared;

static uint32_t samples[MAX_SAMPLES];

static uint64_t counter(void)
{
#ifdef __aarch64__
	uint64_t t;

	asm volatile("isb; mrs %0, cntvct_el0; isb" : "=r" (t) : : "memory");
	return t;
#else
	return rdtsc();
#endif
}

static void guest_write(uint64_t page, uint64_t value)
{
	WRITE_ONCE(*(uint64_t *)(BASE + page * shared.psz), value);
}

static uint64_t any_page(uint64_t i)
{
	return (i * 0x9e3779b97f4a7c15 >> 16) % shared.pages;
}

/* Sweep until told to stop; measure the writes that begin while told to sample. */
static void guest_timed(void)
{
	uint64_t begin, sampling;

	while (!READ_ONCE(shared.stop)) {
		sampling = READ_ONCE(shared.sampling);
		begin = counter();
		guest_write(shared.page, begin);
		if (sampling && shared.nr_samples < MAX_SAMPLES)
			samples[shared.nr_samples++] = counter() - begin;
		WRITE_ONCE(shared.page, (shared.page + 1) % shared.pages);
		shared.writes++;
	}
}

static void guest_code(void)
{
	uint64_t i, n;

	for (n = 0;; n++) {
		if (shared.timed)
			guest_timed();
		else
			for (i = 0; i < shared.nr_writes; i++)
				guest_write(shared.random ? any_page(i) : i, n);
		GUEST_SYNC(n);
	}
}

/* ---- VMM ---------------------------------------------------------------- */

struct vmm {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	uint64_t pages;
	unsigned long *mask;
};

static void run_on_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	/* This fails, without harm, if there is only one CPU. */
	sched_setaffinity(0, sizeof(set), &set);
}

/*
 * Create a VM with a slot of @size; all its pages are mapped and writable.  @manual
 * has the flags of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.
 */
static void create_vmm(struct vmm *v, uint64_t size, uint64_t manual)
{
	v->vm = __vm_create(VM_SHAPE(VM_MODE_DEFAULT), 1, size / psz);
	v->vcpu = vm_vcpu_add(v->vm, 0, guest_code);
	vm_enable_cap(v->vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, manual);
	vm_userspace_mem_region_add(v->vm, VM_MEM_SRC_ANONYMOUS, BASE, SLOT,
				    size / v->vm->page_size, 0);
	virt_map(v->vm, BASE, BASE, size / v->vm->page_size);
	v->pages = size / psz;
	v->mask = calloc(v->pages / 8, 1);

	memset(&shared, 0, sizeof(shared));
	shared.pages = v->pages;
	shared.psz = psz;
	shared.nr_writes = v->pages;
	sync_global_to_guest(v->vm, shared);
	sweep_faults(v->vcpu);
}

static void free_vmm(struct vmm *v)
{
	kvm_vm_free(v->vm);
	free(v->mask);
}

static uint64_t set_logging(struct vmm *v, bool on)
{
	uint64_t begin = now_ns();

	vm_mem_region_set_flags(v->vm, SLOT, on ? KVM_MEM_LOG_DIRTY_PAGES : 0);
	return now_ns() - begin;
}

/* Restart logging, so that every page is dirty. */
static void restart_log(struct vmm *v)
{
	set_logging(v, false);
	set_logging(v, true);
}

static uint64_t clear_mask(struct vmm *v)
{
	uint64_t begin = now_ns();

	kvm_vm_clear_dirty_log(v->vm, SLOT, v->mask, 0, v->pages);
	return now_ns() - begin;
}

static uint64_t clear(struct vmm *v, unsigned long word)
{
	uint64_t i;

	for (i = 0; i < v->pages / BITS_PER_LONG; i++)
		v->mask[i] = word;
	return clear_mask(v);
}

/* ---- Clearing while no vCPU runs ------------------------------------------ */

static const struct {
	const char *name;
	unsigned long word;
} patterns[] = {
	{ "all", ~0ul },
	{ "half", 0x5555555555555555 },
	{ "sparse", 1 },
};

/* Clear pages that are dirty and writable, while no vCPU runs. */
static void bench_clear(uint64_t size)
{
	int64_t cost, cleared, faults;
	struct vmm v;
	int i;

	create_vmm(&v, size, MANUAL_INIT);
	for (i = 0; i < ARRAY_SIZE(patterns); i++) {
		restart_log(&v);
		sweep_faults(v.vcpu);
		cost = clear(&v, patterns[i].word);
		faults = sweep_faults(v.vcpu);
		cleared = v.pages / 64 * __builtin_popcountl(patterns[i].word);

		figure(cost / cleared, "ns", "clear_%s", patterns[i].name);
		figure(faults * 100 / cleared, "percent", "faults_%s", patterns[i].name);
	}
	free_vmm(&v);
}

/* Start and stop logging while no vCPU runs; all pages are mapped and writable. */
static void bench_start(uint64_t size, uint64_t manual)
{
	const char *suffix = manual & KVM_DIRTY_LOG_INITIALLY_SET ? "_set" : "";
	struct vmm v;

	create_vmm(&v, size, manual);
	figure(set_logging(&v, true), "ns", "start%s", suffix);
	clear(&v, ~0ul);
	sweep_faults(v.vcpu);
	figure(set_logging(&v, false), "ns", "stop%s", suffix);
	free_vmm(&v);
}

/* ---- Rounds of a migration ------------------------------------------------ */

static const struct {
	const char *name;
	bool random;
	int every;		/* the slot has this many pages per write */
} writers[] = {
	{ "seq", false, 1 },
	{ "random", true, 16 },
};

static void print_round(const char *writer, const char *what, bool hw, int64_t ns)
{
	figure(ns, "ns", "%s_%s_%s", writer, what, hw ? "hw" : "fault");
}

/*
 * Measure what it costs to log writes, by faults or (@hw) by hardware: the cost of a
 * write, of a GET of the whole slot, and of clearing a written page.
 */
static void bench_round(uint64_t size, int w, bool hw)
{
	uint64_t i, write, get, clear_ns, dirty = 0;
	struct vmm v;

	create_vmm(&v, size, MANUAL_INIT);
	if (hw)
		vm_enable_cap(v.vm, KVM_CAP_ARM_HW_DIRTY, 1);
	restart_log(&v);
	clear(&v, ~0ul);

	shared.random = writers[w].random;
	shared.nr_writes = v.pages / writers[w].every;
	sync_global_to_guest(v.vm, shared);

	write = now_ns();
	sweep_faults(v.vcpu);
	get = now_ns();
	kvm_vm_get_dirty_log(v.vm, SLOT, v.mask);
	clear_ns = now_ns();
	write = get - write;
	get = clear_ns - get;
	clear_ns = clear_mask(&v);

	for (i = 0; i < v.pages / BITS_PER_LONG; i++)
		dirty += __builtin_popcountl(v.mask[i]);
	TEST_ASSERT(dirty, "Nothing was written");
	print_round(writers[w].name, "write", hw, write / shared.nr_writes);
	print_round(writers[w].name, "get", hw, get);
	print_round(writers[w].name, "clear", hw, clear_ns / dirty);
	free_vmm(&v);
}

static void bench_rounds(uint64_t size)
{
	int w;

	for (w = 0; w < ARRAY_SIZE(writers); w++) {
		bench_round(size, w, false);
		if (kvm_has_cap(KVM_CAP_ARM_HW_DIRTY))
			bench_round(size, w, true);
	}
}

/* ---- A vCPU writes meanwhile ---------------------------------------------- */

static void *vcpu_thread(void *arg)
{
	run_on_cpu(1);
	sweep_faults(arg);
	return NULL;
}

static int64_t counter_khz(struct kvm_vcpu *vcpu)
{
#ifdef __aarch64__
	return read_sysreg(cntfrq_el0) / 1000;
#else
	return __vcpu_ioctl(vcpu, KVM_GET_TSC_KHZ, NULL);
#endif
}

static void print_stalls(struct vmm *v, const char *what, int mib)
{
	int64_t khz = counter_khz(v->vcpu), *ns = calloc(MAX_SAMPLES, sizeof(*ns));
	int i;

	sync_global_from_guest(v->vm, samples);
	TEST_ASSERT(shared.nr_samples, "No write was measured");
	for (i = 0; i < shared.nr_samples; i++)
		ns[i] = samples[i] * 1000000ull / khz;

	figure(percentile(ns, shared.nr_samples, 99), "ns", "%s_p99_%dm", what, mib);
	figure(percentile(ns, shared.nr_samples, 100), "ns", "%s_max_%dm", what, mib);
	free(ns);
}

/*
 * Take away pages that the vCPU will write to next.  The vCPU then takes faults of
 * both kinds: on write-protected pages, which x86 handles in a fast path, and on
 * pages that are not mapped.
 */
static void drop_ahead(struct vmm *v, uint64_t page)
{
	uint64_t first = min(page + 16, v->pages - AHEAD);

	madvise(addr_gpa2hva(v->vm, BASE + first * psz), AHEAD * psz, MADV_DONTNEED);
}

/* Wait for the current sample to end, so that it contains nothing else. */
static void end_sampling(typeof(shared) *guest)
{
	uint64_t before;

	WRITE_ONCE(guest->sampling, false);
	for (before = READ_ONCE(guest->writes); READ_ONCE(guest->writes) < before + 2;)
		sched_yield();
}

static bool stop_unmapping;
static int64_t longest_unmap;

/* Unmap a page of another memslot from time to time, on the CPU of the vCPU. */
static void *unmap_thread(void *arg)
{
	char *page = arg;
	int64_t begin;

	run_on_cpu(1);
	longest_unmap = 0;
	while (!READ_ONCE(stop_unmapping)) {
		WRITE_ONCE(*page, 1);
		begin = now_ns();
		madvise(page, psz, MADV_DONTNEED);
		longest_unmap = max(longest_unmap, now_ns() - begin);
		usleep(200);
	}
	return NULL;
}

/* What happens while a vCPU writes */
enum meanwhile { QUIET, CLEAR, CLEAR_AND_UNMAP, STOP, START };

static const char * const whats[] = {
	[QUIET] = "quiet",
	[CLEAR] = "stall",
	[CLEAR_AND_UNMAP] = "unmap",
	[STOP] = "stop",
	[START] = "start",
};

static void one_round(struct vmm *v, enum meanwhile what, typeof(shared) *guest)
{
	set_logging(v, false);
	if (what != START)
		set_logging(v, true);
	drop_ahead(v, READ_ONCE(guest->page));
	WRITE_ONCE(guest->sampling, true);

	switch (what) {
	case QUIET:
		usleep(10000);
		break;
	case CLEAR:
	case CLEAR_AND_UNMAP:
		clear(v, ~0ul);
		break;
	default:
		set_logging(v, what == START);
	}
	end_sampling(guest);
}

static void bench_beside(struct vmm *v, int mib, enum meanwhile what)
{
	pthread_t thread, unmapper;
	uint64_t begin, ns;
	typeof(shared) *guest;
	int rounds = 0;

	shared.stop = false;
	shared.writes = 0;
	shared.nr_samples = 0;
	sync_global_to_guest(v->vm, shared);
	guest = addr_gva2hva(v->vm, (vm_vaddr_t)&shared);

	restart_log(v);
	clear(v, ~0ul);
	pthread_create(&thread, NULL, vcpu_thread, v->vcpu);
	stop_unmapping = what != CLEAR_AND_UNMAP;
	pthread_create(&unmapper, NULL, unmap_thread, addr_gpa2hva(v->vm, OTHER_BASE));

	begin = now_ns();
	do {
		one_round(v, what, guest);
		rounds++;
		ns = now_ns() - begin;
	} while (ns < seconds * NSEC_PER_SEC ||
		 (!READ_ONCE(guest->nr_samples) && ns < PATIENCE * NSEC_PER_SEC));
	WRITE_ONCE(guest->stop, true);
	WRITE_ONCE(stop_unmapping, true);
	pthread_join(thread, NULL);
	pthread_join(unmapper, NULL);
	sync_global_from_guest(v->vm, shared);

	print_stalls(v, whats[what], mib);
	if (what == CLEAR) {
		figure(shared.writes * NSEC_PER_SEC / ns, "a_second", "writes_%dm", mib);
		figure(rounds * NSEC_PER_SEC / ns, "a_second", "clears_%dm", mib);
	}
	if (what == CLEAR_AND_UNMAP)
		figure(longest_unmap, "ns", "unmap_call_%dm", mib);
}

static void bench_stalls(int mib, uint64_t manual, enum meanwhile first, enum meanwhile last)
{
	enum meanwhile what;
	struct vmm v;

	create_vmm(&v, (uint64_t)mib * SZ_1M, manual);
	vm_userspace_mem_region_add(v.vm, VM_MEM_SRC_ANONYMOUS, OTHER_BASE, OTHER_SLOT,
				    psz / v.vm->page_size, 0);
	shared.timed = true;
	run_on_cpu(0);
	for (what = first; what <= last; what++)
		bench_beside(&v, mib, what);
	free_vmm(&v);
}

int main(int argc, char *argv[])
{
	int opt, mib, cost_mib = 64;

	while ((opt = getopt(argc, argv, "hc:t:")) != -1) {
		switch (opt) {
		case 'c':
			cost_mib = atoi_positive("MiB", optarg);
			break;
		case 't':
			seconds = atoi_positive("Seconds", optarg);
			break;
		default:
			printf("usage: %s [-c MIB] [-t SECONDS] [MIB]...\n"
			       "  -c   MiB to clear when measuring the cost (%d)\n"
			       "  -t   seconds for each MIB and each figure (%d)\n"
			       "  MIB  size of the memslot that a vCPU writes to meanwhile\n",
			       argv[0], cost_mib, seconds);
			exit(opt != 'h');
		}
	}

	psz = getpagesize();
	bench_clear((uint64_t)cost_mib * SZ_1M);
	bench_start((uint64_t)cost_mib * SZ_1M, MANUAL);
	bench_start((uint64_t)cost_mib * SZ_1M, MANUAL_INIT);
	bench_rounds((uint64_t)cost_mib * SZ_1M);
	for (; optind < argc; optind++) {
		mib = atoi_positive("MIB", argv[optind]);
		bench_stalls(mib, MANUAL_INIT, QUIET, STOP);
		bench_stalls(mib, MANUAL, START, START);
	}
	return 0;
}
