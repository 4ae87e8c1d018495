# Uploads a range of a file to a presigned URL. Arguments after those of curl_order.sh: the file, offset and length in bytes.

file=$1 offset=$2 length=$3
short() {
	size=$(stat -c %s "$file") && [ "$size" -lt "$((offset + length))" ]
}
if short; then
	say short 1
	say end
	exit 0
fi
# Of a file that has become shorter curl sends what there is, and waits with S3 for the rest: it gets zeros, and S3 refuses their checksum.
{
	dd if="$file" bs=1048576 iflag=skip_bytes,count_bytes skip="$offset" count="$length"
	! short || dd if=/dev/zero bs=1048576 iflag=count_bytes count="$length"
} 2>/dev/null | curl -q --config "$secret/config" --upload-file - --output "$secret/answer" --write-out '%{http_code}' >"$secret/code" 2>"$secret/error"
say exit "$?"
if short; then
	say short 1
fi
say code "$(cat "$secret/code")"
say_code "$secret/answer"
say end
