# SPDX-License-Identifier: GPL-2.0
#
# Functions that modules/load and modules/unload share. They take one set of KVM's
# modules, or of VFIO's, out of the running kernel and put another one in. They work in
# any POSIX shell, and in busybox, whose modprobe cannot print its configuration.
#
# Modules are named as in /sys/module (kvm_amd), their files as in file_of (kvm-amd).
# A SET is a directory with the modules, or "distribution".

kernel=$(uname -r)
modules=	# what is swapped, in the order to load it, see check_host
main=		# the module that is always loaded, if any is
users=		# the modules that are in use when VMs run
added=		# the module that only the series has
name=		# what the user calls it
device=		# patterns of sed: the device that a process opens to use it, and
opened=		# what else it has open then
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
	case $1 in
	kvm*) echo "$1" | tr _ - ;;
	*) echo "$1" ;;
	esac
}

# backwards WORD...: print the words in reverse
backwards() {
	reversed=
	for word; do
		reversed="$word $reversed"
	done
	echo "$reversed"
}

loaded() {
	[ -e "/sys/module/$1/refcnt" ]
}

# ---- Reasons not to begin -------------------------------------------------------

# check_host kvm|vfio: die if this host's KVM, or VFIO's driver of type 1, cannot be swapped
check_host() {
	[ "$(id -u)" = 0 ] || die "only root can swap modules"
	case $1 in
	kvm) main=kvm name=KVM ;;
	vfio) main=vfio_iommu_type1 name=VFIO ;;
	esac
	if grep -qs "/$main\.ko" "/lib/modules/$kernel/modules.builtin" ||
	   { [ -e /sys/module/$main/parameters ] && ! loaded $main; }; then
		die "$name is built into this kernel ($kernel): only another kernel can replace it"
	fi
	if [ "$1" = kvm ]; then
		find_vendors
		opened='anon_inode:kvm-' device='\/dev\/kvm\( (deleted)\)\{0,1\}$'
		modules="kvm $users"
	else
		opened='anon_inode:\[vfio' device='\/dev\/vfio\/'
		users=$main added=vfio_dirty
		modules="$added $main"
	fi
}

# find_vendors: set users to the modules on top of kvm
find_vendors() {
	for m in kvm_amd kvm_intel; do
		! loaded $m || users="$users $m"
	done
	if [ -z "$users" ]; then
		if grep -qw '^flags.* svm' /proc/cpuinfo; then
			users=kvm_amd
		elif grep -qw '^flags.* vmx' /proc/cpuinfo; then
			users=kvm_intel
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

# processes: print "PID (NAME)" of each process that has /dev/kvm or a VM open, or a
# container or a group of VFIO
processes() {
	# shellcheck disable=SC2012
	open=$(ls -l /proc/[0-9]*/fd 2>/dev/null |
		sed -n -e '/^\/proc\/[0-9]*\/fd:$/{s/[^0-9]//g;h;}' \
		       -e "/ -> $device/{x;p;x;}" -e "/ -> $opened/{x;p;x;}" | sort -un)
	for pid in $open; do
		# Skip this script and its children: they only inherited the open files.
		if [ "$pid" != $$ ] && ! grep -qs "^PPid:.$$\$" "/proc/$pid/status" && [ -e "/proc/$pid" ]; then
			echo "$pid ($(cat "/proc/$pid/comm"))"
		fi
	done | paste -s -d , - | sed 's/,/, /g'
}

# check_idle: die if anything uses KVM
check_idle() {
	for m in $modules; do
		loaded "$m" || continue
		for holder in "/sys/module/$m/holders"/*; do
			[ -e "$holder" ] || continue
			case " $modules " in
			*" ${holder##*/} "*) ;;
			*) die "the module ${holder##*/} uses $m: unload it first; nothing was changed" ;;
			esac
		done
	done
	for m in $users; do
		loaded "$m" || continue
		references=$(cat "/sys/module/$m/refcnt")
		if [ "$references" != 0 ]; then
			who=$(processes)
			die "$name is in use by ${who:-"$references references to $m that no process holds"}:" \
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
	for m in $modules; do
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
	for m in $modules; do
		[ "$1$m" != "distribution$added" ] || continue
		file=$(find_module "$m" "$1")
		why="the $1's $(file_of "$m").ko is not in ${MODDIR:-/lib/modules/$kernel} (set MODDIR= to its directory)"
		[ -n "$file" ] || return 1
		for needed in $(modinfo -F depends "$file" | tr ,- ' _'); do
			case " $modules " in *" $needed "*) continue ;; esac
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

# take_out: unload the modules that are loaded
take_out() {
	# shellcheck disable=SC2086
	for m in $(backwards $modules); do
		! loaded "$m" || why=$(rmmod "$m" 2>&1) || return 1
	done
}

all_loaded() {
	for m in $modules; do
		loaded "$m" || [ "$m" = "$added" ] || return 1
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
	! loaded $main || was=loaded
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
	[ $was = loaded ] || die "$failure; no $name is loaded, as before"
	if plan distribution && bring_up; then
		die "$failure; the distribution's $name is in its place"
	fi
	die "$failure; the distribution's $name does not load either: $why"
}

# uptime_cs: print the time since boot in hundredths of a second
uptime_cs() {
	read -r up _ </proc/uptime
	echo "${up%.*}${up#*.}"
}

# report: print the loaded modules and the time of the swap
report() {
	for m in $modules; do
		loaded "$m" || continue
		version=$(cat "/sys/module/$m/version" 2>/dev/null || echo "the distribution's")
		srcversion=$(cat "/sys/module/$m/srcversion" 2>/dev/null || true)
		say "$(file_of "$m"): $version${srcversion:+, srcversion $srcversion}"
	done
	took=$((ended - began))
	say "swapped in $((took / 100)).$((took / 10 % 10))$((took % 10)) s"
}
