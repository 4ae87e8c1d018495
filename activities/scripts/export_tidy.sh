# Removes what an operation staged. Arguments after those of staging.sh: 1 to keep the staged archive, start of the names of secrets' folders, then with the
# staged archive and its place on a mounted file system also what was moved there and never got its manifest.

keep=$1 secrets=$2 root=''
shift 2
vaults | while read -r vault; do
	rm -rf "$vault/${secrets:?}".*
done
if [ $# = 2 ] && [ ! -e "$1" ] && [ ! -e "$2.manifest.json" ]; then
	rm -f "$2" "$2.manifest.json.new" || exit 3
fi
if [ "$keep" != 1 ]; then
	rm -rf "$place" || exit 3
	[ ! -e "$place" ] || exit 3
	if [ "$folder" = "$HOME/katoflow-exports" ]; then
		rmdir "$folder" 2>/dev/null
	fi
fi
say end
