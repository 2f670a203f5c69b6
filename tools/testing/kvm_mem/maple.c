// SPDX-License-Identifier: GPL-2.0-only
/* The kernel's maple tree in userspace, without the hooks of its own tests. */
#include "shared.h"
#include <linux/bug.h>
#include <linux/init.h>
#include <linux/slab.h>
#include "../../../lib/maple_tree.c"
