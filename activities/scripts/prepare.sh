# Who holds the apt locks and, when nobody does, once an operation: what is installed, kept in katoflow's own folder for the record
# step. Arguments: name of the list.

held=$(locks)
if [ -n "$held" ]; then
	printf '%s\n' "$held"
	say end
	exit 0
fi
folder=$(state)/packages
if [ ! -e "$folder/$1" ]; then
	mkdir -p "$folder" && find "$folder" -type f -mtime +14 -exec rm -f {} + 2>/dev/null
	packages >"$folder/$1.$$" && mv "$folder/$1.$$" "$folder/$1" || {
		rm -f "$folder/$1.$$"
		say unwritable "$folder"
	}
fi
say end
