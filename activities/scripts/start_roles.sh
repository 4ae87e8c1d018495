# Starts all roles of this node, and tells when that was begun by the node's own clock. Arguments: kato's command as words.

began=$(date +%s%N)
"$@" </dev/null
code=$?
printf '\n@katoflow stamp %s\n' "$began"
exit "$code"
