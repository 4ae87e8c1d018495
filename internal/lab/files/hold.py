#!/usr/bin/python3 -I
# Holds the locks of apt and dpkg as Debian's daily run does. Argument: seconds, 0 = until killed.
import fcntl
import sys
import time

held = []
for path in ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/lib/apt/lists/lock"):
    f = open(path, "a")
    fcntl.lockf(f, fcntl.LOCK_EX)
    held.append(f)
print("held", flush=True)
time.sleep(float(sys.argv[1]) or 86400)
