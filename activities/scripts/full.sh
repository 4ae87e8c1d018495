# The file systems that hold what jobs write to, with their free space and their free inodes. Arguments: more folders of this job; one that is not there yet stands for
# the nearest above it.

nearest() {
	there=$1
	while [ ! -d "$there" ] && [ -n "$there" ]; do
		there=${there%/*}
	done
	printf '%s\n' "${there:-/}"
}

for what in k i; do
	say section "$what"
	for place in / /boot /tmp /usr /var /var/cache/apt/archives /var/lib/dpkg "$HOME" "$@"; do
		LC_ALL=C timeout 5 df -P "-$what" "$(nearest "$place")" 2>/dev/null | tail -n 1
	done
	say section
done
say end
