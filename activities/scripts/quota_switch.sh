# Switches the quotas of a file system on or off, now and for the boots to come, as root. It does only what is not done yet; where the kernel has no quotas, what it has begun is taken back. Arguments: on or
# off, the path.

action=$1 path=$2
# What this operation has switched is remembered for as long as it holds, so that another try takes the same back: whether the options are new, and the files.
begun=/run/katoflow-quota$(printf '%s' "$path" | tr '/' '-')

mounted "$path" || failed "nothing is mounted at $path"
case $type in
ext2 | ext3 | ext4) ;;
*) failed "$path is a file system of type $type: quotas of this kind are for ext2, ext3 and ext4" ;;
esac
script=$(boot_script)

# back: as it was before this operation. Files that were there before, which quotacheck has written anew, are those that it has kept of them.
back() {
	quotaoff "$path" >/dev/null 2>&1
	if [ -f "$begun" ]; then
		mount -o remount,usrjquota=,grpjquota= "$path"
	fi
	for kind in user group; do
		if [ -f "$begun.$kind" ]; then
			rm -f "$path/aquota.$kind" "$path/aquota.$kind~"
		elif [ -f "$path/aquota.$kind~" ]; then
			mv -f "$path/aquota.$kind~" "$path/aquota.$kind"
		fi
	done
	rm -f "$begun" "$begun.user" "$begun.group"
}

# forget: nothing keeps them over a reboot any more.
forget() {
	if [ -n "$script" ] && any_block "$script"; then
		lines_of "$script" out >/dev/null || failed "$script has katoflow's first line and not its last one: mend it"
		rewrite "$script" lines_of "$script" out || failed "$script cannot be written"
		say forgotten "$script"
	fi
	options=$(fstab)
	if has usrjquota || has grpjquota; then
		rewrite /etc/fstab fstab_with "$(plain_options "$options")" || failed "/etc/fstab cannot be written"
		say forgotten /etc/fstab
	fi
}

if has usrquota || has grpquota; then
	[ "$action" = on ] || failed "$path is mounted with usrquota or grpquota, which katoflow does not do: whoever has done it is to take it back"
fi
if [ "$action" = off ]; then
	forget
	if [ "$(how_many)" != 0 ]; then
		why=$(LC_ALL=C quotaoff -v "$path" 2>&1) || failed "quotaoff $path failed: $(printf '%s' "$why" | tail -n 1)"
		say changed off
	fi
	mounted "$path"
	if has usrjquota || has grpjquota; then
		mount -o remount,usrjquota=,grpjquota= "$path" || failed "$path cannot be mounted again without quotas"
		say changed options
	fi
	rm -f "$path/aquota.user" "$path/aquota.group" "$path/aquota.user~" "$path/aquota.group~" "$begun" "$begun.user" "$begun.group"
	say done 1
	exit 0
fi

if ! quotas; then
	touch "$begun"
	if ! why=$(mount -o "remount,$wanted" "$path" 2>&1); then
		rm -f "$begun"
		failed "$path cannot be mounted again with quotas: $(printf '%s' "$why" | head -n 1)"
	fi
	say changed options
	mounted "$path"
	if ! quotas; then
		back
		failed "$path was mounted again with $wanted, and /proc/mounts does not have them: this kernel, or a file system with the feature quota, does not take them"
	fi
fi
if [ "$(how_many)" != 2 ]; then
	quotaoff "$path" >/dev/null 2>&1
	for kind in user group; do
		if [ ! -f "$path/aquota.$kind" ]; then
			touch "$begun.$kind"
		elif [ ! -f "$begun.$kind" ]; then # what is put back is this one, and none that an older quotacheck has left
			cp -p "$path/aquota.$kind" "$path/aquota.$kind~" || failed "$path/aquota.$kind cannot be copied"
		fi
	done
	if ! quotacheck -vgumb "$path" 2>&1; then
		back
		failed "quotacheck $path failed, see its output"
	fi
	if ! why=$(LC_ALL=C quotaon -v "$path" 2>&1); then
		back
		printf '%s\n' "$why"
		case $why in
		*'not supported in kernel'*) failed "the kernel $(uname -r) has no quotas (its option CONFIG_QFMT_V2, or its module quota_v2): $path is as it was" ;;
		esac
		failed "quotaon $path failed: $(printf '%s' "$why" | tail -n 1); it is as it was"
	fi
	printf '%s\n' "$why"
	if [ "$(how_many)" != 2 ]; then # quotaon ends with 0 where it finds nothing to do
		back
		failed "quotaon $path has ended, and quotas are not on: it is as it was"
	fi
	say changed on
fi
where=$(kept)
if [ -z "$where" ]; then
	if [ -n "$script" ]; then
		lines_of "$script" out >/dev/null || failed "$script has katoflow's first line and not its last one: mend it"
		rewrite "$script" renewed "$script" || failed "quotas are on, and are not kept over a reboot: $script cannot be written"
	else
		now=$(fstab) || failed "quotas are on, and are not kept over a reboot: $path does not stand in /etc/fstab, or more than once"
		rewrite /etc/fstab fstab_with "$(plain_options "$now"),$wanted" || failed "quotas are on, and are not kept over a reboot: /etc/fstab cannot be written"
	fi
	say changed kept
	where=$(kept)
fi
say kept "$where"
rm -f "$begun" "$begun.user" "$begun.group"
say done 1
