# Tries a login by key, as kato does it and with this user's own key alone, and asks a server which ways to log in it offers. Arguments: user, address, port, 1 to try the login, 1 to ask for the ways, 1 to
# try that key alone.

user=$1 address=$2 port=$3
if [ "$4" = 1 ]; then
	say section login
	bare_ssh -o ConnectTimeout=10 -o StrictHostKeyChecking=yes -o PreferredAuthentications=publickey -p "$port" "$user@$address" 'echo katoflow-is-in' 2>&1
	code=$?
	say section
	say login-exit "$code"
	file=$(pair 0 | grep '^@katoflow key-file ' | cut -d ' ' -f 3-)
	if [ "$6" = 1 ] && [ "$code" = 0 ] && [ -n "$file" ]; then
		say section login
		bare_ssh -o ConnectTimeout=10 -o StrictHostKeyChecking=yes -o PreferredAuthentications=publickey -o IdentitiesOnly=yes -i "$file" -p "$port" "$user@$address" 'echo katoflow-is-in' 2>&1
		code=$?
		say section
		say alone-exit "$code"
	fi
fi
if [ "$5" = 1 ]; then
	say section ways
	bare_ssh -o ConnectTimeout=10 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o PreferredAuthentications=none -o PubkeyAuthentication=no -p "$port" "$user@$address" true 2>&1
	say section
fi
say end
