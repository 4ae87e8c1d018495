# Writes ranges of a file, one after the other, as long as there are orders: a line "OFFSET LENGTH" on standard input and the bytes after it. Tells when each
# is written. Arguments: the file.

file=$1
while read -r offset length; do
	if ! text=$(place); then
		# What follows would be taken for orders.
		say_disk "$text"
		say end
		exit 5
	fi
	say end
done
