package simcluster

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

const ebs = "/mnt/ebs"

// storageNode is a cluster of one node with all data and a disk of its own at /mnt/ebs.
func storageNode(t *testing.T, mounts ...Mount) (*Node, *ssh.Client) {
	t.Helper()
	if mounts == nil {
		mounts = []Mount{{Path: ebs, Size: 64 << 20, Type: "ext4"}}
	}
	n := oneNode(t, Config{Platform: "als", Nodes: []NodeConfig{{Name: "one", Roles: []string{"primary", "controller", "mysql", "dea"}, Mounts: mounts}}})
	return n, dial(t, n)
}

// rootRuns runs a script as root.
func rootRuns(t *testing.T, c *ssh.Client, script string) result {
	t.Helper()
	return run(t, c, "sudo sh -s", script)
}

func rebooted(t *testing.T, n *Node) *ssh.Client {
	t.Helper()
	boot := n.BootID()
	n.RebootNow()
	eventually(t, "boot", func() bool { return n.Running() && n.BootID() != boot })
	var c *ssh.Client
	eventually(t, "login", func() (ok bool) {
		got, err := tryDial(t, n)
		c = got
		return err == nil
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// storageScripts are what scripts on nodes do with folders. Each is run in a folder of its own, on the node and on this machine.
var storageScripts = []struct{ name, script string }{
	{"manifest", `cd src
find . -xdev -type f -printf 'f %m %U %G %s %P\n' | LC_ALL=C sort
find . -xdev ! -type f ! -type s -printf '%y %m %U %G %l %P\n' | LC_ALL=C sort
find . -xdev -type f -printf 'f %m %U %G %s %P\n' | LC_ALL=C sort | sha256sum | cut -d' ' -f1
find . -type f | LC_ALL=C sort | while read -r f; do sha256sum "$f"; done
find . -xdev -type f -printf '%n %P\0' | tr '\0' '\n' | LC_ALL=C sort`},
	{"what is in a folder", `mkdir src/lost+found; : >src/aquota.user; : >src/aquota.group; find src -mindepth 1 -maxdepth 1 ! -name lost+found ! -name 'aquota.*' -printf '%P\n' | LC_ALL=C sort
find "$PWD/src" -maxdepth 1 -type d -printf '%f %P\n' | LC_ALL=C sort; find src/ -maxdepth 1 -type l -printf '%p %l\n' | LC_ALL=C sort`},
	{"hard links", `cp -al src twin; echo $?
for f in a/one link 'with space/two words'; do [ "$(stat -c '%d %i' "src/$f")" = "$(stat -c '%d %i' "twin/$f")" ] && echo same; stat -c '%h %a %u %g' "twin/$f"; done
[ src/a -ef twin/a ] || echo 'other folder'
find twin -printf '%y %m %U %G %l %P\n' | LC_ALL=C sort
chown 600:601 twin/a/one; chmod 600 twin/a/one; stat -c '%a %u %g %n' src/a/one src/a/same
cp -al src twin; echo $?; LC_ALL=C ls twin twin/src
cp -al none other; echo $?; ln src/a/one src/a/same; echo $?; ln none other; echo $?`},
	{"copies", `cp -a src copy; echo $?
find copy -printf '%y %m %U %G %l %n %P\n' | LC_ALL=C sort | grep -v '^d'
[ copy/a/one -ef copy/a/same ] && echo kept; [ src/a/one -ef copy/a/one ] || echo 'another file'
cp -p src/a/one three; stat -c '%a %u %g %h' three; cp -a src/. dots; find dots -printf '%P\n' | LC_ALL=C sort
cp -r src/link deep; readlink deep; cp src/link flat; stat -c '%F' flat; cp src other; echo $?; cp -a src src/in; echo $?`},
	{"moves", `cp -a src copy; mv -T copy moved; echo $?; mv -T moved src; echo $?; mv -T none there; echo $?; mkdir void; mv -T moved void; echo $?; LC_ALL=C ls
echo new >f; echo old >g; mv -f f g; cat g; stat -c '%a %u %g' void/a void/a/one; mv -T g void; echo $?`},
	{"links", `ln -s /x l; readlink l; ln -s /y l; echo $?; ln -sfn src l; readlink l; readlink -f l/link; readlink src; echo $?; readlink none; echo $?; readlink -f none/x; echo $?; readlink -f none | sed 's|.*/||'
mv -T l m; ln -s m l; readlink l; [ -L l ] && [ -d l ] && echo both; [ -e src/away ] || echo nowhere`},
	{"removal", `cp -al src twin; rm -rf --one-file-system twin; echo $?; LC_ALL=C ls; stat -c %h src/a/one; rm -rf --one-file-system none; echo $?; rm none; echo $?; rm src; echo $?; rmdir src; echo $?; rm -rf src; ls`},
	{"owners and modes", `stat -c '%a %u %g %A' src src/a src/a/one src/empty src/zero src/link src/keep; stat -c '%a %u %g' none; echo $?; stat -f -c %T none; echo $?
chown 7:8 src; stat -c '%u %g' src src/a src/a/b; mkdir src/a/new; : >src/a/file; stat -c '%a %u %g' src/a/new src/a/file
chmod 755 src/a; stat -c %a src/a; chmod g-s src/a; stat -c %a src/a; chmod u+s,g+s src/a/file; stat -c '%a %A' src/a/file
chown nobodyatall src; echo $?; chown 1:nosuchgroup src; echo $?; chown -R 9:9 src; find src -printf '%U %G %P\n' | LC_ALL=C sort; chgrp 10 src; stat -c '%u %g' src; chown :11 src; stat -c '%u %g' src`},
	{"sizes", `set -- $(du -sk src); [ "$1" -gt 0 ] && echo counted; du -sk src src | wc -l; cp -al src twin; du -sk src twin | wc -l; du -skx none; echo $?; df -P -k . | head -n 1 | tr -s ' '; df -P -k . | wc -l
df -P -k none; echo $?; df -P -i . | sed -n 1p | tr -s ' '; set -- $(df -P -i . | tail -n 1); [ $(( $3 + $4 )) -eq "$2" ] && echo sum; sync; echo $?`},
	{"text", `LC_ALL=C ls src | wc -l; printf 'b 2\na 1\nB 3\n' | LC_ALL=C sort | cut -d' ' -f2 | head -n 2 | tail -n 1; printf '%s\n' one two three | sed -n '2p'; printf '%s\n' one two | grep -c o; printf '%s\n' x | grep -q y; echo $?; echo $(( (7 + 3) * 1024 / 3 ))
while read -r dev mnt type opts rest; do [ "$mnt" = / ] && echo root; done </proc/mounts | head -n 1; grep -c 'nodev.proc$' /proc/filesystems; command -v nosuchcommand; echo $?`},
}

const storageSetup = `set -u; cd "$1"; umask 022
mkdir -p src/a/b src/empty 'src/with space'; echo one >src/a/one; echo two >'src/with space/two words'; : >src/zero; echo k >src/keep
ln src/a/one src/a/same; ln -s a/one src/link; ln -s /nowhere src/away
chown 501:502 src/a src/a/one; chown 503 'src/with space/two words'; chown -h 504:505 src/link; chown :506 src/zero
chmod 640 src/a/one; chmod 2750 src/a; chmod 1777 src/empty; chmod 4755 src/zero
`

func TestStorage_Scripts_DoOnTheNodeWhatTheyDoOnARealMachine(t *testing.T) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("root of a Linux machine is needed to compare with it")
	}
	_, c := storageNode(t)
	for i, s := range storageScripts {
		t.Run(s.name, func(t *testing.T) {
			script := storageSetup + s.script
			dir, file := t.TempDir(), filepath.Join(t.TempDir(), "script")
			require.NoError(t, os.WriteFile(file, []byte(script), 0o644))
			real := exec.Command("sh", file, dir)
			real.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
			var out, errs bytes.Buffer
			real.Stdout, real.Stderr = &out, &errs
			_ = real.Run() // the exit code is compared
			there := fmt.Sprintf("/var/tmp/twin-%d", i)
			r := run(t, c, "cat >"+there+".sh && mkdir "+there+" && LC_ALL=C sudo sh "+there+".sh "+there, script)
			clean := func(text string) string {
				return strings.NewReplacer(dir, "DIR", file, "SCRIPT", there+".sh", "SCRIPT", there, "DIR").Replace(text)
			}
			require.Equal(t, clean(out.String()), clean(r.out))
			require.Equal(t, clean(errs.String()), clean(r.err))
			require.Equal(t, real.ProcessState.ExitCode(), r.exit)
		})
	}
}

// quotaScript is what scripts do with the quotas of a mount, $1; $2 is a folder on it.
const quotaScript = `r() { "$@"; echo "[$?] $*"; }
m() { while read -r dev mnt type opts rest; do [ "$mnt" = "$1" ] && echo "$type $opts"; done </proc/mounts; }
stat -f -c %T "$1"; r quotacheck -vgumb "$1"; r quotaon -v "$1"; r quotaon -p "$1"; r quotaoff -v "$1"
r mount -o remount,usrjquota=aquota.user,grpjquota=aquota.group,jqfmt=vfsv0 "$1"; m "$1"; r quotaon -p "$1"; r quotaon -v "$1"
r quotacheck -vgumb "$1"; stat -c '%a %u %g %s %n' "$1"/aquota.*; r quotaon -v "$1"; r quotaon -p "$1"; r quotaoff -v "$1"
r quotacheck -vgumb "$1"; ls "$1"; rm "$1"/aquota.user; r quotaon -v "$1"; r quotaon -vu "$1"; r quotaon -p "$2"; r quotaon -v "$1/none"; r quotacheck -vgumb "$1/none"; r quotaon; r quotacheck
r mount -o remount,usrjquota=,grpjquota= "$1"; m "$1"; r mount -o remount,usrquota,grpquota "$1"; m "$1"; r mount -o remount,noquota "$1"; m "$1"; r mount -o remount,nonsense "$1"; r mount -o remount,usrjquota=aquota.user "$2"; r mount -o remount,ro "$1/none"
r mount -o remount,ro "$1"; m "$1"; r touch "$1/x"; r mount -o remount,rw "$1"; m "$1"
r rmdir "$1"; r mv "$1" "$1.moved"; mkdir "$3/x"; r cp -al "$2" "$3/x/there"; r ln "$2/f" "$3/x/f"; r rm -rf --one-file-system "$3"; r find "$3" -xdev -mindepth 1 -printf '%y %P\n'
r mountpoint "$1"; r mountpoint "$2"; set -- $(df -P -k "$1" | tail -n 1); echo "$6"`

func TestStorage_Quotas_AreToldAsByTheRealTools(t *testing.T) {
	if os.Getenv("KATOFLOW_LAB") != "1" || os.Geteuid() != 0 {
		t.Skip("KATOFLOW_LAB=1 and root are needed to mount a disk and compare with it")
	}
	n, c := storageNode(t, Mount{Path: "/srv/q/ebs", Size: 64 << 20, Type: "ext4"})
	root := t.TempDir()
	mnt, image := root+"/q/ebs", root+"/image"
	prepare := `mkdir -p "$1/a/b"; echo x >"$1/a/f"; ln -s f "$1/a/l"` + "\n"
	out, err := exec.Command("sh", "-ec", `mkdir -p "$1"; truncate -s 64M "$2"; mkfs.ext4 -q "$2"; mount -o loop "$2" "$1"; losetup -j "$2" | cut -d: -f1`, "sh", mnt, image).CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Cleanup(func() { exec.Command("umount", mnt).Run() })
	device := strings.TrimSpace(string(out))
	script := "shift 0; set -- \"$1\" \"$1/a\" \"$2\"\n" + prepare + quotaScript
	real := exec.Command("sh", "-c", script, "sh", mnt, root+"/q")
	real.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	both, _ := real.CombinedOutput()
	if strings.Contains(string(both), "Quota format not supported in kernel.") {
		require.NoError(t, n.QuotaSupport(false))
	}
	require.Zero(t, run(t, c, "cat >/tmp/quota.sh", script).exit)
	r := run(t, c, "sudo LC_ALL=C sh /tmp/quota.sh /srv/q/ebs /srv/q 2>&1")
	clean := func(text string) string {
		return strings.NewReplacer(root+"/q", "DIR", device, "DEVICE", "/srv/q", "DIR", "/dev/vdb1", "DEVICE").Replace(text)
	}
	require.Equal(t, clean(string(both)), clean(r.out+r.err))
}

const journaled = "rw,relatime,jqfmt=vfsv0,usrjquota=aquota.user,grpjquota=aquota.group"

func TestStorage_QuotasSwitchedOn_LastUntilTheNextBoot(t *testing.T) {
	n, c := storageNode(t)
	options, err := n.MountOptions(ebs)
	require.NoError(t, err)
	require.Equal(t, "rw,relatime", options)
	require.Contains(t, run(t, c, "cat /etc/fstab").out, "/dev/vdb1 /mnt/ebs ext4 defaults 0 2\n")
	remount := "mount -o remount,usrjquota=aquota.user,grpjquota=aquota.group,jqfmt=vfsv0 /mnt/ebs"
	require.Zero(t, rootRuns(t, c, remount+" && quotacheck -vgumb /mnt/ebs").exit)
	r := rootRuns(t, c, "quotaon -v /mnt/ebs")
	require.Equal(t, "/dev/vdb1 [/mnt/ebs]: group quotas turned on\n/dev/vdb1 [/mnt/ebs]: user quotas turned on\n", r.out)
	require.Zero(t, r.exit)
	user, group, err := n.QuotaOn(ebs + "/lost+found")
	require.NoError(t, err)
	require.True(t, user && group)
	options, _ = n.MountOptions(ebs)
	require.Equal(t, journaled, options)

	r = rootRuns(t, c, "quotaon -p /mnt/ebs")
	require.Equal(t, "group quota on /mnt/ebs (/dev/vdb1) is on\nuser quota on /mnt/ebs (/dev/vdb1) is on\nproject quota on /mnt/ebs (/dev/vdb1) is off\n", r.out)
	require.Equal(t, 2, r.exit)
	r = rootRuns(t, c, "quotaon -v /mnt/ebs")
	require.Equal(t, 2, r.exit)
	require.Contains(t, r.err, "quotaon: using /mnt/ebs/aquota.group on /dev/vdb1 [/mnt/ebs]: Device or resource busy\nquotaon: using /mnt/ebs/aquota.user on /dev/vdb1 [/mnt/ebs]: Device or resource busy\n")
	r = rootRuns(t, c, "quotacheck -vgumb /mnt/ebs")
	require.Equal(t, 6, r.exit)
	require.Contains(t, r.err, "quotacheck: Quota for users is enabled on mountpoint /mnt/ebs so quotacheck might damage the file.\nPlease turn quotas off or use -f to force checking.\n")
	require.Zero(t, rootRuns(t, c, remount).exit)
	require.Equal(t, 32, rootRuns(t, c, "mount -o remount,usrjquota=,grpjquota= /mnt/ebs").exit, "not while quotas are on")
	require.Zero(t, rootRuns(t, c, "quotaoff -v /mnt/ebs && mount -o remount,usrjquota=,grpjquota= /mnt/ebs && "+remount+" && quotaon -v /mnt/ebs").exit)

	c = rebooted(t, n)
	options, _ = n.MountOptions(ebs)
	require.Equal(t, "rw,relatime", options)
	user, group, _ = n.QuotaOn(ebs)
	require.False(t, user || group)

	// A script of the boot mounts it with them and switches quotas on, as the source page has it.
	require.NoError(t, n.MakeInitScript("setup_helion_lxc"))
	require.Zero(t, rootRuns(t, c, `sed -i 's|^exit 0$|if [[ -f "/mnt/ebs/aquota.user" ]]; then\n  `+remount+`\n  quotaon -v /mnt/ebs >/run/quota.log 2>\&1\nfi\n\nexit 0|' /etc/init.d/setup_helion_lxc`).exit)
	c = rebooted(t, n)
	options, _ = n.MountOptions(ebs)
	require.Equal(t, journaled, options)
	user, group, _ = n.QuotaOn(ebs)
	require.True(t, user && group)
	require.Contains(t, run(t, c, "cat /run/quota.log").out, "user quotas turned on")

	// The mount's line of /etc/fstab keeps the options, and the service of package quota switches them on.
	require.Zero(t, rootRuns(t, c, `rm /etc/init.d/setup_helion_lxc; sed -i 's|^\(/dev/vdb1 .*\)defaults|\1defaults,usrjquota=aquota.user,grpjquota=aquota.group,jqfmt=vfsv0|' /etc/fstab`).exit)
	c = rebooted(t, n)
	options, _ = n.MountOptions(ebs)
	require.Equal(t, journaled, options)
	user, group, _ = n.QuotaOn(ebs)
	require.True(t, user && group)
	require.NoError(t, n.QuotaSupport(false))
	r = rootRuns(t, c, "quotaon -v /mnt/ebs")
	require.Equal(t, 2, r.exit)
	require.Contains(t, r.err, "quotaon: using /mnt/ebs/aquota.user on /dev/vdb1 [/mnt/ebs]: No such process\nquotaon: Quota format not supported in kernel.\n")
	require.Zero(t, rootRuns(t, c, "quotaon -p /mnt/ebs").exit)
	require.NoError(t, n.QuotaTools(false))
	r = rootRuns(t, c, "command -v quotaon; echo $?; quotacheck /mnt/ebs")
	require.Equal(t, "127\n", r.out)
	require.Equal(t, 127, r.exit)
	n.Heal()
	require.Zero(t, rootRuns(t, c, "quotaon -v /mnt/ebs").exit)
}

func TestStorage_QuotaCommands_AreRecordedOfJobsOnly(t *testing.T) {
	n, c := storageNode(t)
	all := "mount; mount -o remount,usrjquota=aquota.user,grpjquota=aquota.group,jqfmt=vfsv0 /mnt/ebs; quotacheck -vgumb /mnt/ebs; quotaon -v /mnt/ebs; quotaon -p /mnt/ebs; quotaoff -v /mnt/ebs"
	rootRuns(t, c, all)
	require.Empty(t, n.Commands())
	require.Zero(t, run(t, c, `mkdir -p jobs/mounts && { echo '#!/bin/sh'; echo '`+all+`'; } >jobs/mounts/wrapper && sudo sh ~/jobs/mounts/wrapper run`).exit)
	var seen []string
	for _, e := range n.Commands() {
		require.Equal(t, "mounts", e.Job)
		seen = append(seen, e.Command())
	}
	require.Equal(t, []string{"mount -o remount,usrjquota=aquota.user,grpjquota=aquota.group,jqfmt=vfsv0 /mnt/ebs", "quotacheck -vgumb /mnt/ebs", "quotaon -v /mnt/ebs", "quotaoff -v /mnt/ebs"}, seen)
}

func TestStorage_MountOfAnotherType_IsToldAndHasNoQuotas(t *testing.T) {
	n, c := storageNode(t, Mount{Path: "/mnt/nas share", Type: "nfs4", Options: "rw,relatime,vers=4.2,addr=10.0.0.9"}, Mount{Path: "/mnt/sshfs", Type: "fuse.sshfs", Options: "rw,nosuid,nodev,relatime,user_id=0,group_id=0", NotInFstab: true}, Mount{Path: "/mnt/x", Type: "xfs", Options: "rw,relatime,usrquota,grpquota"})
	mounts := "/dev/vdb1 /mnt/nas\\040share nfs4 rw,relatime,vers=4.2,addr=10.0.0.9 0 0\n/dev/vdc1 /mnt/sshfs fuse.sshfs rw,nosuid,nodev,relatime,user_id=0,group_id=0 0 0\n/dev/vdd1 /mnt/x xfs rw,relatime,usrquota,grpquota 0 0\n"
	require.Contains(t, run(t, c, "cat /proc/mounts").out, mounts)
	require.Equal(t, "nfs\nfuseblk\nxfs\ntmpfs\next2/ext3\n", run(t, c, "stat -f -c %T '/mnt/nas share' /mnt/sshfs /mnt/x /run /").out)
	r := rootRuns(t, c, "mount -o remount,usrjquota=aquota.user '/mnt/nas share'")
	require.Equal(t, 32, r.exit)
	require.Contains(t, r.err, "mount: /mnt/nas share: mount point not mounted or bad option.\n")
	require.NotContains(t, run(t, c, "cat /etc/fstab").out, "sshfs")
	require.Equal(t, "3\n", run(t, c, "stat -c '%d' /mnt/x /mnt/sshfs / /etc | sort -u | wc -l").out)
	c = rebooted(t, n)
	require.Contains(t, run(t, c, "cat /proc/mounts").out, mounts)
	_, err := n.MountOptions("/mnt/none")
	require.ErrorContains(t, err, "/mnt/none")
}

func TestStorage_HardLinks_TakeSpaceOnce(t *testing.T) {
	n, c := storageNode(t)
	require.NoError(t, n.FreeSpace(ebs, 3<<20))
	free := func() string { return strings.Fields(run(t, c, "df -P -k /mnt/ebs | tail -n 1").out)[3] }
	require.Zero(t, rootRuns(t, c, "mkdir /mnt/ebs/a && dd if=/dev/zero of=/mnt/ebs/a/f bs=1M count=2 status=none").exit)
	require.Equal(t, "1024", free())
	require.Zero(t, rootRuns(t, c, "cp -al /mnt/ebs/a /mnt/ebs/b && cp -al /mnt/ebs/a /mnt/ebs/c").exit)
	require.Equal(t, "1024", free())
	r := rootRuns(t, c, "cp -a /mnt/ebs/a /mnt/ebs/d")
	require.Equal(t, 1, r.exit)
	require.Equal(t, "cp: error writing '/mnt/ebs/d/f': No space left on device\n", r.err)
	r = rootRuns(t, c, "rm -r /mnt/ebs/d; cp -al /mnt/ebs/a /tmp/a; ls -A /tmp/a; mv -T /mnt/ebs /mnt/x; rmdir /mnt/ebs; rm -rf --one-file-system /mnt; ls /mnt/ebs")
	require.Equal(t, "cp: cannot create hard link '/tmp/a/f' to '/mnt/ebs/a/f': Invalid cross-device link\nmv: cannot move '/mnt/ebs' to '/mnt/x': Device or resource busy\n"+
		"rmdir: failed to remove '/mnt/ebs': Device or resource busy\nrm: skipping '/mnt/ebs', since it's on a different device\n", r.err)
	require.Equal(t, "a\nb\nc\nlost+found\n", r.out)
}

func TestStorage_Rollback_BringsBackHardLinksAndFstab(t *testing.T) {
	t.Parallel()
	c := startCluster(t, Config{Platform: "als", Nodes: []NodeConfig{{Name: "core", Roles: []string{"primary", "mysql"}, Mounts: []Mount{{Path: ebs, Type: "ext4"}}}}, Hypervisor: &HypervisorConfig{Disks: true}})
	n, h := c.Node("core"), dial(t, c.Hypervisor().Host())
	s := dial(t, n)
	require.Zero(t, run(t, h, "vmctl take vm-core one").exit)
	require.Zero(t, rootRuns(t, s, "sed -i 's|/mnt/ebs ext4 defaults|/mnt/ebs ext4 defaults,usrquota|' /etc/fstab; rm /var/stackato/services/mysql/table.idx.1; chown 1:1 /var/stackato/services/mysql/table.idx; mount -o remount,usrquota /mnt/ebs").exit)
	rebooted(t, n)
	options, _ := n.MountOptions(ebs)
	require.Equal(t, "rw,relatime,quota,usrquota", options)
	n.PowerOff()
	require.Zero(t, run(t, h, "vmctl rollback vm-core one").exit)
	n.PowerOn()
	s = dial(t, n)
	options, _ = n.MountOptions(ebs)
	require.Equal(t, "rw,relatime", options)
	r := run(t, s, "cd /var/stackato/services/mysql; [ table.idx -ef table.idx.1 ] && stat -c '%h %u %g' table.idx")
	require.Equal(t, "2 502 542\n", r.out)
}

func TestStorage_Docker_StopsAndStarts(t *testing.T) {
	n, c := storageNode(t)
	require.Equal(t, result{out: "active\n"}, run(t, c, "systemctl is-active docker"))
	require.Equal(t, 1, run(t, c, "systemctl stop docker").exit, "root only")
	require.Zero(t, rootRuns(t, c, "systemctl stop docker").exit)
	require.Equal(t, result{out: "inactive\n", exit: 3}, run(t, c, "systemctl is-active docker"))
	require.Equal(t, 3, rootRuns(t, c, "service docker status").exit)
	require.NotZero(t, rootRuns(t, c, "docker ps").exit)
	require.Zero(t, rootRuns(t, c, "service docker start && docker ps").exit)
	require.Zero(t, run(t, c, "sudo service docker status").exit)
	require.Zero(t, rootRuns(t, c, "systemctl stop docker").exit)
	c = rebooted(t, n)
	require.Zero(t, rootRuns(t, c, "systemctl is-active --quiet docker").exit)
}

// relocateManifest is what a copy has to keep of a folder.
func relocateManifest(t *testing.T, c *ssh.Client, folder string) string {
	t.Helper()
	r := rootRuns(t, c, "cd "+folder+"/. && find . -printf '%y %m %U %G %l %n %T@ %P\\n' | LC_ALL=C sort && find . -type f | LC_ALL=C sort | while read -r f; do sha256sum \"$f\"; done")
	require.Zero(t, r.exit, r.err)
	return r.out
}

const login = "export PATH=$HOME/bin:$PATH; "

func TestStorage_Relocate_MovesTheDataOfAStoppedNode(t *testing.T) {
	n, c := storageNode(t)
	require.Zero(t, rootRuns(t, c, "mkdir -p /mnt/ebs/services /mnt/ebs/droplets /mnt/ebs/containers; echo 'DOCKER_OPTS=x' >/etc/default/docker").exit)
	r := run(t, c, login+"kato relocate services /mnt/ebs/services")
	require.Equal(t, 1, r.exit)
	require.Contains(t, r.err, "Device or resource busy")
	require.Zero(t, run(t, c, login+"kato stop").exit)
	for kind, folder := range map[string]string{"services": servicesPath, "droplets": dataPath, "containers": dockerRoot} {
		before := relocateManifest(t, c, folder)
		r = run(t, c, login+"kato relocate "+kind+" /mnt/ebs/"+kind)
		require.Zero(t, r.exit, r.err)
		require.Contains(t, r.err, "WARNING: ")
		require.Contains(t, r.out, "Relocated "+kind+" to /mnt/ebs/"+kind+"\n")
		require.Equal(t, before, relocateManifest(t, c, folder))
		require.Equal(t, before, relocateManifest(t, c, folder+".old"))
		require.Equal(t, "/mnt/ebs/"+kind+"\n", run(t, c, "sudo readlink "+folder).out)
		r = run(t, c, login+"kato relocate "+kind+" /mnt/ebs/"+kind)
		require.Equal(t, result{err: "ERROR: " + kind + " is already there\n", exit: 1}, r)
	}
	require.Equal(t, "DOCKER_OPTS=x\n", run(t, c, "cat /etc/default/docker").out)
	require.NoError(t, n.DataSize(8<<20))
	require.Contains(t, run(t, c, "ls -l /mnt/ebs/services/").out, " bulk\n")
	count := 0
	for _, e := range n.Commands() {
		if strings.HasPrefix(e.Command(), "kato relocate ") {
			count++
		}
	}
	require.Equal(t, 7, count)
}

func TestStorage_Relocate_Failures_LeaveTheSourceAsItWas(t *testing.T) {
	n, c := storageNode(t)
	require.Zero(t, rootRuns(t, c, "mkdir /mnt/ebs/services; mount -o remount,usrquota /mnt/ebs").exit)
	require.Zero(t, run(t, c, login+"kato stop").exit)
	before := relocateManifest(t, c, servicesPath)
	relocate := func() result { return run(t, c, login+"kato relocate services /mnt/ebs/services") }
	unchanged := func() {
		t.Helper()
		require.Equal(t, before, relocateManifest(t, c, servicesPath))
		require.Equal(t, "services\n", run(t, c, "ls /var/stackato").out)
	}
	require.NoError(t, n.FreeSpace(ebs, 3000))
	require.Equal(t, "ERROR: Could not copy /var/stackato/services to /mnt/ebs/services: No space left on device\n", relocate().err)
	unchanged()
	require.NotEmpty(t, run(t, c, "ls /mnt/ebs/services/mysql").out)
	require.NoError(t, n.FreeSpace(ebs, -1))

	for _, fault := range []katodouble.RelocateFault{katodouble.RelocateFails, katodouble.RelocateHalf, katodouble.RelocateSilent} {
		require.NoError(t, n.RelocateWith(katodouble.RelocatePatch{Fault: &fault, Times: new(1)}))
		require.Equal(t, fault != katodouble.RelocateSilent, relocate().exit != 0)
		unchanged()
	}
	n.SudoPassword(true)
	require.Contains(t, run(t, c, login+"kato relocate services /mnt/ebs/services </dev/null").err, "no password was provided")
	n.SudoPassword(false)
	unchanged()

	// What the failures before left there would look like the half of this one.
	require.Zero(t, rootRuns(t, c, "rm -r /mnt/ebs/services/mysql").exit)
	require.NoError(t, n.Inject("relocate-with", `{"fault":"hangs","times":1}`))
	ended := make(chan result, 1)
	go func() { ended <- relocate() }()
	eventually(t, "half of a copy", func() bool { return strings.Contains(run(t, c, "ls /mnt/ebs/services/mysql").out, "current") })
	require.Zero(t, run(t, c, "kill $(pgrep -f 'kato relocate' | head -n 1)").exit)
	select {
	case r := <-ended:
		require.NotZero(t, r.exit)
	case <-time.After(10 * time.Second):
		require.Fail(t, "it still hangs")
	}
	unchanged()

	require.NoError(t, n.RelocateWith(katodouble.RelocatePatch{Fault: new(katodouble.RelocateLosesFile), Times: new(1), RemoveOriginal: new(true)}))
	require.Zero(t, relocate().exit)
	require.Equal(t, strings.Count(before, "\n")-2, strings.Count(relocateManifest(t, c, servicesPath), "\n"))
	require.Equal(t, "services\n", run(t, c, "ls /var/stackato").out)
	require.NoError(t, n.HealRelocate())
	state, _ := n.cluster.kato.NodeState(n.Address())
	require.Equal(t, katodouble.Relocate{}, state.Relocate)
}

func TestStorage_ClusterStartedAgain_FindsRelocatedData(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Dir: dir, Platform: "als", Nodes: []NodeConfig{{Name: "one", Roles: []string{"primary", "dea"}, Mounts: []Mount{{Path: ebs, Type: "ext4"}}}}}
	first, err := Start(cfg)
	require.NoError(t, err)
	c := dial(t, first.Node("one"))
	require.Zero(t, rootRuns(t, c, "mkdir /mnt/ebs/containers; sed -i 's|/mnt/ebs ext4 defaults|&,usrquota|' /etc/fstab").exit)
	require.Zero(t, run(t, c, login+"kato stop && kato relocate containers /mnt/ebs/containers").exit)
	require.NoError(t, first.Close())
	n := startCluster(t, cfg).Node("one")
	options, err := n.MountOptions(ebs)
	require.NoError(t, err)
	require.Equal(t, "rw,relatime,quota,usrquota", options)
	require.Equal(t, "/mnt/ebs/containers\n", run(t, dial(t, n), "readlink /var/lib/docker").out)
}
