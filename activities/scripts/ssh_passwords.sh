# Switches password logins off or back on, as root. While new logins by key are tried the server runs with the new configuration and the old one is on the disk again, so that a reboot or a restart of the server
# puts the old one back; a process of its own does the same when this one is killed. Arguments: off or on, the file with which the change is confirmed (and with .not after its name called off), seconds to wait
# for it, user, address and port for a look at the server.

action=$1 confirmed=$2 patience=$3 user=$4 address=$5 port=$6
config=/etc/ssh/sshd_config
first='# katoflow: password logins are off; katoflow access revoke --restore-passwords takes this away'
last='# katoflow: end'
PATH=$PATH:/usr/sbin:/sbin

reload() {
	systemctl reload ssh 2>&1 || systemctl reload sshd 2>&1 || service ssh reload 2>&1
}

# offers: the ways to log in that the server offers now.
offers() {
	bare_ssh -o ConnectTimeout=3 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o PreferredAuthentications=none -o PubkeyAuthentication=no -p "$port" "$user@$address" true 2>&1 |
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

# without: the configuration without katoflow's own lines. It fails where somebody has changed those.
without() {
	at=0
	while IFS= read -r line || [ -n "$line" ]; do
		case $at/$line in
		"0/$first") at=1 ;;
		'1/PasswordAuthentication no') at=2 ;;
		'2/ChallengeResponseAuthentication no') at=3 ;;
		"3/$last") at=0 ;;
		0/*) printf '%s\n' "$line" || return 1 ;;
		*) return 1 ;;
		esac
	done <"$config"
	[ "$at" = 0 ]
}

failed() {
	say failed "$*"
	printf '%s\n' "$*"
	exit 1
}

# put FILE: FILE becomes the configuration, whole, with its mode and owner.
put() {
	mv -f "$1" "$config" && {
		sync >/dev/null 2>&1 &
		true
	}
}

# back: the old configuration is on the disk and in force.
back() {
	if [ -f "$old" ]; then
		mv -f "$old" "$config"
	fi
	rm -f "$new" "$new.on" "$trial" "$confirmed" "$confirmed.not"
	reload
}

# same FILE FILE: both have the same text.
same() {
	[ -f "$1" ] && [ -f "$2" ] && [ "$(cat "$1")" = "$(cat "$2")" ]
}

[ -f "$config" ] || failed "there is no $config"
config=$(readlink -f "$config")
new=$config.katoflow-new old=$config.katoflow-old trial=$config.katoflow-trial
if [ -f "$old" ] || [ -f "$new" ]; then # a trial that was cut off: what is on the disk is to be in force
	if same "$config" "$new" && [ -f "$old" ]; then
		put "$old" || failed "$config cannot be put back from $old"
	fi
	rm -f "$old" "$new" "$new.on" "$trial"
	told=$(reload) || failed "sshd was not reloaded: $told"
	sleep 1
fi
rm -f "$confirmed" "$confirmed.not"
ours=$(LC_ALL=C grep -c -F -x -e "$first" "$config")
if [ "$action" = on ] && [ "$ours" = 0 ]; then
	told=$(reload) || failed "sshd was not reloaded: $told" # a try before may have come no further
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
lines=$(($(LC_ALL=C grep -c '' "$config") - 4 * ours))
{
	if [ "$action" = off ]; then
		lines=$((lines + 4))
		printf '%s\n' "$first" 'PasswordAuthentication no' 'ChallengeResponseAuthentication no' "$last"
	fi
	without
} >"$new"
code=$?
if [ "$code" != 0 ] || [ "$(LC_ALL=C grep -c '' "$new")" != "$lines" ]; then
	rm -f "$new"
	failed "the new configuration cannot be written: see the space there, and whether somebody has changed katoflow's lines in $config"
fi
wrong=$(sshd -t -f "$new" 2>&1) || {
	rm -f "$new"
	failed "sshd refuses the new configuration: $wrong"
}
if [ "$action" = on ]; then
	put "$new" || failed "$config cannot be written"
	told=$(reload) || failed "sshd was not reloaded: $told"
	say changed 1
	say end
	exit 0
fi

cp -p "$config" "$old" && printf '%s\n' "$confirmed" >"$trial" || {
	rm -f "$old" "$new" "$trial"
	failed "$old cannot be written"
}
# Who takes it back when this process is killed: it ends by itself with the trial.
setsid sh -c 'for i in $(seq "$1"); do
	sleep 1
	[ "$(cat "$2" 2>/dev/null)" = "$3" ] || exit 0
done
if [ "$(cat "$4")" = "$(cat "$5")" ] && [ -f "$6" ]; then mv -f "$6" "$4"; fi
rm -f "$2" "$5" "$5.on" "$6"
systemctl reload ssh || systemctl reload sshd || service ssh reload' sh $((patience + 60)) "$trial" "$confirmed" "$config" "$new" "$old" </dev/null >/dev/null 2>&1 &

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
before=$(cat "$old")
put "$old" || {
	back
	failed "$config cannot be written"
}
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
if passwords || [ "$(cat "$config")" != "$before" ]; then
	back
	failed "sshd was restarted, or $config was changed, while it was on trial: nothing was kept"
fi
put "$new" || {
	back
	failed "$config cannot be written"
}
rm -f "$trial" "$confirmed" "$confirmed.not"
say changed 1
say end
