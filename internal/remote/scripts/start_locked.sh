# Under the lock on the lease file: exit 7 when the job is there and was never started, 0 when it was. Arguments: state folder,
# boot id, token, operation, directory name, metadata, temporary directory.

state=$1 boot=$2 token=$3 operation=$4 dir=$5 meta=$6 tmp=$7
lease
job=$state/jobs/$dir
if [ -d "$job" ]; then
	was='' found='' oboot=''
	{ read -r version operation node step try was found oboot <"$job/meta"; } 2>/dev/null
	probe "$job"
	if [ "$code" != - ] || [ "$sboot" != - ]; then
		case $meta in
		*" $was "*) exit 0 ;;
		esac
		# A job stopped before it was started has no script to compare.
		if [ -z "$was" ] || [ "$was" = - ]; then
			exit 0
		fi
		fail conflict "$dir"
	fi
	# Prepared, never started. What a power cut left of the files is not trusted.
	if [ "$oboot" = "$boot" ]; then
		case $meta in
		*" $was "*) exit 7 ;;
		esac
		fail conflict "$dir"
	fi
	[ -d "$tmp" ] || fail retry
	mv "$job" "$tmp.old" || full
	mv "$tmp" "$job" || full
	rm -rf "$tmp.old"
	exit 7
fi
[ -d "$tmp" ] || fail retry
mv "$tmp" "$job" || full
exit 7
