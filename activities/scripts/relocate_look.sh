# What is to be known before data are moved. Arguments: kind, path as kato knows it, path where they are to go, for each kind.

# network DEVICE: how it is reached, where that is over a network; empty for a disk of the machine, as far as it can be told.
network() {
	at=$(readlink -f "$1")
	name=${at##*/}
	sys=$(readlink -f "/sys/class/block/$name" 2>/dev/null)
	case $sys in
	*/session[0-9]*) printf 'iSCSI\n' ;;
	*/block/nbd[0-9]* | */block/rbd[0-9]* | */block/drbd[0-9]*) printf 'the network (%s)\n' "$name" ;;
	*)
		model=$(cat "$sys/device/model" "${sys%/*}/device/model" 2>/dev/null | head -n 1)
		case $model in
		*'Elastic Block Store'*) printf 'Amazon EBS\n' ;;
		*)
			for below in "$sys"/slaves/*; do
				if [ -e "$below" ]; then
					network "/dev/${below##*/}"
				fi
			done
			;;
		esac
		;;
	esac
}

while [ $# -ge 3 ]; do
	kind=$1 source=$2 target=$3
	shift 3
	real=$(readlink -f "$source")
	say section "$kind"
	printf 'real %s\n' "$real"
	if [ -d "$real" ]; then
		printf 'folder 1\n'
		if [ "$(mount_of "$real")" = "$real" ]; then
			printf 'mount-itself 1\n'
		fi
		printf 'used %s\n' "$(du -skx "$real" 2>/dev/null | cut -f 1)"
		printf 'entries %s\n' "$(find "$real" -xdev -printf x 2>/dev/null | wc -c | tr -d ' ')"
		printf 'folders %s\n' "$(find "$real" -xdev -type d -printf x 2>/dev/null | wc -c | tr -d ' ')"
		printf 'source-mount %s\n' "$(mount_of "$real")"
		printf 'source-space %s\n' "$(space "$real")"
		printf 'source-inodes %s\n' "$(LC_ALL=C df -P -i "$real" 2>/dev/null | tail -n 1)"
		while read -r one two rest; do
			case $two in
			"$real"/*) printf 'below %s\n' "$two" ;;
			esac
		done </proc/mounts
	fi
	for old in "$real".katoflow-* "$source".katoflow-*; do
		if [ -d "$old" ] || [ -f "$old" ]; then
			printf 'kept %s\n' "$old"
		fi
	done
	place=$(mount_of "$target")
	printf 'mount %s\n' "$place"
	printf 'space %s\n' "$(space "$target")"
	printf 'inodes %s\n' "$(LC_ALL=C df -P -i "$(nearest "$target")" 2>/dev/null | tail -n 1)"
	if mounted "$place"; then
		printf 'type %s\n' "$type"
		printf 'device %s\n' "$device"
		case $device in
		/dev/*) printf 'network %s\n' "$(network "$device" | head -n 1)" ;;
		esac
		if quotas; then
			printf 'quotas 1\n'
		fi
		if has ro; then
			printf 'read-only 1\n'
		fi
	fi
	while read -r one two rest; do
		case $one in
		'#'*) ;;
		*)
			if [ "${two%/}" = "$place" ]; then
				printf 'fstab 1\n'
			fi
			;;
		esac
	done </etc/fstab
	if [ -e "$target" ] || [ -L "$target" ]; then
		printf 'target %s\n' "$(readlink -f "$target")"
		if [ -d "$target" ]; then
			printf 'target-folder 1\n'
			printf 'target-entry %s\n' "$(entries "$target" | head -n 1)"
		fi
	fi
	say section
done
say end
