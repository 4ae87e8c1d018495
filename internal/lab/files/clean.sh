# Removes a lab, whole or half made. Arguments: name, folder.
# With a third argument, it first waits for the end of its standard input: then it is the guard of a running lab.
name=$1 dir=$2
if [ -n "$3" ]; then
	trap '' INT TERM HUP
	cat >/dev/null
fi
case $dir in
/*/*) ;;
*) exit 2 ;;
esac

groups() {
	for root in /sys/fs/cgroup /sys/fs/cgroup/*; do
		if [ -d "$root/katoflow-$name" ]; then
			printf '%s\n' "$root/katoflow-$name"
		fi
	done
}

# Whatever runs in the lab's control groups ends.
n=0
while [ "$n" -lt 100 ]; do
	pids=$(groups | while read -r g; do find "$g" -name cgroup.procs -exec cat {} + 2>/dev/null; done | sort -u)
	[ -n "$pids" ] || break
	for p in $pids; do
		[ "$p" = "$$" ] || kill -KILL "$p" 2>/dev/null
	done
	n=$((n + 1))
	sleep 0.05
done
n=0
while [ "$n" -lt 40 ]; do
	mounts=$(while read -r x y z a place rest; do
		case $place in
		"$dir" | "$dir"/*) printf '%s\n' "$place" ;;
		esac
	done </proc/self/mountinfo | sort -r)
	[ -n "$mounts" ] || break
	printf '%s\n' "$mounts" | while read -r m; do umount "$m" 2>/dev/null; done
	n=$((n + 1))
	[ "$n" -lt 3 ] || sleep 0.1
done
if [ -n "$mounts" ]; then
	printf '%s\n' "$mounts" | while read -r m; do umount -l "$m" 2>/dev/null; done
fi
# The loop devices of disks, which hosts had mounted; one that is still in use goes with its last user.
n=0
while [ "$n" -lt 40 ]; do
	loops=$(for f in /sys/block/loop*/loop/backing_file; do
		read -r file 2>/dev/null <"$f" || continue
		case $file in
		"$dir"/*)
			loop=${f#/sys/block/}
			printf '/dev/%s\n' "${loop%%/*}"
			;;
		esac
	done)
	[ -n "$loops" ] || break
	printf '%s\n' "$loops" | while read -r l; do losetup -d "$l" 2>/dev/null; done
	n=$((n + 1))
	[ "$n" -lt 3 ] || sleep 0.1
done
for place in /run/netns/katoflow-"$name"-*; do
	[ -e "$place" ] || continue
	ip netns del "${place##*/}" 2>/dev/null
done
for place in /sys/class/net/kf"$name"*; do
	[ -e "$place" ] || continue
	ip link del "${place##*/}" 2>/dev/null
done
groups | while read -r g; do find "$g" -depth -type d -exec rmdir {} + 2>/dev/null; done
rm -rf "$dir"
[ ! -e "$dir" ]
