# Makes the golden tree: a minimal Debian with what a node needs and the old versions of the lab's packages. Arguments: folder to make, folder for
# downloaded packages, folder with the packages of version 1.
#
# With python3-gi, as Ubuntu has it, unattended-upgrades hears of a shutdown at once. Without it looks every 3 s, in step with the boot, and holds every
# reboot back by 0 to 3 s: times would come in steps of 3 s that have nothing to do with who reboots the host.
set -e
tree=$1 debs=$2 old=$3
mkdir -p "$debs"
debootstrap --variant=minbase --cache-dir="$debs" \
	--include=openssh-server,unattended-upgrades,sudo,ca-certificates,iproute2,curl,systemd-sysv,dbus,libpam-systemd,python3-gi,busybox-static,libfaketime,procps,quota \
	bookworm "$tree" >"$tree.log" 2>&1 || {
	tail -n 5 "$tree.log" >&2
	exit 1
}

# The login user of kato's nodes, and a shell of busybox for those who want one.
chroot "$tree" useradd --create-home --shell /bin/bash --uid 1000 stackato
install -d -m 700 -o 1000 -g 1000 "$tree/home/stackato/.ssh" "$tree/home/stackato/bin"
mkdir -p "$tree/usr/local/lib/busybox"
ln -s /bin/busybox "$tree/usr/local/lib/busybox/sh"
echo /usr/local/lib/busybox/sh >>"$tree/etc/shells"

# A name server that does not answer makes every sudo wait.
: >"$tree/etc/resolv.conf"
rm -f "$tree"/etc/ssh/ssh_host_* "$tree/etc/machine-id" "$tree"/etc/apt/sources.list "$tree"/etc/apt/sources.list.d/*
: >"$tree/etc/machine-id"
printf 'UseDNS no\nPermitRootLogin no\nPasswordAuthentication no\n' >"$tree/etc/ssh/sshd_config.d/lab.conf"
mkdir -p "$tree/var/log/journal" "$tree/srv"

# What has no sense in a container, the timers that would start apt by themselves, and a manager of its own for whoever logs in: all that costs a login there is
# the processor time that the other hosts are waiting for. Quotas are off after a boot until something of ALS switches them on.
for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer console-getty.service getty.target \
	systemd-networkd.service systemd-resolved.service systemd-firstboot.service systemd-update-utmp.service systemd-update-utmp-runlevel.service \
	e2scrub_reap.service systemd-modules-load.service systemd-journal-catalog-update.service systemd-pstore.service systemd-sysctl.service systemd-udev-trigger.service \
	modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service modprobe@loop.service \
	sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount dev-hugepages.mount dev-mqueue.mount \
	dpkg-db-backup.timer user@.service quota.service quotarpc.service; do
	ln -sf /dev/null "$tree/etc/systemd/system/$unit"
done
printf '[Manager]\nDefaultTimeoutStopSec=20s\n' >"$tree/etc/systemd/system.conf.d-lab"
mkdir -p "$tree/etc/systemd/system.conf.d" && mv "$tree/etc/systemd/system.conf.d-lab" "$tree/etc/systemd/system.conf.d/lab.conf"

# Two things that take a tenth of a run's processor time and show nothing here: no package of the lab asks debconf anything, and the hosts' page cache outlives
# their being powered off, so that writing through it is for nothing.
rm -f "$tree/etc/apt/apt.conf.d/70debconf"
echo force-unsafe-io >"$tree/etc/dpkg/dpkg.cfg.d/lab"

cp "$old"/*.deb "$tree/tmp/"
chroot "$tree" sh -c 'dpkg -i /tmp/*.deb && rm /tmp/*.deb && apt-mark hold katoflow-lab-broken' >>"$tree.log" 2>&1
rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/* "$tree"/var/log/dpkg.log "$tree"/var/log/apt/*
