// SPDX-License-Identifier: GPL-2.0
/*
 * Does KVM work? Creates a VM with a vCPU.
 *
 * usage: vm [hold]	with "hold", keeps both until it is killed
 */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int kvm, vm;

	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0)
		err(1, "/dev/kvm");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		err(1, "KVM_CREATE_VM");
	if (ioctl(vm, KVM_CREATE_VCPU, 0) < 0)
		err(1, "KVM_CREATE_VCPU");
	puts("has a VM");
	if (argc > 1 && !strcmp(argv[1], "hold")) {
		fflush(stdout);
		pause();
	}
	return 0;
}
