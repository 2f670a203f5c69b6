// SPDX-License-Identifier: GPL-2.0-only
/*
 * Dirty pages of a PCI device behind a real IOMMU: QEMU's "edu"
 *
 * The device has DMA to 28 bits of address, and an IOMMU in front of it, such as
 * QEMU's intel-iommu.  The test binds it to vfio-pci.  Type 1 doesn't see what the
 * device writes, so all that is mapped is dirty, as long as the device is there.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <pthread.h>
#include <sys/mman.h>
#include <time.h>
#include <linux/pci_regs.h>

#include "../kselftest_harness.h"
#include "container.h"

#define PCI		"/sys/bus/pci/"
#define PAGES		64UL
#define IOVA		0x100000UL

/* Registers in BAR 0, all of 64 bits, and where the device has a page of memory */
#define EDU_DMA_FROM	0x80
#define EDU_DMA_TO	0x88
#define EDU_DMA_COUNT	0x90
#define EDU_DMA_COMMAND	0x98
#define EDU_MEMORY	0x40000UL
#define BYTES		2048	/* QEMU ends if a transfer is a whole page. */

#define DMA_START	1
#define DMA_TO_RAM	2

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	int r = write(fd, text, strlen(text)) < 0 ? -errno : 0;

	close(fd);
	return r;
}

/* Find the device, and bind it to vfio-pci.  Returns its address. */
static const char *edu_address(void)
{
	static char address[16];
	char path[PATH_MAX], id[64];
	struct dirent *entry;
	DIR *dir = opendir(PCI "devices");
	int fd;

	while (dir && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), PCI "devices/%.12s/modalias", entry->d_name);
		fd = open(path, O_RDONLY);
		if (fd < 0)
			continue;
		memset(id, 0, sizeof(id));
		if (read(fd, id, sizeof(id) - 1) > 0 && strstr(id, "v00001234d000011E8"))
			snprintf(address, sizeof(address), "%.12s", entry->d_name);
		close(fd);
	}
	if (dir)
		closedir(dir);

	snprintf(path, sizeof(path), PCI "devices/%s/driver_override", address);
	write_text(path, "vfio-pci");
	write_text(PCI "drivers_probe", address);
	return address;
}

struct edu {
	struct container c;	/* With an emulated device, which outlives the other one */
	const char *address;
	uint8_t *mem;
	int group;
	int dev;
	uint64_t bar0;		/* Offset of its region in dev */
	uint64_t bitmap;
};

FIXTURE(edu) {
	struct edu edu;
};

static int edu_attach(struct edu *edu)
{
	struct vfio_region_info bar0 = {
		.argsz = sizeof(bar0), .index = VFIO_PCI_BAR0_REGION_INDEX,
	};
	struct vfio_region_info config = {
		.argsz = sizeof(config), .index = VFIO_PCI_CONFIG_REGION_INDEX,
	};
	uint16_t command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	char path[64];
	int r;

	edu->address = edu_address();
	snprintf(path, sizeof(path), PCI "devices/%s/iommu_group", edu->address);
	edu->group = open_group(path);
	if (edu->group < 0)
		return edu->group;

	r = do_ioctl(edu->group, VFIO_GROUP_SET_CONTAINER, &edu->c.fd);
	if (r)
		return r;

	edu->dev = do_ioctl(edu->group, VFIO_GROUP_GET_DEVICE_FD, (void *)edu->address);
	if (edu->dev < 0)
		return edu->dev;

	r = do_ioctl(edu->dev, VFIO_DEVICE_GET_REGION_INFO, &bar0) ?:
	    do_ioctl(edu->dev, VFIO_DEVICE_GET_REGION_INFO, &config);
	if (r)
		return r;

	edu->bar0 = bar0.offset;
	if (pwrite(edu->dev, &command, 2, config.offset + PCI_COMMAND) != 2)
		return -errno;
	return 0;
}

FIXTURE_SETUP(edu)
{
	self->edu.mem = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	ASSERT_NE(MAP_FAILED, self->edu.mem);
	ASSERT_EQ(0, container_open(&self->edu.c, VFIO_TEST_EMULATED, VFIO_TYPE1v2_IOMMU)) {
		TH_LOG("is the module vfio_test_dev loaded?");
	}
	ASSERT_EQ(0, edu_attach(&self->edu)) {
		TH_LOG("is there a PCI device 1234:11e8 behind an IOMMU?");
	}
	ASSERT_EQ(0, map(&self->edu.c, IOVA, PAGES * PAGE, self->edu.mem));
	ASSERT_EQ(0, start(&self->edu.c));
}

FIXTURE_TEARDOWN(edu)
{
	close(self->edu.dev);
	close(self->edu.group);
	container_close(&self->edu.c);
	munmap(self->edu.mem, PAGES * PAGE);
}

static int edu_write(struct edu *edu, unsigned int reg, uint64_t value)
{
	return pwrite(edu->dev, &value, 8, edu->bar0 + reg) == 8 ? 0 : -errno;
}

/* A transfer takes 100 ms. */
static int edu_dma(struct edu *edu, uint64_t from, uint64_t to, uint64_t command)
{
	time_t end = time(NULL) + 20;
	uint64_t state;
	int r;

	r = edu_write(edu, EDU_DMA_FROM, from) ?: edu_write(edu, EDU_DMA_TO, to) ?:
	    edu_write(edu, EDU_DMA_COUNT, BYTES) ?:
	    edu_write(edu, EDU_DMA_COMMAND, command | DMA_START);
	if (r)
		return r;

	do {
		usleep(10000);
		if (pread(edu->dev, &state, 8, edu->bar0 + EDU_DMA_COMMAND) != 8)
			return -errno;
	} while (state & DMA_START && time(NULL) < end);
	return state & DMA_START ? -ETIME : 0;
}

/* Returns the number of dirty pages, and clears them. */
static int dirty_pages(struct edu *edu)
{
	int r = get_bitmap(&edu->c, IOVA, PAGES * PAGE, &edu->bitmap);

	return r ?: __builtin_popcountll(edu->bitmap);
}

TEST_F(edu, what_the_device_writes_is_dirty)
{
	memset(self->edu.mem + 5 * PAGE, 0xa7, BYTES);
	ASSERT_EQ(0, edu_dma(&self->edu, IOVA + 5 * PAGE, EDU_MEMORY, 0));
	EXPECT_EQ(PAGES, dirty_pages(&self->edu));
	ASSERT_EQ(0, edu_dma(&self->edu, EDU_MEMORY, IOVA + 9 * PAGE, DMA_TO_RAM));
	EXPECT_EQ(0, memcmp(self->edu.mem + 5 * PAGE, self->edu.mem + 9 * PAGE, BYTES));
	EXPECT_EQ(PAGES, dirty_pages(&self->edu));
	EXPECT_EQ(PAGES, dirty_pages(&self->edu));
}

TEST_F(edu, unmap_returns_dirty_pages)
{
	uint64_t size = PAGES * PAGE;

	EXPECT_EQ(PAGES, dirty_pages(&self->edu));
	self->edu.bitmap = 0;
	ASSERT_EQ(0, unmap(&self->edu.c, IOVA, &size, &self->edu.bitmap, PAGE));
	EXPECT_EQ(PAGES * PAGE, size);
	EXPECT_EQ(-1UL, self->edu.bitmap);
}

static void *unplug(void *arg)
{
	struct edu *edu = arg;
	char path[64];

	snprintf(path, sizeof(path), PCI "devices/%s/remove", edu->address);
	write_text(path, "1");
	return NULL;
}

/* The device waits to be closed, and goes.  Then all of its memory is dirty once. */
TEST_F(edu, unplugged_while_tracking)
{
	pthread_t thread;
	char path[64];

	EXPECT_EQ(PAGES, dirty_pages(&self->edu));
	ASSERT_EQ(0, pthread_create(&thread, NULL, unplug, &self->edu));
	usleep(200000);
	EXPECT_EQ(PAGES, dirty_pages(&self->edu));
	close(self->edu.dev);
	close(self->edu.group);
	pthread_join(thread, NULL);
	snprintf(path, sizeof(path), PCI "devices/%s", self->edu.address);
	EXPECT_EQ(-1, access(path, F_OK));

	ASSERT_EQ(0, tell(&self->edu.c, VFIO_TEST_EMULATED, VFIO_TEST_PIN, IOVA, 1));
	EXPECT_EQ(PAGES, dirty_pages(&self->edu));
	EXPECT_EQ(1, dirty_pages(&self->edu));

	/* It comes back, and may write anywhere again. */
	ASSERT_EQ(0, write_text(PCI "rescan", "1"));
	ASSERT_EQ(0, edu_attach(&self->edu));
	EXPECT_EQ(PAGES, dirty_pages(&self->edu));
}

TEST_HARNESS_MAIN
