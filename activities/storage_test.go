package activities

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
)

// moving are data of a node and where they go, in folders of this machine; kato is done by the test.
type moving struct {
	t                    *testing.T
	sh                   shell
	source, target, kept string
	place, device        string
}

func newMoving(t *testing.T, sh shell) *moving {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("nodes run Linux: it needs GNU find and /proc")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	m := &moving{t: t, sh: sh, source: dir + "/services", target: dir + "/new", kept: dir + "/services.katoflow-op"}
	require.NoError(t, os.MkdirAll(m.source+"/mysql/empty", 0o750))
	for name, text := range map[string]string{"mysql/table one": "rows", "mysql/-dash": "x", "mysql/.hidden": "h", "mysql/new\nline": "n", "ümlaut": "u"} {
		require.NoError(t, os.WriteFile(m.source+"/"+name, []byte(text), 0o640))
	}
	require.NoError(t, os.Symlink("table one", m.source+"/mysql/link"))
	require.NoError(t, os.Link(m.source+"/ümlaut", m.source+"/mysql/second name"))
	out, err := exec.Command("sh", "-c", `line=$(df -P -k "$1" | tail -n 1); place=${line##*% }; while read -r one two rest; do [ "$two" != "$place" ] || device=$one; done </proc/mounts; printf '%s\n%s\n' "$place" "$device"`, "sh", dir).Output()
	require.NoError(t, err)
	lines := strings.Split(string(out), "\n")
	m.place, m.device = lines[0], lines[1]
	return m
}

// step runs a script of a relocation.
func (m *moving) step(text string, more ...string) (answer, error) {
	return m.sh.run(filepath.Dir(m.source), text, append([]string{"services", m.source, m.source, m.target, m.kept}, more...)...)
}

func (m *moving) keep() {
	m.t.Helper()
	said, err := m.step(keepScript, m.place, m.device, "0")
	require.NoError(m.t, err, "%v", said)
	require.NotEmpty(m.t, said.value("done"))
}

// kato copies the data and puts a link in their place; the source is moved aside.
func (m *moving) kato() {
	m.t.Helper()
	require.NoError(m.t, exec.Command("cp", "-a", m.source+"/.", m.target).Run())
	require.NoError(m.t, os.Rename(m.source, m.source+".old"))
	require.NoError(m.t, os.Symlink(m.target, m.source))
}

func (m *moving) back(discard string) answer {
	m.t.Helper()
	said, err := m.step(switchBackScript, discard, m.place)
	require.NoError(m.t, err, "%v", said)
	require.NotEmpty(m.t, said.value("done"))
	return said
}

// list of a folder, as it is now.
func (m *moving) list(folder string) string {
	m.t.Helper()
	out, err := exec.Command("sh", "-c", `cd "$1" && find . -printf '%P|%y %m %U %G %l\n' | sort && find . -type f -exec sha256sum {} + | sort`, "sh", folder).Output()
	require.NoError(m.t, err)
	return string(out)
}

// beside are the names in the folder of the source.
func (m *moving) beside() (out []string) {
	entries, err := os.ReadDir(filepath.Dir(m.source))
	require.NoError(m.t, err)
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// rebooted makes the source as kept in another boot.
func (m *moving) rebooted() {
	require.NoError(m.t, os.WriteFile(m.kept+".boot", []byte("another\n"), 0o600))
}

func TestRelocateScripts_MovedComparedAndTidied(t *testing.T) {
	inShells(t, func(t *testing.T, sh shell) {
		m := newMoving(t, sh)
		before := m.list(m.source)
		m.keep()
		m.keep() // once more, as after a kill
		m.kato()
		said, err := m.step(compareScript)
		require.NoError(t, err, "%v", said)
		require.Equal(t, "6", said.value("files"))
		require.Equal(t, m.target, said.value("now"))
		for range 2 {
			said, err = m.step(tidySourceScript, "0")
			require.NoError(t, err, "%v", said)
		}
		require.Equal(t, before, m.list(m.target))
		require.Equal(t, []string{"new", "services", "services.old"}, m.beside())
	})
}

func TestRelocateScripts_ACopyThatLacksSomething_IsFoundAndGoesBack(t *testing.T) {
	inShells(t, func(t *testing.T, sh shell) {
		if sh.argv[0] != "dash" {
			return // the same script has gone through the other shells in the cases beside
		}
		for name, spoil := range map[string]func(m *moving) error{
			"a file is missing": func(m *moving) error { return os.Remove(m.target + "/mysql/-dash") },
			"a file is cut off": func(m *moving) error { return os.Truncate(m.target+"/mysql/table one", 1) },
			"a mode is another": func(m *moving) error { return os.Chmod(m.target+"/mysql", 0o700) },
			"a link is another": func(m *moving) error {
				_ = os.Remove(m.target + "/mysql/link")
				return os.Symlink("x", m.target+"/mysql/link")
			},
			"there is one more":  func(m *moving) error { return os.WriteFile(m.target+"/more", nil, 0o600) },
			"a folder is gone":   func(m *moving) error { return os.Remove(m.target + "/mysql/empty") },
			"it is not switched": func(m *moving) error { _ = os.Remove(m.source); return os.Rename(m.source+".old", m.source) },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				m := newMoving(t, sh)
				before := m.list(m.source)
				m.keep()
				m.kato()
				require.NoError(t, spoil(m))
				said, err := m.step(compareScript)
				require.Error(t, err)
				require.NotEmpty(t, said.value("failed"))
				m.back("1")
				require.Equal(t, before, m.list(m.source))
				require.Equal(t, []string{"new", "services"}, m.beside(), "what kato has moved aside would be in the way of its next try")
				require.Equal(t, 2, strings.Count(m.list(m.target), "\n")+1, "nothing is left of the copy")
			})
		}
	})
}

func TestRelocateScripts_GoingBack_WhateverHasHappenedToIt(t *testing.T) {
	inShells(t, func(t *testing.T, sh shell) {
		for name, c := range map[string]struct {
			do func(m *moving)
			// found: the source as it was left is kept aside; same: it is as it was before. refused: it is said that nothing can be put back.
			found, other, refused bool
		}{
			"nothing was done":                   {do: func(*moving) {}},
			"kato has switched":                  {do: (*moving).kato},
			"kato has removed half of it":        {do: func(m *moving) { _ = os.RemoveAll(m.source + "/mysql") }, found: true},
			"kato has removed all of it":         {do: func(m *moving) { _ = os.RemoveAll(m.source) }},
			"killed while what was kept goes":    {do: func(m *moving) { _ = os.Rename(m.kept, m.kept+".gone"); _ = os.RemoveAll(m.kept + ".gone/mysql") }},
			"rebooted, and written to since":     {do: func(m *moving) { m.rebooted(); _ = os.WriteFile(m.source+"/since", nil, 0o600) }, found: true, other: true},
			"switched, rebooted":                 {do: func(m *moving) { m.kato(); m.rebooted() }},
			"tidied, and somebody goes back":     {do: func(m *moving) { m.kato(); _, _ = m.step(tidySourceScript, "0") }, refused: true},
			"what was kept is gone, half tidied": {do: func(m *moving) { m.kato(); _ = os.RemoveAll(m.kept) }, refused: true},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				m := newMoving(t, sh)
				before := m.list(m.source)
				m.keep()
				c.do(m)
				atTarget := m.list(m.target)
				if c.refused {
					said, err := m.step(switchBackScript, "1", m.place)
					require.Error(t, err)
					require.Contains(t, said.value("failed"), "nothing is kept that could be put back")
					require.Equal(t, atTarget, m.list(m.target), "what is at the new place is all there is")
					return
				}
				said := m.back("1")
				require.Equal(t, c.found, said.value("found") != "")
				if !c.other {
					require.Equal(t, before, m.list(m.source))
				}
				if c.found {
					_, err := os.Stat(said.value("found"))
					require.NoError(t, err)
				}
				if name == "switched, rebooted" {
					require.Equal(t, atTarget, m.list(m.target), "the roles may have written there")
				}
				m.back("1") // once more, as after a kill
			})
		}
	})
}

func TestRelocateScripts_TwoTriesThatLeaveSomething_BothAreKeptAside(t *testing.T) {
	inShells(t, func(t *testing.T, sh shell) {
		m := newMoving(t, sh)
		before := m.list(m.source)
		for _, want := range []string{".found", ".found.2", ".found.3"} {
			m.keep()
			require.NoError(t, os.RemoveAll(m.source+"/mysql"))
			require.Equal(t, m.kept+want, m.back("1").value("found"))
			require.Equal(t, before, m.list(m.source))
		}
	})
}

func TestRelocateScripts_KeepingTheSource_RefusesWhatHasChanged(t *testing.T) {
	inShells(t, func(t *testing.T, sh shell) {
		for name, c := range map[string]struct {
			do   func(t *testing.T, m *moving)
			want string
		}{
			"another file system at the new place": {func(_ *testing.T, m *moving) { m.device = "/dev/other" }, "is not mounted at"},
			"not mounted any more":                 {func(_ *testing.T, m *moving) { m.place = "/mnt/ebs" }, "is not mounted at /mnt/ebs any more"},
			"the source leads elsewhere": {func(_ *testing.T, m *moving) {
				_ = os.Rename(m.source, m.source+".x")
				_ = os.Symlink(m.source+".x", m.source)
			}, "is not the folder of services any more"},
			"something is in the new place": {func(_ *testing.T, m *moving) {
				_ = os.Mkdir(m.target, 0o755)
				_ = os.WriteFile(m.target+"/x", nil, 0o600)
			}, "is not empty: there is x"},
			"somebody writes to a file": {func(t *testing.T, m *moving) {
				f, err := os.OpenFile(m.source+"/ümlaut", os.O_APPEND|os.O_WRONLY, 0)
				require.NoError(t, err)
				t.Cleanup(func() { _ = f.Close() })
			}, "has files of services open to write"},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				m := newMoving(t, sh)
				c.do(t, m)
				said, err := m.step(keepScript, m.place, m.device, "0")
				require.Error(t, err)
				require.Contains(t, said.value("failed"), c.want)
			})
		}
		t.Run("somebody reads a file", func(t *testing.T) {
			t.Parallel()
			m := newMoving(t, sh)
			f, err := os.Open(m.source + "/ümlaut")
			require.NoError(t, err)
			defer f.Close()
			m.keep()
		})
	})
}

func TestRelocateScripts_AnotherBoot_KatoIsNotRunAndNothingIsCompared(t *testing.T) {
	inShells(t, func(t *testing.T, sh shell) {
		m := newMoving(t, sh)
		m.keep()
		boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		require.NoError(t, err)
		ran := filepath.Join(t.TempDir(), "ran")
		said, err := sh.run(t.TempDir(), runRelocateScript, "another", m.place, m.target, "touch", ran)
		require.Error(t, err)
		require.NotEmpty(t, said.value("rebooted"))
		_, err = sh.run(t.TempDir(), runRelocateScript, strings.TrimSpace(string(boot)), "/elsewhere", m.target, "touch", ran)
		require.Error(t, err)
		require.NoFileExists(t, ran)
		_, err = sh.run(t.TempDir(), runRelocateScript, strings.TrimSpace(string(boot)), m.place, m.target, "touch", ran)
		require.NoError(t, err)
		require.FileExists(t, ran)
		m.kato()
		m.rebooted()
		said, err = m.step(compareScript)
		require.Error(t, err)
		require.NotEmpty(t, said.value("rebooted"))
	})
}

func TestRelocateScripts_Owners_AreKeptAndCompared(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	inShells(t, func(t *testing.T, sh shell) {
		m := newMoving(t, sh)
		require.NoError(t, os.Chown(m.source, 501, 502))
		require.NoError(t, os.Lchown(m.source+"/mysql/link", 503, 504))
		m.keep()
		var st syscall.Stat_t
		require.NoError(t, syscall.Stat(m.target, &st))
		require.Equal(t, [2]uint32{501, 502}, [2]uint32{st.Uid, st.Gid})
		m.kato()
		_, err := m.step(compareScript)
		require.NoError(t, err)
		require.NoError(t, os.Lchown(m.target+"/mysql/link", 0, 0))
		said, err := m.step(compareScript)
		require.Error(t, err)
		require.Contains(t, said.value("failed"), "1 of the files and folders of services are not in")
	})
}

// quotaFunctions are those of the quota scripts, to be called with a file.
func quotaFunctions(call string) string {
	return strings.Replace(script("storage", "quota"), "type=''\n", "type='' path=/mnt/ebs\n", 1) + call
}

func TestQuotaScripts_TheBlockOfAnInitScript(t *testing.T) {
	const block = "# katoflow: quotas of /mnt/ebs; katoflow storage quota disable takes this away\nif [ -f /mnt/ebs/aquota.user ]; then\n" +
		"\tmount -o remount,usrjquota=aquota.user,grpjquota=aquota.group,jqfmt=vfsv0 /mnt/ebs && quotaon /mnt/ebs || true\nfi\n# katoflow: end\n"
	inShells(t, func(t *testing.T, sh shell) {
		for name, c := range map[string]struct{ before, after string }{
			"ordinary":             {"#!/bin/sh -e\n### BEGIN INIT INFO\n### END INIT INFO\n\ncase \"$1\" in\nstart) ;;\nesac\nexit 0\n", "#!/bin/sh -e\n### BEGIN INIT INFO\n### END INIT INFO\n\n" + block + "case \"$1\" in\nstart) ;;\nesac\nexit 0\n"},
			"nothing but its head": {"#!/bin/sh\n", "#!/bin/sh\n" + block},
			"last line is open":    {"#!/bin/sh\nexit 0", "#!/bin/sh\n" + block + "exit 0\n"},
			"backslashes":          {"#!/bin/sh\nprintf '\\n %s' \\\n  x\n", "#!/bin/sh\n" + block + "printf '\\n %s' \\\n  x\n"},
			"of another path too":  {"#!/bin/sh\n" + strings.ReplaceAll(block, "/mnt/ebs", "/mnt/x") + "exit 0\n", "#!/bin/sh\n" + strings.ReplaceAll(block, "/mnt/ebs", "/mnt/x") + block + "exit 0\n"},
			"changed by hand":      {"#!/bin/sh\n" + strings.Replace(block, "quotaon", "true", 1) + "exit 0\n", "#!/bin/sh\n" + block + "exit 0\n"},
		} {
			t.Run(name, func(t *testing.T) {
				file := filepath.Join(t.TempDir(), "setup")
				require.NoError(t, os.WriteFile(file, []byte(c.before), 0o755))
				text := func(call string) string {
					out, err := exec.Command(sh.argv[0], append(append([]string{}, sh.argv[1:]...), "-c", quotaFunctions(call), "sh", file)...).CombinedOutput()
					require.NoError(t, err, string(out))
					return string(out)
				}
				if name == "of another path too" { // the block goes before the first command
					c.after = "#!/bin/sh\n" + strings.ReplaceAll(block, "/mnt/ebs", "/mnt/x")
					c.after = "#!/bin/sh\n" + strings.SplitAfter(c.after, "\n")[1] + block + strings.Join(strings.SplitAfter(c.after, "\n")[2:], "") + "exit 0\n"
				}
				require.Equal(t, "no\n", text(`block_in "$1" && echo yes || echo no`))
				require.Equal(t, c.after, text(`rewrite "$1" renewed "$1"; cat "$1"`))
				require.Equal(t, "yes\n", text(`block_in "$1" && echo yes || echo no`))
				require.Equal(t, c.after, text(`rewrite "$1" renewed "$1"; cat "$1"`), "once more is the same")
				if name != "changed by hand" {
					require.Equal(t, strings.TrimSuffix(c.before, "\n")+"\n", text(`rewrite "$1" lines_of "$1" out; cat "$1"`))
				}
			})
		}
		for name, c := range map[string]struct{ text, want string }{
			"as the source page has it": {"if [[ -f \"/mnt/ebs/aquota.user\" ]]; then\n  mount -o remount,usrjquota=aquota.user,grpjquota=aquota.group,jqfmt=vfsv0 /mnt/ebs\n  quotaon -v /mnt/ebs\nfi\n", "yes\n"},
			"of another path":           {"  mount -o remount,usrjquota=aquota.user /mnt/ebs2\n  quotaon -v /mnt/ebs2\n", "no\n"},
			"without quotaon":           {"  mount -o remount,usrjquota=aquota.user /mnt/ebs\n", "no\n"},
			"as a comment":              {"#  mount -o remount,usrjquota=aquota.user /mnt/ebs\n#  quotaon -v /mnt/ebs\n", "no\n"},
		} {
			t.Run("by hand "+name, func(t *testing.T) {
				file := filepath.Join(t.TempDir(), "setup")
				require.NoError(t, os.WriteFile(file, []byte(c.text), 0o755))
				out, err := exec.Command(sh.argv[0], append(append([]string{}, sh.argv[1:]...), "-c", quotaFunctions(`by_hand "$1" && echo yes || echo no`), "sh", file)...).CombinedOutput()
				require.NoError(t, err)
				require.Equal(t, c.want, string(out))
			})
		}
	})
}

func TestRelocateJudge_WhatSpeaksAgainstAMove(t *testing.T) {
	good := map[string]string{"real": "/var/stackato/services", "folder": "1", "used": "1000", "entries": "10", "folders": "3", "source-mount": "/", "source-space": "/dev/sda1 9999999 5 9999999 1% /", "source-inodes": "/dev/sda1 99999 5 99999 1% /",
		"mount": "/mnt/ebs", "space": "/dev/sdb1 99999 5 99999 1% /mnt/ebs", "inodes": "/dev/sdb1 99999 5 99999 1% /mnt/ebs", "type": "ext4", "device": "/dev/sdb1", "quotas": "1", "fstab": "1"}
	for name, c := range map[string]struct {
		kind   operation.StorageKind
		change map[string]string
		roles  []string
		want   string // "" = nothing
		forced bool   // --force overrules it
	}{
		"good":                         {},
		"NFS of the filesystem role":   {change: map[string]string{"type": "nfs4"}, roles: []string{"filesystem"}, want: "is NFS, to which the filesystem service must not go"},
		"SSHFS of it":                  {change: map[string]string{"type": "fuse.sshfs"}, roles: []string{"filesystem"}},
		"NFS of other services":        {change: map[string]string{"type": "nfs"}, want: "is a network file system (nfs): use block storage", forced: true},
		"containers on EBS":            {kind: operation.Containers, change: map[string]string{"network": "Amazon EBS"}, want: "containers are slow", forced: true},
		"services on EBS":              {change: map[string]string{"network": "Amazon EBS"}},
		"containers on NFS":            {kind: operation.Containers, change: map[string]string{"type": "nfs"}, want: "containers are slow", forced: true},
		"without quotas":               {change: map[string]string{"quotas": ""}, want: "katoflow storage quota enable", forced: true},
		"the same file system":         {change: map[string]string{"source-mount": "/mnt/ebs"}, want: "lies on the file system where they are"},
		"nothing mounted":              {change: map[string]string{"mount": "/", "source-mount": "/var"}, want: "nothing is mounted above", forced: true},
		"too small":                    {change: map[string]string{"space": "/dev/sdb1 999 5 1050 1% /mnt/ebs"}, want: "10% to spare"},
		"too few inodes":               {change: map[string]string{"inodes": "/dev/sdb1 999 5 100 1% /mnt/ebs"}, want: "/mnt/ebs has 100 inodes free, and 1010 are needed"},
		"no inodes to count":           {change: map[string]string{"inodes": "/dev/sdb1 0 0 0 - /mnt/ebs"}},
		"full where it is":             {change: map[string]string{"source-space": "/dev/sda1 9999 5 12 1% /"}, want: "keeping the source there by hard links needs"},
		"read-only":                    {change: map[string]string{"read-only": "1"}, want: "is mounted read-only"},
		"something mounted within":     {change: map[string]string{"below": "/var/stackato/services/mysql"}, want: "is mounted within"},
		"a mount of its own":           {change: map[string]string{"mount-itself": "1"}, want: "is a file system of its own"},
		"no such folder":               {change: map[string]string{"folder": ""}, want: "there is no folder"},
		"not empty":                    {change: map[string]string{"target": "/mnt/ebs/services", "target-folder": "1", "target-entry": "x"}, want: "is not empty: there is x"},
		"a link":                       {change: map[string]string{"target": "/mnt/ebs/x", "target-folder": "1"}, want: "leads to /mnt/ebs/x: name that"},
		"something is kept":            {change: map[string]string{"kept": "/var/stackato/services.katoflow-op--7"}, want: "what operation op-7 has kept is still there"},
		"kept, and at the new place":   {change: map[string]string{"kept": "/var/stackato/services.katoflow-op--7", "real": "/mnt/ebs/services", "target": "/mnt/ebs/services"}, want: "what operation op-7 has kept is still there"},
		"letters that scripts dislike": {change: map[string]string{"real": "/var/x y"}, want: "has letters that this cannot handle"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, force := range []bool{false, true} {
				facts := map[string]string{}
				for k, v := range good {
					facts[k] = v
				}
				for k, v := range c.change {
					facts[k] = v
				}
				if c.kind == "" {
					c.kind = operation.Services
				}
				m := operation.StorageMove{Kind: c.kind, From: "/var/stackato/services", To: "/mnt/ebs/services"}
				j := relocateJudge{node: &inventory.Node{Name: "data", Roles: c.roles}, force: force, needs: map[string]int64{}, inodes: map[string]int64{}}
				j.judge(&m, facts)
				j.space()
				if c.want == "" || force && c.forced {
					require.Empty(t, j.problems)
				} else {
					require.Len(t, j.problems, 1)
					require.Contains(t, j.problems[0], c.want)
				}
				require.Equal(t, force && c.forced, len(j.warnings) > 0)
			}
		})
	}
	facts := map[string]string{}
	for k, v := range good {
		facts[k] = v
	}
	facts["real"], facts["target"] = "/mnt/ebs/services", "/mnt/ebs/services"
	m := operation.StorageMove{Kind: operation.Services, To: "/mnt/ebs/services"}
	j := relocateJudge{node: &inventory.Node{Name: "data"}}
	j.judge(&m, facts)
	require.Equal(t, operation.WasThere, m.Outcome)
	require.Empty(t, j.problems)
}
