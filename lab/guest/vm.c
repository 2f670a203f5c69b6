// SPDX-License-Identifier: GPL-2.0
/*
 * Does KVM work? Creates a VM with a vCPU.
 *
 * usage: vm		only creates them
 *        vm hold	keeps both until it is killed
 *        vm signal	runs the vCPU until a signal, and checks its statistics
 *        vm vfio	opens a container of VFIO instead, with group 0, until it is killed
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/vfio.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

/* The vCPU executes its first instruction, 16 bytes before the end of this page. */
#define RESET_PAGE	0xfffff000ul

/* Run the vCPU, which does nothing, until a signal arrives. */
static void run_until_signal(int vm, int vcpu)
{
	struct itimerval timer = { .it_value.tv_usec = 100000 };
	unsigned char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region region = {
		.guest_phys_addr = RESET_PAGE,
		.memory_size = 4096,
		.userspace_addr = (uintptr_t)page,
	};

	if (page == MAP_FAILED)
		err(1, "mmap");
	/* sti; jmp to itself.  Bochs interrupts no guest whose interrupts are disabled. */
	memcpy(page + 0xff0, "\xfb\xeb\xfe", 3);
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		err(1, "KVM_SET_USER_MEMORY_REGION");
	setitimer(ITIMER_REAL, &timer, NULL);
	if (!ioctl(vcpu, KVM_RUN, 0) || errno != EINTR)
		err(1, "KVM_RUN ends, and not because of a signal");
}

/* The value of the vCPU's statistic, which has one. */
static uint64_t statistic(int vcpu, const char *name)
{
	int fd = ioctl(vcpu, KVM_GET_STATS_FD, 0);
	struct kvm_stats_header header;
	struct kvm_stats_desc *desc;
	uint64_t value;
	size_t size;

	if (fd < 0 || pread(fd, &header, sizeof(header), 0) != sizeof(header))
		err(1, "KVM_GET_STATS_FD");
	size = sizeof(*desc) + header.name_size;
	desc = malloc(size);
	for (unsigned int i = 0; i < header.num_desc; i++) {
		if (pread(fd, desc, size, header.desc_offset + i * size) != (ssize_t)size)
			err(1, "a statistic's descriptor");
		if (!strcmp(desc->name, name)) {
			if (pread(fd, &value, 8, header.data_offset + desc->offset) != 8)
				err(1, "statistic %s", name);
			return value;
		}
	}
	errx(1, "no statistic %s", name);
}

static void ignore(int sig)
{
	(void)sig;
}

static void hold_container(void)
{
	int container = open("/dev/vfio/vfio", O_RDWR), group = open("/dev/vfio/0", O_RDWR);

	if (container < 0 || group < 0)
		err(1, "/dev/vfio/{vfio,0}");
	if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) ||
	    ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		err(1, "VFIO_SET_IOMMU");
	puts("has a container");
	fflush(stdout);
	pause();
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	int kvm, vm, vcpu;

	if (!strcmp(what, "vfio"))
		hold_container();
	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0)
		err(1, "/dev/kvm");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		err(1, "KVM_CREATE_VM");
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		err(1, "KVM_CREATE_VCPU");
	puts("has a VM");
	if (!strcmp(what, "hold")) {
		fflush(stdout);
		pause();
	}
	if (!strcmp(what, "signal")) {
		signal(SIGALRM, ignore);
		run_until_signal(vm, vcpu);
		if (statistic(vcpu, "signal_exits") != 1)
			errx(1, "%llu exits for signals, not 1",
			     (unsigned long long)statistic(vcpu, "signal_exits"));
	}
	return 0;
}
