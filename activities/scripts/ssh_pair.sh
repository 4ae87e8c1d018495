# ssh with what the proofs of logins need: a connection of its own, and nobody asked.
bare_ssh() {
	ssh -n -T -o BatchMode=yes -o ControlMaster=no -o ControlPath=none "$@"
}

# pair MAKE: this user's key, the first of those that ssh takes by itself; with MAKE=1 it is made where there is none, whole or not at all. It tells `public LINE` and `key-file FILE`, or `no-key REASON`.
pair() {
	home=$HOME/.ssh found=''
	for name in id_rsa id_ecdsa id_ed25519; do
		if [ -f "$home/$name" ]; then
			found=$home/$name
			break
		fi
		if [ -h "$home/$name" ]; then
			say no-key "$home/$name is a link that leads nowhere"
			return 1
		fi
	done
	if [ -z "$found" ] && [ "$1" = 1 ]; then
		found=$home/id_rsa
		if [ -e "$found.pub" ]; then
			say no-key "$found.pub is there without its private key: move it away"
			return 1
		fi
		(
			[ -d "$home" ] || mkdir -m 700 "$home" || exit
			place=$(mktemp -d "$home/katoflow.XXXXXX") || exit
			ssh-keygen -q -t rsa -b 4096 -N '' -C "$(id -un)@$(hostname)" -f "$place/id_rsa" </dev/null && mv "$place/id_rsa" "$found" && mv "$place/id_rsa.pub" "$found.pub"
			code=$?
			rm -rf "$place"
			exit "$code"
		) || {
			say no-key "ssh-keygen failed"
			return 1
		}
		say made "$found"
	fi
	if [ -z "$found" ]; then
		say no-key "there is none in $home"
		return 1
	fi
	# What the private key says counts; one with a passphrase does not say.
	line=$(ssh-keygen -y -P '' -f "$found" </dev/null 2>/dev/null)
	if [ -z "$line" ] && ssh-keygen -l -f "$found.pub" >/dev/null 2>&1; then
		line=$(head -n 1 "$found.pub")
	fi
	if [ -z "$line" ]; then
		say no-key "$found has a passphrase, and there is no $found.pub"
		return 1
	fi
	case $line in
	*' '*' '*) ;;
	*) line="$line $(id -un)@$(hostname)" ;;
	esac
	say public "$line"
	say key-file "$found"
}

# loose: what of this user's files others may write, which an SSH server refuses.
loose() {
	for path in "$HOME" "$HOME/.ssh" "$HOME/.ssh/authorized_keys"; do
		mode=$(stat -L -c %a "$path" 2>/dev/null)
		case $mode in
		*[2367]? | *[2367]) say loose "$path $mode" ;;
		esac
	done
}

# holds KEY: authorized_keys has it on a line that is no comment.
holds() {
	LC_ALL=C grep -v '^[[:space:]]*#' "$HOME/.ssh/authorized_keys" 2>/dev/null | LC_ALL=C grep -F -q -e "$1"
}
