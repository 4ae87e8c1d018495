#!/bin/sh
# Stands in the place of a program that changes a file system, and writes into a file what it was asked to change in a job of katoflow, when, and what came of it: a job may run it in a
# script, of which sudo's log has the shell alone.
name=${0##*/}
real=/usr/local/lib/katoflow-lab/storage/$name
file=/var/log/katoflow-lab-storage
changes=1
case $name in
mount) # with options
	changes=''
	for word; do
		case $word in
		-o* | --options | --options=*) changes=1 ;;
		esac
	done
	;;
quotaon) # unless it is only asked
	for word; do
		case $word in
		--print-state) changes='' ;;
		--*) ;;
		-*p*) changes='' ;;
		esac
	done
	;;
esac
[ -n "$changes" ] || exec "$real" "$@"

job() {
	pid=$$
	while [ "$pid" -gt 1 ] && read -r stat 2>/dev/null <"/proc/$pid/stat"; do
		set -- ${stat##*) }
		pid=$2
		found=$(tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | sed -n 's,.*/jobs/\([^/]*\)/\(script\|wrapper\)$,\1,p' | head -n 1)
		if [ -n "$found" ]; then
			printf %s "$found"
			return
		fi
	done
}

job=$(job)
[ -n "$job" ] || exec "$real" "$@"
now=$(date +%s.%N)
id=$$.$now
{ printf '%s\t' begin "$id" "$now" "$job" "$name" "$@" && echo; } 2>/dev/null >>"$file"
"$real" "$@"
exit=$?
printf 'end\t%s\t%s\t%s\n' "$id" "$(date +%s.%N)" "$exit" 2>/dev/null >>"$file"
exit "$exit"
