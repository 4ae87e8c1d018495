# What must hold on a node. Arguments: seconds for one call of kato and of a gate command, path of kato (empty on a plain cluster), 1 to ask
# kato for its nodes and the state of all roles, which only the Core is asked, then the gate commands.

limit=$1 kato=$2 core=$3
shift 3

say section system
if command -v systemctl >/dev/null 2>&1; then
	system=$(LC_ALL=C systemctl is-system-running 2>/dev/null)
	printf '%s\n' "${system:-none}"
	if [ "$system" = degraded ]; then
		LC_ALL=C systemctl list-units --state=failed --plain --no-legend --no-pager 2>/dev/null
	fi
fi
say section
if [ -n "$kato" ]; then
	if login test -x "$kato" >/dev/null 2>&1 </dev/null; then
		say section ready
		login "$kato" process ready all </dev/null 2>&1
		code=$?
		say section
		say ready-exit "$code"
		if [ "$core" = 1 ]; then
			say section status
			login "$kato" status --json </dev/null 2>/dev/null
			code=$?
			say section
			say status-exit "$code"
			say section nodes
			login "$kato" node list </dev/null 2>/dev/null
			code=$?
			say section
			say nodes-exit "$code"
		fi
	else
		say no-kato 1
	fi
fi
n=0
for line; do
	timeout "$limit" sh -c "$line" </dev/null >/dev/null 2>&1
	say command "$n" "$?"
	n=$((n + 1))
done
say end
