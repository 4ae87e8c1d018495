# The maintenance mode, and who has changed it. Arguments: seconds for kato, kato's command.

limit=$1
shift
say section record
file=$(state)/maintenance.json
if [ -f "$file" ]; then
	cat "$file"
	printf '\n'
fi
say section mode
login "$@" </dev/null 2>/dev/null
code=$?
say section
say mode-exit "$code"
say end
