// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random sequences of everything that changes guest memory, against an oracle.
 *
 * A VM has two vCPUs, and a VMM thread (a worker) for each.  Guest memory has three
 * areas: one that can log dirty pages, one with a guest_memfd, and one without a
 * memslot.  The workers own chunks of each area in turn, so that they meet in every
 * block and in every word of the dirty log, but never in a page.  A worker alone
 * converts its pages, drops them, clears their dirty bits, and has its vCPU access
 * them.  So it knows the contents of each of its pages, whether the page is private,
 * and whether the dirty log must have it.  Only the first worker changes a memslot or
 * the whole VM: it deletes memslots, for example, and starts logging.
 *
 * The seed gives the kind of VM and the sequence of each worker.  How the sequences
 * interleave is up to the scheduler.  If a check fails, the test prints the seed and
 * what the workers did last; "-s SEED -i 1" repeats the sequences.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <linux/bitmap.h>
#include <linux/falloc.h>
#include <linux/sizes.h>

#include "dirty_log.h"
#include "guest_accesses.h"
#include "kselftest.h"
#include "kvm_util.h"
#include "private_mem.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

#define NR_WORKERS	2
#define CHUNK		64			/* pages */
#define AREA_PAGES	1024
#define OWN_PAGES	(AREA_PAGES / NR_WORKERS)
#define NR_PAGES	(NR_AREAS * AREA_PAGES)
#define BASE		((uint64_t)SZ_4G)
#define SLOT(area)	(10 + (area))
#define RING_ENTRIES	4096
#define NR_OPS		300			/* of each worker, in each VM */

enum guest_area { LOGGED, GMEM, NO_SLOT, NR_AREAS };

static uint64_t psz;
static bool verbose;

/* ---- VM and oracle ------------------------------------------------------ */

struct page {
	uint64_t value[2];	/* of the first word, if the page is shared, and private */
	bool private;
	bool logged;		/* KVM has reported the page, but nobody has cleared it */
	unsigned int written;	/* the epoch in which the page became dirty, or 0 */
};

struct vm {
	uint64_t seed;
	struct kvm_vm *kvm;
	int gmem;
	char *hva[NR_AREAS];
	bool has_private;
	bool has_hw_dirty;
	enum how how;
	bool all_set;
	bool huge;
	struct page pages[NR_PAGES];
	/*
	 * Odd while the memslot is logging.  Changes before logging stops, and after
	 * it has started.
	 */
	atomic_uint epoch;
	pthread_mutex_t log_lock;	/* KVM_GET_DIRTY_LOG that clears, and its result */
};

/* A run of pages of one worker, in one chunk. */
struct range {
	uint32_t first, nr;
};

struct worker {
	int id;
	struct vm *vm;
	struct kvm_vcpu *vcpu;
	struct accesses *batch;
	struct guest_random_state rng;
	pthread_t thread;
	uint64_t count;			/* makes each value unique */
	struct record {
		const char *op;
		struct range range;
		int64_t detail;
	} records[64];
	unsigned int nr_records;
};

static struct worker workers[NR_WORKERS];

static uint32_t random_below(struct worker *w, uint32_t n)
{
	return guest_random_u32(&w->rng) % n;
}

static uint64_t gpa_of(uint32_t page)
{
	return BASE + page * psz;
}

static enum guest_area area_of(uint32_t page)
{
	return page / AREA_PAGES;
}

static char *hva_of(struct vm *vm, uint32_t page)
{
	return vm->hva[area_of(page)] + page % AREA_PAGES * psz;
}

/* Get page @i of the pages of an area that a worker owns. */
static uint32_t own_page(struct worker *w, enum guest_area area, uint32_t i)
{
	return area * AREA_PAGES + (i / CHUNK * NR_WORKERS + w->id) * CHUNK + i % CHUNK;
}

static bool is_own(struct worker *w, uint32_t page)
{
	return page < NR_PAGES && page / CHUNK % NR_WORKERS == w->id;
}

static uint32_t random_page(struct worker *w, enum guest_area area)
{
	return own_page(w, area, random_below(w, OWN_PAGES));
}

/* A range is often a whole chunk, so that blocks can have one kind of memory. */
static struct range random_range(struct worker *w, enum guest_area area)
{
	uint32_t i = random_below(w, OWN_PAGES), offset = i % CHUNK;

	if (random_below(w, 3))
		return (struct range) { own_page(w, area, i - offset), CHUNK };
	return (struct range) { own_page(w, area, i),
				1 + random_below(w, CHUNK - offset) };
}

/* An area that has a memslot. */
static enum guest_area random_slot(struct worker *w)
{
	return w->vm->has_private ? random_below(w, 2) : LOGGED;
}

static void record(struct worker *w, const char *op, struct range r, int64_t detail)
{
	w->records[w->nr_records++ % ARRAY_SIZE(w->records)] = (struct record) {
		.op = op, .range = r, .detail = detail,
	};
	if (verbose)
		printf("# %.3f s, worker %d: %s, pages %u to %u, %ld\n",
		       clock() / (double)CLOCKS_PER_SEC, w->id, op, r.first,
		       r.first + r.nr - 1, (long)detail);
}

static void print_config(struct vm *vm)
{
	static const char *const hows[] = { "log", "log, cleared by hand", "ring" };

	ksft_print_msg("seed %lu: dirty %s%s%s%s%s\n", (unsigned long)vm->seed, hows[vm->how],
		       vm->all_set ? ", initially set" : "", vm->huge ? ", huge pages" : "",
		       vm->has_private ? ", private memory" : "",
		       vm->has_hw_dirty ? ", hardware" : "");
}

static void print_history(struct vm *vm)
{
	struct worker *w;
	struct record *r;
	unsigned int i;

	print_config(vm);
	for (w = workers; w < workers + NR_WORKERS; w++) {
		i = w->nr_records < ARRAY_SIZE(w->records) ? 0 :
		    w->nr_records - ARRAY_SIZE(w->records);
		for (; i < w->nr_records; i++) {
			r = &w->records[i % ARRAY_SIZE(w->records)];
			ksft_print_msg("worker %d, %u: %s, pages %u to %u, %ld\n", w->id, i, r->op,
				       r->range.first, r->range.first + r->range.nr - 1,
				       (long)r->detail);
		}
	}
}

#define CHECK(vm, cond, fmt, ...)					\
do {									\
	if (!(cond)) {							\
		print_history(vm);					\
		TEST_FAIL(fmt, ##__VA_ARGS__);				\
	}								\
} while (0)

static void hung(int signo)
{
	print_history(workers[0].vm);
	TEST_FAIL("A VM takes longer than 10 minutes");
}

static void set_slot(struct vm *vm, enum guest_area area, bool exists, uint32_t flags)
{
	if (area == GMEM)
		flags |= KVM_MEM_GUEST_MEMFD;
	vm_set_user_memory_region2(vm->kvm, SLOT(area), flags, gpa_of(area * AREA_PAGES),
				   exists ? AREA_PAGES * psz : 0, vm->hva[area], vm->gmem, 0);
}

static void map_area(struct vm *vm, enum guest_area area)
{
	vm->hva[area] = mmap(NULL, 2 * AREA_PAGES * psz, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	TEST_ASSERT(vm->hva[area] != MAP_FAILED, "mmap, errno %d", errno);
	vm->hva[area] = align_ptr_up(vm->hva[area], AREA_PAGES * psz);
	madvise(vm->hva[area], AREA_PAGES * psz, vm->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

static void create_vm(struct vm *vm, uint64_t seed)
{
	struct guest_random_state rng = new_guest_random_state(seed * 31);
	struct vm_shape shape = VM_SHAPE(VM_MODE_DEFAULT);
	struct worker *w;

	*vm = (struct vm) { .seed = seed, .gmem = -1, .log_lock = PTHREAD_MUTEX_INITIALIZER };
	vm->how = guest_random_u32(&rng) % 3;
	if (vm->how == HOW_RING && !dirty_ring_supported())
		vm->how = HOW_CLEAR;
	vm->all_set = vm->how == HOW_CLEAR && guest_random_bool(&rng);
	vm->huge = guest_random_bool(&rng);
	vm->has_hw_dirty = vm->how != HOW_RING && kvm_has_cap(KVM_CAP_ARM_HW_DIRTY);
	vm->has_private = sw_protected_vm_supported() && guest_random_u32(&rng) % 4;
	if (vm->has_private)
		shape = sw_protected_shape();

	vm->kvm = __vm_create(shape, NR_WORKERS, 0);
	if (guest_random_bool(&rng))
		vm_enable_eager_split(vm->kvm);
	vm_set_up_log(vm->kvm, vm->how, vm->all_set, RING_ENTRIES);

	map_area(vm, LOGGED);
	set_slot(vm, LOGGED, true, 0);
	if (vm->has_private) {
		map_area(vm, GMEM);
		vm->gmem = vm_create_guest_memfd(vm->kvm, AREA_PAGES * psz, 0);
		set_slot(vm, GMEM, true, 0);
	}
	virt_map(vm->kvm, BASE, BASE, (vm->has_private ? 2 : 1) * AREA_PAGES);

	for (w = workers; w < workers + NR_WORKERS; w++) {
		*w = (struct worker) {
			.id = w - workers,
			.vm = vm,
			.rng = new_guest_random_state(seed * 31 + 1 + (w - workers)),
		};
		w->vcpu = vm_vcpu_add(vm->kvm, w->id, guest_make_accesses);
		w->batch = vcpu_set_up_accesses(w->vcpu);
		if (vm->how == HOW_RING)
			vcpu_map_dirty_ring(w->vcpu);
	}
}

static void free_vm(struct vm *vm)
{
	int area;

	kvm_vm_free(vm->kvm);
	if (vm->gmem >= 0)
		close(vm->gmem);
	for (area = 0; area < NR_AREAS; area++) {
		if (vm->hva[area])
			munmap(vm->hva[area], AREA_PAGES * psz);
	}
}

/* ---- Attributes --------------------------------------------------------- */

static void set_private(struct vm *vm, struct range r, bool private)
{
	uint32_t i;

	for (i = r.first; i < r.first + r.nr; i++)
		vm->pages[i].private = private;
}

static struct kvm_memory_attributes attributes_of(struct range r, bool private)
{
	return (struct kvm_memory_attributes) {
		.address = gpa_of(r.first),
		.size = r.nr * psz,
		.attributes = private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};
}

static void convert_range(struct worker *w, const char *op, struct range r, bool private)
{
	struct kvm_memory_attributes a = attributes_of(r, private);

	record(w, op, r, private);
	vm_ioctl(w->vm->kvm, KVM_SET_MEMORY_ATTRIBUTES, &a);
	set_private(w->vm, r, private);
}

static void set_list(struct worker *w, struct kvm_memory_attributes *a, uint32_t nr)
{
	struct kvm_set_memory_attributes_list list = { .ranges = (uintptr_t)a, .nr = nr };

	vm_ioctl(w->vm->kvm, KVM_SET_MEMORY_ATTRIBUTES_LIST, &list);
	CHECK(w->vm, list.done == nr, "%u of %u entries", list.done, nr);
}

static void convert(struct worker *w)
{
	struct range r = random_range(w, random_below(w, NR_AREAS));

	convert_range(w, "convert", r, random_below(w, 2));
}

/* Convert ranges that may overlap: the last one wins. */
static void convert_list(struct worker *w)
{
	struct kvm_memory_attributes a[24];
	uint32_t nr = 1 + random_below(w, ARRAY_SIZE(a)), i;
	enum guest_area area = random_below(w, NR_AREAS);
	struct range r;
	bool private;

	for (i = 0; i < nr; i++) {
		r = random_range(w, area);
		private = random_below(w, 4) != 0;
		a[i] = attributes_of(r, private);
		record(w, "convert in a list", r, private);
		set_private(w->vm, r, private);
	}
	set_list(w, a, nr);
}

/* Make a chunk of each pair of chunks private or shared: whole blocks change. */
static void convert_area(struct worker *w)
{
	struct kvm_memory_attributes a[OWN_PAGES / CHUNK];
	enum guest_area area = random_below(w, NR_AREAS);
	bool private = random_below(w, 2);
	struct range r = { .nr = CHUNK };
	uint32_t i;

	for (i = 0; i < ARRAY_SIZE(a); i++) {
		r.first = own_page(w, area, i * CHUNK);
		a[i] = attributes_of(r, private);
		record(w, "convert all", r, private);
		set_private(w->vm, r, private);
	}
	set_list(w, a, ARRAY_SIZE(a));
}

static void get_attributes(struct worker *w)
{
	struct range r = random_range(w, random_below(w, NR_AREAS));
	struct kvm_memory_attributes a[CHUNK];
	struct kvm_get_memory_attributes get = {
		.address = gpa_of(r.first), .size = r.nr * psz,
		.ranges = (uintptr_t)a, .nr = CHUNK,
	}, count = { .address = get.address, .size = get.size };
	struct page *pages = w->vm->pages;
	uint32_t page = r.first, i, end;

	record(w, "get attributes", r, 0);
	vm_ioctl(w->vm->kvm, KVM_GET_MEMORY_ATTRIBUTES, &get);
	vm_ioctl(w->vm->kvm, KVM_GET_MEMORY_ATTRIBUTES, &count);
	CHECK(w->vm, !get.size && count.nr == get.nr, "0x%llx bytes left, %u and %u runs",
	      get.size, get.nr, count.nr);

	for (i = 0; i < get.nr; i++) {
		end = page + a[i].size / psz;
		CHECK(w->vm, a[i].address == gpa_of(page) && end <= r.first + r.nr,
		      "Run %u is [0x%llx, +0x%llx)", i, a[i].address, a[i].size);
		for (; page < end; page++)
			CHECK(w->vm, !!a[i].attributes == pages[page].private,
			      "Page %u has attributes 0x%llx", page, a[i].attributes);
	}
	CHECK(w->vm, page == r.first + r.nr, "The runs end at page %u", page);
}

/* ---- Dirty log ---------------------------------------------------------- */

/* Harvest a vCPU's ring.  Return the number of entries. */
static int harvest(struct worker *w)
{
	uint64_t offset;
	uint32_t slot;
	int n;

	for (n = 0; vcpu_harvest_entry(w->vcpu, RING_ENTRIES, &slot, &offset); n++) {
		CHECK(w->vm, slot == SLOT(LOGGED) && offset < AREA_PAGES && is_own(w, offset),
		      "Page %lu of slot %u in the ring", (unsigned long)offset, slot);
		w->vm->pages[offset].logged = true;
	}
	return n;
}

static void reset_rings(struct worker *w)
{
	record(w, "harvest and reset rings", (struct range) { }, harvest(w));
	kvm_vm_reset_dirty_ring(w->vm->kvm);
}

/* Add what KVM reports to the pages' state.  Return false if no log exists. */
static bool read_log(struct vm *vm)
{
	DECLARE_BITMAP(log, AREA_PAGES);
	struct kvm_dirty_log args = { .dirty_bitmap = log, .slot = SLOT(LOGGED) };
	int page, ret;

	ret = __vm_ioctl(vm->kvm, KVM_GET_DIRTY_LOG, &args);
	CHECK(vm, !ret || errno == ENOENT, "KVM_GET_DIRTY_LOG, errno %d", errno);
	for (page = 0; !ret && page < AREA_PAGES; page++)
		vm->pages[page].logged |= test_bit(page, log);
	return !ret;
}

/*
 * Each own page that a vCPU has written since logging began must be in the log.
 * Without KVM_CLEAR_DIRTY_LOG, reading the log has also cleared it.
 */
static void get_log(struct worker *w)
{
	struct vm *vm = w->vm;
	unsigned int epoch = vm->epoch;
	bool valid = true;
	struct page *p;
	uint32_t i;

	if (vm->how == HOW_RING) {
		reset_rings(w);
	} else {
		record(w, "get log", (struct range) { }, epoch);
		pthread_mutex_lock(&vm->log_lock);
		valid = read_log(vm);
		pthread_mutex_unlock(&vm->log_lock);
	}

	if (epoch % 2 == 0 || epoch != vm->epoch)
		return;
	CHECK(vm, valid, "The memslot logs, but has no log");
	for (i = 0; i < OWN_PAGES; i++) {
		p = &vm->pages[own_page(w, LOGGED, i)];
		CHECK(vm, p->written != epoch || p->logged, "Page %u is dirty, but not logged",
		      own_page(w, LOGGED, i));
		if (vm->how != HOW_CLEAR) {
			p->logged = false;
			p->written = 0;
		}
	}
}

/* Clear some own pages, in one chunk or in all of them. */
static void clear_log(struct worker *w)
{
	struct range r = random_range(w, LOGGED);
	bool all = random_below(w, 3) == 0;
	DECLARE_BITMAP(mask, AREA_PAGES) = { };
	struct kvm_clear_dirty_log args = {
		.slot = SLOT(LOGGED), .dirty_bitmap = mask, .num_pages = AREA_PAGES,
	};
	uint32_t i, page;
	int ret;

	if (w->vm->how != HOW_CLEAR)
		return;

	for (i = 0; i < OWN_PAGES; i++) {
		page = own_page(w, LOGGED, i);
		if (all ? random_below(w, 8) != 0 : page >= r.first && page < r.first + r.nr)
			__set_bit(page, mask);
	}
	if (!all) {
		args.first_page = r.first - r.first % BITS_PER_LONG;
		args.num_pages = BITS_PER_LONG;
		args.dirty_bitmap = mask + BIT_WORD(r.first);
	}
	record(w, "clear log", all ? (struct range) { } : r, all);
	ret = __vm_ioctl(w->vm->kvm, KVM_CLEAR_DIRTY_LOG, &args);
	CHECK(w->vm, !ret || errno == ENOENT, "KVM_CLEAR_DIRTY_LOG, errno %d", errno);
	for (i = 0; i < OWN_PAGES && !ret; i++) {
		page = own_page(w, LOGGED, i);
		if (test_bit(page, mask)) {
			w->vm->pages[page].logged = false;
			w->vm->pages[page].written = 0;
		}
	}
}

static void toggle_log(struct worker *w)
{
	struct vm *vm = w->vm;
	bool on = vm->epoch % 2 == 0;

	record(w, "logging", (struct range) { }, on);
	if (!on)
		vm->epoch++;
	set_slot(vm, LOGGED, true, on ? KVM_MEM_LOG_DIRTY_PAGES : 0);
	if (on)
		vm->epoch++;
}

static void toggle_hw_dirty(struct worker *w)
{
	bool on = random_below(w, 2);

	if (!w->vm->has_hw_dirty)
		return;

	record(w, "hardware dirty state", (struct range) { }, on);
	vm_enable_cap(w->vm->kvm, KVM_CAP_ARM_HW_DIRTY, on);
}

/* ---- Memslots and host memory ------------------------------------------- */

static void recreate_slot(struct worker *w)
{
	enum guest_area area = random_slot(w);
	bool log = area == LOGGED && random_below(w, 2);
	struct vm *vm = w->vm;

	record(w, "delete and create memslot", (struct range) { area * AREA_PAGES }, log);
	if (area == LOGGED && vm->epoch % 2)
		vm->epoch++;
	set_slot(vm, area, false, 0);
	if (random_below(w, 2))
		usleep(random_below(w, 2000));
	set_slot(vm, area, true, log ? KVM_MEM_LOG_DIRTY_PAGES : 0);
	if (log)
		vm->epoch++;
}

static void drop(struct worker *w)
{
	struct range r = random_range(w, random_slot(w));
	uint32_t i;

	record(w, "drop", r, 0);
	TEST_ASSERT(!madvise(hva_of(w->vm, r.first), r.nr * psz, MADV_DONTNEED),
		    "MADV_DONTNEED, errno %d", errno);
	for (i = r.first; i < r.first + r.nr; i++)
		w->vm->pages[i].value[false] = 0;
}

static void punch_hole(struct worker *w)
{
	struct range r = random_range(w, GMEM);
	uint32_t i;

	record(w, "punch hole", r, 0);
	TEST_ASSERT(!fallocate(w->vm->gmem, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       r.first % AREA_PAGES * psz, r.nr * psz),
		    "FALLOC_FL_PUNCH_HOLE, errno %d", errno);
	for (i = r.first; i < r.first + r.nr; i++)
		w->vm->pages[i].value[true] = 0;
}

static void allocate(struct worker *w)
{
	struct range r = random_range(w, GMEM);

	record(w, "allocate", r, 0);
	TEST_ASSERT(!fallocate(w->vm->gmem, FALLOC_FL_KEEP_SIZE,
			       r.first % AREA_PAGES * psz, r.nr * psz),
		    "fallocate, errno %d", errno);
}

/* The host takes the page away, but not its contents. */
static void unmap(struct worker *w)
{
	struct range r = random_range(w, random_slot(w));
	void *hva = hva_of(w->vm, r.first);

	record(w, "make read-only for a moment", r, 0);
	TEST_ASSERT(!mprotect(hva, r.nr * psz, PROT_READ) &&
		    !mprotect(hva, r.nr * psz, PROT_READ | PROT_WRITE),
		    "mprotect, errno %d", errno);
}

/* Let the host gather pages in a huge page; it may fail. */
static void collapse(struct worker *w)
{
	enum guest_area area = random_slot(w);

	record(w, "collapse", (struct range) { area * AREA_PAGES, AREA_PAGES }, 0);
	madvise(w->vm->hva[area], AREA_PAGES * psz, MADV_COLLAPSE);
}

static void write_from_host(struct worker *w)
{
	uint32_t page = random_page(w, random_slot(w));
	uint64_t value = ++w->count << 32 | page;

	record(w, "write from the host", (struct range) { page, 1 }, value);
	w->vm->pages[page].value[false] = value;
	WRITE_ONCE(*(uint64_t *)hva_of(w->vm, page), value);
}

static void read_from_host(struct worker *w)
{
	struct range r = random_range(w, random_slot(w));
	uint64_t value;
	uint32_t i;

	record(w, "read from the host", r, 0);
	for (i = r.first; i < r.first + r.nr; i++) {
		value = READ_ONCE(*(uint64_t *)hva_of(w->vm, i));
		CHECK(w->vm, value == w->vm->pages[i].value[false],
		      "The host reads 0x%lx from page %u, instead of 0x%lx",
		      (unsigned long)value, i, (unsigned long)w->vm->pages[i].value[false]);
	}
}

/* ---- vCPUs -------------------------------------------------------------- */

/* KVM needn't populate all of it, and may refuse: nothing else may change. */
static void pre_fault(struct worker *w)
{
	struct range r = random_range(w, random_slot(w));
	struct kvm_pre_fault_memory args = {
		.gpa = gpa_of(r.first), .size = r.nr * psz,
	};

	record(w, "pre-fault", r, 0);
	__vcpu_ioctl(w->vcpu, KVM_PRE_FAULT_MEMORY, &args);
}

/* The memslot is gone for a moment: access memory for the vCPU. */
static void emulate_mmio(struct worker *w, struct kvm_run *run)
{
	uint32_t page = (run->mmio.phys_addr - BASE) / psz;
	struct page *p = &w->vm->pages[page];

	CHECK(w->vm, is_own(w, page) && !p->private && run->mmio.len == 8,
	      "Access of %u bytes to 0x%llx without memslot", run->mmio.len,
	      run->mmio.phys_addr);
	if (run->mmio.is_write) {
		memcpy(hva_of(w->vm, page), run->mmio.data, 8);
		p->written = 0;		/* the VMM knows, but the log doesn't */
	} else {
		memcpy(run->mmio.data, hva_of(w->vm, page), 8);
	}
}

/* Private memory without guest_memfd: share it.  Or the memslot is gone for a moment. */
static void handle_memory_fault(struct worker *w, struct kvm_run *run)
{
	struct range r = { (run->memory_fault.gpa - BASE) / psz, 1 };

	CHECK(w->vm, is_own(w, r.first) && w->vm->pages[r.first].private &&
	      run->memory_fault.flags == KVM_MEMORY_EXIT_FLAG_PRIVATE,
	      "Memory fault at 0x%llx, flags 0x%llx", run->memory_fault.gpa,
	      run->memory_fault.flags);
	if (area_of(r.first) == LOGGED)
		convert_range(w, "share after a fault", r, false);
	else
		sched_yield();
}

static void run_batch(struct worker *w)
{
	struct kvm_run *run = w->vcpu->run;
	struct ucall uc;

	for (;;) {
		if (_vcpu_run(w->vcpu)) {
			if (errno == EFAULT && run->exit_reason == KVM_EXIT_MEMORY_FAULT)
				handle_memory_fault(w, run);
			else
				CHECK(w->vm, errno == EINTR || errno == EAGAIN,
				      "KVM_RUN, errno %d", errno);
			continue;
		}

		switch (run->exit_reason) {
		case KVM_EXIT_DIRTY_RING_FULL:
			reset_rings(w);
			continue;
		case KVM_EXIT_MMIO:
			if (run->mmio.phys_addr >= BASE &&
			    run->mmio.phys_addr < gpa_of(NR_PAGES)) {
				emulate_mmio(w, run);
				continue;
			}
			break;
		}

		switch (get_ucall(w->vcpu, &uc)) {
		case UCALL_SYNC:
			return;
		case UCALL_ABORT:
			print_history(w->vm);
			REPORT_GUEST_ASSERT(uc);
			break;
		default:
			CHECK(w->vm, false, "Exit %s", exit_reason_str(run->exit_reason));
		}
	}
}

/* Does a vCPU find private memory in the page? */
static bool finds_private(struct vm *vm, uint32_t page)
{
	return vm->pages[page].private && area_of(page) == GMEM;
}

static void run_vcpu(struct worker *w)
{
	unsigned int epoch = w->vm->epoch;
	uint32_t nr = 1 + random_below(w, MAX_ACCESSES), page = 0;
	struct access *a;
	struct page *p;
	bool private;

	for (a = w->batch->access; a < w->batch->access + nr; a++) {
		/* Often the next page, so that the batch has runs of pages. */
		if (a == w->batch->access || random_below(w, 3) == 0 || (page + 1) % CHUNK == 0)
			page = random_page(w, random_slot(w));
		else
			page++;
		p = &w->vm->pages[page];
		private = finds_private(w->vm, page);
		*a = (struct access) {
			.gpa = gpa_of(page),
			.expect = p->value[private],
			.write = random_below(w, 2),
			.value = ++w->count << 32 | page,
		};
		if (a->write) {
			p->value[private] = a->value;
			if (area_of(page) == LOGGED && epoch % 2)
				p->written = epoch;
		}
		record(w, a->write ? "vCPU writes" : "vCPU reads", (struct range) { page, 1 },
		       private);
	}
	w->batch->nr = nr;
	run_batch(w);
}

/* ---- Main --------------------------------------------------------------- */

static const struct op {
	void (*run)(struct worker *w);
	int weight;
	bool private;		/* only in VMs with private memory */
	bool first;		/* only by the first worker */
} ops[] = {
	{ run_vcpu, 40 },
	{ get_log, 8 },
	{ clear_log, 10 },
	{ drop, 3 },
	{ unmap, 3 },
	{ collapse, 1 },
	{ pre_fault, 3 },
	{ write_from_host, 3 },
	{ read_from_host, 3 },
	{ convert, 8, .private = true },
	{ convert_list, 4, .private = true },
	{ convert_area, 2, .private = true },
	{ get_attributes, 4, .private = true },
	{ punch_hole, 2, .private = true },
	{ allocate, 1, .private = true },
	{ toggle_log, 3, .first = true },
	{ toggle_hw_dirty, 2, .first = true },
	{ recreate_slot, 2, .first = true },
};

static const struct op *random_op(struct worker *w)
{
	const struct op *op;
	int total = 0, n;

	for (op = ops; op < ops + ARRAY_SIZE(ops); op++)
		total += op->weight;
	for (;;) {
		n = random_below(w, total);
		for (op = ops; n >= op->weight; op++)
			n -= op->weight;
		if ((!op->private || w->vm->has_private) && (!op->first || !w->id))
			return op;
	}
}

static void *work(void *arg)
{
	struct worker *w = arg;
	int i;

	for (i = 0; i < NR_OPS; i++)
		random_op(w)->run(w);
	get_log(w);
	return NULL;
}

/* Check all memory once the workers have stopped. */
static void check_all(struct vm *vm)
{
	struct worker *w;
	uint32_t page;

	for (page = 0; page < (vm->has_private ? 2 : 1) * AREA_PAGES; page++) {
		w = &workers[page / CHUNK % NR_WORKERS];
		w->batch->nr = 1;
		w->batch->access[0] = (struct access) {
			.gpa = gpa_of(page),
			.expect = vm->pages[page].value[finds_private(vm, page)],
		};
		record(w, "last check", (struct range) { page, 1 }, 0);
		run_batch(w);
	}
}

static void fuzz(uint64_t seed)
{
	static struct vm vm;
	struct worker *w;

	alarm(600);
	create_vm(&vm, seed);
	if (verbose)
		print_config(&vm);
	for (w = workers; w < workers + NR_WORKERS; w++)
		pthread_create(&w->thread, NULL, work, w);
	for (w = workers; w < workers + NR_WORKERS; w++)
		pthread_join(w->thread, NULL);
	check_all(&vm);
	free_vm(&vm);
}

int main(int argc, char *argv[])
{
	int seconds = 30, vms = INT_MAX, opt, n;
	uint64_t seed = time(NULL);
	time_t end;

	while ((opt = getopt(argc, argv, "hi:s:t:v")) != -1) {
		switch (opt) {
		case 'i':
			vms = atoi_positive("Number of VMs", optarg);
			break;
		case 's':
			seed = strtoul(optarg, NULL, 0);
			break;
		case 't':
			seconds = atoi_positive("Seconds", optarg);
			break;
		case 'v':
			verbose = true;
			break;
		default:
			printf("usage: %s [-t SECONDS] [-i VMS] [-s SEED] [-v]\n"
			       "  -t  seconds to run (%d)\n"
			       "  -i  number of VMs to run, if the time suffices\n"
			       "  -s  seed of the first VM; each VM has the next seed\n"
			       "  -v  print each step\n", argv[0], seconds);
			exit(opt != 'h');
		}
	}

	psz = getpagesize();
	setbuf(stdout, NULL);
	signal(SIGALRM, hung);
	ksft_print_header();
	ksft_set_plan(1);
	ksft_print_msg("first seed %lu\n", (unsigned long)seed);

	end = time(NULL) + seconds;
	for (n = 0; n < vms && time(NULL) < end; n++)
		fuzz(seed + n);

	ksft_test_result(n, "guest memory is as expected, in %d VMs\n", n);
	ksft_finished();
}
