# What the steps of a relocation share. Before: $source is the path as kato knows it, $real the folder that it leads to, $target where the data go, $kept where the source is kept.

# entries FOLDER: what lies in it, but for what belongs to the file system itself.
entries() {
	find "$1" -mindepth 1 -maxdepth 1 ! -name lost+found ! -name 'aquota.*' -printf '%P\n'
}

# list FOLDER: its files and folders with their modes, owners and sizes, one a line, in order. Sockets are no data.
list() {
	{
		find "$1" -xdev -type f -printf '%P\tf %m %U %G %s\n'
		find "$1" -xdev ! -type f ! -type s -printf '%P\t%y %m %U %G %l\n'
	} | LC_ALL=C grep -v -E '^(lost\+found|aquota\.(user|group)~?)(/|	)' | LC_ALL=C sort
}

# new_beside: what lies beside $real under its name and some more letters, and did not when the source was kept: kato's own, such as a source moved aside.
new_beside() {
	[ -f "$kept.beside" ] || return 0
	for beside in "$real"?*; do
		case $beside in
		"$kept"*) ;;
		*)
			if [ -e "$beside" ] && ! LC_ALL=C grep -F -x -q -e "$beside" "$kept.beside"; then
				printf '%s\n' "$beside"
			fi
			;;
		esac
	done
}

# docker_runs: by systemd's word where there is one; a script of sysvinit may say "is not running" and exit with 0.
docker_runs() {
	if command -v systemctl >/dev/null 2>&1; then
		systemctl is-active docker >/dev/null 2>&1
	else
		service docker status 2>/dev/null | grep -v 'not running' | grep -q -E 'start/running|is running'
	fi
}

# docker_service ACTION: it is stopped or started. A socket would start it again.
docker_service() {
	if command -v systemctl >/dev/null 2>&1; then
		[ "$1" = start ] || systemctl stop docker.socket >/dev/null 2>&1
		systemctl "$1" docker 2>&1
	else
		service docker "$1" 2>&1
	fi
}

# docker_away: docker does not run while its own data are looked at; it is remembered that it did.
docker_away() {
	if [ "$kind" = containers ] && docker_runs; then
		touch "$kept.docker"
		docker_service stop || failed "docker cannot be stopped"
	fi
}

# boot: which boot of the node this is.
boot() {
	cat /proc/sys/kernel/random/boot_id
}

# gone: the source that was kept is removed. It has another name before, so that what is left of it when that is cut off is nobody's source.
gone() {
	rm -rf --one-file-system "$kept.gone" && if [ -d "$kept" ]; then
		mv -T "$kept" "$kept.gone" && rm -rf --one-file-system "$kept.gone"
	fi
}

# docker_again: docker runs again, where this operation has stopped it.
docker_again() {
	if [ -f "$kept.docker" ] && ! docker_runs; then
		docker_service start || failed "docker cannot be started again"
	fi
}

# emptied: nothing of a copy is left in $target.
emptied() {
	find "$target" -mindepth 1 -maxdepth 1 ! -name lost+found ! -name 'aquota.*' -exec rm -rf --one-file-system {} + && [ -z "$(entries "$target" | head -n 1)" ]
}
