# Removes the source that was kept, when the data are well at their new place. Arguments: kind, path as kato knows it, folder that it led to, where they are, where the source is kept, and 1 when it stays.

kind=$1 source=$2 real=$3 target=$4 kept=$5 stays=$6

now=$(readlink -f "$source")
there=$(readlink -f "$target")
case $now in
"$there" | "$there"/*) ;;
*)
	say elsewhere 1
	failed "$source leads to $now, not to $target: the source that was kept stays ($kept)"
	;;
esac
new_beside | while IFS= read -r beside; do
	say left "$beside"
done
if [ -d "$real" ] && [ "$real" != "$there" ] && [ ! -L "$real" ]; then # the source was a link, which kato has only changed
	say left "$real"
fi
if [ "$stays" != 1 ]; then
	rm -f "$kept.target" "$kept.link"
	gone || failed "$kept cannot be removed"
fi
rm -rf --one-file-system "$kept.new"
rm -f "$kept.target" "$kept.options" "$kept.docker" "$kept.boot" "$kept.old" "$kept.now" "$kept.beside"
say done 1
