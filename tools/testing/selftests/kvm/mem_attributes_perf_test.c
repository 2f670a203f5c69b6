// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measure what memory attributes cost: the time of conversions, the memory that
 * KVM keeps, and the time of faults.
 *
 * The test prints one figure per line: name, value, unit.  It needs no ioctl that
 * an unpatched kernel lacks, so that two kernels can be compared.  A value is
 * the median of several runs, each on a new VM, unless a comment says otherwise.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/sizes.h>

#include "figures.h"
#include "kvm_util.h"
#include "private_mem.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
#define SHARED		0
#define BASE		((uint64_t)SZ_4G)
#define GIB		((uint64_t)SZ_1G)
#define TIB		(GIB << 10)
/* A slot has less than 2^31 pages. */
#define MAX_SLOT	(4 * TIB)

static int repeats = 5;
static uint64_t largest = 64 * GIB;
static int nr_slots, nr_entries = 511;

/*
 * The kernel memory that keeps the attributes of @vm, in bytes, as KVM reports it.
 * Without the report, the memory of all slabs: the growth is then the attributes'.
 */
static int64_t kept_bytes(struct kvm_vm *vm)
{
	long bytes = 0, kib = 0;
	char line[128];
	FILE *f;

	if (kvm_check_cap(KVM_CAP_GET_MEMORY_ATTRIBUTES))
		f = vm_open_debugfs(vm, "mem_attrs");
	else
		f = fopen("/proc/meminfo", "r");
	TEST_ASSERT(f, "Cannot read /proc/meminfo");
	while (fgets(line, sizeof(line), f) && sscanf(line, "bytes %ld", &bytes) != 1 &&
	       sscanf(line, "Slab: %ld kB", &kib) != 1)
		;
	fclose(f);
	return bytes + kib * 1024;
}

/* Create a VM with room for page tables that map @size. */
static struct kvm_vm *create_vm(struct kvm_vcpu **vcpu, uint64_t size, void *guest_code)
{
	return __vm_create_shape_with_one_vcpu(sw_protected_large_shape(), vcpu,
					       size / PAGE_SIZE, guest_code);
}

static int64_t convert(struct kvm_vm *vm, uint64_t size, uint64_t attrs)
{
	uint64_t begin = now_ns();

	vm_set_memory_attributes(vm, BASE, size, attrs);
	return now_ns() - begin;
}

/* Add slots of @size bytes in total, with no memory behind them yet. */
static void add_slots(struct kvm_vm *vm, uint64_t size, void *hva, int gmem)
{
	uint64_t done, n;
	int slot = 10;

	for (done = 0; done < size; done += n, slot++) {
		n = min(size - done, MAX_SLOT);
		vm_set_user_memory_region2(vm, slot, KVM_MEM_GUEST_MEMFD, BASE + done,
					   n, hva + done, gmem, done);
	}
}

static void *reserve(uint64_t size)
{
	void *hva = mmap(NULL, size + GIB, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	TEST_ASSERT(hva != MAP_FAILED, "No address space for %lu bytes", size);
	return align_ptr_up(hva, GIB);
}

/* Convert a range that was never mapped to private and back. */
static void bench_range(uint64_t size, const char *label)
{
	int64_t to_private[repeats], to_shared[repeats], kept[repeats];
	/* If a conversion takes more than a second, one run is enough. */
	int i, n = repeats;

	for (i = 0; i < n; i++) {
		void *hva = reserve(size);
		struct kvm_vcpu *vcpu;
		struct kvm_vm *vm = create_vm(&vcpu, 0, NULL);
		int gmem = vm_create_guest_memfd(vm, size, 0);
		int64_t before;

		add_slots(vm, size, hva, gmem);
		before = kept_bytes(vm);
		to_private[i] = convert(vm, size, PRIVATE);
		kept[i] = kept_bytes(vm) - before;
		to_shared[i] = convert(vm, size, SHARED);
		if (to_private[i] > NSEC_PER_SEC)
			n = i + 1;
		kvm_vm_free(vm);
		close(gmem);
		munmap(hva, size);
	}

	figure(median(to_private, n), "ns", "to_private_%s", label);
	figure(median(to_shared, n), "ns", "to_shared_%s", label);
	figure(median(kept, n), "bytes", "kept_%s", label);
}

/* Convert every other page of 1 GiB; return the median of all 2 MiB, per call. */
static int64_t convert_every_other_page(struct kvm_vm *vm, uint64_t attrs)
{
	enum { BLOCKS = SZ_1G / SZ_2M, CALLS = SZ_2M / 4096 / 2 };
	uint64_t begin, gpa = BASE;
	int64_t ns[BLOCKS];
	int i, j;

	for (i = 0; i < BLOCKS; i++) {
		begin = now_ns();
		for (j = 0; j < CALLS; j++, gpa += 2 * PAGE_SIZE)
			vm_set_memory_attributes(vm, gpa, PAGE_SIZE, attrs);
		ns[i] = (now_ns() - begin) / CALLS;
	}
	return median(ns, BLOCKS);
}

static void bench_fragmented(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, 0, NULL);
	int gmem = vm_create_guest_memfd(vm, GIB, 0);
	void *hva = reserve(GIB);
	int64_t before;

	add_slots(vm, GIB, hva, gmem);
	before = kept_bytes(vm);
	figure(convert_every_other_page(vm, PRIVATE), "ns/call", "fragment_1g");
	figure(kept_bytes(vm) - before, "bytes", "kept_fragmented_1g");
	figure(convert_every_other_page(vm, SHARED), "ns/call", "reunite_1g");
	kvm_vm_free(vm);
	close(gmem);
	munmap(hva, GIB);
}

/* Convert 2 MiB to private and back, over and over, in a VM of 1 GiB. */
static void bench_2m(void)
{
	enum { ROUNDS = 301 };
	int64_t ns[ROUNDS];
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, 0, NULL);
	int gmem = vm_create_guest_memfd(vm, GIB, 0);
	void *hva = reserve(GIB);
	int i;

	add_slots(vm, GIB, hva, gmem);
	for (i = 0; i < ROUNDS; i++)
		ns[i] = convert(vm, SZ_2M, i % 2 ? SHARED : PRIVATE);
	figure(median(ns, ROUNDS), "ns", "convert_2m");
	kvm_vm_free(vm);
	close(gmem);
	munmap(hva, GIB);
}

static void bench_memslot(void)
{
	int64_t ns[repeats];
	int i;

	for (i = 0; i < repeats; i++) {
		struct kvm_vcpu *vcpu;
		struct kvm_vm *vm = create_vm(&vcpu, 0, NULL);
		int gmem = vm_create_guest_memfd(vm, TIB, 0);
		void *hva = reserve(TIB);
		uint64_t begin = now_ns();

		add_slots(vm, TIB, hva, gmem);
		ns[i] = now_ns() - begin;
		kvm_vm_free(vm);
		close(gmem);
		munmap(hva, TIB);
	}
	figure(median(ns, repeats), "ns", "memslot_1t");
}

static void guest_touch(uint64_t pages, uint64_t step)
{
	uint64_t i;

	for (;;) {
		for (i = 0; i < pages; i++)
			READ_ONCE(*(uint64_t *)(BASE + i * step));
		GUEST_SYNC(0);
	}
}

static int64_t touch(struct kvm_vcpu *vcpu)
{
	uint64_t begin = now_ns();

	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, UCALL_EXIT_REASON);
	return now_ns() - begin;
}

/* Populate memory on the host, in pages as large as @step allows. */
static char *populate(uint64_t size, uint64_t step)
{
	char *hva = reserve(size);

	TEST_ASSERT(!madvise(hva, size, step == PAGE_SIZE ? MADV_NOHUGEPAGE :
							    MADV_HUGEPAGE),
		    "madvise() failed");
	memset(hva, 1, size);
	return hva;
}

/*
 * Measure the first access to each of @pages pages, @step bytes apart, that the
 * host has populated: the time to touch all pages for the first time, minus the
 * time to touch them again.  Elsewhere the VM has memory of both kinds.
 */
static void bench_fault(const char *name, uint64_t attrs, int pages, uint64_t step)
{
	const uint64_t size = pages * step, elsewhere = BASE + 64 * GIB;
	int64_t ns[repeats];
	int i;

	for (i = 0; i < repeats; i++) {
		struct kvm_vcpu *vcpu;
		struct kvm_vm *vm = create_vm(&vcpu, size, guest_touch);
		int gmem = vm_create_guest_memfd(vm, size, 0);
		char *hva = populate(size, step);

		TEST_ASSERT(attrs == SHARED ||
			    !fallocate(gmem, FALLOC_FL_KEEP_SIZE, 0, size),
			    "fallocate() failed");
		add_slots(vm, size, hva, gmem);
		virt_map_each(vm, BASE, pages, step);
		vm_mem_set_private(vm, elsewhere, GIB);
		vm_mem_set_shared(vm, elsewhere + SZ_16M, PAGE_SIZE);
		vm_set_memory_attributes(vm, BASE, size, attrs);
		vcpu_args_set(vcpu, 2, pages, step);
		ns[i] = touch(vcpu);
		ns[i] -= touch(vcpu);
		kvm_vm_free(vm);
		close(gmem);
		munmap(hva, size);
	}
	figure(median(ns, repeats) / pages, "ns/fault", "%s", name);
}

/* Do the same in a VM that has no private memory and no attributes. */
static void bench_plain_fault(const char *name, int pages, uint64_t step)
{
	const uint64_t size = pages * step;
	int64_t ns[repeats];
	int i;

	for (i = 0; i < repeats; i++) {
		struct kvm_vcpu *vcpu;
		struct kvm_vm *vm = __vm_create_with_one_vcpu(&vcpu, size / PAGE_SIZE, guest_touch);
		char *hva = populate(size, step);

		vm_set_user_memory_region(vm, 10, 0, BASE, size, hva);
		virt_map_each(vm, BASE, pages, step);
		vcpu_args_set(vcpu, 2, pages, step);
		ns[i] = touch(vcpu);
		ns[i] -= touch(vcpu);
		kvm_vm_free(vm);
		munmap(hva, size);
	}
	figure(median(ns, repeats) / pages, "ns/fault", "%s", name);
}

/*
 * Convert a range to private that the guest has mapped page by page.  Then let the
 * guest map every page again, and convert the range back to shared.
 */
static void bench_mapped(void)
{
	const uint64_t size = SZ_512M, pages = size / PAGE_SIZE;
	int64_t to_private[repeats], to_shared[repeats];
	int i;

	for (i = 0; i < repeats; i++) {
		struct kvm_vcpu *vcpu;
		struct kvm_vm *vm = create_vm(&vcpu, size, guest_touch);
		int gmem = vm_create_guest_memfd(vm, size, 0);
		char *hva = populate(size, PAGE_SIZE);

		add_slots(vm, size, hva, gmem);
		virt_map_each(vm, BASE, pages, PAGE_SIZE);
		vcpu_args_set(vcpu, 2, pages, PAGE_SIZE);
		touch(vcpu);
		to_private[i] = convert(vm, size, PRIVATE);
		touch(vcpu);
		to_shared[i] = convert(vm, size, SHARED);
		kvm_vm_free(vm);
		close(gmem);
		munmap(hva, size);
	}

	figure(median(to_private, repeats), "ns", "mapped_to_private_512m");
	figure(median(to_shared, repeats), "ns", "mapped_to_shared_512m");
}

/*
 * Drop the host's memory behind a range that the guest has mapped page by page.  If
 * @mixed, every other page of the range is private, and stays as it is.
 */
static void bench_drop(const char *name, bool mixed)
{
	const uint64_t size = SZ_256M, step = mixed ? 2 * PAGE_SIZE : PAGE_SIZE;
	int64_t ns[repeats];
	uint64_t begin, gpa;
	int i;

	for (i = 0; i < repeats; i++) {
		struct kvm_vcpu *vcpu;
		struct kvm_vm *vm;
		char *hva = populate(size, PAGE_SIZE);

		if (mixed)
			vm = create_vm(&vcpu, size, guest_touch);
		else
			vm = __vm_create_with_one_vcpu(&vcpu, size / PAGE_SIZE, guest_touch);
		vm_set_user_memory_region(vm, 10, 0, BASE, size, hva);
		virt_map_each(vm, BASE, size / step, step);
		for (gpa = BASE; mixed && gpa < BASE + size; gpa += step)
			vm_mem_set_private(vm, gpa + PAGE_SIZE, PAGE_SIZE);
		vcpu_args_set(vcpu, 2, size / step, step);
		touch(vcpu);

		begin = now_ns();
		TEST_ASSERT(!madvise(hva, size, MADV_DONTNEED), "madvise() failed");
		ns[i] = now_ns() - begin;
		kvm_vm_free(vm);
		munmap(hva, size);
	}
	figure(median(ns, repeats), "ns", "%s", name);
}

/* Set all of the range several times over, in one call if KVM has lists. */
static void set_all(struct kvm_vm *vm, uint64_t size, int entries)
{
	struct kvm_memory_attributes *a = calloc(entries, sizeof(*a));
	struct kvm_set_memory_attributes_list list = {
		.ranges = (uintptr_t)a,
		.nr = entries,
	};
	int i;

	for (i = 0; i < entries; i++)
		a[i] = (struct kvm_memory_attributes) {
			.address = BASE,
			.size = size,
			.attributes = i % 2 ? SHARED : PRIVATE,
		};
	if (entries > 1 && kvm_check_cap(KVM_CAP_SET_MEMORY_ATTRIBUTES_LIST)) {
		vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES_LIST, &list);
	} else {
		for (i = 0; i < entries; i++)
			vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES, &a[i]);
	}
	free(a);
}

static struct {
	char *hva;
	int64_t longest;
	bool converting;
	bool stop;
} waiter;

/* Each madvise() invalidates a page of the VM, and waits for mmu_lock. */
static void *invalidate_other_memory(void *unused)
{
	bool converting;
	uint64_t begin;

	while (!READ_ONCE(waiter.stop)) {
		WRITE_ONCE(*waiter.hva, 1);
		converting = READ_ONCE(waiter.converting);
		begin = now_ns();
		madvise(waiter.hva, PAGE_SIZE, MADV_DONTNEED);
		if (converting || READ_ONCE(waiter.converting))
			waiter.longest = max(waiter.longest, (int64_t)(now_ns() - begin));
	}
	return NULL;
}

/*
 * Convert memory in many memslots of one page, with entries that all cover all
 * of them.  Measure the longest time that an MMU notifier of the VM waits for
 * memory elsewhere.
 */
static void bench_wait(int slots, int entries, const char *name)
{
	const uint64_t size = slots * PAGE_SIZE;
	pthread_t thread;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, 0, NULL);
	char *hva = reserve(size);
	uint64_t begin;
	int i;

	waiter.hva = reserve(PAGE_SIZE);
	waiter.longest = 0;
	waiter.stop = false;
	vm_set_user_memory_region(vm, 9, 0, BASE - GIB, PAGE_SIZE, waiter.hva);
	for (i = 0; i < slots; i++)
		vm_set_user_memory_region(vm, 10 + i, 0, BASE + i * PAGE_SIZE, PAGE_SIZE,
					  hva + i * PAGE_SIZE);

	pthread_create(&thread, NULL, invalidate_other_memory, NULL);
	usleep(100000);
	WRITE_ONCE(waiter.converting, true);
	begin = now_ns();
	set_all(vm, size, entries);
	figure(now_ns() - begin, "ns", "%s_call", name);
	WRITE_ONCE(waiter.converting, false);
	WRITE_ONCE(waiter.stop, true);
	pthread_join(thread, NULL);
	figure(waiter.longest, "ns", "%s_wait", name);

	kvm_vm_free(vm);
	munmap(waiter.hva, PAGE_SIZE);
	munmap(hva, size);
}

/* Run the benchmarks that are worth counting in instructions. */
static void bench_short(void)
{
	bench_plain_fault("fault_plain", 2048, PAGE_SIZE);
	bench_plain_fault("fault_plain_2m", 256, SZ_2M);
	bench_drop("drop_plain_256m", false);
	if (!sw_protected_vm_supported())
		return;

	bench_2m();
	bench_fragmented();
	bench_fault("fault_private", PRIVATE, 2048, PAGE_SIZE);
	bench_fault("fault_shared", SHARED, 2048, PAGE_SIZE);
	bench_fault("fault_shared_2m", SHARED, 256, SZ_2M);
	bench_drop("drop_mixed_256m", true);
	bench_mapped();
}

static void bench_conversions(void)
{
	static const struct {
		uint64_t size;
		const char *label;
	} ranges[] = {
		{ GIB, "1g" }, { 16 * GIB, "16g" }, { 64 * GIB, "64g" },
		{ TIB, "1t" }, { 16 * TIB, "16t" },
	};
	int i;

	/* Run this first, while there is no freed memory to reuse. */
	bench_fragmented();
	bench_2m();
	for (i = 0; i < ARRAY_SIZE(ranges) && ranges[i].size <= largest; i++)
		bench_range(ranges[i].size, ranges[i].label);
	bench_memslot();
	bench_mapped();
	if (nr_slots) {
		bench_wait(nr_slots, 1, "slots_set");
		bench_wait(nr_slots, nr_entries, "slots_list");
	}
}

static void help(const char *name)
{
	printf("usage: %s [-s] [-m GIB] [-n REPEATS] [-w SLOTS] [-e ENTRIES]\n"
	       " -s: measure only faults and short conversions\n"
	       " -m: largest range to convert, in GiB (default 64)\n"
	       " -n: number of runs to take the median of (default %d)\n"
	       " -w: also convert this many memslots while another thread waits\n"
	       " -e: number of entries that convert them (default %d)\n",
	       name, repeats, nr_entries);
	exit(KSFT_SKIP);
}

int main(int argc, char **argv)
{
	bool only_short = false;
	int opt;

	while ((opt = getopt(argc, argv, "sm:n:w:e:h")) != -1) {
		switch (opt) {
		case 's':
			only_short = true;
			break;
		case 'm':
			largest = atoi_positive("GiB", optarg) * GIB;
			break;
		case 'n':
			repeats = atoi_positive("runs", optarg);
			break;
		case 'w':
			nr_slots = atoi_positive("memslots", optarg);
			break;
		case 'e':
			nr_entries = atoi_positive("entries", optarg);
			break;
		default:
			help(argv[0]);
		}
	}

	if (only_short) {
		bench_short();
		return 0;
	}

	TEST_REQUIRE(sw_protected_vm_supported());
	bench_conversions();
	return 0;
}
