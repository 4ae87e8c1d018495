# What kato says of the processes of this node. Arguments: seconds for the call, path of kato.

limit=$1 kato=$2
say section processes
login "$kato" process list --json </dev/null 2>/dev/null
code=$?
say section
say processes-exit "$code"
say end
