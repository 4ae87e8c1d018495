# as_root COMMAND...: as root, by sudo where $needs_sudo is 1.
as_root() {
	if [ "$needs_sudo" = 1 ]; then
		sudo -n "$@" </dev/null
	else
		"$@" </dev/null
	fi
}
