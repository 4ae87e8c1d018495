# What must be right before the first change. Arguments: 1 when the login user needs sudo, 1 when the node will be rebooted, 0 when only the
# gates count, 1 when packages will be installed, then those of gates.sh.

needs_sudo=$1 reboot=$2 work=$3 packages=$4
shift 4

# allowed COMMAND...: sudo lets the login user run exactly this.
allowed() {
	sudo -n -l "$@" >/dev/null 2>&1 || refused="$refused,$*"
}

if [ "$work" = 1 ]; then
	say user "$(id -un)"
	missing=''
	tools='cat dd df flock grep id mkdir mv rm setsid stat sync tail timeout'
	if [ "$packages" = 1 ]; then
		tools="$tools apt-cache apt-get dpkg dpkg-query unattended-upgrades"
	fi
	for tool in $tools; do
		command -v "$tool" >/dev/null 2>&1 || [ -x "/usr/sbin/$tool" ] || [ -x "/sbin/$tool" ] || missing="$missing $tool"
	done
	if [ "$reboot" = 1 ] && [ ! -x /sbin/reboot ]; then
		missing="$missing /sbin/reboot"
	fi
	if [ "$needs_sudo" = 1 ] && [ "$packages$reboot" != 00 ]; then
		if command -v sudo >/dev/null 2>&1; then
			refused=''
			if [ "$packages" = 1 ]; then
				allowed apt-get update
				allowed unattended-upgrades -d
				allowed dpkg --configure -a
			fi
			if [ "$reboot" = 1 ]; then
				allowed /sbin/reboot
			fi
			if [ -n "$refused" ] && ! sudo -n true >/dev/null 2>&1; then
				say refused "${refused#,}"
			fi
		else
			missing="$missing sudo"
		fi
	fi
	say missing "$missing"
	say now "$(date +%s)"
	say kernel "$(uname -r)"
	say container "$(container)"
	say section space
	for place in / /var /boot; do
		[ -d "$place" ] && LC_ALL=C df -P -k "$place" 2>/dev/null | tail -n 1
	done
	say section
	if [ "$packages" = 1 ]; then
		unfinished
		locks
		reboot_required
		newest=$(ls -t /var/lib/apt/lists/*Packages* 2>/dev/null | head -n 1)
		[ -z "$newest" ] || say lists "$(date -r "$newest" +%s)"
		say section pending
		LC_ALL=C apt-get -s -o Debug::NoLocking=true dist-upgrade 2>&1 | grep -E '^(Inst|E:) '
		say section
	fi
fi
