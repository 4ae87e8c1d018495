# Under the lock on the lease file. Arguments: state folder, boot id, token, operation.

state=$1 boot=$2 token=$3 operation=$4
lease
exit 0
