# Makes a file for ranges to be put into, where it is not there. Arguments: the file, and its size in bytes in the end: what is longer is not of it.

file=$1 size=$2
if text=$({ [ -e "$file" ] || printf '' >"$file"; } 2>&1 && chmod 600 "$file" 2>&1); then
	there=$(stat -c %s "$file") || exit 3
	if [ "$there" -gt "$size" ]; then
		truncate -s "$size" "$file" || exit 3
		there=$(stat -c %s "$file")
	fi
	say size "$there"
else
	[ -d "${file%/*}" ] || exit 4
	printf '%s\n' "$text" >&2
	exit 5
fi
# After a reboot the file may lack what was written to it.
say boot "$(cat /proc/sys/kernel/random/boot_id)"
say end
