# Adds lines to this user's authorized_keys, or takes them away; mode and owner stay. Arguments: add or remove; make, with or without for the node's own key; keys that are never taken away, separated by blanks;
# then the lines.

action=$1 own=$2 guarded=$3
shift 3
file=$HOME/.ssh/authorized_keys

failed() {
	say failed "$*"
	printf '%s\n' "$*"
	exit 1
}

# add LINE
add() {
	key=$(printf '%s\n' "$1" | cut -d ' ' -f 2)
	if holds "$key"; then
		say there "$1"
		return
	fi
	[ -d "$HOME/.ssh" ] || mkdir -m 700 "$HOME/.ssh" || failed "$HOME/.ssh cannot be made"
	if [ ! -e "$file" ]; then
		touch "$file" && chmod 600 "$file" || failed "$file cannot be made: see the owner and mode of $HOME/.ssh, and the space there"
	fi
	before=$(wc -c <"$file")
	first=''
	if [ -s "$file" ] && [ -n "$(tail -c 1 "$file")" ]; then
		first='
' # its last line does not end
	fi
	if printf '%s%s\n' "$first" "$1" >>"$file" && holds "$key"; then
		say added "$1"
		return
	fi
	if [ "$(wc -c <"$file")" -gt "$before" ]; then
		truncate -s "$before" "$file" # a line that was cut off
	fi
	failed "$file cannot be written: see its owner, its mode, and the space there"
}

# remove LINE: the new file is whole, and lacks just the lines with that key, before it takes the place of the old one.
remove() {
	key=$(printf '%s\n' "$1" | cut -d ' ' -f 2)
	case " $guarded " in
	*" $key "*)
		say guarded "$1"
		return
		;;
	esac
	if ! holds "$key"; then
		say gone "$1"
		return
	fi
	all=$(LC_ALL=C grep -c '' "$file") taken=$(LC_ALL=C grep -c -F -e "$key" "$file")
	rest=$(mktemp "$(dirname "$file")/katoflow.XXXXXX") || failed "no file can be made beside $file"
	cp -p "$file" "$rest"
	LC_ALL=C grep -v -F -e "$key" "$file" >"$rest"
	code=$?
	if [ "$code" -gt 1 ] || [ "$(LC_ALL=C grep -c '' "$rest")" != $((all - taken)) ]; then
		rm -f "$rest"
		failed "$file cannot be written anew: see the space there"
	fi
	if [ "$(stat -c '%u %g %a' "$file")" != "$(stat -c '%u %g %a' "$rest")" ]; then
		rm -f "$rest"
		failed "$file belongs to somebody else: take the line out by hand"
	fi
	mv -f "$rest" "$file"
	if holds "$key"; then
		failed "$file cannot be written: see its owner and mode"
	fi
	say removed "$1"
}

if [ -h "$file" ]; then
	file=$(readlink -f "$file")
fi
if [ -f "$file" ] && [ "$(wc -c <"$file")" != "$(LC_ALL=C tr -d '\000' <"$file" | wc -c)" ]; then
	failed "$file holds zero bytes, as after a power cut: mend it first"
fi
make=0
if [ "$own" = make ]; then
	make=1
fi
mine=''
if [ "$own" != without ] || [ "$action" = remove ]; then
	told=$(pair "$make")
	mine=$(printf '%s\n' "$told" | grep '^@katoflow public ' | cut -d ' ' -f 3-)
	if [ "$own" != without ]; then
		printf '%s\n' "$told"
	fi
	if [ -z "$mine" ] && [ "$own" = make ]; then
		failed "the node has no key of its own: $(printf '%s\n' "$told" | grep '^@katoflow no-key ' | cut -d ' ' -f 3-)"
	fi
fi
if [ "$action" = remove ] && [ "$own" = without ] && [ -n "$mine" ]; then # it goes on reaching itself
	guarded="$guarded $(printf '%s\n' "$mine" | cut -d ' ' -f 2)"
elif [ -n "$mine" ]; then
	set -- "$@" "$mine"
fi
for line in "$@"; do
	"$action" "$line"
done
loose
for host in /etc/ssh/ssh_host_*_key.pub; do
	if [ -f "$host" ]; then
		say host-key "$(cut -d ' ' -f 1,2 "$host")"
	fi
done
say end
