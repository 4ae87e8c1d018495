# SHA-256 of ranges of a file. Arguments: the file, then offset and length of each range in bytes.

file=$1
shift
[ -r "$file" ] || exit 4
while [ $# -gt 1 ]; do
	say_sum "$1" "$2"
	shift 2
done
say end
