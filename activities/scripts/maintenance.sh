# The maintenance mode, who has changed it, and what a dead-man did. Arguments: seconds for kato, kato's command.

limit=$1
shift
folder=$(state)
for name in record said; do
	file=$folder/maintenance.json
	[ "$name" = record ] || file=$folder/maintenance.said
	say section "$name"
	if [ -f "$file" ]; then
		cat "$file" || printf '%s\n' unreadable
		printf '\n'
	fi
done
say section mode
login "$@" </dev/null 2>/dev/null
code=$?
say section
say mode-exit "$code"
say end
