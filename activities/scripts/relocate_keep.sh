# Before kato moves data: the folder that they go to is there, as empty and as guarded as it has to be, and the source is kept beside itself by hard links, so that nothing that kato does to it loses it. Docker
# is stopped for its own data. Arguments: kind, path as kato knows it, folder that it leads to, where they go, where the source is kept.

kind=$1 source=$2 real=$3 target=$4 kept=$5

if [ ! -d "$real" ] || [ -L "$real" ]; then
	failed "$real is not the folder of $kind any more"
fi
if [ "$kind" = containers ] && docker_runs; then
	touch "$kept.docker"
	docker_service stop || failed "docker cannot be stopped"
fi
while read -r device place rest; do
	case $place in
	"$real" | "$real"/*) failed "$device is still mounted on $place" ;;
	esac
done </proc/mounts
for process in /proc/[0-9]*; do
	if ls -l "$process/fd" "$process/cwd" 2>/dev/null | grep -q -F -e " -> $real/"; then
		say busy "$(cat "$process/comm" 2>/dev/null) (process ${process#/proc/})"
	fi
done

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
rm -rf --one-file-system "$kept" "$kept.new"
cp -al "$real" "$kept.new" || failed "$real cannot be kept beside itself by hard links"
mv -T "$kept.new" "$kept" || failed "$kept cannot be made"
say kept "$kept"
say done 1
