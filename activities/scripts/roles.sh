# The Core's view of all roles. Arguments: seconds for the call, path of kato.

limit=$1 kato=$2
say section status
login "$kato" status --json </dev/null 2>/dev/null
code=$?
say section
say status-exit "$code"
say end
