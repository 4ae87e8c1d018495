# What an export needs on a node. Arguments: 1 where it runs, 1 on the Core, 1 where other nodes are to be reached, folder of the staged archive and the
# operation's own in it, 1 when the node may upload by itself, seconds for one call of kato, path of kato, number of data folders, the data folders, then the addresses
# of the nodes.

here=$1 core=$2 reach=$3 folder=$4 name=$5 direct=$6 limit=$7 kato=$8 n=$9
shift 9
say user "$(id -un)"
say boot "$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)"
sudo -n true >/dev/null 2>&1 </dev/null || say no-sudo 1
size=0
while [ "$n" -gt 0 ]; do
	if [ -d "$1" ]; then
		# The folder may be a link to where it was relocated. timeout cannot end a sudo, so it is inside.
		kib=$(sudo -n timeout 120 du -sk "$1/." 2>/dev/null </dev/null)
		code=$? whole=1
		kib=${kib%%[!0-9]*}
		if [ -z "$kib" ] && [ "$code" != 124 ]; then
			kib=$(timeout 120 du -sk "$1/." 2>/dev/null </dev/null) || whole=0
			kib=${kib%%[!0-9]*}
		fi
		if [ -n "$kib" ]; then
			size=$((size + kib))
		fi
		if [ -z "$kib" ] || [ "$whole" = 0 ]; then
			say unmeasured "$1"
		fi
	fi
	n=$((n - 1))
	shift
done
say data "$size"
if [ "$here" = 1 ]; then
	missing=''
	for tool in cat dd df du flock mkdir mv rm rmdir setsid sha256sum stat sync tail tar timeout; do
		command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
	done
	if [ -z "$missing" ]; then
		# Ranges of the archive are read by bytes, which not every dd knows.
		read=$(printf 'abc' | dd bs=1048576 iflag=skip_bytes,count_bytes skip=1 count=1 2>/dev/null)
		[ "$read" = b ] || missing='GNU-dd'
	fi
	say missing "$missing"
	if [ "$direct" = 1 ] && ! command -v curl >/dev/null 2>&1; then
		say no-curl 1
	fi
	if [ -z "$folder" ]; then
		folder=$HOME/katoflow-exports
	fi
	say folder "$folder"
	there=$folder
	while [ ! -d "$there" ] && [ "$there" != / ]; do
		there=${there%/*}
		there=${there:-/}
	done
	say there "$there"
	[ -w "$there" ] || say unwritable "$there"
	say section space
	LC_ALL=C df -P -k "$there" 2>/dev/null | tail -n 1
	say section
	for other in "$folder"/katoflow-* "$folder"/.katoflow-*; do
		if [ -d "$other" ] && [ "$other" != "$folder/$name" ]; then
			say left "$other"
		fi
	done
fi
if [ "$here$core$reach" != 000 ]; then
	for line in /proc/[0-9]*/cmdline; do
		words=$(tr '\000' ' ' <"$line" 2>/dev/null)
		case $words in
		*kato\ data\ export\ * | *kato\ data\ import\ *)
			pid=${line%/cmdline}
			say running "${pid##*/}"
			;;
		esac
	done
fi
if [ "$core" = 1 ]; then
	for service in mysql postgresql; do
		say section "host-$service"
		login "$kato" config get "${service}_node" "$service/host" </dev/null 2>/dev/null
		say section
	done
fi
if [ "$core$reach" = 11 ]; then
	for address; do
		why=$(timeout 15 ssh -n -o BatchMode=yes -o ConnectTimeout=10 "$address" 'cat /proc/sys/kernel/random/boot_id 2>/dev/null || true' 2>&1)
		code=$?
		if [ "$code" != 0 ]; then
			say no-access "$address" "$code" "$(printf '%s\n' "$why" | tail -n 1)"
		else
			say reached "$address" "$(printf '%s\n' "$why" | tail -n 1)"
		fi
	done
fi
say end
