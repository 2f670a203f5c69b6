/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A pfn cache that a vCPU owns, for spin: the vCPU, which enters the guest over and
 * over, two invalidations of the MMU notifier at the same time, and a thread that
 * deletes the memslot of the page and adds one with other memory.
 * Documentation/virt/kvm/gpc.rst has N1 to N4, R1 to R5 and V1 to V5.
 *
 * In the guest, hardware uses the page in vmcs02.  It may not be freed then, and after
 * the memslot is deleted, it may not be one of the old memslot.
 *
 * Each of these definitions removes or moves a step, and must yield a
 * counter-example (check-model.sh runs all of them):
 *
 *   NO_REQUEST		N2 sets no request
 *   NO_WAIT		N2 does not wait for the vCPU
 *   NO_RANGE		R2 does not wait for the end of an invalidation
 *   NO_REFRESHING	N2 lets a refresh go on
 *   REQUEST_FIRST	N2 sets the request before it makes the cache invalid
 *   REQUEST_LATE	N2 sets the request after it has dropped gpc->lock
 *   TAKE_LATE		V1 takes the request after V2
 *   TEST_EARLY		V4 tests for a request before V3
 *   FORGET		an error of V2 does not set the request again
 *   NO_MEMSLOT		the deletion of the memslot leaves the cache alone
 *   MEMSLOT_EARLY	it does not wait for readers of the old memslots first
 */

/* Pages: the old memslot has OLD, OLD + 1, and OLD + 2 in turn. */
#define OLD	0
#define NEW	3
#define NONE	4
bool freed[5];
byte page = OLD;	/* of the old memslot, at the moment */

/* The memslot of the cache's gfn */
mtype = { OLD_SLOT, INVALID_SLOT, NO_SLOT, NEW_SLOT };
mtype slot = OLD_SLOT;
bool slots_lock;
bool deleted;		/* the ioctl has returned */

/* The cache; each of the gpc->lock sections is one step. */
mtype hva = NO_SLOT;	/* the memslot that it is from; NO_SLOT: not in the index */
bool valid;
bool refreshing;
byte pfn = NONE;

byte invalidations;	/* of the old memslot's page */

/* The vCPU */
bool request;
bool guest_mode;	/* vcpu->mode */
bool in_guest;
byte vmcs02 = NONE;

/* SRCU: is the vCPU a reader, and since before the last synchronize_srcu()? */
bool reader;
bool old_reader;

#define USES(p)		(in_guest && vmcs02 == (p))
#define USES_OLD	(in_guest && vmcs02 < NEW)

/* N2, and the same for a memslot */
inline invalidate()
{
#ifdef REQUEST_FIRST
	if
	:: hva == OLD_SLOT -> request = true
	:: else
	fi;
#endif
	d_step {
		owned = hva == OLD_SLOT;
		if
		:: owned ->
			valid = false;
#ifndef NO_REFRESHING
			refreshing = false;
#endif
#if !defined(NO_REQUEST) && !defined(REQUEST_FIRST) && !defined(REQUEST_LATE)
			request = true
#else
			skip
#endif
		:: else
		fi
	};
#ifdef REQUEST_LATE
	if
	:: owned -> request = true
	:: else
	fi;
#endif
#ifndef NO_WAIT
	/* An interrupt, which is handled when the vCPU is out of guest mode */
	if
	:: owned && guest_mode -> !guest_mode
	:: else
	fi
#endif
}

active [2] proctype notifier()
{
	bool owned;
	byte old;

	invalidations++;			/* N1 */
	invalidate();				/* N2 */
	d_step {				/* N3 */
		old = page;
		page++;
		freed[old] = true;
		assert(!USES(old))
	};
	invalidations--				/* N4 */
}

active proctype memslots()
{
	bool owned;

	atomic { !slots_lock -> slots_lock = true };
	slot = INVALID_SLOT;
#ifdef MEMSLOT_EARLY
	invalidate();
#endif
	old_reader = reader;
	!old_reader;
#if !defined(NO_MEMSLOT) && !defined(MEMSLOT_EARLY)
	invalidate();
#endif
	d_step {
		slot = NO_SLOT;
		deleted = true;
		assert(!USES_OLD)
	};
	slots_lock = false;
	slot = NEW_SLOT
}

/* R1 to R5; "from" is what the vCPU finds in the memslots. */
inline refresh()
{
	do
	:: from = slot;
	   d_step {				/* R1 */
		valid = false;
		if
		:: from == OLD_SLOT || from == NEW_SLOT ->
			hva = from;
			refreshing = true
		:: else ->
			hva = NO_SLOT;
			pfn = NONE;
			failed = true
		fi
	   };
	   if
	   :: failed -> break
	   :: else
	   fi;
#ifndef NO_RANGE
	   from == NEW_SLOT || !invalidations;	/* R2 */
#endif
	   if					/* R3 */
	   :: from == OLD_SLOT -> found = page
	   :: else -> found = NEW
	   fi;
	   d_step {				/* R4 */
		if
		:: refreshing ->
			valid = true;
			pfn = found
		:: else
		fi;
		done = refreshing;
		refreshing = false
	   };
	   if
	   :: done -> break
	   :: else				/* R5 */
	   fi
	od
}

/* V2 */
inline load()
{
	failed = false;
	if
	:: valid -> skip			/* without gpc->lock */
	:: else -> refresh()
	fi;
	if
	:: !failed -> vmcs02 = pfn
	:: else
	fi
}

active proctype vcpu()
{
	bool failed, done;
	mtype from;
	byte found;

	reader = true;
	/* L1 enters L2, for the first time. */
	do
	:: load();
	   if
	   :: !failed -> break
	   :: else -> d_step { reader = false; old_reader = false }; reader = true
	   fi
	od;

	do
	:: if
	   :: request ->
#ifndef TAKE_LATE
		request = false;		/* V1 */
#endif
		load();
#ifdef TAKE_LATE
		request = false;
#endif
	   :: !request ->
		failed = false
	   :: load()				/* L1 enters L2 again. */
	   :: !valid ->
		/* KVM wants to read the page.  It goes on after an error. */
		failed = false;
		refresh();
		failed = false
	   fi;
	   if
	   :: failed ->
		/* Wait for slots_lock, or return to the VMM. */
#ifndef FORGET
		request = true;
#endif
		d_step { reader = false; old_reader = false };
		!slots_lock;
		reader = true
	   :: else
	   fi;
#ifndef FORGET
	   if
	   :: failed -> skip
	   :: else ->
#endif
#ifdef TEST_EARLY
	   if
	   :: !request ->
		guest_mode = true;
		d_step { reader = false; old_reader = false };
#else
	   guest_mode = true;			/* V3 */
	   d_step { reader = false; old_reader = false };
	   if
	   :: !request ->			/* V4 */
#endif
		d_step {			/* V5 */
			in_guest = true;
			assert(vmcs02 == NONE || !freed[vmcs02]);
			assert(!deleted || !USES_OLD)
		};
		in_guest = false
	   :: else
	   fi;
	   guest_mode = false;
	   reader = true
#ifndef FORGET
	   fi
#endif
	od
}
