# What dpkg has left unfinished, before the first change.

audit
say end
