# The floor: what the rolling upgrade costs with nothing around it. Arguments: configuration of ssh, then the nodes.
set -e
config=$1
shift
on() {
	ssh -F "$config" "$@" </dev/null
}
for node; do
	on "$node" sudo -n apt-get update
	on "$node" sudo -n env DEBIAN_FRONTEND=noninteractive unattended-upgrades -d
	before=$(on "$node" cat /proc/sys/kernel/random/boot_id)
	on "$node" sudo -n /sbin/reboot || true # the connection may be lost: that is the reboot
	until now=$(on "$node" cat /proc/sys/kernel/random/boot_id) && [ "$now" != "$before" ]; do
		sleep 0.1
	done
	until [ "$(on "$node" systemctl is-system-running)" = running ]; do
		sleep 0.1
	done
done
