# Sets the maintenance mode and reads it, as one job. Arguments: the record to be written before (empty: none), how the record that is there must begin (empty: it
# may be any), then as shell words kato's command to set the mode (empty: it is left as it is) and that to read it.

record=$1 owner=$2 set=$3 get=$4
folder=$(state)
file=$folder/maintenance.json
if [ -n "$record" ]; then
	temporary=$folder/maintenance.new.$$
	printf '%s\n' "$record" >"$temporary" && chmod 600 "$temporary" && sync "$temporary" && mv "$temporary" "$file" || {
		rm -f "$temporary"
		say unwritable "$folder"
		say end
		exit 1
	}
	sync "$file" "$folder" 2>/dev/null || sync
	rm -f "$folder/maintenance.said" "$folder/maintenance.life"
fi
have=''
if [ -f "$file" ]; then
	have=$(cat "$file")
fi
case $have in
"$owner"*) ;;
*)
	say foreign 1
	say end
	exit 0
	;;
esac
say section record
printf '%s\n' "$have"
say section
if [ -n "$set" ]; then
	say section set
	sh -c "exec $set" </dev/null 2>&1
	code=$?
	say section
	say set-exit "$code"
	if [ "$code" != 0 ]; then
		say end
		exit 1
	fi
fi
say section mode
sh -c "exec $get" </dev/null 2>/dev/null
code=$?
say section
say mode-exit "$code"
say end
