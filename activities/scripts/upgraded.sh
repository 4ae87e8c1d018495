# How dpkg stands after a run.

unfinished
reboot_required
say boot "$(cat /proc/sys/kernel/random/boot_id)"
say end
