// SPDX-License-Identifier: GPL-2.0-only
/*
 * Asynchronous page faults of arm64 guests.
 *
 * A task of the guest accesses a page that the host has to fetch first.  KVM writes a
 * token to the area that it shares with the vCPU, and makes a PPI pending.  The guest's
 * handler lets the task sleep.  When the page is there, KVM maps it, writes the token
 * to a ring in the area, and makes the PPI pending again.
 *
 * A pending interrupt isn't always taken before the access is executed again, so KVM
 * enters the interrupt vector itself.  The vCPU then is in a state that it could have
 * reached without KVM: it has taken an interrupt before the instruction.  If it takes
 * another one first and accesses the page again before its handler has run, KVM enters
 * the vector again.
 *
 * The vCPU's thread and the ioctls of the vCPU run one at a time, with the vCPU's mutex
 * held.  Only kvm_arch_async_page_present_queued() and kvm_arm_async_pf_can_wake() are
 * called from elsewhere.
 *
 * include/uapi/linux/kvm_arm_async_pf.h has the area and the hypercall, and
 * Documentation/virt/kvm/arm/async-pf.rst the reasons.
 */
#include <linux/arm-smccc.h>
#include <linux/kvm_host.h>

#include <kvm/arm_arch_timer.h>
#include <kvm/arm_hypercalls.h>
#include <kvm/arm_vgic.h>

#include <asm/kvm_async_pf.h>
#include <asm/kvm_emulate.h>

#include <trace/events/kvm.h>

/* How often a task may come back to a page before the vCPU waits for the page. */
#define MAX_REPEATS	16

/*
 * Tell the guest of so many pages that are ready, and then look at signals and at other
 * requests.  For each page, the dirty ring gets up to three entries, and it may be soft-full.
 * It has 64 entries more than that (KVM_DIRTY_RING_RSVD_ENTRIES).
 */
#define MAX_READY	16

#define AREA_OFFSET(field)	offsetof(struct kvm_arm_async_pf_area, field)

/* The area */

static u32 ring_entries(struct kvm_vcpu *vcpu)
{
	return 1 << FIELD_GET(KVM_REG_ARM_ASYNC_PF_ORDER_MASK, vcpu->arch.apf.area);
}

static int write_area(struct kvm_vcpu *vcpu, unsigned int offset, void *data, int len)
{
	return kvm_write_guest_offset_cached(vcpu->kvm, &vcpu->arch.apf.cache, data,
					     offset, len);
}

static int write_area_u32(struct kvm_vcpu *vcpu, unsigned int offset, u32 value)
{
	__le32 data = cpu_to_le32(value);

	return write_area(vcpu, offset, &data, sizeof(data));
}

static int read_area_u32(struct kvm_vcpu *vcpu, unsigned int offset, u32 *value)
{
	__le32 data;
	int r = kvm_read_guest_offset_cached(vcpu->kvm, &vcpu->arch.apf.cache, &data,
					     offset, sizeof(data));

	*value = le32_to_cpu(data);
	return r;
}

static void raise_irq(struct kvm_vcpu *vcpu)
{
	kvm_vgic_inject_irq(vcpu->kvm, vcpu, vcpu->arch.apf.irq, true, &vcpu->arch.apf);
}

/* A page is not present */

/*
 * Would the guest take the interrupt now?  If it takes this one first, its handler finds
 * the task at EL0, where the task holds no lock and can sleep.
 */
static bool guest_takes_irq(struct kvm_vcpu *vcpu)
{
	u64 pstate = *vcpu_cpsr(vcpu);

	return (pstate & (PSR_MODE32_BIT | PSR_MODE_MASK)) == PSR_MODE_EL0t &&
	       !(pstate & PSR_I_BIT) && !vcpu_el1_is_32bit(vcpu) &&
	       !vcpu_has_nv(vcpu) && !vcpu->guest_debug;
}

/* Tell the guest that it has to wait for a page, and enter its handler. */
static bool send_token(struct kvm_vcpu *vcpu, u32 token)
{
	u64 pc = *vcpu_pc(vcpu), sp = vcpu_gp_regs(vcpu)->sp;
	__le64 context[] = { cpu_to_le64(pc), cpu_to_le64(sp) };

	BUILD_BUG_ON(AREA_OFFSET(sp) != AREA_OFFSET(pc) + sizeof(context[0]));

	if (write_area(vcpu, AREA_OFFSET(pc), context, sizeof(context)) ||
	    write_area_u32(vcpu, AREA_OFFSET(token), token)) {
		vcpu->stat.async_pf_sync_area++;
		return false;
	}
	vcpu->arch.apf.token = token;
	vcpu->arch.apf.pc = pc;
	vcpu->arch.apf.sp = sp;
	vcpu->stat.async_pf_sent++;
	raise_irq(vcpu);
	kvm_pend_exception(vcpu, EXCEPT_AA64_EL1_IRQ);
	return true;
}

bool kvm_arch_async_page_not_present(struct kvm_vcpu *vcpu, struct kvm_async_pf *work)
{
	trace_kvm_async_pf_not_present(work->token, work->cr2_or_gpa);
	vcpu->arch.apf.token = 0;
	vcpu->arch.apf.repeats = 0;
	return send_token(vcpu, work->token);
}

/*
 * The guest accesses a page again that is on its way.  @pending is the token that its
 * handler has not seen yet, or 0.
 */
static bool repeat_token(struct kvm_vcpu *vcpu, u32 token, u32 pending)
{
	if (vcpu->arch.apf.token != token || vcpu->arch.apf.pc != *vcpu_pc(vcpu) ||
	    vcpu->arch.apf.sp != vcpu_gp_regs(vcpu)->sp)
		vcpu->arch.apf.repeats = 0;
	if (vcpu->arch.apf.repeats >= MAX_REPEATS) {
		vcpu->stat.async_pf_sync_repeated++;
		return false;
	}
	vcpu->arch.apf.repeats++;

	/* Another task waits for the page, or the handler has found no task to wait. */
	if (!pending)
		return send_token(vcpu, token);

	vcpu->stat.async_pf_entered_again++;
	kvm_pend_exception(vcpu, EXCEPT_AA64_EL1_IRQ);
	return true;
}

/**
 * kvm_arm_async_pf_fault() - Let the guest go on without a page
 * @vcpu: the vCPU, which has asynchronous page faults turned on
 * @gpa: the page
 * @hva: its address in the VMM
 * @write: the access is a write
 * @exec: the access fetches an instruction
 *
 * Context: The vCPU's thread, with the vCPU loaded and kvm->srcu held.  May sleep.
 *
 * Return: true if the guest goes on, false if the caller must wait for the page
 */
bool kvm_arm_async_pf_fault(struct kvm_vcpu *vcpu, gpa_t gpa, unsigned long hva,
			    bool write, bool exec)
{
	struct kvm_arch_async_pf arch = { .exec = exec };
	gfn_t gfn = gpa_to_gfn(gpa);
	u32 token, pending;

	trace_kvm_try_async_get_page(gpa, gfn);

	if (!guest_takes_irq(vcpu) || !kvm_arm_async_pf_offered(vcpu->kvm)) {
		vcpu->stat.async_pf_sync_context++;
		return false;
	}
	if (!kvm_vgic_irq_is_deliverable(vcpu, vcpu->arch.apf.irq)) {
		vcpu->stat.async_pf_sync_irq++;
		return false;
	}
	if (read_area_u32(vcpu, AREA_OFFSET(token), &pending)) {
		vcpu->stat.async_pf_sync_area++;
		return false;
	}
	/* The area may have been out of reach, and now it isn't. */
	if (vcpu->arch.apf.blocked)
		kvm_make_request(KVM_REQ_ASYNC_PF_READY, vcpu);

	token = kvm_async_pf_token(vcpu, gfn);
	if (pending && pending != token) {
		vcpu->stat.async_pf_sync_token++;
		return false;
	}
	if (token) {
		trace_kvm_async_pf_repeated_fault(gpa, gfn);
		return repeat_token(vcpu, token, pending);
	}

	if (!kvm_setup_async_pf(vcpu, gpa, gfn, hva, write, &arch)) {
		vcpu->stat.async_pf_sync_limit++;
		return false;
	}
	/* If the area could not be written, the page comes, but the vCPU waits for it. */
	return vcpu->arch.apf.token;
}

/* Pages are ready */

void kvm_arch_async_page_present_queued(struct kvm_vcpu *vcpu)
{
	kvm_make_request(KVM_REQ_ASYNC_PF_READY, vcpu);
	kvm_vcpu_kick(vcpu);
}

/* Is there room in the ring?  If not, the guest says when there is. */
static bool ring_has_room(struct kvm_vcpu *vcpu)
{
	u32 head, tail, full;

	if (read_area_u32(vcpu, AREA_OFFSET(head), &head) ||
	    read_area_u32(vcpu, AREA_OFFSET(tail), &tail) ||
	    read_area_u32(vcpu, AREA_OFFSET(full), &full))
		return false;
	if (head - tail < ring_entries(vcpu))
		return true;

	if (!full && !write_area_u32(vcpu, AREA_OFFSET(full), 1))
		raise_irq(vcpu);
	return false;
}

bool kvm_arch_can_dequeue_async_page_present(struct kvm_vcpu *vcpu)
{
	bool blocked;

	if (vcpu->arch.apf.nr_ready >= MAX_READY)
		return false;

	/* If they are off, the faults were forgotten. */
	blocked = kvm_arm_async_pf_enabled(vcpu) && !ring_has_room(vcpu);
	WRITE_ONCE(vcpu->arch.apf.blocked, blocked);
	return !blocked;
}

/* Map the page, or the guest would fault on it again. */
void kvm_arch_async_page_ready(struct kvm_vcpu *vcpu, struct kvm_async_pf *work)
{
	kvm_arm_map_ready_page(vcpu, work->cr2_or_gpa, work->write, work->arch.exec);
}

/* The area is out of reach: let all tasks try again when it isn't. */
static void wake_all_later(struct kvm_vcpu *vcpu)
{
	WRITE_ONCE(vcpu->async_pf.wake_all, true);
	WRITE_ONCE(vcpu->arch.apf.blocked, true);
}

void kvm_arch_async_page_present(struct kvm_vcpu *vcpu, struct kvm_async_pf *work)
{
	u32 head;

	trace_kvm_async_pf_ready(work->token, work->cr2_or_gpa);

	vcpu->arch.apf.nr_ready++;
	if (!kvm_arm_async_pf_enabled(vcpu))
		return;

	if (read_area_u32(vcpu, AREA_OFFSET(head), &head) ||
	    write_area_u32(vcpu, AREA_OFFSET(ready[head % ring_entries(vcpu)]), work->token) ||
	    write_area_u32(vcpu, AREA_OFFSET(head), head + 1)) {
		wake_all_later(vcpu);
		return;
	}
	vcpu->stat.async_pf_ready++;
	raise_irq(vcpu);
}

void kvm_arch_async_pf_wake_all(struct kvm_vcpu *vcpu)
{
	u32 generation;

	if (!kvm_arm_async_pf_enabled(vcpu))
		return;

	if (read_area_u32(vcpu, AREA_OFFSET(generation), &generation) ||
	    write_area_u32(vcpu, AREA_OFFSET(generation), generation + 1))
		wake_all_later(vcpu);
	else
		raise_irq(vcpu);
}

/* For KVM_REQ_ASYNC_PF_READY */
void kvm_arm_async_pf_complete(struct kvm_vcpu *vcpu)
{
	int idx = srcu_read_lock(&vcpu->kvm->srcu);

	vcpu->arch.apf.nr_ready = 0;
	kvm_check_async_pf_completion(vcpu);
	srcu_read_unlock(&vcpu->kvm->srcu, idx);

	if (kvm_arm_async_pf_can_wake(vcpu))
		kvm_make_request(KVM_REQ_ASYNC_PF_READY, vcpu);
}

/* For KVM_RUN: the VMM may have given the area back. */
void kvm_arm_async_pf_run(struct kvm_vcpu *vcpu)
{
	if (vcpu->arch.apf.blocked)
		kvm_make_request(KVM_REQ_ASYNC_PF_READY, vcpu);
}

/* Must a vCPU that waits for an interrupt be woken, to be told that a page is ready? */
bool kvm_arm_async_pf_can_wake(struct kvm_vcpu *vcpu)
{
	return kvm_async_pf_has_completed(vcpu) && !READ_ONCE(vcpu->arch.apf.blocked);
}

/* On and off */

static void turn_off(struct kvm_vcpu *vcpu)
{
	vcpu->arch.apf.area = 0;
	vcpu->arch.apf.token = 0;
	WRITE_ONCE(vcpu->arch.apf.blocked, false);
	kvm_forget_async_pf(vcpu);
}

/* @area is as in KVM_REG_ARM_ASYNC_PF. */
static int turn_on(struct kvm_vcpu *vcpu, u64 area)
{
	u32 order = FIELD_GET(KVM_REG_ARM_ASYNC_PF_ORDER_MASK, area);
	struct gfn_to_hva_cache cache = {};
	int idx, r;

	if (!vcpu->arch.apf.irq || order > KVM_ARM_ASYNC_PF_MAX_ORDER ||
	    !(area & KVM_REG_ARM_ASYNC_PF_ON) ||
	    area & ~(KVM_REG_ARM_ASYNC_PF_ADDRESS_MASK | KVM_REG_ARM_ASYNC_PF_ORDER_MASK |
		     KVM_REG_ARM_ASYNC_PF_ON))
		return -EINVAL;

	idx = srcu_read_lock(&vcpu->kvm->srcu);
	r = kvm_gfn_to_hva_cache_init(vcpu->kvm, &cache,
				      area & KVM_REG_ARM_ASYNC_PF_ADDRESS_MASK,
				      AREA_OFFSET(ready[1 << order]));
	srcu_read_unlock(&vcpu->kvm->srcu, idx);
	if (r)
		return -EINVAL;

	turn_off(vcpu);
	vcpu->arch.apf.cache = cache;
	vcpu->arch.apf.area = area;
	return 0;
}

void kvm_arm_async_pf_reset(struct kvm_vcpu *vcpu)
{
	if (kvm_arm_async_pf_enabled(vcpu))
		turn_off(vcpu);
}

static u64 enable_call(struct kvm_vcpu *vcpu)
{
	u64 address = smccc_get_arg2(vcpu), order = smccc_get_arg3(vcpu);

	if (address & ~KVM_REG_ARM_ASYNC_PF_ADDRESS_MASK ||
	    order > KVM_ARM_ASYNC_PF_MAX_ORDER ||
	    turn_on(vcpu, address | order << KVM_REG_ARM_ASYNC_PF_ORDER_SHIFT |
			  KVM_REG_ARM_ASYNC_PF_ON))
		return SMCCC_RET_INVALID_PARAMETER;
	return SMCCC_RET_SUCCESS;
}

void kvm_arm_async_pf_call(struct kvm_vcpu *vcpu, u64 *val)
{
	if (!vcpu->arch.apf.irq)
		return;

	switch (smccc_get_arg1(vcpu)) {
	case KVM_ARM_ASYNC_PF_FEATURES:
		val[0] = SMCCC_RET_SUCCESS;
		val[1] = KVM_ARM_ASYNC_PF_VERSION;
		val[2] = vcpu->arch.apf.irq;
		break;
	case KVM_ARM_ASYNC_PF_ENABLE:
		val[0] = enable_call(vcpu);
		break;
	case KVM_ARM_ASYNC_PF_DISABLE:
		turn_off(vcpu);
		val[0] = SMCCC_RET_SUCCESS;
		break;
	case KVM_ARM_ASYNC_PF_RESUME:
		WRITE_ONCE(vcpu->arch.apf.blocked, false);
		kvm_make_request(KVM_REQ_ASYNC_PF_READY, vcpu);
		val[0] = SMCCC_RET_SUCCESS;
		break;
	}
}

/* The VMM */

bool kvm_arm_async_pf_supported(void)
{
	return kvm_vgic_global_state.type == VGIC_V3 && !is_protected_kvm_enabled();
}

bool kvm_arm_async_pf_offered(struct kvm *kvm)
{
	return test_bit(KVM_REG_ARM_ASYNC_PF_BIT_V1, &kvm->arch.smccc_feat.async_pf_bmap);
}

u64 kvm_arm_async_pf_get_reg(struct kvm_vcpu *vcpu)
{
	return vcpu->arch.apf.area;
}

int kvm_arm_async_pf_set_reg(struct kvm_vcpu *vcpu, u64 val)
{
	int r;

	if (!kvm_arm_async_pf_offered(vcpu->kvm))
		return -ENOENT;

	if (!val) {
		turn_off(vcpu);
		return 0;
	}

	r = turn_on(vcpu, val);
	if (!r)
		kvm_async_pf_wake_all(vcpu);
	return r;
}

/* Is the PPI that of a timer, or another one than other vCPUs have? */
static int check_irq(struct kvm_vcpu *vcpu, int irq)
{
	int nr_timers = vcpu_has_nv(vcpu) ? NR_KVM_TIMERS : NR_KVM_EL0_TIMERS;
	struct kvm_vcpu *other;
	unsigned long i;

	for (i = 0; i < nr_timers; i++) {
		if (timer_irq(vcpu_get_timer(vcpu, i)) == irq)
			return -EEXIST;
	}

	kvm_for_each_vcpu(i, other, vcpu->kvm) {
		if (other->arch.apf.irq && other->arch.apf.irq != irq)
			return -EINVAL;
	}

	return 0;
}

static int set_irq(struct kvm_vcpu *vcpu, int irq)
{
	int r;

	lockdep_assert_held(&vcpu->kvm->arch.config_lock);

	if (vcpu->kvm->arch.vgic.vgic_model != KVM_DEV_TYPE_ARM_VGIC_V3 ||
	    !vgic_initialized(vcpu->kvm))
		return -ENODEV;
	if (!irq_is_ppi(irq))
		return -EINVAL;
	if (vcpu->arch.apf.irq)
		return -EBUSY;

	r = check_irq(vcpu, irq);
	if (r)
		return r;
	r = kvm_vgic_set_owner(vcpu, irq, &vcpu->arch.apf);
	if (r)
		return r;

	kvm_vgic_set_edge(vcpu, irq);
	vcpu->arch.apf.irq = irq;
	return 0;
}

int kvm_arm_async_pf_has_attr(struct kvm_vcpu *vcpu, struct kvm_device_attr *attr)
{
	if (attr->attr != KVM_ARM_VCPU_ASYNC_PF_IRQ || !kvm_arm_async_pf_supported())
		return -ENXIO;
	return 0;
}

int kvm_arm_async_pf_set_attr(struct kvm_vcpu *vcpu, struct kvm_device_attr *attr)
{
	int __user *uaddr = (int __user *)(long)attr->addr;
	int irq, r = kvm_arm_async_pf_has_attr(vcpu, attr);

	if (r)
		return r;
	if (get_user(irq, uaddr))
		return -EFAULT;

	mutex_lock(&vcpu->kvm->arch.config_lock);
	r = set_irq(vcpu, irq);
	mutex_unlock(&vcpu->kvm->arch.config_lock);
	return r;
}

int kvm_arm_async_pf_get_attr(struct kvm_vcpu *vcpu, struct kvm_device_attr *attr)
{
	int __user *uaddr = (int __user *)(long)attr->addr;

	if (kvm_arm_async_pf_has_attr(vcpu, attr) || !vcpu->arch.apf.irq)
		return -ENXIO;
	return put_user(vcpu->arch.apf.irq, uaddr);
}
