# Shared by all scripts: what they tell the worker, and what can be known about a job.

say() {
	printf '@katoflow %s\n' "$*"
}

fail() {
	say fail "$@"
	exit 9
}

# full: a write has failed. The words of the system are on standard error, perhaps in another language.
full() {
	if [ -d "$state" ] && [ ! -w "$state" ]; then
		fail unwritable "$state"
	fi
	fail no-space "$state"
}

# recorded JOB: code is the job's exit code, "-" when there is none.
recorded() {
	code='' ended=0
	{ read -r code ended <"$1/exit"; } 2>/dev/null
	case $code in
	'' | *[!0-9]*) code=- ;;
	esac
}

# probe JOB: code, ended, sboot, since, id and lock. The lock is tried only when the job was started: before, the probe could
# take it from under the launch. It is shared, so that two probes do not see each other.
probe() {
	sboot=- since=0 id=- lock=free
	recorded "$1"
	if [ -e "$1/started" ]; then
		opened=0 tries=0
		while [ "$tries" -lt 3 ]; do
			{
				opened=1
				read -r sboot since id
			} 2>/dev/null <"$1/started"
			case $sboot in
			'' | -) tries=$((tries + 1)) ;;
			*) break ;;
			esac
		done
		# A mark whose words were lost with the power is a mark. One that cannot be opened now says nothing: not that the node rebooted.
		case $opened$sboot in
		1 | 1-) sboot='?' ;;
		0*) sboot=$boot lock=unknown ;;
		esac
	fi
	if [ "$code" = - ] && [ "$sboot" = "$boot" ] && [ "$lock" = free ]; then
		flock -s -n "$1/lock" true
		case $? in
		0) recorded "$1" ;;
		1) lock=held ;;
		*) lock=unknown ;;
		esac
	fi
}

# facts JOB, after probe JOB: one line for the worker to judge.
facts() {
	meta='' size=0 swept=1
	{ read -r meta <"$1/meta"; } 2>/dev/null
	if [ -e "$1/output" ]; then
		swept=0 size=$(wc -c <"$1/output")
	fi
	say job "$code" "${ended:-0}" "$sboot" "${since:-0}" "$lock" "${size:-0}" "$swept" "${1##*/}" "$meta"
}
