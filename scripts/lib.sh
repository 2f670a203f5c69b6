# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# Functions that the shell scripts share. A script in a folder of the repository
# begins with
#
#	set -euo pipefail
#	# shellcheck source=scripts/lib.sh
#	. "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"
#
# and can then use:
#          ROOT   the repository
#          BASE   the Linux version that the series is against
#          CACHE  files that outlive the checkout; a script makes each under a
#                 temporary name, and renames it when it is complete

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034
BASE=$(<"$ROOT/BASE")
# shellcheck disable=SC2034
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/kvm-mem

# A second checkout reuses what the first one compiled.
export CCACHE_BASEDIR=$ROOT CCACHE_NOHASHDIR=1

# Variables that git sets for a hook refer to a repository that is not used here.
# shellcheck disable=SC2046
unset $(git rev-parse --local-env-vars 2>/dev/null)

# say MESSAGE: tell the user what is going on.
say() {
	printf '%s\n' "$*" >&2
}

# die MESSAGE: say what is wrong and what to do, and exit.
die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# usage: print the comment at the head of the script, for -h.
usage() {
	awk 'NR > 2 && !/^#/ { exit }
	     /^#!/ || /SPDX-License-Identifier/ { next }
	     { sub(/^# ?/, ""); if (n++ || NF) print }' "$0"
}

# on_terminal: is standard error a terminal?
on_terminal() {
	[ -t 2 ] && [ "${TERM:-dumb}" != dumb ]
}

# progress MESSAGE: on a terminal, print a line that the next one replaces;
# elsewhere, print an ordinary line. progress_end clears the last one.
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

# copy_checkout DIR: copy the checkout's files to DIR, committed or not, but no build
# output. The copy is a git repository, because scripts/assemble asks git for its files.
copy_checkout() {
	rm -rf "$1"
	mkdir -p "$1"
	git -C "$ROOT" ls-files -z --cached --others --exclude-standard |
		rsync -a --from0 --files-from=- --ignore-missing-args "$ROOT/" "$1/"
	git init -q "$1"
	git -C "$1" add -A
}

# cross ARCH: print the prefix of the cross tools for ARCH
cross() {
	if [ "$1" = arm64 ]; then
		printf aarch64-linux-gnu-
	fi
}

# compiler ARCH: print the C compiler for ARCH, with ccache if it is installed
compiler() {
	printf '%s%sgcc' "$(! command -v ccache >/dev/null || printf 'ccache ')" "$(cross "$1")"
}

# kbuild ARCH LINUX OBJ ARGUMENT...: run make in the kernel tree LINUX, output to OBJ
kbuild() {
	local arch=$1 linux=$2 obj=$3
	shift 3
	make -s -C "$linux" O="$obj" ARCH="$arch" CROSS_COMPILE="$(cross "$arch")" \
		CC="$(compiler "$arch")" HOSTCC="$(compiler host)" \
		-j"$(nproc)" --output-sync=target "$@"
}

# lab_options ARCH [VARIANT]: print the kernel options of a kernel of the lab, to append
# to a configuration
lab_options() {
	local configs=$ROOT/lab/kernels/configs
	cat "$configs/common" "$configs/$1" ${2:+"$configs/$2"}
}

# splats LOG: print the lines of a kernel log that are splats by lab/splat-policy,
# and fail if there are none. A log that cannot be scanned counts as a splat.
splats() {
	! {
		make -s -C "$ROOT/lab/guest" O="$ROOT/build/lab" "$ROOT/build/lab/scan" &&
			"$ROOT/build/lab/scan" "$ROOT/lab/splat-policy" "$1"
	}
}

# mirror LABEL: print the URI from which apt gets the archive with that label
mirror() {
	# shellcheck disable=SC2016
	apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
		awk -v label="$1" '$1 == label { print $2; exit }'
}

# The archive of another release, or of another architecture (ARCHIVE_ARCH), without a
# change to this machine's apt: archive_lists makes lists in DIR of the sources.list lines
# LINE..., without their "deb"; archive_apt runs an apt tool on them; archive_unpack
# downloads packages and unpacks them in TO.
archive_lists() {	# DIR LINE...
	mkdir -p "$1"/{lists/partial,cache/archives/partial}
	printf '%s\n' "${@:2}" |
		sed "s/^/deb [arch=${ARCHIVE_ARCH-$(dpkg --print-architecture)}] /" >"$1/sources.list"
	archive_apt "$1" apt-get update
}

archive_apt() {		# DIR TOOL ARGUMENT...
	local arch=${ARCHIVE_ARCH-$(dpkg --print-architecture)}
	"$2" -q -o "Dir::State::Lists=$1/lists" -o "Dir::Cache=$1/cache" -o APT::Sandbox::User=root \
		-o "APT::Architecture=$arch" -o "APT::Architectures::=$arch" \
		-o "Dir::Etc::SourceList=$1/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::State::status=/dev/null -o Acquire::Languages=none "${@:3}"
}

archive_unpack() {	# DIR TO PACKAGE...
	local debs deb
	debs=$(mktemp -d "$1/debs.XXXXXX")
	(cd "$debs" && archive_apt "$1" apt-get download "${@:3}") || return
	for deb in "$debs"/*.deb; do
		dpkg-deb -x "$deb" "$2" || return
	done
	rm -rf "$debs"
}

# KTAP, printed by the kernel's own helpers. A script calls ktap_plan N, then
# prints N rows, then calls ktap_end, which exits with the test's status.
# ktap_case NAME COMMAND... prints a row. It runs the command in a subshell with
# errexit on. If the command fails, its output becomes diagnostics. Status 4 is a
# skip; the last line of the output is the reason.
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
	set -f	# the helpers do not quote the name
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
	# Not in a condition: bash ignores errexit there.
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
