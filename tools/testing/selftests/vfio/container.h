/* SPDX-License-Identifier: GPL-2.0-only */
/* A VFIO container with the devices of drivers/vfio/vfio_test_dev.c */
#ifndef SELFTEST_VFIO_CONTAINER_H
#define SELFTEST_VFIO_CONTAINER_H

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/userfaultfd.h>
#include <linux/vfio.h>
#include <linux/vfio_dirty.h>

#include "../../../../drivers/vfio/vfio_test_dev.h"

#define PAGE		4096UL

struct container {
	int fd;
	int group[NR_VFIO_TEST_DEVS];
	int dev[NR_VFIO_TEST_DEVS];
};

/* Functions that return an int return a negative errno if they fail. */
static inline int do_ioctl(int fd, unsigned long request, void *arg)
{
	int r = ioctl(fd, request, arg);

	return r < 0 ? -errno : r;
}

/* @device_group is the link from a device in sysfs to its group. */
static inline int open_group(const char *device_group)
{
	char link[PATH_MAX], path[64];
	ssize_t n;
	int fd;

	n = readlink(device_group, link, sizeof(link) - 1);
	if (n < 0)
		return -errno;

	link[n] = 0;
	snprintf(path, sizeof(path), "/dev/vfio/%.32s", basename(link));
	fd = open(path, O_RDWR);
	return fd < 0 ? -errno : fd;
}

static inline int open_test_group(int id)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/bus/platform/devices/vfio_test.%d/iommu_group", id);
	return open_group(path);
}

/* Attach the group of a device to the container, and open the device. */
static inline int container_attach(struct container *c, int id, int type)
{
	char name[32];
	int r;

	c->group[id] = open_test_group(id);
	if (c->group[id] < 0)
		return c->group[id];

	r = do_ioctl(c->group[id], VFIO_GROUP_SET_CONTAINER, &c->fd);
	if (r)
		return r;
	if (type) {
		r = ioctl(c->fd, VFIO_SET_IOMMU, type);
		if (r)
			return -errno;
	}

	snprintf(name, sizeof(name), "vfio_test.%d", id);
	c->dev[id] = do_ioctl(c->group[id], VFIO_GROUP_GET_DEVICE_FD, name);
	return c->dev[id] < 0 ? c->dev[id] : 0;
}

static inline int container_detach(struct container *c, int id)
{
	int r;

	close(c->dev[id]);
	r = do_ioctl(c->group[id], VFIO_GROUP_UNSET_CONTAINER, NULL);
	close(c->group[id]);
	c->group[id] = -1;
	c->dev[id] = -1;
	return r;
}

static inline int container_open(struct container *c, int id, int type)
{
	memset(c, -1, sizeof(*c));
	c->fd = open("/dev/vfio/vfio", O_RDWR);
	if (c->fd < 0)
		return -errno;
	return container_attach(c, id, type);
}

static inline void container_close(struct container *c)
{
	int id;

	for (id = 0; id < NR_VFIO_TEST_DEVS; id++) {
		if (c->dev[id] >= 0)
			close(c->dev[id]);
		if (c->group[id] >= 0)
			close(c->group[id]);
	}
	close(c->fd);
}

static inline int map(struct container *c, uint64_t iova, uint64_t size, void *va)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)va,
		.iova = iova,
		.size = size,
	};

	return do_ioctl(c->fd, VFIO_IOMMU_MAP_DMA, &map);
}

/* On success, @size returns how much was unmapped.  @bitmap may be NULL. */
static inline int unmap(struct container *c, uint64_t iova, uint64_t *size,
			void *bitmap, uint64_t pgsize)
{
	struct {
		struct vfio_iommu_type1_dma_unmap unmap;
		struct vfio_bitmap bitmap;
	} arg = {
		.unmap.argsz = bitmap ? sizeof(arg) : sizeof(arg.unmap),
		.unmap.flags = bitmap ? VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP : 0,
		.unmap.iova = iova,
		.unmap.size = *size,
		.bitmap.pgsize = pgsize,
		.bitmap.data = bitmap,
		.bitmap.size = (*size / (pgsize ?: PAGE) + 63) / 64 * 8,
	};
	int r = do_ioctl(c->fd, VFIO_IOMMU_UNMAP_DMA, &arg);

	*size = arg.unmap.size;
	return r;
}

static inline int dirty_op(struct container *c, uint32_t flags)
{
	struct vfio_iommu_type1_dirty_bitmap arg = { .argsz = sizeof(arg), .flags = flags };

	return do_ioctl(c->fd, VFIO_IOMMU_DIRTY_PAGES, &arg);
}

static inline int start(struct container *c)
{
	return dirty_op(c, VFIO_IOMMU_DIRTY_PAGES_FLAG_START);
}

static inline int stop(struct container *c)
{
	return dirty_op(c, VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP);
}

static inline int get_bitmap_of(struct container *c, uint64_t iova, uint64_t size,
				void *bitmap, uint64_t pgsize, uint32_t flags)
{
	struct {
		struct vfio_iommu_type1_dirty_bitmap dirty;
		struct vfio_iommu_type1_dirty_bitmap_get get;
	} arg = {
		.dirty.argsz = sizeof(arg),
		.dirty.flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP | flags,
		.get.iova = iova,
		.get.size = size,
		.get.bitmap.pgsize = pgsize,
		.get.bitmap.size = (size / (pgsize ?: PAGE) + 63) / 64 * 8,
		.get.bitmap.data = bitmap,
	};

	return do_ioctl(c->fd, VFIO_IOMMU_DIRTY_PAGES, &arg);
}

static inline int get_bitmap(struct container *c, uint64_t iova, uint64_t size,
			     void *bitmap)
{
	return get_bitmap_of(c, iova, size, bitmap, PAGE, 0);
}

struct runs_arg {
	struct vfio_iommu_type1_dirty_bitmap dirty;
	struct vfio_iommu_type1_dirty_runs runs;
};

static inline int runs_op(struct container *c, uint32_t flags,
			  struct vfio_iommu_type1_dirty_runs *runs)
{
	struct runs_arg arg = { .dirty.argsz = sizeof(arg), .dirty.flags = flags, .runs = *runs };
	int r = do_ioctl(c->fd, VFIO_IOMMU_DIRTY_PAGES, &arg);

	*runs = arg.runs;
	return r;
}

static inline int tell(struct container *c, int id, uint32_t op, uint64_t iova,
		       uint32_t nr)
{
	struct vfio_test_cmd cmd = { .op = op, .nr = nr, .iova = iova };

	return pwrite(c->dev[id], &cmd, sizeof(cmd), 0) == sizeof(cmd) ? 0 : -errno;
}

/*
 * Block whoever accesses pages that aren't there.  Returns a userfaultfd, which lets
 * them go on when it is closed, or a negative errno.
 */
static inline int hold_pages(void *pages, size_t size)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range.start = (uintptr_t)pages,
		.range.len = size,
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int fd = syscall(__NR_userfaultfd, O_CLOEXEC);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &reg))
		return -errno;
	return fd;
}

/* The migration capability; all bits are 0 if there is none. */
static inline struct vfio_iommu_type1_info_cap_migration migration_cap(struct container *c)
{
	struct vfio_iommu_type1_info_cap_migration none = {}, *cap;
	struct vfio_info_cap_header *header;
	union {
		struct vfio_iommu_type1_info info;
		char bytes[4096];
	} buf = { .info.argsz = sizeof(buf) };
	uint32_t offset;

	if (ioctl(c->fd, VFIO_IOMMU_GET_INFO, &buf) || !(buf.info.flags & VFIO_IOMMU_INFO_CAPS))
		return none;

	for (offset = buf.info.cap_offset; offset; offset = header->next) {
		header = (void *)(buf.bytes + offset);
		if (header->id == VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION) {
			cap = (void *)header;
			return *cap;
		}
	}
	return none;
}

#endif
