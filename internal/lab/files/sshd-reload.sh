#!/bin/sh
# What sshd's service runs in place of its own reload, with sshd's pid, and before a start, with the word start.
faults=/etc/katoflow-lab
config=/etc/ssh/sshd_config
broken=/etc/ssh/sshd_config.d/zz-broken.conf
if [ "$1" != start ]; then
	[ ! -e $faults/sshd-never-reloads ] || exit 0
	/usr/sbin/sshd -t || exit 1
fi
sum=$(
	for f in "$config" /etc/ssh/sshd_config.d/*.conf; do
		[ "$f" = $broken ] || [ ! -e "$f" ] || { echo "$f" && cat "$f"; }
	done | sha256sum
)
if [ -e $broken ]; then
	[ "$sum" = "$(cat $faults/sshd-broken-by)" ] || rm -f $broken $faults/sshd-broken-by
elif [ -e $faults/sshd-breaks-keys ]; then
	rm -f $faults/sshd-breaks-keys
	echo "$sum" >$faults/sshd-broken-by
	echo 'AuthorizedKeysFile none' >$broken
fi
[ "$1" = start ] || exec kill -HUP "$1"
