// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measure what it costs the host to drop a page of a VM that has gfn-to-pfn caches:
 * madvise(MADV_DONTNEED) of a page that no cache has, with more and more caches,
 * and of a page that one cache has.
 *
 * Each vCPU has five caches: kvm-clock, and Xen's vcpu_info, clock, and runstate,
 * which crosses the end of a page.  The VM has one more, for Xen's shared info.
 *
 * The test prints one figure per line: name, value, unit.
 */
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <asm/kvm_para.h>
#include <linux/sizes.h>

#include "figures.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"

#define SLOT	10
#define BASE	((uint64_t)SZ_4G)
#define TIMES	101

/* The pages of a vCPU's caches. */
#define PAGES	2

static void set_shared_info(struct kvm_vm *vm, void *page)
{
	struct kvm_xen_hvm_attr attr = {
		.type = KVM_XEN_ATTR_TYPE_SHARED_INFO_HVA,
		.u.shared_info.hva = (uintptr_t)page,
	};

	vm_ioctl(vm, KVM_XEN_HVM_SET_ATTR, &attr);
}

static void set_vcpu_attr(struct kvm_vcpu *vcpu, int type, uint64_t gpa)
{
	struct kvm_xen_vcpu_attr attr = { .type = type, .u.gpa = gpa };

	vcpu_ioctl(vcpu, KVM_XEN_VCPU_SET_ATTR, &attr);
}

static void add_vcpu(struct kvm_vm *vm, int id)
{
	struct kvm_vcpu *vcpu = __vm_vcpu_add(vm, id);
	uint64_t gpa = BASE + (uint64_t)id * PAGES * getpagesize();

	set_vcpu_attr(vcpu, KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO, gpa);
	set_vcpu_attr(vcpu, KVM_XEN_VCPU_ATTR_TYPE_VCPU_TIME_INFO, gpa + SZ_1K);
	set_vcpu_attr(vcpu, KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR, gpa + getpagesize() - 16);
	vcpu_set_msr(vcpu, MSR_KVM_SYSTEM_TIME_NEW,
		     (gpa + getpagesize() + SZ_1K) | KVM_MSR_ENABLED);
}

static void *map_pages(size_t size)
{
	void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	TEST_ASSERT(mem != MAP_FAILED, __KVM_SYSCALL_ERROR("mmap()", -1));
	return mem;
}

/* Drop a page again and again.  If it is the shared info page, its cache is hit. */
static int64_t drop(struct kvm_vm *vm, void *page, bool is_shared_info)
{
	int64_t ns[TIMES];
	int i;

	for (i = 0; i < TIMES; i++) {
		WRITE_ONCE(*(uint64_t *)page, i);
		if (is_shared_info)
			set_shared_info(vm, page);
		ns[i] = -now_ns();
		TEST_ASSERT(!madvise(page, getpagesize(), MADV_DONTNEED),
			    __KVM_SYSCALL_ERROR("madvise()", -1));
		ns[i] += now_ns();
	}
	return median(ns, TIMES);
}

static void measure(int nr_vcpus)
{
	struct kvm_xen_hvm_config config = {
		.flags = KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL,
		.msr = 0x40000000,
	};
	struct kvm_xen_hvm_attr long_mode = {
		.type = KVM_XEN_ATTR_TYPE_LONG_MODE,
		.u.long_mode = 1,
	};
	size_t size = PAGES * getpagesize() * max(nr_vcpus, 1);
	void *mem = map_pages(size), *page = map_pages(getpagesize());
	void *shared_info = map_pages(getpagesize());
	struct kvm_vm *vm = vm_create_barebones();
	int i, caches = 0;

	vm_ioctl(vm, KVM_XEN_HVM_CONFIG, &config);
	vm_ioctl(vm, KVM_XEN_HVM_SET_ATTR, &long_mode);
	vm_set_user_memory_region(vm, SLOT, 0, BASE, size, mem);
	for (i = 0; i < nr_vcpus; i++)
		add_vcpu(vm, i);
	if (nr_vcpus) {
		set_shared_info(vm, shared_info);
		caches = 5 * nr_vcpus + 1;
	}

	figure(drop(vm, page, false), "ns", "drop_miss_%d", caches);
	if (nr_vcpus)
		figure(drop(vm, shared_info, true), "ns", "drop_hit_%d", caches);

	kvm_vm_free(vm);
	munmap(shared_info, getpagesize());
	munmap(page, getpagesize());
	munmap(mem, size);
}

int main(void)
{
	/* Each vCPU has a file. */
	const struct rlimit files = { 4096, 4096 };

	TEST_REQUIRE(kvm_check_cap(KVM_CAP_XEN_HVM) & KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA);
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_XEN_HVM) & KVM_XEN_HVM_CONFIG_RUNSTATE);
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_MAX_VCPUS) >= 1024);

	TEST_REQUIRE(!setrlimit(RLIMIT_NOFILE, &files));

	measure(0);
	measure(19);
	measure(307);
	measure(1024);
	return 0;
}
