# Uploads a range of a file to a presigned URL. Arguments: prefix of the system's folders, start of the name of the folder for the secret, the file, offset and length
# in bytes. Standard input: the configuration of curl with the URL, a line "-- certificates", and certificates if the system's are not to be used.

root=$1 name=$2 file=$3 offset=$4 length=$5
secret=$(vaults | while read -r folder; do
	mktemp -d "$folder/$name.XXXXXX" 2>/dev/null && break
done)
[ -n "$secret" ] || exit 6
trap 'rm -rf "$secret"' EXIT
printf '' >"$secret/config"
chmod 600 "$secret/config"
while IFS= read -r line; do
	[ "$line" != '-- certificates' ] || break
	printf '%s\n' "$line" >>"$secret/config"
done
cat >"$secret/ca"
if [ -s "$secret/ca" ]; then
	printf 'cacert = "%s"\n' "$secret/ca" >>"$secret/config"
fi
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
say why "$(sed -n 's/.*<Code>\([A-Za-z0-9]*\)<.*/\1/p' "$secret/answer" 2>/dev/null | head -n 1)"
say end
