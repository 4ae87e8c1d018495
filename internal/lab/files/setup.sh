#!/bin/sh
# At each boot of an ALS host: runs its init scripts of containers, where they are, as init does.
failed=0
for script in /etc/init.d/setup_helion_lxc /etc/init.d/setup_stackato_lxc; do
	if [ -x "$script" ]; then
		"$script" start || failed=1
	fi
done
exit "$failed"
