# Puts the data of one kind back to where they were, from what was kept, whatever has become of the source. Arguments: kind, path as kato knows it, folder that it led to, where they went, where the source is
# kept, 1 when what is at the new place is thrown away, and where its file system is mounted.

kind=$1 source=$2 real=$3 target=$4 kept=$5 discard=$6 place=$7

# aside FOLDER: it gets a name that nothing has, and is told: somebody may want to look at it.
aside() {
	name=$kept.found number=1
	while [ -e "$name" ]; do
		number=$((number + 1))
		name=$kept.found.$number
	done
	mv -T "$1" "$name" || failed "$1 cannot be moved aside"
	say found "$name"
}

rm -rf --one-file-system "$kept.gone" "$kept.new"
same_boot=''
if [ "$(boot)" = "$(cat "$kept.boot" 2>/dev/null)" ]; then
	same_boot=1
fi
if [ -d "$kept" ]; then
	docker_away
	switched=''
	if [ "$(readlink -f "$source")" != "$real" ] || [ -L "$real" ]; then
		switched=1
	fi
	if [ -f "$kept.link" ]; then
		if [ "$(readlink "$source")" != "$(cat "$kept.link")" ]; then
			rm -f "$source" && ln -s "$(cat "$kept.link")" "$source" || failed "$source cannot be made a link to $real again"
		fi
	elif [ -L "$real" ]; then
		rm -f "$real" || failed "$real cannot be taken away"
	fi
	if [ ! -e "$real" ]; then
		mv -T "$kept" "$real" || failed "$kept cannot become $real again"
	elif [ "$(list "$real" | sha256sum)" = "$(list "$kept" | sha256sum)" ]; then
		gone || failed "$kept cannot be removed"
	elif [ -n "$same_boot" ]; then # cut off, or changed by kato: nobody else has written there
		aside "$real"
		mv -T "$kept" "$real" || failed "$kept cannot become $real again"
	else # the roles have run there since
		aside "$kept"
	fi
	if [ -n "$switched" ] && [ "$discard$same_boot" != 11 ]; then # and at the new place
		discard=0
		say stays 1
	fi
	say back 1
fi
if [ ! -d "$real" ] || [ -L "$real" ] || [ "$(readlink -f "$source")" != "$real" ]; then
	failed "$kind are not in $real, and nothing is kept that could be put back there ($kept)"
fi
# What kato has moved aside would be in the way of its next try. It is removed where it is the source once more, of whose files it has the second names.
new_beside | while IFS= read -r beside; do
	file=$(find "$beside" -xdev -type f -printf '%P\n' 2>/dev/null | head -n 1)
	if [ -d "$beside" ] && [ "$(list "$beside" | sha256sum)" = "$(list "$real" | sha256sum)" ] && [ "$(stat -c '%d %i' "$beside/$file")" = "$(stat -c '%d %i' "$real/$file")" ]; then
		rm -rf --one-file-system "$beside"
	else
		say left "$beside"
	fi
done
if [ "$discard" = 1 ] && [ -f "$kept.target" ] && [ -d "$target" ]; then
	if [ "$(mount_of "$target")" = "$place" ]; then
		emptied || failed "$target cannot be emptied"
	else
		say unmounted 1
	fi
fi
if [ -f "$kept.options" ] && [ "$(cat "$kept.options")" != "$(cat /etc/default/docker 2>/dev/null)" ]; then
	cp -p "$kept.options" /etc/default/docker || failed "/etc/default/docker cannot be put back"
	say options 1
fi
docker_again
rm -f "$kept.target" "$kept.link" "$kept.options" "$kept.docker" "$kept.beside" "$kept.boot" "$kept.old" "$kept.now"
say done 1
