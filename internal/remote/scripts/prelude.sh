# Arguments: file of the boot id, prefix of the system's folders (empty on a node), 1 to make the state folder.

boot_path=$1 root=$2 create=$3
shift 3
missing=''
for tool in base64 cat chmod date dd flock head id mkdir mv rm setsid sleep sync tail wc; do
	command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
done
[ -z "$missing" ] || fail missing-tool "$missing"
boot=''
{ read -r boot <"$boot_path"; } 2>/dev/null
[ -n "$boot" ] || fail no-boot-id "$boot_path"
[ -n "$HOME" ] || fail no-home

# A folder in use is kept, so that no job is forgotten when the installer makes the other one later.
state=$HOME/.local/state/katoflow
if [ ! -d "$state/jobs" ] && [ -d "$root/var/lib/katoflow" ]; then
	user=$(id -un)
	if [ -n "$user" ] && [ -d "$root/var/lib/katoflow/$user" ]; then
		state=$root/var/lib/katoflow/$user
	fi
fi
if [ "$create" = 1 ] && { [ ! -d "$state/jobs" ] || [ ! -d "$state/tmp" ]; }; then
	mkdir -p "${state%/*}" || full
	[ -d "$state" ] || mkdir -m 700 "$state" 2>/dev/null || [ -d "$state" ] || full
	mkdir -p "$state/jobs" "$state/tmp" || full
fi
