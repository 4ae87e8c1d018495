# Adds lines to this user's authorized_keys, or takes them away; mode and owner stay. Arguments: add or remove; make, with or without for the node's own key; then the lines.

action=$1 own=$2
shift 2
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

# remove LINE
remove() {
	key=$(printf '%s\n' "$1" | cut -d ' ' -f 2)
	if ! holds "$key"; then
		say gone "$1"
		return
	fi
	kept=$(grep -v -F -e "$key" "$file")
	rest=$(mktemp "$HOME/.ssh/katoflow.XXXXXX") && cp -p "$file" "$rest" || failed "no file can be made in $HOME/.ssh"
	if [ -n "$kept" ]; then
		printf '%s\n' "$kept" >"$rest"
	else
		true >"$rest"
	fi || {
		rm -f "$rest"
		failed "there is no space in $HOME/.ssh"
	}
	if [ ! -h "$file" ] && [ "$(stat -c '%u %g %a' "$file")" = "$(stat -c '%u %g %a' "$rest")" ]; then
		mv -f "$rest" "$file"
	else
		cat "$rest" >"$file" # through the link, or because its owner is another one
		rm -f "$rest"
	fi
	if holds "$key"; then
		failed "$file cannot be written: see its owner and mode"
	fi
	say removed "$1"
}

mine=''
if [ "$own" != without ]; then
	make=0
	if [ "$own" = make ]; then
		make=1
	fi
	told=$(pair "$make")
	printf '%s\n' "$told"
	mine=$(printf '%s\n' "$told" | grep '^@katoflow public ' | cut -d ' ' -f 3-)
	if [ -z "$mine" ] && [ "$own" = make ]; then
		failed "the node has no key of its own: $(printf '%s\n' "$told" | grep '^@katoflow no-key ' | cut -d ' ' -f 3-)"
	fi
fi
if [ -n "$mine" ]; then
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
