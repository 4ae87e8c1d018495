# Before kato moves data: the folder that they go to is there, as empty and as guarded as it has to be, and the source is kept beside itself by hard links, so that nothing that kato does to it loses it. Docker
# is stopped for its own data. Arguments: kind, path as kato knows it, folder that it leads to, where they go, where the source is kept, where
# the file system of the new place is mounted, its device, and 1 when files that are open to write are no hindrance.

kind=$1 source=$2 real=$3 target=$4 kept=$5 place=$6 on=$7 force=$8

if [ ! -d "$real" ] || [ -L "$real" ] || [ "$(readlink -f "$source")" != "$real" ]; then
	failed "$real is not the folder of $kind any more"
fi
if [ "$(mount_of "$target")" != "$place" ] || ! mounted "$place" || [ "$device" != "$on" ]; then
	failed "$on is not mounted at $place any more, above $target"
fi
rm -rf --one-file-system "$kept.gone" "$kept.new"
docker_away
while read -r one two rest; do
	case $two in
	"$real" | "$real"/*) failed "$one is still mounted on $two" ;;
	esac
done </proc/mounts
if ls -l /proc/[0-9]*/fd /proc/[0-9]*/cwd 2>/dev/null | grep -q -F -e " -> $real/"; then
	for process in /proc/[0-9]*; do
		if ls -l "$process/fd" "$process/cwd" 2>/dev/null | grep -q -F -e " -> $real/"; then
			name="$(cat "$process/comm" 2>/dev/null) (process ${process#/proc/})"
			say busy "$name"
			for fd in "$process"/fd/*; do
				case $(readlink "$fd" 2>/dev/null) in
				"$real"/*)
					case $(sed -n 's/^flags:[[:space:]]*//p' "$process/fdinfo/${fd##*/}" 2>/dev/null) in
					*[1256]) [ "$force" = 1 ] || failed "$name has files of $kind open to write, although the roles are stopped: end it, or start this with --force" ;;
					esac
					;;
				esac
			done
		fi
	done
fi

if [ ! -d "$target" ]; then
	mkdir -p "$target" || failed "$target cannot be made"
fi
if [ -n "$(entries "$target" | head -n 1)" ]; then
	# What a try before has left there is this operation's own.
	if [ -f "$kept.target" ]; then
		emptied || failed "$target cannot be emptied of what a try before has left there"
	else
		failed "$target is not empty: there is $(entries "$target" | head -n 1)"
	fi
fi
touch "$kept.target" || failed "nothing can be written beside $real"
chown "$(stat -c %u "$real"):$(stat -c %g "$real")" "$target" && chmod "$(stat -c %a "$real")" "$target" || failed "owner and mode of $target cannot be made those of $real"
if [ -L "$source" ]; then
	readlink "$source" >"$kept.link"
fi
if [ "$kind" = containers ] && [ -f /etc/default/docker ]; then
	cp -p /etc/default/docker "$kept.options"
fi
for beside in "$real"?*; do
	case $beside in
	"$kept"*) ;;
	*) printf '%s\n' "$beside" ;;
	esac
done >"$kept.beside"
gone || failed "$kept cannot be removed"
cp -al "$real" "$kept.new" || failed "$real cannot be kept beside itself by hard links"
mv -T "$kept.new" "$kept" || failed "$kept cannot be made"
boot >"$kept.boot"
say boot "$(boot)"
say done 1
