# SHA-256 of ranges of a file. Arguments: the file, then offset and length of each range in bytes.

file=$1
shift
sum() {
	dd if="$file" bs=1048576 iflag=skip_bytes,count_bytes skip="$1" count="$2" 2>/dev/null | if command -v openssl >/dev/null 2>&1; then
		openssl dgst -sha256 -r
	else
		sha256sum
	fi
}
[ -r "$file" ] || exit 4
while [ $# -gt 1 ]; do
	text=$(sum "$1" "$2") || exit 5
	say sum "${text%% *}"
	shift 2
done
say end
