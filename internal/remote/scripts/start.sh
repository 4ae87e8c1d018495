# Starts a job once. Arguments: directory name, metadata, token, operation, id of this start, bytes of the job's files, number of
# secrets, wrapper, locked script. Standard input: one line "NAME BASE64" a secret, then the payload's script.

dir=$1 meta=$2 token=$3 operation=$4 start=$5 bytes=$6 secrets=$7 wrapper=$8 locked=$9
job=$state/jobs/$dir tmp=$state/tmp/$start vault=''
trap 'rm -rf "$tmp" ${vault:+"$vault"}' EXIT

# Secrets go to a folder of this start alone, in memory.
keep() {
	vault=$(vaults | while read -r place; do
		if mkdir -m 700 "$place/katoflow-secret-$dir.$start" 2>/dev/null; then
			printf '%s\n' "$place/katoflow-secret-$dir.$start"
			break
		fi
	done)
	[ -n "$vault" ] || fail no-vault
	n=0
	while [ "$n" -lt "$secrets" ]; do
		read -r name value || fail truncated
		printf '' >"$vault/$name" && chmod 600 "$vault/$name" || fail no-vault
		printf '%s' "$value" | base64 -d >"$vault/$name" || fail no-vault
		n=$((n + 1))
	done
}

# Every file has its final size before the job is started, so that a full disk can lose neither the mark nor the exit code.
stage() {
	mkdir -m 700 "$tmp" &&
		printf '%s\n' "$meta $boot" >"$tmp/meta" &&
		printf '%s' "$wrapper" >"$tmp/wrapper" &&
		printf '%-31s\n' '- 0' >"$tmp/exit" &&
		printf '%-127s\n' '- 0 -' >"$tmp/started.new" &&
		printf '%-31s\n' '- 0' >"$tmp/group" &&
		printf '' >"$tmp/lock" &&
		printf '' >"$tmp/output" &&
		cat >"$tmp/script"
}

probe "$job"
if [ "$sboot" = - ] && [ "$code" = - ]; then
	if [ "$secrets" -gt 0 ]; then
		keep
	fi
	stage || full
	size=$(cat "$tmp/wrapper" "$tmp/exit" "$tmp/started.new" "$tmp/group" "$tmp/script" | wc -c)
	[ "$size" -eq "$bytes" ] || fail truncated
fi
cat >/dev/null

flock -w 10 "$state/lease.lock" sh -c "$locked" sh "$state" "$boot" "$token" "$operation" "$dir" "$meta" "$tmp"
case $? in
0) launch=0 ;;
7) launch=1 ;;
1) fail locked "$state/lease.lock" ;;
9) exit 9 ;;
*) fail cut ;;
esac

if [ "$launch" = 1 ]; then
	setsid flock -n "$job/lock" sh "$job/wrapper" run "$job" "$state" "$token" "$operation" "$start" "$vault" "$boot_path" </dev/null >/dev/null 2>&1 &
	# From here on the secrets belong to the wrapper.
	given=$vault vault='' n=0
	while recorded "$job" && [ ! -e "$job/started" ] && [ "$code" = - ]; do
		have='' holder=''
		read -r have holder <"$state/lease"
		[ "$have $holder" = "$token $operation" ] || fail fenced "$have" "$holder"
		n=$((n + 1))
		if [ "$n" -le 20 ]; then
			sleep 0.01
		elif [ "$n" -le 120 ]; then
			sleep 0.05
		else
			fail pending
		fi
	done
	probe "$job"
	if [ "$id" != "$start" ] && [ -n "$given" ]; then
		rm -rf "$given"
	fi
fi
probe "$job"
facts "$job"
say boot "$boot"
say end
