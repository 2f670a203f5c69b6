/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _KVM_MEM_BITMAP_H
#define _KVM_MEM_BITMAP_H

#include "../../../include/linux/bitmap.h"

static inline void bitmap_set(unsigned long *map, unsigned int start,
			      unsigned int nbits)
{
	while (nbits--)
		__set_bit(start++, map);
}

#endif
