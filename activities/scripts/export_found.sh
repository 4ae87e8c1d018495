# What an export left. Arguments: the archive.

if [ -f "$1" ]; then
	say size "$(stat -c %s "$1")"
fi
say end
