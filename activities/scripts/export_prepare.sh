# Makes the folder for one try of an export, and removes those of earlier tries. Arguments after those of staging.sh: the try. Standard input: what the Cloud
# Controller has, nothing when it was not asked.

try=$place/try-$1
mkdir -p "$folder" || exit 3
if [ -d "$place" ] && [ ! -L "$place" ]; then
	# Of an earlier attempt. Only its owner can do this: it is not somebody else's who waits for what comes.
	chmod 700 "$place" || exit 3
else
	mkdir -m 700 "$place" || exit 3
fi
for other in "$place"/try-*; do
	[ "$other" = "$try" ] || rm -rf "$other"
done
mkdir -p "$try/work" || exit 3
cat >"$place/content.new" || exit 3
if [ -s "$place/content.new" ]; then
	mv "$place/content.new" "$place/content.json"
else
	rm -f "$place/content.new"
fi
say place "$place"
say end
