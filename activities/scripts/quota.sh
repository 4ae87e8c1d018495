# Quotas of the file system that is mounted at $path, and how they are kept over a reboot.

type=''
first="# katoflow: quotas of $path; katoflow storage quota disable takes this away"
last='# katoflow: end'
wanted=usrjquota=aquota.user,grpjquota=aquota.group,jqfmt=vfsv0

# how_many are on, of users' and groups' quotas.
how_many() {
	LC_ALL=C quotaon -p "$path" 2>/dev/null | grep -c -E '^(user|group) quota on .* is on'
}

# boot_script: the one in which the platform keeps them (source page), empty for none.
boot_script() {
	for file in /etc/init.d/setup_helion_lxc /etc/init.d/setup_stackato_lxc; do
		if [ -f "$file" ]; then
			readlink -f "$file"
			return
		fi
	done
}

# block_in FILE: katoflow's own lines are there, whole.
block_in() {
	LC_ALL=C grep -F -x -q "$first" "$1" 2>/dev/null
}

# by_hand FILE: somebody else's lines there do it.
by_hand() {
	without_block "$1" | LC_ALL=C grep -v '^[[:space:]]*#' | grep -F 'usrjquota=' | grep -q -E "[[:space:]]$path/?[[:space:]]*\$"
}

# without_block FILE: its text without katoflow's own lines for this path.
without_block() {
	inside=0
	while IFS= read -r line || [ -n "$line" ]; do
		case $inside/$line in
		"0/$first") inside=1 ;;
		"1/$last") inside=0 ;;
		0/*) printf '%s\n' "$line" || return 1 ;;
		esac
	done <"$1"
	[ "$inside" = 0 ]
}

# with_block FILE: its text with them, after the comments that it begins with.
with_block() {
	placed=0
	while IFS= read -r line || [ -n "$line" ]; do
		case $placed/$line in
		0/ | '0/#'*) ;;
		0/*)
			block
			placed=1
			;;
		esac
		printf '%s\n' "$line" || return 1
	done <"$1"
	if [ "$placed" = 0 ]; then
		block
	fi
}

block() {
	printf '%s\n' "$first" "if [ -f $path/aquota.user ]; then" "	mount -o remount,$wanted $path" "	quotaon $path" "fi" "$last"
}

# fstab: the options of the path's line in /etc/fstab; it fails where there is none.
fstab() {
	found=''
	while read -r one two three four rest; do
		case $one in
		'' | '#'*) continue ;;
		esac
		if [ "$two" = "$path" ]; then
			found=${four:-defaults}
		fi
	done </etc/fstab
	[ -n "$found" ] && printf '%s\n' "$found"
}

# fstab_with OPTIONS: the text of /etc/fstab with these in the path's line.
fstab_with() {
	while IFS= read -r line || [ -n "$line" ]; do
		printf '%s\n' "$line" | {
			read -r one two three four rest
			case $one in
			'' | '#'*) two='' ;;
			esac
			if [ "$two" = "$path" ]; then
				printf '%s\t%s\t%s\t%s\t%s\n' "$one" "$two" "$three" "$1" "$rest"
			else
				printf '%s\n' "$line"
			fi
		} || return 1
	done </etc/fstab
}

# plain_options OPTIONS: without those of quotas.
plain_options() {
	left=''
	for option in $(printf '%s' "$1" | tr ',' ' '); do
		case $option in
		usrjquota=* | grpjquota=* | jqfmt=*) ;;
		*) left=$left,$option ;;
		esac
	done
	left=${left#,}
	printf '%s\n' "${left:-defaults}"
}

# kept: where the quotas are kept over a reboot: the boot script's name with "hand" where somebody else has put them there, or fstab; empty for nowhere.
kept() {
	script=$(boot_script)
	if [ -n "$script" ] && block_in "$script"; then
		printf '%s\n' "$script"
	elif [ -n "$script" ] && by_hand "$script"; then
		printf '%s by hand\n' "$script"
	else
		options=$(fstab)
		if quotas; then
			printf '%s\n' /etc/fstab
		fi
	fi
}
