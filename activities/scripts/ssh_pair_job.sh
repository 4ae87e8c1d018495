# The key of this user. Argument: 1 to make it where there is none.

pair "$1" || exit 1
say end
