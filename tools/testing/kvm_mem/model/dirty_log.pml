/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The protocol of the dirty log, for spin: one page, two vCPUs that write to the
 * page, KVM, which writes to it for a guest, and a thread that migrates it.
 *
 * The requirement is: once all writers have stopped and the last round is over,
 * the copy has the value of the last write.  Documentation/virt/kvm/dirty-log.rst
 * describes the steps, and the barriers that keep them in order.  The model has
 * the steps in the order that other CPUs see, so a missing barrier is another
 * order in the model.
 *
 * Each of these definitions removes or moves a step, and must yield a
 * counter-example ("check-model.sh" runs all of them):
 *
 *   NO_RETRY		P does not look again at an entry that changed
 *   NO_FLUSH		TLBs keep their entries
 *   COPY_FIRST		userspace copies before TLBs are invalidated
 *   PROTECT_FIRST	the bit is cleared after the page is protected
 *   MARK_FIRST		a fault sets the bit before the entry is writable
 *   NO_MAP_BARRIER	others see these two steps in any order
 *   NO_DATA_BARRIER	others see KVM's own write and its bit in any order
 *   NO_MARK		a fault doesn't set the bit
 *   NO_COLLECT		with HW, KVM does not read the page tables
 *   NO_ZAP_MARK	with HW, an unmap forgets that the entry was dirty
 *   ZAP_STORE		with HW, an unmap reads the entry, then takes it away
 *   ZAP_UNLOCKED	with HW, an unmap sets the bit without mmu_lock, after a
 *			collect
 *   OFF_FORGETS	with HW, turning hardware off forgets dirty entries
 *   PROTECT_UNASKED	with HW, P protects a page whose bit was not set
 *
 * These definitions select other kinds of log, with the same protocol:
 *
 *   RING		a flag for each vCPU instead of one bit.  Userspace harvests
 *			one vCPU after the other, then asks KVM for a reset
 *   PML		the CPU sets the dirty state of an entry, and notes the page
 *			in a buffer, which KVM empties at exits.  A fault may make
 *			the entry dirty, too
 *   HW			the CPU sets the dirty state of an entry, and KVM reads it
 *			from the page tables.  The host takes the entry away once.
 *			One of the CPUs lacks the feature, and takes faults.  The
 *			VMM turns the feature off and on.  KVM itself does not write
 */

#ifndef WRITES
#define WRITES	2	/* per vCPU */
#endif
#ifndef ROUNDS
#define ROUNDS	2	/* of the migration, before the last one */
#endif
#define VCPUS	2
#define KVM	VCPUS	/* the flag that KVM sets, with RING */

#define NONE	0	/* in a TLB: nothing, or read-only */
#define WRITE	1	/* writable; with PML and HW, dirty as well */

byte memory;		/* the content of the page: the number of a write */
byte copy;
byte last;		/* the number of the last write */
bool logged;		/* the entry: writable, or dirty with PML and HW */
bool other;		/* an unrelated permission of the entry; with HW, DBM:
			   the CPU may set "logged" by itself */
byte tlb[VCPUS];
bool noted[VCPUS];	/* with PML: in the buffer of the vCPU */
byte stopped;

#ifdef HW
bool on = true;		/* P makes pages clean instead of read-only */
byte walking;		/* mmu_lock is held for read */
bool zapping;		/* mmu_lock is held for write */
#define LOCK_SHARED	atomic { !zapping -> walking++ };
#define UNLOCK_SHARED	walking--
#else
#define LOCK_SHARED
#endif

#ifdef RING
bool dirty[VCPUS + 1];
bool harvested;		/* entries that KVM has to reset */
#define MARK(who)	dirty[who] = true
#define DIRTY		(dirty[0] || dirty[1] || dirty[2])
#else
bool dirty;
#define MARK(who)	dirty = true
#define DIRTY		dirty
#endif

#define WRITE_MEMORY	last++; memory = last

/* Change the entry, if it still is (was_logged, was_other). */
#define CMPXCHG(new_logged, new_other)					\
	atomic {							\
		if							\
		:: logged == was_logged && other == was_other ->	\
			logged = new_logged; other = new_other;		\
			done = true					\
		:: else -> done = false					\
		fi							\
	}

#define READ_ENTRY	d_step { was_logged = logged; was_other = other }

/* Flush one vCPU after the other, until all have dropped their entries. */
inline flush()
{
#ifdef NO_FLUSH
	skip
#else
	tlb[0] = NONE;
	tlb[1] = NONE
#endif
}

/* The part of a fault that matters to the log.  The fault need not succeed. */
inline write_fault(who)
{
	READ_ENTRY;
	if
	:: was_logged -> skip
	:: else ->
#if defined(NO_MARK)
		CMPXCHG(true, was_other)
#elif defined(MARK_FIRST)
		MARK(who);
		CMPXCHG(true, was_other)
#else
		if
		:: true ->
			CMPXCHG(true, was_other);
			if
			:: done -> MARK(who)
			:: else -> skip
			fi
#ifdef NO_MAP_BARRIER
		:: true ->
			MARK(who);
			CMPXCHG(true, was_other)
#endif
		fi
#endif
	fi
}

#ifdef HW
/* The fault may set the bit after it drops mmu_lock. */
inline locked_write_fault(who)
{
	LOCK_SHARED
	READ_ENTRY;
	if
	:: was_logged -> done = false
	:: else -> CMPXCHG(true, was_other)
	fi;
	UNLOCK_SHARED;
	if
	:: done -> MARK(who)
	:: else -> skip
	fi
}

/* A fault replaces the entry: it locks it, invalidates TLBs, and makes a new one. */
inline map_anew()
{
	LOCK_SHARED
	d_step { was_logged = logged && other; logged = false; other = false };
	if
	:: was_logged -> dirty = true
	:: else -> skip
	fi;
	flush();
	UNLOCK_SHARED
}

/* A read of a page that isn't mapped. */
inline clean_fault()
{
	LOCK_SHARED
	READ_ENTRY;
	if
	:: was_logged || was_other || !on -> skip
	:: else -> CMPXCHG(false, true)
	fi;
	UNLOCK_SHARED
}
#endif

inline other_fault()
{
	READ_ENTRY;
	CMPXCHG(was_logged, true)
}

/* The CPU takes these steps on its own; TLB invalidations come in between or never. */
proctype vcpu(byte me)
{
	byte writes = 0;
	bool was_logged, was_other, done;

	do
	:: writes < WRITES ->
		if
		:: atomic { tlb[me] == WRITE -> WRITE_MEMORY; writes++ }
#ifdef PML
		:: atomic { tlb[me] == NONE && logged -> tlb[me] = WRITE }
		:: atomic { tlb[me] == NONE && !logged ->
			logged = true; noted[me] = true; tlb[me] = WRITE }
		:: noted[me] -> noted[me] = false; MARK(me)
		:: tlb[me] == NONE && !logged -> write_fault(me)
#else
		:: atomic { tlb[me] == NONE && logged -> tlb[me] = WRITE }
#ifdef HW
		:: atomic { me == 0 && tlb[me] == NONE && !logged && other ->
			logged = true; tlb[me] = WRITE }
		:: tlb[me] == NONE && !logged && (me != 0 || !other) ->
			locked_write_fault(me)
#else
		:: tlb[me] == NONE && !logged -> write_fault(me)
#endif
#endif
#ifdef HW
		:: on && !logged && !other -> clean_fault()
		:: me != 0 && logged && other -> map_anew()
#else
		:: !other -> other_fault()
#endif
		:: atomic { tlb[me] == WRITE -> tlb[me] = NONE }
		fi
	:: writes == WRITES -> break
	od;

	if
	:: noted[me] -> noted[me] = false; MARK(me)
	:: else -> skip
	fi;
	stopped++
}

/* KVM writes through the hva: emulation, a paravirtual page, an ITS table. */
proctype kvm()
{
#ifdef NO_DATA_BARRIER
	if
	:: true -> d_step { WRITE_MEMORY }; MARK(KVM)
	:: true -> MARK(KVM); d_step { WRITE_MEMORY }
	fi;
#else
	d_step { WRITE_MEMORY };
	MARK(KVM);
#endif
	stopped++
}

#ifdef RING
/* Userspace may leave a ring for the next round, unless this is the last one. */
inline harvest(who)
{
	if
	:: dirty[who] -> dirty[who] = false; harvested = true
	:: !dirty[who] || stopped <= VCPUS -> skip
	fi
}
#endif

inline clear()
{
#ifdef RING
	harvest(0);
	harvest(1);
	harvest(KVM)
#else
	dirty = false
#endif
}

inline protect()
{
	LOCK_SHARED
	do
	:: READ_ENTRY;
		if
#ifdef HW
		:: !was_logged && (on || !was_other) -> break
#else
		:: !was_logged -> break
#endif
		:: else ->
#ifdef HW
			CMPXCHG(false, on);
#else
			CMPXCHG(false, was_other);
#endif
#ifdef NO_RETRY
			break
#else
			if
			:: done -> break
			:: else -> skip
			fi
#endif
		fi
	od
#ifdef HW
	;
	UNLOCK_SHARED
#endif
}

#ifdef HW
/* The first step of KVM_GET_DIRTY_LOG; the page stays dirty. */
inline collect()
{
	LOCK_SHARED
	if
	:: on && logged && other -> dirty = true
	:: else -> skip
	fi;
	UNLOCK_SHARED
}

/* Turn hardware dirty state off; the caller holds slots_lock. */
inline turn_off()
{
	atomic { !walking && !zapping -> on = false };
	LOCK_SHARED
	do
	:: READ_ENTRY;
		if
		:: !was_other -> break
		:: else ->
			CMPXCHG(was_logged, false);
			if
			:: done ->
#ifndef OFF_FORGETS
				if
				:: was_logged -> dirty = true
				:: else -> skip
				fi;
#endif
				break
			:: else -> skip
			fi
		fi
	od;
	UNLOCK_SHARED;
	flush()
}

/* The host unmaps the page; a fault maps it again, clean. */
proctype zap()
{
	bool was_logged;

#ifndef ZAP_UNLOCKED
	atomic { !walking -> zapping = true };
#endif
#ifdef ZAP_STORE
	was_logged = logged && other;
	d_step { logged = false; other = false };
#else
	d_step { was_logged = logged && other; logged = false; other = false };
#endif
#ifndef NO_ZAP_MARK
	if
	:: was_logged -> dirty = true
	:: else -> skip
	fi;
#endif
	flush();
	zapping = false
}
#endif

inline round()
{
#if defined(HW) && !defined(NO_COLLECT)
	collect();
#endif
	if
	:: DIRTY ->
#ifdef PROTECT_FIRST
		protect();
		clear();
#else
		clear();
		protect();
#endif
#ifdef COPY_FIRST
		copy = memory;
		flush()
#elif defined(RING)
		if
		:: harvested -> flush(); copy = memory; harvested = false
		:: else -> skip
		fi
#else
		flush();
		copy = memory
#endif
#ifdef PROTECT_UNASKED
	:: else -> protect(); flush()
#else
	:: else -> skip
#endif
	fi
}

proctype migration()
{
	byte rounds = 0;
	bool was_logged, was_other, done;

	do
	:: rounds < ROUNDS -> round(); rounds++
#ifdef HW
	:: on -> turn_off()
	:: !on -> atomic { !walking && !zapping -> on = true }
#endif
	:: break
	od;

	stopped == VCPUS + 1;
	round();
	assert(copy == memory)
}

/* Logging has just begun, and everything is dirty.  The page may still be writable. */
init
{
	atomic {
#ifdef RING
		dirty[KVM] = true;
#else
		dirty = true;
#endif
		if
		:: true -> logged = true; tlb[0] = WRITE; tlb[1] = WRITE
		:: true -> logged = true
		:: true -> skip
		fi;
		run vcpu(0);
		run vcpu(1);
#ifdef HW
		run zap();
		stopped++;
#else
		run kvm();
#endif
		run migration()
	}
}
