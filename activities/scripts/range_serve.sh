# Sends ranges of a file, one after the other, as long as there are orders: a line "OFFSET LENGTH" each on standard input. What is sent is exactly so long, or the
# last thing that is sent: the file is shorter then. Arguments: the file.

file=$1
while read -r offset length; do
	dd if="$file" bs=1048576 iflag=skip_bytes,count_bytes skip="$offset" count="$length" 2>/dev/null || exit 5
	size=$(stat -c %s "$file") || exit 5
	[ "$size" -ge "$((offset + length))" ] || exit 5
done
