/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The dirty log and blocks, for spin: two pages that a block may map, two vCPUs
 * that write to them, the host, which may unmap them, and a thread that starts
 * logging and migrates the pages.  dirty_log.pml has the protocol of one page, and
 * the requirement.
 *
 * A block is replaced by a table in two ways.  x86 exchanges it for a table whose
 * entries are as writable as the block.  A fault on arm64 locks the entry, flushes
 * TLBs, and installs a table that maps only the page of the fault.
 *
 * A page is stale if it was written since it was copied.  No page may be stale in
 * the end.
 *
 * Each of these definitions removes or moves a step, and must yield a
 * counter-example ("check-model.sh" runs all of them):
 *
 *   BLOCK_FAULT	a fault makes a block writable, and logs one page of it
 *   LOG_FIRST		a fault sets the bit before it unlocks the entry
 *   NO_DESCENT		P does not look at a table that has replaced a block
 *   SPLIT_STORE	a split overwrites a block that has been protected
 *   SPLIT_WRITABLE	the entries of the table are always writable
 *   NO_SRCU		the start does not wait for faults that don't log
 *   NOT_PROTECTED	the start protects nothing, although all bits are clear
 *   EARLY_PROTECT	the start protects pages before faults can see it
 *   ONE_ROOT		with ROOTS, P looks at one page table only
 *
 * These definitions select other set-ups, with the same protocol:
 *
 *   ROOTS		each vCPU has a page table of its own: nested guests, SMM
 *   INITIALLY_SET	the start sets all bits and protects nothing
 *			(KVM_DIRTY_LOG_INITIALLY_SET)
 */

#ifndef WRITES
#define WRITES	1	/* per vCPU */
#endif
#ifndef ROUNDS
#define ROUNDS	1	/* of the migration, before the last one */
#endif
#define VCPUS	2

#ifdef ROOTS
#define ROOT(vcpu)	vcpu
#else
#define ROOT(vcpu)	0
#endif

/* The upper entry of a root, which covers both pages */
#define NONE		0
#define LOCKED		1	/* a fault is replacing it */
#define BLOCK		2	/* not writable */
#define WRITABLE_BLOCK	3
#define TABLE		4
byte upper[2];
bool leaf[4];		/* the entry of a table: root * 2 + page; true if writable */
#define LEAF(root, page)	leaf[(root) * 2 + (page)]

bool tlb[4];		/* vCPU * 2 + page; true if writable */
#define TLB(vcpu, page)		tlb[(vcpu) * 2 + (page)]

bool dirty[2];
bool stale[2];
bool logging;		/* the flag of the memslot */
byte old_faults;	/* that saw the memslot without the flag */
byte stopped;

#define WRITABLE(root, page)						\
	(upper[root] == WRITABLE_BLOCK ||				\
	 (upper[root] == TABLE && LEAF(root, page)))

/* Change the upper entry, if it still is "was".  A table has entries 0 and 1. */
#define CMPXCHG(root, new, entry0, entry1)				\
	d_step {							\
		done = upper[root] == was;				\
		if							\
		:: done ->						\
			upper[root] = new;				\
			LEAF(root, 0) = entry0;				\
			LEAF(root, 1) = entry1				\
		:: else -> skip						\
		fi							\
	}

inline flush()
{
	d_step { TLB(0, 0) = false; TLB(0, 1) = false };
	d_step { TLB(1, 0) = false; TLB(1, 1) = false }
}

/* x86: the entries of the table are as writable as the block was. */
inline split(root)
{
#ifdef SPLIT_STORE
	d_step {
		done = upper[root] == BLOCK || upper[root] == WRITABLE_BLOCK;
		if
		:: done ->
			upper[root] = TABLE;
			LEAF(root, 0) = was == WRITABLE_BLOCK;
			LEAF(root, 1) = was == WRITABLE_BLOCK
		:: else -> skip
		fi
	}
#elif defined(SPLIT_WRITABLE)
	CMPXCHG(root, TABLE, true, true)
#else
	CMPXCHG(root, TABLE, was == WRITABLE_BLOCK, was == WRITABLE_BLOCK)
#endif
}

/* arm64: nobody else changes the entry while it is locked. */
inline break_before_make(root, page)
{
	CMPXCHG(root, LOCKED, false, false);
	if
	:: done ->
		flush();
#ifdef LOG_FIRST
		dirty[page] = true;
#endif
		d_step { upper[root] = TABLE; LEAF(root, page) = true };
#ifndef LOG_FIRST
		dirty[page] = true
#endif
	:: else -> skip
	fi
}

/* The part of a write fault that matters to the log.  The fault need not succeed. */
inline write_fault(root, page)
{
	d_step {
		logs = logging;
		if
		:: logs -> skip
		:: else -> old_faults++
		fi;
	};
	was = upper[root];
	if
	:: was == LOCKED -> skip
	:: was == TABLE ->
		d_step {
			done = upper[root] == TABLE && !LEAF(root, page);
			if
			:: done -> LEAF(root, page) = true
			:: else -> skip
			fi
		};
		if
		:: done && logs -> dirty[page] = true
		:: else -> skip
		fi
	:: was != LOCKED && was != TABLE && !logs ->
		CMPXCHG(root, WRITABLE_BLOCK, false, false)
	:: was != LOCKED && was != TABLE && logs ->
#ifdef BLOCK_FAULT
		CMPXCHG(root, WRITABLE_BLOCK, false, false);
		dirty[page] = true
#else
		if
		:: break_before_make(root, page)
		:: split(root)
		fi
#endif
	fi;
	d_step {
		if
		:: logs -> skip
		:: else -> old_faults--
		fi;
		logs = false; was = NONE; done = false; page = 0
	}
}

#define FAULTS(page)	(!TLB(me, page) && !WRITABLE(ROOT(me), page))

/* Write, or drop or make an entry of the TLB. */
inline access(page)
{
	if
	:: d_step { TLB(me, page) -> stale[page] = true; writes++ }
	:: d_step { TLB(me, page) -> TLB(me, page) = false }
	:: d_step { !TLB(me, page) && WRITABLE(ROOT(me), page) -> TLB(me, page) = true }
	fi
}

proctype vcpu(byte me)
{
	byte writes, page, was;
	bool logs, done;

	do
	:: writes < WRITES ->
		if
		:: access(0)
		:: access(1)
		:: atomic { FAULTS(0) -> page = 0 }; write_fault(ROOT(me), page)
		:: atomic { FAULTS(1) -> page = 1 }; write_fault(ROOT(me), page)
		fi
	:: writes == WRITES -> break
	od;
	stopped++
}

/* An MMU notifier excludes faults and P: here, it takes one step. */
proctype zap()
{
	if
	:: d_step { upper[0] != LOCKED && upper[1] != LOCKED ->
		upper[0] = NONE; upper[1] = NONE;
		leaf[0] = false; leaf[1] = false; leaf[2] = false; leaf[3] = false;
		tlb[0] = false; tlb[1] = false; tlb[2] = false; tlb[3] = false }
	:: stopped == VCPUS -> skip
	fi
}

inline protect_root(root, page)
{
	do
	:: was = upper[root];
		if
		:: was == WRITABLE_BLOCK ->
			if
			:: CMPXCHG(root, BLOCK, false, false)
			:: split(root)
			fi;
#ifdef NO_DESCENT
			break
#endif
		:: was == TABLE ->
			d_step {
				if
				:: upper[root] == TABLE -> LEAF(root, page) = false
				:: else -> skip
				fi
			};
			break
		:: else -> break
		fi
	od
}

inline protect(page)
{
	protect_root(0, page);
#if defined(ROOTS) && !defined(ONE_ROOT)
	protect_root(1, page)
#endif
}

inline copy()
{
	if
	:: mask[0] -> stale[0] = false
	:: else -> skip
	fi;
	if
	:: mask[1] -> stale[1] = false
	:: else -> skip
	fi
}

inline protect_masked()
{
	if
	:: mask[0] -> protect(0)
	:: else -> skip
	fi;
	if
	:: mask[1] -> protect(1)
	:: else -> skip
	fi
}

inline round()
{
	d_step { mask[0] = dirty[0]; dirty[0] = false };
	d_step { mask[1] = dirty[1]; dirty[1] = false };
	protect_masked();
	flush();
	copy()
}

/* Userspace copies all pages once logging has started. */
inline start()
{
	mask[0] = true;
	mask[1] = true;
#ifdef INITIALLY_SET
	d_step { dirty[0] = true; dirty[1] = true };
#endif
#ifdef EARLY_PROTECT
	protect_masked();
	flush();
#endif
	logging = true;
#ifndef NO_SRCU
	old_faults == 0;
#endif
#if !defined(INITIALLY_SET) && !defined(NOT_PROTECTED) && !defined(EARLY_PROTECT)
	protect_masked();
	flush();
#endif
#ifndef INITIALLY_SET
	copy()
#endif
}

proctype migration()
{
	byte rounds, was;
	bool mask[2], done;

	start();
	do
	:: rounds < ROUNDS -> round(); rounds++
	:: break
	od;

	stopped == VCPUS;
	round();
	assert(!stale[0] && !stale[1])
}

/* The pages may be mapped by blocks, and all have to be copied. */
init
{
	atomic {
		stale[0] = true;
		stale[1] = true;
		if
		:: upper[0] = WRITABLE_BLOCK; tlb[0] = true; tlb[3] = true
		:: upper[0] = BLOCK
		:: skip
		fi;
		if
		:: upper[1] = WRITABLE_BLOCK
		:: skip
		fi;
		run vcpu(0);
		run vcpu(1);
		run zap();
		run migration()
	}
}
