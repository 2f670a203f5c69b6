// SPDX-License-Identifier: GPL-2.0
/*
 * init of the lab's machines, and its reader of the kernel log.
 *
 * As process 1 it mounts the file systems that tests need, loads the modules
 * that the host lists, runs one command, and reports.  The host prepares these
 * files:
 *
 *   /.lab/load     modules, one per line: path, then parameters
 *   /.lab/command  argument vector, each argument ended by a NUL
 *   /.lab/token    random word of this run, the first word of every report
 *   /.lab/policy   patterns of splats in the kernel log, see splat-policy
 *
 * Three channels keep the command's output and the reports apart from the
 * console:
 *
 *   ttyS0  kernel log
 *   ttyS1  the command's output, byte for byte
 *   ttyS2  reports, one per line:
 *            TOKEN load             the modules are about to be loaded
 *            TOKEN up               the command is about to start
 *            TOKEN fail MESSAGE     there is no machine to run it on
 *            TOKEN splat MESSAGE    a line of the kernel log, with its context
 *            TOKEN end STATUS N     verdict: the command's status, N splats
 *
 * init scans the kernel log and then writes the verdict.  A log or a policy that
 * cannot be read counts as a splat.
 *
 * "/init scan FILE" prints the splats since the sequence number in FILE, advances
 * that number, and exits with 1 if there were any splats.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "splats.h"

#define MAX_ARGS	256
#define OVERRUN		"lab: the kernel log overran, part of it is lost"

/* Taint bits that only a splat sets: bad page, die, warn, soft lockup. */
#define TAINT_SPLAT	(1UL << 5 | 1UL << 7 | 1UL << 9 | 1UL << 14)

static char token[80] = "-";
static FILE *reports;

static void report(const char *fmt, ...)
{
	va_list ap;

	fprintf(reports, "%s ", token);
	va_start(ap, fmt);
	vfprintf(reports, fmt, ap);
	va_end(ap);
	fputc('\n', reports);
	fflush(reports);
}

static void power_off(void)
{
	fflush(reports);
	tcdrain(fileno(reports));
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

static void fail(const char *what, const char *which)
{
	report("fail %s %s: %s", what, which, strerror(errno));
	power_off();
}

/* ---- the kernel log ---------------------------------------------------- */

/* The log encodes a newline within a message as \x0a. */
static void unescape(char *s)
{
	char *to = s;

	while (*s) {
		bool nl = !strncmp(s, "\\x0a", 4);

		*to++ = nl ? '\n' : *s;
		s += nl ? 4 : 1;
	}
	*to = '\0';
}

/*
 * Returns the text of a record, "PRIORITY,NUMBER,...;TEXT", and puts its number
 * into *at.  Returns NULL for a record of another form.
 */
static char *record_text(char *rec, unsigned long long *at)
{
	char *text = strchr(rec, ';');

	if (!text || sscanf(rec, "%*u,%llu", at) != 1)
		return NULL;
	text++;
	text[strcspn(text, "\n")] = '\0';
	unescape(text);
	return text;
}

/* Scans a record at or after sequence number *seq, and advances *seq. */
static void scan_record(struct scanner *s, char *rec, unsigned long long *seq)
{
	unsigned long long at;
	char *text = record_text(rec, &at);

	if (!text) {
		scanner_complain(s, "lab: the kernel log has a record without a header");
		return;
	}
	if (at < *seq)
		return;
	if (at > *seq)
		scanner_complain(s, OVERRUN);
	*seq = at + 1;
	scanner_message(s, text);
}

static void scan_records(struct scanner *s, int fd, unsigned long long *seq)
{
	static char rec[8192];
	ssize_t n;

	while ((n = read(fd, rec, sizeof(rec) - 1)) > 0 || (n < 0 && errno == EPIPE)) {
		if (n < 0) {
			scanner_complain(s, OVERRUN);
			continue;
		}
		rec[n] = '\0';
		scan_record(s, rec, seq);
	}
	if (!n || errno != EAGAIN)
		scanner_complain(s, "lab: /dev/kmsg cannot be read");
}

/*
 * Passes every splat at or after sequence number *seq to emit(), advances *seq
 * past the end of the log, and returns the number of splats.
 */
static int scan_log(unsigned long long *seq, emit_fn emit)
{
	static struct scanner scanner;
	int fd;

	if (!scanner_start(&scanner, "/.lab/policy", emit))
		return scanner.splats;
	fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0) {
		scanner_complain(&scanner, "lab: /dev/kmsg cannot be opened");
		return scanner.splats;
	}
	scan_records(&scanner, fd, seq);
	close(fd);
	return scanner.splats;
}

/* A splat taints the kernel, even if it prints nothing or the log was cleared. */
static int scan_taint(emit_fn emit)
{
	size_t len;
	char *text = slurp("/proc/sys/kernel/tainted", &len);

	if (text && !(strtoul(text, NULL, 10) & TAINT_SPLAT))
		return 0;
	emit("lab: a splat tainted the kernel, /proc/sys/kernel/tainted is");
	emit(text ? text : "unreadable");
	return 1;
}

static int scan_main(const char *path)
{
	unsigned long long seq = 0;
	size_t len;
	char *text = slurp(path, &len);
	int splats;
	FILE *f;

	if (text)
		seq = strtoull(text, NULL, 10);
	splats = scan_log(&seq, print_line);
	f = fopen(path, "we");
	if (!f || fprintf(f, "%llu\n", seq) < 0 || fclose(f)) {
		perror(path);
		return 2;
	}
	return !!splats;
}

/* ---- process 1 --------------------------------------------------------- */

static const struct {
	const char *type, *path, *options;
} mounts[] = {
	{ "proc",	"/proc",			NULL },
	{ "sysfs",	"/sys",				NULL },
	{ "debugfs",	"/sys/kernel/debug",		NULL },
	{ "tracefs",	"/sys/kernel/tracing",		NULL },
	{ "cgroup2",	"/sys/fs/cgroup",		NULL },
	{ "tmpfs",	"/tmp",				"mode=1777" },
	{ "tmpfs",	"/dev/shm",			"mode=1777" },
	{ "devpts",	"/dev/pts",			NULL },
};

static void mount_all(void)
{
	for (size_t i = 0; i < sizeof(mounts) / sizeof(*mounts); i++) {
		mkdir(mounts[i].path, 0755);
		if (mount(mounts[i].type, mounts[i].path, mounts[i].type, 0, mounts[i].options))
			fail("mount", mounts[i].path);
	}
}

/* A serial port that passes bytes as they are. */
static int open_port(const char *path)
{
	struct termios t;
	int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (fd < 0 || tcgetattr(fd, &t))
		return -1;
	cfmakeraw(&t);
	t.c_cflag |= CLOCAL;
	cfsetspeed(&t, B115200);
	return tcsetattr(fd, TCSANOW, &t) ? -1 : fd;
}

/* Returns the number of modules it loaded. */
static int load_modules(void)
{
	int loaded = 0;
	size_t len;
	char *text = slurp("/.lab/load", &len), *line;

	if (!text)
		fail("read", "/.lab/load");
	report("load");
	while ((line = strsep(&text, "\n"))) {
		char *path = strsep(&line, " ");
		int fd;

		if (!*path)
			continue;
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || syscall(SYS_finit_module, fd, line ? line : "", 0))
			fail("load", path);
		close(fd);
		loaded++;
	}
	return loaded;
}

/*
 * The first VM and the last one patch a jump in the scheduler (the static key
 * of preempt notifiers).  QEMU's TCG with several threads sometimes executes the
 * patch's breakpoint after the patch is complete, and the machine dies with
 * "Oops: int3" in __schedule().  So init makes one VM while there is only one
 * CPU (maxcpus=1), and holds it until the machine is off.
 */
static void hold_vm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm = kvm < 0 ? -1 : ioctl(kvm, KVM_CREATE_VM, 0);

	if (vm < 0)
		fail("create a VM with", "/dev/kvm");
	fcntl(vm, F_SETFD, FD_CLOEXEC);
	close(kvm);
}

static void start_cpus(void)
{
	char path[64];
	int fd;

	for (int cpu = 1; ; cpu++) {
		snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
		fd = open(path, O_WRONLY | O_CLOEXEC);
		if (fd < 0)
			return;
		if (write(fd, "1", 1) != 1)
			fail("start the CPU of", path);
		close(fd);
	}
}

/* A kernel that finds data races does nothing until it is told to. */
static void start_kcsan(void)
{
	const char *path = "/sys/kernel/debug/kcsan";
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, "on", 2) != 2)
		fail("turn on", path);
	close(fd);
}

static pid_t start_command(int out)
{
	static char *argv[MAX_ARGS + 1];
	size_t len, argc = 0;
	char *text = slurp("/.lab/command", &len);
	pid_t pid;

	if (!text || !len)
		fail("read", "/.lab/command");
	for (char *p = text; p < text + len && argc < MAX_ARGS; p += strlen(p) + 1)
		argv[argc++] = p;
	pid = fork();
	if (pid)
		return pid;

	setsid();
	dup2(open("/dev/null", O_RDONLY), 0);
	dup2(out, 1);
	dup2(out, 2);
	chdir("/lab");
	execvp(argv[0], argv);
	dprintf(2, "lab: cannot run %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

/* Waits for the command, and reaps the orphans that process 1 inherits. */
static int wait_command(pid_t command)
{
	int status;
	pid_t pid;

	do {
		pid = wait(&status);
	} while (pid != command);
	kill(-1, SIGKILL);
	while (wait(NULL) > 0)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void report_line(const char *line)
{
	for (; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		report("splat %.*s", (int)strcspn(line, "\n"), line);
	}
}

/* Opens standard input and output for process 1, and the channel of reports. */
static bool open_reports(void)
{
	int fd;

	for (fd = 0; fd < 3; fd++)
		close(fd);
	if (mount("devtmpfs", "/dev", "devtmpfs", 0, NULL))
		return false;
	for (fd = 0; fd < 3; fd++)
		open("/dev/null", O_RDWR);
	fd = open_port("/dev/ttyS2");
	reports = fd < 0 ? NULL : fdopen(fd, "w");
	return reports;
}

static void read_token(void)
{
	size_t len;
	char *text = slurp("/.lab/token", &len);

	if (!text || len >= sizeof(token))
		fail("read", "/.lab/token");
	strcpy(token, text);
}

/* Returns the channel of the command's output. */
static int set_up(void)
{
	struct rlimit files = { 1 << 20, 1 << 20 };
	int out;

	mount_all();
	out = open_port("/dev/ttyS1");
	if (out < 0)
		fail("open", "/dev/ttyS1");
	setrlimit(RLIMIT_NOFILE, &files);
	setenv("PATH", "/lab:/bin:/sbin:/usr/bin:/usr/sbin", 1);
	setenv("HOME", "/tmp", 1);
	if (load_modules())
		hold_vm();
	start_cpus();
	start_kcsan();
	return out;
}

int main(int argc, char **argv)
{
	unsigned long long seq = 0;
	int out, status, splats;

	if (argc == 3 && !strcmp(argv[1], "scan"))
		return scan_main(argv[2]);
	if (getpid() != 1) {
		fprintf(stderr, "usage: %s scan FILE\n", argv[0]);
		return 2;
	}

	if (!open_reports())
		return 1;
	read_token();
	out = set_up();
	report("up");

	status = wait_command(start_command(out));
	tcdrain(out);
	splats = scan_log(&seq, report_line);
	splats += scan_taint(report_line);
	report("end %d %d", status, splats);
	power_off();
}
