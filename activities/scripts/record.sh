# What was installed before (the list of prepare.sh) and what is now, what is still pending, and the versions of the packages named. The worker
# compares. Arguments: name of the list, then package names.

before=$(state)/packages/$1
shift
if [ -s "$before" ]; then
	say list 1
	say section before
	cat "$before"
fi
say section now
packages
if [ "$#" -gt 0 ]; then
	say section pinned
	packages "$@"
fi
say section pending
LC_ALL=C apt-get -s -o Debug::NoLocking=true dist-upgrade 2>&1 | grep -E '^(Inst|E:) '
say section
say end
