package simcluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// mountProgram is mount(8) as scripts use it on a running node: `mount` lists, `mount -o remount,OPTIONS PATH` changes options. As by the real one, the options of /etc/fstab come before those
// of the command line.
func mountProgram(c *invocation) int {
	opts, names := c.getopt("o:t:avnrw", map[string]string{"options": "o", "types": "t", "all": "a", "verbose": "v", "read-only": "r", "read-write": "w"})
	if opts == nil {
		return 1
	}
	if len(names) == 0 && len(opts) == 0 {
		for line := range strings.Lines(c.tree().mountLines()) {
			f := strings.Fields(line)
			c.printf("%s on %s type %s (%s)\n", f[0], unescapeMount(f[1]), f[2], f[3])
		}
		return 0
	}
	if len(names) == 0 {
		return 0 // all is mounted
	}
	target := names[len(names)-1]
	refuse := func(format string, args ...any) int {
		c.fail(32, "%s: "+format, append([]any{target}, args...)...)
		c.errorf("       dmesg(1) may have more information after failed mount system call.")
		return 32
	}
	if c.user() != superuser {
		return refuse("must be superuser to use mount.")
	}
	s := c.mounted(target)
	if s == nil {
		if _, err := c.stat(target); err != nil {
			return refuse("mount point does not exist.")
		}
		return refuse("mount point not mounted or bad option.")
	}
	change := opts["o"]
	if !slices.Contains(strings.Split(change, ","), "remount") {
		return refuse("%s already mounted on %s.", s.device, s.mount)
	}
	if !path.IsAbs(target) || target == s.device || len(names) > 1 {
		target = s.mount
	} else if before, ok := fstabOptions(c.tree().fstab(), s.mount); ok {
		change = before + "," + change
	}
	s.mu.Lock()
	old := s.options
	s.mu.Unlock()
	options, err := changeOptions(s.kind, old, change)
	if user, group := s.quotas(); err == nil && (user || group) {
		for _, name := range []string{"usrjquota", "grpjquota"} {
			if quotaFile(old, name, "", "") != quotaFile(options, name, "", "") { // the kernel does not change them while quotas are on
				err = errMountOption
			}
		}
	}
	if err != nil {
		return refuse("mount point not mounted or bad option.")
	}
	s.setOptions(options)
	return 0
}

// mounted is the file system that is mounted on a path, or whose device it is.
func (c *invocation) mounted(name string) *fileSystem {
	virt, err := c.tree().resolve(c.dir, name, true)
	for _, s := range c.tree().systems {
		if err == nil && s.mount == virt || s.device == name {
			return s
		}
	}
	return nil
}

// mountpoint is mountpoint(1): `mountpoint [-q] PATH`.
func mountpoint(c *invocation) int {
	opts, names := c.getopt("qdx", map[string]string{"quiet": "q"})
	if opts == nil || len(names) != 1 {
		return 1
	}
	say := c.printf
	if _, quiet := opts["q"]; quiet {
		say = func(string, ...any) {}
	}
	st, err := c.stat(names[0])
	switch {
	case err != nil:
		if _, quiet := opts["q"]; !quiet {
			c.fail(1, "%s: %s", names[0], errorText(err))
		}
		return 1
	case st.IsDir() && (c.tree().mountPoint(st.virt) || st.virt == "/run" || st.virt == "/proc" || st.virt == "/sys" || st.virt == "/dev"):
		say("%s is a mountpoint\n", names[0])
		return 0
	}
	say("%s is not a mountpoint\n", names[0])
	return 32
}

// quotaUsage is what quotaon and quotaoff print of wrong arguments, after the first line.
func quotaUsage(c *invocation) int {
	on := map[bool]string{true: "off", false: "on"}[c.name() == "quotaoff"]
	c.errorf("%[1]s: Usage:\n\t%[1]s [-guPvp] [-F quotaformat] [-x state] -a\n\t%[1]s [-guPvp] [-F quotaformat] [-x state] filesys ...\n\n"+
		"-a, --all                turn quotas %[2]s for all filesystems\n-f, --off                turn quotas off\n-u, --user               operate on user quotas\n"+
		"-g, --group              operate on group quotas\n-P, --project            operate on project quotas\n-p, --print-state        print whether quotas are on or off\n"+
		"-x, --xfs-command=cmd    perform XFS quota command\n-F, --format=formatname  operate on specific quota format\n-v, --verbose            print more messages\n"+
		"-h, --help               display this help text and exit\n-V, --version            display version information and exit", c.name(), on)
	return 1
}

// deprecated is what the quota tools say of ext4 with files for quotas when they are verbose.
func (c *invocation) deprecated() {
	c.errorf("%s: Your kernel probably supports ext4 quota feature but you are using external quota files. Please switch your filesystem to use ext4 quota feature as external quota files on ext4 are deprecated.", c.name())
}

// quotaMounts are the file systems that quota tools are told to work on. What is there and has no quotas is complained of and left out; exit is not 0 when there is nothing.
func (c *invocation) quotaMounts(all bool, names []string) (out []*fileSystem, exit int) {
	withQuotas := func(s *fileSystem) bool {
		user, group := s.quotaFiles()
		return user != "" || group != ""
	}
	if all {
		for _, s := range c.tree().systems {
			if withQuotas(s) {
				out = append(out, s)
			}
		}
		return out, 0
	}
	known := false
	for _, name := range names {
		s := c.mounted(name)
		if _, err := c.stat(name); err != nil && s == nil {
			c.fail(1, "Cannot stat() given mountpoint %s: %s\nSkipping...", name, errorText(err))
			continue
		}
		known = true
		if s == nil || !withQuotas(s) {
			c.fail(0, "Mountpoint (or device) %s not found or has no quota enabled.", name)
			continue
		}
		out = append(out, s)
	}
	if !known {
		return nil, c.fail(1, "No correct mountpoint specified.")
	}
	return out, 0
}

// quotaon is quotaon and quotaoff of quota 4.06 on ext4. Its exit code is how many quotas could not be switched, with -p how many are on.
func quotaon(c *invocation) int {
	opts, names := c.getopt("gupvafPF:", map[string]string{"group": "g", "user": "u", "print-state": "p", "verbose": "v", "all": "a", "off": "f", "project": "P", "format": "F"})
	if opts == nil {
		return quotaUsage(c)
	}
	has := func(o string) bool { _, ok := opts[o]; return ok }
	if len(names) == 0 && !has("a") {
		c.errorf("Bad number of arguments.")
		return quotaUsage(c)
	}
	every := !has("u") && !has("g") && !has("P")
	off := has("f") || c.name() == "quotaoff"
	list, exit := c.quotaMounts(has("a"), names)
	if exit != 0 {
		return exit
	}
	if len(list) > 0 && has("v") && !has("p") && slices.ContainsFunc(list, func(s *fileSystem) bool { return isExt(s.kind) }) {
		c.deprecated()
	}
	support := c.node.quotaSupported()
	count := 0
	for _, s := range list {
		user, group := s.quotas()
		userFile, groupFile := s.quotaFiles()
		for _, q := range []struct {
			option, name, file string
			on                 bool
		}{{"g", "group", groupFile, group}, {"u", "user", userFile, user}, {"P", "project", "", false}} {
			if !every && !has(q.option) {
				continue
			}
			file := path.Join(s.mount, q.file)
			switch {
			case has("p"):
				c.printf("%s quota on %s (%s) is %s\n", q.name, s.mount, s.device, map[bool]string{true: "on", false: "off"}[q.on])
				if q.on {
					count++
				}
				continue
			case q.file == "":
				continue
			case c.user() != superuser && off:
				c.fail(0, "quotactl on %s [%s]: Operation not permitted", s.device, s.mount)
				count++
				continue
			case off:
				if has("v") {
					c.printf("%s [%s]: %s quotas turned off\n", s.device, s.mount, q.name)
				}
			default:
				why := ""
				if st, err := c.tree().stat(superuser, "/", file, true); err != nil || !st.Mode().IsRegular() {
					c.fail(0, "cannot find %s on %s [%s]", file, s.device, s.mount)
					count++
					continue
				}
				switch {
				case c.user() != superuser:
					why = "Operation not permitted"
				case !support:
					why = "No such process"
				case q.on:
					why = "Device or resource busy"
				}
				if why != "" {
					c.fail(0, "using %s on %s [%s]: %s", file, s.device, s.mount, why)
					if !support && c.user() == superuser {
						c.fail(0, "Quota format not supported in kernel.")
					}
					count++
					continue
				}
				if has("v") {
					c.printf("%s [%s]: %s quotas turned on\n", s.device, s.mount, q.name)
				}
			}
			if q.option == "u" {
				user = !off
			} else {
				group = !off
			}
		}
		if !has("p") {
			s.setQuotas(user, group)
		}
	}
	return count
}

// quotacheck is quotacheck of quota 4.06 on ext4: it makes the files for quotas, of users unless it is told others.
func quotacheck(c *invocation) int {
	opts, names := c.getopt("gucbfinvdmMRaF:", map[string]string{"group": "g", "user": "u", "create-files": "c", "backup": "b", "force": "f", "interactive": "i", "use-first-dquot": "n", "verbose": "v", "debug": "d",
		"no-remount": "m", "try-remount": "M", "exclude-root": "R", "all": "a", "format": "F"})
	has := func(o string) bool { _, ok := opts[o]; return ok }
	if opts == nil || len(names) == 0 && !has("a") {
		if opts != nil {
			c.errorf("Bad number of arguments.")
		}
		c.errorf("Utility for checking and repairing quota files.\nquotacheck [-gucbfinvdmMR] [-F <quota-format>] filesystem|-a\n\n" +
			"-u, --user                check user files\n-g, --group               check group files\n-c, --create-files        create new quota files\n" +
			"-b, --backup              create backups of old quota files\n-f, --force               force check even if quotas are enabled\n-i, --interactive         interactive mode\n" +
			"-n, --use-first-dquot     use the first copy of duplicated structure\n-v, --verbose             print more information\n-d, --debug               print even more messages\n" +
			"-m, --no-remount          do not remount filesystem read-only\n-M, --try-remount         try remounting filesystem read-only,\n                          continue even if it fails\n" +
			"-R, --exclude-root        exclude root when checking all filesystems\n-F, --format=formatname   check quota files of specific format\n-a, --all                 check all filesystems\n" +
			"-h, --help                display this message and exit\n-V, --version             display version information and exit\n\nBugs to jack@suse.cz")
		return 1
	}
	list, exit := c.quotaMounts(has("a"), names)
	if exit != 0 {
		c.fail(2, "Cannot initialize mountpoint scan.")
		return 2
	}
	if len(list) == 0 {
		return c.fail(1, "Cannot find filesystem to check or filesystem not mounted with quota option.")
	}
	if has("v") && slices.ContainsFunc(list, func(s *fileSystem) bool { return isExt(s.kind) }) {
		c.deprecated()
	}
	verbose := func(format string, args ...any) {
		if has("v") {
			c.fail(0, format, args...)
		}
	}
	for _, s := range list {
		user, group := s.quotas()
		userFile, groupFile := s.quotaFiles()
		if !has("u") && has("g") {
			user, userFile = false, ""
		}
		if !has("g") {
			group, groupFile = false, ""
		}
		for _, q := range []struct {
			name string
			on   bool
		}{{"user", user}, {"group", group}} {
			if q.on && !has("f") {
				return c.fail(6, "Quota for %ss is enabled on mountpoint %s so quotacheck might damage the file.\nPlease turn quotas off or use -f to force checking.", q.name, s.mount)
			}
		}
		if has("v") {
			fdWriter{c.p.ctx, c.fds[2]}.Write([]byte("quotacheck: Scanning " + s.device + " [" + s.mount + "] "))
		}
		if c.user() != superuser {
			return c.fail(1, "error (13) while opening %s", s.device)
		}
		if exit := c.checkQuotas(s, userFile, groupFile, has("b"), verbose); exit != 0 {
			return exit
		}
		if has("v") {
			c.printf("done\n")
		}
	}
	return 0
}

// checkQuotas makes a mount's files for quotas.
func (c *invocation) checkQuotas(s *fileSystem, userFile, groupFile string, backup bool, verbose func(string, ...any)) int {
	t := c.tree()
	missing := []string{}
	for range 2 {
		for _, q := range [][2]string{{"user", userFile}, {"group", groupFile}} {
			if q[1] == "" {
				continue
			}
			file := path.Join(s.mount, q[1])
			if _, err := t.stat(superuser, "/", file, true); err != nil {
				verbose("Cannot stat old %s quota file %s: %s. Usage will not be subtracted.", q[0], file, errorText(err))
				missing = append(missing, file)
			}
		}
	}
	folders, files := 1, 0 // the real one counts a folder more than there are
	t.inodes(s, func(fi fs.FileInfo) {
		if fi.IsDir() {
			folders++
		} else {
			files++
		}
	})
	verbose("Checked %d directories and %d files", folders, files)
	for i, name := range []string{userFile, groupFile} {
		if name == "" {
			continue
		}
		file := path.Join(s.mount, name)
		if slices.Contains(missing, file) {
			verbose("Old file not found.")
		} else if backup {
			t.unlink(superuser, "/", file+"~")
			if err := t.rename(superuser, "/", file, file+"~"); err != nil {
				return c.fail(1, "Cannot rename quotafile %s: %s", file, errorText(err))
			}
		}
		content := make([]byte, 6144) // as the real ones begin, and as long as those of a few owners
		binary.LittleEndian.PutUint32(content, []uint32{0xd9c01f11, 0xd9c01927}[i])
		d, err := t.open(superuser, "/", file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err == nil {
			_, err = fdWriter{c.p.ctx, d}.Write(content)
			d.release()
		}
		if err == nil {
			err = t.chmod(superuser, "/", file, func(fs.FileMode) fs.FileMode { return 0o600 })
		}
		if err != nil {
			return c.fail(4, "Cannot create new quotafile %s.new: %s", file, errorText(err))
		}
	}
	return 0
}

// quotaSupported says whether the node's kernel can switch quotas on.
func (n *Node) quotaSupported() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.faults.noQuotas
}

func (n *Node) noQuotaTools() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.faults.noQuotaTools
}

// QuotaSupport lets the node's kernel have quotas, as it does at the start, or not: then those that are on end, and none can be switched on.
func (n *Node) QuotaSupport(on bool) error {
	n.fault("quota support %v", on)
	n.set(func(f *faults) { f.noQuotas = !on })
	if !on {
		for _, s := range n.tree.systems {
			s.setQuotas(false, false)
		}
	}
	return nil
}

// QuotaTools lets the node have quotacheck, quotaon and quotaoff, as it does at the start, or not.
func (n *Node) QuotaTools(on bool) error {
	n.fault("quota tools %v", on)
	n.set(func(f *faults) { f.noQuotaTools = !on })
	return nil
}

// mountOn is the file system that a path lies on; an error for one in memory, or where nothing is.
func (n *Node) mountOn(name string) (*fileSystem, error) {
	if err := n.ready(); err != nil {
		return nil, err
	}
	st, err := n.tree.stat(superuser, "/", name, true)
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	s := n.tree.system(st.virt)
	if s == nil {
		return nil, errors.New(name + " is in memory")
	}
	return s, nil
}

// MountOptions are the options of the mount that a path lies on, as /proc/mounts has them now.
func (n *Node) MountOptions(path string) (string, error) {
	s, err := n.mountOn(path)
	if err != nil {
		return "", err
	}
	return s.optionText(), nil
}

// QuotaOn says whether quotas of users and of groups are on, on the mount that a path lies on.
func (n *Node) QuotaOn(path string) (user, group bool, err error) {
	s, err := n.mountOn(path)
	if err != nil {
		return false, false, err
	}
	user, group = s.quotas()
	return user, group, nil
}

// MakeInitScript puts an ordinary init script, one of katodouble.InitScripts, into /etc/init.d, which is run at each boot.
func (n *Node) MakeInitScript(name string) error {
	if !slices.Contains(katodouble.InitScripts(), name) {
		return fmt.Errorf("%q is no init script that a boot runs: choose from %v", name, katodouble.InitScripts())
	}
	if err := n.ready(); err != nil {
		return err
	}
	file := "/etc/init.d/" + name
	if err := n.tree.put(file, katodouble.InitScript(name), 0o755); err != nil {
		return err
	}
	n.tree.own(file, superuser)
	return nil
}

// initTime is how long a boot waits for init scripts.
const initTime = 3 * time.Second

// mountAtBoot mounts what the node has, and begins with its init scripts. The channel is closed when they have ended.
func (n *Node) mountAtBoot(b *bootState) <-chan struct{} {
	if !n.exists() {
		done := make(chan struct{})
		close(done)
		return done
	}
	for _, err := range n.tree.mountAll() {
		n.cluster.event(n.name, "boot", "mount: %v", err)
	}
	return n.startInit(b)
}

// startInit runs the init scripts of a boot, in their order. The channel is closed when they have ended.
func (n *Node) startInit(b *bootState) <-chan struct{} {
	done := make(chan struct{})
	var found []string
	for _, script := range katodouble.InitScripts() {
		name := "/etc/init.d/" + script
		if fi, err := os.Lstat(n.tree.host(name)); err == nil && fi.Mode()&0o111 != 0 && !fi.IsDir() {
			found = append(found, name)
		}
	}
	if len(found) == 0 || n.ready() != nil {
		close(done)
		return done
	}
	n.cluster.wg.Add(1)
	go func() {
		defer n.cluster.wg.Done()
		defer close(done)
		for _, name := range found {
			argv := []string{name, "start"}
			p, err := b.newProcess(n, nil, superuser, argv)
			if err != nil {
				return // it is down again
			}
			search := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
			c := &invocation{node: n, p: p, argv: argv, env: map[string]string{"PATH": search, "HOME": "/", "LANG": "C"}, dir: "/", umask: 0o022, lookup: search,
				fds: fdTable{discardDescription(), discardDescription(), discardDescription()}}
			exit := c.execute()
			c.fds.closeAll()
			p.finish(exit)
			n.cluster.event(n.name, "boot", "%s start exited with %d", name, exit)
		}
	}()
	return done
}
