# Sends a signal to a job's payload, or marks a job that was never started. Arguments: directory name, TERM or KILL, metadata, id of
# this call, locked script.

job=$state/jobs/$1 tmp=$state/tmp/$4
trap 'rm -rf "$tmp"' EXIT
flock -w 10 "$state/lease.lock" sh -c "$5" sh "$state" "$boot" "$1" "$3" "$tmp"
case $? in
0) signal='' ;;
7) signal=$2 ;;
1) fail locked "$state/lease.lock" ;;
9) exit 9 ;;
*) fail cut ;;
esac

if [ -n "$signal" ]; then
	n=0 leader=- born=0
	while [ "$n" -lt 20 ]; do
		read -r leader born <"$job/group"
		case $leader in
		'' | *[!0-9]*) leader=- ;;
		*) break ;;
		esac
		sleep 0.1
		n=$((n + 1))
	done
	# A process of this number that was born at another time is a stranger.
	stat=''
	{ read -r stat <"/proc/$leader/stat"; } 2>/dev/null
	set -- ${stat##*) }
	if [ "$leader" != - ] && { [ -z "$stat" ] || [ "${20:-0}" = "$born" ]; }; then
		kill "-$signal" "-$leader" 2>/dev/null || sudo -n kill "-$signal" -- "-$leader" </dev/null >/dev/null 2>&1
	fi
fi
probe "$job"
facts "$job"
say boot "$boot"
say end
