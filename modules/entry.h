/* SPDX-License-Identifier: GPL-2.0 */
#ifndef KVM_MEM_ENTRY_H
#define KVM_MEM_ENTRY_H

/* As the kernel's xfer_to_guest_mode_handle_work(), but doesn't change a vCPU. */
int kernel_handle_work(void);

#endif
