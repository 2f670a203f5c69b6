// SPDX-License-Identifier: GPL-2.0-only
/*
 * VFIO devices that do what a test tells them
 *
 * There is no hardware.  Two devices are emulated: their driver pins pages,
 * unpins them and writes to memory when a test writes a &struct vfio_test_cmd to
 * the device.  Each of the others is behind an IOMMU of its own, which only keeps
 * a table, and the two IOMMUs have pages of different sizes.
 */
#include <linux/completion.h>
#include <linux/iommu.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/property.h>
#include <linux/sched/signal.h>
#include <linux/vfio.h>
#include <linux/xarray.h>

#include "vfio_test_dev.h"

/* ---- The IOMMUs ---------------------------------------------------------------- */

struct test_iommu {
	struct iommu_device iommu;
	struct platform_device *pdev;
	struct fwnode_handle *fwnode;
	unsigned long pgsize_bitmap;
	bool registered;
};

static struct test_iommu test_iommus[NR_VFIO_TEST_DEVS] = {
	[VFIO_TEST_IOMMU_4K]  = { .pgsize_bitmap = SZ_4K | SZ_64K | SZ_2M },
	[VFIO_TEST_IOMMU_64K] = { .pgsize_bitmap = SZ_64K | SZ_512M },
};

struct test_domain {
	struct iommu_domain domain;
	struct test_iommu *iommu;
	struct xarray pages;		/* Physical page numbers, by IOVA page number */
};

static struct test_domain *to_test_domain(struct iommu_domain *domain)
{
	return container_of(domain, struct test_domain, domain);
}

static struct test_iommu *iommu_of(struct device *dev)
{
	return container_of(dev->iommu->iommu_dev, struct test_iommu, iommu);
}

static int test_attach_dev(struct iommu_domain *domain, struct device *dev)
{
	/* A domain can't be shared with an IOMMU that has other page sizes. */
	return to_test_domain(domain)->iommu == iommu_of(dev) ? 0 : -EINVAL;
}

static int test_map_pages(struct iommu_domain *domain, unsigned long iova,
			  phys_addr_t phys, size_t pgsize, size_t nr, int prot,
			  gfp_t gfp, size_t *mapped)
{
	struct xarray *pages = &to_test_domain(domain)->pages;
	size_t i;
	int ret;

	for (i = 0; i < pgsize * nr; i += PAGE_SIZE) {
		ret = xa_err(xa_store(pages, (iova + i) >> PAGE_SHIFT,
				      xa_mk_value((phys + i) >> PAGE_SHIFT), gfp));
		if (ret)
			goto out_erase;
	}
	*mapped += i;
	return 0;

out_erase:
	while (i) {
		i -= PAGE_SIZE;
		xa_erase(pages, (iova + i) >> PAGE_SHIFT);
	}
	return ret;
}

static size_t test_unmap_pages(struct iommu_domain *domain, unsigned long iova,
			       size_t pgsize, size_t nr,
			       struct iommu_iotlb_gather *gather)
{
	struct xarray *pages = &to_test_domain(domain)->pages;
	size_t i;

	for (i = 0; i < pgsize * nr; i += PAGE_SIZE)
		xa_erase(pages, (iova + i) >> PAGE_SHIFT);
	return i;
}

static phys_addr_t test_iova_to_phys(struct iommu_domain *domain, dma_addr_t iova)
{
	void *entry = xa_load(&to_test_domain(domain)->pages, iova >> PAGE_SHIFT);

	return entry ? xa_to_value(entry) << PAGE_SHIFT | (iova & ~PAGE_MASK) : 0;
}

static void test_domain_free(struct iommu_domain *domain)
{
	struct test_domain *d = to_test_domain(domain);

	xa_destroy(&d->pages);
	kfree(d);
}

static struct iommu_domain *test_domain_alloc(struct device *dev)
{
	struct test_domain *d = kzalloc(sizeof(*d), GFP_KERNEL);

	if (!d)
		return NULL;

	xa_init(&d->pages);
	d->iommu = iommu_of(dev);
	d->domain.pgsize_bitmap = d->iommu->pgsize_bitmap;
	d->domain.geometry.aperture_end = ~0ULL;
	d->domain.geometry.force_aperture = true;
	return &d->domain;
}

static int test_attach_static(struct iommu_domain *domain, struct device *dev)
{
	return 0;
}

static const struct iommu_domain_ops test_static_ops = {
	.attach_dev	= test_attach_static,
};

static struct iommu_domain test_identity = {
	.type	= IOMMU_DOMAIN_IDENTITY,
	.ops	= &test_static_ops,
};

static struct iommu_domain test_blocked = {
	.type	= IOMMU_DOMAIN_BLOCKED,
	.ops	= &test_static_ops,
};

static bool test_capable(struct device *dev, enum iommu_cap cap)
{
	return cap == IOMMU_CAP_CACHE_COHERENCY;
}

static struct iommu_device *test_probe_device(struct device *dev)
{
	int i;

	for (i = 0; i < NR_VFIO_TEST_DEVS; i++) {
		if (test_iommus[i].fwnode == dev_iommu_fwspec_get(dev)->iommu_fwnode)
			return &test_iommus[i].iommu;
	}
	return ERR_PTR(-ENODEV);
}

static const struct iommu_ops test_iommu_ops = {
	.owner			= THIS_MODULE,
	.identity_domain	= &test_identity,
	.default_domain		= &test_identity,
	.blocked_domain		= &test_blocked,
	.capable		= test_capable,
	.domain_alloc_paging	= test_domain_alloc,
	.probe_device		= test_probe_device,
	.device_group		= generic_device_group,
	.default_domain_ops	= &(const struct iommu_domain_ops) {
		.attach_dev	= test_attach_dev,
		.map_pages	= test_map_pages,
		.unmap_pages	= test_unmap_pages,
		.iova_to_phys	= test_iova_to_phys,
		.free		= test_domain_free,
	},
};

static int test_iommu_add(struct test_iommu *iommu, int id)
{
	struct platform_device_info info = { .name = "vfio_test_iommu", .id = id };
	int ret;

	iommu->fwnode = fwnode_create_software_node(NULL, NULL);
	if (IS_ERR(iommu->fwnode))
		return PTR_ERR(iommu->fwnode);

	info.fwnode = iommu->fwnode;
	iommu->pdev = platform_device_register_full(&info);
	if (IS_ERR(iommu->pdev)) {
		ret = PTR_ERR(iommu->pdev);
		goto out_node;
	}

	ret = iommu_device_sysfs_add(&iommu->iommu, &iommu->pdev->dev, NULL,
				     "vfio_test_iommu%d", id);
	if (ret)
		goto out_pdev;

	ret = iommu_device_register(&iommu->iommu, &test_iommu_ops, &iommu->pdev->dev);
	if (ret)
		goto out_sysfs;

	iommu->registered = true;
	return 0;

out_sysfs:
	iommu_device_sysfs_remove(&iommu->iommu);
out_pdev:
	platform_device_unregister(iommu->pdev);
out_node:
	fwnode_remove_software_node(iommu->fwnode);
	return ret;
}

static void test_iommu_remove(struct test_iommu *iommu)
{
	if (!iommu->registered)
		return;

	iommu_device_unregister(&iommu->iommu);
	iommu_device_sysfs_remove(&iommu->iommu);
	platform_device_unregister(iommu->pdev);
	fwnode_remove_software_node(iommu->fwnode);
}

/* ---- The devices --------------------------------------------------------------- */

struct test_dev {
	struct vfio_device vdev;
	struct mutex lock;		/* Protects pinned */
	struct xarray pinned;		/* Times that an IOVA is pinned, by IOVA */
	bool hold;
	struct completion held;
	struct completion go;
};

#define WAIT	(10 * HZ)

static struct test_dev *to_test_dev(struct vfio_device *vdev)
{
	return container_of(vdev, struct test_dev, vdev);
}

/* The pages before the one that fails stay pinned. */
static int pin(struct test_dev *dev, u64 iova, u32 nr)
{
	struct page *page;
	unsigned long n;
	int ret;

	for (; nr; nr--, iova += PAGE_SIZE) {
		if (fatal_signal_pending(current))
			return -EINTR;

		/* Allocate what xa_store() needs after the page is pinned. */
		n = xa_to_value(xa_load(&dev->pinned, iova) ?: xa_mk_value(0));
		ret = xa_err(xa_store(&dev->pinned, iova, xa_mk_value(n), GFP_KERNEL));
		if (ret)
			return ret;

		ret = vfio_pin_pages(&dev->vdev, iova, 1, IOMMU_READ | IOMMU_WRITE,
				     &page);
		if (ret == 1)
			n++;
		if (n)
			xa_store(&dev->pinned, iova, xa_mk_value(n), GFP_KERNEL);
		else
			xa_erase(&dev->pinned, iova);
		if (ret != 1)
			return ret ?: -EFAULT;
		cond_resched();
	}
	return 0;
}

static int unpin(struct test_dev *dev, u64 iova, u32 nr)
{
	unsigned long n;
	void *entry;

	for (; nr; nr--, iova += PAGE_SIZE) {
		entry = xa_load(&dev->pinned, iova);
		if (!entry)
			return -EINVAL;

		n = xa_to_value(entry) - 1;
		if (n)
			xa_store(&dev->pinned, iova, xa_mk_value(n), GFP_KERNEL);
		else
			xa_erase(&dev->pinned, iova);
		vfio_unpin_pages(&dev->vdev, iova, 1);
		cond_resched();
	}
	return 0;
}

static void unpin_range(struct test_dev *dev, u64 first, u64 last)
{
	unsigned long iova;
	void *entry;

	mutex_lock(&dev->lock);
	xa_for_each_range(&dev->pinned, iova, entry, first, last) {
		while (xa_load(&dev->pinned, iova))
			unpin(dev, iova, 1);
	}
	mutex_unlock(&dev->lock);
}

static int write_bytes(struct test_dev *dev, u64 iova, u32 nr)
{
	static const u8 bytes[SZ_4K] = { [0 ... SZ_4K - 1] = 0x5a };
	u32 n;
	int ret;

	for (; nr; nr -= n, iova += n) {
		n = min(nr, SZ_4K);
		ret = vfio_dma_rw(&dev->vdev, iova, (void *)bytes, n, true);
		if (ret)
			return ret;
		cond_resched();
	}
	return 0;
}

static int churn(struct test_dev *dev, u64 iova, u32 nr)
{
	struct page *page;
	int ret;

	for (; nr; nr--) {
		if (fatal_signal_pending(current))
			return -EINTR;

		ret = vfio_pin_pages(&dev->vdev, iova, 1, IOMMU_READ | IOMMU_WRITE,
				     &page);
		if (ret != 1)
			return ret ?: -EFAULT;
		vfio_unpin_pages(&dev->vdev, iova, 1);
		cond_resched();
	}
	return 0;
}

static ssize_t test_write(struct vfio_device *vdev, const char __user *buf,
			  size_t count, loff_t *pos)
{
	struct test_dev *dev = to_test_dev(vdev);
	struct vfio_test_cmd cmd;
	int ret;

	if (count != sizeof(cmd))
		return -EINVAL;
	if (copy_from_user(&cmd, buf, sizeof(cmd)))
		return -EFAULT;

	/* These don't wait for an unmap that is held. */
	switch (cmd.op) {
	case VFIO_TEST_HOLD:
		reinit_completion(&dev->held);
		reinit_completion(&dev->go);
		WRITE_ONCE(dev->hold, true);
		return count;
	case VFIO_TEST_WAIT:
		return wait_for_completion_timeout(&dev->held, WAIT) ? count : -ETIME;
	case VFIO_TEST_GO:
		complete(&dev->go);
		return count;
	}

	mutex_lock(&dev->lock);
	switch (cmd.op) {
	case VFIO_TEST_PIN:
		ret = pin(dev, cmd.iova, cmd.nr);
		break;
	case VFIO_TEST_UNPIN:
		ret = unpin(dev, cmd.iova, cmd.nr);
		break;
	case VFIO_TEST_WRITE:
		ret = write_bytes(dev, cmd.iova, cmd.nr);
		break;
	case VFIO_TEST_CHURN:
		ret = churn(dev, cmd.iova, cmd.nr);
		break;
	default:
		ret = -EINVAL;
	}
	mutex_unlock(&dev->lock);

	return ret ?: count;
}

static int test_init(struct vfio_device *vdev)
{
	struct test_dev *dev = to_test_dev(vdev);

	mutex_init(&dev->lock);
	xa_init(&dev->pinned);
	init_completion(&dev->held);
	init_completion(&dev->go);
	return 0;
}

static void test_close_device(struct vfio_device *vdev)
{
	unpin_range(to_test_dev(vdev), 0, ~0ULL);
}

static void test_dma_unmap(struct vfio_device *vdev, u64 iova, u64 length)
{
	struct test_dev *dev = to_test_dev(vdev);

	if (xchg(&dev->hold, false)) {
		complete(&dev->held);
		wait_for_completion_timeout(&dev->go, WAIT);
	}
	unpin_range(dev, iova, iova + length - 1);
}

static const struct vfio_device_ops test_emulated_ops = {
	.name			= "vfio_test",
	.init			= test_init,
	.close_device		= test_close_device,
	.write			= test_write,
	.dma_unmap		= test_dma_unmap,
	.bind_iommufd		= vfio_iommufd_emulated_bind,
	.unbind_iommufd		= vfio_iommufd_emulated_unbind,
	.attach_ioas		= vfio_iommufd_emulated_attach_ioas,
	.detach_ioas		= vfio_iommufd_emulated_detach_ioas,
};

static const struct vfio_device_ops test_physical_ops = {
	.name			= "vfio_test_physical",
	.bind_iommufd		= vfio_iommufd_physical_bind,
	.unbind_iommufd		= vfio_iommufd_physical_unbind,
	.attach_ioas		= vfio_iommufd_physical_attach_ioas,
	.detach_ioas		= vfio_iommufd_physical_detach_ioas,
};

static int test_probe(struct platform_device *pdev)
{
	struct test_dev *dev;
	bool emulated;
	int ret;

	if (pdev->id < 0 || pdev->id >= NR_VFIO_TEST_DEVS)
		return -ENODEV;

	emulated = !test_iommus[pdev->id].pgsize_bitmap;
	dev = vfio_alloc_device(test_dev, vdev, &pdev->dev,
				emulated ? &test_emulated_ops : &test_physical_ops);
	if (IS_ERR(dev))
		return PTR_ERR(dev);

	ret = emulated ? vfio_register_emulated_iommu_dev(&dev->vdev) :
			 vfio_register_group_dev(&dev->vdev);
	if (ret) {
		vfio_put_device(&dev->vdev);
		return ret;
	}

	platform_set_drvdata(pdev, dev);
	return 0;
}

static void test_remove(struct platform_device *pdev)
{
	struct test_dev *dev = platform_get_drvdata(pdev);

	vfio_unregister_group_dev(&dev->vdev);
	vfio_put_device(&dev->vdev);
}

static struct platform_driver test_driver = {
	.probe			= test_probe,
	.remove			= test_remove,
	.driver.name		= "vfio_test",
	.driver_managed_dma	= true,
};

static struct platform_device *test_devs[NR_VFIO_TEST_DEVS];

/*
 * The lock isn't exported to modules.  Nobody else knows the device yet, so all that
 * a module can have without it is a complaint of lockdep.
 */
static int test_fwspec_init(struct device *dev, struct fwnode_handle *fwnode)
{
	int ret;

#ifndef MODULE
	mutex_lock(&iommu_probe_device_lock);
#endif
	ret = iommu_fwspec_init(dev, fwnode);
#ifndef MODULE
	mutex_unlock(&iommu_probe_device_lock);
#endif
	return ret;
}

static int test_dev_add(int id)
{
	struct platform_device *pdev = platform_device_alloc("vfio_test", id);
	int ret;

	if (!pdev)
		return -ENOMEM;

	/* The IOMMU core looks for the IOMMU when the device is added. */
	if (test_iommus[id].pgsize_bitmap) {
		ret = test_iommu_add(&test_iommus[id], id);
		if (!ret)
			ret = test_fwspec_init(&pdev->dev, test_iommus[id].fwnode);
		if (ret)
			goto out;
	}

	ret = platform_device_add(pdev);
	if (ret)
		goto out_fwspec;

	test_devs[id] = pdev;
	return 0;

out_fwspec:
	iommu_fwspec_free(&pdev->dev);
out:
	platform_device_put(pdev);
	return ret;
}

static void test_exit(void)
{
	int id;

	for (id = 0; id < NR_VFIO_TEST_DEVS; id++)
		platform_device_unregister(test_devs[id]);
	platform_driver_unregister(&test_driver);
	for (id = 0; id < NR_VFIO_TEST_DEVS; id++)
		test_iommu_remove(&test_iommus[id]);
}

static int __init test_init_module(void)
{
	int id, ret = platform_driver_register(&test_driver);

	for (id = 0; !ret && id < NR_VFIO_TEST_DEVS; id++)
		ret = test_dev_add(id);
	if (ret)
		test_exit();
	return ret;
}

module_init(test_init_module);
module_exit(test_exit);
MODULE_DESCRIPTION("VFIO devices that do what a test tells them");
MODULE_LICENSE("GPL");
