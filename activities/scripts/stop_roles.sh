# Stops all roles of this node, and tells when that had ended by the node's own clock. Arguments: kato's command as words.

"$@" </dev/null
code=$?
printf '\n@katoflow stamp %s\n' "$(date +%s%N)"
exit "$code"
