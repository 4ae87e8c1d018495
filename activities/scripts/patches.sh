# Which patches kato knows of on a node. Arguments: seconds for one call of kato, its path, 1 to fetch the list of patches anew, and "json", or "text" for what a kato without JSON prints.

limit=$1 kato=$2 fetch=$3 form=$4
help=$(login "$kato" patch --help </dev/null 2>&1)
say section help
printf '%s\n' "$help"
say section
here=''
case $help in
*--local*) here=--local ;;
*--only-this-node*) here=--only-this-node ;;
esac
if [ -n "$here" ] && [ "$fetch" = 1 ]; then
	say section fetch
	login "$kato" patch update "$here" </dev/null 2>&1
	code=$?
	say section
	say fetch-exit "$code"
fi
# status NAME OPTION...: one status of this node.
status() {
	name=$1
	shift
	say section "$name"
	login "$kato" patch status "$here" "$@" </dev/null 2>&1
	code=$?
	say section
	say "$name-exit" "$code"
}
case $here/$form in
/*) ;;
*/json)
	case $help in
	*--json*) status json --all --json --quiet ;;
	esac
	;;
*)
	status all --all
	status open
	;;
esac
say end
