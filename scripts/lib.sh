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
# there is none.
splats() {
	local policy
	policy=$(grep -v -e '^#' -e '^!' -e '^$' "$ROOT/lab/splat-policy")
	tr -d '\r' <"$1" | sed 's/^\[ *[0-9.]*\] //' | grep -E -f <(printf '%s\n' "$policy")
}

# KTAP. ktap_plan N, then N rows, then ktap_end, whose status is the test's.
# ktap_case NAME COMMAND... is a row: the command runs in a subshell with
# errexit on; what it wrote becomes diagnostics when it fails; with status 4
# it is a skip, for the reason in the last line written.
ktap_n=0
ktap_failed=0
ktap_skipped=0

ktap_plan() {
	ktap_total=$1
	printf 'KTAP version 1\n1..%d\n' "$1"
}

ktap_row() {	# STATUS NAME [REASON]
	ktap_n=$((ktap_n + 1))
	progress_end
	case $1 in
	pass)	printf 'ok %d %s\n' "$ktap_n" "$2" ;;
	skip)	ktap_skipped=$((ktap_skipped + 1))
		printf 'ok %d %s # SKIP %s\n' "$ktap_n" "$2" "$3" ;;
	*)	ktap_failed=$((ktap_failed + 1))
		printf 'not ok %d %s\n' "$ktap_n" "$2" ;;
	esac
}

ktap_case() {	# NAME COMMAND...
	local name=$1 log status=0
	shift
	log=$(mktemp)
	if on_terminal; then
		progress "[$((ktap_n + 1))/$ktap_total] $name"
	fi
	# Not in a condition, where bash ignores errexit.
	set +e
	(set -e; "$@") >"$log" 2>&1
	status=$?
	set -e
	case $status in
	0)	ktap_row pass "$name" ;;
	4)	ktap_row skip "$name" "$(tail -n 1 "$log")" ;;
	*)	progress_end
		sed 's/^/# /' "$log"
		ktap_row fail "$name" ;;
	esac
	rm -f "$log"
}

ktap_end() {
	printf '# Totals: pass:%d fail:%d xfail:0 xpass:0 skip:%d error:0\n' \
		"$((ktap_n - ktap_failed - ktap_skipped))" "$ktap_failed" "$ktap_skipped"
	if [ "$ktap_n" != "$ktap_total" ]; then
		die "planned $ktap_total rows, ran $ktap_n"
	fi
	[ "$ktap_failed" = 0 ]
}
