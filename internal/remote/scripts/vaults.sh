# vaults: the folders in memory that may take secrets, best first. A folder of the installer's outlives the login session.
vaults() {
	printf '%s\n' "$root/run/katoflow-$(id -un)" "$root/run/user/$(id -u)" "$root/run" "$root/dev/shm"
}
