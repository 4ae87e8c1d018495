# lease: the node's lease is (token, operation) when it returns. Runs under the lock on the lease file.
lease() {
	have=0 holder=-
	{ read -r have holder <"$state/lease"; } 2>/dev/null
	case $have in
	'' | *[!0-9]*) have=0 holder=- ;;
	esac
	if [ "$token" -lt "$have" ]; then
		fail fenced "$have" "$holder"
	fi
	if [ "$token" -eq "$have" ]; then
		[ "$operation" = "$holder" ] || fail fenced "$have" "$holder"
		return 0
	fi
	for other in "$state"/jobs/*; do
		version='' owner=''
		{ read -r version owner meta <"$other/meta"; } 2>/dev/null
		if [ -d "$other" ] && [ "$owner" != "$operation" ]; then
			probe "$other"
			[ "$lock" = free ] || fail busy "${owner:--}" "${other##*/}"
		fi
	done
	printf '%s %s\n' "$token" "$operation" >"$state/lease.new" || full
	have='' holder=''
	read -r have holder <"$state/lease.new"
	[ "$have $holder" = "$token $operation" ] || full
	{ sync "$state/lease.new" 2>/dev/null || sync; } && mv "$state/lease.new" "$state/lease" || full
	sync "$state" 2>/dev/null || sync
}
