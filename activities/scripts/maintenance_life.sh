# Shows the dead-man that the operation lives, or that it is closed, and tells the record. Arguments: how it begins, what is shown: something new each time, or
# "closed".

folder=$(state)
temporary=$folder/maintenance.life.$$
have=''
if [ -f "$folder/maintenance.json" ]; then
	have=$(cat "$folder/maintenance.json")
fi
case $have in
"$1"*)
	printf '%s\n' "$2" >"$temporary" && mv "$temporary" "$folder/maintenance.life" || {
		rm -f "$temporary"
		exit 1
	}
	say section record
	printf '%s\n' "$have"
	say section
	;;
*) say gone 1 ;;
esac
say end
