# Tells what the node has in memory of a freeze. Argument: its folder.

# The locks are looked at first: who holds none writes nothing any more.
alive=0
for lock in "$1/held" "$1/guard"; do
	if [ -r "$lock" ]; then
		flock -s -n "$lock" true || alive=1
	fi
done
if [ -r "$1/state" ]; then
	printf '@katoflow-freeze state\n'
	[ "$alive" = 0 ] || printf '@katoflow-freeze alive\n'
	while read -r line; do
		printf '@katoflow-freeze %s\n' "$line"
	done <"$1/state"
fi
