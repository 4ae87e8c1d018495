package simcluster

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// tree is a node's file system: a folder of the host presented as "/". Symbolic links are resolved here, never by the host, so that nothing
// leads out of the folder. Owners are kept beside it, because the host process is one user only.
type tree struct {
	root string
	full atomic.Bool // no block left on the root file system
	// readOnly is a folder on which nothing can be written; nil or "" for none.
	readOnly atomic.Pointer[string]

	systems []*fileSystem // the root last

	mu sync.Mutex
	// owners are users by path, "501", or users and groups, "501:502", where the group is not the user's own. What has none has that of its folder.
	owners map[string]string

	virtual map[string]func() []byte // files of /proc and the like, made when read
	skew    func() time.Duration     // of the node's clock
	proc    func(pid int, file string) (content []byte, ok bool)
	pids    func() []int
}

const superuser = "root"

// errorText is what a C program prints for err.
func errorText(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return ""
	case errors.As(err, &errno):
		s := errno.Error()
		return strings.ToUpper(s[:1]) + s[1:]
	case errors.Is(err, fs.ErrNotExist):
		return "No such file or directory"
	case errors.Is(err, fs.ErrExist):
		return "File exists"
	case errors.Is(err, fs.ErrPermission):
		return "Permission denied"
	}
	return err.Error()
}

func (t *tree) host(virt string) string { return filepath.Join(t.root, filepath.FromSlash(virt)) }

// resolve makes the canonical path of name within the tree. The last component is followed when follow is set; it need not exist.
func (t *tree) resolve(dir, name string, follow bool) (string, error) {
	if name == "" {
		return "", syscall.ENOENT
	}
	if !path.IsAbs(name) {
		name = dir + "/" + name
	}
	rest := strings.Split(name, "/")
	cur, links := "", 0
	for len(rest) > 0 {
		c := rest[0]
		rest = rest[1:]
		switch c {
		case "", ".":
			continue
		case "..":
			cur = cur[:max(0, strings.LastIndexByte(cur, '/'))]
			continue
		}
		next := cur + "/" + c
		last := true
		for _, r := range rest {
			if r != "" {
				last = false
			}
		}
		fi, err := os.Lstat(t.host(next))
		if err != nil {
			if !last && errors.Is(err, fs.ErrNotExist) {
				return "", syscall.ENOENT
			}
			if errors.Is(err, syscall.ENOTDIR) {
				return "", syscall.ENOTDIR
			}
			cur = next
			continue
		}
		if fi.Mode()&fs.ModeSymlink != 0 && (follow || !last) {
			if links++; links > 40 {
				return "", syscall.ELOOP
			}
			target, err := os.Readlink(t.host(next))
			if err != nil {
				return "", err
			}
			if path.IsAbs(target) {
				cur = ""
			}
			rest = append(strings.Split(target, "/"), rest...)
			continue
		}
		if !last && !fi.IsDir() {
			return "", syscall.ENOTDIR
		}
		cur = next
	}
	if cur == "" {
		return "/", nil
	}
	return cur, nil
}

// procFile splits /proc/PID[/FILE].
func procFile(dir, name string) (pid int, file string, ok bool) {
	if !path.IsAbs(name) {
		name = dir + "/" + name
	}
	rest, ok := strings.CutPrefix(path.Clean(name), "/proc/")
	if !ok {
		return 0, "", false
	}
	number, file, _ := strings.Cut(rest, "/")
	pid, err := strconv.Atoi(number)
	return pid, file, err == nil && pid > 1
}

// ownerOf is the user whose a path is.
func (t *tree) ownerOf(virt string) string {
	user, _, _ := strings.Cut(t.ownersOf(virt), ":")
	return user
}

// groupOf is the group whose a path is.
func (t *tree) groupOf(virt string) string {
	user, group, has := strings.Cut(t.ownersOf(virt), ":")
	if !has {
		return user
	}
	return group
}

// ownersOf are user and group as owners has them.
func (t *tree) ownersOf(virt string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		if o, ok := t.owners[virt]; ok {
			return o
		}
		if virt == "/" || virt == "." {
			return superuser
		}
		virt = path.Dir(virt)
	}
}

func (t *tree) setOwner(virt, user string) {
	t.mu.Lock()
	t.owners[virt] = user
	t.mu.Unlock()
}

// own records the owner of something new when it differs from what its place implies.
func (t *tree) own(virt, owners string) {
	if t.ownersOf(virt) != owners {
		t.setOwner(virt, owners)
	}
}

// ownNew records the owner of what a user has made. In a folder with the set-group-ID bit its group is the folder's.
func (t *tree) ownNew(virt, user string) {
	dir := path.Dir(virt)
	if fi, err := os.Lstat(t.host(dir)); err == nil && fi.Mode()&fs.ModeSetgid != 0 {
		user = joinOwners(user, t.groupOf(dir))
	}
	t.own(virt, user)
}

// joinOwners makes one word of user and group.
func joinOwners(user, group string) string {
	if user == group {
		return user
	}
	return user + ":" + group
}

func (t *tree) disown(virt string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.owners, virt)
	for k := range t.owners {
		if strings.HasPrefix(k, virt+"/") {
			delete(t.owners, k)
		}
	}
}

func (t *tree) moveOwners(from, to string) {
	owner := t.ownersOf(from)
	t.mu.Lock()
	moved := map[string]string{}
	for k, o := range t.owners {
		if rest, ok := strings.CutPrefix(k, from+"/"); ok {
			moved[to+"/"+rest] = o
			delete(t.owners, k)
		}
		if strings.HasPrefix(k, to+"/") || k == to {
			delete(t.owners, k)
		}
	}
	delete(t.owners, from)
	for k, o := range moved {
		t.owners[k] = o
	}
	t.mu.Unlock()
	t.own(to, owner)
}

// tmpfs says whether a path lies on memory: it is never full and is gone after a reboot.
func tmpfs(virt string) bool {
	for _, p := range []string{"/run", "/dev", "/proc", "/sys"} {
		if virt == p || strings.HasPrefix(virt, p+"/") {
			return true
		}
	}
	return false
}

const (
	mayRead  = 4
	mayWrite = 2
	mayExec  = 1
)

// frozen says whether a path lies in the folder that is read-only.
func (t *tree) frozen(virt string) bool {
	if s := t.system(virt); s != nil && s.readOnly.Load() {
		return true
	}
	dir := t.readOnly.Load()
	return dir != nil && *dir != "" && (virt == *dir || strings.HasPrefix(virt, *dir+"/"))
}

// permitted checks user, owner and the mode's "other" bits. Groups are not modelled.
func (t *tree) permitted(user, virt string, fi fs.FileInfo, want fs.FileMode) bool {
	if want&mayWrite != 0 && t.frozen(virt) {
		return false
	}
	if user == superuser {
		return want&mayExec == 0 || fi.IsDir() || fi.Mode()&0o111 != 0
	}
	mode := fi.Mode().Perm()
	if t.ownerOf(virt) == user {
		return mode>>6&want == want
	}
	return mode&want == want
}

// searchable checks that user may pass through the folder of virt.
func (t *tree) searchable(user, virt string) error {
	if user == superuser {
		return nil
	}
	for d := path.Dir(virt); d != "/" && d != "."; d = path.Dir(d) {
		fi, err := os.Lstat(t.host(d))
		if err != nil {
			return bare(err)
		}
		if !t.permitted(user, d, fi, mayExec) {
			return syscall.EACCES
		}
	}
	return nil
}

// bare takes the host's path out of an error.
func bare(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return syscall.ENOENT
	case errors.Is(err, fs.ErrExist):
		return syscall.EEXIST
	case errors.Is(err, fs.ErrPermission):
		return syscall.EACCES
	}
	return err
}

func (t *tree) writableDir(user, virt string) error {
	dir := path.Dir(virt)
	fi, err := os.Lstat(t.host(dir))
	if err != nil {
		return bare(err)
	}
	if !fi.IsDir() {
		return syscall.ENOTDIR
	}
	if err := t.searchable(user, virt); err != nil {
		return err
	}
	if dir == "/proc" || strings.HasPrefix(dir, "/proc/") || dir == "/sys" {
		return syscall.EPERM
	}
	if t.frozen(dir) {
		return syscall.EROFS
	}
	if !t.permitted(user, dir, fi, mayWrite) {
		return syscall.EACCES
	}
	return nil
}

// sticky refuses to touch another user's entry in a folder like /tmp.
func (t *tree) sticky(user, virt string) error {
	if _, err := os.Lstat(t.host(virt)); err != nil {
		return nil
	}
	dir := path.Dir(virt)
	if fi, err := os.Lstat(t.host(dir)); err == nil && fi.Mode()&fs.ModeSticky != 0 && user != superuser && t.ownerOf(virt) != user && t.ownerOf(dir) != user {
		return syscall.EPERM
	}
	return nil
}

// info is a stat result with the node's clock.
type info struct {
	fs.FileInfo
	name  string
	virt  string
	mtime time.Time
}

func (i info) Name() string       { return i.name }
func (i info) ModTime() time.Time { return i.mtime }

func (t *tree) stat(user, dir, name string, follow bool) (info, error) {
	if pid, file, ok := procFile(dir, name); ok && t.proc != nil {
		if _, ok := t.proc(pid, file); !ok {
			return info{}, syscall.ENOENT
		}
		name = path.Join("/proc/1", map[bool]string{true: "stat"}[file != ""])
	}
	virt, err := t.resolve(dir, name, follow)
	if err != nil {
		return info{}, err
	}
	if err := t.searchable(user, virt); err != nil {
		return info{}, err
	}
	fi, err := os.Lstat(t.host(virt))
	if err != nil {
		return info{}, bare(err)
	}
	if strings.HasSuffix(name, "/") && !fi.IsDir() {
		return info{}, syscall.ENOTDIR
	}
	return info{FileInfo: fi, name: path.Base(virt), virt: virt, mtime: fi.ModTime().Add(t.skew())}, nil
}

// open opens a file as open(2) does for the user. perm has the umask taken off already.
func (t *tree) open(user, dir, name string, flags int, perm fs.FileMode) (*description, error) {
	if pid, file, ok := procFile(dir, name); ok && t.proc != nil {
		content, ok := t.proc(pid, file)
		if !ok {
			return nil, syscall.ENOENT
		}
		return stringDescription(string(content)), nil
	}
	virt, err := t.resolve(dir, name, true)
	if err != nil {
		return nil, err
	}
	writing := flags&(os.O_WRONLY|os.O_RDWR) != 0
	switch virt {
	case "/dev/null":
		return discardDescription(), nil
	case "/dev/zero", "/dev/urandom":
		d := discardDescription()
		d.read = func(_ context.Context, b []byte) (int, error) { clear(b); return len(b), nil }
		return d, nil
	case "/dev/full":
		d := discardDescription()
		d.write = func(context.Context, []byte) (int, error) { return 0, syscall.ENOSPC }
		return d, nil
	}
	if make, ok := t.virtual[virt]; ok {
		if writing {
			return nil, syscall.EACCES
		}
		return stringDescription(string(make())), nil
	}
	fi, err := os.Lstat(t.host(virt))
	fresh := false
	switch {
	case err == nil:
		if flags&os.O_EXCL != 0 && flags&os.O_CREATE != 0 {
			return nil, syscall.EEXIST
		}
		if fi.IsDir() && writing {
			return nil, syscall.EISDIR
		}
		if err := t.searchable(user, virt); err != nil {
			return nil, err
		}
		want := fs.FileMode(0)
		if flags&os.O_WRONLY == 0 {
			want |= mayRead
		}
		if writing {
			want |= mayWrite
		}
		if writing && t.frozen(virt) {
			return nil, syscall.EROFS
		}
		if !t.permitted(user, virt, fi, want) {
			return nil, syscall.EACCES
		}
	case errors.Is(err, fs.ErrNotExist) && flags&os.O_CREATE != 0:
		if strings.HasSuffix(name, "/") {
			return nil, syscall.EISDIR
		}
		if err := t.writableDir(user, virt); err != nil {
			return nil, err
		}
		fresh = true
	default:
		return nil, bare(err)
	}
	f, err := os.OpenFile(t.host(virt), flags, perm|0o600)
	if err != nil {
		return nil, bare(err)
	}
	if fresh {
		f.Chmod(perm)
		t.ownNew(virt, user)
	}
	d := newDescription()
	d.file, d.path = f, virt
	var mu sync.Mutex
	d.read = func(_ context.Context, b []byte) (int, error) {
		n, err := f.Read(b)
		if err != nil && err != io.EOF {
			err = bare(err)
		}
		return n, err
	}
	d.write = func(ctx context.Context, b []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		mu.Lock()
		defer mu.Unlock()
		// Blocks that are allocated can be written; what is longer needs room.
		more, err := growth(f, flags&os.O_APPEND != 0, len(b))
		if err != nil {
			return 0, bare(err)
		}
		allowed := max(0, int64(len(b))-(more-t.room(virt, more)))
		n, err := f.Write(b[:allowed])
		if err != nil {
			return n, bare(err)
		}
		if n < len(b) {
			return n, syscall.ENOSPC
		}
		return n, nil
	}
	return d, nil
}

func (t *tree) mkdir(user, dir, name string, perm fs.FileMode) error {
	virt, err := t.resolve(dir, strings.TrimRight(name, "/"), true)
	if strings.Trim(name, "/") == "" {
		return syscall.EEXIST
	}
	if err != nil {
		return err
	}
	if _, err := os.Lstat(t.host(virt)); err == nil {
		return syscall.EEXIST
	}
	if err := t.writableDir(user, virt); err != nil {
		return err
	}
	if t.noSpace(virt) {
		return syscall.ENOSPC
	}
	if err := os.Mkdir(t.host(virt), 0o700); err != nil {
		return bare(err)
	}
	if fi, err := os.Lstat(t.host(virt)); err == nil {
		perm |= fi.Mode() & fs.ModeSetgid // of the folder that it is in
	}
	t.chmodHost(virt, perm)
	t.ownNew(virt, user)
	return nil
}

// chmodHost sets a mode; the host process itself keeps access to what it made.
func (t *tree) chmodHost(virt string, perm fs.FileMode) error {
	return os.Chmod(t.host(virt), perm)
}

func (t *tree) chmod(user, dir, name string, change func(fs.FileMode) fs.FileMode) error {
	st, err := t.stat(user, dir, name, true)
	if err != nil {
		return err
	}
	if user != superuser && t.ownerOf(st.virt) != user {
		return syscall.EPERM
	}
	if t.frozen(st.virt) {
		return syscall.EROFS
	}
	return bare(t.chmodHost(st.virt, change(st.Mode())))
}

// chown gives a file, or a link itself unless follow is set, to a user or a group; "" stays as it is.
func (t *tree) chown(user, dir, name, owner, group string, follow bool) error {
	st, err := t.stat(user, dir, name, follow)
	if err != nil {
		return err
	}
	if owner == "" {
		owner = t.ownerOf(st.virt)
	}
	if group == "" {
		group = t.groupOf(st.virt)
	}
	if user != superuser && (owner != t.ownerOf(st.virt) || user != owner || group != t.groupOf(st.virt) && group != user) {
		return syscall.EPERM
	}
	if t.frozen(st.virt) {
		return syscall.EROFS
	}
	t.giveTo(st, joinOwners(owner, group))
	return nil
}

// giveTo changes the owners of a file by all its names, and of a folder without what is in it.
func (t *tree) giveTo(st info, owners string) {
	names := []string{st.virt}
	if inode, links, _ := inodeOf(st.FileInfo, st.virt); links > 1 && !st.IsDir() {
		filepath.WalkDir(t.root, func(name string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return nil // what cannot be read was removed meanwhile
			}
			if fi, err := e.Info(); err == nil {
				virt := t.virt(name)
				if other, _, _ := inodeOf(fi, virt); other == inode && virt != st.virt {
					names = append(names, virt)
				}
			}
			return nil
		})
	}
	if st.IsDir() && owners != t.ownersOf(st.virt) {
		entries, _ := os.ReadDir(t.host(st.virt))
		for _, e := range entries {
			below := path.Join(st.virt, e.Name())
			t.setOwner(below, t.ownersOf(below))
		}
	}
	for _, name := range names {
		t.setOwner(name, owners)
	}
}

// virt is the name in the tree of a file of the host.
func (t *tree) virt(host string) string {
	return path.Join("/", filepath.ToSlash(strings.TrimPrefix(host, t.root)))
}

// deviceOf is the number of the device that a path lies on.
func (t *tree) deviceOf(virt string) uint64 {
	if s := t.system(virt); s != nil {
		return s.number
	}
	return 25 // a tmpfs
}

// mountPoint says whether another file system is mounted there.
func (t *tree) mountPoint(virt string) bool {
	s := t.system(virt)
	return s != nil && s.mount == virt
}

func (t *tree) unlink(user, dir, name string) error {
	virt, err := t.resolve(dir, name, false)
	if err != nil {
		return err
	}
	fi, err := os.Lstat(t.host(virt))
	if err != nil {
		return bare(err)
	}
	if fi.IsDir() {
		return syscall.EISDIR
	}
	return t.removeEntry(user, virt)
}

func (t *tree) rmdir(user, dir, name string) error {
	virt, err := t.resolve(dir, strings.TrimRight(name, "/"), false)
	if err != nil {
		return err
	}
	fi, err := os.Lstat(t.host(virt))
	if err != nil {
		return bare(err)
	}
	if !fi.IsDir() {
		return syscall.ENOTDIR
	}
	return t.removeEntry(user, virt)
}

func (t *tree) removeEntry(user, virt string) error {
	if t.mountPoint(virt) {
		return syscall.EBUSY
	}
	if err := t.writableDir(user, virt); err != nil {
		return err
	}
	if err := t.sticky(user, virt); err != nil {
		return err
	}
	if err := os.Remove(t.host(virt)); err != nil {
		return bare(err)
	}
	t.disown(virt)
	return nil
}

func (t *tree) rename(user, dir, from, to string) error {
	src, err := t.resolve(dir, strings.TrimRight(from, "/"), false)
	if err != nil {
		return err
	}
	dst, err := t.resolve(dir, strings.TrimRight(to, "/"), false)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(t.host(src)); err != nil {
		return bare(err)
	}
	if src == dst {
		return nil
	}
	if strings.HasPrefix(dst, src+"/") {
		return syscall.EINVAL
	}
	if t.mountPoint(src) || t.mountPoint(dst) || t.frozen(src) && !t.frozen(path.Dir(src)) {
		return syscall.EBUSY
	}
	for _, v := range []string{src, dst} {
		if err := t.writableDir(user, v); err != nil {
			return err
		}
		if err := t.sticky(user, v); err != nil {
			return err
		}
	}
	if t.system(src) != t.system(dst) { // mv copies then, and needs the room
		size := t.sizeOf(src)
		if t.noSpace(dst) || t.room(dst, size) < size {
			return syscall.ENOSPC
		}
	}
	if old, err := os.Lstat(t.host(dst)); err == nil && old.IsDir() { // an empty folder can be replaced by a folder
		if fi, err := os.Lstat(t.host(src)); err == nil && !fi.IsDir() {
			return syscall.EISDIR
		}
		if err := os.Remove(t.host(dst)); err != nil {
			return bare(err)
		}
	}
	if err := os.Rename(t.host(src), t.host(dst)); err != nil {
		return bare(err)
	}
	t.moveOwners(src, dst)
	return nil
}

func (t *tree) symlink(user, dir, target, name string) error {
	virt, err := t.resolve(dir, name, false)
	if err != nil {
		return err
	}
	if err := t.writableDir(user, virt); err != nil {
		return err
	}
	if err := os.Symlink(target, t.host(virt)); err != nil {
		return bare(err)
	}
	t.ownNew(virt, user)
	return nil
}

func (t *tree) hardlink(user, dir, from, name string) error {
	src, err := t.resolve(dir, from, false)
	if err != nil {
		return err
	}
	dst, err := t.resolve(dir, name, false)
	if err != nil {
		return err
	}
	if err := t.writableDir(user, dst); err != nil {
		return err
	}
	if t.system(src) != t.system(dst) {
		return syscall.EXDEV
	}
	if fi, err := os.Lstat(t.host(src)); err == nil && fi.IsDir() {
		return syscall.EPERM
	}
	if err := os.Link(t.host(src), t.host(dst)); err != nil {
		return bare(err)
	}
	t.own(dst, t.ownersOf(src))
	return nil
}

func (t *tree) readdir(user, dir, name string) ([]info, error) {
	st, err := t.stat(user, dir, name, true)
	if err != nil {
		return nil, err
	}
	if _, file, ok := procFile(dir, name); ok && t.proc != nil {
		if file != "" {
			return nil, syscall.ENOTDIR
		}
		var out []info
		for _, file := range []string{"cmdline", "comm", "stat"} {
			out = append(out, info{FileInfo: st.FileInfo, name: file, virt: path.Join(path.Clean(name), file), mtime: st.mtime})
		}
		return out, nil
	}
	if !st.IsDir() {
		return nil, syscall.ENOTDIR
	}
	if !t.permitted(user, st.virt, st.FileInfo, mayRead) {
		return nil, syscall.EACCES
	}
	entries, err := os.ReadDir(t.host(st.virt))
	if err != nil {
		return nil, bare(err)
	}
	out := make([]info, 0, len(entries))
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			continue // removed meanwhile
		}
		out = append(out, info{FileInfo: fi, name: e.Name(), virt: path.Join(st.virt, e.Name()), mtime: fi.ModTime().Add(t.skew())})
	}
	if st.virt == "/proc" && t.pids != nil {
		if process, err := os.Lstat(t.host("/proc/1")); err == nil {
			for _, pid := range t.pids() {
				name := strconv.Itoa(pid)
				out = append(out, info{FileInfo: process, name: name, virt: "/proc/" + name, mtime: st.mtime})
			}
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].name < out[j].name })
	return out, nil
}

// put writes a whole file as the machine itself, without permission or space checks.
func (t *tree) put(virt, content string, perm fs.FileMode) error {
	resolved, err := t.resolve("/", virt, true)
	if err != nil {
		return err
	}
	host := t.host(resolved)
	if err := os.WriteFile(host, []byte(content), perm); err != nil {
		return err
	}
	return os.Chmod(host, perm)
}

// empty removes everything below a folder.
func (t *tree) empty(virt string) {
	entries, _ := os.ReadDir(t.host(virt))
	for _, e := range entries {
		os.RemoveAll(filepath.Join(t.host(virt), e.Name()))
		t.disown(path.Join(virt, e.Name()))
	}
}
