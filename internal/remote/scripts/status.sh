# Tells what is known. Arguments: all, running, or the name of a job's directory.

case $1 in
all | running)
	for job in "$state"/jobs/*; do
		if [ -d "$job" ]; then
			probe "$job"
			if [ "$1" = all ] || [ "$lock" != free ]; then
				facts "$job"
			fi
		fi
	done
	;;
*)
	if [ -d "$state/jobs/$1" ]; then
		probe "$state/jobs/$1"
		facts "$state/jobs/$1"
	fi
	;;
esac
say boot "$boot"
say end
