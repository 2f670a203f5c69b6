// SPDX-License-Identifier: GPL-2.0-only
/*
 * lazyvm - a small VMM for arm64 that restores VMs lazily
 *
 * It boots Linux with a GICv3, PSCI, the architected timer and a serial port, saves the
 * VM to a file while the guest runs, and restores it from there: the guest runs at once,
 * and each page is read when the guest first needs it, with a latency that stands for
 * the network or the storage of a real host.  It shows the calls that kvm-mem adds to KVM
 * where a VMM needs them:
 *
 *   asynchronous page faults	offer_async_pf() and set_async_pf_irq()
 *   the dirty log, by runs,	save_while_running()
 *   and by hardware
 *   memory attributes		make_private() and show_attributes()
 *
 * One thread runs each vCPU, one serves the pages, and the main thread does the rest.  Only
 * restored VMs have the thread that serves pages.
 *
 * The file begins with a struct snapshot, and the states of the vCPUs follow.  The memory
 * begins at the next multiple of 64 KiB.  Pages of zeros are holes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdnoreturn.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <linux/kvm.h>
#include <linux/kvm_mem.h>
#include <linux/userfaultfd.h>

#include <libfdt.h>

#define KIB(n)			((__u64)(n) << 10)
#define MIB(n)			((__u64)(n) << 20)
#define GIB(n)			((__u64)(n) << 30)
#define ARRAY_SIZE(a)		(sizeof(a) / sizeof((a)[0]))

#define MAX_VCPUS		8
#define MAX_REGS		1024

/* Guest-physical addresses */
#define GICD_GPA		0x08000000ull
#define GICR_GPA		0x08100000ull
#define GICR_SIZE		KIB(128)	/* for each vCPU */
#define UART_GPA		0x09000000ull
#define UART_SIZE		8
#define RAM_GPA			GIB(1)

/* INTIDs */
#define NR_IRQS			64
#define ASYNC_PF_PPI		22
#define UART_SPI		32

struct options {
	const char *kernel, *initrd, *append;
	const char *save, *restore;
	__u64 memory;
	int nr_vcpus;
	bool async_pf;
	int async_pf_limit;
	bool private;
	int latency_ms;
	int stream;			/* pages per second that nobody has asked for */
	bool quiet;
} options = {
	.append = "console=ttyS0",
	.memory = MIB(256),
	.nr_vcpus = 1,
	.async_pf = true,
};

struct reg {
	__u64 id;
	__u8 value[16];
};

struct vcpu_state {
	struct kvm_mp_state mp_state;
	struct kvm_vcpu_events events;
	__u32 nr_regs;
	struct reg regs[MAX_REGS];
	__u32 redist[24];
	__u64 icc[8];
};

struct uart {
	__u8 ier, lcr, mcr, scr, dll, dlm;
	bool thr_empty;			/* the interrupt that says so is due */
	__u8 rx[64];
	__u32 nr_rx;
};

#define MAGIC			0x31304d56595a414cull	/* "LAZYVM01" */

struct snapshot {
	__u64 magic;
	__u64 memory;
	__u64 memory_offset;
	__u32 nr_vcpus;
	__u32 async_pf;
	struct uart uart;
	__u32 dist[128];
};

struct vcpu {
	int index, fd;
	struct kvm_run *run;
	pthread_t thread;
};

static struct {
	int kvm, vm, gic;
	int private;			/* guest_memfd, with --private */
	void *memory;
	size_t page_size, nr_pages;
	struct vcpu vcpus[MAX_VCPUS];

	/* Wake the main thread: the guest is off, or has been reset. */
	int end;
	bool reset;

	pthread_mutex_t lock;		/* protects the fields that follow */
	pthread_cond_t change;
	bool paused;
	int nr_parked;			/* vCPUs that have noticed it */
	struct uart uart;
} vm = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.change = PTHREAD_COND_INITIALIZER,
};

static noreturn void die(const char *format, ...)
{
	va_list args;

	fprintf(stderr, "lazyvm: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
	exit(1);
}

static void say(const char *format, ...)
{
	va_list args;

	if (options.quiet)
		return;
	fprintf(stderr, "lazyvm: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
}

/* The argument of a KVM ioctl is a pointer or a number. */
#define kvm_ioctl(fd, request, arg)						\
({										\
	int __r = ioctl(fd, request, arg);					\
										\
	if (__r < 0)								\
		die("%s: %s", #request, strerror(errno));			\
	__r;									\
})

static __u64 now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000ull + now.tv_nsec / 1000;
}

static __u64 align_up(__u64 value, __u64 alignment)
{
	return (value + alignment - 1) / alignment * alignment;
}

/* ---- The serial port: an 8250 without FIFO ------------------------------- */

enum { UART_DATA, UART_IER, UART_IIR, UART_LCR, UART_MCR, UART_LSR, UART_MSR, UART_SCR };

#define IER_RX			0x01
#define IER_THR_EMPTY		0x02
#define IIR_NONE		0x01
#define IIR_THR_EMPTY		0x02
#define IIR_RX			0x04
#define LCR_DLAB		0x80
#define LSR_RX			0x01
#define LSR_EMPTY		0x60
#define MSR_READY		0xb0

static __u8 uart_iir(struct uart *uart)
{
	if (uart->ier & IER_RX && uart->nr_rx)
		return IIR_RX;
	if (uart->ier & IER_THR_EMPTY && uart->thr_empty)
		return IIR_THR_EMPTY;
	return IIR_NONE;
}

static void uart_update_irq(struct uart *uart)
{
	struct kvm_irq_level level = {
		.irq = KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT | UART_SPI,
		.level = uart_iir(uart) != IIR_NONE,
	};

	kvm_ioctl(vm.vm, KVM_IRQ_LINE, &level);
}

static __u8 uart_read(struct uart *uart, int reg)
{
	__u8 value = 0;

	switch (reg) {
	case UART_DATA:
		if (uart->lcr & LCR_DLAB) {
			value = uart->dll;
		} else if (uart->nr_rx) {
			value = uart->rx[0];
			memmove(uart->rx, uart->rx + 1, --uart->nr_rx);
		}
		break;
	case UART_IER:
		value = uart->lcr & LCR_DLAB ? uart->dlm : uart->ier;
		break;
	case UART_IIR:
		value = uart_iir(uart);
		if (value == IIR_THR_EMPTY)
			uart->thr_empty = false;
		break;
	case UART_LCR:
		value = uart->lcr;
		break;
	case UART_MCR:
		value = uart->mcr;
		break;
	case UART_LSR:
		value = LSR_EMPTY | (uart->nr_rx ? LSR_RX : 0);
		break;
	case UART_MSR:
		value = MSR_READY;
		break;
	case UART_SCR:
		value = uart->scr;
		break;
	}
	return value;
}

static void uart_write(struct uart *uart, int reg, __u8 value)
{
	switch (reg) {
	case UART_DATA:
		if (uart->lcr & LCR_DLAB) {
			uart->dll = value;
		} else {
			if (write(STDOUT_FILENO, &value, 1) != 1)
				die("cannot write to the standard output: %s", strerror(errno));
			uart->thr_empty = true;
		}
		break;
	case UART_IER:
		if (uart->lcr & LCR_DLAB) {
			uart->dlm = value;
		} else {
			uart->ier = value & 0x0f;
			uart->thr_empty = true;
		}
		break;
	case UART_LCR:
		uart->lcr = value;
		break;
	case UART_MCR:
		uart->mcr = value;
		break;
	case UART_SCR:
		uart->scr = value;
		break;
	}
}

/* Addresses without a device read as 0. */
static void handle_mmio(struct kvm_run *run)
{
	__u64 reg = run->mmio.phys_addr - UART_GPA;

	if (reg >= UART_SIZE) {
		memset(run->mmio.data, 0, sizeof(run->mmio.data));
		return;
	}
	pthread_mutex_lock(&vm.lock);
	if (run->mmio.is_write)
		uart_write(&vm.uart, reg, run->mmio.data[0]);
	else
		run->mmio.data[0] = uart_read(&vm.uart, reg);
	uart_update_irq(&vm.uart);
	pthread_mutex_unlock(&vm.lock);
}

/* Returns false at the end of the input. */
static bool read_input(void)
{
	char c;

	if (read(STDIN_FILENO, &c, 1) != 1)
		return false;
	pthread_mutex_lock(&vm.lock);
	if (vm.uart.nr_rx < sizeof(vm.uart.rx))
		vm.uart.rx[vm.uart.nr_rx++] = c;
	uart_update_irq(&vm.uart);
	pthread_mutex_unlock(&vm.lock);
	return true;
}

/* ---- vCPUs ---------------------------------------------------------------- */

static void end(bool reset)
{
	__u64 one = 1;

	vm.reset = reset;
	if (write(vm.end, &one, sizeof(one)) != sizeof(one))
		die("cannot write to an eventfd: %s", strerror(errno));
}

/*
 * immediate_exit is set with the lock held, so that it is not cleared here before the vCPU
 * has seen it.
 */
static void park(struct vcpu *vcpu)
{
	pthread_mutex_lock(&vm.lock);
	vcpu->run->immediate_exit = 0;
	while (vm.paused) {
		vm.nr_parked++;
		pthread_cond_broadcast(&vm.change);
		pthread_cond_wait(&vm.change, &vm.lock);
		vm.nr_parked--;
	}
	pthread_mutex_unlock(&vm.lock);
}

/*
 * A vCPU only parks when KVM_RUN has failed with EINTR.  After another exit, KVM_RUN must be
 * called again, for KVM to complete the guest's access: with immediate_exit, it does nothing
 * else.
 */
static void *run_vcpu(void *arg)
{
	struct vcpu *vcpu = arg;
	struct kvm_run *run = vcpu->run;

	for (;;) {
		if (ioctl(vcpu->fd, KVM_RUN, 0)) {
			if (errno != EINTR)
				die("vCPU %d: KVM_RUN: %s", vcpu->index, strerror(errno));
			park(vcpu);
			continue;
		}
		switch (run->exit_reason) {
		case KVM_EXIT_MMIO:
			handle_mmio(run);
			break;
		case KVM_EXIT_SYSTEM_EVENT:
			end(run->system_event.type == KVM_SYSTEM_EVENT_RESET);
			break;
		default:
			die("vCPU %d: unexpected exit %d", vcpu->index, run->exit_reason);
		}
	}
	return NULL;
}

static void do_nothing(int signal)
{
}

static void pause_vcpus(void)
{
	pthread_mutex_lock(&vm.lock);
	vm.paused = true;
	for (int i = 0; i < options.nr_vcpus; i++) {
		vm.vcpus[i].run->immediate_exit = 1;
		pthread_kill(vm.vcpus[i].thread, SIGUSR2);
	}
	while (vm.nr_parked < options.nr_vcpus)
		pthread_cond_wait(&vm.change, &vm.lock);
	pthread_mutex_unlock(&vm.lock);
}

static void start_vcpus(void)
{
	signal(SIGUSR2, do_nothing);
	for (int i = 0; i < options.nr_vcpus; i++)
		if (pthread_create(&vm.vcpus[i].thread, NULL, run_vcpu, &vm.vcpus[i]))
			die("cannot create a thread for vCPU %d", i);
}

static int check_extension(int cap)
{
	return ioctl(vm.vm, KVM_CHECK_EXTENSION, cap);
}

static void enable_cap(int cap, __u64 arg)
{
	struct kvm_enable_cap enable = { .cap = cap, .args = { arg } };

	kvm_ioctl(vm.vm, KVM_ENABLE_CAP, &enable);
}

/* @request is KVM_GET_DEVICE_ATTR or KVM_SET_DEVICE_ATTR, of the GIC or of a vCPU. */
static void access_attr(int fd, unsigned long request, __u32 group, __u64 attr, void *value)
{
	struct kvm_device_attr device_attr = {
		.group = group,
		.attr = attr,
		.addr = (uintptr_t)value,
	};

	if (ioctl(fd, request, &device_attr))
		die("cannot access attribute 0x%llx of group %u: %s", attr, group,
		    strerror(errno));
}

static void set_device_attr(int fd, __u32 group, __u64 attr, void *value)
{
	access_attr(fd, KVM_SET_DEVICE_ATTR, group, attr, value);
}

static void set_reg(struct vcpu *vcpu, __u64 id, void *value)
{
	struct kvm_one_reg reg = { .id = id, .addr = (uintptr_t)value };

	if (ioctl(vcpu->fd, KVM_SET_ONE_REG, &reg))
		die("vCPU %d: cannot set register 0x%llx: %s", vcpu->index, id,
		    strerror(errno));
}

/*
 * Asynchronous page faults, step 1 of 2: each vCPU offers them to the guest, before any vCPU
 * runs.  The guest then finds the hypercall.
 */
static void offer_async_pf(struct vcpu *vcpu)
{
	__u64 bits = 1ull << KVM_REG_ARM_ASYNC_PF_BIT_V1;

	set_reg(vcpu, KVM_REG_ARM_ASYNC_PF_BMAP, &bits);
}

/* Step 2 of 2: when the GIC is initialised, each vCPU gets the PPI. */
static void set_async_pf_irq(struct vcpu *vcpu)
{
	int irq = ASYNC_PF_PPI;

	set_device_attr(vcpu->fd, KVM_ARM_VCPU_ASYNC_PF_CTRL, KVM_ARM_VCPU_ASYNC_PF_IRQ, &irq);
}

static void create_vcpu(int index)
{
	struct vcpu *vcpu = &vm.vcpus[index];
	struct kvm_vcpu_init init;
	int size = kvm_ioctl(vm.kvm, KVM_GET_VCPU_MMAP_SIZE, 0);

	vcpu->index = index;
	vcpu->fd = kvm_ioctl(vm.vm, KVM_CREATE_VCPU, index);
	vcpu->run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED)
		die("cannot map vCPU %d: %s", index, strerror(errno));

	kvm_ioctl(vm.vm, KVM_ARM_PREFERRED_TARGET, &init);
	init.features[0] = 1 << KVM_ARM_VCPU_PSCI_0_2;
	if (index)
		init.features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
	kvm_ioctl(vcpu->fd, KVM_ARM_VCPU_INIT, &init);
	if (options.async_pf)
		offer_async_pf(vcpu);
}

static void create_gic(void)
{
	__u64 dist = GICD_GPA, redist = GICR_GPA | (__u64)options.nr_vcpus << 52;
	struct kvm_create_device create = { .type = KVM_DEV_TYPE_ARM_VGIC_V3 };
	__u32 nr_irqs = NR_IRQS;

	if (ioctl(vm.vm, KVM_CREATE_DEVICE, &create))
		die("KVM has no GICv3 for guests: %s", strerror(errno));
	vm.gic = create.fd;
	set_device_attr(vm.gic, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, &dist);
	set_device_attr(vm.gic, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION,
			&redist);
	set_device_attr(vm.gic, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &nr_irqs);
	set_device_attr(vm.gic, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, NULL);
}

static void set_memslot(__u32 flags)
{
	struct kvm_userspace_memory_region2 region = {
		.flags = flags | (options.private ? KVM_MEM_GUEST_MEMFD : 0),
		.guest_phys_addr = RAM_GPA,
		.memory_size = options.memory,
		.userspace_addr = (uintptr_t)vm.memory,
		.guest_memfd = vm.private,
	};

	kvm_ioctl(vm.vm, KVM_SET_USER_MEMORY_REGION2, &region);
}

static void create_vm(void)
{
	vm.page_size = getpagesize();
	vm.nr_pages = options.memory / vm.page_size;
	vm.end = eventfd(0, EFD_CLOEXEC);
	vm.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm.kvm < 0)
		die("cannot open /dev/kvm: %s", strerror(errno));
	vm.vm = ioctl(vm.kvm, KVM_CREATE_VM, options.private ? KVM_VM_TYPE_ARM_SW_PROTECTED : 0);
	if (vm.vm < 0)
		die("cannot create a VM%s: %s", options.private ? " with private memory" : "",
		    strerror(errno));
	if (options.private) {
		struct kvm_create_guest_memfd create = { .size = options.memory };

		vm.private = kvm_ioctl(vm.vm, KVM_CREATE_GUEST_MEMFD, &create);
	}

	if (options.async_pf && !check_extension(KVM_CAP_ARM_ASYNC_PF))
		die("this KVM has no asynchronous page faults: use --async-pf off");
	if (options.async_pf_limit) {
		if (options.async_pf_limit > check_extension(KVM_CAP_ASYNC_PF_LIMIT))
			die("this KVM allows at most %d asynchronous page faults for each vCPU",
			    check_extension(KVM_CAP_ASYNC_PF_LIMIT));
		enable_cap(KVM_CAP_ASYNC_PF_LIMIT, options.async_pf_limit);
	}

	vm.memory = mmap(NULL, options.memory, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (vm.memory == MAP_FAILED)
		die("cannot map the guest's memory: %s", strerror(errno));
	set_memslot(0);
	for (int i = 0; i < options.nr_vcpus; i++)
		create_vcpu(i);
	create_gic();
	if (options.async_pf)
		for (int i = 0; i < options.nr_vcpus; i++)
			set_async_pf_irq(&vm.vcpus[i]);
}

/* ---- Boot ----------------------------------------------------------------- */

/* Read a file to an offset in the guest's memory, and return its size. */
static size_t load(const char *path, __u64 offset)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat stat;
	size_t done = 0;

	if (fd < 0 || fstat(fd, &stat))
		die("cannot open %s: %s", path, strerror(errno));
	if (offset > options.memory || (__u64)stat.st_size > options.memory - offset)
		die("%s doesn't fit into the guest's memory: use a larger --memory", path);
	while (done < (size_t)stat.st_size) {
		ssize_t n = read(fd, vm.memory + offset + done, stat.st_size - done);

		if (n <= 0)
			die("cannot read %s: %s", path, n ? strerror(errno) : "it got shorter");
		done += n;
	}
	close(fd);
	return done;
}

/* The beginning of an Image: Documentation/arch/arm64/booting.rst */
struct image {
	__u32 code[2];
	__u64 text_offset, image_size, flags;
	__u64 reserved[3];
	__u32 magic;
};

#define IMAGE_MAGIC		0x644d5241	/* "ARM\x64" */

#define GIC_PHANDLE		1
#define IRQ_SPI			0
#define IRQ_PPI			1
#define IRQ_LEVEL_HIGH		4
#define IRQ_LEVEL_LOW		8

static void fdt_check(int error)
{
	if (error)
		die("cannot write the device tree: %s", fdt_strerror(error));
}

static void fdt_cells(void *fdt, const char *name, int nr, ...)
{
	__u32 cells[16];
	va_list args;

	va_start(args, nr);
	for (int i = 0; i < nr; i++)
		cells[i] = cpu_to_fdt32(va_arg(args, __u32));
	va_end(args);
	fdt_check(fdt_property(fdt, name, cells, nr * sizeof(cells[0])));
}

static void fdt_reg(void *fdt, int nr, ...)
{
	__u64 cells[8];
	va_list args;

	va_start(args, nr);
	for (int i = 0; i < nr; i++)
		cells[i] = cpu_to_fdt64(va_arg(args, __u64));
	va_end(args);
	fdt_check(fdt_property(fdt, "reg", cells, nr * sizeof(cells[0])));
}

/* The PPI of asynchronous page faults is not in the tree: the guest gets it from KVM. */
static void write_device_tree(void *fdt, size_t size, __u64 initrd, size_t initrd_size)
{
	char name[32];

	fdt_check(fdt_create(fdt, size));
	fdt_check(fdt_finish_reservemap(fdt));
	fdt_check(fdt_begin_node(fdt, ""));
	fdt_check(fdt_property_string(fdt, "compatible", "linux,dummy-virt"));
	fdt_check(fdt_property_u32(fdt, "#address-cells", 2));
	fdt_check(fdt_property_u32(fdt, "#size-cells", 2));
	fdt_check(fdt_property_u32(fdt, "interrupt-parent", GIC_PHANDLE));

	fdt_check(fdt_begin_node(fdt, "chosen"));
	fdt_check(fdt_property_string(fdt, "bootargs", options.append));
	fdt_check(fdt_property_string(fdt, "stdout-path", "/serial@9000000"));
	if (initrd_size) {
		fdt_check(fdt_property_u64(fdt, "linux,initrd-start", RAM_GPA + initrd));
		fdt_check(fdt_property_u64(fdt, "linux,initrd-end",
					   RAM_GPA + initrd + initrd_size));
	}
	fdt_check(fdt_end_node(fdt));

	fdt_check(fdt_begin_node(fdt, "memory@40000000"));
	fdt_check(fdt_property_string(fdt, "device_type", "memory"));
	fdt_reg(fdt, 2, RAM_GPA, options.memory);
	fdt_check(fdt_end_node(fdt));

	fdt_check(fdt_begin_node(fdt, "cpus"));
	fdt_check(fdt_property_u32(fdt, "#address-cells", 1));
	fdt_check(fdt_property_u32(fdt, "#size-cells", 0));
	for (int i = 0; i < options.nr_vcpus; i++) {
		snprintf(name, sizeof(name), "cpu@%x", i);
		fdt_check(fdt_begin_node(fdt, name));
		fdt_check(fdt_property_string(fdt, "device_type", "cpu"));
		fdt_check(fdt_property_string(fdt, "compatible", "arm,armv8"));
		fdt_check(fdt_property_string(fdt, "enable-method", "psci"));
		fdt_check(fdt_property_u32(fdt, "reg", i));
		fdt_check(fdt_end_node(fdt));
	}
	fdt_check(fdt_end_node(fdt));

	fdt_check(fdt_begin_node(fdt, "psci"));
	fdt_check(fdt_property_string(fdt, "compatible", "arm,psci-0.2"));
	fdt_check(fdt_property_string(fdt, "method", "hvc"));
	fdt_check(fdt_end_node(fdt));

	/* The secure, the physical, the virtual and the hypervisor's timer */
	fdt_check(fdt_begin_node(fdt, "timer"));
	fdt_check(fdt_property_string(fdt, "compatible", "arm,armv8-timer"));
	fdt_cells(fdt, "interrupts", 12, IRQ_PPI, 13, IRQ_LEVEL_LOW, IRQ_PPI, 14, IRQ_LEVEL_LOW,
		  IRQ_PPI, 11, IRQ_LEVEL_LOW, IRQ_PPI, 10, IRQ_LEVEL_LOW);
	fdt_check(fdt_end_node(fdt));

	fdt_check(fdt_begin_node(fdt, "intc@8000000"));
	fdt_check(fdt_property_string(fdt, "compatible", "arm,gic-v3"));
	fdt_check(fdt_property_u32(fdt, "#interrupt-cells", 3));
	fdt_check(fdt_property(fdt, "interrupt-controller", NULL, 0));
	fdt_check(fdt_property_u32(fdt, "phandle", GIC_PHANDLE));
	fdt_reg(fdt, 4, GICD_GPA, KIB(64), GICR_GPA, GICR_SIZE * options.nr_vcpus);
	fdt_check(fdt_end_node(fdt));

	fdt_check(fdt_begin_node(fdt, "serial@9000000"));
	fdt_check(fdt_property_string(fdt, "compatible", "ns8250"));
	fdt_check(fdt_property_u32(fdt, "clock-frequency", 1843200));
	fdt_cells(fdt, "interrupts", 3, IRQ_SPI, UART_SPI - 32, IRQ_LEVEL_HIGH);
	fdt_reg(fdt, 2, UART_GPA, (__u64)UART_SIZE);
	fdt_check(fdt_end_node(fdt));

	fdt_check(fdt_end_node(fdt));
	fdt_check(fdt_finish(fdt));
}

/*
 * All memory from @offset on.  A VMM can't read or write private memory, so what it has
 * loaded is shared, and the rest, where the guest keeps what it works on, is private.
 */
static void make_private(__u64 offset)
{
	struct kvm_memory_attributes attributes = {
		.address = RAM_GPA + offset,
		.size = options.memory - offset,
		.attributes = KVM_MEMORY_ATTRIBUTE_PRIVATE,
	};

	kvm_ioctl(vm.vm, KVM_SET_MEMORY_ATTRIBUTES, &attributes);
}

/* A range at a time, as another call continues where the last one ended. */
static void show_attributes(void)
{
	struct kvm_memory_attributes range;
	struct kvm_get_memory_attributes get = {
		.address = RAM_GPA,
		.size = options.memory,
		.ranges = (uintptr_t)&range,
	};

	while (get.size) {
		get.nr = 1;
		kvm_ioctl(vm.vm, KVM_GET_MEMORY_ATTRIBUTES, &get);
		say("%llu KiB at 0x%llx are %s", range.size >> 10, range.address,
		    range.attributes & KVM_MEMORY_ATTRIBUTE_PRIVATE ? "private" : "shared");
	}
}

/* The kernel, the device tree and the initramfs follow each other from the start of RAM on. */
static void boot(void)
{
	struct vcpu *vcpu = &vm.vcpus[0];
	__u64 kernel, tree, initrd;
	size_t tree_size = KIB(64), initrd_size = 0;
	struct image image;
	int fd = open(options.kernel, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		die("cannot open %s: %s", options.kernel, strerror(errno));
	if (read(fd, &image, sizeof(image)) != sizeof(image) || image.magic != IMAGE_MAGIC)
		die("%s is not an Image of arm64, or it is compressed", options.kernel);
	close(fd);

	load(options.kernel, image.text_offset);
	tree = align_up(image.text_offset + image.image_size, MIB(2));
	initrd = tree + tree_size;
	if (initrd > options.memory)
		die("the kernel needs %llu MiB: use a larger --memory", initrd >> 20);
	if (options.initrd)
		initrd_size = load(options.initrd, initrd);
	write_device_tree(vm.memory + tree, tree_size, initrd, initrd_size);
	if (options.private) {
		make_private(align_up(initrd + initrd_size, vm.page_size));
		show_attributes();
	}

	kernel = RAM_GPA + image.text_offset;
	tree += RAM_GPA;
	set_reg(vcpu, KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE |
		KVM_REG_ARM_CORE_REG(regs.pc), &kernel);
	set_reg(vcpu, KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE |
		KVM_REG_ARM_CORE_REG(regs.regs[0]), &tree);
}

/* ---- The state of the VM, without its memory ------------------------------ */

/* Registers of the GIC: offset of the first, and how many 32-bit words */
struct gic_range {
	__u32 offset, nr;
};

/*
 * GICD_IIDR, which tells KVM how the GIC has to behave and comes first, and GICD_CTLR.  Then
 * for the SPIs, which are numbered from 32 on: IGROUPR, ISENABLER, ISPENDR, ISACTIVER,
 * IPRIORITYR, ICFGR, IROUTER.
 */
static const struct gic_range dist_ranges[] = {
	{ 0x0008, 1 }, { 0x0000, 1 }, { 0x0084, 1 }, { 0x0104, 1 }, { 0x0204, 1 }, { 0x0304, 1 },
	{ 0x0420, 8 }, { 0x0c08, 2 }, { 0x6100, 64 },
};

/*
 * GICR_CTLR, GICR_WAKER, and for the SGIs and PPIs: IGROUPR0, ... ICFGR0 and ICFGR1.  In a new
 * GIC, only the SGIs are enabled, and Linux never disables them.
 */
static const struct gic_range redist_ranges[] = {
	{ 0x00000, 1 }, { 0x00014, 1 }, { 0x10080, 1 }, { 0x10100, 1 }, { 0x10200, 1 },
	{ 0x10300, 1 }, { 0x10400, 8 }, { 0x10c00, 2 },
};

#define ICC(op0, op1, crn, crm, op2)	\
	((op0) << 14 | (op1) << 11 | (crn) << 7 | (crm) << 3 | (op2))

static const __u64 icc_regs[] = {
	ICC(3, 0, 12, 12, 5),	/* ICC_SRE_EL1 */
	ICC(3, 0, 12, 12, 4),	/* ICC_CTLR_EL1 */
	ICC(3, 0, 12, 12, 6),	/* ICC_IGRPEN0_EL1 */
	ICC(3, 0, 12, 12, 7),	/* ICC_IGRPEN1_EL1 */
	ICC(3, 0, 4, 6, 0),	/* ICC_PMR_EL1 */
	ICC(3, 0, 12, 12, 3),	/* ICC_BPR1_EL1 */
	ICC(3, 0, 12, 9, 0),	/* ICC_AP1R0_EL1 */
};

static void access_ranges(unsigned long request, __u32 group, __u64 attr,
			  const struct gic_range *ranges, int nr, __u32 *values)
{
	for (int i = 0; i < nr; i++)
		for (__u32 j = 0; j < ranges[i].nr; j++)
			access_attr(vm.gic, request, group, attr | (ranges[i].offset + 4 * j),
				    values++);
}

/* @request is KVM_GET_DEVICE_ATTR or KVM_SET_DEVICE_ATTR. */
static void access_gic_state(unsigned long request, struct snapshot *snapshot,
			     struct vcpu_state *states)
{
	access_ranges(request, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, 0, dist_ranges,
		      ARRAY_SIZE(dist_ranges), snapshot->dist);
	for (int i = 0; i < options.nr_vcpus; i++) {
		/* A vCPU's affinity is its index here. */
		__u64 vcpu = (__u64)i << 32;

		access_ranges(request, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, vcpu, redist_ranges,
			      ARRAY_SIZE(redist_ranges), states[i].redist);
		for (size_t j = 0; j < ARRAY_SIZE(icc_regs); j++)
			access_attr(vm.gic, request, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS,
				    vcpu | icc_regs[j], &states[i].icc[j]);
	}
}

static size_t reg_size(__u64 id)
{
	return 1ul << ((id & KVM_REG_SIZE_MASK) >> KVM_REG_SIZE_SHIFT);
}

static void save_vcpu(struct vcpu *vcpu, struct vcpu_state *state)
{
	struct {
		struct kvm_reg_list list;
		__u64 ids[MAX_REGS];
	} regs = { .list.n = MAX_REGS };

	kvm_ioctl(vcpu->fd, KVM_GET_MP_STATE, &state->mp_state);
	kvm_ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &state->events);
	kvm_ioctl(vcpu->fd, KVM_GET_REG_LIST, &regs.list);
	state->nr_regs = regs.list.n;
	for (__u32 i = 0; i < state->nr_regs; i++) {
		struct kvm_one_reg reg = {
			.id = regs.ids[i],
			.addr = (uintptr_t)state->regs[i].value,
		};

		if (reg_size(reg.id) > sizeof(state->regs[i].value))
			die("register 0x%llx is too large", reg.id);
		state->regs[i].id = reg.id;
		kvm_ioctl(vcpu->fd, KVM_GET_ONE_REG, &reg);
	}
}

/* The memslots, the GIC and its PPIs come first: KVM_REG_ARM_ASYNC_PF needs them. */
static void restore_vcpu(struct vcpu *vcpu, struct vcpu_state *state)
{
	for (__u32 i = 0; i < state->nr_regs; i++)
		set_reg(vcpu, state->regs[i].id, state->regs[i].value);
	kvm_ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &state->events);
	kvm_ioctl(vcpu->fd, KVM_SET_MP_STATE, &state->mp_state);
}

/* ---- Pages that come late ------------------------------------------------- */

struct request {
	__u64 due;			/* now_us() */
	size_t page;
};

static struct {
	int uffd;
	const void *source;		/* the memory in the file */
	pthread_t thread;

	pthread_mutex_t lock;		/* protects the fields that follow */
	bool *asked;			/* for each page: it was requested, or is there */
	bool *present;
	struct request *queue;		/* a ring, in the order in which they are due */
	size_t first, nr;
	size_t nr_present, nr_asked, next_streamed;
} pages = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void install(size_t page)
{
	struct uffdio_copy copy = {
		.dst = (uintptr_t)vm.memory + page * vm.page_size,
		.src = (uintptr_t)pages.source + page * vm.page_size,
		.len = vm.page_size,
	};

	if (ioctl(pages.uffd, UFFDIO_COPY, &copy))
		die("UFFDIO_COPY: %s", strerror(errno));
	pages.present[page] = true;
	pages.nr_present++;
}

/* Pages are due in the order of their requests, as the latency is always the same. */
static void request(size_t page)
{
	struct request *request = &pages.queue[(pages.first + pages.nr) % vm.nr_pages];

	if (pages.asked[page])
		return;
	pages.asked[page] = true;
	pages.nr_asked++;
	request->due = now_us() + options.latency_ms * 1000ull;
	request->page = page;
	pages.nr++;
}

static void serve_due(void)
{
	__u64 now = now_us();

	while (pages.nr && pages.queue[pages.first].due <= now) {
		install(pages.queue[pages.first].page);
		pages.first = (pages.first + 1) % vm.nr_pages;
		pages.nr--;
	}
}

/* Install the next page that nobody has asked for.  Returns false if there is none. */
static bool stream_page(void)
{
	while (pages.next_streamed < vm.nr_pages && pages.asked[pages.next_streamed])
		pages.next_streamed++;
	if (pages.next_streamed == vm.nr_pages)
		return false;
	pages.asked[pages.next_streamed] = true;
	install(pages.next_streamed);
	return true;
}

/* How long the server may sleep.  @next_stream is when the next page is streamed. */
static struct timespec time_to_wait(__u64 next_stream)
{
	__u64 now = now_us(), until = now + 1000000;

	if (pages.nr && pages.queue[pages.first].due < until)
		until = pages.queue[pages.first].due;
	if (next_stream < until)
		until = next_stream;
	until = until > now ? until - now : 0;
	return (struct timespec){ until / 1000000, until % 1000000 * 1000 };
}

static void *serve_pages(void *unused)
{
	struct pollfd poll = { .fd = pages.uffd, .events = POLLIN };
	__u64 interval = options.stream ? 1000000 / options.stream : 0;
	__u64 next_stream = interval ? now_us() + interval : UINT64_MAX;
	struct uffd_msg msgs[64];
	struct timespec timeout;
	ssize_t size;

	for (;;) {
		pthread_mutex_lock(&pages.lock);
		timeout = time_to_wait(next_stream);
		pthread_mutex_unlock(&pages.lock);
		ppoll(&poll, 1, &timeout, NULL);

		pthread_mutex_lock(&pages.lock);
		size = read(pages.uffd, msgs, sizeof(msgs));
		for (ssize_t i = 0; i < size / (ssize_t)sizeof(msgs[0]); i++)
			request((msgs[i].arg.pagefault.address - (uintptr_t)vm.memory) /
				vm.page_size);
		serve_due();
		/* One at a time: the pages that are due come first. */
		if (next_stream <= now_us())
			next_stream = stream_page() ? now_us() + interval : UINT64_MAX;
		pthread_mutex_unlock(&pages.lock);
	}
	return NULL;
}

static void start_server(const void *source)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { (uintptr_t)vm.memory, options.memory },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	pages.source = source;
	pages.asked = calloc(vm.nr_pages, sizeof(*pages.asked));
	pages.present = calloc(vm.nr_pages, sizeof(*pages.present));
	pages.queue = calloc(vm.nr_pages, sizeof(*pages.queue));
	if (!pages.asked || !pages.present || !pages.queue)
		die("no memory for the list of pages");
	pages.uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (pages.uffd < 0)
		die("userfaultfd: %s (it needs root, or vm.unprivileged_userfaultfd)",
		    strerror(errno));
	if (ioctl(pages.uffd, UFFDIO_API, &api) || ioctl(pages.uffd, UFFDIO_REGISTER, &reg))
		die("userfaultfd: %s", strerror(errno));
	if (pthread_create(&pages.thread, NULL, serve_pages, NULL))
		die("cannot create a thread for the pages");
}

/* Unless nothing has changed */
static void show_pages(void)
{
	static size_t last_present = -1;
	size_t nr_present, nr_asked, nr;

	if (!pages.source)
		return;
	pthread_mutex_lock(&pages.lock);
	nr_present = pages.nr_present;
	nr_asked = pages.nr_asked;
	nr = pages.nr;
	pthread_mutex_unlock(&pages.lock);
	if (nr_present == last_present)
		return;
	last_present = nr_present;
	say("%zu of %zu pages are here, %zu on request; %zu on their way", nr_present, vm.nr_pages,
	    nr_asked, nr);
}

/* ---- Save ----------------------------------------------------------------- */

/*
 * So many pages are cleared in one call, and copied then.  KVM needs a multiple of 64.  The call
 * holds no vCPU up if KVM has KVM_CAP_DIRTY_LOG_EXACT, so this could be more.
 */
#define CHUNK			16384

/* Stop the vCPUs when no more pages are dirty, or after so many rounds. */
#define FEW_PAGES		256
#define MAX_ROUNDS		10

static void write_all(int fd, const void *data, size_t size, off_t offset)
{
	while (size) {
		ssize_t n = pwrite(fd, data, size, offset);

		if (n <= 0)
			die("cannot write %s: %s", options.save, strerror(errno));
		data += n;
		size -= n;
		offset += n;
	}
}

/*
 * A page that the guest has not got yet is still in the file that the VM came from.  The
 * first time, a page of zeros need not be written.
 */
static void save_page(int fd, off_t memory_offset, size_t page, bool first)
{
	static const char zeros[KIB(64)];
	const void *data = vm.memory + page * vm.page_size;
	bool present = true;

	if (pages.source) {
		pthread_mutex_lock(&pages.lock);
		present = pages.present[page];
		pthread_mutex_unlock(&pages.lock);
	}
	if (!present)
		data = pages.source + page * vm.page_size;
	if (first && !memcmp(data, zeros, vm.page_size))
		return;
	write_all(fd, data, vm.page_size, memory_offset + page * vm.page_size);
}

static bool test_bit(const __u64 *bits, size_t n)
{
	return bits[n / 64] >> n % 64 & 1;
}

/* Save the dirty pages, and return how many there were. */
static size_t save_dirty_pages(int fd, off_t memory_offset, __u64 *bits)
{
	struct kvm_dirty_log get = { .dirty_bitmap = bits };
	size_t nr = 0;

	kvm_ioctl(vm.vm, KVM_GET_DIRTY_LOG, &get);
	for (size_t first = 0; first < vm.nr_pages; first += CHUNK) {
		size_t end = first + CHUNK < vm.nr_pages ? first + CHUNK : vm.nr_pages;
		struct kvm_clear_dirty_log clear = {
			.first_page = first,
			.num_pages = end - first,
			.dirty_bitmap = bits + first / 64,
		};

		/* Clear first: what the guest writes after that is dirty again. */
		kvm_ioctl(vm.vm, KVM_CLEAR_DIRTY_LOG, &clear);
		for (size_t page = first; page < end; page++) {
			if (!test_bit(bits, page))
				continue;
			save_page(fd, memory_offset, page, false);
			nr++;
		}
	}
	return nr;
}

/*
 * Save the memory round by round, until the rest is so little that the guest can be paused
 * for it.  If hardware notes which pages are dirty, the guest takes no faults.  Before the
 * last rounds, that is turned off, so that KVM need not look at all pages while the guest is
 * paused.
 */
static void save_while_running(int fd, off_t memory_offset)
{
	__u64 *bits = calloc((vm.nr_pages + 63) / 64, sizeof(*bits));
	bool hw_dirty = check_extension(KVM_CAP_ARM_HW_DIRTY);
	size_t nr = 0, coming;
	__u64 start;

	if (!bits)
		die("no memory for the dirty log");
	enable_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
	if (hw_dirty)
		enable_cap(KVM_CAP_ARM_HW_DIRTY, 1);
	set_memslot(KVM_MEM_LOG_DIRTY_PAGES);
	for (size_t page = 0; page < vm.nr_pages; page++) {
		save_page(fd, memory_offset, page, true);
		if (page % 16384 == 0)
			say("saved %zu of %zu pages", page, vm.nr_pages);
	}
	for (int round = 0; round < MAX_ROUNDS; round++) {
		nr = save_dirty_pages(fd, memory_offset, bits);
		say("saved %zu pages that were dirty", nr);
		if (nr <= FEW_PAGES)
			break;
	}
	if (hw_dirty) {
		enable_cap(KVM_CAP_ARM_HW_DIRTY, 0);
		save_dirty_pages(fd, memory_offset, bits);
	}

	start = now_us();
	pause_vcpus();
	pthread_mutex_lock(&pages.lock);
	coming = pages.nr;
	pthread_mutex_unlock(&pages.lock);
	nr = save_dirty_pages(fd, memory_offset, bits);
	say("the guest is paused, with %zu pages on their way; saved %zu pages in %llu us",
	    coming, nr, now_us() - start);
	free(bits);
}

/* Write to another file first, so that the old one stays as it is if that fails. */
static void save(void)
{
	struct vcpu_state *states = calloc(options.nr_vcpus, sizeof(*states));
	struct snapshot snapshot = {
		.magic = MAGIC,
		.memory = options.memory,
		.memory_offset = align_up(sizeof(snapshot) + options.nr_vcpus * sizeof(*states),
					  KIB(64)),
		.nr_vcpus = options.nr_vcpus,
		.async_pf = options.async_pf,
	};
	char path[4096];
	int fd;

	if (!states)
		die("no memory for the vCPUs' states");
	snprintf(path, sizeof(path), "%s.new", options.save);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		die("cannot create %s: %s", path, strerror(errno));
	if (ftruncate(fd, snapshot.memory_offset + options.memory))
		die("cannot make %s so large: %s", path, strerror(errno));

	save_while_running(fd, snapshot.memory_offset);
	for (int i = 0; i < options.nr_vcpus; i++)
		save_vcpu(&vm.vcpus[i], &states[i]);
	access_gic_state(KVM_GET_DEVICE_ATTR, &snapshot, states);
	snapshot.uart = vm.uart;
	write_all(fd, &snapshot, sizeof(snapshot), 0);
	write_all(fd, states, options.nr_vcpus * sizeof(*states), sizeof(snapshot));
	if (close(fd) || rename(path, options.save))
		die("cannot write %s: %s", options.save, strerror(errno));
	say("saved the VM to %s", options.save);
	free(states);
}

/* ---- Restore -------------------------------------------------------------- */

/* Map the file, and take the options that it determines. */
static struct snapshot *open_snapshot(void)
{
	int fd = open(options.restore, O_RDONLY | O_CLOEXEC);
	struct snapshot *snapshot;
	struct stat stat;

	if (fd < 0 || fstat(fd, &stat))
		die("cannot open %s: %s", options.restore, strerror(errno));
	if ((size_t)stat.st_size < sizeof(*snapshot))
		die("%s was not saved by this program: it is too short", options.restore);
	snapshot = mmap(NULL, stat.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	if (snapshot == MAP_FAILED)
		die("cannot map %s: %s", options.restore, strerror(errno));
	close(fd);

	if (snapshot->magic != MAGIC)
		die("%s was not saved by this program", options.restore);
	if (!snapshot->nr_vcpus || snapshot->nr_vcpus > MAX_VCPUS ||
	    snapshot->memory % KIB(64) || snapshot->memory_offset % KIB(64) ||
	    snapshot->memory_offset < sizeof(*snapshot) +
				      snapshot->nr_vcpus * sizeof(struct vcpu_state) ||
	    snapshot->memory_offset > (__u64)stat.st_size ||
	    snapshot->memory != (__u64)stat.st_size - snapshot->memory_offset)
		die("%s is damaged: it has sizes that do not fit each other", options.restore);
	options.memory = snapshot->memory;
	options.nr_vcpus = snapshot->nr_vcpus;
	options.async_pf = snapshot->async_pf;
	return snapshot;
}

static void restore(struct snapshot *snapshot)
{
	struct vcpu_state *states = (void *)(snapshot + 1);

	for (int i = 0; i < options.nr_vcpus; i++)
		if (states[i].nr_regs > MAX_REGS)
			die("%s is damaged: vCPU %d has %u registers", options.restore, i,
			    states[i].nr_regs);
	if (snapshot->uart.nr_rx > sizeof(snapshot->uart.rx))
		die("%s is damaged: the serial port has %u bytes", options.restore,
		    snapshot->uart.nr_rx);

	start_server((void *)snapshot + snapshot->memory_offset);
	access_gic_state(KVM_SET_DEVICE_ATTR, snapshot, states);
	for (int i = 0; i < options.nr_vcpus; i++)
		restore_vcpu(&vm.vcpus[i], &states[i]);
	vm.uart = snapshot->uart;
	uart_update_irq(&vm.uart);
}

/* ---- Statistics ----------------------------------------------------------- */

/* Print a vCPU's statistics of asynchronous page faults. */
static void show_statistics(struct vcpu *vcpu)
{
	int fd = ioctl(vcpu->fd, KVM_GET_STATS_FD, 0);
	struct kvm_stats_header header;
	struct kvm_stats_desc *desc;
	__u64 value;
	size_t size;

	if (fd < 0 || pread(fd, &header, sizeof(header), 0) != sizeof(header))
		return;
	size = sizeof(*desc) + header.name_size;
	desc = malloc(size);
	for (__u32 i = 0; desc && i < header.num_desc; i++) {
		if (pread(fd, desc, size, header.desc_offset + i * size) != (ssize_t)size)
			break;
		if (strncmp(desc->name, "async_pf_", strlen("async_pf_")))
			continue;
		if (pread(fd, &value, sizeof(value), header.data_offset + desc->offset) ==
		    sizeof(value) && value)
			say("vCPU %d: %s %llu", vcpu->index, desc->name, value);
	}
	free(desc);
	close(fd);
}

/* ---- Main ----------------------------------------------------------------- */

static struct termios terminal;

static void restore_terminal(void)
{
	tcsetattr(STDIN_FILENO, TCSANOW, &terminal);
}

/* Pass each key to the guest at once.  Keys that send signals, such as ^C, end lazyvm. */
static void set_terminal(void)
{
	struct termios raw;

	if (tcgetattr(STDIN_FILENO, &terminal))
		return;
	raw = terminal;
	raw.c_lflag &= ~(ICANON | ECHO);
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	atexit(restore_terminal);
}

static const char help[] =
"usage: lazyvm --kernel IMAGE [--initrd FILE] [OPTION]...\n"
"       lazyvm --restore FILE [OPTION]...\n"
"\n"
"Boots a guest, or restores one: then each page comes when the guest first needs it.\n"
"\n"
"  --kernel IMAGE       an uncompressed Image of arm64\n"
"  --initrd FILE        its initramfs\n"
"  --append WORDS       its command line (default: %s)\n"
"  --memory MIB         its memory (default: %llu)\n"
"  --cpus N             its vCPUs, 1 to %d (default: %d)\n"
"  --async-pf on|off    offer asynchronous page faults (default: on)\n"
"  --async-pf-limit N   for so many pages of each vCPU (default: KVM's)\n"
"  --private            make all memory private except the part that holds the kernel and\n"
"                       the initramfs; lazyvm can't save such a guest, and offers it no\n"
"                       asynchronous page faults\n"
"\n"
"  --save FILE          save the guest to FILE, and end, on SIGUSR1\n"
"  --restore FILE       restore a guest that was saved\n"
"  --latency MS         each page comes so late (default: 0)\n"
"  --stream N           N pages per second come without being asked for (default: 0)\n"
"\n"
"  --quiet              say nothing but errors\n"
"  --help               print this\n"
"\n"
"The guest's console is the standard input and output.  The exit status is 0 if the guest\n"
"turns itself off or was saved, and 1 after an error.  If it reboots, the kernel is loaded\n"
"again.\n";

static unsigned long parse_number(const char *option, const char *arg, unsigned long min,
				  unsigned long max)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = strtoul(arg, &end, 0);
	if (errno || *end || end == arg || *arg == '-' || value < min || value > max)
		die("--%s takes a number from %lu to %lu, not \"%s\"", option, min, max, arg);
	return value;
}

static void parse_options(int argc, char *argv[])
{
	enum { KERNEL, INITRD, APPEND, MEMORY, CPUS, ASYNC_PF, ASYNC_PF_LIMIT, PRIVATE, SAVE,
	       RESTORE, LATENCY, STREAM, QUIET, HELP };
	static const struct option table[] = {
		{ "kernel", required_argument, NULL, KERNEL },
		{ "initrd", required_argument, NULL, INITRD },
		{ "append", required_argument, NULL, APPEND },
		{ "memory", required_argument, NULL, MEMORY },
		{ "cpus", required_argument, NULL, CPUS },
		{ "async-pf", required_argument, NULL, ASYNC_PF },
		{ "async-pf-limit", required_argument, NULL, ASYNC_PF_LIMIT },
		{ "private", no_argument, NULL, PRIVATE },
		{ "save", required_argument, NULL, SAVE },
		{ "restore", required_argument, NULL, RESTORE },
		{ "latency", required_argument, NULL, LATENCY },
		{ "stream", required_argument, NULL, STREAM },
		{ "quiet", no_argument, NULL, QUIET },
		{ "help", no_argument, NULL, HELP },
		{},
	};
	int option, index;

	while ((option = getopt_long(argc, argv, "", table, &index)) != -1) {
		switch (option) {
		case KERNEL:
			options.kernel = optarg;
			break;
		case INITRD:
			options.initrd = optarg;
			break;
		case APPEND:
			options.append = optarg;
			break;
		case MEMORY:
			options.memory = MIB(parse_number(table[index].name, optarg, 32, 1 << 20));
			break;
		case CPUS:
			options.nr_vcpus = parse_number(table[index].name, optarg, 1, MAX_VCPUS);
			break;
		case ASYNC_PF:
			if (strcmp(optarg, "on") && strcmp(optarg, "off"))
				die("--async-pf is on or off, not \"%s\"", optarg);
			options.async_pf = !strcmp(optarg, "on");
			break;
		case ASYNC_PF_LIMIT:
			options.async_pf_limit = parse_number(table[index].name, optarg, 1, 4096);
			break;
		case PRIVATE:
			options.private = true;
			break;
		case SAVE:
			options.save = optarg;
			break;
		case RESTORE:
			options.restore = optarg;
			break;
		case LATENCY:
			options.latency_ms = parse_number(table[index].name, optarg, 0, 60000);
			break;
		case STREAM:
			options.stream = parse_number(table[index].name, optarg, 0, 1000000);
			break;
		case QUIET:
			options.quiet = true;
			break;
		case HELP:
			printf(help, options.append, options.memory >> 20, MAX_VCPUS,
			       options.nr_vcpus);
			exit(0);
		default:
			die("see lazyvm --help");
		}
	}
	if (optind < argc)
		die("unexpected word \"%s\": see lazyvm --help", argv[optind]);
	if (!options.kernel == !options.restore)
		die("either --kernel or --restore is needed: see lazyvm --help");
	if (options.private && (options.save || options.restore))
		die("a guest with private memory can't be saved or restored");
	if (options.private)
		options.async_pf = false;
	if (options.restore && options.initrd)
		die("--initrd needs --kernel");
	if (options.kernel && (options.latency_ms || options.stream))
		die("--latency and --stream need --restore");
}

/* Returns when the guest is off or has been saved, or when a signal ends lazyvm. */
static void run(int signals)
{
	struct pollfd polls[] = {
		{ .fd = vm.end, .events = POLLIN },
		{ .fd = signals, .events = POLLIN },
		{ .fd = STDIN_FILENO, .events = POLLIN },
	};
	struct signalfd_siginfo info;
	bool full;

	for (;;) {
		/* What the guest has not read yet is in its way: look again soon. */
		pthread_mutex_lock(&vm.lock);
		full = vm.uart.nr_rx == sizeof(vm.uart.rx);
		pthread_mutex_unlock(&vm.lock);
		polls[2].events = full ? 0 : POLLIN;
		if (!poll(polls, ARRAY_SIZE(polls), full ? 10 : 1000))
			show_pages();
		if (polls[0].revents)
			return;
		if (polls[1].revents && read(signals, &info, sizeof(info)) == sizeof(info)) {
			if (info.ssi_signo == SIGUSR1)
				save();
			return;
		}
		if (!full && polls[2].revents && !read_input())
			polls[2].fd = -1;
	}
}

int main(int argc, char *argv[])
{
	struct snapshot *snapshot = NULL;
	sigset_t set;
	int signals;

	parse_options(argc, argv);
	if (options.restore)
		snapshot = open_snapshot();

	/* The threads inherit that the signals are blocked.  They come through the descriptor. */
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	if (options.save)
		sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signals = signalfd(-1, &set, SFD_CLOEXEC);

	create_vm();
	if (snapshot)
		restore(snapshot);
	else
		boot();
	set_terminal();
	start_vcpus();
	run(signals);

	/* The calls below wait for vCPUs that are in KVM_RUN. */
	pause_vcpus();
	show_pages();
	for (int i = 0; i < options.nr_vcpus; i++)
		show_statistics(&vm.vcpus[i]);
	if (!vm.reset)
		return 0;

	/* All descriptors of the VM are close-on-exec, so the new guest is alone. */
	if (!options.kernel)
		die("the guest reboots: there is no kernel to load");
	restore_terminal();
	execv("/proc/self/exe", argv);
	die("cannot start again: %s", strerror(errno));
}
