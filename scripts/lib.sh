# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# What the shell scripts share. A script in a folder of the repository begins with
#
#	set -euo pipefail
#	# shellcheck source=scripts/lib.sh
#	. "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"
#
# and has: ROOT   the repository
#          BASE   the Linux version the series is against
#          CACHE  what outlives the checkout; anything in it is made under
#                 a temporary name and renamed when it is whole

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034
BASE=$(<"$ROOT/BASE")
# shellcheck disable=SC2034
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/kvm-mem

# A second checkout finds what the first one compiled.
export CCACHE_BASEDIR=$ROOT CCACHE_NOHASHDIR=1

# What git sets for a hook is about another repository than those used here.
# shellcheck disable=SC2046
unset $(git rev-parse --local-env-vars 2>/dev/null)

# say MESSAGE: what is going on, for the person who waits.
say() {
	printf '%s\n' "$*" >&2
}

# die MESSAGE: say what is wrong and what to do, and end.
die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# usage: print the comment at the head of the script (for -h).
usage() {
	awk 'NR > 2 && !/^#/ { exit }
	     /^#!/ || /SPDX-License-Identifier/ { next }
	     { sub(/^# ?/, ""); if (n++ || NF) print }' "$0"
}

# on_terminal: does a person watch standard error?
on_terminal() {
	[ -t 2 ] && [ "${TERM:-dumb}" != dumb ]
}

# progress MESSAGE: on a terminal a line that the next one replaces,
# elsewhere a line like any other. progress_end clears it.
progress() {
	if on_terminal; then
		printf '\r\033[K%.*s' "$((${COLUMNS:-80} - 1))" "$*" >&2
	else
		say "$*"
	fi
}

progress_end() {
	if on_terminal; then
		printf '\r\033[K' >&2
	fi
}

# cross ARCH: what the names of the tools for it begin with
cross() {
	if [ "$1" = arm64 ]; then
		printf aarch64-linux-gnu-
	fi
}

# compiler ARCH: its C compiler, through ccache where that is there
compiler() {
	printf '%s%sgcc' "$(! command -v ccache >/dev/null || printf 'ccache ')" "$(cross "$1")"
}

# kbuild ARCH LINUX OBJ ARGUMENT...: make, in the kernel tree LINUX, into OBJ
kbuild() {
	local arch=$1 linux=$2 obj=$3
	shift 3
	make -s -C "$linux" O="$obj" ARCH="$arch" CROSS_COMPILE="$(cross "$arch")" \
		CC="$(compiler "$arch")" HOSTCC="$(compiler host)" \
		-j"$(nproc)" --output-sync=target "$@"
}

# splats LOG: print what in a kernel log lab/splat-policy calls a splat; fails if
# there is none. A log that cannot be judged counts as a splat.
splats() {
	! {
		make -s -C "$ROOT/lab/guest" O="$ROOT/build/lab" "$ROOT/build/lab/scan" &&
			"$ROOT/build/lab/scan" "$ROOT/lab/splat-policy" "$1"
	}
}

# mirror LABEL: where apt has the archive of that label from
mirror() {
	# shellcheck disable=SC2016
	apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
		awk -v label="$1" '$1 == label { print $2; exit }'
}

# KTAP, as the kernel's own helpers print it. ktap_plan N, then N rows, then
# ktap_end, which ends the script with the test's status.
# ktap_case NAME COMMAND... is a row: the command runs in a subshell with
# errexit on; what it wrote becomes diagnostics when it fails; with status 4
# it is a skip, for the reason in the last line written.
ktap_plan() {
	local helpers=$ROOT/build/linux/tools/testing/selftests/kselftest/ktap_helpers.sh
	[ -e "$helpers" ] || "$ROOT/scripts/assemble" >&2
	# shellcheck source=/dev/null
	. "$helpers"
	ktap_print_header
	ktap_set_plan "$1"
}

ktap_row() {	# STATUS NAME [REASON]
	local -
	set -f	# the helpers do not quote a name
	case $1 in
	0)	ktap_test_pass "$2" ;;
	4)	# ktap_test_skip has no room for the reason.
		__ktap_test ok "$2" "SKIP $3"
		KTAP_CNT_SKIP=$((KTAP_CNT_SKIP + 1)) ;;
	*)	ktap_test_fail "$2" ;;
	esac
}

ktap_case() {	# NAME COMMAND...
	local name=$1 log status=0
	shift
	log=$(mktemp)
	if on_terminal; then
		progress "[$KTAP_TESTNO/$KSFT_NUM_TESTS] $name"
	fi
	# Not in a condition, where bash ignores errexit.
	set +e
	(set -e; "$@") >"$log" 2>&1
	status=$?
	set -e
	progress_end
	[ $status = 0 ] || [ $status = 4 ] || sed 's/^/# /' "$log"
	ktap_row $status "$name" "$(tail -n 1 "$log")"
	rm -f "$log"
}

ktap_end() {
	if [ $((KTAP_TESTNO - 1)) != "$KSFT_NUM_TESTS" ]; then
		say "planned $KSFT_NUM_TESTS rows, ran $((KTAP_TESTNO - 1))"
	fi
	ktap_finished
}
