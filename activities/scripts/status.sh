# What an administrator wants to know of a node. Arguments: the folders of data services. It needs no sudo.

say now "$(date +%s)"
say zone "$(date +%z)"
say kernel "$(uname -r)"
say container "$(container)"
say booted "$(grep '^btime ' /proc/stat 2>/dev/null | cut -d ' ' -f 2)"
say system "$(sed -n 's/^PRETTY_NAME=//p' /etc/os-release 2>/dev/null | tr -d '"')"
reboot_required
for file in /var/log/dpkg.log /var/log/dpkg.log.1; do
	line=$(grep ' upgrade ' "$file" 2>/dev/null | tail -n 1)
	if [ -n "$line" ]; then
		say patched "${line%% upgrade *}"
		break
	fi
done
newest=$(ls -t /var/lib/apt/lists/*Packages* 2>/dev/null | head -n 1)
[ -z "$newest" ] || say lists "$(date -r "$newest" +%s)"
say section held
apt-mark showhold 2>/dev/null
say section pending
LC_ALL=C apt-get -s -o Debug::NoLocking=true dist-upgrade 2>&1 | grep -E '^(Inst|E:) '
say section data
number=0
for place in "$@"; do
	number=$((number + 1))
	# A file system of a server that is away hangs.
	if timeout 5 test -d "$place"; then
		printf '%s %s %s\n' "$number" "$(LC_ALL=C timeout 5 stat -f -c %T "$place" 2>/dev/null)" "$(LC_ALL=C timeout 5 df -P -k "$place" 2>/dev/null | tail -n 1)"
	fi
done
say section
say end
