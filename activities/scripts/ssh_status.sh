# What is to be known of a node's access. Arguments: a key to look for, or nothing, and 1 when this user is not root.

pair 0
if [ -n "$1" ] && holds "$1"; then
	say granted 1
fi
loose
if [ "$2" = 0 ] || sudo -n sh -c true </dev/null >/dev/null 2>&1; then
	say sudo 1
fi
if LC_ALL=C grep -F -q '# katoflow: password logins are off' /etc/ssh/sshd_config 2>/dev/null; then
	say switched-off 1
fi
if cat /etc/ssh/sshd_config /etc/ssh/sshd_config.d/*.conf 2>/dev/null | LC_ALL=C grep -i '^[[:space:]]*AuthenticationMethods' | grep -q -E 'password|keyboard-interactive'; then
	say needs-passwords 1
fi
say end
