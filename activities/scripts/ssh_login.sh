# Tries a login by key, as kato does it, and asks a server which ways to log in it offers. Arguments: user, address, port, 1 to try the login, 1 to ask for the ways.

user=$1 address=$2 port=$3
if [ "$4" = 1 ]; then
	say section login
	ssh -n -T -o BatchMode=yes -o ConnectTimeout=10 -o StrictHostKeyChecking=yes -o PreferredAuthentications=publickey -p "$port" "$user@$address" 'echo katoflow-is-in' 2>&1
	code=$?
	say section
	say login-exit "$code"
fi
if [ "$5" = 1 ]; then
	say section ways
	ssh -n -T -o BatchMode=yes -o ConnectTimeout=10 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o PreferredAuthentications=none -o PubkeyAuthentication=no -p "$port" "$user@$address" true 2>&1
	say section
fi
say end
