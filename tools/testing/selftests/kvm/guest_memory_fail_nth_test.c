// SPDX-License-Identifier: GPL-2.0-only
/*
 * Failed allocations in the calls that change guest memory, and in faults.
 *
 * For each call, and for n = 1, 2, ... until nothing fails any more, the n-th
 * allocation of the call fails in a new VM.  If the call then returns an error, it must
 * be ENOMEM or EFAULT, and nothing may have changed.  The same call must succeed when
 * it is made again.  In each case the guest then finds what it wrote, and the dirty log
 * has all of its writes.  At last, kmemleak must find nothing that KVM has lost.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/bitmap.h>
#include <linux/sizes.h>

#include "dirty_log.h"
#include "fail_nth.h"
#include "guest_accesses.h"
#include "kselftest.h"
#include "kvm_util.h"
#include "mem_attributes.h"
#include "private_mem.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"

#define LOGGED_SLOT	10
#define GMEM_SLOT	11
#define LOGGED_BASE	((uint64_t)SZ_4G)
#define GMEM_BASE	(LOGGED_BASE + SZ_2M)
#define NR_PAGES	((uint64_t)SZ_2M / PAGE_SIZE)
#define NR_KINDS	(2 * NR_PAGES)
#define MAX_NTH		300
#define RING_ENTRIES	1024

#define PRIVATE		KVM_MEMORY_ATTRIBUTE_PRIVATE

/* The pages of both slots that the guest accesses. */
static const int touched[] = { 0, 1, 5, 63, 64, 65, 300, 511 };

#define NR_TOUCHED	((int)ARRAY_SIZE(touched))

struct fail_vm {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	struct accesses *accesses;
	char *logged, *gmem_shared;
	int gmem;
	uint64_t count;				/* of the last sweep */
	uint64_t values[3][NR_TOUCHED];		/* in the LOGGED slot, shared, private */
	uint8_t kinds[NR_KINDS];		/* attributes from GMEM_BASE on */
	bool logging;
};

struct test {
	const char *name;
	/* Sets up what the call needs; optional. */
	void (*prepare)(struct fail_vm *v);
	/* Makes the call.  Returns 0 or an errno, and changes the oracle if it is 0. */
	int (*call)(struct fail_vm *v);
	enum how how;				/* HOW_GET if it is left out */
	bool (*supported)(void);
};

/* ---- VM ------------------------------------------------------------------- */

static void *map_block(void)
{
	void *block = mmap(NULL, 2 * SZ_2M, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	TEST_ASSERT(block != MAP_FAILED, "mmap, errno %d", errno);
	block = align_ptr_up(block, SZ_2M);
	madvise(block, SZ_2M, MADV_HUGEPAGE);
	*(char *)block = 0;
	return block;
}

static void set_kinds(struct fail_vm *v, int first, int nr, bool private)
{
	memset(v->kinds + first, private ? PRIVATE : 0, nr);
}

static int convert(struct fail_vm *v, int first, int nr, bool private)
{
	struct kvm_memory_attributes a = {
		.address = GMEM_BASE + first * PAGE_SIZE,
		.size = nr * PAGE_SIZE,
		.attributes = private ? PRIVATE : 0,
	};

	if (__vm_ioctl(v->vm, KVM_SET_MEMORY_ATTRIBUTES, &a))
		return errno;
	set_kinds(v, first, nr, private);
	return 0;
}

static int set_logging(struct fail_vm *v, bool on)
{
	struct kvm_userspace_memory_region2 region = {
		.slot = LOGGED_SLOT,
		.flags = on ? KVM_MEM_LOG_DIRTY_PAGES : 0,
		.guest_phys_addr = LOGGED_BASE,
		.memory_size = SZ_2M,
		.userspace_addr = (uintptr_t)v->logged,
	};

	if (__vm_ioctl(v->vm, KVM_SET_USER_MEMORY_REGION2, &region))
		return errno;
	v->logging = on;
	return 0;
}

static uint64_t logged_gpa(int i)
{
	return LOGGED_BASE + touched[i] * PAGE_SIZE;
}

static uint64_t gmem_gpa(int i)
{
	return GMEM_BASE + touched[i] * PAGE_SIZE;
}

static void create(struct fail_vm *v, const struct test *t)
{
	int i;

	*v = (struct fail_vm) { };
	v->vm = __vm_create(sw_protected_shape(), 1, 0);
	vm_enable_eager_split(v->vm);
	vm_set_up_log(v->vm, t->how, true, RING_ENTRIES);
	v->vcpu = vm_vcpu_add(v->vm, 0, guest_make_accesses);
	if (t->how == HOW_RING)
		vcpu_map_dirty_ring(v->vcpu);
	v->accesses = vcpu_set_up_accesses(v->vcpu);

	v->logged = map_block();
	v->gmem_shared = map_block();
	v->gmem = vm_create_guest_memfd(v->vm, SZ_2M, 0);
	vm_set_user_memory_region2(v->vm, LOGGED_SLOT, 0, LOGGED_BASE, SZ_2M, v->logged, -1, 0);
	vm_set_user_memory_region2(v->vm, GMEM_SLOT, KVM_MEM_GUEST_MEMFD, GMEM_BASE, SZ_2M,
				   v->gmem_shared, v->gmem, 0);
	for (i = 0; i < NR_TOUCHED; i++) {
		virt_map(v->vm, logged_gpa(i), logged_gpa(i), 1);
		virt_map(v->vm, gmem_gpa(i), gmem_gpa(i), 1);
	}
	TEST_ASSERT(!convert(v, 1, 299, true), "KVM_SET_MEMORY_ATTRIBUTES, errno %d", errno);
}

static void destroy(struct fail_vm *v)
{
	kvm_vm_free(v->vm);
	close(v->gmem);
	munmap(v->logged, SZ_2M);
	munmap(v->gmem_shared, SZ_2M);
}

/* A sweep: the guest checks all values, and writes new ones. */
static void plan_sweep(struct fail_vm *v)
{
	int i, private;

	for (i = 0; i < NR_TOUCHED; i++) {
		private = !!v->kinds[touched[i]];
		v->accesses->access[2 * i] = (struct access) {
			.gpa = logged_gpa(i), .write = true,
			.expect = v->values[0][i], .value = v->count + 1 + i,
		};
		v->accesses->access[2 * i + 1] = (struct access) {
			.gpa = gmem_gpa(i), .write = true,
			.expect = v->values[1 + private][i], .value = v->count + 1001 + i,
		};
	}
	v->accesses->nr = 2 * NR_TOUCHED;
}

/* A vCPU that fails goes on with the access that failed when it runs again. */
static int call_run(struct fail_vm *v)
{
	return __vcpu_run(v->vcpu) ? errno : 0;
}

static void end_sweep(struct fail_vm *v)
{
	int i, private;

	TEST_ASSERT_EQ(get_ucall(v->vcpu, NULL), UCALL_SYNC);
	for (i = 0; i < NR_TOUCHED; i++) {
		private = !!v->kinds[touched[i]];
		v->values[0][i] = v->count + 1 + i;
		v->values[1 + private][i] = v->count + 1001 + i;
	}
	v->count += 2000;
}

static void check_kinds(struct fail_vm *v)
{
	check_attrs(v->vm, GMEM_BASE, v->kinds, NR_KINDS, 64);
}

/* Harvest a vCPU's ring into a log. */
static void harvest(struct fail_vm *v, unsigned long *log)
{
	uint64_t offset;
	uint32_t slot;

	while (vcpu_harvest_entry(v->vcpu, RING_ENTRIES, &slot, &offset))
		__set_bit(offset, log);
}

static void check_log(struct fail_vm *v, const struct test *t)
{
	DECLARE_BITMAP(log, NR_PAGES) = { };
	int i;

	if (!v->logging)
		return;
	if (t->how == HOW_RING)
		harvest(v, log);
	else
		kvm_vm_get_dirty_log(v->vm, LOGGED_SLOT, log);
	for (i = 0; i < NR_TOUCHED; i++)
		TEST_ASSERT(test_bit(touched[i], log), "Page %d isn't logged", touched[i]);
}

/* ---- Calls ------------------------------------------------------------------ */

static void run_once(struct fail_vm *v)
{
	plan_sweep(v);
	TEST_ASSERT(!call_run(v), "KVM_RUN, errno %d", errno);
	end_sweep(v);
}

static void log_and_run(struct fail_vm *v)
{
	run_once(v);
	TEST_ASSERT(!set_logging(v, true), "Logging, errno %d", errno);
	run_once(v);
}

static int call_set(struct fail_vm *v)
{
	return convert(v, NR_PAGES - 12, 50, true);
}

static int call_list(struct fail_vm *v)
{
	struct kvm_memory_attributes a[] = {
		{ GMEM_BASE + 2 * PAGE_SIZE, 100 * PAGE_SIZE, 0 },
		{ GMEM_BASE + 400 * PAGE_SIZE, 200 * PAGE_SIZE, PRIVATE },
		{ GMEM_BASE + 63 * PAGE_SIZE, PAGE_SIZE, PRIVATE },
	};
	struct kvm_set_memory_attributes_list list = {
		.ranges = (uintptr_t)a, .nr = ARRAY_SIZE(a),
	};
	int i;

	if (__vm_ioctl(v->vm, KVM_SET_MEMORY_ATTRIBUTES_LIST, &list)) {
		TEST_ASSERT(!list.done, "%u entries are done", list.done);
		return errno;
	}
	for (i = 0; i < ARRAY_SIZE(a); i++)
		set_kinds(v, (a[i].address - GMEM_BASE) / PAGE_SIZE, a[i].size / PAGE_SIZE,
			  a[i].attributes);
	return 0;
}

static int call_get(struct fail_vm *v)
{
	struct kvm_memory_attributes runs[8];
	struct kvm_get_memory_attributes get = {
		.address = GMEM_BASE, .size = SZ_2M, .ranges = (uintptr_t)runs, .nr = 8,
	}, old = get;

	if (!__vm_ioctl(v->vm, KVM_GET_MEMORY_ATTRIBUTES, &get))
		return 0;
	TEST_ASSERT(!memcmp(&get, &old, sizeof(get)), "The call changed its argument");
	return errno;
}

static int call_count(struct fail_vm *v)
{
	struct kvm_get_memory_attributes get = { .size = 1ull << 40 };

	return __vm_ioctl(v->vm, KVM_GET_MEMORY_ATTRIBUTES, &get) ? errno : 0;
}

static int call_pre_fault(struct fail_vm *v)
{
	struct kvm_pre_fault_memory range = { .gpa = GMEM_BASE, .size = 128 * PAGE_SIZE };

	while (range.size) {
		if (__vcpu_ioctl(v->vcpu, KVM_PRE_FAULT_MEMORY, &range))
			return errno;
	}
	return 0;
}

static int call_start_log(struct fail_vm *v)
{
	return set_logging(v, true);
}

static int call_stop_log(struct fail_vm *v)
{
	return set_logging(v, false);
}

static int call_get_log(struct fail_vm *v)
{
	DECLARE_BITMAP(log, NR_PAGES) = { };
	struct kvm_dirty_log args = { .slot = LOGGED_SLOT, .dirty_bitmap = log };

	return __vm_ioctl(v->vm, KVM_GET_DIRTY_LOG, &args) ? errno : 0;
}

static int call_clear_log(struct fail_vm *v)
{
	DECLARE_BITMAP(log, NR_PAGES);
	struct kvm_clear_dirty_log args = {
		.slot = LOGGED_SLOT, .num_pages = NR_PAGES, .dirty_bitmap = log,
	};

	memset(log, 0xff, sizeof(log));
	return __vm_ioctl(v->vm, KVM_CLEAR_DIRTY_LOG, &args) ? errno : 0;
}

static void harvest_all(struct fail_vm *v)
{
	DECLARE_BITMAP(log, NR_PAGES);

	log_and_run(v);
	harvest(v, log);
}

static int call_reset(struct fail_vm *v)
{
	return __vm_ioctl(v->vm, KVM_RESET_DIRTY_RINGS, NULL) < 0 ? errno : 0;
}

#ifdef __aarch64__
static bool hw_dirty_supported(void)
{
	return kvm_has_cap(KVM_CAP_ARM_HW_DIRTY);
}

static int set_hw_dirty(struct fail_vm *v, bool on)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_ARM_HW_DIRTY, .args[0] = on };

	return __vm_ioctl(v->vm, KVM_ENABLE_CAP, &cap) ? errno : 0;
}

static int call_hw_on(struct fail_vm *v)
{
	return set_hw_dirty(v, true);
}

static int call_hw_off(struct fail_vm *v)
{
	return set_hw_dirty(v, false);
}

static void hw_and_run(struct fail_vm *v)
{
	TEST_ASSERT(!set_hw_dirty(v, true), "KVM_CAP_ARM_HW_DIRTY, errno %d", errno);
	log_and_run(v);
	TEST_ASSERT(!call_clear_log(v), "KVM_CLEAR_DIRTY_LOG, errno %d", errno);
	run_once(v);
}
#endif

static const struct test tests[] = {
	{ "KVM_SET_MEMORY_ATTRIBUTES", run_once, call_set },
	{ "KVM_SET_MEMORY_ATTRIBUTES_LIST", run_once, call_list },
	{ "KVM_GET_MEMORY_ATTRIBUTES", NULL, call_get },
	{ "KVM_GET_MEMORY_ATTRIBUTES that counts", NULL, call_count },
	{ "the first faults", NULL, call_run },
	{ "faults after a conversion", run_once, call_run },
	{ "faults that split and log", log_and_run, call_run, .how = HOW_CLEAR },
	{ "KVM_PRE_FAULT_MEMORY", NULL, call_pre_fault },
	/* Not with a bitmap: vmalloc() prints a backtrace if it fails to allocate that. */
	{ "start of logging with a ring", run_once, call_start_log, .how = HOW_RING,
	  .supported = dirty_ring_supported },
	{ "stop of logging", log_and_run, call_stop_log },
	{ "KVM_GET_DIRTY_LOG", log_and_run, call_get_log },
	{ "KVM_CLEAR_DIRTY_LOG", log_and_run, call_clear_log, .how = HOW_CLEAR },
	{ "KVM_RESET_DIRTY_RINGS", harvest_all, call_reset, .how = HOW_RING,
	  .supported = dirty_ring_supported },
#ifdef __aarch64__
	{ "hardware dirty state on", log_and_run, call_hw_on, .how = HOW_CLEAR,
	  .supported = hw_dirty_supported },
	{ "hardware dirty state off", hw_and_run, call_hw_off, .how = HOW_CLEAR,
	  .supported = hw_dirty_supported },
	{ "KVM_GET_DIRTY_LOG with hardware dirty state", hw_and_run, call_get_log,
	  .how = HOW_CLEAR, .supported = hw_dirty_supported },
#endif
};

/* Return true if the n-th allocation has failed. */
static bool run_nth(const struct test *t, int n)
{
	struct fail_vm v;
	bool failed;
	int error;

	create(&v, t);
	if (t->prepare)
		t->prepare(&v);
	if (t->call == call_run) {
		TEST_ASSERT(!convert(&v, 300, 1, true), "errno %d", errno);
		plan_sweep(&v);
	}

	fail_nth(n);
	error = t->call(&v);
	failed = stop_failing();
	if (error) {
		TEST_ASSERT(failed, "errno %d, but no allocation failed", error);
		TEST_ASSERT(error == ENOMEM || error == EFAULT, "allocation %d: errno %d", n,
			    error);
		check_kinds(&v);
		error = t->call(&v);
		TEST_ASSERT(!error, "errno %d when the call is made again", error);
	}
	if (t->call == call_run)
		end_sweep(&v);
	check_kinds(&v);
	run_once(&v);
	check_log(&v, t);
	destroy(&v);
	return failed;
}

static void run_test(const struct test *t)
{
	int n = 1;

	if (t->supported && !t->supported()) {
		ksft_test_result_skip("%s: not supported\n", t->name);
		return;
	}

	while (run_nth(t, n)) {
		n++;
		TEST_ASSERT(n < MAX_NTH, "%s: allocations fail for ever", t->name);
	}
	ksft_test_result(true, "%s: %d allocations\n", t->name, n - 1);
}

int main(void)
{
	static const char *const names[] = { "kvm", "mem_attrs", NULL };
	bool kmemleak;
	int i;

	ksft_print_header();
	TEST_REQUIRE(sw_protected_vm_supported());
	set_up_fault_injection();
	ksft_set_plan(ARRAY_SIZE(tests) + 1);

	kmemleak = forget_leaks();
	for (i = 0; i < ARRAY_SIZE(tests); i++)
		run_test(&tests[i]);
	if (kmemleak)
		ksft_test_result(!has_leaks(names), "no leaks\n");
	else
		ksft_test_result_skip("no leaks: needs CONFIG_DEBUG_KMEMLEAK\n");

	ksft_finished();
}
