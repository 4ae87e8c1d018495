# Which apps containers are of, by the environment that each app instance has in its container. Nothing but the app's id and name is told: the rest of it has secrets. Arguments: 1 when the login
# user needs sudo, the containers.

needs_sudo=$1
shift

for container in "$@"; do
	environment=$(as_root docker exec "$container" cat /home/stackato/etc/droplet.env.json 2>/dev/null | head -c 262144)
	id=$(printf '%s\n' "$environment" | sed -n 's/.*application_id[^0-9a-f]*\([0-9a-f][0-9a-f-]*\).*/\1/p' | head -n 1)
	name=$(printf '%s\n' "$environment" | sed -n 's/.*"STACKATO_APP_NAME": *"\([^"]*\)".*/\1/p' | head -n 1)
	say app "$container" "${id:--}" "$name"
done
say end
