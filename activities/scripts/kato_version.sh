# What kato says of its version. Arguments: seconds for the call, the command.

limit=$1
shift
say section kato
login "$@" </dev/null 2>/dev/null
say section
say end
