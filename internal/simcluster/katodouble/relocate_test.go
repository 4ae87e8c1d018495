package katodouble

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// rooted has the real files of a folder as if it were /.
type rooted struct {
	OSFolders
	OSFiles
	dir string
	// options of the mount of /mnt/ebs.
	options string
	// full: nothing but folders can be copied; copied is called after each copy.
	full   bool
	copied func()
}

func (f *rooted) at(name string) string { return filepath.Join(f.dir, name) }

func (f *rooted) Open(name string) (io.ReadCloser, int64, error) {
	if name == "/proc/mounts" {
		text := "/dev/vda1 / ext4 rw,relatime 0 0\n/dev/vdb1 /mnt/ebs ext4 " + f.options + " 0 0\n"
		return io.NopCloser(strings.NewReader(text)), int64(len(text)), nil
	}
	return f.OSFiles.Open(f.at(name))
}

func (f *rooted) Resolve(ctx context.Context, name string) (string, error) {
	real, err := f.OSFolders.Resolve(ctx, f.at(name))
	return strings.TrimPrefix(real, f.dir), err
}

func (f *rooted) Exists(ctx context.Context, name string) (bool, error) {
	return f.OSFolders.Exists(ctx, f.at(name))
}

func (f *rooted) IsLink(ctx context.Context, name string) (bool, error) {
	return f.OSFolders.IsLink(ctx, f.at(name))
}

func (f *rooted) List(ctx context.Context, folder string) ([]Relocated, error) {
	return f.OSFolders.List(ctx, f.at(folder))
}

func (f *rooted) Copy(ctx context.Context, from, to string, entries []Relocated) error {
	if f.full && !entries[0].Folder {
		return syscall.ENOSPC
	}
	err := f.OSFolders.Copy(ctx, f.at(from), f.at(to), entries)
	if f.copied != nil {
		f.copied()
	}
	return err
}

func (f *rooted) GiveToRoot(ctx context.Context, name string) error {
	return f.OSFolders.GiveToRoot(ctx, f.at(name))
}

func (f *rooted) Empty(ctx context.Context, name string) error {
	return f.OSFolders.Empty(ctx, f.at(name))
}

func (f *rooted) Switch(ctx context.Context, name, target, aside string) error {
	if aside != "" {
		aside = f.at(aside)
	}
	return f.OSFolders.Switch(ctx, f.at(name), f.at(target), aside)
}

// relocation is a stopped node with data of all kinds and a mount at /mnt/ebs.
type relocation struct {
	t     *testing.T
	c     *Cluster
	files *rooted
	sudo  func(context.Context) error
}

func newRelocation(t *testing.T) *relocation {
	if os.Geteuid() != 0 && exec.Command("sudo", "-n", "true").Run() != nil {
		t.Skip("root is needed for the owners of files")
	}
	r := &relocation{t: t, c: New("3.4.2"), files: &rooted{dir: t.TempDir(), options: "rw,relatime,jqfmt=vfsv0,usrjquota=aquota.user,grpjquota=aquota.group"}}
	r.c.AddNode("10.0.0.1", "core", []string{"primary", "mysql", "dea"}, 4)
	r.sh(`mkdir -p mnt/ebs/services mnt/ebs/droplets etc/default var/stackato/services/mysql/empty home/stackato/stackato/data var/lib/docker
echo 'DOCKER_OPTS="-g /var/lib/docker"' >etc/default/docker
cd var/stackato/services
echo one >mysql/one; echo two >'mysql/two words'; echo three >mysql/three; echo four >mysql/four; echo five >five; ln five mysql/same
ln -s mysql/one link; ln -s /nowhere away; truncate -s 8M mysql/hole
chmod 640 mysql/one; chmod 2750 mysql; chmod 700 mysql/empty; touch -d '2015-03-01' five mysql
chown 501:502 mysql mysql/one five; chown 503:503 'mysql/two words'; chown -h 504:504 link; chown 1000:1000 .`)
	require.Zero(t, r.kato("stop"))
	return r
}

// sh runs a script in the node's root folder.
func (r *relocation) sh(script string) string {
	argv := []string{"sh", "-ec", "cd \"$1\"\n" + script, "sh", r.files.dir}
	if os.Geteuid() != 0 {
		argv = append([]string{"sudo", "-n"}, argv...)
	}
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	require.NoError(r.t, err, "%s", out)
	return string(out)
}

// manifest is what cp -a keeps, of a folder and all in it; same are the names of hard links.
func (r *relocation) manifest(folder string) string {
	return r.sh(`cd ` + folder + `; find . -printf '%p %y %m %U %G %T@ %l %n\n' | sort; find . -type f | sort | while read -r f; do cksum "$f"; done; [ five -ef mysql/same ] && echo same; du -k mysql/hole`)
}

func (r *relocation) set(p RelocatePatch) {
	require.NoError(r.t, r.c.PatchNode("10.0.0.1", StatePatch{Relocate: &p}))
}

func (r *relocation) run(ctx context.Context, args ...string) (stdout, stderr string, exit int) {
	var out, err bytes.Buffer
	exit = r.c.Run(ctx, Invocation{Args: args, Node: "10.0.0.1", UID: 1000, Home: "/home/stackato", Path: "/home/stackato/bin:/usr/bin", Stdin: strings.NewReader(""), Stdout: &out, Stderr: &err,
		Dir: "/", Files: r.files, Folders: r.files, Sudo: r.sudo})
	return out.String(), err.String(), exit
}

func (r *relocation) kato(args ...string) int {
	_, _, exit := r.run(r.t.Context(), args...)
	return exit
}

func TestRelocate_StoppedNode_ContentIsCopiedAndLinked(t *testing.T) {
	r := newRelocation(t)
	before := r.manifest("var/stackato/services")
	out, stderr, exit := r.run(t.Context(), "relocate", "-v", "services", "/mnt/ebs/services/")
	require.Zero(t, exit, stderr)
	require.Contains(t, out, "Relocated services to /mnt/ebs/services\n")
	require.Empty(t, stderr)
	require.Equal(t, before, r.manifest("mnt/ebs/services"))
	require.Equal(t, before, r.manifest("var/stackato/services.old"))
	require.Equal(t, r.files.at("/mnt/ebs/services")+"\n", r.sh("readlink var/stackato/services"))

	_, stderr, exit = r.run(t.Context(), "relocate", "services", "/mnt/ebs/services")
	require.Equal(t, 1, exit)
	require.Equal(t, "ERROR: services is already there\n", stderr)

	r.files.options = "rw,relatime"
	_, stderr, exit = r.run(t.Context(), "relocate", "services", "/mnt/ebs/droplets")
	require.Zero(t, exit)
	require.Contains(t, stderr, "WARNING: ")
	require.Equal(t, before, r.manifest("mnt/ebs/droplets"))
	require.Equal(t, before, r.manifest("mnt/ebs/services"))
}

func TestRelocate_RemoveOriginal_NothingIsLeftAside(t *testing.T) {
	r := newRelocation(t)
	r.set(RelocatePatch{RemoveOriginal: new(true)})
	require.Zero(t, r.kato("relocate", "services", "/mnt/ebs/services"))
	require.Equal(t, "services\n", r.sh("ls var/stackato"))
}

func TestRelocate_Refused_NothingIsChanged(t *testing.T) {
	r := newRelocation(t)
	before := r.sh("find . | sort")
	for _, test := range []struct{ args, stderr string }{
		{"services mnt/ebs", "ERROR: mnt/ebs does not exist\n"},
		{"services /mnt/none", "ERROR: /mnt/none does not exist\n"},
		{"services /etc/default/docker", "ERROR: /etc/default/docker does not exist\n"},
		{"services /var/stackato/services/mysql", "ERROR: Could not relocate services: /var/stackato/services and /var/stackato/services/mysql lie in one another\n"},
		{"everything /mnt/ebs", usageText}, {"services", usageText}, {"services /mnt/ebs more", usageText}, {"services -x /mnt/ebs", usageText},
	} {
		_, stderr, exit := r.run(t.Context(), append([]string{"relocate"}, strings.Fields(test.args)...)...)
		require.Equal(t, 1, exit, test.args)
		require.Equal(t, test.stderr, stderr)
	}
	require.Zero(t, r.kato("start", "mysql"))
	_, stderr, exit := r.run(t.Context(), "relocate", "services", "/mnt/ebs/services")
	require.Equal(t, 1, exit)
	require.Equal(t, "ERROR: Could not relocate services: /var/stackato/services: Device or resource busy\n", stderr)
	require.Zero(t, r.kato("stop"))
	r.sudo = func(context.Context) error { return io.EOF }
	_, stderr, exit = r.run(t.Context(), "relocate", "services", "/mnt/ebs/services")
	require.Equal(t, 1, exit)
	require.Contains(t, stderr, "sudo: no password was provided")
	require.Equal(t, before, r.sh("find . | sort"))
}

func TestRelocate_DiskFull_HalfACopyStays(t *testing.T) {
	r := newRelocation(t)
	before := r.manifest("var/stackato/services")
	r.files.full = true
	_, stderr, exit := r.run(t.Context(), "relocate", "services", "/mnt/ebs/services")
	require.Equal(t, 1, exit)
	require.Equal(t, "ERROR: Could not copy /var/stackato/services to /mnt/ebs/services: No space left on device\n", stderr)
	require.Equal(t, before, r.manifest("var/stackato/services"))
	require.Equal(t, "mysql\n", r.sh("ls mnt/ebs/services"))
}

func TestRelocate_Killed_OnlyTheNewPlaceHasChanged(t *testing.T) {
	r := newRelocation(t)
	before := r.manifest("var/stackato/services")
	r.set(RelocatePatch{Seconds: new(3600.0)})
	ctx, kill := context.WithCancel(t.Context())
	copies := 0
	r.files.copied = func() {
		if copies++; copies == 2 {
			kill()
		}
	}
	_, _, exit := r.run(ctx, "relocate", "services", "/mnt/ebs/services")
	require.Equal(t, 128+15, exit)
	require.Equal(t, before, r.manifest("var/stackato/services"))
	require.Equal(t, "services\n", r.sh("ls var/stackato"))
}

func TestRelocate_Faults_LeaveWhatTheySay(t *testing.T) {
	count := func(r *relocation, folder string) int {
		return len(strings.Fields(r.sh("find " + folder + " -type f -printf 'x '")))
	}
	for _, test := range []struct {
		fault RelocateFault
		exit  int
		check func(t *testing.T, r *relocation)
	}{
		{RelocateFails, 1, func(t *testing.T, r *relocation) { require.Zero(t, count(r, "mnt/ebs")) }},
		{RelocateSilent, 0, func(t *testing.T, r *relocation) { require.Zero(t, count(r, "mnt/ebs")) }},
		{RelocateHalf, 1, func(t *testing.T, r *relocation) {
			require.Positive(t, count(r, "mnt/ebs"))
			require.Less(t, count(r, "mnt/ebs"), count(r, "var/stackato/services"))
		}},
		{RelocateLosesFile, 0, func(t *testing.T, r *relocation) {
			require.Equal(t, count(r, "var/stackato/services.old")-1, count(r, "mnt/ebs"))
		}},
		{RelocateLosesOwner, 0, func(t *testing.T, r *relocation) {
			require.Equal(t, "./five\n./mysql/one\n./mysql/same\n./mysql/two words\n", r.sh("cd var/stackato/services.old; find . -type f ! -uid 0 | sort"))
			require.Equal(t, "./mysql/one\n./mysql/two words\n", r.sh("cd mnt/ebs/services; find . -type f ! -uid 0 | sort"))
		}},
	} {
		t.Run(string(test.fault), func(t *testing.T) {
			r := newRelocation(t)
			r.set(RelocatePatch{Fault: &test.fault, Times: new(1)})
			require.Equal(t, test.exit, r.kato("relocate", "services", "/mnt/ebs/services"))
			test.check(t, r)
			s, _ := r.c.NodeState("10.0.0.1")
			require.Empty(t, s.Relocate.Fault)
		})
	}
	r := newRelocation(t)
	r.set(RelocatePatch{Fault: new(RelocateLosesOptions), Times: new(-1)})
	require.Zero(t, r.kato("relocate", "services", "/mnt/ebs/services"))
	require.NotEmpty(t, r.sh("cat etc/default/docker"))
	require.Zero(t, r.kato("relocate", "containers", "/mnt/ebs/droplets"))
	require.Empty(t, r.sh("cat etc/default/docker"))
}
