# How a range comes into its place in a file that is there: with $file, $offset and $length in bytes. No file is made: one that was removed must not come back.

place() {
	LC_ALL=C dd of="$file" bs=1048576 iflag=fullblock,count_bytes oflag=seek_bytes conv=notrunc,nocreat seek="$offset" count="$length" 2>&1
}

# say_disk TEXT: why dd did not write, and what its file system has left.
say_disk() {
	say disk "$(printf '%s\n' "$1" | sed -n 's/^dd: //p' | head -n 1)"
	say section space
	LC_ALL=C timeout 5 df -P -k "${file%/*}" 2>/dev/null | tail -n 1
	say section
}
