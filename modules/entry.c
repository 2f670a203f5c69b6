// SPDX-License-Identifier: GPL-2.0
/*
 * The part of KVM that the kernel has built in, for vCPUs of the series.
 *
 * Before a vCPU enters the guest, KVM calls xfer_to_guest_mode_handle_work(), in
 * kernel/entry/kvm.c.  If a signal is pending, that function writes the exit reason
 * and increments a statistic of the vCPU, where struct kvm_vcpu had them when the
 * kernel was built.  The series has another struct kvm_vcpu, so there the kernel would
 * change something else.
 *
 * No other built-in code uses a structure of KVM that the series changes.
 *
 * Kbuild gives the function below another name, which all of KVM uses.
 */
#include <linux/entry-kvm.h>
#include <linux/kvm_host.h>

#include "entry.h"

int xfer_to_guest_mode_handle_work(struct kvm_vcpu *vcpu)
{
	int r = kernel_handle_work();

	/* On x86, only a signal makes it fail. */
	if (r == -EINTR)
		kvm_handle_signal_exit(vcpu);
	return r;
}
