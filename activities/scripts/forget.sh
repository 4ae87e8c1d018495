# Removes the record, if it is the one named. Arguments: the record.

folder=$(state)
file=$folder/maintenance.json
if [ -f "$file" ] && [ "$(cat "$file")" = "$1" ]; then
	rm -f "$file" "$folder/maintenance.life" || exit 1
fi
say end
