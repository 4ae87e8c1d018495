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

docker_runs() {
	systemctl is-active docker >/dev/null 2>&1 || service docker status 2>/dev/null | grep -q 'running'
}

# docker ACTION: its service is stopped or started.
docker_service() {
	systemctl "$1" docker 2>&1 || service docker "$1" 2>&1
}

# docker_again: docker runs again, where this operation has stopped it.
docker_again() {
	if [ -f "$kept.docker" ] && ! docker_runs; then
		docker_service start || failed "docker cannot be started again"
	fi
}

# emptied: nothing of a copy is left in $target.
emptied() {
	entries "$target" | while IFS= read -r entry; do
		rm -rf --one-file-system "$target/$entry" || exit 1
	done
}
