# Sends the line "@katoflow begin" and a job's output from a byte offset on standard output until the job has ended or the turns are used up, then what is known on
# standard error. Arguments: directory name, offset (-1 sends nothing), seconds a turn, turns.

job=$state/jobs/$1 from=$2 poll=$3 turns=$4
say begin
if [ -d "$job" ]; then
	probe "$job"
	while :; do
		# lock is older than size: at the end nothing is left unsent.
		size=0
		if [ -e "$job/output" ]; then
			size=$(wc -c <"$job/output")
		fi
		if [ "$from" -ge 0 ] && [ "$size" -gt "$from" ]; then
			tail -c "+$((from + 1))" "$job/output" | head -c "$((size - from))" || exit 1
			from=$((size))
		fi
		turns=$((turns - 1))
		if [ "$lock" != held ] || [ "$turns" -lt 0 ]; then
			break
		fi
		flock -s -w "$poll" "$job/lock" true
		case $? in
		0) lock=free ;;
		1) ;;
		*) sleep "$poll" ;;
		esac
		recorded "$job"
		if [ "$code" != - ]; then
			lock=free
		fi
	done
	probe "$job"
	facts "$job" >&2
fi
{
	say boot "$boot"
	say end
} >&2
