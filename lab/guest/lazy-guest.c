// SPDX-License-Identifier: GPL-2.0
/*
 * init of the guest that lab/lazyvm boots.  It reads commands from the console, a line each,
 * and answers with lines that begin with the token from the kernel's command line:
 *
 * fill MIB	fill so much memory, a page with one value
 * load [N [K [C]]]  let N processes (1) read K eighths of it (1), in random order, while
 *		another one computes, C times or until they are done (this and the commands
 *		below go on to the next eighth)
 * work [N]	read an eighth of it N times (1), in one process
 * kill		kill a process that waits for pages
 * trace	stop a process that waits for pages, and let it go on
 * hotplug	take CPU 1 offline while processes on it wait for pages
 * suspend	suspend while processes wait for pages
 * kexec_load	load the kernel and the initramfs that the root directory has
 * kexec	boot them while processes wait for pages
 * crash_load	load them for a crash
 * crash	let the kernel crash while processes wait for pages
 * interrupts	how many interrupts of kvm_async_pf there were
 * off, reboot	what they say
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kexec.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE		4096
#define MAX_READERS	64
#define NR_PARTS	8

static const char *token;
static uint64_t *memory;
static size_t nr_pages;
static size_t part, nr_parts = 1;

/* Processes count here how far they have come. */
static volatile uint64_t *computed, *computed_at, *pages_read, *wrong;

static uint64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static uint64_t *page(size_t n)
{
	return memory + n * (PAGE / sizeof(*memory));
}

static uint64_t value_of(size_t n)
{
	return (n + 1) * 0x9e3779b97f4a7c15;
}

static void fill(size_t mib)
{
	nr_pages = mib << 20 >> 12;
	memory = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		printf("%s no memory\n", token);
		return;
	}
	for (size_t i = 0; i < nr_pages; i++)
		*page(i) = value_of(i);
	printf("%s filled %zu\n", token, nr_pages);
}

/*
 * Read the pages of reader @i of @nr_readers.  Together they read each page of nr_parts
 * parts once: the step and the number of pages share no factor.
 */
static void read_part(size_t i, size_t nr_readers)
{
	size_t nr = nr_pages / NR_PARTS * nr_parts, first = nr_pages / NR_PARTS * part;

	for (size_t j = i * nr / nr_readers; j < (i + 1) * nr / nr_readers; j++) {
		size_t n = (first + j * 2654435761u % nr) % nr_pages;

		if (*page(n) != value_of(n))
			__atomic_fetch_add(wrong, 1, __ATOMIC_RELAXED);
		__atomic_fetch_add(pages_read, 1, __ATOMIC_RELAXED);
	}
}

static void next_part(void)
{
	part = (part + nr_parts) % NR_PARTS;
	nr_parts = 1;
}

static void compute(size_t times, size_t unused)
{
	(void)unused;
	while (*computed < times) {
		for (volatile int i = 0; i < 1000; i++)
			;
		++*computed;
	}
	*computed_at = now_us();
}

static int start(void (*function)(size_t, size_t), size_t arg1, size_t arg2)
{
	int pid = fork();

	if (!pid) {
		function(arg1, arg2);
		_exit(0);
	}
	return pid;
}

static void forget(void)
{
	*computed = *pages_read = *wrong = 0;
}

static void load(int nr_readers, int parts, size_t times)
{
	int readers[MAX_READERS], computer;
	uint64_t start_us;

	if (nr_readers < 1 || nr_readers > MAX_READERS) {
		printf("%s at most %d readers\n", token, MAX_READERS);
		return;
	}
	if (parts < 1 || parts > NR_PARTS) {
		printf("%s at most %d parts\n", token, NR_PARTS);
		return;
	}
	nr_parts = parts;
	forget();
	start_us = now_us();
	computer = start(compute, times ? times : SIZE_MAX, 0);
	for (int i = 0; i < nr_readers; i++)
		readers[i] = start(read_part, i, nr_readers);
	for (int i = 0; i < nr_readers; i++)
		waitpid(readers[i], NULL, 0);
	if (!times) {
		kill(computer, SIGKILL);
		*computed_at = now_us();
	}
	waitpid(computer, NULL, 0);
	next_part();
	printf("%s load %llu us, read %llu, wrong %llu, computed %llu in %llu us\n", token,
	       (unsigned long long)(now_us() - start_us), (unsigned long long)*pages_read,
	       (unsigned long long)*wrong, (unsigned long long)*computed,
	       (unsigned long long)(*computed_at - start_us));
}

static void work(int times)
{
	uint64_t start_us = now_us();

	forget();
	for (int i = 0; i < times; i++) {
		read_part(0, 1);
		next_part();
	}
	printf("%s work %llu us, wrong %llu\n", token,
	       (unsigned long long)(now_us() - start_us), (unsigned long long)*wrong);
}

/* A signal ends the wait, and ptrace's stop is like a signal. */
static void kill_reader(void)
{
	uint64_t start_us;
	int pid, status;

	forget();
	pid = start(read_part, 0, 1);
	while (!*pages_read)
		usleep(1000);
	start_us = now_us();
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	start_us = now_us() - start_us;
	next_part();
	printf("%s %s after %llu of %zu pages, in %llu us\n", token,
	       WIFSIGNALED(status) ? "killed" : "ended", (unsigned long long)*pages_read,
	       nr_pages / NR_PARTS, (unsigned long long)start_us);
}

static void trace_reader(void)
{
	int pid, status, stops = 0;

	forget();
	pid = start(read_part, 0, 1);
	while (!*pages_read)
		usleep(1000);
	if (ptrace(PTRACE_SEIZE, pid, 0, 0))
		printf("%s cannot trace: %s\n", token, strerror(errno));
	while (stops < 3 && !ptrace(PTRACE_INTERRUPT, pid, 0, 0) &&
	       waitpid(pid, &status, 0) == pid && WIFSTOPPED(status)) {
		stops++;
		ptrace(PTRACE_CONT, pid, 0, 0);
	}
	while (waitpid(pid, &status, 0) == pid && !WIFEXITED(status) && !WIFSIGNALED(status))
		ptrace(PTRACE_CONT, pid, 0, 0);
	next_part();
	printf("%s traced: %d stops, read %llu, wrong %llu\n", token, stops,
	       (unsigned long long)*pages_read, (unsigned long long)*wrong);
}

/* Start processes that read a part, and return when they have begun. */
static void start_readers(int *pids, int nr, void (*function)(size_t, size_t))
{
	forget();
	for (int i = 0; i < nr; i++)
		pids[i] = start(function, i, nr);
	while (!*pages_read)
		usleep(1000);
}

static void wait_for_readers(int *pids, int nr)
{
	for (int i = 0; i < nr; i++)
		waitpid(pids[i], NULL, 0);
	next_part();
}

/* Write a word to a file of sysfs or procfs, and return whether that failed. */
static int write_word(const char *path, const char *word)
{
	int fd = open(path, O_WRONLY), r;

	r = fd < 0 || write(fd, word, strlen(word)) < 0;
	close(fd);
	return r;
}

static int set_online(int cpu, int online)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
	return write_word(path, online ? "1" : "0");
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

/* Readers that may run on CPU 1 only; the kernel moves them when it goes offline. */
static void read_on_cpu_1(size_t i, size_t nr_readers)
{
	pin(1);
	read_part(i, nr_readers);
}

static void hotplug(void)
{
	int pids[4], errors = 0;

	start_readers(pids, 4, read_on_cpu_1);
	for (int i = 0; i < 3; i++) {
		errors += set_online(1, 0);
		usleep(20000);
		errors += set_online(1, 1);
		usleep(20000);
	}
	wait_for_readers(pids, 4);
	printf("%s hotplug: errors %d, read %llu, wrong %llu\n", token, errors,
	       (unsigned long long)*pages_read, (unsigned long long)*wrong);
}

/* The kernel's test of suspend: all but the last step, and back after 5 s. */
static void suspend(void)
{
	int pids[4], errors;

	start_readers(pids, 4, read_part);
	errors = write_word("/sys/power/pm_test", "platform");
	if (!errors)
		errors = write_word("/sys/power/state", "freeze");
	wait_for_readers(pids, 4);
	printf("%s suspend: errors %d, read %llu, wrong %llu\n", token, errors,
	       (unsigned long long)*pages_read, (unsigned long long)*wrong);
}

static void kexec_load(unsigned long flags)
{
	int kernel = open("/Image", O_RDONLY), initrd = open("/initrd", O_RDONLY);
	char line[1024] = "";
	FILE *file = fopen("/proc/cmdline", "r");

	if (!file || !fgets(line, sizeof(line), file))
		printf("%s no command line\n", token);
	line[strcspn(line, "\n")] = '\0';
	if (syscall(SYS_kexec_file_load, kernel, initrd, strlen(line) + 1, line, flags))
		printf("%s cannot load a kernel: %s\n", token, strerror(errno));
	else
		printf("%s kernel loaded\n", token);
}

static void kexec(void)
{
	int pids[8];

	start_readers(pids, 8, read_part);
	reboot(RB_KEXEC);
	printf("%s kexec failed: %s\n", token, strerror(errno));
}

/* The kernel panics when init ends. */
static void crash(void)
{
	int pids[8];

	start_readers(pids, 8, read_part);
	_exit(1);
}

static void interrupts(void)
{
	FILE *file = fopen("/proc/interrupts", "r");
	unsigned long long sum = 0;
	char line[1024], *word;

	while (file && fgets(line, sizeof(line), file)) {
		if (!strstr(line, "kvm_async_pf"))
			continue;
		/* The number of the interrupt, then one number for each CPU */
		strtok(line, " ");
		while ((word = strtok(NULL, " ")) && *word >= '0' && *word <= '9')
			sum += strtoull(word, NULL, 10);
	}
	if (file)
		fclose(file);
	printf("%s interrupts %llu\n", token, sum);
}

static void run(char *line)
{
	char *command = strtok(line, " \n"), *arg = strtok(NULL, " \n");
	char *arg2 = strtok(NULL, " \n"), *arg3 = strtok(NULL, " \n");

	if (!command)
		return;
	if (!strcmp(command, "fill"))
		fill(arg ? atoi(arg) : 16);
	else if (!strcmp(command, "load"))
		load(arg ? atoi(arg) : 1, arg2 ? atoi(arg2) : 1, arg3 ? atol(arg3) : 0);
	else if (!strcmp(command, "work"))
		work(arg ? atoi(arg) : 1);
	else if (!strcmp(command, "kill"))
		kill_reader();
	else if (!strcmp(command, "trace"))
		trace_reader();
	else if (!strcmp(command, "hotplug"))
		hotplug();
	else if (!strcmp(command, "suspend"))
		suspend();
	else if (!strcmp(command, "kexec_load"))
		kexec_load(0);
	else if (!strcmp(command, "kexec"))
		kexec();
	else if (!strcmp(command, "crash_load"))
		kexec_load(KEXEC_FILE_ON_CRASH);
	else if (!strcmp(command, "crash"))
		crash();
	else if (!strcmp(command, "interrupts"))
		interrupts();
	else if (!strcmp(command, "off"))
		reboot(RB_POWER_OFF);
	else if (!strcmp(command, "reboot"))
		reboot(RB_AUTOBOOT);
	else
		printf("%s unknown command %s\n", token, command);
}

/* If the initramfs has the driver, it is a module, and takes its parameter from here. */
static void load_driver(void)
{
	int fd = open("/kvm_async_pf.ko", O_RDONLY);

	if (fd >= 0 && syscall(SYS_finit_module, fd, "timeout_ms=1000000", 0))
		printf("%s cannot load the driver: %s\n", token, strerror(errno));
	close(fd);
}

int main(int argc, char *argv[])
{
	volatile uint64_t *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
					 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char line[256];

	computed = shared;
	pages_read = shared + 1;
	wrong = shared + 2;
	computed_at = shared + 3;
	token = argc > 1 ? argv[argc - 1] : "guest";
	setvbuf(stdout, NULL, _IOLBF, 0);
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mount("none", "/proc", "proc", 0, NULL);
	mount("none", "/sys", "sysfs", 0, NULL);
	load_driver();
	printf("%s ready\n", token);
	while (fgets(line, sizeof(line), stdin))
		run(line);
	printf("%s end of input\n", token);
	reboot(RB_POWER_OFF);
	return 1;
}
