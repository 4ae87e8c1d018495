# Shared by all scripts: how they tell the worker. Whatever stands after a section line is the section's text.

say() {
	printf '@katoflow %s\n' "$*"
}

# login COMMAND...: in a login shell, as kato needs it, ended after $limit seconds.
login() {
	case ${SHELL-} in
	*/bash | */dash | */ksh | */zsh | */sh) timeout "$limit" "$SHELL" -l -c 'exec "$@"' sh "$@" ;;
	*) timeout "$limit" sh -l -c 'exec "$@"' sh "$@" ;;
	esac
}

# container: the name of what the node runs in, empty on a machine with its own kernel.
container() {
	what=''
	if command -v systemd-detect-virt >/dev/null 2>&1; then
		what=$(systemd-detect-virt -c 2>/dev/null)
	fi
	if [ -z "$what" ] || [ "$what" = none ]; then
		what=''
		if [ -s /run/systemd/container ]; then
			what=$(cat /run/systemd/container)
		elif [ -e /.dockerenv ] || [ -e /run/.containerenv ]; then
			what=container
		fi
	fi
	printf '%s\n' "$what"
}

# state: katoflow's own folder, as the jobs choose it.
state() {
	folder=$HOME/.local/state/katoflow
	if [ ! -d "$folder/jobs" ] && [ -d /var/lib/katoflow ]; then
		user=$(id -un)
		if [ -n "$user" ] && [ -d "/var/lib/katoflow/$user" ]; then
			folder=/var/lib/katoflow/$user
		fi
	fi
	printf '%s\n' "$folder"
}

# packages [NAME...]: what dpkg has unpacked or installed, or those of the names, one "STATE NAME VERSION" a line. Only fields that dpkg of
# Ubuntu 12.04 knows as well.
packages() {
	own=$(dpkg --print-architecture)
	LC_ALL=C dpkg-query -W -f='${Status} ${Package}:${Architecture} ${Version}\n' "$@" 2>/dev/null | while read -r want error have name version; do
		case $have in
		not-installed | config-files | '') continue ;;
		esac
		case $name in
		*:all | *:"$own") name=${name%:*} ;;
		esac
		printf '%s %s %s\n' "$have" "$name" "$version"
	done
}

# unfinished: the packages that dpkg has begun and not ended, one "ERROR STATE NAME" a line. dpkg --audit does not serve: as soon as there is one, it tells
# a user who is not root nothing but that he may not see the lock.
unfinished() {
	say section unfinished
	own=$(dpkg --print-architecture)
	LC_ALL=C dpkg-query -W -f='${Status} ${Package}:${Architecture}\n' 2>/dev/null | grep -v -E ' ok (installed|config-files|not-installed) ' | while read -r want error have name; do
		case $name in
		*:all | *:"$own") name=${name%:*} ;;
		esac
		printf '%s\n' "$error $have $name"
	done
	say section
	if [ -d /var/lib/dpkg/updates ] && [ -n "$(ls /var/lib/dpkg/updates 2>/dev/null)" ]; then
		say dirty 1
	fi
}

# locks: who holds the locks of apt, dpkg and unattended-upgrades. The files are root's; what the kernel lists about them is everybody's.
locks() {
	for file in /var/lib/dpkg/lock-frontend /var/lib/dpkg/lock /var/lib/apt/lists/lock /var/cache/apt/archives/lock /run/unattended-upgrades.lock; do
		facts=$(stat -L -c '%i %d' "$file" 2>/dev/null)
		[ -n "$facts" ] || continue
		grep ":${facts% *} " /proc/locks 2>/dev/null | while read -r number kind mode access pid where rest; do
			[ "$kind" != '->' ] || continue
			name=''
			{ read -r name <"/proc/$pid/comm"; } 2>/dev/null
			say lock "$file" "${facts#* }" "$where" "$pid" "$name"
		done
	done
}

# reboot_required: whether what was installed asks for a reboot.
reboot_required() {
	if [ -e /run/reboot-required ] || [ -e /var/run/reboot-required ]; then
		say reboot-required 1
	fi
}
