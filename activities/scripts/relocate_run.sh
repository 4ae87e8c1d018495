# Runs kato relocate, where all is as it was when the source was kept: the same boot, in which the roles were stopped, and the same file system at the new place. Arguments: the boot, where the file system is
# mounted, the folder that the data go to, and kato's command as words.

boot=$1 place=$2 target=$3
shift 3

if [ "$(cat /proc/sys/kernel/random/boot_id)" != "$boot" ]; then
	printf '\n@katoflow rebooted 1\n'
	exit 75
fi
line=$(LC_ALL=C df -P -k "$target" 2>/dev/null | tail -n 1)
if [ "${line##*% }" != "$place" ]; then
	printf '%s does not lie on what was mounted at %s any more\n' "$target" "$place"
	exit 1
fi
exec "$@" </dev/null
