# What an upgrade to another version needs to know of a node. Arguments: seconds for one call of kato, its path, 1 to ask what the checklist asks, the proxies for http and https
# and what is reached without them, and then the addresses that are tried.

limit=$1 kato=$2 all=$3
[ -z "$4" ] || export http_proxy="$4"
[ -z "$5" ] || export https_proxy="$5"
[ -z "$6" ] || export no_proxy="$6"
shift 6
say section version
login "$kato" version </dev/null 2>&1
code=$?
say section
say version-exit "$code"
# kato leaves a file where an upgrade has failed; its name is not known (kato.md §5).
for file in "$HOME"/*upgrade*fail* "$HOME"/.*upgrade*fail* /s/*upgrade*fail* /s/code/sentinel/*upgrade*fail* /var/stackato/*upgrade*fail*; do
	if [ -e "$file" ]; then
		say mark "$(stat -c %Y "$file" 2>/dev/null)" "$file"
	fi
done
if [ "$all" = 1 ]; then
	free=$(LC_ALL=C timeout 20 df -P -k / 2>/dev/null | tail -n 1)
	say disk "${free#* }"
	memory='' free='' cached='' buffers=''
	while read -r name value unit; do
		case $name in
		MemAvailable:) memory=$value ;;
		MemFree:) free=$value ;;
		Cached:) cached=$value ;;
		Buffers:) buffers=$value ;;
		esac
	done </proc/meminfo
	if [ -z "$memory" ] && [ -n "$free" ]; then
		memory=$((free + ${cached:-0} + ${buffers:-0}))
	fi
	say memory "$memory"
	if [ "$(id -u)" != 0 ]; then
		if ! sudo -n true </dev/null >/dev/null 2>&1; then
			say sudo asks
		elif sudo -n sh -c '[ -e /etc/sudoers.d/nopasswd ]' katoflow-look </dev/null >/dev/null 2>&1; then
			say nopasswd 1
		fi
	fi
	for url in "$@"; do
		if command -v curl >/dev/null 2>&1; then
			said=$(curl -sS -o /dev/null --max-time 20 "$url" 2>&1)
			say reach "$?" "$url" "$said"
		else
			say reach none "$url"
		fi
	done
fi
say end
