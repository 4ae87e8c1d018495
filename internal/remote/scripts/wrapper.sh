# Runs a job's payload once, under the job's lock. Stored with the job: the order of the arguments must never change.
# Arguments: run or commit, job, state folder, token, operation, id of the start, folder of secrets, file of the boot id.

mode=$1 job=$2 state=$3 token=$4 operation=$5 start=$6 vault=$7 boot_path=$8

if [ "$mode" = commit ]; then
	# Under the lock on the lease file as well: a superseded operation starts nothing from here on.
	have='' holder='' code='' boot=''
	read -r have holder <"$state/lease"
	[ "$have $holder" = "$token $operation" ] || exit 3
	[ ! -e "$job/started" ] || exit 4
	read -r code rest <"$job/exit"
	[ "$code" = - ] || exit 4
	read -r boot <"$boot_path"
	[ -n "$boot" ] || exit 5
	now=$(date +%s)
	printf '%-127s\n' "$boot ${now:-0} $start" | dd of="$job/started.new" conv=notrunc 2>/dev/null
	read -r have holder rest <"$job/started.new"
	[ "$have $rest" = "$boot $start" ] || exit 5
	mv "$job/started.new" "$job/started" || exit 5
	exit 0
fi

trap '[ -z "$vault" ] || rm -rf "$vault"' EXIT
flock -w 30 "$state/lease.lock" sh "$job/wrapper" commit "$job" "$state" "$token" "$operation" "$start" "$vault" "$boot_path" || exit 0
sync "$job/started" "$job/meta" "$job/exit" "$job" "$state/jobs" 2>/dev/null || sync
setsid sh "$job/script" "$vault" "$job" </dev/null >>"$job/output" 2>&1
code=$?
now=$(date +%s)
n=0 have=''
while [ "$n" -lt 100 ]; do
	printf '%-31s\n' "$code ${now:-0}" | dd of="$job/exit" conv=notrunc 2>/dev/null
	read -r have rest <"$job/exit"
	[ "$have" != "$code" ] || break
	n=$((n + 1))
	sleep 0.1
done
sync "$job/exit" 2>/dev/null
