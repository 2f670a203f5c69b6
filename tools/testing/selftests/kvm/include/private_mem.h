/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * VMs whose memory can be private, on every architecture that has such VMs: their
 * type, and the number of large pages that KVM maps in them.
 */
#ifndef SELFTEST_KVM_PRIVATE_MEM_H
#define SELFTEST_KVM_PRIVATE_MEM_H

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <linux/kvm_mem.h>

#include "kvm_util.h"

#ifdef __aarch64__
#define SW_PROTECTED_VM_TYPE	KVM_VM_TYPE_ARM_SW_PROTECTED
#define PAGE_SIZE		4096ul		/* of the guest, as on x86 */

static inline bool sw_protected_vm_supported(void)
{
	return kvm_check_cap(KVM_CAP_ARM_SW_PROTECTED_VM) > 0;
}
#else
#define SW_PROTECTED_VM_TYPE	KVM_X86_SW_PROTECTED_VM

static inline bool sw_protected_vm_supported(void)
{
	return kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM);
}
#endif

static inline struct vm_shape sw_protected_shape(void)
{
	return (struct vm_shape) {
		.mode = VM_MODE_DEFAULT,
		.type = SW_PROTECTED_VM_TYPE,
	};
}

/* The same, with many TiB of guest-physical address space if possible. */
static inline struct vm_shape sw_protected_large_shape(void)
{
	struct vm_shape shape = sw_protected_shape();

#ifdef __aarch64__
	if (kvm_check_cap(KVM_CAP_ARM_VM_IPA_SIZE) >= 48)
		shape.mode = VM_MODE_P48V48_4K;
#endif
	return shape;
}

/* Open a file in the debugfs directory of a VM of this process. */
static inline FILE *vm_open_debugfs(struct kvm_vm *vm, const char *name)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%d-%d/%s", getpid(),
		 vm->fd, name);
	f = fopen(path, "r");
	TEST_ASSERT(f, "Can't open %s, errno %d: is debugfs mounted?", path, errno);
	return f;
}

/*
 * Get the number of large pages that KVM has mapped by a PMD, and by a PUD.  x86
 * has statistics of them; arm64 has a dump of the stage-2 page table.
 */
static inline void vm_get_large_pages(struct kvm_vm *vm, int *pmds, int *puds)
{
#ifdef __aarch64__
	const uint64_t page_shift = __builtin_ctzl(getpagesize());
	uint64_t start, end, size;
	char line[256];
	int level;
	FILE *f = vm_open_debugfs(vm, "stage2_page_tables");

	*pmds = *puds = 0;
	while (fgets(line, sizeof(line), f)) {
		if (!strstr(line, "BLK") ||
		    sscanf(line, "0x%lx-0x%lx %*s %d", &start, &end, &level) != 3)
			continue;
		/* A table is a page of 8-byte entries. */
		size = 1ul << (page_shift + (3 - level) * (page_shift - 3));
		*(level == 2 ? pmds : puds) += (end - start) / size;
	}
	fclose(f);
#else
	*pmds = vm_get_stat(vm, "pages_2m");
	*puds = vm_get_stat(vm, "pages_1g");
#endif
}

/* Identity-map @nr pages for the guest, @step bytes apart. */
static inline void virt_map_each(struct kvm_vm *vm, uint64_t gpa, int nr, uint64_t step)
{
	for (; nr--; gpa += step)
		virt_map(vm, gpa, gpa, 1);
}

#endif /* SELFTEST_KVM_PRIVATE_MEM_H */
