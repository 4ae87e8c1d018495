# Where archives are staged. Arguments: folder (empty: the login user's own), name of the operation's folder in it.

folder=$1 name=$2
shift 2
if [ -z "$folder" ]; then
	folder=$HOME/katoflow-exports
fi
place=$folder/$name
