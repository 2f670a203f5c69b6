// SPDX-License-Identifier: GPL-2.0-only
/*
 * Asynchronous page faults of KVM guests on arm64, the guest's side.
 *
 * A task accesses a page that the host has to fetch.  KVM writes a token to the CPU's area
 * and raises a PPI.  Its handler queues task work: the task runs it on its way back to EL0,
 * and sleeps in it.  When the page is ready, KVM writes the token to the ring in the area,
 * and raises the PPI again.  The task wakes and tries the access again.
 *
 * The sleep is a wait for nothing but time to pass.  It holds no locks, and a task
 * that wakes too early only faults again.  So it ends with any signal, when the CPU goes
 * offline, before a suspend, and after a time-out: nothing that the host does, or forgets
 * to do, lets a task wait forever.
 *
 * Documentation/virt/kvm/arm/async-pf.rst describes the interface between KVM and a guest.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/acpi.h>
#include <linux/arm-smccc.h>
#include <linux/cpu.h>
#include <linux/freezer.h>
#include <linux/interrupt.h>
#include <linux/irqdomain.h>
#include <linux/kvm_arm_async_pf.h>
#include <linux/llist.h>
#include <linux/module.h>
#include <linux/of.h>
#include <linux/ptrace.h>
#include <linux/reboot.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/suspend.h>
#include <linux/task_work.h>

#include <asm/hypervisor.h>
#include <asm/irq_regs.h>

#include "waiters.h"

/* As many entries as a page of 4 KiB has room for, beside the rest of the area */
#define RING_ORDER	9
#define RING_ENTRIES	BIT(RING_ORDER)

/*
 * A task whose page takes longer tries again, and waits again.  If it does that 16 times
 * in a row, without other faults in between, KVM lets the whole vCPU wait for the page.
 */
static unsigned int timeout_ms = 10 * MSEC_PER_SEC;
module_param(timeout_ms, uint, 0644);
MODULE_PARM_DESC(timeout_ms, "retry an access after this many milliseconds (default 10000)");

#ifndef MODULE
static bool disabled __initdata;

static int __init parse_no_kvmapf(char *arg)
{
	disabled = true;
	return 0;
}
early_param("no-kvmapf", parse_no_kvmapf);
#else
static bool disabled;
module_param_named(disable, disabled, bool, 0444);
MODULE_PARM_DESC(disable, "disable the driver, like no-kvmapf when built in");
#endif

/*
 * So many tasks can wait for pages of a CPU.  KVM allows 64 pages by default, and several
 * tasks may wait for one.
 */
#define NR_SLEEPS	128

/**
 * struct apf_sleep - a task's wait
 * @work: lets the task sleep
 * @waiter: wakes it
 * @cpu: the CPU whose token it waits for
 * @free: in the list of those that are free
 */
struct apf_sleep {
	struct callback_head work;
	struct apf_waiter waiter;
	struct apf_cpu *cpu;
	struct llist_node free;
};

/**
 * struct apf_cpu - what a CPU shares with KVM, and its waiters
 * @area: NULL if the CPU was never online, or there was no memory
 * @waiters: the tasks whose tokens have come through @area
 * @free: for further waiters.  Only the CPU's interrupt handler takes from this list.
 * @generation: the area's generation, when the handler looked at it
 * @on: KVM uses @area
 *
 * All but @waiters and @free are only used by the CPU itself, with interrupts disabled or by its
 * hotplug callbacks.
 */
struct apf_cpu {
	struct kvm_arm_async_pf_area *area;
	struct apf_waiters waiters;
	struct llist_head free;
	u32 generation;
	bool on;
};

static DEFINE_PER_CPU(struct apf_cpu, apf_cpus);

/*
 * Asynchronous page faults have to be off on all CPUs.  A CPU reads this with interrupts
 * disabled before it turns them on: either it sees the new value, or the call to turn
 * them off interrupts it afterwards.
 */
static bool suspended;

static unsigned int apf_irq;

static long hypercall(u64 op, u64 arg1, u64 arg2, struct arm_smccc_res *res)
{
	arm_smccc_1_1_invoke(ARM_SMCCC_VENDOR_HYP_KVM_ASYNC_PF_FUNC_ID, op, arg1, arg2, res);
	return (s32)res->a0;
}

/* ---- A task waits ------------------------------------------------------- */

/*
 * The page may be ready before the task comes here.  With PF_EXITING, the task runs the work
 * on its way out, and has no access to repeat.
 */
static void wait_for_page(struct callback_head *work)
{
	struct apf_sleep *sleep = container_of(work, struct apf_sleep, work);
	long timeout = msecs_to_jiffies(READ_ONCE(timeout_ms));

	/* Older work comes later in the list.  It must not wait for the page. */
	if (work->next && !task_work_add(current, work, TWA_RESUME))
		return;

	for (;;) {
		set_current_state(TASK_INTERRUPTIBLE | TASK_FREEZABLE);
		if (!apf_waiter_waits(&sleep->waiter) || !timeout ||
		    signal_pending(current) || current->flags & PF_EXITING)
			break;
		timeout = schedule_timeout(timeout);
	}
	__set_current_state(TASK_RUNNING);

	apf_waiters_remove(&sleep->cpu->waiters, &sleep->waiter);
	llist_add(&sleep->free, &sleep->cpu->free);
}

/*
 * The handler can't allocate memory.  If so many tasks wait that nothing is free, this one
 * tries its access again.
 */
static void let_task_wait(struct apf_cpu *cpu, u32 token)
{
	struct llist_node *free = llist_del_first(&cpu->free);
	struct apf_sleep *sleep;

	if (!free)
		return;

	sleep = llist_entry(free, struct apf_sleep, free);
	sleep->waiter.token = token;
	sleep->waiter.task = current;
	init_task_work(&sleep->work, wait_for_page);
	apf_waiters_add(&cpu->waiters, &sleep->waiter);
	if (task_work_add(current, &sleep->work, TWA_RESUME | TWAF_NO_ALLOC)) {
		apf_waiters_remove(&cpu->waiters, &sleep->waiter);
		llist_add(&sleep->free, &cpu->free);
	}
}

/* ---- The interrupt ------------------------------------------------------ */

/*
 * The task may sleep if the PPI itself has interrupted it at EL0, at the access.  After another
 * interrupt, it may be another task.  The token is dropped then, and the task that it is
 * for tries its access again.
 */
static void handle_token(struct apf_cpu *cpu)
{
	u32 token = le32_to_cpu(READ_ONCE(cpu->area->token));
	struct pt_regs *regs = get_irq_regs();

	if (!token)
		return;

	if (user_mode(regs) && regs->pc == le64_to_cpu(cpu->area->pc) &&
	    regs->sp == le64_to_cpu(cpu->area->sp))
		let_task_wait(cpu, token);
	WRITE_ONCE(cpu->area->token, 0);
}

/* KVM has forgotten all faults, for example because the VM was restored from a snapshot. */
static void handle_generation(struct apf_cpu *cpu)
{
	u32 generation = le32_to_cpu(READ_ONCE(cpu->area->generation));

	if (generation == cpu->generation)
		return;
	cpu->generation = generation;
	apf_waiters_wake_all(&cpu->waiters);
}

static void handle_ring(struct apf_cpu *cpu)
{
	struct kvm_arm_async_pf_area *area = cpu->area;
	u32 head = le32_to_cpu(READ_ONCE(area->head));
	u32 tail = le32_to_cpu(area->tail);
	struct arm_smccc_res res;

	/* KVM never does this.  Don't trust a host with the length of a loop, though. */
	if (head - tail > RING_ENTRIES)
		tail = head - RING_ENTRIES;
	for (; tail != head; tail++)
		apf_waiters_wake(&cpu->waiters,
				 le32_to_cpu(READ_ONCE(area->ready[tail % RING_ENTRIES])));
	WRITE_ONCE(area->tail, cpu_to_le32(tail));

	if (READ_ONCE(area->full)) {
		WRITE_ONCE(area->full, 0);
		hypercall(KVM_ARM_ASYNC_PF_RESUME, 0, 0, &res);
	}
}

/* The page of the token may be ready already, or forgotten, so the token comes first. */
static irqreturn_t apf_interrupt(int irq, void *dev_id)
{
	struct apf_cpu *cpu = dev_id;

	if (!cpu->on)
		return IRQ_HANDLED;
	handle_token(cpu);
	handle_generation(cpu);
	handle_ring(cpu);
	return IRQ_HANDLED;
}

/* ---- On and off --------------------------------------------------------- */

/*
 * Called on the CPU, with interrupts disabled.  After hibernation, the PPI is disabled: the
 * kernel that has read the image need not have this driver.
 */
static void turn_on(void *unused)
{
	struct apf_cpu *cpu = this_cpu_ptr(&apf_cpus);
	struct arm_smccc_res res;
	long r;

	if (!cpu->area || cpu->on || READ_ONCE(suspended))
		return;

	enable_percpu_irq(apf_irq, IRQ_TYPE_NONE);
	memset(cpu->area, 0, struct_size(cpu->area, ready, RING_ENTRIES));
	cpu->generation = 0;
	r = hypercall(KVM_ARM_ASYNC_PF_ENABLE, virt_to_phys(cpu->area), RING_ORDER, &res);
	if (r)
		pr_warn_once("CPU %d: KVM refuses the area, error %ld\n", smp_processor_id(), r);
	cpu->on = !r;
}

/* Called on the CPU, with interrupts disabled.  KVM no longer reports pages. */
static void turn_off(void *unused)
{
	struct apf_cpu *cpu = this_cpu_ptr(&apf_cpus);
	struct arm_smccc_res res;

	if (!cpu->on)
		return;

	hypercall(KVM_ARM_ASYNC_PF_DISABLE, 0, 0, &res);
	disable_percpu_irq(apf_irq);
	cpu->on = false;
	apf_waiters_wake_all(&cpu->waiters);
}

/* The memory stays when the CPU goes offline.  Tasks may still use it. */
static void alloc_memory(struct apf_cpu *cpu)
{
	struct apf_sleep *sleeps;
	int i;

	sleeps = kcalloc(NR_SLEEPS, sizeof(*sleeps), GFP_KERNEL);
	if (!sleeps)
		return;

	/* A page is aligned and physically contiguous. */
	BUILD_BUG_ON(struct_size_t(struct kvm_arm_async_pf_area, ready, RING_ENTRIES) > SZ_4K);
	cpu->area = (void *)__get_free_page(GFP_KERNEL);
	if (!cpu->area) {
		kfree(sleeps);
		return;
	}
	for (i = 0; i < NR_SLEEPS; i++) {
		sleeps[i].cpu = cpu;
		llist_add(&sleeps[i].free, &cpu->free);
	}
}

/*
 * The callbacks run on the CPU.  They never fail: a CPU without an area waits for its pages
 * itself.
 */
static int apf_cpu_online(unsigned int id)
{
	struct apf_cpu *cpu = this_cpu_ptr(&apf_cpus);

	if (!cpu->area)
		alloc_memory(cpu);
	if (!cpu->area)
		pr_warn("CPU %u: no memory\n", id);

	local_irq_disable();
	turn_on(NULL);
	local_irq_enable();
	return 0;
}

static int apf_cpu_offline(unsigned int id)
{
	local_irq_disable();
	turn_off(NULL);
	local_irq_enable();
	return 0;
}

static void set_suspended(bool value)
{
	cpus_read_lock();
	WRITE_ONCE(suspended, value);
	on_each_cpu(value ? turn_off : turn_on, NULL, true);
	cpus_read_unlock();
}

/* A suspended CPU or another kernel can't handle the PPI, and the area isn't theirs. */
static int pm_event(struct notifier_block *nb, unsigned long event, void *data)
{
	switch (event) {
	case PM_SUSPEND_PREPARE:
	case PM_HIBERNATION_PREPARE:
	case PM_RESTORE_PREPARE:
		set_suspended(true);
		break;
	case PM_POST_SUSPEND:
	case PM_POST_HIBERNATION:
	case PM_POST_RESTORE:
		set_suspended(false);
		break;
	}
	return NOTIFY_OK;
}

static struct notifier_block pm_notifier = { .notifier_call = pm_event };

/* Also before kexec.  A crash kernel disables the PPI, and has memory of its own. */
static int reboot_event(struct notifier_block *nb, unsigned long event, void *data)
{
	set_suspended(true);
	return NOTIFY_OK;
}

static struct notifier_block reboot_notifier = { .notifier_call = reboot_event };

/* ---- Start -------------------------------------------------------------- */

/* The device tree need not describe the PPI. */
static unsigned int __init map_with_device_tree(unsigned long intid)
{
	struct irq_fwspec fwspec = {
		.param_count = 3,
		.param = { 1, intid - 16, IRQ_TYPE_EDGE_RISING },
	};
	struct device_node *gic = of_find_compatible_node(NULL, NULL, "arm,gic-v3");
	unsigned int irq;

	if (!gic)
		return 0;
	fwspec.fwnode = of_node_to_fwnode(gic);
	irq = irq_create_fwspec_mapping(&fwspec);
	of_node_put(gic);
	return irq;
}

#ifdef CONFIG_ACPI
static unsigned int __init map_with_acpi(unsigned long intid)
{
	int irq = acpi_register_gsi(NULL, intid, ACPI_EDGE_SENSITIVE, ACPI_ACTIVE_HIGH);

	return irq < 0 ? 0 : irq;
}
#else
static unsigned int __init map_with_acpi(unsigned long intid)
{
	return 0;
}
#endif

/* Returns 0 if there is no such interrupt. */
static unsigned int __init map_irq(unsigned long intid)
{
	if (intid < 16 || intid > 31)
		return 0;
	return acpi_disabled ? map_with_device_tree(intid) : map_with_acpi(intid);
}

static int __init apf_init(void)
{
	struct arm_smccc_res res;
	int cpu, r;

	if (disabled)
		return -ENODEV;
	if (!kvm_arm_hyp_service_available(ARM_SMCCC_KVM_FUNC_ASYNC_PF) ||
	    hypercall(KVM_ARM_ASYNC_PF_FEATURES, 0, 0, &res) ||
	    res.a1 != KVM_ARM_ASYNC_PF_VERSION) {
		pr_debug("the host doesn't offer asynchronous page faults\n");
		return -ENODEV;
	}

	apf_irq = map_irq(res.a2);
	if (!apf_irq) {
		pr_err("cannot map INTID %lu\n", res.a2);
		return -ENXIO;
	}
	r = request_percpu_irq(apf_irq, apf_interrupt, KBUILD_MODNAME, &apf_cpus);
	if (r) {
		pr_err("cannot request INTID %lu: %d\n", res.a2, r);
		return r;
	}
	for_each_possible_cpu(cpu)
		apf_waiters_init(&per_cpu(apf_cpus, cpu).waiters);

	register_pm_notifier(&pm_notifier);
	register_reboot_notifier(&reboot_notifier);

	/* When a CPU is on, tasks may run code of this module, so nothing may fail after that. */
	r = cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, "kvm_async_pf:online", apf_cpu_online,
			      apf_cpu_offline);
	if (r >= 0)
		return 0;

	unregister_reboot_notifier(&reboot_notifier);
	unregister_pm_notifier(&pm_notifier);
	free_percpu_irq(apf_irq, &apf_cpus);
	return r;
}

/* Without a function for module_exit(), the module stays: tasks may sleep in its code. */
module_init(apf_init);
MODULE_DESCRIPTION("Asynchronous page faults of KVM guests");
MODULE_LICENSE("GPL");
