// SPDX-License-Identifier: GPL-2.0
/*
 * init of the guest that lab/vmm boots.  It prints two lines on the console: the
 * guest's hypervisor, and whether the guest's memory holds what init wrote.  Each
 * line begins with the token from the kernel's command line.  Then it powers off.
 * With "write" before the token it runs for ever instead, to be migrated: again
 * and again it checks all of its pages and writes to them.
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
	/* One word per cache line: an emulated machine is too slow for more. */
	for (size_t i = 0; i < n; i += 8)
		p[i] = i * 0x9e3779b97f4a7c15;
	for (size_t i = 0; i < n; i += 8)
		if (p[i] != i * 0x9e3779b97f4a7c15)
			return 0;
	return 1;
}

#define PAGE	4096
#define PAGES	(MEMORY / 2 / PAGE)
#define SWEEPS	10

static uint32_t generation[PAGES];

/* Both ends of a page hold the page's entry in generation[]. */
static int page_holds(const volatile uint32_t *page, size_t i)
{
	return page[0] == generation[i] && page[PAGE / 4 - 1] == (generation[i] ^ i);
}

static void write_on(const char *token)
{
	volatile uint32_t *page, *memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
						MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return;
	for (size_t n = 0;; n++) {
		for (size_t i = 0; i < PAGES; i++) {
			page = memory + i * (PAGE / 4);
			if (n && !page_holds(page, i)) {
				printf("%s page %zu is wrong: %u %u, not %u\n", token, i, page[0],
				       (uint32_t)(page[PAGE / 4 - 1] ^ i), generation[i]);
				return;
			}
			generation[i]++;
			page[0] = generation[i];
			page[PAGE / 4 - 1] = generation[i] ^ i;
		}
		if (n % SWEEPS == 0)
			printf("%s written %zu times\n", token, n + 1);
		fflush(stdout);
	}
}

int main(int argc, char **argv)
{
	const char *token = argv[argc - 1];
	unsigned int eax, id[4] = { 0 };

	__cpuid(0x40000000, eax, id[0], id[1], id[2]);
	printf("%s hypervisor %.12s\n", token, (char *)id);
	printf("%s memory %s\n", token, memory_holds() ? "holds" : "is wrong");
	fflush(stdout);
	if (argc > 2 && !strcmp(argv[argc - 2], "write"))
		write_on(token);
	sync();
	reboot(RB_POWER_OFF);
	return 1;
}
