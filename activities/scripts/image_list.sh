# What kato gives to app containers, and whether DEAs are made by autoscaling. Arguments: seconds for one call of kato, its path.

limit=$1 kato=$2
say section images
login "$kato" config get fence docker/images --json </dev/null 2>/dev/null
code=$?
say section
say images-exit "$code"
for process in cloud_controller_ng health_manager; do
	name=controller
	[ "$process" != health_manager ] || name=manager
	say section "scaling-$name"
	login "$kato" config get "$process" autoscaling/enabled </dev/null 2>/dev/null
	code=$?
	say section
	say "scaling-$name-exit" "$code"
done
say end
