/* SPDX-License-Identifier: GPL-2.0-only */
#include <linux/kernel.h>
#include <linux/bug.h>
#include <linux/types.h>
#include "../../../../include/linux/kvm_mem_attrs.h"
