# Removes what is old. Arguments: seconds after which output goes, seconds after which tombstones go, locked script. Ages are between two
# times of this node.

flock -w 10 "$state/lease.lock" sh -c "$3" sh "$state" "$boot" "$root" "$1" "$2"
case $? in
0) ;;
1) fail locked "$state/lease.lock" ;;
9) exit 9 ;;
*) fail cut ;;
esac
say boot "$boot"
say end
