// SPDX-License-Identifier: GPL-2.0-only
/*
 * The slots of asynchronous page faults: see kvm_apf_slots.h.
 */
#include <linux/bug.h>
#include <linux/hash.h>
#include <linux/kvm_apf_slots.h>
#include <linux/log2.h>
#include <linux/slab.h>

#define NO_SLOT			U16_MAX
#define LAST_GENERATION		254

static u16 slot_number(struct kvm_apf_slots *slots, struct kvm_apf_slot *slot)
{
	return slot - slots->slot;
}

static u16 *bucket_of(struct kvm_apf_slots *slots, gfn_t gfn)
{
	return &slots->bucket[hash_64(gfn, slots->bucket_bits)];
}

static u32 next_token(u32 token)
{
	u32 generation = token >> KVM_APF_SLOT_BITS;
	u32 number = token & (KVM_APF_MAX_SLOTS - 1);

	return (generation % LAST_GENERATION + 1) << KVM_APF_SLOT_BITS | number;
}

static void append_to_free(struct kvm_apf_slots *slots, struct kvm_apf_slot *slot)
{
	u16 number = slot_number(slots, slot);

	slot->next = NO_SLOT;
	if (slots->first_free == NO_SLOT)
		slots->first_free = number;
	else
		slots->slot[slots->last_free].next = number;
	slots->last_free = number;
}

int kvm_apf_slots_alloc(struct kvm_apf_slots *slots, unsigned int nr, gfp_t gfp)
{
	unsigned int i;

	/* The highest generation would make a token all ones. */
	BUILD_BUG_ON(BIT(KVM_APF_TOKEN_BITS - KVM_APF_SLOT_BITS) - 1 <= LAST_GENERATION);
	if (WARN_ON_ONCE(!nr || nr > KVM_APF_MAX_SLOTS))
		return -ENOMEM;

	/* Half of the buckets are empty even if all slots are taken. */
	slots->bucket_bits = order_base_2(nr) + 1;
	slots->slot = kvcalloc(nr, sizeof(*slots->slot), gfp);
	slots->bucket = kvcalloc(BIT(slots->bucket_bits), sizeof(*slots->bucket), gfp);
	if (!slots->slot || !slots->bucket) {
		kvm_apf_slots_free(slots);
		return -ENOMEM;
	}

	slots->nr = nr;
	slots->first_free = NO_SLOT;
	for (i = 0; i < BIT(slots->bucket_bits); i++)
		slots->bucket[i] = NO_SLOT;
	for (i = 0; i < nr; i++) {
		slots->slot[i].token = i;
		append_to_free(slots, &slots->slot[i]);
	}
	return 0;
}

void kvm_apf_slots_free(struct kvm_apf_slots *slots)
{
	kvfree(slots->slot);
	kvfree(slots->bucket);
	*slots = (struct kvm_apf_slots){};
}

struct kvm_apf_slot *kvm_apf_slots_find(struct kvm_apf_slots *slots, gfn_t gfn)
{
	u16 number;

	if (!slots->nr_taken)
		return NULL;

	number = *bucket_of(slots, gfn);
	while (number != NO_SLOT && slots->slot[number].gfn != gfn)
		number = slots->slot[number].next;
	return number == NO_SLOT ? NULL : &slots->slot[number];
}

struct kvm_apf_slot *kvm_apf_slots_take(struct kvm_apf_slots *slots, gfn_t gfn)
{
	struct kvm_apf_slot *slot;
	u16 *bucket;

	if (slots->nr_taken == slots->nr)
		return NULL;

	slot = &slots->slot[slots->first_free];
	slots->first_free = slot->next;
	slots->nr_taken++;

	bucket = bucket_of(slots, gfn);
	slot->gfn = gfn;
	slot->token = next_token(slot->token);
	slot->next = *bucket;
	*bucket = slot_number(slots, slot);
	return slot;
}

void kvm_apf_slots_release(struct kvm_apf_slots *slots, struct kvm_apf_slot *slot)
{
	u16 *link = bucket_of(slots, slot->gfn);

	while (*link != slot_number(slots, slot)) {
		if (WARN_ON_ONCE(*link == NO_SLOT))
			return;
		link = &slots->slot[*link].next;
	}

	*link = slot->next;
	slots->nr_taken--;
	append_to_free(slots, slot);
}

void kvm_apf_slots_release_all(struct kvm_apf_slots *slots)
{
	unsigned int i;
	u16 *bucket;

	for (i = 0; slots->nr_taken && i < BIT(slots->bucket_bits); i++) {
		bucket = &slots->bucket[i];
		while (*bucket != NO_SLOT)
			kvm_apf_slots_release(slots, &slots->slot[*bucket]);
	}
}
