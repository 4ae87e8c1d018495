#!/bin/sh
# At each boot of a host with disks: makes their devices, and mounts what /etc/fstab has, as systemd does on a machine, and what is mounted without it. In a container systemd leaves devices alone.
# A mount that fails keeps the others from nothing.
while read -r device major minor; do
	mknod -m 660 "/dev/$device" b "$major" "$minor" && chgrp disk "/dev/$device"
done </etc/katoflow-lab/disks
failed=0
mount -a -t ext4 || failed=1
if [ -e /etc/katoflow-lab/fstab ]; then
	mount -a -t ext4 -T /etc/katoflow-lab/fstab || failed=1
fi
exit "$failed"
