# What one call of kato prints, and its exit code. Arguments: seconds for the call, the command.

limit=$1
shift
say section said
login "$@" </dev/null 2>&1
code=$?
say section
say said-exit "$code"
say end
