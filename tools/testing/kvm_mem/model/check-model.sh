#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# usage: check-model.sh [--quick] [DIR]
#
# Lets spin search all states of the models and their variants, in DIR or a temporary
# directory. Prints KTAP: a row fails if spin finds a counter-example where there should
# be none, or finds none where there should be one.
#
# With --quick, the migration has fewer rounds where no write may be lost, and the
# slowest row is skipped.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/testing/selftests/kselftest/ktap_helpers.sh
. "$here/../../selftests/kselftest/ktap_helpers.sh"
rounds='' slow=safe
if [ "${1-}" = --quick ]; then
	rounds=ROUNDS=1 slow=skipped
	shift
fi
dir=${1-}
if [ -z "$dir" ]; then
	dir=$(mktemp -d)
	trap 'rm -rf "$dir"' EXIT
fi

# The expected result ("lost": a write may be lost, or hardware may use a freed page),
# and the macros to define. BLOCKS stands for dirty_log_blocks.pml, GPC for gpc.pml.
variants=(
	"safe"
	"safe RING"
	"safe PML"
	"safe HW"
	"lost NO_RETRY"
	"lost NO_FLUSH"
	"lost COPY_FIRST"
	"lost PROTECT_FIRST"
	"lost MARK_FIRST"
	"lost NO_MAP_BARRIER"
	"lost NO_DATA_BARRIER"
	"lost NO_MARK"
	"lost RING NO_RETRY"
	"lost RING NO_FLUSH"
	"lost RING MARK_FIRST"
	"lost PML NO_RETRY"
	"lost PML NO_FLUSH"
	"lost PML PROTECT_FIRST"
	"lost HW NO_FLUSH"
	"lost HW PROTECT_FIRST"
	"lost HW NO_COLLECT"
	"lost HW NO_ZAP_MARK"
	"lost HW ZAP_STORE"
	"lost HW ZAP_UNLOCKED"
	"lost HW OFF_FORGETS"
	"lost HW PROTECT_UNASKED"
	"safe BLOCKS"
	"safe BLOCKS INITIALLY_SET"
	"safe BLOCKS ROOTS INITIALLY_SET"
	"$slow BLOCKS ROOTS"
	"lost BLOCKS BLOCK_FAULT"
	"lost BLOCKS LOG_FIRST"
	"lost BLOCKS NO_DESCENT"
	"lost BLOCKS SPLIT_STORE"
	"lost BLOCKS SPLIT_WRITABLE"
	"lost BLOCKS NO_SRCU"
	"lost BLOCKS INITIALLY_SET NO_SRCU"
	"lost BLOCKS NOT_PROTECTED"
	"lost BLOCKS EARLY_PROTECT"
	"lost BLOCKS ROOTS ONE_ROOT"
	"safe GPC"
	"lost GPC NO_REQUEST"
	"lost GPC NO_WAIT"
	"lost GPC NO_RANGE"
	"lost GPC NO_REFRESHING"
	"lost GPC REQUEST_FIRST"
	"lost GPC REQUEST_LATE"
	"lost GPC TAKE_LATE"
	"lost GPC TEST_EARLY"
	"lost GPC FORGET"
	"lost GPC NO_MEMSLOT"
	"lost GPC MEMSLOT_EARLY"
)

# search NAME DEFINE...: fails unless the search covered all states.
search() {
	local out=$dir/$1 model=$here/dirty_log.pml
	shift
	case ${1-} in
	BLOCKS) model=$here/dirty_log_blocks.pml ;;
	GPC) model=$here/gpc.pml ;;
	esac
	mkdir -p "$out"
	(
		cd "$out" || exit
		spin -a "${@/#/-D}" "$model" >spin.log &&
			cc -O1 -w -DSAFETY -o search pan.c &&
			./search -m200000 >pan.log
	) || return
	! grep -q -e 'max search depth too small' -e 'out of memory' "$out/pan.log" &&
		grep -q '^State-vector' "$out/pan.log"
}

ktap_print_header
ktap_set_plan "${#variants[@]}"
for variant in "${variants[@]}"; do
	read -r expected defines <<<"$variant"
	name=${defines// /+}
	name=${name:-protocol}
	log=$dir/$name/pan.log
	if [ "$expected" = skipped ]; then
		ktap_test_skip "$name: takes long"
		continue
	elif [ "$expected" = safe ]; then
		defines+=" $rounds"
	fi
	# shellcheck disable=SC2086
	if ! search "$name" $defines; then
		found='not searched'
	elif grep -q 'errors: 0$' "$log" &&
	     ! grep -q 'Search not completed' "$log"; then
		found=safe
	elif grep -q 'assertion violated' "$log"; then
		found=lost
	else
		found='something else'
	fi
	states=$(sed -n 's/^ *\([0-9]*\) states, stored.*/\1/p' "$log" 2>/dev/null)
	if [ "$found" = "$expected" ]; then
		ktap_test_pass "$name: $found, ${states:-no} states"
	else
		ktap_test_fail "$name: $found instead of $expected"
	fi
done
ktap_finished
