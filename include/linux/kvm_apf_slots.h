/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The slots of asynchronous page faults.
 *
 * A slot is taken while a page of the guest is on its way.  It answers two questions:
 * has the vCPU faulted on this gfn before, and which token does the guest know the
 * fault by?
 *
 *	token:	| generation (8 bits) | number of the slot (12 bits) |
 *
 * No two slots that are taken have the same gfn or the same token.  Each time a slot is
 * taken it gets another generation, from 1 to 254, so a late token is not mistaken for
 * that of the slot's next fault.  Slots are taken in the order in which they became
 * free, which makes a generation last as long as possible.  A token is never 0 or
 * all ones, even if bits are put before or behind it.
 *
 * A slot is in one of two kinds of list, linked by numbers: that of its hash bucket
 * if it is taken, or that of the free slots.
 *
 * The caller serializes all calls.  KVM makes them in the vCPU's thread, and when nobody
 * runs the vCPU any more.
 */
#ifndef __KVM_APF_SLOTS_H
#define __KVM_APF_SLOTS_H

#include <linux/gfp_types.h>
#include <linux/kvm_types.h>
#include <linux/types.h>

#define KVM_APF_SLOT_BITS	12
#define KVM_APF_TOKEN_BITS	20
#define KVM_APF_MAX_SLOTS	BIT(KVM_APF_SLOT_BITS)

struct kvm_apf_slot {
	gfn_t gfn;
	u32 token;
	u16 next;
};

/**
 * struct kvm_apf_slots - the slots of one vCPU
 * @slot: all slots; NULL before kvm_apf_slots_alloc()
 * @bucket: the first slot of each hash bucket
 * @bucket_bits: the number of buckets, log2
 * @nr: the number of slots
 * @nr_taken: how many of them are taken
 * @first_free: the slot to take next
 * @last_free: the slot that became free last
 */
struct kvm_apf_slots {
	struct kvm_apf_slot *slot;
	u16 *bucket;
	unsigned int bucket_bits;
	unsigned int nr;
	unsigned int nr_taken;
	u16 first_free;
	u16 last_free;
};

/**
 * kvm_apf_slots_alloc() - Allocate slots, all of them free
 * @slots: zeroed
 * @nr: the number of slots, from 1 to KVM_APF_MAX_SLOTS
 * @gfp: for the allocation
 *
 * Return: 0 or -ENOMEM
 */
int kvm_apf_slots_alloc(struct kvm_apf_slots *slots, unsigned int nr, gfp_t gfp);

/**
 * kvm_apf_slots_free() - Free what kvm_apf_slots_alloc() has allocated, if anything
 * @slots: zero when this returns
 */
void kvm_apf_slots_free(struct kvm_apf_slots *slots);

/**
 * kvm_apf_slots_find() - Find the slot of a page
 * @slots: the slots
 * @gfn: the page
 *
 * Return: the slot, or NULL if none is taken for @gfn
 */
struct kvm_apf_slot *kvm_apf_slots_find(struct kvm_apf_slots *slots, gfn_t gfn);

/**
 * kvm_apf_slots_take() - Take a slot for a page that has none
 * @slots: the slots
 * @gfn: the page
 *
 * Return: the slot, with its new token, or NULL if all are taken
 */
struct kvm_apf_slot *kvm_apf_slots_take(struct kvm_apf_slots *slots, gfn_t gfn);

/**
 * kvm_apf_slots_release() - Make a slot free
 * @slots: the slots
 * @slot: one that is taken
 */
void kvm_apf_slots_release(struct kvm_apf_slots *slots, struct kvm_apf_slot *slot);

/**
 * kvm_apf_slots_release_all() - Make all slots free
 * @slots: the slots
 */
void kvm_apf_slots_release_all(struct kvm_apf_slots *slots);

#endif
