# Adds another node's host keys to this user's known_hosts. Arguments: its name there, then TYPE KEY for each.

name=$1
shift
file=$HOME/.ssh/known_hosts
(umask 077 && mkdir -p "$HOME/.ssh") || exit 1
text=''
if [ -s "$file" ] && [ -n "$(tail -c 1 "$file")" ]; then
	text='
' # its last line does not end
fi
for key in "$@"; do
	text="$text$name $key
"
done
(umask 077 && printf '%s' "$text" >>"$file")
