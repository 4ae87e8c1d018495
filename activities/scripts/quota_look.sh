# What is to be known before quotas are switched. Arguments: the path.

path=$1
say mount "$(mount_of "$path")"
if mounted "$path"; then
	say type "$type"
	say device "$device"
	if quotas; then
		say options 1
	fi
	if has usrquota || has grpquota; then
		say plain 1
	fi
fi
for tool in quotacheck quotaon quotaoff; do
	command -v "$tool" >/dev/null 2>&1 || say lacks "$tool"
done
say on "$(how_many)"
say script "$(boot_script)"
say fstab "$(fstab)"
say kept "$(kept)"
times=0
while read -r one two rest; do
	case $one in
	'#'*) ;;
	*) [ "${two%/}" != "$path" ] || times=$((times + 1)) ;;
	esac
done </etc/fstab
say lines "$times"
say end
