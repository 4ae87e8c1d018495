# Quotas of the file system that is mounted at $path, and how they are kept over a reboot.

type=''
first="# katoflow: quotas of $path; katoflow storage quota disable takes this away"
last='# katoflow: end'
wanted=usrjquota=aquota.user,grpjquota=aquota.group,jqfmt=vfsv0

# how_many are on, of users' and groups' quotas.
how_many() {
	LC_ALL=C quotaon -p "$path" 2>/dev/null | grep -c -E '^(user|group) quota on .* is on'
}

# boot_script: the one in which the platform keeps them (source page), empty for none. One that is a link to elsewhere, as upstart's are, is everybody's.
boot_script() {
	for file in /etc/init.d/setup_helion_lxc /etc/init.d/setup_stackato_lxc; do
		if [ -f "$file" ]; then
			file=$(readlink -f "$file")
			case $file in
			/etc/init.d/*)
				printf '%s\n' "$file"
				return
				;;
			esac
		fi
	done
}

# lines_of FILE in|out: katoflow's own lines for this path, or all others. It fails where the last of them is missing.
lines_of() {
	inside=0
	while IFS= read -r line || [ -n "$line" ]; do
		if [ "$inside" = 0 ] && [ "$line" = "$first" ]; then
			inside=1
		fi
		case $inside/$2 in
		1/in | 0/out) printf '%s\n' "$line" || return 1 ;;
		esac
		if [ "$inside" = 1 ] && [ "$line" = "$last" ]; then
			inside=0
		fi
	done <"$1"
	[ "$inside" = 0 ]
}

# block_in FILE: katoflow's own lines are there, whole. any_block FILE: some are.
block_in() {
	[ "$(lines_of "$1" in)" = "$(block)" ]
}

any_block() {
	LC_ALL=C grep -F -x -q -e "$first" "$1"
}

# by_hand FILE: somebody else's lines there mount it with quotas, and switch them on.
by_hand() {
	hand=''
	lines_of "$1" out | {
		while read -r line; do
			case ${line%/} in
			'#'*) ;;
			*usrjquota=*[[:space:]]"$path") hand=1$hand ;;
			quotaon*[[:space:]]"$path") hand=${hand}2 ;;
			esac
		done
		case $hand in
		*1*2*) true ;;
		*) false ;;
		esac
	}
}

# renewed FILE: its text with katoflow's own lines, once, after the comments that it begins with.
renewed() {
	lines_of "$1" out | {
		placed=0
		while IFS= read -r line; do
			case $placed/$line in
			0/ | '0/#'*) ;;
			0/*)
				block
				placed=1
				;;
			esac
			printf '%s\n' "$line" || {
				placed=cut
				break
			}
		done
		case $placed in
		0) block ;;
		1) true ;;
		*) false ;;
		esac
	}
}

# block: a script that ends at the first error goes on, whatever becomes of it.
block() {
	printf '%s\n' "$first" "if [ -f $path/aquota.user ]; then" "	mount -o remount,$wanted $path && quotaon $path || true" "fi" "$last"
}

# fstab: the options of the path's line in /etc/fstab. It fails where there is none, or more than one.
fstab() {
	found='' times=0
	while read -r one two three four rest; do
		case $one in
		'' | '#'*) continue ;;
		esac
		if [ "${two%/}" = "$path" ]; then
			found=${four:-defaults} times=$((times + 1))
		fi
	done </etc/fstab
	[ "$times" = 1 ] && printf '%s\n' "$found"
}

# fstab_with OPTIONS: the text of /etc/fstab with these in the path's line.
fstab_with() {
	while IFS= read -r line || [ -n "$line" ]; do
		printf '%s\n' "$line" | {
			read -r one two three four rest
			case $one in
			'' | '#'*) two='' ;;
			esac
			if [ "${two%/}" = "$path" ]; then
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
