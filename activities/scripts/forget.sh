# Removes the record, if it is the one named. Arguments: the record.

file=$(state)/maintenance.json
if [ -f "$file" ] && [ "$(cat "$file")" = "$1" ]; then
	rm -f "$file" || exit 1
fi
say end
