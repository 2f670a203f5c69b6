# SPDX-License-Identifier: GPL-2.0
#
# Functions that modules/load and modules/unload share. They take one set of KVM
# modules out of the running kernel and put another one in. They work in any POSIX
# shell, and in busybox, whose modprobe cannot print its configuration.
#
# Modules are named as in /sys/module (kvm_amd), their files as in file_of (kvm-amd).
# A SET is a directory with the modules, or "distribution".

kernel=$(uname -r)
vendors=	# the modules on top of kvm, see check_host
files=		# "MODULE FILE OPTIONS" of the set to bring up, one per line, see plan
why=		# the reason of the last failure
before=		# "MODULE PARAMETER=VALUE" of the old modules, one per line
extra=		# MODULE.PARAMETER=VALUE to load with, besides the options in files

usage() {
	sed -n '4,/^set/{/^#/!d;s/^# \{0,1\}//;p;}' "$0"
}

say() {
	printf '%s\n' "$*"
}

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

file_of() {
	echo "$1" | tr _ -
}

loaded() {
	[ -e "/sys/module/$1/refcnt" ]
}

# ---- Reasons not to begin -------------------------------------------------------

# check_host: die if this host's KVM cannot be swapped
check_host() {
	[ "$(id -u)" = 0 ] || die "only root can swap modules"
	if grep -qs '/kvm\.ko' "/lib/modules/$kernel/modules.builtin" ||
	   { [ -e /sys/module/kvm/parameters ] && ! loaded kvm; }; then
		die "KVM is built into this kernel ($kernel): only another kernel can replace it"
	fi
	for m in kvm_amd kvm_intel; do
		! loaded $m || vendors="$vendors $m"
	done
	if [ -z "$vendors" ]; then
		if grep -qw '^flags.* svm' /proc/cpuinfo; then
			vendors=kvm_amd
		elif grep -qw '^flags.* vmx' /proc/cpuinfo; then
			vendors=kvm_intel
		else
			die "KVM cannot run here: this CPU has neither SVM nor VMX, or the firmware disabled them"
		fi
	fi
}

# check_module FILE: die if the kernel would refuse it
check_module() {
	made_for=$(modinfo -F vermagic "$1")
	[ "${made_for%% *}" = "$kernel" ] ||
		die "$1 was built for ${made_for%% *}, this host runs $kernel:" \
		    "build for it with 'make modules KERNEL=$kernel'"
	if ! tail -c 28 "$1" | grep -q '^~Module signature appended~$'; then
		! grep -qs Y /sys/module/module/parameters/sig_enforce ||
			die "this kernel enforces module signatures (sig_enforce), and $1 has none"
		! grep -qsE '\[(integrity|confidentiality)\]' /sys/kernel/security/lockdown ||
			die "this kernel is locked down (Secure Boot), and $1 has no signature"
	fi
}

# kvm_processes: print "PID (NAME)" of each process that has /dev/kvm or a VM open
kvm_processes() {
	# shellcheck disable=SC2012
	open=$(ls -l /proc/[0-9]*/fd 2>/dev/null |
		sed -n -e '/^\/proc\/[0-9]*\/fd:$/{s/[^0-9]//g;h;}' \
		       -e '/ -> \/dev\/kvm\( (deleted)\)\{0,1\}$/{x;p;x;}' \
		       -e '/ -> anon_inode:kvm-/{x;p;x;}' | sort -un)
	for pid in $open; do
		# Skip this script and its children: they only inherited the open files.
		if [ "$pid" != $$ ] && ! grep -qs "^PPid:.$$\$" "/proc/$pid/status" && [ -e "/proc/$pid" ]; then
			echo "$pid ($(cat "/proc/$pid/comm"))"
		fi
	done | paste -s -d , - | sed 's/,/, /g'
}

# check_idle: die if anything uses KVM
check_idle() {
	for m in $vendors kvm; do
		loaded "$m" || continue
		for holder in "/sys/module/$m/holders"/*; do
			[ -e "$holder" ] || continue
			case " $vendors " in
			*" ${holder##*/} "*) ;;
			*) die "the module ${holder##*/} uses $m: unload it first; nothing was changed" ;;
			esac
		done
	done
	for m in $vendors; do
		loaded "$m" || continue
		references=$(cat "/sys/module/$m/refcnt")
		if [ "$references" != 0 ]; then
			who=$(kvm_processes)
			die "KVM is in use by ${who:-"$references references to $m that no process holds"}:" \
			    "end that use first; nothing was changed"
		fi
	done
}

# ---- Parameters -----------------------------------------------------------------

# configured MODULE: print its options in modprobe.d and on the kernel's command line,
# like modprobe
configured() {
	either=$(echo "$1" | sed 's/_/[_-]/g')
	{
		modprobe -c 2>/dev/null | sed -n "s/^options $either //p"
		tr ' ' '\n' </proc/cmdline | sed -n "s/^$either\.//p"
	} | tr '\n' ' '
}

# values: print all parameters that can be read
values() {
	for m in kvm $vendors; do
		for p in "/sys/module/$m/parameters"/*; do
			[ ! -r "$p" ] || ! read -r value <"$p" || echo "$m ${p##*/}=$value"
		done
	done
}

# differing: print the lines of $before whose parameter still exists and now has
# another value
differing() {
	while read -r m setting; do
		p=/sys/module/$m/parameters/${setting%%=*}
		if [ -n "$m" ] && [ -r "$p" ] && read -r value <"$p" && [ "$value" != "${setting#*=}" ]; then
			echo "$m $setting"
		fi
	done <<-EOF
	$before
	EOF
}

# restore: set parameters to the values that they had in the old modules. The kernel
# does not tell which values were given and which depend on the hardware, so only
# parameters that now differ are set. A writable parameter is written now. The others
# go to $extra, and the modules must be loaded again with it.
restore() {
	extra=
	while read -r m setting; do
		[ -n "$m" ] || continue
		p=/sys/module/$m/parameters/${setting%%=*}
		# shellcheck disable=SC2012
		case $(ls -l "$p") in
		-?w*) echo "${setting#*=}" 2>/dev/null >"$p" || true ;;
		*) extra="$extra $m.$setting" ;;
		esac
	done <<-EOF
	$(differing)
	EOF
}

# ---- Out and in -----------------------------------------------------------------

# find_module MODULE SET: print its file
find_module() {
	if [ "$2" != distribution ]; then
		found=$2/$(file_of "$1").ko
		[ ! -e "$found" ] || echo "$found"
	else
		find "${MODDIR:-/lib/modules/$kernel/kernel}" -name "$(file_of "$1").ko*" 2>/dev/null | sed -n 1p
	fi
}

# plan SET: prepare everything slow before the swap: the files, in load order, and
# their options
plan() {
	files=
	for m in kvm $vendors; do
		file=$(find_module "$m" "$1")
		why="the $1's $(file_of "$m").ko is not in ${MODDIR:-/lib/modules/$kernel} (set MODDIR= to its directory)"
		[ -n "$file" ] || return 1
		for needed in $(modinfo -F depends "$file" | tr ,- ' _'); do
			case " kvm $vendors " in *" $needed "*) continue ;; esac
			[ ! -e "/sys/module/$needed" ] || continue
			other=$(find "/lib/modules/$kernel" -name "$(file_of "$needed").ko*" | sed -n 1p)
			why="$file needs $needed, which is neither loaded nor in /lib/modules/$kernel"
			[ -n "$other" ] || return 1
			files="$files$needed $other
"
		done
		files="$files$m $file $(configured "$m")
"
	done
}

# take_out: unload KVM's modules that are loaded
take_out() {
	for m in $vendors kvm; do
		! loaded "$m" || why=$(rmmod "$m" 2>&1) || return 1
	done
}

all_loaded() {
	for m in kvm $vendors; do
		loaded "$m" || return 1
	done
}

# put_in: load the planned modules that are not loaded
put_in() {
	while read -r m file options; do
		if [ -z "$m" ] || loaded "$m"; then
			continue
		fi
		for o in $extra; do
			case $o in "$m".*) options="$options ${o#*.}" ;; esac
		done
		# shellcheck disable=SC2086
		why=$(insmod "$file" $options 2>&1) || return 1
	done <<-EOF
	$files
	EOF
}

# bring_up: load the planned modules, with the parameters of the old ones
bring_up() {
	extra=
	put_in || return 1
	restore
	if [ -n "$extra" ]; then
		# If a VM has started already, the modules stay as they are.
		take_out || true
		put_in || return 1
		restore
	fi
}

# swap SET: take out the loaded modules and bring SET up. If that fails, bring the
# distribution's modules up, unless none were loaded before.
swap() {
	plan "$1" || die "$why; nothing was changed"
	was=none
	! loaded kvm || was=loaded
	before=$(values)
	began=$(uptime_cs)
	if ! take_out; then
		# A VM may have started since check_idle.
		! all_loaded || die "$why; nothing was changed"
	elif bring_up; then
		ended=$(uptime_cs)
		lost=$(differing | tr '\n' ' ')
		[ -z "$lost" ] || say "module parameters that could not be restored: $lost"
		return
	fi
	failure=$why
	take_out || true
	[ $was = loaded ] || die "$failure; no KVM is loaded, as before"
	if plan distribution && bring_up; then
		die "$failure; the distribution's KVM is in its place"
	fi
	die "$failure; the distribution's KVM does not load either: $why"
}

# uptime_cs: print the time since boot in hundredths of a second
uptime_cs() {
	read -r up _ </proc/uptime
	echo "${up%.*}${up#*.}"
}

# report: print the loaded modules and the time of the swap
report() {
	for m in kvm $vendors; do
		version=$(cat "/sys/module/$m/version" 2>/dev/null || echo "the distribution's")
		srcversion=$(cat "/sys/module/$m/srcversion" 2>/dev/null || true)
		say "$(file_of "$m"): $version${srcversion:+, srcversion $srcversion}"
	done
	took=$((ended - began))
	say "swapped in $((took / 100)).$((took / 10 % 10))$((took % 10)) s"
}
