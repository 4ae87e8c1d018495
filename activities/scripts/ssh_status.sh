# What is to be known of a node's access. Arguments: a key to look for, or nothing, and 1 when this user is not root.

pair 0
if [ -n "$1" ] && holds "$1"; then
	say granted 1
fi
loose
if [ "$2" = 0 ] || sudo -n sh -c true </dev/null >/dev/null 2>&1; then
	say sudo 1
fi
say end
