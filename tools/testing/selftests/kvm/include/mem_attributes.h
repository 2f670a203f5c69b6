/* SPDX-License-Identifier: GPL-2.0-only */
/* Comparison of the attributes that KVM reports with an oracle, a byte per page. */
#ifndef SELFTEST_KVM_MEM_ATTRIBUTES_H
#define SELFTEST_KVM_MEM_ATTRIBUTES_H

#include "kvm_util.h"
#include "private_mem.h"
#include "processor.h"
#include "test_util.h"

/* Check that no page of [@start, @end) matches, for check_matching(). */
static inline void check_gap(uint64_t start, uint64_t end, const uint8_t *want,
			     uint64_t mask, uint64_t attrs)
{
	for (; start < end; start += PAGE_SIZE)
		TEST_ASSERT((*want++ & mask) != attrs, "0x%lx is not reported", start);
}

/*
 * Check what KVM reports of the memory in [@gpa, @gpa + @nr pages) whose attributes
 * match, against @want, a byte per page.  Use an array of @capacity entries.
 */
static inline void check_matching(struct kvm_vm *vm, uint64_t gpa, const uint8_t *want,
				  size_t nr, uint32_t capacity, uint64_t mask,
				  uint64_t attrs)
{
	const uint64_t end = gpa + nr * PAGE_SIZE;
	struct kvm_memory_attributes ranges[64], *r;
	struct kvm_get_memory_attributes get = {
		.address = gpa,
		.size = nr * PAGE_SIZE,
		.mask = mask,
		.attributes = attrs,
	};
	uint64_t next = gpa, page, last_attrs = ~0ull, generation;
	uint32_t count, total = 0;

	TEST_ASSERT(capacity <= ARRAY_SIZE(ranges), "Capacity");
	vm_ioctl(vm, KVM_GET_MEMORY_ATTRIBUTES, &get);
	TEST_ASSERT(get.address == gpa && get.size == nr * PAGE_SIZE,
		    "Counting moved to 0x%llx + 0x%llx", get.address, get.size);
	count = get.nr;
	generation = get.generation;

	get.ranges = (uintptr_t)ranges;
	while (get.size) {
		get.nr = capacity;
		vm_ioctl(vm, KVM_GET_MEMORY_ATTRIBUTES, &get);
		TEST_ASSERT(get.nr <= capacity, "%u entries", get.nr);
		TEST_ASSERT_EQ(get.generation, generation);

		for (r = ranges; r < &ranges[get.nr]; r++) {
			TEST_ASSERT(r->address >= next && r->size && !r->flags,
				    "Entry 0x%llx + 0x%llx, flags 0x%llx, at 0x%lx",
				    r->address, r->size, r->flags, next);
			TEST_ASSERT(r->address != next || r->attributes != last_attrs,
				    "The entries before and at 0x%lx don't differ", next);
			check_gap(next, r->address, &want[(next - gpa) / PAGE_SIZE],
				  mask, attrs);
			last_attrs = r->attributes;
			TEST_ASSERT((last_attrs & mask) == attrs, "0x%llx doesn't match",
				    r->address);
			next = r->address + r->size;
			for (page = r->address; page < next; page += PAGE_SIZE)
				TEST_ASSERT(want[(page - gpa) / PAGE_SIZE] == last_attrs,
					    "0x%lx has attributes 0x%lx", page, last_attrs);
		}
		TEST_ASSERT(get.address >= next && get.address + get.size == end,
			    "Left to report: 0x%llx + 0x%llx, after 0x%lx",
			    get.address, get.size, next);
		if (get.address != next) {
			check_gap(next, get.address, &want[(next - gpa) / PAGE_SIZE],
				  mask, attrs);
			next = get.address;
			last_attrs = ~0ull;
		}
		total += get.nr;
	}
	TEST_ASSERT_EQ(total, count);
}

/* Check all attributes of [@gpa, @gpa + @nr pages). */
static inline void check_attrs(struct kvm_vm *vm, uint64_t gpa, const uint8_t *want,
			       size_t nr, uint32_t capacity)
{
	check_matching(vm, gpa, want, nr, capacity, 0, 0);
}

#endif
