# Writes the content of the docker base image to its standard output: the golden tree without what only a machine needs. Argument: the golden tree.
set -- "$1" proc sys dev run boot tmp var/cache var/lib/apt/lists var/log usr/share/doc usr/share/man usr/share/info usr/share/locale usr/share/i18n usr/share/zoneinfo \
	'usr/lib/*/gconv' usr/lib/systemd 'usr/lib/*/systemd' usr/lib/udev usr/lib/openssh etc/ssh
tree=$1
shift
for folder in "$@"; do
	set -- "$@" --exclude="./$folder/*"
	shift
done
tar -C "$tree" -c --numeric-owner "$@" --exclude=./usr/sbin/sshd --exclude='./usr/bin/ssh*' --exclude=./usr/bin/systemctl --exclude=./etc/hostname --exclude=./etc/machine-id .
