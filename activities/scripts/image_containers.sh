# The containers that run, and the images that they were made from. Arguments: 1 when the login user needs sudo.

needs_sudo=$1

say version "$(docker --version 2>/dev/null | head -n 1)"
all=$(as_root docker ps -q --no-trunc 2>&1)
code=$?
say ps-exit "$code"
if [ "$code" = 0 ]; then
	say section containers
	for container in $all; do
		printf 'container %s\n' "$container"
		as_root docker inspect "$container" 2>/dev/null | grep -E '^ *"Image": "'
	done
	say section
else
	say section ps
	printf '%s\n' "$all"
	say section
fi
say end
