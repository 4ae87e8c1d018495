# Evidence of the last boot.

say boot "$(cat /proc/sys/kernel/random/boot_id)"
say release "$(uname -r)"
say ticks "$(getconf CLK_TCK 2>/dev/null)"
say uptime "$(cat /proc/uptime)"
say section init
cat /proc/1/stat
say section
inside=$(container)
say container "$inside"
if [ -z "$inside" ]; then
	for file in /boot/grub/grub.cfg /boot/grub2/grub.cfg; do
		if [ -r "$file" ]; then
			say section grub
			head -c 262144 "$file"
			printf '\n'
			say section environment
			if [ -r "${file%/*}/grubenv" ]; then
				head -c 1024 "${file%/*}/grubenv"
				printf '\n'
			fi
			say section
			break
		elif [ -e "$file" ]; then
			say unreadable "$file"
		fi
	done
	say section kernels
	ls /boot 2>/dev/null
	say section
fi
say end
