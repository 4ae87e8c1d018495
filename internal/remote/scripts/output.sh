# Sends the line "@katoflow begin" and the end of a job's output on standard output. Arguments: directory name, bytes.

say begin
if [ -e "$state/jobs/$1/output" ]; then
	tail -c "$2" "$state/jobs/$1/output" || exit 1
fi
say end >&2
