# Writes down who changes the maintenance mode, and how it was found. Arguments: the record.

folder=$(state)
temporary=$folder/maintenance.new.$$
printf '%s\n' "$1" >"$temporary" && chmod 600 "$temporary" && sync "$temporary" && mv "$temporary" "$folder/maintenance.json" || {
	rm -f "$temporary"
	exit 1
}
sync "$folder/maintenance.json" "$folder" 2>/dev/null || sync
