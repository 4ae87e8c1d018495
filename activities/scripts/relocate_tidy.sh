# Removes the source that was kept, when the data are well at their new place. Arguments: kind, path as kato knows it, folder that it led to, where they are, where the source is kept, and 1 when it stays.

kind=$1 source=$2 real=$3 target=$4 kept=$5 stays=$6

now=$(readlink -f "$source")
there=$(readlink -f "$target")
case $now in
"$there" | "$there"/*) ;;
*) failed "$source leads to $now, not to $target: the source that was kept stays ($kept)" ;;
esac
new_beside | while IFS= read -r beside; do
	say left "$beside"
done
if [ "$stays" != 1 ]; then
	rm -rf --one-file-system "$kept" || failed "$kept cannot be removed"
fi
rm -rf --one-file-system "$kept.new"
rm -f "$kept.target" "$kept.link" "$kept.options" "$kept.docker" "$kept.old" "$kept.now" "$kept.beside"
say done 1
