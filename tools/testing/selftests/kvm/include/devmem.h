/* SPDX-License-Identifier: GPL-2.0-only */
/* Memory that the kernel has no struct page for, from /dev/mem. */
#ifndef SELFTEST_KVM_DEVMEM_H
#define SELFTEST_KVM_DEVMEM_H

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "test_util.h"

/*
 * Map @size bytes at the host-physical address @hpa and fill them with zeros.  Boot with
 * mem=, so that the kernel leaves whole sections of 128 MiB alone, and choose an address
 * in one of these.  @where: replace the mapping there; NULL for anywhere.
 */
static inline void *map_devmem(void *where, uint64_t hpa, size_t size)
{
	int fd = open("/dev/mem", O_RDWR);
	void *mem;

	TEST_ASSERT(fd >= 0, "open(/dev/mem): %s", strerror(errno));
	mem = mmap(where, size, PROT_READ | PROT_WRITE, MAP_SHARED | (where ? MAP_FIXED : 0),
		   fd, hpa);
	TEST_ASSERT(mem != MAP_FAILED,
		    "/dev/mem at 0x%lx: %s.  Boot with mem= to keep the kernel off it.",
		    (unsigned long)hpa, strerror(errno));
	close(fd);
	return memset(mem, 0, size);
}

#endif /* SELFTEST_KVM_DEVMEM_H */
