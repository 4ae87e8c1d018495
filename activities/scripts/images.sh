# What docker has on a node. Arguments: 1 when the login user needs sudo, 1 when the node's own packages are asked for too, names of images.

needs_sudo=$1 packages=$2
shift 2

if command -v docker >/dev/null 2>&1; then
	say version "$(docker --version 2>/dev/null | head -n 1)"
	info=$(as_root docker info 2>&1)
	code=$?
	say section info
	printf '%s\n' "$info"
	say section
	say info-exit "$code"
	if [ "$code" = 0 ]; then
		number=0
		for image in "$@"; do
			number=$((number + 1))
			say section "image-$number"
			as_root docker inspect "$image" 2>/dev/null
			say section "history-$number"
			as_root docker history -q --no-trunc "$image" 2>/dev/null
			say section
		done
		say section names
		as_root docker images --no-trunc 2>/dev/null
		root=$(printf '%s\n' "$info" | sed -n 's/^ *\(Docker \)*Root Dir: //p' | head -n 1)
		root=${root:-/var/lib/docker}
		say section space
		# The folder of a storage driver is closed to others: the one above it is on the same disk.
		while [ "$root" != / ] && ! LC_ALL=C df -P -k "$root" >/dev/null 2>&1; do
			root=${root%/*}
			root=${root:-/}
		done
		LC_ALL=C df -P -k "$root" 2>/dev/null | tail -n 1
		say section
	fi
else
	say no-docker 1
fi
if [ "$packages" = 1 ]; then
	say section pending
	LC_ALL=C apt-get -s -o Debug::NoLocking=true dist-upgrade 2>&1 | grep -E '^(Inst|E:) '
	say section
fi
say end
