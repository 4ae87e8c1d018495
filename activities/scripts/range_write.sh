# Writes standard input into a range of a file. Arguments: the file, offset and length in bytes.

file=$1 offset=$2 length=$3
text=$(place) || say_disk "$text"
say end
