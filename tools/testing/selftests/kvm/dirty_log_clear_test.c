// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that clearing the dirty log loses no write and protects no other pages, and
 * that bad input changes nothing.
 *
 * The test keeps a copy of memory that vCPUs write to, by the rules of live
 * migration: it clears the pages that KVM reports, then copies them.  Once the
 * vCPUs have stopped, it copies the pages of the last report, and compares every
 * byte.  There are few pages and several vCPUs, so that clears meet faults on the
 * same page.
 */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/bitmap.h>
#include <linux/bitops.h>
#include <linux/kvm_mem.h>
#include <linux/sizes.h>
#include <linux/userfaultfd.h>

#include "dirty_log.h"
#include "figures.h"
#include "kselftest.h"
#include "kvm_util.h"
#include "private_mem.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"
#include "userfaultfd_util.h"

#define SLOT		10
#define OTHER_SLOT	11
#define BASE		((uint64_t)SZ_4G)
#define OTHER_BASE	(BASE + SZ_1G)
#define NR_VCPUS	2
#define RING_ENTRIES	4096
/* Pages that a vCPU writes to before it lets others run, if there is only one CPU. */
#define BATCH		64

/* The guest calls a "ret" in each page if stage 2 makes pages executable on demand. */
#define RET_INSN	0xd65f03c0
#ifdef __aarch64__
#define CALLS		true
#else
#define CALLS		false
#endif

static uint64_t psz;		/* page size of the host */
static int seconds = 30;

/* ---- Guest -------------------------------------------------------------- */

static struct {
	uint64_t pages;
	uint64_t psz;
	uint64_t pattern;
	uint64_t burst;		/* writes to a page before moving to the next */
	bool exec;
} area;

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/*
 * Write to some pages in a row, and call the "ret" at the start of each page.  The
 * fault that makes a page executable comes right after the fault that makes it
 * writable.
 */
static void guest_random(uint64_t id)
{
	uint64_t seed = (id + 1) * 0x9e3779b97f4a7c15, r, i, n, value = id;
	char *page;

	for (;;) {
		r = next_random(&seed);
		for (i = 0; i < BATCH; i++) {
			page = (char *)BASE + ((r >> 16) + i) % area.pages * area.psz;
			for (n = 0; n < area.burst; n++, value += NR_VCPUS)
				WRITE_ONCE(*(uint64_t *)(page + 8 + r % (area.psz / 8 - 1) * 8),
					   value);
			if (area.exec)
				((void (*)(void))page)();
		}
		GUEST_SYNC(value);
	}
}

static void guest_write_pattern(uint64_t pattern, uint64_t value)
{
	uint64_t i;
	char *page;

	for (i = 0; i < area.pages; i++) {
		if (!(pattern >> i % 64 & 1))
			continue;
		page = (char *)BASE + i * area.psz;
		WRITE_ONCE(*(uint64_t *)(page + 8), value);
		if (area.exec)
			((void (*)(void))page)();
	}
}

/* Wait until the memory is there, then read each page and write to it. */
static void guest_read_write(uint64_t id)
{
	uint64_t i, count = 1;
	uint64_t *page;

	for (;; count++) {
		while (!READ_ONCE(*(uint64_t *)BASE))
			;
		for (i = 0; i < area.pages; i++) {
			page = (uint64_t *)(BASE + i * area.psz);
			READ_ONCE(*page);
			WRITE_ONCE(page[1], count);
		}
		GUEST_SYNC(count);
	}
}

/* Write to every page once per run, first to the pages of the pattern. */
static void guest_sweep(uint64_t id)
{
	uint64_t count = 0;

	for (;; count++) {
		guest_write_pattern(area.pattern, count);
		guest_write_pattern(~area.pattern, count);
		GUEST_SYNC(count);
	}
}

/* ---- VMM ---------------------------------------------------------------- */

struct mode {
	const char *name;
	enum how how;
	bool all_set;		/* bits are set when logging begins */
	bool split;		/* huge pages are split when they are cleared */
	bool calm;		/* many writes per page; rounds only clear all pages */
	bool hw;		/* hardware notes first writes (KVM_CAP_ARM_HW_DIRTY) */
	bool toggle;		/* switch hw now and then; off in the last round */
	bool mte;		/* memory has tags (KVM_CAP_ARM_MTE) */
	enum vm_mem_backing_src_type memory;
	int units;		/* number of huge pages, or of 64 small pages */
};

struct vmm {
	const struct mode *mode;
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[NR_VCPUS];
	pthread_t threads[NR_VCPUS];
	int nr_vcpus;
	uint64_t pages;
	char *memory, *copy;
	unsigned long *log, *mask;
	uint64_t seed;
};

static atomic_bool stop;
static atomic_long batches;	/* number of batches that vCPUs have finished */

static void set_up_log(struct kvm_vm *vm, const struct mode *m)
{
	if (m->split)
		vm_enable_eager_split(vm);
	vm_set_up_log(vm, m->how, m->all_set, RING_ENTRIES);
	if (m->hw)
		vm_enable_cap(vm, KVM_CAP_ARM_HW_DIRTY, 1);
	if (m->mte)
		vm_enable_cap(vm, KVM_CAP_ARM_MTE, 0);
}

/* Skip the test that @fmt names if the host lacks something that the mode needs. */
static bool __printf(2, 3) skipped(const struct mode *m, const char *fmt, ...)
{
	const char *why;
	char name[128];
	va_list ap;

	if (m->how == HOW_RING && !dirty_ring_supported())
		why = "no dirty ring";
	else if (m->hw && !kvm_has_cap(KVM_CAP_ARM_HW_DIRTY))
		why = "hardware doesn't manage the dirty state";
	else if (m->mte && !kvm_has_cap(KVM_CAP_ARM_MTE))
		why = "no MTE";
	else if (m->memory == VM_MEM_SRC_ANONYMOUS_THP && !thp_configured())
		why = "no transparent huge pages";
	else
		return false;

	va_start(ap, fmt);
	vsnprintf(name, sizeof(name), fmt, ap);
	va_end(ap);
	ksft_test_result_skip("%s: %s\n", name, why);
	return true;
}

static void set_logging(struct vmm *v, bool on)
{
	vm_mem_region_set_flags(v->vm, SLOT, on ? KVM_MEM_LOG_DIRTY_PAGES : 0);
}

static uint64_t unit_size(const struct mode *m)
{
	switch (m->memory) {
	case VM_MEM_SRC_ANONYMOUS_HUGETLB:
		return get_def_hugetlb_pagesz();
	case VM_MEM_SRC_ANONYMOUS_THP:
		return get_trans_hugepagesz();
	default:
		return BITS_PER_LONG * psz;
	}
}

static void create_vmm(struct vmm *v, const struct mode *m, int nr_vcpus, void *guest_code)
{
	uint64_t size;
	int i;

	*v = (struct vmm) { .mode = m, .nr_vcpus = nr_vcpus, .seed = 88172645463325252 };
	v->vm = __vm_create(VM_SHAPE(VM_MODE_DEFAULT), nr_vcpus, 64);
	set_up_log(v->vm, m);
	for (i = 0; i < nr_vcpus; i++) {
		v->vcpus[i] = vm_vcpu_add(v->vm, i, guest_code);
		vcpu_args_set(v->vcpus[i], 1, (uint64_t)i);
		if (m->how == HOW_RING)
			vcpu_map_dirty_ring(v->vcpus[i]);
	}

	size = m->units * unit_size(m);
	v->pages = size / psz;
	vm_userspace_mem_region_add(v->vm, m->memory, BASE, SLOT,
				    size / v->vm->page_size, 0);
	virt_map(v->vm, BASE, BASE, size / v->vm->page_size);
	v->memory = addr_gpa2hva(v->vm, BASE);
	v->copy = calloc(v->pages, psz);
	v->log = bitmap_zalloc(v->pages);
	v->mask = bitmap_zalloc(v->pages);
	TEST_ASSERT(v->copy && v->log && v->mask, "No memory for a copy");

	area.pages = v->pages;
	area.psz = psz;
	area.exec = CALLS && m->memory == VM_MEM_SRC_SHMEM;
	area.burst = m->calm ? 2000 : 1;
	sync_global_to_guest(v->vm, area);
	for (i = 0; area.exec && i < v->pages; i++)
		*(uint32_t *)(v->memory + i * psz) = RET_INSN;
}

static void free_vmm(struct vmm *v)
{
	kvm_vm_free(v->vm);
	free(v->copy);
	free(v->log);
	free(v->mask);
}

static void end_batch(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		batches++;
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
		break;
	default:
		TEST_FAIL("Exit of a vCPU: %s", exit_reason_str(vcpu->run->exit_reason));
	}
}

static void *vcpu_thread(void *arg)
{
	struct kvm_vcpu *vcpu = arg;

	while (!stop) {
		if (__vcpu_run(vcpu) && errno != EINTR)
			TEST_FAIL("KVM_RUN: %s", strerror(errno));

		if (vcpu->run->exit_reason == KVM_EXIT_DIRTY_RING_FULL)
			usleep(100);
		else if (vcpu->run->exit_reason != KVM_EXIT_INTR)
			end_batch(vcpu);
	}
	return NULL;
}

static void start_vcpus(struct vmm *v)
{
	int i;

	stop = false;
	for (i = 0; i < v->nr_vcpus; i++)
		pthread_create(&v->threads[i], NULL, vcpu_thread, v->vcpus[i]);
}

static void stop_vcpus(struct vmm *v)
{
	int i;

	stop = true;
	for (i = 0; i < v->nr_vcpus; i++)
		pthread_join(v->threads[i], NULL);
}

/* ---- No write is lost ---------------------------------------------------- */

static void copy_page(struct vmm *v, uint64_t page)
{
	memcpy(v->copy + page * psz, v->memory + page * psz, psz);
}

static void copy_pages(struct vmm *v, const unsigned long *bits)
{
	uint64_t page;

	for (page = 0; page < v->pages; page++)
		if (test_bit(page, bits))
			copy_page(v, page);
}

/* Clear some reported pages in some part of the slot, or all of them if @all. */
static void round_clear(struct vmm *v, bool all)
{
	uint64_t words = v->pages / BITS_PER_LONG, first = 0, n = words, i, r;

	kvm_vm_get_dirty_log(v->vm, SLOT, v->log);
	if (!all && next_random(&v->seed) & 1) {
		first = next_random(&v->seed) % words;
		n = 1 + next_random(&v->seed) % (words - first);
	}

	memset(v->mask, 0, v->pages / 8);
	r = next_random(&v->seed);
	for (i = first; i < first + n; i++)
		v->mask[i] = v->log[i] & (all || r & 1 ? ~0ul : next_random(&v->seed));

	kvm_vm_clear_dirty_log(v->vm, SLOT, v->mask + first, first * BITS_PER_LONG,
			       n * BITS_PER_LONG);
	copy_pages(v, v->mask);
}

static void round_get(struct vmm *v)
{
	kvm_vm_get_dirty_log(v->vm, SLOT, v->log);
	copy_pages(v, v->log);
}

/* Harvest up to @max entries of a vCPU's ring into the log. */
static int harvest(struct vmm *v, struct kvm_vcpu *vcpu, int max)
{
	uint64_t offset;
	uint32_t slot;
	int n;

	for (n = 0; n < max && vcpu_harvest_entry(vcpu, RING_ENTRIES, &slot, &offset); n++) {
		TEST_ASSERT(slot == SLOT && offset < v->pages,
			    "Page %lu of slot %u in the ring", (unsigned long)offset, slot);
		__set_bit(offset, v->log);
	}
	return n;
}

static void round_ring(struct vmm *v, bool all)
{
	int max = all || next_random(&v->seed) & 1 ? RING_ENTRIES :
		  next_random(&v->seed) % 128;
	int i;

	memset(v->log, 0, v->pages / 8);
	for (i = 0; i < v->nr_vcpus; i++)
		harvest(v, v->vcpus[i], max);
	kvm_vm_reset_dirty_ring(v->vm);
	copy_pages(v, v->log);
}

static void round_of(struct vmm *v, bool all)
{
	switch (v->mode->how) {
	case HOW_GET:
		round_get(v);
		break;
	case HOW_CLEAR:
		round_clear(v, all);
		break;
	case HOW_RING:
		round_ring(v, all);
		break;
	}
}

/*
 * Take pages away.  Anonymous pages are zero afterwards, which counts as a write by
 * the test.  Other pages keep their data, and KVM must not forget that they are
 * dirty.
 */
static void drop_pages(struct vmm *v, uint64_t unit)
{
	uint64_t units = v->pages / unit, first = next_random(&v->seed) % units * unit, i;

	TEST_ASSERT(!madvise(v->memory + first * psz, unit * psz, MADV_DONTNEED),
		    "MADV_DONTNEED: %s", strerror(errno));
	for (i = 0; i < unit && v->mode->memory != VM_MEM_SRC_SHMEM; i++)
		copy_page(v, first + i);
}

static void change_memslots(struct vmm *v)
{
	static char *other;

	if (!other)
		other = mmap(NULL, SZ_2M, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(other != MAP_FAILED, "No memory for another memslot");
	vm_set_user_memory_region(v->vm, OTHER_SLOT, 0, OTHER_BASE, SZ_2M, other);
	vm_set_user_memory_region(v->vm, OTHER_SLOT, 0, OTHER_BASE, 0, other);
}

static uint64_t now_ms(void)
{
	return now_ns() / 1000000;
}

/*
 * Start logging, run rounds for @ms milliseconds, and compare.  Return the number of
 * rounds, or -1 if a write was lost.
 */
static int migrate(struct vmm *v, int ms)
{
	bool huge = v->mode->memory == VM_MEM_SRC_ANONYMOUS_HUGETLB;
	uint64_t end, page;
	int rounds = 0;

	batches = 0;
	start_vcpus(v);
	usleep(ms * 100);
	set_logging(v, true);
	if (!v->mode->all_set)
		memcpy(v->copy, v->memory, v->pages * psz);

	for (end = now_ms() + ms; now_ms() < end; rounds++) {
		round_of(v, v->mode->calm);
		if (v->mode->calm)
			continue;
		/* Most of the time, stay close behind the vCPUs. */
		switch (next_random(&v->seed) % 64) {
		case 0:
			change_memslots(v);
			break;
		case 1 ... 4:
			drop_pages(v, huge ? v->pages / 2 : BATCH);
			break;
		case 5 ... 12:
			if (v->mode->toggle)
				vm_enable_cap(v->vm, KVM_CAP_ARM_HW_DIRTY,
					      next_random(&v->seed) & 1);
			break;
		}
	}
	if (v->mode->toggle)
		vm_enable_cap(v->vm, KVM_CAP_ARM_HW_DIRTY, 0);
	/* A round may leave entries in a ring; the last round takes them all. */
	stop_vcpus(v);
	TEST_ASSERT(batches, "The vCPUs have not written anything");
	round_of(v, true);

	for (page = 0; page < v->pages; page++) {
		if (!memcmp(v->copy + page * psz, v->memory + page * psz, psz))
			continue;
		ksft_print_msg("page %lu has a write that no round reported\n", page);
		rounds = -1;
		break;
	}

	set_logging(v, false);
	/* Unmap the pages, so that KVM maps huge pages again. */
	if (huge)
		madvise(v->memory, v->pages * psz, MADV_DONTNEED);
	return rounds;
}

static const struct mode race_modes[] = {
	{ "GET", HOW_GET, .memory = VM_MEM_SRC_SHMEM, .units = 16 },
	{ "CLEAR", HOW_CLEAR, .memory = VM_MEM_SRC_SHMEM, .units = 16 },
	/* Between clears, the vCPUs write through their TLBs. */
	{ "CLEAR, few faults", HOW_CLEAR, .calm = true, .memory = VM_MEM_SRC_ANONYMOUS,
	  .units = 64 },
	{ "CLEAR, anonymous memory", HOW_CLEAR, .memory = VM_MEM_SRC_ANONYMOUS, .units = 16 },
	{ "CLEAR, initially all set", HOW_CLEAR, .all_set = true, .memory = VM_MEM_SRC_SHMEM,
	  .units = 16 },
	{ "CLEAR, huge pages", HOW_CLEAR, .all_set = true,
	  .memory = VM_MEM_SRC_ANONYMOUS_HUGETLB, .units = 4 },
	{ "CLEAR, split huge pages", HOW_CLEAR, .all_set = true, .split = true,
	  .memory = VM_MEM_SRC_ANONYMOUS_HUGETLB, .units = 4 },
	{ "ring", HOW_RING, .memory = VM_MEM_SRC_SHMEM, .units = 16 },
	{ "ring, huge pages", HOW_RING, .memory = VM_MEM_SRC_ANONYMOUS_HUGETLB, .units = 4 },
#ifdef __aarch64__
	{ "GET, hardware", HOW_GET, .hw = true, .memory = VM_MEM_SRC_SHMEM, .units = 16 },
	{ "CLEAR, hardware", HOW_CLEAR, .hw = true, .memory = VM_MEM_SRC_SHMEM, .units = 16 },
	{ "CLEAR, hardware on and off", HOW_CLEAR, .hw = true, .toggle = true,
	  .memory = VM_MEM_SRC_SHMEM, .units = 16 },
	{ "CLEAR, hardware, few faults", HOW_CLEAR, .hw = true, .calm = true,
	  .memory = VM_MEM_SRC_ANONYMOUS, .units = 64 },
	{ "CLEAR, hardware, split huge pages", HOW_CLEAR, .hw = true,
	  .all_set = true, .split = true, .memory = VM_MEM_SRC_ANONYMOUS_HUGETLB, .units = 4 },
#endif
};

static void test_race(const struct mode *m)
{
	uint64_t end = now_ms() + seconds * 1000 / ARRAY_SIZE(race_modes);
	int rounds = 0, epochs = 0, n;
	struct vmm v;

	if (skipped(m, "no write is lost: %s", m->name))
		return;

	create_vmm(&v, m, NR_VCPUS, guest_random);
	do {
		n = migrate(&v, 300);
		rounds += n;
		epochs++;
	} while (n >= 0 && now_ms() < end);
	free_vmm(&v);

	ksft_print_msg("%d migrations, %d rounds\n", epochs, rounds);
	ksft_test_result(n >= 0, "no write is lost: %s\n", m->name);
}

/* ---- No other page is protected --------------------------------------------------- */

static const struct mode exact_modes[] = {
	{ "small pages", HOW_CLEAR, .memory = VM_MEM_SRC_ANONYMOUS, .units = 16 },
	{ "initially all set", HOW_CLEAR, .all_set = true, .memory = VM_MEM_SRC_ANONYMOUS,
	  .units = 16 },
	{ "split huge pages", HOW_CLEAR, .all_set = true, .split = true,
	  .memory = VM_MEM_SRC_ANONYMOUS_HUGETLB, .units = 2 },
	{ "ring", HOW_RING, .memory = VM_MEM_SRC_ANONYMOUS, .units = 16 },
#ifdef __aarch64__
	{ "hardware", HOW_CLEAR, .hw = true, .memory = VM_MEM_SRC_ANONYMOUS, .units = 16 },
	{ "hardware, split huge pages", HOW_CLEAR, .hw = true, .split = true,
	  .memory = VM_MEM_SRC_ANONYMOUS_HUGETLB, .units = 2 },
#endif
};

static const struct {
	const char *name;
	unsigned long word;
} patterns[] = {
	{ "every other page", 0x5555555555555555 },
	{ "the first and last page of 64", 0x8000000000000001 },
	{ "two runs", 0x00ffff0000ff0000 },
};

static void *sweep_thread(void *arg)
{
	struct vmm *v = arg;

	sweep_faults(v->vcpus[0]);
	stop = true;
	return NULL;
}

static bool all_dirty(struct vmm *v)
{
	uint64_t i;

	for (i = 0; i < v->pages / BITS_PER_LONG; i++)
		if (~v->log[i])
			return false;
	return true;
}

/*
 * Clear only the pattern while all pages are dirty and writable, then let the vCPU
 * write to all pages again.  Return the number of faults that it takes.
 */
static int64_t faults_after_clear(struct vmm *v)
{
	uint64_t i;
	int64_t faults;

	kvm_vm_get_dirty_log(v->vm, SLOT, v->log);
	TEST_ASSERT(all_dirty(v), "Not all pages are dirty");
	for (i = 0; i < v->pages / BITS_PER_LONG; i++)
		v->mask[i] = area.pattern;
	kvm_vm_clear_dirty_log(v->vm, SLOT, v->mask, 0, v->pages);

	faults = sweep_faults(v->vcpus[0]);

	kvm_vm_get_dirty_log(v->vm, SLOT, v->log);
	TEST_ASSERT(all_dirty(v), "Not all writes were logged");
	return faults;
}

/*
 * Do the same with a ring, in which the pages of the pattern come first.  Return the
 * number of new entries.
 */
static int64_t pushes_after_reset(struct vmm *v, int64_t cleared)
{
	int64_t holes = v->pages - cleared;

	TEST_ASSERT_EQ(harvest(v, v->vcpus[0], cleared), cleared);
	TEST_ASSERT_EQ(kvm_vm_reset_dirty_ring(v->vm), cleared);
	sweep_faults(v->vcpus[0]);
	return harvest(v, v->vcpus[0], RING_ENTRIES) - holes;
}

static void test_exact(const struct mode *m, int p)
{
	int64_t cleared, holes, faults, allowed;
	struct vmm v;

	if (skipped(m, "uncleared pages stay writable: %s, %s", m->name, patterns[p].name))
		return;

	area.pattern = patterns[p].word;
	create_vmm(&v, m, 1, guest_sweep);
	/* Map the pages, including huge pages, before logging begins. */
	sweep_faults(v.vcpus[0]);
	set_logging(&v, true);
	sweep_faults(v.vcpus[0]);

	cleared = v.pages / 64 * __builtin_popcountl(area.pattern);
	holes = v.pages - cleared;
	if (m->how == HOW_RING) {
		faults = pushes_after_reset(&v, cleared);
		allowed = cleared;
	} else {
		faults = faults_after_clear(&v);
		/* Allow for exits due to host interrupts. */
		allowed = m->hw ? cleared / 2 : cleared + holes / 8;
	}
	free_vmm(&v);

	if (faults > allowed)
		ksft_print_msg("%ld faults after %ld pages were cleared\n", faults, cleared);
	ksft_test_result(faults <= allowed, "uncleared pages stay writable: %s, %s\n", m->name,
			 patterns[p].name);
}

/* ---- No write goes unlogged ---------------------------------------------- */

/*
 * Clear all pages again and again while the vCPU writes to pages that are not
 * mapped, and makes them executable.  Afterwards KVM must log every page that the
 * vCPU writes to.
 */
static bool chase(struct vmm *v)
{
	uint64_t i, lost = 0;

	madvise(v->memory, v->pages * psz, MADV_DONTNEED);
	memset(v->mask, 0xff, v->pages / 8);

	stop = false;
	pthread_create(&v->threads[0], NULL, sweep_thread, v);
	while (!stop)
		kvm_vm_clear_dirty_log(v->vm, SLOT, v->mask, 0, v->pages);
	pthread_join(v->threads[0], NULL);
	kvm_vm_clear_dirty_log(v->vm, SLOT, v->mask, 0, v->pages);

	sweep_faults(v->vcpus[0]);
	kvm_vm_get_dirty_log(v->vm, SLOT, v->log);
	for (i = 0; i < v->pages / BITS_PER_LONG; i++)
		lost += __builtin_popcountl(~v->log[i]);
	if (lost)
		ksft_print_msg("%lu of %lu pages were written to but not logged\n", lost,
			       v->pages);
	return !lost;
}

static const struct mode unseen_modes[] = {
	{ "faults", HOW_CLEAR, .memory = VM_MEM_SRC_SHMEM, .units = 32 },
#ifdef __aarch64__
	{ "hardware", HOW_CLEAR, .hw = true, .memory = VM_MEM_SRC_SHMEM, .units = 32 },
#endif
};

static void test_unseen(const struct mode *m)
{
	uint64_t end = now_ms() + seconds * 1000 / 6;
	int n = 0;
	struct vmm v;
	bool ok;

	if (skipped(m, "no write goes unlogged: %s", m->name))
		return;

	area.pattern = ~0ull;
	create_vmm(&v, m, 1, guest_sweep);
	set_logging(&v, true);
	do {
		ok = chase(&v);
		n++;
	} while (ok && now_ms() < end);
	free_vmm(&v);

	ksft_print_msg("%d rounds of %d pages\n", n, m->units * BITS_PER_LONG);
	ksft_test_result(ok, "no write goes unlogged: %s\n", m->name);
}

#ifdef __aarch64__
/* ---- Unreported pages stay dirty ------------------------------------------ */

/* Write only to the pages of the pattern. */
static void guest_write_only(uint64_t id)
{
	uint64_t count = 0;

	for (;; count++) {
		guest_write_pattern(area.pattern, count);
		GUEST_SYNC(count);
	}
}

static void write_pattern(struct vmm *v, uint64_t pattern)
{
	area.pattern = pattern;
	sync_global_to_guest(v->vm, area);
	sweep_faults(v->vcpus[0]);
}

static const struct mode hw_mode = {
	.how = HOW_CLEAR, .hw = true, .memory = VM_MEM_SRC_ANONYMOUS, .units = 16,
};

/* Create a VM whose pages are all mapped, clean and left to hardware. */
static void create_clean(struct vmm *v)
{
	create_vmm(v, &hw_mode, 1, guest_write_only);
	set_logging(v, true);
	write_pattern(v, ~0ull);
	round_clear(v, true);
}

/* Read the log.  Return true if it has exactly the pages of the pattern. */
static bool log_is(struct vmm *v, uint64_t pattern)
{
	uint64_t i, wrong = 0;

	kvm_vm_get_dirty_log(v->vm, SLOT, v->log);
	for (i = 0; i < v->pages / BITS_PER_LONG; i++)
		wrong += v->log[i] != pattern;
	return !wrong;
}

/*
 * Write to some pages, read the log, write to the pages between them, and clear
 * everything.  The clear affects only the pages in the log; the next log has the
 * other pages.
 */
static void test_uncollected(void)
{
	const uint64_t asked = 0x5555555555555555;
	struct vmm v;
	bool ok;

	if (skipped(&hw_mode, "unreported pages stay dirty"))
		return;

	create_clean(&v);
	write_pattern(&v, asked);
	ok = log_is(&v, asked);
	write_pattern(&v, ~asked);
	memset(v.mask, 0xff, v.pages / 8);
	kvm_vm_clear_dirty_log(v.vm, SLOT, v.mask, 0, v.pages);
	ok &= log_is(&v, ~asked);
	free_vmm(&v);

	ksft_test_result(ok, "unreported pages stay dirty\n");
}

/*
 * Hardware makes some pages dirty, and the host unmaps them all, without a change of
 * their contents.  The next log has the dirty pages.
 */
static void test_unmapped(void)
{
	const uint64_t asked = 0x5555555555555555;
	struct vmm v;
	bool ok;

	if (skipped(&hw_mode, "unmapped pages stay dirty"))
		return;

	create_clean(&v);
	write_pattern(&v, asked);
	TEST_ASSERT(!mprotect(v.memory, v.pages * psz, PROT_READ) &&
		    !mprotect(v.memory, v.pages * psz, PROT_READ | PROT_WRITE),
		    "mprotect, errno %d", errno);
	ok = log_is(&v, asked);
	free_vmm(&v);

	ksft_test_result(ok, "unmapped pages stay dirty\n");
}

/* ---- A migration that is given up ----------------------------------------- */

static const struct mode given_up_modes[] = {
	{ "faults", HOW_CLEAR, true, .split = true,
	  .memory = VM_MEM_SRC_ANONYMOUS_HUGETLB, .units = 2 },
	{ "hardware", HOW_CLEAR, true, .split = true, .hw = true,
	  .memory = VM_MEM_SRC_ANONYMOUS_HUGETLB, .units = 2 },
};

static int nr_blocks(struct vmm *v)
{
	int pmds, puds;

	vm_get_large_pages(v->vm, &pmds, &puds);
	return pmds;
}

/*
 * Logging splits blocks.  After it has stopped, writes to pages that were clean make
 * blocks again.
 */
static void test_given_up(const struct mode *m)
{
	int before, meanwhile, after;
	struct vmm v;

	if (skipped(m, "a migration is given up: %s", m->name))
		return;

	create_vmm(&v, m, 1, guest_write_only);
	write_pattern(&v, ~0ull);
	before = nr_blocks(&v);

	set_logging(&v, true);
	round_clear(&v, true);
	write_pattern(&v, 0x5555555555555555);
	meanwhile = nr_blocks(&v);

	set_logging(&v, false);
	write_pattern(&v, ~0ull);
	after = nr_blocks(&v);
	free_vmm(&v);

	if (before < m->units || meanwhile > before - m->units || after != before)
		ksft_print_msg("%d blocks before, %d while logging, %d after\n",
			       before, meanwhile, after);
	ksft_test_result(before >= m->units && meanwhile <= before - m->units &&
			 after == before, "a migration is given up: %s\n", m->name);
}

/* ---- Executing from a block that was only read ----------------------------- */

static void guest_read_only(uint64_t id)
{
	for (;;)
		GUEST_SYNC(READ_ONCE(*(uint64_t *)BASE));
}

/*
 * The fault that makes a page of a block executable replaces the block by a table if
 * the memslot is logging.  It is the first fault of its vCPU, so there is no memory
 * left over from another one: the code is a single store, to MMIO.  Without memory
 * for the table, KVM warns.
 */
static void test_exec_block(void)
{
	static const struct mode m = {
		.how = HOW_GET, .memory = VM_MEM_SRC_ANONYMOUS_HUGETLB, .units = 1,
	};
	struct kvm_run *run;
	struct vmm v;
	bool ok;

	create_vmm(&v, &m, 2, guest_read_only);
	virt_map(v.vm, OTHER_BASE, OTHER_BASE, 1);
	*(uint32_t *)v.memory = 0xf900001f;	/* str xzr, [x0] */
	vcpu_run(v.vcpus[0]);
	set_logging(&v, true);

	run = v.vcpus[1]->run;
	vcpu_set_reg(v.vcpus[1], ARM64_CORE_REG(regs.pc), BASE);
	vcpu_set_reg(v.vcpus[1], ARM64_CORE_REG(regs.regs[0]), OTHER_BASE);
	vcpu_run(v.vcpus[1]);
	ok = run->exit_reason == KVM_EXIT_MMIO && run->mmio.is_write &&
	     run->mmio.phys_addr == OTHER_BASE;
	free_vmm(&v);

	ksft_test_result(ok, "execute from a block that was only read\n");
}

/* ---- Tags of a block ------------------------------------------------------ */

static const struct mode mte_mode = {
	.how = HOW_GET, .mte = true, .memory = VM_MEM_SRC_ANONYMOUS_THP, .units = 1,
};

static void guest_tag(uint64_t id)
{
	GUEST_SYNC(READ_ONCE(*(uint64_t *)BASE));
	WRITE_ONCE(*(uint64_t *)BASE, 1);
	asm volatile(".arch armv8.5-a+memtag\n\tstg %0, [%1]"
		     : : "r" (5ul << 56), "r" (BASE + area.psz) : "memory");
	GUEST_SYNC(0);
}

/* Let the guest use tags in all of its memory. */
static void enable_tags(struct kvm_vcpu *vcpu)
{
	uint64_t sctlr;

	vcpu_get_reg(vcpu, KVM_ARM64_SYS_REG(SYS_SCTLR_EL1), &sctlr);
	vcpu_set_reg(vcpu, KVM_ARM64_SYS_REG(SYS_SCTLR_EL1), sctlr | SCTLR_EL1_ATA);
	vcpu_set_reg(vcpu, KVM_ARM64_SYS_REG(SYS_MAIR_EL1),
		     MAIR_ATTRIDX(MAIR_ATTR_NORMAL_TAGGED, MT_NORMAL));
}

/*
 * The guest reads a page while the memslot is logging.  After that, its write makes a
 * block.  The tags that it then sets in another page of the block must be known to
 * KVM, which would otherwise lose them when the page is swapped out.
 */
static void test_tags(void)
{
	struct kvm_arm_copy_mte_tags tags = { .flags = KVM_ARM_TAGS_FROM_GUEST };
	struct vmm v;
	uint8_t *tag;
	int blocks;
	bool ok;

	if (skipped(&mte_mode, "tags of a page that became part of a block"))
		return;

	create_vmm(&v, &mte_mode, 1, guest_tag);
	enable_tags(v.vcpus[0]);
	memset(v.memory, 0, v.pages * psz);
	set_logging(&v, true);
	sweep_faults(v.vcpus[0]);
	set_logging(&v, false);
	sweep_faults(v.vcpus[0]);

	tag = calloc(1, psz);
	tags.guest_ipa = BASE + psz;
	tags.length = psz;
	tags.addr = tag;
	TEST_ASSERT(__vm_ioctl(v.vm, KVM_ARM_MTE_COPY_TAGS, &tags) == psz,
		    "KVM_ARM_MTE_COPY_TAGS, errno %d", errno);
	blocks = nr_blocks(&v);
	ok = tag[0] == 5 && blocks == 1;
	if (!ok)
		ksft_print_msg("tag %d, %d blocks\n", tag[0], blocks);
	free(tag);
	free_vmm(&v);

	ksft_test_result(ok, "tags of a page that became part of a block\n");
}

static void test_hw_and_blocks(void)
{
	int i;

	test_exec_block();
	test_tags();
	test_uncollected();
	test_unmapped();
	for (i = 0; i < ARRAY_SIZE(given_up_modes); i++)
		test_given_up(&given_up_modes[i]);
}

#define NR_HW_AND_BLOCKS	(4 + ARRAY_SIZE(given_up_modes))
#else
#define NR_HW_AND_BLOCKS	0
static void test_hw_and_blocks(void) { }
#endif

#ifdef __x86_64__
/* ---- Page tables that the guest rewrites ---------------------------------- */

#define PTE_WINDOW	OTHER_BASE

/* Make the page read-only, writable again without a fault, and write to it. */
static void guest_rewrite_pte(uint64_t offset)
{
	uint64_t *pte = (uint64_t *)(PTE_WINDOW + offset);

	WRITE_ONCE(*(uint64_t *)BASE, 1);
	GUEST_SYNC(0);
	WRITE_ONCE(*pte, READ_ONCE(*pte) & ~PTE_WRITABLE_MASK);
	asm volatile("invlpg (%0)" : : "r" (BASE) : "memory");
	READ_ONCE(*(uint64_t *)BASE);
	WRITE_ONCE(*pte, READ_ONCE(*pte) | PTE_WRITABLE_MASK);
	asm volatile("invlpg (%0)" : : "r" (BASE) : "memory");
	WRITE_ONCE(*(uint64_t *)BASE, 2);
	GUEST_SYNC(0);
}

/*
 * With shadow paging, INVLPG makes the shadow page table follow the guest's.  If the
 * page becomes writable by that, KVM must log it, since the write has no fault.
 */
static void test_rewritten_pte(void)
{
	static const struct mode m = {
		.how = HOW_CLEAR, .memory = VM_MEM_SRC_ANONYMOUS, .units = 1,
	};
	uint64_t pte;
	struct vmm v;
	bool ok;

	create_vmm(&v, &m, 1, guest_rewrite_pte);
	pte = addr_hva2gpa(v.vm, vm_get_page_table_entry(v.vm, BASE));
	virt_map(v.vm, PTE_WINDOW, pte & ~(psz - 1), 1);
	vcpu_args_set(v.vcpus[0], 1, pte & (psz - 1));
	set_logging(&v, true);
	sweep_faults(v.vcpus[0]);
	round_clear(&v, true);
	sweep_faults(v.vcpus[0]);
	kvm_vm_get_dirty_log(v.vm, SLOT, v.log);
	ok = test_bit(0, v.log);
	free_vmm(&v);

	ksft_test_result(ok, "write through a page table that the guest rewrites\n");
}

#define NR_REWRITTEN	1
#else
#define NR_REWRITTEN	0
static void test_rewritten_pte(void) { }
#endif

/* ---- A slot that logs from the beginning ---------------------------------- */

static const struct mode created_modes[] = {
	{ "faults", HOW_GET, .memory = VM_MEM_SRC_ANONYMOUS, .units = 1 },
#ifdef __aarch64__
	{ "hardware", HOW_GET, .hw = true, .memory = VM_MEM_SRC_ANONYMOUS, .units = 1 },
#endif
};

static atomic_bool waiting;

/* Without its memslot, memory is MMIO that reads as 0. */
static void *read_write_thread(void *arg)
{
	struct kvm_vcpu *vcpu = arg;
	struct kvm_run *run = vcpu->run;

	for (vcpu_run(vcpu); get_ucall(vcpu, NULL) != UCALL_SYNC; vcpu_run(vcpu)) {
		TEST_ASSERT(run->exit_reason == KVM_EXIT_MMIO && !run->mmio.is_write &&
			    run->mmio.phys_addr == BASE,
			    "Exit of a vCPU: %s", exit_reason_str(run->exit_reason));
		memset(run->mmio.data, 0, sizeof(run->mmio.data));
		waiting = true;
	}
	return NULL;
}

static void set_slot(struct vmm *v, struct kvm_userspace_memory_region2 *slot,
		     uint64_t address, uint64_t size)
{
	slot->flags = size ? KVM_MEM_LOG_DIRTY_PAGES : 0;
	slot->guest_phys_addr = address;
	slot->memory_size = size;
	vm_ioctl(v->vm, KVM_SET_USER_MEMORY_REGION2, slot);
}

/*
 * Create a slot with logging on, or move it from elsewhere.  The vCPU waits for the
 * slot, and writes to it before the ioctl returns.
 */
static bool create_logging(struct vmm *v, struct kvm_userspace_memory_region2 *slot,
			   bool move)
{
	uint64_t size = slot->memory_size;

	set_slot(v, slot, BASE, 0);
	if (move)
		set_slot(v, slot, OTHER_BASE, size);
	memcpy(v->copy, v->memory, size);

	waiting = false;
	pthread_create(&v->threads[0], NULL, read_write_thread, v->vcpus[0]);
	while (!waiting)
		usleep(100);
	set_slot(v, slot, BASE, size);
	pthread_join(v->threads[0], NULL);

	round_get(v);
	return !memcmp(v->copy, v->memory, size);
}

static void test_created(const struct mode *m)
{
	uint64_t end = now_ms() + seconds * 1000 / 10, i;
	int n = 0;
	struct vmm v;
	bool ok;

	if (skipped(m, "a slot logs from the beginning: %s", m->name))
		return;

	create_vmm(&v, m, 1, guest_read_write);
	for (i = 0; i < v.pages; i++)
		*(uint64_t *)(v.memory + i * psz) = 1;
	do {
		ok = create_logging(&v, &memslot2region(v.vm, SLOT)->region, n++ & 1);
	} while (ok && now_ms() < end);
	free_vmm(&v);

	ksft_print_msg("created or moved the slot %d times\n", n);
	ksft_test_result(ok, "a slot logs from the beginning: %s\n", m->name);
}

/* ---- Bad input ---------------------------------------------------------- */

/* Two slots of 100 pages, only the first with logging on, and a missing slot. */
#define BAD_PAGES	100
enum { LOGGED = 20, NOT_LOGGED, ABSENT };

static const struct {
	const char *name;
	uint32_t slot, num_pages;
	uint64_t first_page;
	bool bad_pointer;
	int error;
} inputs[] = {
	{ "all pages, with bits set beyond the slot", LOGGED, BAD_PAGES, 0, false, 0 },
	{ "no pages", LOGGED, 0, 0, false, 0 },
	{ "no pages, from page 64 on", LOGGED, 0, 64, false, 0 },
	{ "the last pages, fewer than 64", LOGGED, BAD_PAGES - 64, 64, false, 0 },
	{ "first_page is not a multiple of 64", LOGGED, 64, 1, false, EINVAL },
	{ "num_pages is not a multiple of 64, before the end", LOGGED, 65, 0, false, EINVAL },
	{ "num_pages goes beyond the slot", LOGGED, 128, 0, false, EINVAL },
	{ "first_page is beyond the slot", LOGGED, 0, 128, false, EINVAL },
	{ "first_page + num_pages overflows", LOGGED, 128, -64ull, false, EINVAL },
	{ "the bitmap can't be read", LOGGED, BAD_PAGES, 0, true, EFAULT },
	{ "a slot without dirty logging", NOT_LOGGED, BAD_PAGES, 0, false, ENOENT },
	{ "a slot that doesn't exist", ABSENT, BAD_PAGES, 0, false, ENOENT },
	{ "a slot number out of range", 0xffff, BAD_PAGES, 0, false, EINVAL },
	{ "an address space out of range", 0xff0000 | LOGGED, BAD_PAGES, 0, false, EINVAL },
};

static int clear(struct kvm_vm *vm, uint32_t slot, uint64_t first, uint32_t num, void *bits)
{
	struct kvm_clear_dirty_log args = {
		.slot = slot, .first_page = first, .num_pages = num, .dirty_bitmap = bits,
	};

	return __vm_ioctl(vm, KVM_CLEAR_DIRTY_LOG, &args) ? errno : 0;
}

static void test_input(int i)
{
	unsigned long ones[2] = { ~0ul, ~0ul }, before[2], after[2];
	struct kvm_vm *vm = vm_create_barebones();
	int error;
	void *mem;

	vm_enable_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		      KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
	mem = mmap(NULL, SZ_16M, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(mem != MAP_FAILED, "No memory for memslots");
	vm_set_user_memory_region(vm, LOGGED, KVM_MEM_LOG_DIRTY_PAGES, BASE,
				  BAD_PAGES * psz, mem);
	vm_set_user_memory_region(vm, NOT_LOGGED, 0, OTHER_BASE, BAD_PAGES * psz, mem);

	kvm_vm_get_dirty_log(vm, LOGGED, before);
	error = clear(vm, inputs[i].slot, inputs[i].first_page, inputs[i].num_pages,
		      inputs[i].bad_pointer ? (void *)-psz : ones);
	kvm_vm_get_dirty_log(vm, LOGGED, after);

	if (error != inputs[i].error)
		ksft_print_msg("%s instead of %s\n", strerror(error), strerror(inputs[i].error));
	ksft_test_result(error == inputs[i].error &&
			 before[0] == ~0ul && before[1] == BIT(BAD_PAGES - 64) - 1 &&
			 (!error || !memcmp(before, after, sizeof(before))) &&
			 (error || !inputs[i].num_pages || !after[1]),
			 "input: %s\n", inputs[i].name);
	kvm_vm_free(vm);
	munmap(mem, SZ_16M);
}

#ifdef __aarch64__
static const struct {
	const char *name;
	struct kvm_enable_cap cap;
	bool ring;
	int error;
} hw_inputs[] = {
	{ "on", { .args = { 1 } }, false, 0 },
	{ "off", { .args = { 0 } }, false, 0 },
	{ "neither on nor off", { .args = { 2 } }, false, EINVAL },
	{ "more than 32 bits", { .args = { 1ull << 32 } }, false, EINVAL },
	{ "args[1] set", { .args = { 1, 1 } }, false, EINVAL },
	{ "args[3] set", { .args = { 1, 0, 0, 1 } }, false, EINVAL },
	{ "flags set", { .flags = 1, .args = { 1 } }, false, EINVAL },
	{ "on, with a dirty ring", { .args = { 1 } }, true, EBUSY },
	{ "off, with a dirty ring", { .args = { 0 } }, true, 0 },
};

#define NR_HW_INPUTS	ARRAY_SIZE(hw_inputs)

static void test_hw_input(int i)
{
	struct kvm_enable_cap cap = hw_inputs[i].cap;
	struct kvm_vm *vm;
	int error;

	if (!kvm_has_cap(KVM_CAP_ARM_HW_DIRTY) || (hw_inputs[i].ring && !dirty_ring_supported())) {
		ksft_test_result_skip("hardware dirty state: %s: unsupported, or no dirty ring\n",
				      hw_inputs[i].name);
		return;
	}
	vm = vm_create_barebones();
	if (hw_inputs[i].ring)
		vm_enable_dirty_ring(vm, RING_ENTRIES * sizeof(struct kvm_dirty_gfn));
	cap.cap = KVM_CAP_ARM_HW_DIRTY;
	error = __vm_ioctl(vm, KVM_ENABLE_CAP, &cap) ? errno : 0;
	if (error != hw_inputs[i].error)
		ksft_print_msg("%s instead of %s\n", strerror(error),
			       strerror(hw_inputs[i].error));
	ksft_test_result(error == hw_inputs[i].error, "hardware dirty state: %s\n",
			 hw_inputs[i].name);
	kvm_vm_free(vm);
}
#else
#define NR_HW_INPUTS	0
static void test_hw_input(int i) { }
#endif

/* x86 clears exactly in the TDP MMU only. */
static void test_capability(void)
{
#ifdef __x86_64__
	int wanted = kvm_is_tdp_enabled();
#else
	int wanted = 1;
#endif
	struct kvm_vm *vm = vm_create_barebones();

	ksft_test_result(kvm_check_cap(KVM_CAP_DIRTY_LOG_EXACT) == wanted &&
			 vm_check_cap(vm, KVM_CAP_DIRTY_LOG_EXACT) == wanted,
			 "KVM_CAP_DIRTY_LOG_EXACT is %d\n", wanted);
	kvm_vm_free(vm);
}

/* A dirty ring has no bitmap to clear. */
static void test_input_ring(void)
{
	unsigned long ones[2] = { ~0ul, ~0ul };
	struct kvm_vm *vm;
	int error;

	if (!dirty_ring_supported()) {
		ksft_test_result_skip("input: a VM with a dirty ring: no dirty ring\n");
		return;
	}
	vm = vm_create_barebones();
	vm_enable_dirty_ring(vm, RING_ENTRIES * sizeof(struct kvm_dirty_gfn));
	error = clear(vm, LOGGED, 0, 64, ones);
	ksft_test_result(error == ENXIO, "input: a VM with a dirty ring\n");
	kvm_vm_free(vm);
}

/*
 * A CLEAR that blocks half way: userfaultfd withholds the page of its bitmap until
 * the test sets "proceed".
 */
static struct {
	struct kvm_vm *vm;
	void *bitmap;
	int error;
	atomic_bool stopped, proceed, returned, deleted;
} held;

static int withhold_bitmap(int mode, int uffd, struct uffd_msg *msg)
{
	struct uffdio_copy copy = {
		.src = (uint64_t)held.bitmap + psz,
		.dst = msg->arg.pagefault.address,
		.len = psz,
	};

	held.stopped = true;
	while (!held.proceed)
		usleep(1000);

	return ioctl(uffd, UFFDIO_COPY, &copy);
}

static void *held_clear_thread(void *arg)
{
	held.error = clear(held.vm, LOGGED, 0, BAD_PAGES, held.bitmap);
	held.returned = true;
	return NULL;
}

static void *delete_thread(void *arg)
{
	vm_set_user_memory_region(held.vm, LOGGED, 0, BASE, 0, NULL);
	held.deleted = true;
	return NULL;
}

/*
 * Delete a slot while a CLEAR uses it.  The deletion waits until the CLEAR is done
 * with the slot.  The next CLEAR finds no slot.
 */
static void test_deleted(void)
{
	unsigned long ones[2] = { ~0ul, ~0ul };
	pthread_t clearer, deleter;
	struct uffd_desc *uffd;
	bool waited;
	void *mem;
	int error;

	mem = mmap(NULL, SZ_16M, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(mem != MAP_FAILED, "No memory for a memslot");
	held.bitmap = mmap(NULL, 2 * psz, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(held.bitmap != MAP_FAILED, "No memory for a bitmap");
	memcpy(held.bitmap + psz, ones, sizeof(ones));
	uffd = uffd_setup_demand_paging(UFFDIO_REGISTER_MODE_MISSING, 0, held.bitmap, psz, 1,
					withhold_bitmap);

	held.vm = vm_create_barebones();
	vm_enable_cap(held.vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		      KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
	vm_set_user_memory_region(held.vm, LOGGED, KVM_MEM_LOG_DIRTY_PAGES, BASE,
				  BAD_PAGES * psz, mem);

	pthread_create(&clearer, NULL, held_clear_thread, NULL);
	while (!held.stopped && !held.returned)
		usleep(1000);
	pthread_create(&deleter, NULL, delete_thread, NULL);
	usleep(200000);
	waited = held.stopped && !held.returned && !held.deleted;
	held.proceed = true;
	pthread_join(clearer, NULL);
	pthread_join(deleter, NULL);
	error = clear(held.vm, LOGGED, 0, BAD_PAGES, ones);

	if (!waited)
		ksft_print_msg("the bitmap was %sread, the slot was %sdeleted meanwhile\n",
			       held.stopped ? "" : "not ", held.deleted ? "" : "not ");
	ksft_test_result(waited && !held.error && error == ENOENT,
			 "input: a slot that is deleted during the call\n");
	kvm_vm_free(held.vm);
	uffd_stop_demand_paging(uffd);
	munmap(held.bitmap, 2 * psz);
	munmap(mem, SZ_16M);
}

int main(int argc, char *argv[])
{
	int opt, i, p;

	while ((opt = getopt(argc, argv, "ht:")) != -1) {
		switch (opt) {
		case 't':
			seconds = atoi_positive("Seconds", optarg);
			break;
		default:
			printf("usage: %s [-t SECONDS]\n"
			       "  -t  seconds in total to copy memory that vCPUs write to (%d)\n",
			       argv[0], seconds);
			exit(opt != 'h');
		}
	}

	TEST_REQUIRE(kvm_has_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2));
	psz = getpagesize();
	ksft_print_header();
	ksft_set_plan(ARRAY_SIZE(inputs) + 3 + NR_HW_INPUTS +
		      ARRAY_SIZE(exact_modes) * ARRAY_SIZE(patterns) +
		      NR_HW_AND_BLOCKS + NR_REWRITTEN + ARRAY_SIZE(created_modes) +
		      ARRAY_SIZE(unseen_modes) + ARRAY_SIZE(race_modes));

	for (i = 0; i < ARRAY_SIZE(inputs); i++)
		test_input(i);
	test_input_ring();
	test_capability();
	test_deleted();
	for (i = 0; i < NR_HW_INPUTS; i++)
		test_hw_input(i);
	for (i = 0; i < ARRAY_SIZE(exact_modes); i++)
		for (p = 0; p < ARRAY_SIZE(patterns); p++)
			test_exact(&exact_modes[i], p);
	test_hw_and_blocks();
	test_rewritten_pte();
	for (i = 0; i < ARRAY_SIZE(created_modes); i++)
		test_created(&created_modes[i]);
	for (i = 0; i < ARRAY_SIZE(unseen_modes); i++)
		test_unseen(&unseen_modes[i]);
	for (i = 0; i < ARRAY_SIZE(race_modes); i++)
		test_race(&race_modes[i]);

	ksft_finished();
}
