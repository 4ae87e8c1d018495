package simcluster

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
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
	// Type as /proc/mounts tells it, such as nfs4, fuse.sshfs or xfs. "" = ext4, in a folder of the login user's; all others, a named ext4 too, are root's, and a named ext4 has lost+found.
	Type string
	// Options as /proc/mounts tells them; "" = rw,relatime.
	Options string
	// NotInFstab leaves it out of /etc/fstab: after a reboot it is mounted with Options again.
	NotInFstab bool
}

// kind is the type of the file system.
func (m Mount) kind() string {
	if m.Type == "" {
		return "ext4"
	}
	return m.Type
}

// fileSystem is one disk of a node. What is used is the size of the files in it.
type fileSystem struct {
	mount, device, kind string
	// number is the device's, as stat tells it.
	number uint64
	// first are the options of a boot without a line in /etc/fstab.
	first []string
	// readOnly: it is mounted so.
	readOnly atomic.Bool

	mu sync.Mutex
	// options as of now, and whether quotas are on.
	options               []string
	userQuota, groupQuota bool
	// size in bytes, and how much of it is taken by what is not in the tree.
	size, taken int64
	// limited: somebody has said how much is free, so that a folder needs a place as well.
	limited bool

	// estimate is never less than what is used: removals do not lower it until the files are counted again.
	estimate atomic.Int64
}

// mountTable makes the file systems of a node, the root last.
func mountTable(mounts []Mount) ([]*fileSystem, error) {
	root := &fileSystem{mount: "/", device: "/dev/vda1", kind: "ext4", number: 2049, first: []string{"rw", "relatime", "errors=remount-ro"}, size: rootSize, taken: rootTaken}
	var out []*fileSystem
	for i, m := range mounts {
		if !path.IsAbs(m.Path) || path.Clean(m.Path) != m.Path || m.Path == "/" || tmpfs(m.Path) || m.Size < 0 {
			return nil, fmt.Errorf("mount %q of %d bytes: the path is absolute and no system folder, the size not negative", m.Path, m.Size)
		}
		if m.Size == 0 {
			m.Size = mountSize
		}
		if strings.ContainsAny(m.Type+m.Options, " \t\n") {
			return nil, fmt.Errorf("mount %q: type %q and options %q are single words", m.Path, m.Type, m.Options)
		}
		if m.Options == "" {
			m.Options = "rw,relatime"
		}
		out = append(out, &fileSystem{mount: m.Path, device: fmt.Sprintf("/dev/vd%c1", 'b'+i%25), kind: m.kind(), number: 65041 + 16*uint64(i), first: strings.Split(m.Options, ","), size: m.Size, limited: true})
	}
	out = append(out, root)
	for _, s := range out {
		s.setOptions(s.first)
	}
	return out, nil
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

// inodes calls f with every file and folder of a file system, once for all names of a file.
func (t *tree) inodes(s *fileSystem, f func(fs.FileInfo)) {
	seen := map[uint64]bool{}
	root := t.host(s.mount)
	filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // removed meanwhile
		}
		virt := t.virt(name)
		if e.IsDir() && name != root && t.system(virt) != s {
			return fs.SkipDir
		}
		fi, err := e.Info()
		if err != nil {
			return nil
		}
		if inode, links, _ := inodeOf(fi, virt); !e.IsDir() && links > 1 {
			if seen[inode] {
				return nil
			}
			seen[inode] = true
		}
		f(fi)
		return nil
	})
}

// used counts the bytes of the files of a file system.
func (t *tree) used(s *fileSystem) (total int64) {
	t.inodes(s, func(fi fs.FileInfo) {
		if fi.Mode().IsRegular() {
			total += fi.Size()
		}
	})
	return total
}

// sizeOf counts the bytes of the files in a folder, or of a file.
func (t *tree) sizeOf(virt string) (total int64) {
	seen := map[uint64]bool{}
	filepath.WalkDir(t.host(virt), func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil
		}
		fi, err := e.Info()
		if err != nil {
			return nil
		}
		if inode, links, _ := inodeOf(fi, t.virt(name)); links <= 1 || !seen[inode] {
			seen[inode] = true
			total += fi.Size()
		}
		return nil
	})
	return total
}

// inodeCount is how many files a file system can have, and has. A root file system has many that are not in the tree.
func (t *tree) inodeCount(s *fileSystem) (total, used int64) {
	if s == nil {
		return 204800, 600
	}
	if s.mount == "/" {
		return 1280000, 280000
	}
	used = 10
	t.inodes(s, func(fs.FileInfo) { used++ })
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.size>>14, used), used
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
	out := ""
	root := len(t.systems) - 1
	for _, s := range slices.Concat(t.systems[root:], t.systems[:root]) {
		out += s.device + " " + escapeMount(s.mount) + " " + s.kind + " " + s.optionText() + " 0 0\n"
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

// escapeMount is a path as a line of /proc/mounts or /etc/fstab has it.
func escapeMount(name string) string {
	return strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`).Replace(name)
}

// unescapeMount undoes escapeMount.
func unescapeMount(text string) string {
	return strings.NewReplacer(`\134`, `\`, `\040`, " ", `\011`, "\t", `\012`, "\n").Replace(text)
}

// optionText are the options as of now.
func (s *fileSystem) optionText() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.options, ",")
}

func (s *fileSystem) setOptions(options []string) {
	s.mu.Lock()
	s.options = options
	s.mu.Unlock()
	s.readOnly.Store(slices.Contains(options, "ro"))
}

// quotas says whether they are on.
func (s *fileSystem) quotas() (user, group bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.userQuota, s.groupQuota
}

func (s *fileSystem) setQuotas(user, group bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.userQuota, s.groupQuota = user, group
}

// errMountOption is how the kernel refuses an option, EINVAL.
var errMountOption = errors.New("bad option")

// isExt says whether a type of file system has the options of ext4.
func isExt(kind string) bool { return kind == "ext4" || kind == "ext3" || kind == "ext2" }

// optionRank orders options as /proc/mounts does.
func optionRank(option string) int {
	name, _, _ := strings.Cut(option, "=")
	ranks := []string{"rw", "sync", "dirsync", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime", "", "quota", "usrquota", "grpquota", "jqfmt", "usrjquota", "grpjquota"}
	if name == "ro" {
		return 0
	}
	if i := slices.Index(ranks, name); i >= 0 {
		return i
	}
	return slices.Index(ranks, "")
}

// changeOptions is what a mount has after `mount -o remount,CHANGE`. Of ext4, journaled quotas come before the older ones, as in the kernel.
func changeOptions(kind string, old []string, change string) ([]string, error) {
	out := slices.Clone(old)
	named := func(o, name string) bool { return o == name || strings.HasPrefix(o, name+"=") }
	has := func(name string) bool { return slices.ContainsFunc(out, func(o string) bool { return named(o, name) }) }
	drop := func(names ...string) {
		out = slices.DeleteFunc(out, func(o string) bool {
			return slices.ContainsFunc(names, func(name string) bool { return named(o, name) })
		})
	}
	set := func(option string) {
		name, _, _ := strings.Cut(option, "=")
		drop(name)
		out = append(out, option)
	}
	for option := range strings.SplitSeq(change, ",") {
		name, value, _ := strings.Cut(option, "=")
		switch name {
		case "", "remount", "defaults", "auto", "noauto", "nofail", "user", "nouser", "users", "owner", "group", "_netdev", "comment", "async":
			if name == "async" {
				drop("sync")
			}
		case "rw", "ro":
			drop("rw", "ro")
			out = append(out, name)
		case "suid", "dev", "exec", "diratime", "discard":
			drop("no" + name)
			if name == "discard" {
				set(option)
			}
		case "relatime", "noatime", "strictatime", "atime":
			drop("relatime", "noatime")
			switch name {
			case "noatime":
				set(option)
			case "relatime", "atime":
				set("relatime")
			}
		case "nosuid", "nodev", "noexec", "nodiratime", "sync", "dirsync":
			set(option)
		case "nodiscard":
			drop("discard")
		case "usrjquota", "grpjquota":
			if !isExt(kind) || !strings.Contains(option, "=") || strings.Contains(value, "/") {
				return nil, errMountOption
			}
			if drop(name); value != "" {
				set(option)
			}
		case "jqfmt":
			if !isExt(kind) || value != "vfsold" && value != "vfsv0" && value != "vfsv1" {
				return nil, errMountOption
			}
			set(option)
		case "quota", "usrquota", "grpquota":
			switch {
			case kind == "xfs": // is told at the first mount, and ignored by others
			case !isExt(kind):
				return nil, errMountOption
			case has("usrjquota") || has("grpjquota"):
			case name == "grpquota":
				set("quota")
				set("grpquota")
			default:
				set("quota")
				set("usrquota")
			}
		case "noquota":
			drop("quota", "usrquota", "grpquota")
		case "errors", "commit", "data", "barrier", "nobarrier", "acl", "noacl", "user_xattr", "nouser_xattr", "stripe", "delalloc", "nodelalloc", "journal_checksum", "resuid", "resgid":
			set(option)
		default:
			switch {
			case strings.HasPrefix(name, "x-"):
			case isExt(kind) || kind == "xfs":
				return nil, errMountOption
			default: // of a network's file system
				set(option)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b string) int { return optionRank(a) - optionRank(b) })
	return out, nil
}

// quotaFile is the name of a mount's file for quotas of users or groups; "" when it has no such quotas.
func quotaFile(options []string, journaled, plain, standard string) string {
	for _, o := range options {
		if file, ok := strings.CutPrefix(o, journaled+"="); ok {
			return file
		}
	}
	if slices.Contains(options, plain) {
		return standard
	}
	return ""
}

// quotaFiles are the names of the files for quotas of users and of groups.
func (s *fileSystem) quotaFiles() (user, group string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return quotaFile(s.options, "usrjquota", "usrquota", "aquota.user"), quotaFile(s.options, "grpjquota", "grpquota", "aquota.group")
}

// fstabLine is the mount's line of /etc/fstab, which gives it the options that it has.
func (m Mount) fstabLine(s *fileSystem) string {
	options := "defaults"
	for _, o := range s.first {
		if o != "rw" && o != "relatime" && (o != "quota" || !isExt(s.kind)) {
			options += "," + o
		}
	}
	return s.device + " " + escapeMount(m.Path) + " " + s.kind + " " + options + " 0 2\n"
}

// fstabOptions finds the options of a mount in the text of an /etc/fstab.
func fstabOptions(text, mount string) (options string, ok bool) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 4 || strings.HasPrefix(f[0], "#") || unescapeMount(f[1]) != mount {
			continue
		}
		options, ok = f[3], true
	}
	return options, ok
}

// fstab reads /etc/fstab, whatever it is like.
func (t *tree) fstab() string {
	virt, err := t.resolve("/", "/etc/fstab", true)
	if err != nil {
		return ""
	}
	text, _ := os.ReadFile(t.host(virt)) // a missing one has no lines
	return string(text)
}

// mountAll mounts the file systems as a boot does: with the options that /etc/fstab has, quotas off. It returns what it could not do.
func (t *tree) mountAll() (failed []error) {
	text := t.fstab()
	for _, s := range t.systems {
		s.setQuotas(false, false)
		options := s.first
		if change, ok := fstabOptions(text, s.mount); ok {
			base := []string{"rw", "relatime"}
			if !isExt(s.kind) {
				base = s.first
			}
			changed, err := changeOptions(s.kind, base, change)
			if err != nil {
				failed = append(failed, fmt.Errorf("%s: %w in /etc/fstab: %s", s.mount, err, change))
				changed = base
			}
			options = changed
		}
		s.setOptions(options)
	}
	return failed
}
