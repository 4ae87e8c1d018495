# The job that puts an archive in its place on a mounted file system: the manifest last, and everything on the disk before. Arguments: the staged archive, its
# place, the manifest, its SHA-256.

staged=$1 placed=$2 manifest=$3 sum=$4
if [ -f "$staged" ]; then
	[ ! -e "$placed" ] || {
		printf '%s\n' "$placed is there already"
		exit 1
	}
	sync "$staged" 2>/dev/null || sync
	mv "$staged" "$placed" || exit 1
fi
[ -f "$placed" ] || {
	printf '%s\n' "neither $staged nor $placed is there"
	exit 1
}
# It holds passwords. Some file systems have no modes.
chmod 600 "$placed" 2>/dev/null
now=$(openssl dgst -sha256 -r <"$placed" 2>/dev/null) || now=$(sha256sum <"$placed") || exit 1
[ "${now%% *}" = "$sum" ] || {
	rm -f "$placed"
	printf '%s\n' "$placed has other content than what was checked, and was removed"
	exit 4
}
printf '%s\n' "$manifest" >"$placed.manifest.json.new" && { chmod 600 "$placed.manifest.json.new" 2>/dev/null || true; } && mv "$placed.manifest.json.new" "$placed.manifest.json" || exit 1
sync "$placed.manifest.json" 2>/dev/null || sync
sync "${placed%/*}" 2>/dev/null || sync
