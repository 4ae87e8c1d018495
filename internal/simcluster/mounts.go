package simcluster

import (
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	rootSize   = 20 << 30
	rootTaken  = 8 << 30
	mountSize  = 100 << 30
	backupPath = "/mnt/backup"
)

// Mount is a file system of its own on a node, such as a NAS.
type Mount struct {
	// Path it is mounted on.
	Path string
	// Size in bytes; 0 = 100 GiB.
	Size int64
}

// fileSystem is one disk of a node. What is used is the size of the files in it.
type fileSystem struct {
	mount, device string

	mu sync.Mutex
	// size in bytes, and how much of it is taken by what is not in the tree.
	size, taken int64
	// limited: somebody has said how much is free, so that a folder needs a place as well.
	limited bool

	// estimate is never less than what is used: removals do not lower it until the files are counted again.
	estimate atomic.Int64
}

// mountTable makes the file systems of a node, the root last.
func mountTable(mounts []Mount) ([]*fileSystem, error) {
	root := &fileSystem{mount: "/", device: "/dev/vda1", size: rootSize, taken: rootTaken}
	var out []*fileSystem
	for i, m := range mounts {
		if !path.IsAbs(m.Path) || path.Clean(m.Path) != m.Path || m.Path == "/" || tmpfs(m.Path) || m.Size < 0 {
			return nil, fmt.Errorf("mount %q of %d bytes: the path is absolute and no system folder, the size not negative", m.Path, m.Size)
		}
		if m.Size == 0 {
			m.Size = mountSize
		}
		out = append(out, &fileSystem{mount: m.Path, device: fmt.Sprintf("/dev/vd%c1", 'b'+i%25), size: m.Size, limited: true})
	}
	return append(out, root), nil
}

// below says whether a path is the folder or lies in it.
func below(virt, folder string) bool {
	return virt == folder || folder == "/" || strings.HasPrefix(virt, folder+"/")
}

// system is the file system that a path lies on; nil for one in memory.
func (t *tree) system(virt string) *fileSystem {
	if tmpfs(virt) {
		return nil
	}
	var found *fileSystem
	for _, s := range t.systems {
		if below(virt, s.mount) && (found == nil || len(s.mount) > len(found.mount)) {
			found = s
		}
	}
	return found
}

// mountOf is where the file system of a path is mounted.
func (t *tree) mountOf(virt string) string {
	if s := t.system(virt); s != nil {
		return s.mount
	}
	return "/run"
}

// used counts the bytes of the files of a file system.
func (t *tree) used(s *fileSystem) int64 {
	total := int64(0)
	root := t.host(s.mount)
	filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // removed meanwhile
		}
		if e.IsDir() {
			if virt := path.Join("/", filepath.ToSlash(strings.TrimPrefix(name, t.root))); name != root && t.system(virt) != s {
				return fs.SkipDir
			}
			return nil
		}
		if fi, err := e.Info(); err == nil && fi.Mode().IsRegular() {
			total += fi.Size()
		}
		return nil
	})
	return total
}

// space returns the size of a file system and what is free, in bytes.
func (t *tree) space(s *fileSystem) (size, free int64) {
	used := t.used(s)
	s.estimate.Store(used)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mount == "/" && t.full.Load() {
		return s.size, 0
	}
	return s.size, max(0, s.size-s.taken-used)
}

// room returns how many of n more bytes can be written, and counts them as written.
func (t *tree) room(virt string, n int64) int64 {
	s := t.system(virt)
	switch {
	case s == nil || n <= 0:
		return max(0, n)
	case s.mount == "/" && t.full.Load():
		return 0
	}
	s.mu.Lock()
	limit := s.size - s.taken
	s.mu.Unlock()
	if s.estimate.Add(n) <= limit {
		return n
	}
	_, free := t.space(s)
	fits := min(n, free)
	s.estimate.Add(fits)
	return fits
}

// noSpace says that nothing can be made on the file system of a path.
func (t *tree) noSpace(virt string) bool {
	s := t.system(virt)
	if s == nil {
		return false
	}
	if s.mount == "/" && t.full.Load() {
		return true
	}
	s.mu.Lock()
	limited, limit := s.limited, s.size-s.taken
	s.mu.Unlock()
	if !limited || s.estimate.Load() < limit {
		return false
	}
	_, free := t.space(s)
	return free == 0
}

// setFree makes so many bytes free on the file system of a path; -1 = as many as there were at the start.
func (t *tree) setFree(virt string, free int64) error {
	s := t.system(virt)
	if s == nil {
		return fmt.Errorf("%s is in memory", virt)
	}
	used := t.used(s)
	s.estimate.Store(used)
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := int64(0)
	if s.mount == "/" {
		taken = rootTaken
	}
	s.limited = free >= 0 || s.mount != "/"
	if free >= 0 {
		taken = s.size - used - min(free, math.MaxInt64/2)
	}
	s.taken = taken
	return nil
}

// grow makes a file system larger by what a file of the simulation stands for.
func (s *fileSystem) grow(n int64) {
	s.mu.Lock()
	s.size += n
	s.mu.Unlock()
}

// mountLines are the file systems as /proc/mounts has them.
func (t *tree) mountLines() string {
	out := "/dev/vda1 / ext4 rw,relatime,errors=remount-ro 0 0\n"
	for _, s := range t.systems {
		if s.mount != "/" {
			out += s.device + " " + s.mount + " ext4 rw,relatime 0 0\n"
		}
	}
	return out
}

// growth is by how much a file becomes longer when n bytes are written to where it stands.
func growth(f *os.File, appends bool, n int) (int64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	at := fi.Size()
	if !appends {
		if at, err = f.Seek(0, io.SeekCurrent); err != nil {
			return 0, err
		}
	}
	return max(0, at+int64(n)-fi.Size()), nil
}
