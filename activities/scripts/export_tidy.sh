# Removes what an operation staged. Arguments: those of staging.sh.

rm -rf "$place" || exit 3
[ ! -e "$place" ] || exit 3
rmdir "$folder" 2>/dev/null
say end
