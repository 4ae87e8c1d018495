# Under the lock on the lease file: exit 7 when the job runs and may be stopped. Arguments: state folder, boot id, directory name,
# metadata, temporary directory.

state=$1 boot=$2 dir=$3 meta=$4 tmp=$5
job=$state/jobs/$dir
now=$(date +%s)
if [ ! -d "$job" ]; then
	mkdir -m 700 "$tmp" &&
		printf '%s\n' "$meta $boot" >"$tmp/meta" &&
		printf '%-31s\n' "143 ${now:-0}" >"$tmp/exit" &&
		printf '' >"$tmp/output" || full
	recorded "$tmp"
	[ "$code" = 143 ] || full
	sync "$tmp/meta" "$tmp/exit" "$tmp" 2>/dev/null || sync
	mv "$tmp" "$job" || full
	sync "$state/jobs" 2>/dev/null || sync
	exit 0
fi
probe "$job"
if [ "$code" = - ] && [ "$sboot" = - ]; then
	printf '%-31s\n' "143 ${now:-0}" | dd of="$job/exit" conv=notrunc 2>/dev/null
	recorded "$job"
	[ "$code" = 143 ] || full
	sync "$job/exit" "$job" "$state/jobs" 2>/dev/null || sync
	exit 0
fi
if [ "$lock" = free ]; then
	exit 0
fi
{ read -r version operation node step try sum interruptible rest <"$job/meta"; } 2>/dev/null
[ "$interruptible" = 1 ] || fail not-interruptible
exit 7
