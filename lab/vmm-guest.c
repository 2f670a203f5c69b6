// SPDX-License-Identifier: GPL-2.0
/*
 * init of the guest that lab/vmm boots: says on the console which hypervisor
 * the guest runs on and whether its memory holds what is written to it, each
 * line after the token that the kernel's command line passed on, and powers off.
 */
#include <cpuid.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <unistd.h>

#define MEMORY	(64UL << 20)

static int memory_holds(void)
{
	size_t n = MEMORY / sizeof(uint64_t);
	volatile uint64_t *p = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return 0;
	/* One word a cache line: an emulated machine has no time for more. */
	for (size_t i = 0; i < n; i += 8)
		p[i] = i * 0x9e3779b97f4a7c15;
	for (size_t i = 0; i < n; i += 8)
		if (p[i] != i * 0x9e3779b97f4a7c15)
			return 0;
	return 1;
}

int main(int argc, char **argv)
{
	const char *token = argv[argc - 1];
	unsigned int eax, id[4] = { 0 };

	__cpuid(0x40000000, eax, id[0], id[1], id[2]);
	printf("%s hypervisor %.12s\n", token, (char *)id);
	printf("%s memory %s\n", token, memory_holds() ? "holds" : "is wrong");
	fflush(stdout);
	sync();
	reboot(RB_POWER_OFF);
	return 1;
}
