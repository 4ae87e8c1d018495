# Takes the node's lease. Arguments: token, operation, locked script.

flock -w 10 "$state/lease.lock" sh -c "$3" sh "$state" "$boot" "$1" "$2"
case $? in
0) ;;
1) fail locked "$state/lease.lock" ;;
9) exit 9 ;;
*) fail cut ;;
esac
say boot "$boot"
say end
