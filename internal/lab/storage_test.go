package lab

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

const (
	ebs        = "/mnt/ebs"
	remount    = "mount -o remount,usrjquota=aquota.user,grpjquota=aquota.group,jqfmt=vfsv0 " + ebs
	quotasOf   = "rw,noatime,jqfmt=vfsv0,usrjquota=aquota.user,grpjquota=aquota.group"
	deprecated = "Your kernel probably supports ext4 quota feature but you are using external quota files. Please switch your filesystem to use ext4 quota feature as external quota files on ext4 are deprecated.\n"
)

// storageHosts are an ALS cluster of one host with two disks and data, and by choice a DEA.
func storageHosts(t *testing.T, name string, more ...NodeConfig) *Cluster {
	t.Helper()
	l := open(t, name)
	l.cfg.Kato = filepath.Join("..", "..", "bin", "kato")
	l.cfg.Sudoers = []byte(LoginUser + " ALL=(root) NOPASSWD: /usr/sbin/quotaon, /usr/sbin/quotaoff, /usr/sbin/quotacheck, /usr/bin/mount\n")
	c, err := l.Start(t.Context(), ClusterConfig{Docker: len(more) > 0, Nodes: append([]NodeConfig{{Name: "core", Roles: []string{"base", "primary", "controller", "mysql", "filesystem"},
		Disks: []Disk{{Path: ebs, Options: "noatime"}, {Path: "/mnt/small disk", Size: 16 << 20, Options: "nosuid,noatime", NotInFstab: true}}}}, more...)})
	require.NoError(t, err)
	return c
}

// root runs a script as root on the host and returns what it prints.
func root(t *testing.T, h *Host, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := h.Exec(ctx, script)
	require.NoError(t, err, script)
	return out
}

// reboot boots the host anew and waits for it.
func reboot(t *testing.T, h *Host) {
	t.Helper()
	boots := h.Boots()
	require.NoError(t, h.RebootNow())
	eventually(t, "the boot", func() bool { return h.Boots() > boots })
	require.NoError(t, h.WaitUp(t.Context(), time.Minute))
}

// manifest is what a copy keeps of a folder.
func manifest(t *testing.T, h *Host, folder string) string {
	t.Helper()
	return root(t, h, `cd `+folder+` && find . -mindepth 1 -printf '%y %m %U %G %n %l %P\n' | LC_ALL=C sort && find . -type f -exec sha256sum {} + | LC_ALL=C sort -k 2`)
}

func TestStorage_DisksOfAHost_OutliveItsReboots(t *testing.T) {
	c := storageHosts(t, "sa")
	h := c.Host("core")
	options, err := h.MountOptions(ebs)
	require.NoError(t, err)
	require.Equal(t, "rw,noatime", options)
	options, err = h.MountOptions("/mnt/small disk")
	require.NoError(t, err)
	require.Equal(t, "rw,nosuid,noatime", options)
	_, err = h.MountOptions("/mnt/none")
	require.ErrorContains(t, err, "No such file or directory")
	options, err = h.MountOptions(ebs + "/lost+found")
	require.NoError(t, err)
	require.Equal(t, "rw,noatime", options)
	require.Equal(t, "running\n", root(t, h, "systemctl is-system-running"))
	require.Equal(t, "ext2/ext3\n/dev/vdb1\nlost+found\n", root(t, h, "stat -f -c %T "+ebs+"; df -P -k "+ebs+" | tail -n 1 | cut -d ' ' -f 1; ls "+ebs))
	require.Equal(t, "# <device> <mount point> <type> <options> <dump> <pass>\n/dev/vdb1 /mnt/ebs ext4 noatime 0 2\n", root(t, h, "cat /etc/fstab"))

	// What is written stays; what was changed by hand is as /etc/fstab has it.
	root(t, h, `echo kept >`+ebs+`/file && chown 500:501 `+ebs+`/file && ln -s /mnt/ebs/file /root/link && `+remount)
	b, err := h.ReadFile("/root/link")
	require.NoError(t, err)
	require.Equal(t, "kept\n", string(b))
	require.NoError(t, h.MakeInitScript("setup_stackato_lxc"))
	reboot(t, h)
	root(t, h, "[ -d /run/lxc ]")
	options, err = h.MountOptions(ebs)
	require.NoError(t, err)
	require.Equal(t, "rw,noatime", options)
	options, err = h.MountOptions("/mnt/small disk")
	require.NoError(t, err)
	require.Equal(t, "rw,nosuid,noatime", options)
	require.Equal(t, "kept\n500 501\n", root(t, h, "cat /root/link; stat -c '%u %g' "+ebs+"/file"))
	root(t, h, `sed -i 's/noatime/&,usrjquota=aquota.user,grpjquota=aquota.group,jqfmt=vfsv0/' /etc/fstab`)
	h.PowerOff()
	_, err = h.ReadFile(ebs + "/file")
	require.ErrorContains(t, err, "is off")
	h.PowerOn()
	require.NoError(t, h.WaitUp(t.Context(), time.Minute))
	options, err = h.MountOptions(ebs)
	require.NoError(t, err)
	require.Equal(t, quotasOf, options)

	// Space is short for root, too.
	require.NoError(t, h.Inject("free-space", ebs, "1000000"))
	_, err = h.Exec(t.Context(), "dd if=/dev/zero of="+ebs+"/large bs=64k count=100 2>&1")
	require.ErrorContains(t, err, "No space left on device")
	require.NoError(t, h.Inject("free-space", ebs, "-1"))
	dir := h.dir
	require.Len(t, loops(dir), 4, "two disks, / and /srv")
	require.NoError(t, c.Close())
	require.Empty(t, loops(dir))
}

func TestStorage_Quotas_FailAsTheKernelSaysOrAreStoodInFor(t *testing.T) {
	c := storageHosts(t, "sb", NodeConfig{Name: "bare", Roles: []string{"base", "dea"}})
	h, bare := c.Host("core"), c.Host("bare")
	// both runs a command of root's and tells its exit code with what it prints.
	both := func(command string) string {
		return root(t, h, command+" >/run/out 2>/run/err; echo $?; cat /run/out /run/err")
	}
	on := func() [2]bool {
		user, group, err := h.QuotaOn(ebs)
		require.NoError(t, err)
		return [2]bool{user, group}
	}
	require.ErrorContains(t, bare.QuotaSupport(true), "has no disks")
	for _, host := range []*Host{bare, h} {
		require.NoError(t, host.Inject("quota-tools", "off"))
		require.Equal(t, "none\n", root(t, host, "command -v quotaon || command -v quotaoff || command -v quotacheck || echo none"))
		require.NoError(t, host.Inject("quota-tools", "on"))
		require.Equal(t, "/usr/sbin/quotaoff\n", root(t, host, "command -v quotaoff"))
	}
	require.Contains(t, root(t, bare, "quotaoff -p / 2>&1"), "quotaoff: Mountpoint (or device) / not found")
	require.ErrorContains(t, h.MakeInitScript("rc.local"), "no init script")
	require.NoError(t, h.Inject("make-init-script", "setup_helion_lxc"))

	for _, supported := range []bool{false, true} {
		require.NoError(t, h.QuotaSupport(supported))
		none := ": Mountpoint (or device) " + ebs + " not found or has no quota enabled.\n"
		require.Equal(t, "0\nquotaon"+none, both("quotaon -p "+ebs))
		require.Equal(t, "0\nquotaon"+none, both("quotaon -v "+ebs))
		require.Equal(t, "1\nquotacheck"+none+"quotacheck: Cannot find filesystem to check or filesystem not mounted with quota option.\n", both("quotacheck -vgumb "+ebs))
		require.Equal(t, [2]bool{}, on())
		require.Equal(t, "0\n", both(remount))
		options, err := h.MountOptions(ebs)
		require.NoError(t, err)
		require.Equal(t, quotasOf, options)
		require.Equal(t, "2\nquotaon: "+deprecated+"quotaon: cannot find /mnt/ebs/aquota.group on /dev/vdb1 [/mnt/ebs]\nquotaon: cannot find /mnt/ebs/aquota.user on /dev/vdb1 [/mnt/ebs]\n", both("quotaon -v "+ebs))
		require.Contains(t, both("quotacheck -vgumb "+ebs), "0\ndone\n")
		require.Equal(t, "600 0 0\n600 0 0\n", root(t, h, "stat -c '%a %u %g' /mnt/ebs/aquota.user /mnt/ebs/aquota.group"))
		const state = "group quota on /mnt/ebs (/dev/vdb1) is off\nuser quota on /mnt/ebs (/dev/vdb1) is off\nproject quota on /mnt/ebs (/dev/vdb1) is off\n"
		require.Equal(t, "0\n"+state, both("quotaon -p "+ebs))
		if !supported {
			require.Equal(t, "2\nquotaon: "+deprecated+`quotaon: using /mnt/ebs/aquota.group on /dev/vdb1 [/mnt/ebs]: No such process
quotaon: Quota format not supported in kernel.
quotaon: using /mnt/ebs/aquota.user on /dev/vdb1 [/mnt/ebs]: No such process
quotaon: Quota format not supported in kernel.
`, both("quotaon -v "+ebs))
			require.Equal(t, [2]bool{}, on())
			root(t, h, "rm "+ebs+"/aquota.*; mount -o remount,usrjquota=,grpjquota= "+ebs)
			continue
		}
		require.Equal(t, "0\n/dev/vdb1 [/mnt/ebs]: group quotas turned on\n/dev/vdb1 [/mnt/ebs]: user quotas turned on\nquotaon: "+deprecated, both("quotaon -v "+ebs))
		require.Equal(t, [2]bool{true, true}, on())
		require.Equal(t, "2\n"+strings.Replace(state, "is off", "is on", 2), both("quotaon -p "+ebs))
		require.Equal(t, "2\nquotaon: "+deprecated+`quotaon: using /mnt/ebs/aquota.group on /dev/vdb1 [/mnt/ebs]: Device or resource busy
quotaon: using /mnt/ebs/aquota.user on /dev/vdb1 [/mnt/ebs]: Device or resource busy
`, both("quotaon -v "+ebs))
		require.Equal(t, "6\nquotacheck: "+deprecated+"quotacheck: Quota for users is enabled on mountpoint /mnt/ebs so quotacheck might damage the file.\nPlease turn quotas off or use -f to force checking.\n", both("quotacheck -vgumb "+ebs))
		require.Equal(t, "0\n/dev/vdb1 [/mnt/ebs]: user quotas turned off\nquotaoff: "+deprecated, both("quotaoff -vu "+ebs))
		require.Equal(t, [2]bool{false, true}, on())
		require.Equal(t, "0\n/dev/vdb1 [/mnt/ebs]: group quotas turned off\n/dev/vdb1 [/mnt/ebs]: user quotas turned off\nquotaoff: "+deprecated, both("quotaoff -v "+ebs))
		require.Equal(t, [2]bool{}, on())
		require.Contains(t, both("quotaon -v "+ebs), "0\n")
	}
	// A reboot forgets what is on, unless the node's init script switches it on.
	reboot(t, h)
	require.Equal(t, [2]bool{}, on())
	root(t, h, `sed -i '/start|restart/a [[ ! -f `+ebs+`/aquota.user ]] || { `+remount+` && quotaon -v `+ebs+`; }' /etc/init.d/setup_helion_lxc`)
	reboot(t, h)
	require.Equal(t, [2]bool{true, true}, on())
	ran, err := h.Commands()
	require.NoError(t, err)
	require.Empty(t, ran, "none of it was a job's")

	// In a job it is told once, by sudo itself and in a script of sudo's.
	job := "/home/stackato/.local/state/katoflow/jobs/relocate-1"
	root(t, h, `mkdir -p `+job+`
printf '%s\n' 'exec sudo -n sh -c "true; quotaoff -v `+ebs+`; mount -o remount,usrjquota=,grpjquota= `+ebs+`; quotaon -p `+ebs+`"' >`+job+`/script
echo 'stackato ALL=(root) NOPASSWD: /usr/bin/sh' >/etc/sudoers.d/shell`)
	_, err = asUser(t, h, "sh "+job+"/script")
	require.NoError(t, err)
	_, err = asUser(t, h, "sudo -n quotaon -p "+ebs+"; sudo -n quotacheck -vgumb "+ebs)
	require.Error(t, err, "it is no job's")
	root(t, h, "echo 'exec sudo -n quotaon -v "+ebs+"' >"+job+"/script")
	require.NoError(t, h.FailCommand("quotaon", 1, 7, "quotaon: on fire"))
	_, err = asUser(t, h, "sh "+job+"/script")
	require.ErrorContains(t, err, "exit status 7: quotaon: on fire")
	require.NoError(t, h.HealCommands())
	ran, err = h.Commands()
	require.NoError(t, err)
	type told struct {
		command, job string
		exit         int
	}
	var got []told
	for _, e := range ran {
		if e.Argv[0] == "sh" {
			continue
		}
		require.False(t, e.End.Before(e.Start), e.Command())
		got = append(got, told{e.Command(), e.Job, e.ExitCode})
	}
	require.Equal(t, []told{{"quotaoff -v /mnt/ebs", "relocate-1", 0}, {"mount -o remount,usrjquota=,grpjquota= /mnt/ebs", "relocate-1", 0}, {"quotaon -v /mnt/ebs", "relocate-1", 7}}, got)
}

func TestStorage_KatoRelocate_MovesTheFilesOfOthers(t *testing.T) {
	c := storageHosts(t, "sc", NodeConfig{Name: "dea", Roles: []string{"base", "dea"}, Disks: []Disk{{Path: ebs}}})
	h, dea := c.Host("core"), c.Host("dea")
	kato := func(h *Host, args string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		return h.Exec(ctx, `exec su - `+LoginUser+` -s /bin/bash -c "kato $1"`, args)
	}
	const services, droplets = "/var/stackato/services", "/home/stackato/stackato/data"
	root(t, h, "mkdir "+ebs+"/services "+ebs+"/droplets; chown 1000:1000 "+ebs+"/services "+ebs+"/droplets")
	before := manifest(t, h, services)
	for _, line := range []string{"d 2775 500 501 2  mysql/backup\n", "d 1777 500 500 2  mysql/tmp\n", "f 640 500 501 1  mysql/slow queries.log\n", "f 660 500 500 2  mysql/backup/ibdata1\n", "l 777 500 500 1 ibdata1 mysql/current\n"} {
		require.Contains(t, before, line)
	}
	_, err := kato(h, "relocate services "+ebs+"/services")
	require.ErrorContains(t, err, "Device or resource busy")
	_, err = kato(h, "stop")
	require.NoError(t, err)
	_, err = kato(h, "relocate services "+ebs+"/nothing")
	require.ErrorContains(t, err, "ERROR: /mnt/ebs/nothing does not exist")
	require.NoError(t, h.SudoPassword(true))
	_, err = kato(h, "relocate services "+ebs+"/services </dev/null")
	require.ErrorContains(t, err, "[sudo] password for stackato")
	require.NoError(t, h.SudoPassword(false))
	require.Equal(t, before, manifest(t, h, services))

	// A full disk, and one that is killed.
	require.NoError(t, h.Inject("free-space", ebs, "40000"))
	_, err = kato(h, "relocate services "+ebs+"/services")
	require.ErrorContains(t, err, "No space left on device")
	require.NoError(t, h.Inject("free-space", ebs, "-1"))
	require.Equal(t, before, manifest(t, h, services))
	root(t, h, "rm -rf --one-file-system "+ebs+"/services/*")
	require.NoError(t, h.Inject("relocate-with", `{"fault":"hangs","times":1}`))
	done := make(chan error, 1)
	go func() {
		_, err := kato(h, "relocate services "+ebs+"/services")
		done <- err
	}()
	eventually(t, "half a copy", func() bool {
		out, err := h.Exec(t.Context(), "find "+ebs+"/services -type f")
		return err == nil && out != ""
	})
	root(t, h, "pkill -TERM -f '^kato relocate'")
	require.Error(t, <-done)
	require.Equal(t, before, manifest(t, h, services))
	root(t, h, "rm -rf --one-file-system "+ebs+"/services/*")

	out, err := kato(h, "relocate services "+ebs+"/services")
	require.NoError(t, err)
	require.Contains(t, out, "WARNING: "+ebs+"/services is on a file system that is not mounted with quotas")
	require.Equal(t, before, manifest(t, h, ebs+"/services"))
	require.Equal(t, before, manifest(t, h, services+".old"))
	require.Equal(t, ebs+"/services\n", root(t, h, "readlink "+services))
	b, err := h.ReadFile(services + "/mysql/current")
	require.NoError(t, err)
	require.Len(t, b, 48<<10)
	_, err = kato(h, "relocate services "+ebs+"/services")
	require.ErrorContains(t, err, "is already there")
	root(t, h, remount)
	require.NoError(t, h.RelocateWith(katodouble.RelocatePatch{Fault: new(katodouble.RelocateLosesOwner), Times: new(1), RemoveOriginal: new(true)}))
	out, err = kato(h, "relocate droplets "+ebs+"/droplets")
	require.NoError(t, err)
	require.NotContains(t, out, "WARNING")
	require.NoError(t, h.HealRelocate())
	require.Equal(t, "data\n2\n", root(t, h, "ls "+filepath.Dir(droplets)+"; find "+droplets+"/ -type f -uid 0 | wc -l"), "one file of two names")

	// Containers, with docker's service, whose daemon cannot be reached while it is stopped.
	require.Equal(t, "active\ninactive\n0\n3\n", root(t, dea, `systemctl is-active docker; service docker stop; systemctl is-active docker; service docker start; service docker status >/dev/null; echo $?
service docker stop; service docker status >/dev/null; echo $?`))
	_, err = dea.Exec(t.Context(), "docker version 2>&1")
	require.ErrorContains(t, err, "Cannot connect to the Docker daemon")
	_, err = kato(dea, "stop")
	require.NoError(t, err)
	before = manifest(t, dea, "/var/lib/docker")
	require.NoError(t, dea.Inject("relocate-with", `{"fault":"loses-options","times":1}`))
	root(t, dea, "mkdir "+ebs+"/containers")
	_, err = kato(dea, "relocate containers "+ebs+"/containers")
	require.NoError(t, err)
	require.Equal(t, before, manifest(t, dea, "/var/lib/docker/"))
	b, err = dea.ReadFile("/etc/default/docker")
	require.NoError(t, err)
	require.Empty(t, b)
	root(t, dea, "systemctl start docker; docker version")

	ran, err := h.Commands()
	require.NoError(t, err)
	var lines []string
	for _, e := range ran {
		if e.ExitCode == 0 {
			lines = append(lines, e.Command())
		}
	}
	require.Equal(t, []string{"kato stop", "kato relocate services /mnt/ebs/services", "kato relocate droplets /mnt/ebs/droplets"}, lines, "what kato runs itself is not told")
	reboot(t, h)
	require.Equal(t, ebs+"/services\n500\n", root(t, h, "readlink "+services+"; stat -c %u "+services+"/mysql"))
}

func TestStorage_WrongDisks_AreRefused(t *testing.T) {
	for _, n := range []NodeConfig{{Disks: []Disk{{Path: "mnt"}}}, {Disks: []Disk{{Path: "/"}}}, {Disks: []Disk{{Path: "/mnt/"}}}, {Disks: []Disk{{Path: "/mnt", Size: -1}}}, {Disks: []Disk{{Path: "/mnt", Options: "ro, x"}}},
		{Disks: make([]Disk, 25)}} {
		require.Error(t, n.checkDisks())
	}
}

func TestStorageCommands_OfALogBeingWritten_AreTold(t *testing.T) {
	h := host(t, map[string]string{
		storageLog: "begin\t7.1\t100.500000000\tjob-1\tquotaon\t-v\t/mnt/e b\t\nend\t7.1\t101.000000000\t2\nbegin\t8.1\t102.000000000\t\tmount\t-o\tremount\t/mnt\t\nbegin\t9"})
	ran, err := h.Commands()
	require.NoError(t, err)
	require.Equal(t, []Execution{{Node: "a", Argv: []string{"quotaon", "-v", "/mnt/e b"}, Job: "job-1", Start: time.Unix(100, 5e8), End: time.Unix(101, 0), ExitCode: 2},
		{Node: "a", Argv: []string{"mount", "-o", "remount", "/mnt"}, Start: time.Unix(102, 0)}}, ran)
}

func TestReadFile_OfAHost_FollowsLinksInsideOfIt(t *testing.T) {
	h := host(t, map[string]string{"etc/one": "1", "var/x": ""})
	require.NoError(t, os.Symlink("/etc", h.path("var/etc")))
	require.NoError(t, os.Symlink("../../../../etc/one", h.path("var/up")))
	require.NoError(t, os.Symlink("loop", h.path("var/loop")))
	for _, name := range []string{"/var/etc/one", "var/up", "/etc/../etc/one"} {
		b, err := h.ReadFile(name)
		require.NoError(t, err, name)
		require.Equal(t, "1", string(b))
	}
	_, err := h.ReadFile("/var/loop")
	require.ErrorContains(t, err, "too many links")
	_, err = h.ReadFile("/var/none")
	require.ErrorIs(t, err, os.ErrNotExist)
}
