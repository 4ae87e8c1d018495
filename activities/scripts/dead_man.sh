# Puts the maintenance mode back when its operation shows no sign of life any more and nothing of it runs. It counts by its own waiting, never by a clock, which
# may be set. Arguments: the record, seconds of silence, seconds between two looks, as shell words kato's commands to put the mode back and to read it, the mode
# that was found, as shell words the command that lists a node's running jobs, operation and step of this job as that list has them, then the addresses of the
# other nodes.

record=$1 limit=$2 every=$3 set=$4 get=$5 found=$6 running=$7 owner=$8 step=$9
shift 9
folder=$(state)

mine() {
	[ -f "$folder/maintenance.json" ] && [ "$(cat "$folder/maintenance.json")" = "$record" ]
}

# alone ADDRESS...: no job of the operation lives here or there. A node that does not answer may have one.
alone() {
	for address in here "$@"; do
		if [ "$address" = here ]; then
			told=$(sh -c "$running" </dev/null 2>/dev/null)
		else
			told=$(ssh -n -o BatchMode=yes -o ConnectTimeout=5 -o ServerAliveInterval=5 -o ServerAliveCountMax=3 "$address" "$running" 2>/dev/null)
		fi
		case $told in
		*'@katoflow end') ;;
		*)
			tell "no sign of life; $address cannot be asked whether a job lives there"
			return 1
			;;
		esac
		living=$(printf '%s\n' "$told" | while read -r mark kind code end boot since lock size swept dir version operation node name rest; do
			if [ "$kind" = job ] && [ "$operation" = "$owner" ] && [ "$name" != "$step" ]; then
				printf '%s ' "$dir"
			fi
		done)
		if [ -n "$living" ]; then
			tell "no sign of life; these jobs still live ($address): $living"
			return 1
		fi
	done
}

last=''
tell() {
	if [ "$1" != "$last" ]; then
		printf '%s\n' "$1"
		last=$1
	fi
}

# put_back: true when the mode reads as it was found.
put_back() {
	sh -c "exec $set" </dev/null 2>&1
	now=unknown
	case $(sh -c "exec $get" </dev/null 2>/dev/null) in
	*[Tt]rue*) now=on ;;
	*[Ff]alse*) now=off ;;
	esac
	tell "maintenance mode is $now"
	[ "$now" = "$found" ]
}

silent=0 before=''
while mine; do
	life=''
	if [ -f "$folder/maintenance.life" ]; then
		life=$(cat "$folder/maintenance.life")
	fi
	if [ "$life" = closed ]; then
		silent=$limit
	elif [ "$life" != "$before" ]; then
		before=$life silent=0
	fi
	if [ "$silent" -ge "$limit" ] && alone "$@" && mine && put_back; then
		why="after $limit s without a sign of life"
		if [ "$life" = closed ]; then
			why='because its operation is closed'
		fi
		printf '%s\n' "$owner $found $(date -u +%Y-%m-%dT%H:%M:%SZ) $why" >"$folder/maintenance.said"
		if mine; then
			rm -f "$folder/maintenance.json" "$folder/maintenance.life"
		fi
		exit 0
	fi
	sleep "$every"
	silent=$((silent + every))
done
