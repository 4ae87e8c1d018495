#!/bin/sh
# Stands in the place of quotaon, quotaoff and quotacheck of quota 4.06. Where /etc/katoflow-lab/quota-support is there, it answers as they do on a kernel that has quotas (from their source, and from
# what they print on such machines), and remembers in /run what is on, so that a reboot forgets it. Otherwise, and where an answer does not depend on that, it is the real one.
name=${0##*/}
real=/usr/local/lib/katoflow-lab/quota/$name
state=/run/katoflow-lab-quota
print='' verbose='' force='' user='' group='' every='' place=''

parse() {
	OPTIND=1
	while getopts :pvfugmbcM option; do
		case $option in
		p) print=1 ;;
		v) verbose=1 ;;
		f) force=1 ;;
		u) user=1 ;;
		g) group=1 ;;
		\?) return 1 ;;
		esac
	done
	shift $((OPTIND - 1))
	[ $# = 1 ] && place=$(readlink -f -- "$1")
}

[ -e /etc/katoflow-lab/quota-support ] && [ "$(id -u)" = 0 ] && parse "$@" || exec "$real" "$@"
if [ -z "$user$group" ]; then
	user=1
	if [ "$name" != quotacheck ]; then
		group=1 every=1
	fi
fi
[ -z "$force" ] || [ "$name" != quotaon ] || name=quotaoff

# The mount of the place, the last one there: its number, device, and the files of its quotas, "" without one.
escaped=$(printf %s "$place" | sed 's/\\/\\134/g; s/ /\\040/g; s/\t/\\011/g')
number='' device='' options=''
while read -r mount _ _ _ at _ rest; do
	if [ "$at" = "$escaped" ]; then
		number=$mount rest=${rest#*- }
		rest=${rest#* }
		device=${rest%% *} options=,${rest#* },
	fi
done </proc/self/mountinfo
quota_file() { # usr user
	case $options in
	*,"$1"jquota=[!,]*)
		file=${options#*,"$1"jquota=}
		printf %s "${place%/}/${file%%,*}"
		;;
	*,"$1"quota,*) printf %s "${place%/}/aquota.$2" ;;
	esac
}
user_file=$(quota_file usr user) group_file=$(quota_file grp group)
[ -n "$user_file$group_file" ] || exec "$real" "$@"

is_on() { [ -e "$state/$number.$1" ]; }
deprecated() {
	echo "${0##*/}: Your kernel probably supports ext4 quota feature but you are using external quota files. Please switch your filesystem to use ext4 quota feature as external quota files on ext4 are deprecated." >&2
}

wrong=0
tell() { # kind
	if is_on "$1"; then
		echo "$1 quota on $place ($device) is on"
		wrong=$((wrong + 1)) # as the real one counts
	else
		echo "$1 quota on $place ($device) is off"
	fi
}
switch_on() { # kind file
	[ -n "$2" ] || return
	if is_on "$1"; then
		echo "${0##*/}: using $2 on $device [$place]: Device or resource busy" >&2
	elif [ ! -e "$2" ]; then
		echo "${0##*/}: cannot find $2 on $device [$place]" >&2
	else
		mkdir -p "$state" && : >"$state/$number.$1"
		[ -z "$verbose" ] || echo "$device [$place]: $1 quotas turned on"
		return
	fi
	wrong=$((wrong + 1))
}

if [ -n "$print" ] && [ "$name" != quotacheck ]; then
	[ -z "$group" ] || tell group
	[ -z "$user" ] || tell user
	[ -z "$every" ] || tell project
	exit "$wrong"
fi
case $name in
quotaon)
	deprecated
	[ -z "$group" ] || switch_on group "$group_file"
	[ -z "$user" ] || switch_on user "$user_file"
	exit "$wrong"
	;;
quotaoff) # the real one says that they are turned off
	[ -z "$group" ] || rm -f "$state/$number.group"
	[ -z "$user" ] || rm -f "$state/$number.user"
	;;
quotacheck)
	for kind in ${user:+user} ${group:+group}; do
		if [ -z "$force" ] && is_on "$kind"; then
			deprecated
			printf '%s: Quota for %ss is enabled on mountpoint %s so quotacheck might damage the file.\nPlease turn quotas off or use -f to force checking.\n' "${0##*/}" "$kind" "$place" >&2
			exit 6
		fi
	done
	;;
esac
exec "$real" "$@"
