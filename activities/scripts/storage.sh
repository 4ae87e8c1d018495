# Shared by the scripts of storage, which run as root: file systems, and what is known of them.

PATH=$PATH:/usr/sbin:/sbin

failed() {
	say failed "$*"
	printf '%s\n' "$*"
	exit 1
}

# nearest PATH: it, or the nearest folder above it that exists.
nearest() {
	at=$1
	while [ ! -e "$at" ] && [ -n "$at" ]; do
		at=${at%/*}
	done
	printf '%s\n' "${at:-/}"
}

# space PATH: what df says of its file system, one line without the device's name before it.
space() {
	LC_ALL=C timeout 20 df -P -k "$(nearest "$1")" 2>/dev/null | tail -n 1
}

# mount_of PATH: where the file system that it lies on is mounted.
mount_of() {
	line=$(space "$1")
	printf '%s\n' "${line##*% }"
}

# mounted PLACE: device, type and options of what is mounted there. It fails where nothing is.
mounted() {
	device='' type='' options=''
	while read -r one two three four rest; do
		if [ "$two" = "$1" ]; then
			device=$one type=$three options=$four
		fi
	done </proc/mounts
	[ -n "$device" ]
}

# has OPTION: it is among $options, with or without a value.
has() {
	case ",$options," in
	*",$1,"* | *",$1="*) return 0 ;;
	esac
	return 1
}

# quotas: the options for quotas of both users and groups are among $options.
quotas() {
	{ has usrjquota || has usrquota; } && { has grpjquota || has grpquota; }
}

# rewrite FILE COMMAND...: its text becomes what the command prints, whole or not at all; mode and owner stay.
rewrite() {
	file=$1
	shift
	cp -p "$file" "$file.katoflow-new" && "$@" >"$file.katoflow-new" && [ -s "$file.katoflow-new" ] && mv -f "$file.katoflow-new" "$file"
}
