#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# usage: check-litmus.sh [HERD7 [ARGUMENT...]]
#
# Runs each litmus test in this directory in the kernel's memory model: once as it
# is, and once without each of its barriers.  "without:" in the comment of a line
# marks a barrier, and is followed by the line to use in its place.  Prints KTAP: a
# row fails if herd7 finds the state after "exists" in a test as it is, or does not
# find it in a test that lacks a barrier.
set -u

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/testing/selftests/kselftest/ktap_helpers.sh
. "$here/../../selftests/kselftest/ktap_helpers.sh"
[ $# != 0 ] || set -- herd7
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# observe FILE HERD7...: print what herd7 says of the state: Never, Sometimes or Always
observe() {
	local file=$1
	shift
	(cd "$here/../../../memory-model" && "$@" -conf linux-kernel.cfg "$file" 2>&1) |
		tee "$dir/log" | sed -n 's/^Observation [^ ]* \([^ ]*\) .*/\1/p'
}

# row NAME EXPECTED FILE HERD7...
row() {
	local found
	found=$(observe "${@:3}")
	if [ "$found" = "$2" ]; then
		ktap_test_pass "$1: $found"
	else
		sed 's/^/# /' "$dir/log"
		ktap_test_fail "$1: ${found:-no result} instead of $2"
	fi
}

tests=("$here"/*.litmus)
ktap_print_header
ktap_set_plan $((${#tests[@]} + $(cat "${tests[@]}" | grep -c 'without:')))
for test in "${tests[@]}"; do
	name=$(basename "$test" .litmus)
	row "$name" Never "$test" "$@"
	while IFS=: read -r line _; do
		sed "$line"'s/^.*without:/	/' "$test" >"$dir/$name.litmus"
		barrier=$(sed -n "$line"'{ s/^\s*//; s/;\s*\/\/.*//; p }' "$test")
		row "$name without $barrier, line $line" Sometimes "$dir/$name.litmus" "$@"
	done < <(grep -n 'without:' "$test")
done
ktap_finished
