//go:build unix

package simcluster

import (
	"io/fs"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// inodeOf returns the host's inode number, which serves as the node's.
func inodeOf(fi fs.FileInfo, _ string) (inode, links uint64, blocks int64) {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Ino, uint64(st.Nlink), int64(st.Blocks)
	}
	return 0, 1, 0
}

// setLinkTime sets the time of a symbolic link itself.
func setLinkTime(name string, at time.Time) error {
	stamp := unix.NsecToTimespec(at.UnixNano())
	return bare(unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{stamp, stamp}, unix.AT_SYMLINK_NOFOLLOW))
}
