# What has changed since the list of prepare.sh, what is still pending, and the versions of the packages named. Arguments: name of the
# list, then package names.

before=$(state)/packages/$1
shift
now=$(packages)
if [ -s "$before" ]; then
	say list 1
	say section removed
	printf '%s\n' "$now" | LC_ALL=C comm -23 "$before" -
	say section added
	printf '%s\n' "$now" | LC_ALL=C comm -13 "$before" -
	say section
fi
say section pinned
if [ "$#" -gt 0 ]; then
	packages "$@"
fi
say section pending
LC_ALL=C apt-get -s -o Debug::NoLocking=true dist-upgrade 2>&1 | grep -E '^(Inst|E:) '
say section
say end
