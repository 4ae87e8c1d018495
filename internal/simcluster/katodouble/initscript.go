package katodouble

import "fmt"

// InitScripts are the init scripts in which a node keeps what it mounts at a boot (kato.md §3.7): setup_helion_lxc of ALS, setup_stackato_lxc of Stackato. A node that has them runs them.
func InitScripts() []string { return []string{"setup_helion_lxc", "setup_stackato_lxc"} }

// InitScript is the text of such a script, /etc/init.d/NAME. What the real ones do is not known: this one is an ordinary init script that prepares the folder of containers.
func InitScript(name string) string {
	return fmt.Sprintf(`#!/bin/bash
### BEGIN INIT INFO
# Provides:          %s
# Required-Start:    $local_fs $network
# Required-Stop:     $local_fs
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: prepares the node for containers
### END INIT INFO

case "$1" in
  start|restart|force-reload)
    mkdir -p /run/lxc
    ;;
  stop|status)
    ;;
  *)
    echo "Usage: $0 {start|stop|restart|force-reload|status}" >&2
    exit 3
    ;;
esac

exit 0
`, name)
}
