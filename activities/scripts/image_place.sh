# Puts the Dockerfile of an upgrade into a folder of its own, as the source page has it in ~/upgrade-alsek. Arguments: name of the folder, the Dockerfile (empty: only the folder is told).

folder=$HOME/upgrade-alsek/$1
if [ -z "$2" ]; then
	say folder "$folder"
elif mkdir -p "$folder" && printf '%s' "$2" >"$folder/.new.$$" && sync "$folder/.new.$$" && mv "$folder/.new.$$" "$folder/Dockerfile"; then
	say folder "$folder"
else
	rm -f "$folder/.new.$$"
	say unwritable "$folder"
fi
say end
