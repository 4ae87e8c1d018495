#!/bin/sh
# Stands in the place of a program and fails, hangs or waits as the first of /etc/katoflow-lab/faults/NAME.* says that is about the call and not used up: mode, times, value, first arguments, message.
name=${0##*/}
real=/usr/local/lib/katoflow-lab/real/$name
times=0
for file in /etc/katoflow-lab/faults/"$name".*; do
	mode='' times=0 value=0 arguments='' text=''
	{
		read -r mode
		read -r times
		read -r value
		read -r arguments
		read -r text
	} 2>/dev/null <"$file"
	case "${arguments:+ $* }" in
	*"${arguments:+ $arguments }"*) ;;
	*) times=0 ;;
	esac
	[ "${times:-0}" -eq 0 ] || break
done
# The daemon of kato is no call of it.
[ "$name $1" != 'kato agent' ] || times=0
if [ "${times:-0}" -ne 0 ]; then
	if [ "$times" -gt 0 ]; then
		printf '%s\n' "$mode" "$((times - 1))" "$value" "$arguments" "$text" >"$file"
	fi
	case $mode in
	fail)
		[ -z "$text" ] || printf '%s\n' "$text" >&2
		exit "$value"
		;;
	hang) while :; do sleep 3600; done ;;
	# Until its tenths of a second are over, or the faults are healed.
	slow)
		while [ "$value" -gt 0 ] && [ -e "$file" ]; do
			sleep 0.1
			value=$((value - 1))
		done
		;;
	esac
fi
exec "$real" "$@"
