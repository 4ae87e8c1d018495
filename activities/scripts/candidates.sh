# What apt would install. Arguments: package names.

say section policy
LC_ALL=C apt-cache policy "$@" 2>/dev/null
say section
say end
