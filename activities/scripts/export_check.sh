# The job that reads an archive. Arguments: the archive.

file=$1
before=$(stat -c '%s %Y' "$file") || exit 1
# The last line of the list is how tar ended; sed keeps it, and the number of all lines.
set -- $({
	tar tzf "$file"
	printf '%s\n' "$?"
} | sed -n -e '$p' -e '$=')
[ "$1" = 0 ] || {
	printf '%s\n' "$file cannot be read by tar"
	exit 1
}
sum=$(openssl dgst -sha256 -r <"$file" 2>/dev/null) || sum=$(sha256sum <"$file") || exit 1
after=$(stat -c '%s %Y' "$file") || exit 1
[ "$before" = "$after" ] || {
	printf '%s\n' "$file changed while it was read"
	exit 1
}
printf '@katoflow archive %s %s %s\n' "$after" "${sum%% *}" "$(($2 - 1))"
