# Under the lock on the lease file. Arguments: state folder, boot id, prefix of the system's folders, seconds of output, seconds of
# tombstones.

state=$1 boot=$2 root=$3 output=$4 tombstones=$5
now=$(date +%s)
token='' holder=''
{ read -r token holder <"$state/lease"; } 2>/dev/null

# since_change FILE: age in seconds.
since_change() {
	at=$(date -r "$1" +%s 2>/dev/null)
	age=$((now - ${at:-$now}))
}

for job in "$state"/jobs/*; do
	[ -d "$job" ] || continue
	probe "$job"
	[ "$lock" = free ] || continue
	if [ "$code" = - ] && [ "$sboot" = - ]; then
		# Prepared, never started; a start may be under way.
		since_change "$job"
		if [ "$age" -ge 3600 ] && [ "$age" -ge "$output" ]; then
			mv "$job" "$state/tmp/gone.${job##*/}" && rm -rf "$state/tmp/gone.${job##*/}"
		fi
		continue
	fi
	at=$ended
	if [ "$code" = - ]; then
		at=$since
	fi
	case $at in
	'' | *[!0-9]*) at=$now ;;
	esac
	age=$((now - at))
	version='' owner=''
	{ read -r version owner meta <"$job/meta"; } 2>/dev/null
	# The operation that holds the lease may ask for its jobs yet, however long it waits for a person.
	if [ "$age" -ge "$tombstones" ] && { [ -z "$holder" ] || [ "$owner" != "$holder" ]; }; then
		mv "$job" "$state/tmp/gone.${job##*/}" && rm -rf "$state/tmp/gone.${job##*/}"
	elif [ "$age" -ge "$output" ]; then
		rm -f "$job/output" "$job/script" "$job/wrapper" "$job/started.new" "$job/group"
	fi
done
for old in "$state"/tmp/*; do
	since_change "$old"
	case ${old##*/} in
	gone.*) age=3600 ;;
	esac
	if [ "$age" -ge 3600 ]; then
		rm -rf "$old"
	fi
done
vaults | while read -r place; do
	for vault in "$place"/katoflow-secret-*; do
		[ -d "$vault" ] || continue
		name=${vault##*/katoflow-secret-}
		probe "$state/jobs/${name%.*}"
		since_change "$vault"
		if [ "$lock" = free ] && { [ "$age" -ge 3600 ] || [ "$code" != - ] || [ "$sboot" != - ]; }; then
			rm -rf "$vault"
		fi
	done
done
exit 0
