# Switches password logins off or back on, as root. While new logins by key are tried the server runs with the new configuration and the old one is on the disk again, so that this script's end, a
# reboot, or a restart of the server puts the old one back. Arguments: off or on, the file with which the change is confirmed (and with .not after its name called off), seconds to wait for it, user, address and port for a look at the server.

action=$1 confirmed=$2 patience=$3 user=$4 address=$5 port=$6
config=/etc/ssh/sshd_config
new=$config.katoflow-new old=$config.katoflow-old
first='# katoflow: password logins are off; katoflow access revoke --restore-passwords takes this away'
last='# katoflow: end'
PATH=$PATH:/usr/sbin:/sbin

reload() {
	systemctl reload ssh 2>&1 || systemctl reload sshd 2>&1 || service ssh reload 2>&1
}

# offers: the ways to log in that the server offers now.
offers() {
	ssh -n -T -o BatchMode=yes -o ConnectTimeout=5 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o PreferredAuthentications=none -o PubkeyAuthentication=no -p "$port" "$user@$address" true 2>&1 |
		grep 'Permission denied (' | tail -n 1 | cut -d '(' -f 2 | cut -d ')' -f 1
}

# passwords: whether it offers one that asks for a password.
passwords() {
	ways=$(offers)
	case $ways in
	*password* | *keyboard-interactive*) return 0 ;;
	esac
	return 1
}

without() {
	skip=''
	while IFS= read -r line || [ -n "$line" ]; do
		if [ "$line" = "$first" ]; then
			skip=1
		fi
		if [ -z "$skip" ]; then
			printf '%s\n' "$line"
		fi
		if [ "$line" = "$last" ]; then
			skip=''
		fi
	done <"$config"
}

failed() {
	say failed "$*"
	printf '%s\n' "$*"
	exit 1
}

# put FILE: FILE becomes the configuration, whole, with its mode and owner.
put() {
	mv -f "$1" "$config" && sync
}

# back: the old configuration is on the disk and in force.
back() {
	if [ -f "$old" ]; then
		put "$old"
	fi
	rm -f "$new" "$confirmed" "$confirmed.not"
	reload
}

[ -f "$config" ] || failed "there is no $config"
if [ -f "$old" ] || [ -f "$new" ]; then # a trial that was cut off: what is on the disk is to be in force
	if [ -f "$old" ]; then
		put "$old" || failed "$config cannot be put back from $old"
	fi
	rm -f "$new"
	told=$(reload) || failed "sshd was not reloaded: $told"
	sleep 1
fi
rm -f "$confirmed" "$confirmed.not"
if [ "$action" = on ] && ! grep -F -x -q -e "$first" "$config"; then
	say unchanged 1
	say end
	exit 0
fi
if [ "$action" = off ] && ! passwords; then
	[ -n "$ways" ] || failed "the server does not say which ways to log in it offers"
	say unchanged 1
	say end
	exit 0
fi
cp -p "$config" "$new" || failed "$new cannot be written"
{
	if [ "$action" = off ]; then
		printf '%s\n' "$first" 'PasswordAuthentication no' 'ChallengeResponseAuthentication no' "$last"
	fi
	without
} >"$new" || {
	rm -f "$new"
	failed "$new cannot be written: see the space there"
}
wrong=$(sshd -t -f "$new" 2>&1) || {
	rm -f "$new"
	failed "sshd refuses the new configuration: $wrong"
}
if [ "$action" = on ]; then
	put "$new" && reload || failed "sshd was not reloaded"
	say changed 1
	say end
	exit 0
fi

cp -p "$config" "$old" || failed "$old cannot be written"
cp -p "$new" "$new.on" && mv -f "$new.on" "$config" || {
	back
	failed "$config cannot be written"
}
told=$(reload) || {
	back
	failed "sshd was not reloaded: $told"
}
tries=0
while passwords || [ -z "$ways" ]; do
	tries=$((tries + 1))
	if [ "$tries" -gt 10 ]; then
		back
		failed "sshd still offers $ways: look for a Match block in $config, and at sshd -T"
	fi
	sleep 1
done
put "$old"
say trial "$ways"
waited=0
while [ ! -e "$confirmed" ]; do
	if [ "$waited" -ge "$patience" ] || [ -e "$confirmed.not" ]; then
		back
		say reverted "$patience"
		printf 'nobody has confirmed within %s s that logins still work: password logins are as they were\n' "$patience"
		exit 1
	fi
	sleep 1
	waited=$((waited + 1))
done
put "$new" || {
	back
	failed "$config cannot be written"
}
rm -f "$confirmed" "$confirmed.not"
say changed 1
say end
