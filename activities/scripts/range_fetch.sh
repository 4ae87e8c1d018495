# Fetches a range of an object from a presigned URL into the same range of a file, and tells the SHA-256 of what is read there afterwards. Arguments after those of curl_order.sh: the file, offset and length in bytes.

file=$1 offset=$2 length=$3
text=$({
	curl -q --config "$secret/config" --fail --dump-header "$secret/head" 2>"$secret/error"
	printf '%s\n' "$?" >"$secret/exit"
} | place) || say_disk "$text"
say exit "$(cat "$secret/exit")"
# The answer to what a proxy was asked for stands before that of S3.
code=$(sed -n 's|^HTTP/[0-9.]* \([0-9]*\).*|\1|p' "$secret/head" 2>/dev/null | tail -n 1)
say code "$code"
case $code in
4??)
	# What is no part of the object does not go into the file, so that the reason is asked for again.
	curl -q --config "$secret/config" 2>/dev/null | head -c 4096 >"$secret/answer"
	say_code "$secret/answer"
	;;
2??) say_sum "$offset" "$length" ;;
esac
say end
