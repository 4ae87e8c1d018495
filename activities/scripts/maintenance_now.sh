# Runs a command in a login shell without a job: on a full disk none can be started. Arguments: seconds, the command.

limit=$1
shift
login "$@" </dev/null
