# Puts the data of one kind back to where they were, from what was kept, whatever has become of the source. Arguments: kind, path as kato knows it, folder that it led to, where they went, where the source is
# kept, and 1 when what is at the new place is thrown away.

kind=$1 source=$2 real=$3 target=$4 kept=$5 discard=$6

if [ -d "$kept" ]; then
	if [ "$kind" = containers ] && docker_runs; then
		touch "$kept.docker"
		docker_service stop || failed "docker cannot be stopped"
	fi
	if [ -f "$kept.link" ]; then
		if [ "$(readlink "$source")" != "$(cat "$kept.link")" ]; then
			rm -f "$source" && ln -s "$(cat "$kept.link")" "$source" || failed "$source cannot be made a link to $real again"
		fi
	elif [ -L "$real" ]; then
		rm -f "$real" || failed "$real cannot be taken away"
	fi
	if [ -d "$real" ] && [ "$(list "$real" | sha256sum)" = "$(list "$kept" | sha256sum)" ]; then
		rm -rf --one-file-system "$kept" || failed "$kept cannot be removed"
	else
		if [ -e "$real" ]; then # changed, or cut off: somebody may want to look at it
			mv -T "$real" "$kept.found" || failed "$real cannot be moved aside"
			say found "$kept.found"
		fi
		mv -T "$kept" "$real" || failed "$kept cannot become $real again"
	fi
	say back 1
fi
if [ ! -d "$real" ]; then
	failed "$real is not there, and neither is what was kept of it ($kept)"
fi
# What kato has moved aside would be in the way of its next try. It is removed where it is the source once more, of whose files it has the second names.
new_beside | while IFS= read -r beside; do
	if [ -d "$beside" ] && [ "$(list "$beside" | sha256sum)" = "$(list "$real" | sha256sum)" ]; then
		rm -rf --one-file-system "$beside"
	else
		say left "$beside"
	fi
done
if [ "$discard" = 1 ] && [ -f "$kept.target" ] && [ -d "$target" ]; then
	emptied || failed "$target cannot be emptied"
fi
if [ -f "$kept.options" ] && [ "$(cat "$kept.options")" != "$(cat /etc/default/docker 2>/dev/null)" ]; then
	cp -p "$kept.options" /etc/default/docker || failed "/etc/default/docker cannot be put back"
	say options 1
fi
docker_again
rm -rf --one-file-system "$kept.new"
rm -f "$kept.target" "$kept.link" "$kept.options" "$kept.docker" "$kept.beside" "$kept.old" "$kept.now"
say done 1
