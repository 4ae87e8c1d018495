#!/bin/bash
### BEGIN INIT INFO
# Provides:          setup_lxc
# Required-Start:    $local_fs $network
# Required-Stop:
# Default-Start:     2 3 4 5
# Default-Stop:
# Short-Description: Prepare the node for application containers
### END INIT INFO

PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
STATE=/run/setup_lxc

do_start() {
    mkdir -p "$STATE"
    date +%s >"$STATE/started"
}

case "$1" in
  start|restart|force-reload)
    do_start
    ;;
  stop)
    rm -rf "$STATE"
    ;;
  status)
    [[ -f "$STATE/started" ]] || exit 3
    ;;
  *)
    echo "Usage: $0 {start|stop|restart|status}" >&2
    exit 3
    ;;
esac

exit 0
