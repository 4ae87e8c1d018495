# After kato has moved data: where they are now, and whether all of it is there: names, kinds, modes, owners and sizes of everything in the source that was kept. Docker is started again. Arguments: kind, path
# as kato knows it, folder that it led to, where they go, where the source is kept.

kind=$1 source=$2 real=$3 target=$4 kept=$5

if [ "$(boot)" != "$(cat "$kept.boot" 2>/dev/null)" ]; then
	say rebooted 1
	failed "the node has rebooted since the source was kept"
fi
now=$(readlink -f "$source")
there=$(readlink -f "$target")
case $now in
"$there" | "$there"/*) ;;
"$real") failed "kato says that it is done, and $source is where it was" ;;
*) failed "kato says that it is done, and $source leads to $now, not to $target" ;;
esac
[ -d "$now" ] || failed "kato says that it is done, and $now is not there"
[ -d "$kept" ] || failed "$kept is gone, so that nothing can be compared"
docker_away
if [ "$(list "$kept" | sha256sum)" != "$(list "$now" | sha256sum)" ]; then
	list "$kept" >"$kept.old" && list "$now" >"$kept.now" || failed "not all of $kind is in $now as it was"
	missing=$(LC_ALL=C sort "$kept.old" "$kept.now" | uniq -u | cut -f 1 | uniq | wc -l | tr -d ' ')
	first=$(LC_ALL=C sort "$kept.old" "$kept.now" | uniq -u | head -n 1)
	printf 'before:\n'
	LC_ALL=C sort "$kept.old" "$kept.now" "$kept.now" | uniq -u | head -n 20
	printf 'now:\n'
	LC_ALL=C sort "$kept.old" "$kept.old" "$kept.now" | uniq -u | head -n 20
	failed "$missing of the files and folders of $kind are not in $now as they were, such as $first"
fi
if [ -f "$kept.options" ] && [ "$(cat "$kept.options")" != "$(cat /etc/default/docker 2>/dev/null)" ]; then
	say options 1
fi
docker_again
say files "$(find "$kept" -xdev -type f -printf x 2>/dev/null | wc -c | tr -d ' ')"
say size "$(du -skx "$now" 2>/dev/null | cut -f 1)"
say now "$now"
say done 1
