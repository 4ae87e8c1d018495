# Takes an order for curl into a folder in memory that is gone in the end. Arguments: prefix of the system's folders, start of the name of the folder, then those of the
# script that follows. Standard input: the configuration of curl with the URL, a line "-- certificates", and certificates if the system's are not to be used.

root=$1 name=$2
shift 2
secret=$(vaults | while read -r folder; do
	mktemp -d "$folder/$name.XXXXXX" 2>/dev/null && break
done)
[ -n "$secret" ] || exit 6
trap 'rm -rf "$secret"' EXIT
printf '' >"$secret/config"
chmod 600 "$secret/config"
while IFS= read -r line; do
	[ "$line" != '-- certificates' ] || break
	printf '%s\n' "$line" >>"$secret/config"
done
cat >"$secret/ca"
if [ -s "$secret/ca" ]; then
	printf 'cacert = "%s"\n' "$secret/ca" >>"$secret/config"
fi

# say_code FILE: the code of S3's own word of refusal.
say_code() {
	say why "$(sed -n 's/.*<Code>\([A-Za-z0-9]*\)<.*/\1/p' "$1" 2>/dev/null | head -n 1)"
}
