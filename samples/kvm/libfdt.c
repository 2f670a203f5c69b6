// SPDX-License-Identifier: GPL-2.0-only
/* The part of the kernel's own libfdt that lazyvm needs. */
#include "../../scripts/dtc/libfdt/fdt.c"
#include "../../scripts/dtc/libfdt/fdt_ro.c"
#include "../../scripts/dtc/libfdt/fdt_strerror.c"
#include "../../scripts/dtc/libfdt/fdt_sw.c"
