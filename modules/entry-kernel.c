// SPDX-License-Identifier: GPL-2.0
/*
 * Built with the kernel's own headers, and so with its struct kvm_vcpu: see entry.c.
 */
#include <linux/entry-kvm.h>
#include <linux/kvm_host.h>

#include "entry.h"

/* What the kernel writes to, for all vCPUs.  Nothing reads it. */
static struct kvm_run stand_in_run;
static struct kvm_vcpu stand_in = { .run = &stand_in_run };

int kernel_handle_work(void)
{
	return xfer_to_guest_mode_handle_work(&stand_in);
}
