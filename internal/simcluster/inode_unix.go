//go:build unix

package simcluster

import (
	"io/fs"
	"syscall"
)

// inodeOf returns the host's inode number, which serves as the node's.
func inodeOf(fi fs.FileInfo, _ string) (inode, links uint64, blocks int64) {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Ino, uint64(st.Nlink), int64(st.Blocks)
	}
	return 0, 1, 0
}
