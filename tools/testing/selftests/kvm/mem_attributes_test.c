// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory attributes: KVM_SET_MEMORY_ATTRIBUTES, KVM_GET_MEMORY_ATTRIBUTES and
 * KVM_SET_MEMORY_ATTRIBUTES_LIST, the input they refuse, and the large pages that
 * KVM maps around memory of both kinds.
 *
 * KVM's statistics of the VM give the level of mappings (vm_get_large_pages()).
 * After each step the test compares the attributes with an oracle of one byte per
 * page.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <linux/sizes.h>
#include <linux/userfaultfd.h>

#include "kselftest.h"
#include "kvm_util.h"
#include "mem_attributes.h"
#include "private_mem.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE
#define SHARED		0

#define SLOT		10
#define OTHER_SLOT	11
#define BASE		((uint64_t)SZ_4G)
#define BLOCK		((uint64_t)SZ_2M)
#define GIB		((uint64_t)SZ_1G)
#define OTHER_BASE	(BASE + 4 * GIB)

/* ---- Guest -------------------------------------------------------------- */

enum guest_op { OP_READ, OP_CONVERT };

/* The pages that the guest reads next.  The host writes this between two runs. */
static struct guest_cmd {
	uint64_t gpa[16];
	int nr;
} cmd;

static void guest_read(void)
{
	int i;

	for (;;) {
		for (i = 0; i < cmd.nr; i++)
			READ_ONCE(*(uint64_t *)cmd.gpa[i]);
		GUEST_SYNC(OP_READ);
	}
}

/* ---- Slots -------------------------------------------------------------- */

/* Map memory at an address equal to @gpa modulo 1 GiB, so that both align. */
static void *map_like_gpa(uint64_t gpa, size_t size, bool hugetlb)
{
	size_t reserved = size + 2 * GIB;
	char *area, *hva;

	area = mmap(NULL, reserved, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	TEST_ASSERT(area != MAP_FAILED, "Reserving %zu bytes failed", reserved);
	hva = align_ptr_up(area, GIB) + gpa % GIB;

	hva = mmap(hva, size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED |
		   (hugetlb ? MAP_HUGETLB | (30 << MAP_HUGE_SHIFT) : 0), -1, 0);
	if (hva == MAP_FAILED) {
		munmap(area, reserved);
		return NULL;
	}
	if (hugetlb)
		return hva;

	TEST_ASSERT(!madvise(hva, size, MADV_HUGEPAGE), "No huge pages");
	/* Populate the huge pages before the guest faults. */
	memset(hva, 0, size);
	return hva;
}

static struct kvm_vm *create_vm(struct kvm_vcpu **vcpu, void *guest_code)
{
	return vm_create_shape_with_one_vcpu(sw_protected_shape(), vcpu, guest_code);
}

static void add_slot(struct kvm_vm *vm, int slot, uint64_t gpa, uint64_t size,
		     void *hva, int gmem)
{
	vm_set_user_memory_region2(vm, slot, gmem < 0 ? 0 : KVM_MEM_GUEST_MEMFD,
				   gpa, size, hva, gmem, 0);
}

static void delete_slot(struct kvm_vm *vm, int slot, uint64_t gpa)
{
	vm_set_user_memory_region2(vm, slot, 0, gpa, 0, NULL, -1, 0);
}

static int set_attrs(struct kvm_vm *vm, uint64_t gpa, uint64_t size, uint64_t attrs)
{
	struct kvm_memory_attributes a = {
		.address = gpa,
		.size = size,
		.attributes = attrs,
	};

	return __vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES, &a);
}

/* ---- Reading back ------------------------------------------------------- */

static uint64_t get_generation(struct kvm_vm *vm)
{
	struct kvm_get_memory_attributes get = { .address = BASE, .size = PAGE_SIZE };

	vm_ioctl(vm, KVM_GET_MEMORY_ATTRIBUTES, &get);
	return get.generation;
}

/* ---- Bad input ---------------------------------------------------------- */

#define BAD_ADDR	(~0xffful)

static struct kvm_memory_attributes some_ranges[8];

#define GET(...)	{ .address = BASE, .size = BLOCK, .nr = 8,	\
			  .ranges = (uintptr_t)some_ranges, __VA_ARGS__ }

static const struct {
	const char *why;
	struct kvm_get_memory_attributes get;
	int error;
} bad_gets[] = {
	{ "flags",		GET(.flags = 1),			EINVAL },
	{ "reserved",		GET(.reserved = 1),			EINVAL },
	{ "unknown attribute",	GET(.mask = PRIVATE | 1),		EINVAL },
	{ "attribute not in mask", GET(.attributes = PRIVATE),		EINVAL },
	{ "count, size 0",	GET(.nr = 0, .size = 0),		EINVAL },
	{ "size 0",		GET(.size = 0),				EINVAL },
	{ "unaligned address",	GET(.address = BASE + 1),		EINVAL },
	{ "unaligned size",	GET(.size = BLOCK - 1),			EINVAL },
	{ "end above 2^64",	GET(.address = -BLOCK, .size = 2 * BLOCK), EINVAL },
	{ "end at 2^64",	GET(.address = -BLOCK),			EINVAL },
	{ "bad array",		GET(.ranges = -4096ull),			EFAULT },
	{ "null array",		GET(.ranges = 0),				EFAULT },
};

#define RANGE(...)	{ .address = BASE, .size = BLOCK,		\
			  .attributes = PRIVATE, __VA_ARGS__ }

/* For SET, and as the third entry of a LIST. */
static const struct {
	const char *why;
	struct kvm_memory_attributes range;
} bad_ranges[] = {
	{ "flags",			RANGE(.flags = 1) },
	{ "unknown attribute, bit 0",	RANGE(.attributes = PRIVATE | 1) },
	{ "unknown attribute, bit 63",	RANGE(.attributes = 1ull << 63) },
	{ "size 0",			RANGE(.size = 0) },
	{ "unaligned address",		RANGE(.address = BASE + 8) },
	{ "unaligned size",		RANGE(.size = BLOCK + 8) },
	{ "end above 2^64",		RANGE(.address = -BLOCK, .size = 2 * BLOCK) },
	{ "end at 2^64",		RANGE(.address = -BLOCK) },
};

static struct kvm_memory_attributes good_range[] = { RANGE() };

#define LIST(...)	{ .ranges = (uintptr_t)good_range, .nr = 1, __VA_ARGS__ }

static const struct {
	const char *why;
	struct kvm_set_memory_attributes_list list;
	int error;
} bad_lists[] = {
	{ "flags",		LIST(.flags = 1),			EINVAL },
	{ "pad",		LIST(.pad = 1),				EINVAL },
	{ "reserved[0]",	LIST(.reserved = { 1 }),		EINVAL },
	{ "reserved[2]",	LIST(.reserved = { 0, 0, 1 }),		EINVAL },
	{ "no entries",		LIST(.nr = 0),				EINVAL },
	{ "4097 entries",	LIST(.nr = 4097),			EINVAL },
	{ "UINT_MAX entries",	LIST(.nr = UINT_MAX),			EINVAL },
	{ "bad array",		LIST(.ranges = -4096ull),		EFAULT },
	{ "null array",		LIST(.ranges = 0),			EFAULT },
};

static void expect(struct kvm_vm *vm, int ret, int error, const char *call,
		   const char *why)
{
	static const uint8_t nothing[BLOCK / 4096];

	TEST_ASSERT(ret == -1 && errno == error, "%s, %s: %d, errno %d, not %d",
		    call, why, ret, errno, error);
	check_attrs(vm, BASE, nothing, ARRAY_SIZE(nothing), 4);
}

static void test_bad_input(void)
{
	struct kvm_set_memory_attributes_list list;
	struct kvm_memory_attributes range, three[3];
	struct kvm_get_memory_attributes get;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i;

	vm = create_vm(&vcpu, guest_read);

	for (i = 0; i < ARRAY_SIZE(bad_gets); i++) {
		get = bad_gets[i].get;
		expect(vm, __vm_ioctl(vm, KVM_GET_MEMORY_ATTRIBUTES, &get),
		       bad_gets[i].error, "GET", bad_gets[i].why);
		TEST_ASSERT(!memcmp(&get, &bad_gets[i].get, sizeof(get)),
			    "GET, %s: changed its argument", bad_gets[i].why);
	}

	for (i = 0; i < ARRAY_SIZE(bad_ranges); i++) {
		range = bad_ranges[i].range;
		expect(vm, __vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES, &range),
		       EINVAL, "SET", bad_ranges[i].why);

		three[0] = good_range[0];
		three[1] = good_range[0];
		three[2] = bad_ranges[i].range;
		list = (struct kvm_set_memory_attributes_list) {
			.ranges = (uintptr_t)three,
			.nr = 3,
		};
		expect(vm, __vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES_LIST, &list),
		       EINVAL, "LIST, third entry", bad_ranges[i].why);
		TEST_ASSERT(list.done == 2, "LIST, third entry: done is %u", list.done);
	}

	for (i = 0; i < ARRAY_SIZE(bad_lists); i++) {
		list = bad_lists[i].list;
		list.done = 12345;
		expect(vm, __vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES_LIST, &list),
		       bad_lists[i].error, "LIST", bad_lists[i].why);
		TEST_ASSERT_EQ(list.done, bad_lists[i].error == EINVAL ? list.nr : 0);
		list.done = 0;
		TEST_ASSERT(!memcmp(&list, &bad_lists[i].list, sizeof(list)),
			    "LIST, %s: changed its argument", bad_lists[i].why);
	}

	expect(vm, __vm_ioctl(vm, KVM_GET_MEMORY_ATTRIBUTES,
			      (struct kvm_get_memory_attributes *)BAD_ADDR), EFAULT,
	       "GET", "bad argument");
	expect(vm, __vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES,
			      (struct kvm_memory_attributes *)BAD_ADDR), EFAULT,
	       "SET", "bad argument");
	expect(vm, __vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES_LIST,
			      (struct kvm_set_memory_attributes_list *)BAD_ADDR), EFAULT,
	       "LIST", "bad argument");

	kvm_vm_free(vm);
}

/* If KVM can read the argument but not write to it, KVM sets nothing. */
static void test_read_only_argument(void)
{
	struct kvm_set_memory_attributes_list *list;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	list = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	*list = (struct kvm_set_memory_attributes_list)LIST();
	TEST_ASSERT(!mprotect(list, PAGE_SIZE, PROT_READ), "mprotect");

	vm = create_vm(&vcpu, guest_read);
	expect(vm, __vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES_LIST, list), EFAULT,
	       "LIST", "read-only argument");
	kvm_vm_free(vm);
	munmap(list, PAGE_SIZE);
}

/* Set as many entries as the capability allows, each for a different page. */
static void test_longest_list(void)
{
	static struct kvm_memory_attributes a[4096];
	static uint8_t oracle[2 * ARRAY_SIZE(a)];
	struct kvm_set_memory_attributes_list list = {
		.ranges = (uintptr_t)a,
		.nr = ARRAY_SIZE(a),
	};
	struct kvm_get_memory_attributes get = {
		.address = BASE,
		.size = ARRAY_SIZE(oracle) * PAGE_SIZE,
		.nr = UINT_MAX,
	};
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i;

	vm = create_vm(&vcpu, guest_read);
	TEST_ASSERT_EQ(vm_check_cap(vm, KVM_CAP_SET_MEMORY_ATTRIBUTES_LIST),
		       (int)ARRAY_SIZE(a));
	for (i = 0; i < ARRAY_SIZE(a); i++) {
		a[i] = good_range[0];
		a[i].address += 2 * i * PAGE_SIZE;
		a[i].size = PAGE_SIZE;
		oracle[2 * i] = PRIVATE;
	}
	vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES_LIST, &list);
	TEST_ASSERT_EQ(list.done, list.nr);
	check_attrs(vm, BASE, oracle, ARRAY_SIZE(oracle), 64);

	/* The list makes 8192 ranges.  One call reports half of them. */
	get.ranges = (uintptr_t)a;
	vm_ioctl(vm, KVM_GET_MEMORY_ATTRIBUTES, &get);
	TEST_ASSERT(get.nr == ARRAY_SIZE(a) && get.address == BASE + ARRAY_SIZE(a) * PAGE_SIZE,
		    "%u entries, up to 0x%llx", get.nr, get.address);
	kvm_vm_free(vm);
}

static void ignore_signal(int signo)
{
}

/*
 * Interrupt lists over large memslots with signals, and go on where they stopped.  On a busy
 * machine, it can take a while until a signal comes in a call.
 */
static void test_signals(void)
{
	enum { NR = 64, PAGES = 4096, CALLS = 20, MAX_CALLS = 2000 };
	const struct itimerval often = { { 0, 300 }, { 0, 300 } }, never = {};
	const size_t size = NR * PAGES * PAGE_SIZE;
	struct kvm_memory_attributes a[NR];
	struct sigaction sa = { .sa_handler = ignore_signal };
	struct kvm_set_memory_attributes_list list;
	int i, call, stops = 0, partial = 0;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	uint8_t *oracle;
	uint32_t before;
	void *hva;

	/* A static array would be loaded into the guest. */
	oracle = calloc(NR, PAGES);
	hva = mmap(NULL, size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	TEST_ASSERT(oracle && hva != MAP_FAILED, "No memory");
	vm = create_vm(&vcpu, guest_read);
	add_slot(vm, SLOT, BASE, size, hva, -1);
	/* KVM takes large steps where nothing is mapped. */
	virt_map(vm, BASE, BASE, 1);
	cmd = (struct guest_cmd) { .gpa = { BASE }, .nr = 1 };
	sync_global_to_guest(vm, cmd);
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, UCALL_EXIT_REASON);
	TEST_ASSERT(!sigaction(SIGALRM, &sa, NULL), "sigaction");

	for (call = 0; call < CALLS || (!partial && call < MAX_CALLS); call++) {
		/* Leave a page between two ranges, so that they don't merge. */
		for (i = 0; i < NR; i++) {
			a[i] = (struct kvm_memory_attributes) {
				.address = BASE + i * PAGES * PAGE_SIZE,
				.size = (PAGES - 1) * PAGE_SIZE,
				.attributes = call % 2 ? SHARED : PRIVATE,
			};
			memset(oracle + i * PAGES, a[i].attributes, PAGES - 1);
		}
		before = 0;
		TEST_ASSERT(!setitimer(ITIMER_REAL, &often, NULL), "setitimer");
		for (;;) {
			list = (struct kvm_set_memory_attributes_list) {
				.ranges = (uintptr_t)&a[before],
				.nr = NR - before,
			};
			if (!__vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES_LIST, &list))
				break;
			TEST_ASSERT(errno == EINTR && list.done < list.nr,
				    "LIST: %s, done %u of %u", strerror(errno),
				    list.done, list.nr);
			stops++;
			partial += !!list.done;
			before += list.done;
			if (before)
				check_attrs(vm, BASE, oracle, before * PAGES - 1, 64);
		}
		TEST_ASSERT(!setitimer(ITIMER_REAL, &never, NULL), "setitimer");
		TEST_ASSERT_EQ(list.done, list.nr);
		check_attrs(vm, BASE, oracle, NR * PAGES, 64);
	}

	ksft_print_msg("%d calls stopped, %d after at least one entry\n", stops, partial);
	TEST_ASSERT(partial, "No signal stopped a call");
	kvm_vm_free(vm);
	munmap(hva, size);
	free(oracle);
}

static void read_usage(struct kvm_vm *vm, unsigned long *runs,
		       unsigned long *leaves, unsigned long *bytes)
{
	FILE *f = vm_open_debugfs(vm, "mem_attrs");

	TEST_ASSERT(fscanf(f, "runs %lu leaves %lu bytes %lu", runs, leaves, bytes) == 3,
		    "Unexpected format of mem_attrs");
	fclose(f);
}

static void test_debugfs(void)
{
	unsigned long runs, leaves, bytes;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	vm = create_vm(&vcpu, guest_read);
	read_usage(vm, &runs, &leaves, &bytes);
	TEST_ASSERT(!runs && !leaves && !bytes, "New: %lu, %lu, %lu", runs, leaves, bytes);

	vm_mem_set_private(vm, BASE, 64 * GIB);
	read_usage(vm, &runs, &leaves, &bytes);
	TEST_ASSERT(runs == 1 && !leaves && bytes && bytes < SZ_16K,
		    "64 GiB: %lu, %lu, %lu", runs, leaves, bytes);

	vm_mem_set_shared(vm, BASE + GIB, PAGE_SIZE);
	read_usage(vm, &runs, &leaves, &bytes);
	TEST_ASSERT(runs == 2 && leaves == 1, "Hole: %lu, %lu, %lu", runs, leaves, bytes);

	vm_mem_set_shared(vm, 0, 1024 * GIB);
	read_usage(vm, &runs, &leaves, &bytes);
	TEST_ASSERT(!runs && !leaves && !bytes, "Shared: %lu, %lu, %lu", runs, leaves, bytes);
	kvm_vm_free(vm);
}

static void test_vm_without_private_memory(void)
{
	struct kvm_get_memory_attributes get = GET();
	struct kvm_set_memory_attributes_list list = LIST();
	struct kvm_vm *vm = vm_create_barebones();

	TEST_ASSERT(!vm_check_cap(vm, KVM_CAP_GET_MEMORY_ATTRIBUTES) &&
		    !vm_check_cap(vm, KVM_CAP_SET_MEMORY_ATTRIBUTES_LIST),
		    "The VM claims to have attributes");
	TEST_ASSERT(set_attrs(vm, BASE, BLOCK, PRIVATE) == -1 && errno == EINVAL,
		    "SET, errno %d", errno);
	TEST_ASSERT(__vm_ioctl(vm, KVM_GET_MEMORY_ATTRIBUTES, &get) == -1 &&
		    errno == EOPNOTSUPP, "GET, errno %d", errno);
	TEST_ASSERT(__vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES_LIST, &list) == -1 &&
		    errno == EOPNOTSUPP, "LIST, errno %d", errno);
	kvm_vm_free(vm);
}

/* ---- Ranges against an oracle ------------------------------------------- */

#define ORACLE_PAGES	((4 * BLOCK) / 4096)

static void random_ranges(struct kvm_memory_attributes *a, int nr, uint64_t base,
			  uint8_t *oracle)
{
	uint64_t start, len;

	for (; nr--; a++) {
		start = rand() % ORACLE_PAGES;
		len = 1 + rand() % (rand() % 4 ? 40 : ORACLE_PAGES);
		len = min(len, ORACLE_PAGES - start);
		*a = (struct kvm_memory_attributes) {
			.address = base + start * PAGE_SIZE,
			.size = len * PAGE_SIZE,
			.attributes = rand() % 2 ? PRIVATE : SHARED,
		};
		memset(oracle + start, a->attributes, len);
	}
}

static void test_oracle(void)
{
	/* The lowest addresses, some in the middle, and some near the end. */
	static const uint64_t bases[] = { 0, BASE - 2 * BLOCK, -5 * BLOCK };
	static const uint32_t capacities[] = { 1, 2, 64 };
	struct kvm_memory_attributes a[16];
	uint8_t oracle[ORACLE_PAGES];
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	uint32_t capacity;
	int i, step;

	vm = create_vm(&vcpu, guest_read);
	for (i = 0; i < ARRAY_SIZE(bases); i++) {
		memset(oracle, 0, sizeof(oracle));
		for (step = 0; step < 120; step++) {
			struct kvm_set_memory_attributes_list list = {
				.ranges = (uintptr_t)a,
				.nr = 1 + rand() % ARRAY_SIZE(a),
			};

			random_ranges(a, list.nr, bases[i], oracle);
			if (list.nr > 1) {
				vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES_LIST, &list);
				TEST_ASSERT_EQ(list.done, list.nr);
			} else {
				vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES, a);
			}
			capacity = capacities[step % ARRAY_SIZE(capacities)];
			check_attrs(vm, bases[i], oracle, ORACLE_PAGES, capacity);
			check_matching(vm, bases[i], oracle, ORACLE_PAGES, capacity,
				       PRIVATE, PRIVATE);
			check_matching(vm, bases[i], oracle, ORACLE_PAGES, capacity,
				       PRIVATE, SHARED);
		}
	}
	kvm_vm_free(vm);
}

/* LIST on another VM accepts the entries that GET returns. */
static void test_copy_to_another_vm(void)
{
	struct kvm_memory_attributes ranges[64];
	struct kvm_get_memory_attributes get = GET(.ranges = (uintptr_t)ranges, .nr = 64,
						   .mask = PRIVATE, .attributes = PRIVATE);
	struct kvm_set_memory_attributes_list list = { .ranges = (uintptr_t)ranges };
	uint8_t oracle[BLOCK / 4096] = {};
	struct kvm_vcpu *vcpu;
	struct kvm_vm *from, *to;
	int i;

	from = create_vm(&vcpu, guest_read);
	to = create_vm(&vcpu, guest_read);
	for (i = 0; i < 100; i += 5) {
		vm_mem_set_private(from, BASE + i * PAGE_SIZE, 2 * PAGE_SIZE);
		memset(&oracle[i], PRIVATE, 2);
	}
	vm_ioctl(from, KVM_GET_MEMORY_ATTRIBUTES, &get);
	TEST_ASSERT(get.nr == 20 && !get.size, "%u entries, 0x%llx left", get.nr, get.size);
	list.nr = get.nr;
	vm_ioctl(to, KVM_SET_MEMORY_ATTRIBUTES_LIST, &list);
	check_attrs(to, BASE, oracle, ARRAY_SIZE(oracle), 64);
	kvm_vm_free(from);
	kvm_vm_free(to);
}

/* The generation changes if and only if attributes do. */
static void test_generation(void)
{
	struct kvm_set_memory_attributes_list list = LIST();
	uint64_t generation, last;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i;

	vm = create_vm(&vcpu, guest_read);
	last = get_generation(vm);

	vm_mem_set_shared(vm, 0, 64 * GIB);
	TEST_ASSERT_EQ(get_generation(vm), last);
	for (i = 0; i < 10; i++) {
		/* Only the first page of the range changes. */
		if (i % 2)
			vm_mem_set_private(vm, BASE + i * PAGE_SIZE, PAGE_SIZE);
		else
			vm_mem_set_private(vm, BASE, (i + 1) * PAGE_SIZE);
		generation = get_generation(vm);
		TEST_ASSERT(generation != last, "Step %d: generation %lu", i, last);
		last = generation;
	}

	vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES_LIST, &list);
	generation = get_generation(vm);
	TEST_ASSERT(generation != last, "LIST: generation %lu", last);
	vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES_LIST, &list);
	TEST_ASSERT_EQ(get_generation(vm), generation);
	kvm_vm_free(vm);
}

/* Calls at_fault() at a page fault, then resolves the fault. */
struct uffd_handler {
	struct kvm_vm *vm;
	pthread_t thread;
	int uffd;
	void (*at_fault)(struct uffd_handler *h);
	uint64_t attrs[2];	/* for convert_base(), one after the other */
	int nr;
	uint64_t value;		/* the first word of the page */
};

/* Give the page at BASE its attributes. */
static void convert_base(struct uffd_handler *h)
{
	int i;

	for (i = 0; i < h->nr; i++)
		TEST_ASSERT(!set_attrs(h->vm, BASE, PAGE_SIZE, h->attrs[i]),
			    "KVM_SET_MEMORY_ATTRIBUTES, errno %d", errno);
}

static void *handle_fault(void *arg)
{
	struct uffd_handler *h = arg;
	size_t size = getpagesize();
	struct uffdio_copy copy = { .len = size };
	struct uffd_msg msg;
	uint64_t *page;

	TEST_ASSERT(read(h->uffd, &msg, sizeof(msg)) == sizeof(msg) &&
		    msg.event == UFFD_EVENT_PAGEFAULT, "No fault, errno %d", errno);
	h->at_fault(h);

	page = calloc(1, size);
	*page = h->value;
	copy.dst = msg.arg.pagefault.address & ~(size - 1);
	copy.src = (uintptr_t)page;
	TEST_ASSERT(!ioctl(h->uffd, UFFDIO_COPY, &copy), "errno %d", errno);
	free(page);
	return NULL;
}

/* Return a page that is not there yet. */
static void *start_handler(struct uffd_handler *h)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range.len = getpagesize(),
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	void *page;

	page = mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(page != MAP_FAILED, "mmap");
	h->uffd = syscall(__NR_userfaultfd, O_CLOEXEC);
	TEST_ASSERT(h->uffd >= 0, "userfaultfd, errno %d", errno);
	TEST_ASSERT(!ioctl(h->uffd, UFFDIO_API, &api), "UFFDIO_API, errno %d", errno);
	reg.range.start = (uintptr_t)page;
	TEST_ASSERT(!ioctl(h->uffd, UFFDIO_REGISTER, &reg), "Register, errno %d", errno);
	pthread_create(&h->thread, NULL, handle_fault, h);
	return page;
}

static void stop_handler(struct uffd_handler *h, void *page)
{
	pthread_join(h->thread, NULL);
	close(h->uffd);
	munmap(page, getpagesize());
}

/*
 * The array of GET is in memory whose page faults userspace handles, and the
 * handler converts memory itself.  KVM must hold no lock while it waits.
 */
static void test_array_in_userfaultfd(void)
{
	struct uffd_handler h = {
		.at_fault = convert_base, .attrs = { PRIVATE }, .nr = 1,
	};
	struct kvm_get_memory_attributes get = GET();
	struct kvm_memory_attributes *array;
	struct kvm_vcpu *vcpu;

	h.vm = create_vm(&vcpu, guest_read);
	array = start_handler(&h);
	get.ranges = (uintptr_t)array;
	vm_ioctl(h.vm, KVM_GET_MEMORY_ATTRIBUTES, &get);

	/* The call reports the attributes from before the fault. */
	TEST_ASSERT(get.nr == 1 && array[0].address == BASE && array[0].size == BLOCK &&
		    array[0].attributes == SHARED, "%u entries, the first 0x%llx + 0x%llx",
		    get.nr, array[0].address, array[0].size);
	TEST_ASSERT(get_generation(h.vm) != get.generation, "The handler converted nothing");
	stop_handler(&h, array);
	kvm_vm_free(h.vm);
}

/* ---- Conversions while a fault waits for its page ----------------------- */

static void guest_report(void)
{
	for (;;)
		GUEST_SYNC(READ_ONCE(*(uint64_t *)BASE));
}

/* Return what the guest reads if the handler makes these conversions. */
static uint64_t read_during(int nr, uint64_t first, uint64_t second)
{
	struct uffd_handler h = {
		.at_fault = convert_base, .attrs = { first, second }, .nr = nr,
		.value = 0x5a5a5a5a,
	};
	struct kvm_vcpu *vcpu;
	uint64_t *page, value;
	struct ucall uc;
	int gmem;

	h.vm = create_vm(&vcpu, guest_report);
	virt_map(h.vm, BASE, BASE, 1);
	gmem = vm_create_guest_memfd(h.vm, getpagesize(), 0);
	page = start_handler(&h);
	add_slot(h.vm, SLOT, BASE, getpagesize(), page, gmem);

	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
	value = uc.args[1];
	stop_handler(&h, page);
	close(gmem);
	kvm_vm_free(h.vm);
	return value;
}

/*
 * A vCPU faults on a shared page, and userfaultfd withholds the page.  KVM must not
 * map the page after all if its memory was made private meanwhile.  The private
 * page is empty.
 */
static void test_overtaken_fault(void)
{
	TEST_ASSERT_EQ(read_during(0, 0, 0), 0x5a5a5a5a);
	TEST_ASSERT_EQ(read_during(1, PRIVATE, 0), 0);
	TEST_ASSERT_EQ(read_during(2, PRIVATE, SHARED), 0x5a5a5a5a);
}

/* ---- Pre-faulting while a memslot is being deleted ---------------------- */

static struct kvm_vcpu *pre_fault_vcpu;
static pthread_t deleting_thread;

static void *delete_base_slot(void *vm)
{
	delete_slot(vm, SLOT, BASE);
	return NULL;
}

/* Return 0 or an errno. */
static void *pre_fault_base(void *arg)
{
	struct kvm_pre_fault_memory range = { .gpa = BASE, .size = getpagesize() };
	int ret = __vcpu_ioctl(pre_fault_vcpu, KVM_PRE_FAULT_MEMORY, &range);

	return (void *)(long)(ret ? errno : 0);
}

/* Pre-fault BASE.  If that hasn't ended after 5 s, it never does. */
static long pre_fault_in_time(void)
{
	const struct sigaction sa = { .sa_handler = ignore_signal };
	struct timespec until;
	pthread_t thread;
	void *error;

	sigaction(SIGUSR1, &sa, NULL);
	pthread_create(&thread, NULL, pre_fault_base, NULL);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 5;
	if (pthread_timedjoin_np(thread, &error, &until)) {
		pthread_kill(thread, SIGUSR1);
		pthread_join(thread, &error);
		TEST_FAIL("KVM_PRE_FAULT_MEMORY doesn't return");
	}
	return (long)error;
}

/* The faulting vCPU keeps the deletion of the memslot waiting. */
static void delete_and_pre_fault(struct uffd_handler *h)
{
	pthread_create(&deleting_thread, NULL, delete_base_slot, h->vm);
	usleep(500000);
	TEST_ASSERT(pre_fault_in_time(), "KVM_PRE_FAULT_MEMORY found a memslot");
}

static void test_pre_fault_deleted(void)
{
	struct uffd_handler h = { .at_fault = delete_and_pre_fault };
	struct kvm_vcpu *vcpus[2];
	void *page;

	h.vm = __vm_create_with_vcpus(sw_protected_shape(), 2, 0, guest_report, vcpus);
	pre_fault_vcpu = vcpus[1];
	virt_map(h.vm, BASE, BASE, 1);
	page = start_handler(&h);
	add_slot(h.vm, SLOT, BASE, getpagesize(), page, -1);

	/* The vCPU may still find the memslot, or may take the access for MMIO. */
	vcpu_run(vcpus[0]);
	pthread_join(deleting_thread, NULL);
	stop_handler(&h, page);
	kvm_vm_free(h.vm);
}

/* Without private memory, x86 replaces all page tables when a memslot goes away. */
static void test_pre_fault_after_deletion(void)
{
	struct kvm_vm *vm = vm_create_with_one_vcpu(&pre_fault_vcpu, guest_report);
	void *hva = map_like_gpa(BASE, BLOCK, false);

	virt_map(vm, BASE, BASE, 1);
	add_slot(vm, SLOT, BASE, BLOCK, hva, -1);
	vcpu_run(pre_fault_vcpu);
	delete_slot(vm, SLOT, BASE);
	add_slot(vm, SLOT, BASE, BLOCK, hva, -1);
	TEST_ASSERT_EQ(pre_fault_in_time(), 0);

	kvm_vm_free(vm);
	munmap(hva, BLOCK);
}

/* ---- Level of mappings -------------------------------------------------- */

struct step {
	uint64_t addr;		/* from BASE, bytes */
	uint64_t size;
	uint64_t attrs;
};

#define PG(n)		((uint64_t)(n) * 4096)
/* Page @n of block @b. */
#define AT(b, n)	((b) * BLOCK + PG(n))

/*
 * The test sets attributes in this order, before or after it adds a slot.  Then
 * the guest reads the given pages, which are shared, and the test compares the
 * number of large pages with the expected one.
 *
 * In the names, A and B are single pages, and A > B means that A is the higher one.
 */
static const struct level_case {
	const char *why;
	struct step steps[6];
	uint64_t touch[8];	/* from BASE; a 0 that isn't the first entry ends it */
	uint64_t slot_start;	/* from BASE */
	uint64_t slot_size;
	bool slot_last;		/* add the slot after setting attributes */
	int pages_2m;
	int pages_1g;
} level_cases[] = {
#define FOUR	.slot_size = 4 * BLOCK, \
		.touch = { AT(0, 7), AT(1, 7), AT(2, 7), AT(3, 7) }
	{ "all shared", {}, FOUR, .pages_2m = 4 },
	{ "all was private, set in one call", {
		{ 0, 4 * BLOCK, PRIVATE }, { 0, 4 * BLOCK, SHARED },
	  }, FOUR, .pages_2m = 4 },
	{ "all was private, set in parts", {
		{ 0, 2 * BLOCK, PRIVATE }, { 2 * BLOCK, 2 * BLOCK, PRIVATE },
		{ BLOCK, 3 * BLOCK, SHARED }, { 0, BLOCK, SHARED },
	  }, FOUR, .pages_2m = 4 },
	{ "one page of block 1 is private", {
		{ AT(1, 100), PG(1), PRIVATE },
	  }, FOUR, .pages_2m = 3 },
	{ "one page of block 1 was private", {
		{ AT(1, 100), PG(1), PRIVATE }, { AT(1, 100), PG(1), SHARED },
	  }, FOUR, .pages_2m = 4 },
	{ "A > B private, B shared again: both in the middle", {
		{ AT(1, 10), PG(1), PRIVATE }, { AT(1, 5), PG(1), PRIVATE },
		{ AT(1, 5), PG(1), SHARED },
	  }, FOUR, .pages_2m = 3 },
	{ "A > B private, B shared again: B at the head", {
		{ AT(1, 10), PG(1), PRIVATE }, { AT(1, 0), PG(1), PRIVATE },
		{ AT(0, 256), PG(257), SHARED },
	  }, FOUR, .pages_2m = 3 },
	{ "A > B private, B shared again: A at the tail", {
		{ AT(1, 511), PG(1), PRIVATE }, { AT(1, 0), PG(1), PRIVATE },
		{ AT(1, 0), PG(511), SHARED },
	  }, FOUR, .pages_2m = 3 },
	{ "A < B private, B shared again: B at the tail", {
		{ AT(1, 3), PG(1), PRIVATE }, { AT(1, 511), PG(1), PRIVATE },
		{ AT(1, 511), PG(257), SHARED },
	  }, FOUR, .pages_2m = 3 },
	{ "A and B private, both shared again", {
		{ AT(1, 10), PG(1), PRIVATE }, { AT(1, 5), PG(1), PRIVATE },
		{ AT(1, 5), PG(1), SHARED }, { AT(1, 10), PG(1), SHARED },
	  }, FOUR, .pages_2m = 4 },
	{ "two private pages, the last of block 1 and the first of block 2", {
		{ AT(1, 511), PG(2), PRIVATE },
	  }, FOUR, .pages_2m = 2 },
	{ "private from block 1 to block 3, block 2 shared again", {
		{ AT(1, 511), PG(514), PRIVATE }, { AT(2, 0), PG(512), SHARED },
	  }, FOUR, .pages_2m = 2 },
	{ "private from block 0 to block 1, block 0 shared again", {
		{ AT(0, 0), PG(513), PRIVATE }, { AT(0, 0), PG(512), SHARED },
	  }, FOUR, .pages_2m = 3 },
#undef FOUR
#define ODD	.slot_start = PG(1), .slot_size = 3 * BLOCK, \
		.touch = { AT(0, 7), AT(1, 7), AT(2, 7), AT(3, 0) }
	{ "unaligned slot", {}, ODD, .pages_2m = 2 },
	{ "unaligned slot, private page before it", {
		{ AT(0, 0), PG(1), PRIVATE },
	  }, ODD, .pages_2m = 2 },
	{ "unaligned slot, private page in a whole block", {
		{ AT(2, 511), PG(1), PRIVATE },
	  }, ODD, .pages_2m = 1 },
	{ "unaligned slot, its first page was private", {
		{ AT(0, 0), PG(2), PRIVATE }, { AT(0, 0), PG(2), SHARED },
	  }, ODD, .pages_2m = 2 },
#undef ODD
#define LATE	.slot_last = true, .slot_size = 4 * BLOCK, \
		.touch = { AT(0, 7), AT(1, 7), AT(2, 7), AT(3, 7) }
	{ "new slot, no attributes set", {}, LATE, .pages_2m = 4 },
	{ "new slot over a private page", {
		{ AT(2, 0), PG(1), PRIVATE },
	  }, LATE, .pages_2m = 3 },
	{ "new slot, A > B private, B shared again", {
		{ AT(1, 10), PG(1), PRIVATE }, { AT(1, 5), PG(1), PRIVATE },
		{ AT(1, 5), PG(1), SHARED },
	  }, LATE, .pages_2m = 3 },
#undef LATE
#define HUGE	.slot_size = GIB, \
		.touch = { AT(0, 7), AT(1, 7), AT(300, 7), AT(511, 7) }
	{ "1 GiB, all shared", {}, HUGE, .pages_1g = 1 },
	{ "1 GiB, a private page in block 300", {
		{ AT(300, 0), PG(1), PRIVATE },
	  }, HUGE, .pages_2m = 3 },
	{ "1 GiB, A > B private, B shared again: same block", {
		{ AT(300, 10), PG(1), PRIVATE }, { AT(300, 5), PG(1), PRIVATE },
		{ AT(300, 5), PG(1), SHARED },
	  }, HUGE, .pages_2m = 3 },
	{ "1 GiB, A > B private, B shared again: B at the head", {
		{ AT(300, 10), PG(1), PRIVATE }, { AT(0, 0), PG(1), PRIVATE },
		{ AT(0, 0), PG(1), SHARED },
	  }, HUGE, .pages_2m = 3 },
	{ "1 GiB, A > B private, B shared again: A at the tail", {
		{ AT(511, 511), PG(1), PRIVATE }, { AT(1, 0), PG(1), PRIVATE },
		{ AT(0, 0), AT(2, 0), SHARED },
	  }, HUGE, .pages_2m = 3 },
	{ "1 GiB, a private block", {
		{ 5 * BLOCK, BLOCK, PRIVATE },
	  }, HUGE, .pages_2m = 4 },
	{ "1 GiB, A and B private, both shared again", {
		{ AT(511, 511), PG(1), PRIVATE }, { AT(1, 0), PG(1), PRIVATE },
		{ AT(1, 0), PG(1), SHARED }, { AT(511, 511), PG(1), SHARED },
	  }, HUGE, .pages_1g = 1 },
	{ "1 GiB, new slot over a private page", {
		{ AT(511, 511), PG(1), PRIVATE },
	  }, HUGE, .slot_last = true, .pages_2m = 3 },
#undef HUGE
};

/* Map the pages that touch() makes the guest read. */
static void virt_map_offsets(struct kvm_vm *vm, uint64_t base,
			     const uint64_t *offset, int nr)
{
	int i;

	for (i = 0; i < nr && (!i || offset[i]); i++)
		virt_map(vm, base + offset[i], base + offset[i], 1);
}

/* Let the guest read the pages; return the number of large pages that KVM maps. */
static void touch(struct kvm_vm *vm, struct kvm_vcpu *vcpu, uint64_t base,
		  const uint64_t *offset, int nr, int *pages_2m, int *pages_1g)
{
	int i;

	for (i = 0; i < nr && (!i || offset[i]); i++)
		cmd.gpa[i] = base + offset[i];
	cmd.nr = i;
	sync_global_to_guest(vm, cmd);
	vcpu_run(vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, UCALL_EXIT_REASON);
	vm_get_large_pages(vm, pages_2m, pages_1g);
}

static bool get_1g_page(void)
{
	static const char path[] =
		"/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages";
	int fd = open(path, O_RDWR);
	char n = '0';

	if (fd < 0)
		return false;
	if (read(fd, &n, 1) == 1 && n == '0')
		n = pwrite(fd, "1", 1, 0) == 1 && pread(fd, &n, 1, 0) == 1 ? n : '0';
	close(fd);
	return n != '0';
}

/* Return false if there is no 1 GiB page for the case. */
static bool run_level_case(const struct level_case *c)
{
	uint64_t slot_gpa = BASE + c->slot_start;
	int i, gmem, pages_2m, pages_1g;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	void *hva;

	hva = map_like_gpa(slot_gpa, c->slot_size, c->slot_size >= GIB);
	if (!hva)
		return false;

	vm = create_vm(&vcpu, guest_read);
	virt_map_offsets(vm, BASE, c->touch, ARRAY_SIZE(c->touch));
	gmem = vm_create_guest_memfd(vm, c->slot_size, 0);
	if (!c->slot_last)
		add_slot(vm, SLOT, slot_gpa, c->slot_size, hva, gmem);
	for (i = 0; i < ARRAY_SIZE(c->steps) && c->steps[i].size; i++)
		vm_set_memory_attributes(vm, BASE + c->steps[i].addr,
					 c->steps[i].size, c->steps[i].attrs);
	if (c->slot_last)
		add_slot(vm, SLOT, slot_gpa, c->slot_size, hva, gmem);

	touch(vm, vcpu, BASE, c->touch, ARRAY_SIZE(c->touch), &pages_2m, &pages_1g);
	TEST_ASSERT(pages_2m == c->pages_2m && pages_1g == c->pages_1g,
		    "%s: %d pages of 2 MiB and %d of 1 GiB, not %d and %d",
		    c->why, pages_2m, pages_1g, c->pages_2m, c->pages_1g);

	close(gmem);
	kvm_vm_free(vm);
	munmap(hva, c->slot_size);
	return true;
}

/* A page that was MMIO when it was shared is memory once it is private. */
static void test_private_mmio(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu, guest_read);
	struct kvm_run *run = vcpu->run;
	int i, gmem;

	virt_map(vm, BASE, BASE, 2);
	cmd.nr = 2;
	for (i = 0; i < cmd.nr; i++)
		cmd.gpa[i] = BASE + PG(i);
	sync_global_to_guest(vm, cmd);

	for (i = 0; i < cmd.nr; i++) {
		vcpu_run(vcpu);
		TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MMIO);
		TEST_ASSERT_EQ(run->mmio.phys_addr, cmd.gpa[i]);
	}
	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, NULL), UCALL_SYNC);

	TEST_ASSERT_EQ(set_attrs(vm, BASE, PG(cmd.nr), PRIVATE), 0);
	TEST_ASSERT(_vcpu_run(vcpu) == -1 && errno == EFAULT &&
		    run->exit_reason == KVM_EXIT_MEMORY_FAULT &&
		    run->memory_fault.flags == KVM_MEMORY_EXIT_FLAG_PRIVATE &&
		    run->memory_fault.gpa == BASE, "Exit %s, errno %d",
		    exit_reason_str(run->exit_reason), errno);

	gmem = vm_create_guest_memfd(vm, PG(cmd.nr), 0);
	add_slot(vm, SLOT, BASE, PG(cmd.nr), map_like_gpa(BASE, PG(cmd.nr), false), gmem);
	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, NULL), UCALL_SYNC);

	close(gmem);
	kvm_vm_free(vm);
}

/* Conversions split and reunite large pages that are already mapped. */
static void test_split_and_reunite(void)
{
	static const uint64_t first[] = { AT(0, 7), AT(1, 7) };
	int gmem, pages_2m, pages_1g, i;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	void *hva;

	hva = map_like_gpa(BASE, 2 * BLOCK, false);
	vm = create_vm(&vcpu, guest_read);
	virt_map_offsets(vm, BASE, first, 2);
	gmem = vm_create_guest_memfd(vm, 2 * BLOCK, 0);
	add_slot(vm, SLOT, BASE, 2 * BLOCK, hva, gmem);

	for (i = 0; i < 10; i++) {
		touch(vm, vcpu, BASE, first, 2, &pages_2m, &pages_1g);
		TEST_ASSERT(pages_2m == 2, "%d large pages, not 2", pages_2m);
		vm_mem_set_private(vm, BASE + PG(50 * i), PG(1));
		touch(vm, vcpu, BASE, first, 2, &pages_2m, &pages_1g);
		TEST_ASSERT(pages_2m == 1, "%d large pages, not 1", pages_2m);
		vm_mem_set_shared(vm, BASE + PG(50 * i), PG(1));
		/* The small pages are still mapped: unmap them. */
		vm_mem_set_private(vm, BASE, BLOCK);
		vm_mem_set_shared(vm, BASE, BLOCK);
	}
	close(gmem);
	kvm_vm_free(vm);
	munmap(hva, 2 * BLOCK);
}

/* Move and delete a slot without guest_memfd; the attributes stay. */
static void test_move_and_delete(void)
{
	static const uint64_t offset[] = { AT(0, 7), AT(1, 7) };
	const uint64_t a = BASE, b = BASE + 8 * BLOCK;
	struct kvm_vcpu *vcpu;
	int pages_2m, pages_1g;
	struct kvm_vm *vm;
	void *hva;

	hva = map_like_gpa(a, 2 * BLOCK, false);
	vm = create_vm(&vcpu, guest_read);
	virt_map(vm, a, a, 1);
	virt_map_offsets(vm, a, offset, 2);
	virt_map_offsets(vm, b, offset, 2);
	vm_mem_set_private(vm, b + BLOCK, PG(1));

	add_slot(vm, SLOT, a, 2 * BLOCK, hva, -1);
	touch(vm, vcpu, a, offset, 2, &pages_2m, &pages_1g);
	TEST_ASSERT(pages_2m == 2, "New: %d large pages, not 2", pages_2m);

	add_slot(vm, SLOT, b, 2 * BLOCK, hva, -1);
	touch(vm, vcpu, b, offset, 2, &pages_2m, &pages_1g);
	TEST_ASSERT(pages_2m == 1, "Moved: %d large pages, not 1", pages_2m);

	delete_slot(vm, SLOT, b);
	vm_mem_set_shared(vm, b + BLOCK, PG(1));
	vm_mem_set_private(vm, a, PG(1));
	add_slot(vm, SLOT, b, 2 * BLOCK, hva, -1);
	touch(vm, vcpu, b, offset, 2, &pages_2m, &pages_1g);
	TEST_ASSERT(pages_2m == 2, "Again: %d large pages, not 2", pages_2m);

	add_slot(vm, SLOT, a, 2 * BLOCK, hva, -1);
	touch(vm, vcpu, a, offset, 2, &pages_2m, &pages_1g);
	TEST_ASSERT(pages_2m == 1, "Moved back: %d large pages, not 1", pages_2m);

	/* Such a slot has no memory for private pages. */
	cmd.gpa[0] = a;
	cmd.nr = 1;
	sync_global_to_guest(vm, cmd);
	TEST_ASSERT(_vcpu_run(vcpu) == -1 && errno == EFAULT, "errno %d", errno);
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_MEMORY_FAULT);
	TEST_ASSERT_EQ(vcpu->run->memory_fault.flags, KVM_MEMORY_EXIT_FLAG_PRIVATE);
	TEST_ASSERT_EQ(vcpu->run->memory_fault.gpa, a);

	kvm_vm_free(vm);
	munmap(hva, 2 * BLOCK);
}

/* ---- A vCPU that hardly ever leaves the guest --------------------------- */

static bool counting_stop;

/* Exit now and then, since an emulator may not interrupt the guest. */
static void guest_count(void)
{
	uint64_t i;

	for (i = 1; ; i++) {
		WRITE_ONCE(*(uint64_t *)BASE, i);
		if (!(i % 65536))
			GUEST_SYNC(i);
	}
}

static void *counting_vcpu(void *vcpu)
{
	while (!READ_ONCE(counting_stop))
		TEST_ASSERT(!__vcpu_run(vcpu) || errno == EINTR || errno == EFAULT,
			    "KVM_RUN failed, errno %d", errno);
	return NULL;
}

/* Return true if the word changes within some time. */
static bool changes_within(uint64_t *word, int64_t ns)
{
	uint64_t first = READ_ONCE(*word);
	struct timespec begin;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	while (timespec_to_ns(timespec_elapsed(begin)) < ns) {
		if (READ_ONCE(*word) != first)
			return true;
	}
	return false;
}

/*
 * A vCPU writes to a page all the time.  Once a call has made the page private, the
 * vCPU must not write to the shared page any more, not even through its TLB.
 */
static void test_vcpu_that_stays(void)
{
	const struct sigaction sa = { .sa_handler = ignore_signal };
	int gmem, calls = 0, late = 0;
	struct kvm_vcpu *vcpu;
	struct timespec begin;
	struct kvm_vm *vm;
	pthread_t thread;
	uint64_t *hva;

	sigaction(SIGUSR1, &sa, NULL);
	hva = map_like_gpa(BASE, BLOCK, false);
	vm = create_vm(&vcpu, guest_count);
	virt_map(vm, BASE, BASE, 1);
	gmem = vm_create_guest_memfd(vm, BLOCK, 0);
	add_slot(vm, SLOT, BASE, BLOCK, hva, gmem);
	pthread_create(&thread, NULL, counting_vcpu, vcpu);

	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (; calls < 50 || timespec_elapsed(begin).tv_sec < 4; calls++) {
		vm_mem_set_shared(vm, BASE, PG(1));
		TEST_ASSERT(changes_within(hva, 20 * NSEC_PER_SEC), "The vCPU doesn't write");
		vm_mem_set_private(vm, BASE, PG(1));
		late += changes_within(hva, NSEC_PER_SEC / 1000);
	}
	WRITE_ONCE(counting_stop, true);
	while (pthread_tryjoin_np(thread, NULL)) {
		pthread_kill(thread, SIGUSR1);
		usleep(1000);
	}
	TEST_ASSERT(!late, "The vCPU wrote to the shared page after %d of %d calls", late, calls);

	close(gmem);
	kvm_vm_free(vm);
	munmap(hva, BLOCK);
}

/* ---- A fault races with a conversion in the same large page ------------- */

static bool race_stop;

static void guest_spin(void)
{
	int i;

	for (;;) {
		for (i = 0; i < 256; i++)
			READ_ONCE(*(uint64_t *)BASE);
		GUEST_SYNC(OP_READ);
	}
}

static void *race_vcpu(void *arg)
{
	struct kvm_vcpu *vcpu = arg;

	while (!READ_ONCE(race_stop))
		TEST_ASSERT(!_vcpu_run(vcpu) || errno == EINTR || errno == EFAULT,
			    "KVM_RUN failed, errno %d", errno);
	return NULL;
}

/*
 * Convert one page of a large page back and forth while the guest reads another
 * page of it, and so faults in the middle of each conversion.  Once the page is
 * private, KVM must not map a large page there, however the two interleave.
 */
static void test_race_for_large_page(void)
{
	time_t until = time(NULL) + 12;
	int gmem, pages_2m, pages_1g, rounds = 0, large = 0;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	pthread_t thread;
	void *hva;

	hva = map_like_gpa(BASE, BLOCK, false);
	vm = create_vm(&vcpu, guest_spin);
	virt_map(vm, BASE, BASE, 1);
	gmem = vm_create_guest_memfd(vm, BLOCK, 0);
	add_slot(vm, SLOT, BASE, BLOCK, hva, gmem);
	pthread_create(&thread, NULL, race_vcpu, vcpu);

	while (rounds < 4000 && time(NULL) < until) {
		vm_mem_set_private(vm, BASE + PG(300), PG(1));
		vm_get_large_pages(vm, &pages_2m, &pages_1g);
		TEST_ASSERT(!pages_2m, "A large page maps both kinds, round %d", rounds);
		vm_mem_set_private(vm, BASE, BLOCK);
		vm_mem_set_shared(vm, BASE, BLOCK);
		usleep(rand() % 200);
		vm_get_large_pages(vm, &pages_2m, &pages_1g);
		large += !!pages_2m;
		rounds++;
	}
	ksft_print_msg("%d rounds, %d of them ended with a large page\n", rounds, large);
	TEST_ASSERT(large, "KVM never mapped a large page");

	WRITE_ONCE(race_stop, true);
	pthread_join(thread, NULL);
	close(gmem);
	kvm_vm_free(vm);
	munmap(hva, BLOCK);
}

/* ---- Everything at the same time ---------------------------------------- */

#define NR_VCPUS	2
#define STRESS_BLOCKS	4
#define STRESS_PAGES	(STRESS_BLOCKS * 512)
#define CHUNK		64	/* pages; a block has chunks of both vCPUs */
#define OWN_CHUNKS	(STRESS_PAGES / CHUNK / NR_VCPUS)

static bool stress_stop;

/* The values that a vCPU wrote to its pages of each kind, and the pages' state. */
static struct {
	uint32_t wrote[2][STRESS_PAGES];
	bool is_private[STRESS_PAGES];
	uint64_t conversions;
} know[NR_VCPUS];

static uint32_t guest_rand(uint64_t *state)
{
	*state = *state * 6364136223846793005ull + 1442695040888963407ull;
	return *state >> 33;
}

static uint64_t page_gpa(uint32_t page)
{
	return BASE + PG(page);
}

/* Get page @i of a vCPU's own pages.  The vCPUs own the chunks in turn. */
static uint32_t own_page(int id, uint32_t i)
{
	return (i / CHUNK * NR_VCPUS + id) * CHUNK + i % CHUNK;
}

static uint64_t content(uint32_t page, bool private, uint32_t n)
{
	return (uint64_t)n << 32 | page << 1 | private;
}

static void guest_check_page(int id, uint32_t page)
{
	bool private = know[id].is_private[page];
	uint64_t *p = (uint64_t *)page_gpa(page);
	uint32_t n = know[id].wrote[private][page];

	__GUEST_ASSERT(READ_ONCE(*p) == (n ? content(page, private, n) : 0),
		       "vCPU %d, page %u, private %d: 0x%lx is not from write %u",
		       id, page, private, READ_ONCE(*p), n);
}

static void guest_stress(int id)
{
	uint32_t first, nr, i, page, n = 0;
	uint64_t rng = 99 + id;
	bool private;

	for (;;) {
		/* Half of the time, convert a whole chunk or all chunks. */
		first = guest_rand(&rng) % (OWN_CHUNKS * CHUNK);
		nr = 1 + guest_rand(&rng) % 16;
		switch (guest_rand(&rng) % 8) {
		case 0:
			first = 0;
			nr = OWN_CHUNKS * CHUNK;
			break;
		case 1 ... 3:
			first -= first % CHUNK;
			nr = CHUNK;
			break;
		}
		nr = min_t(uint32_t, nr, OWN_CHUNKS * CHUNK - first);
		private = guest_rand(&rng) % 2;
		n++;

		GUEST_SYNC4(OP_CONVERT, first, nr, private);

		for (i = first; i < first + nr; i++) {
			page = own_page(id, i);
			know[id].is_private[page] = private;
			guest_check_page(id, page);
			know[id].wrote[private][page] = n;
			WRITE_ONCE(*(uint64_t *)page_gpa(page), content(page, private, n));
			guest_check_page(id, page);
		}
		for (i = 0; i < 32; i++)
			guest_check_page(id, own_page(id, guest_rand(&rng) %
						      (OWN_CHUNKS * CHUNK)));
		know[id].conversions++;
	}
}

/* Convert own pages [@first, @first + @nr), a range per chunk, with a list or not. */
static void host_convert(struct kvm_vm *vm, int id, uint32_t first, uint32_t nr,
			 bool private)
{
	struct kvm_memory_attributes a[OWN_CHUNKS + 1];
	struct kvm_set_memory_attributes_list list = { .ranges = (uintptr_t)a };
	uint32_t i = first, end = first + nr, len;

	while (i < end) {
		len = min_t(uint32_t, CHUNK - i % CHUNK, end - i);
		a[list.nr++] = (struct kvm_memory_attributes) {
			.address = page_gpa(own_page(id, i)),
			.size = PG(len),
			.attributes = private ? PRIVATE : SHARED,
		};
		i += len;
	}

	if (list.nr > 1 && rand() % 2) {
		vm_ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES_LIST, &list);
		TEST_ASSERT_EQ(list.done, list.nr);
		return;
	}
	for (i = 0; i < list.nr; i++)
		vm_set_memory_attributes(vm, a[i].address, a[i].size, a[i].attributes);
}

static void *stress_vcpu(void *arg)
{
	struct kvm_vcpu *vcpu = arg;
	struct ucall uc;

	while (!READ_ONCE(stress_stop)) {
		if (_vcpu_run(vcpu)) {
			/* A fault met a conversion or an mprotect(): try again. */
			TEST_ASSERT(errno == EFAULT || errno == EINTR ||
				    errno == EAGAIN, "KVM_RUN failed, errno %d", errno);
			continue;
		}
		switch (get_ucall(vcpu, &uc)) {
		case UCALL_SYNC:
			host_convert(vcpu->vm, vcpu->id, uc.args[1], uc.args[2],
				     uc.args[3]);
			break;
		case UCALL_ABORT:
			REPORT_GUEST_ASSERT(uc);
			break;
		default:
			TEST_FAIL("Exit %s", exit_reason_str(vcpu->run->exit_reason));
		}
	}
	return NULL;
}

/* Add, move and delete slots, and change host mappings, while the guest runs. */
static void stress_host(struct kvm_vm *vm, void *hva, void *other, int seconds)
{
	struct kvm_memory_attributes ranges[16];
	struct kvm_get_memory_attributes get, all = GET(.ranges = (uintptr_t)ranges, .nr = 16,
							.size = STRESS_BLOCKS * BLOCK);
	time_t until = time(NULL) + seconds;
	unsigned int n;

	for (n = 0; time(NULL) < until; n++) {
		add_slot(vm, OTHER_SLOT, OTHER_BASE, BLOCK, other, -1);
		get = all;
		vm_ioctl(vm, KVM_GET_MEMORY_ATTRIBUTES, &get);
		add_slot(vm, OTHER_SLOT, OTHER_BASE + GIB, BLOCK, other, -1);
		TEST_ASSERT(!mprotect(hva + n % STRESS_BLOCKS * BLOCK, BLOCK, PROT_READ) &&
			    !mprotect(hva + n % STRESS_BLOCKS * BLOCK, BLOCK,
				      PROT_READ | PROT_WRITE), "mprotect");
		delete_slot(vm, OTHER_SLOT, OTHER_BASE + GIB);
		usleep(500);
	}
}

static void test_stress(void)
{
	struct kvm_vcpu *vcpus[NR_VCPUS];
	pthread_t threads[NR_VCPUS];
	void *hva, *other;
	struct kvm_vm *vm;
	int i, gmem;

	hva = map_like_gpa(BASE, STRESS_BLOCKS * BLOCK, false);
	other = map_like_gpa(OTHER_BASE, BLOCK, false);
	vm = __vm_create_with_vcpus(sw_protected_shape(), NR_VCPUS, 0, guest_stress, vcpus);
	virt_map(vm, BASE, BASE, STRESS_PAGES);
	gmem = vm_create_guest_memfd(vm, STRESS_BLOCKS * BLOCK, 0);
	add_slot(vm, SLOT, BASE, STRESS_BLOCKS * BLOCK, hva, gmem);

	for (i = 0; i < NR_VCPUS; i++) {
		vcpu_args_set(vcpus[i], 1, i);
		pthread_create(&threads[i], NULL, stress_vcpu, vcpus[i]);
	}
	stress_host(vm, hva, other, 8);
	WRITE_ONCE(stress_stop, true);
	for (i = 0; i < NR_VCPUS; i++)
		pthread_join(threads[i], NULL);

	sync_global_from_guest(vm, know);
	for (i = 0; i < NR_VCPUS; i++) {
		ksft_print_msg("vCPU %d: %lu conversions\n", i, know[i].conversions);
		TEST_ASSERT(know[i].conversions > 10, "vCPU %d makes no progress", i);
	}
	close(gmem);
	kvm_vm_free(vm);
}

int main(void)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} tests[] = {
		{ "bad input is refused and changes nothing",	test_bad_input },
		{ "a read-only list argument sets nothing",	test_read_only_argument },
		{ "the longest list",				test_longest_list },
		{ "signals stop a list, which can go on",	test_signals },
		{ "debugfs shows the size of the store",	test_debugfs },
		{ "a VM without private memory",		test_vm_without_private_memory },
		{ "random ranges match an oracle",		test_oracle },
		{ "copy attributes to another VM",		test_copy_to_another_vm },
		{ "the generation changes with the attributes", test_generation },
		{ "a fault on the array of GET blocks nobody",	test_array_in_userfaultfd },
		{ "conversions while a fault waits for its page", test_overtaken_fault },
		{ "pre-fault while a slot is being deleted",	test_pre_fault_deleted },
		{ "pre-fault after a slot was deleted",		test_pre_fault_after_deletion },
		{ "private memory where MMIO was",		test_private_mmio },
		{ "split and reunite large pages",		test_split_and_reunite },
		{ "move and delete a slot",			test_move_and_delete },
		{ "a vCPU that stays in the guest",		test_vcpu_that_stays },
		{ "a fault races with a conversion nearby",	test_race_for_large_page },
		{ "concurrent conversions and slot changes",	test_stress },
	};
	int i;

	TEST_REQUIRE(sw_protected_vm_supported());
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_GET_MEMORY_ATTRIBUTES) & PRIVATE);
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_SET_MEMORY_ATTRIBUTES_LIST));
	TEST_REQUIRE(thp_configured());

	ksft_print_header();
	ksft_set_plan(ARRAY_SIZE(tests) + ARRAY_SIZE(level_cases));

	get_1g_page();
	for (i = 0; i < ARRAY_SIZE(level_cases); i++) {
		if (run_level_case(&level_cases[i]))
			ksft_test_result_pass("level: %s\n", level_cases[i].why);
		else
			ksft_test_result_skip("level: %s: no 1 GiB page\n",
					      level_cases[i].why);
	}
	for (i = 0; i < ARRAY_SIZE(tests); i++) {
		tests[i].run();
		ksft_test_result_pass("%s\n", tests[i].name);
	}

	ksft_finished();
}
