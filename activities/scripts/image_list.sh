# What kato gives to app containers, and whether DEAs are made by autoscaling. Arguments: seconds for one call of kato, its path.

limit=$1 kato=$2
say section images
login "$kato" config get fence docker/images --json </dev/null 2>/dev/null
code=$?
say section
say images-exit "$code"
say section scaling-controller
login "$kato" config get cloud_controller_ng autoscaling/enabled </dev/null 2>/dev/null
say section scaling-manager
login "$kato" config get health_manager autoscaling/enabled </dev/null 2>/dev/null
say section
say end
