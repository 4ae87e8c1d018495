# What dpkg has left unfinished, before the first change, and who may be in the middle of it.

unfinished
locks
say end
