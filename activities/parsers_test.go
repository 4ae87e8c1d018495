package activities

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/kato"
	"github.com/katoflow/katoflow/internal/operation"
)

func TestParseAnswer_NoiseAndSections_AreToldApart(t *testing.T) {
	a := parseAnswer([]byte("Welcome!\n@katoflow user joe\n@katoflow section x\none\ntwo@katoflow section y\n@katoflow section\nlost\n@katoflow lock a b\n@katoflow lock c\n@katoflow end\n"))
	if !a.complete || a.value("user") != "joe" || a.sections["x"] != "one\ntwo" || !a.has("y") || a.has("z") {
		t.Errorf("%+v", a)
	}
	if d := cmp.Diff([]string{"a b", "c"}, a.values["lock"]); d != "" {
		t.Error(d)
	}
	if parseAnswer([]byte("@katoflow user joe\n@katoflow sec")).complete {
		t.Error("a cut answer is complete")
	}
}

const inst = `Inst base-files [12.4] (12.4+deb12u7 Debian:12.7/stable [amd64])
Inst libssl3 [3.0.13-1~deb12u1] (3.0.14-1~deb12u2 Debian-Security:12/stable-security [amd64]) []
Inst libc6 [2.19-0ubuntu6.14] (2.19-0ubuntu6.15 Ubuntu:14.04/trusty-updates, Ubuntu:14.04/trusty-security [amd64])
Inst linux-image-6.1.0-26-amd64 (6.1.112-1 Debian-Security:12/stable-security [amd64])
Conf libssl3 (3.0.14-1~deb12u2 Debian-Security:12/stable-security [amd64])
E: Broken packages
`

func TestParsePending_SimulatedUpgrade_GivesPackagesAndTrouble(t *testing.T) {
	pending, trouble := parsePending(inst)
	if len(pending) != 3 || trouble != "Broken packages" {
		t.Errorf("%v, %q", pending, trouble)
	}
	if d := cmp.Diff([]string{"libc6", "libssl3"}, securityNames(pending)); d != "" {
		t.Error(d)
	}
}

const unfinishedPackages = "ok half-configured openssl\nok unpacked libc6:i386\nreinstreq half-installed tz\nok installed bash\nok triggers-pending man-db\nnonsense\nok half-configured $(reboot)\n"

func TestParseUnfinished_EveryStateButTheEnds_GivesTheNames(t *testing.T) {
	if d := cmp.Diff([]string{"libc6:i386", "man-db", "openssl", "tz"}, parseUnfinished(unfinishedPackages)); d != "" {
		t.Error(d)
	}
	if got := parseUnfinished(""); len(got) != 0 {
		t.Error(got)
	}
}

const policy = `libssl3:
  Installed: 3.0.13-1~deb12u1
  Candidate: 3.0.14-1~deb12u2
  Version table:
     3.0.14-1~deb12u2 500
        500 http://security.debian.org/debian-security bookworm-security/main amd64 Packages
 *** 3.0.13-1~deb12u1 100
        100 /var/lib/dpkg/status
gone:
  Installed: (none)
  Candidate: 1.0
`

func TestParsePolicy_Blocks_GiveVersions(t *testing.T) {
	got := parsePolicy(policy)
	if got["libssl3"] != (candidate{"3.0.13-1~deb12u1", "3.0.14-1~deb12u2"}) || got["gone"] != (candidate{"", "1.0"}) || len(got) != 2 {
		t.Errorf("%v", got)
	}
}

func TestChangesOf_TwoLists_GivesChangesInOrder(t *testing.T) {
	before := parsePackages("installed b 1\ninstalled a 1\ninstalled same 3\ninstalled gone 1\n")
	now := parsePackages("installed b 2\nhalf-configured a 1.1\ninstalled same 3\ninstalled new 1:0-1~x+y\n; rm -rf / x\n")
	want := []operation.PackageChange{{Name: "a", From: "1", To: "1.1"}, {Name: "b", From: "1", To: "2"}, {Name: "new", To: "1:0-1~x+y"}}
	if d := cmp.Diff(want, changesOf(before, now)); d != "" {
		t.Error(d)
	}
}

func TestParseTranscript_EachEnd_IsRecognised(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want transcript
	}{
		"lock":      {"Lock could not be acquired (another package manager running?)\n", transcript{locked: true}},
		"lock file": {"Lock file is already taken, exiting\n", transcript{locked: true}},
		"late lock": {"Unpacking a (2) over (1) ...\nE: Could not get lock /var/lib/dpkg/lock\n", transcript{changes: []operation.PackageChange{{Name: "a", From: "1", To: "2"}}}},
		"broken":    {"E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem.\n", transcript{broken: true}},
		"postinst":  {"dpkg: error processing package a (--configure):\n", transcript{broken: true}},
		"nothing":   {"No packages found that can be upgraded unattended and no pending auto-removals\n", transcript{nothing: true}},
		"upgraded": {"Unpacking b (2) over (1) ...\nUnpacking replacement a (2) ...\nUnpacking new (1:3) ...\nSetting up b (2) ...\n",
			transcript{changes: []operation.PackageChange{{Name: "a", To: "2"}, {Name: "b", From: "1", To: "2"}, {Name: "new", To: "1:3"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(c.want, parseTranscript(c.text), cmp.AllowUnexported(transcript{})); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseRefresh_FailedSources_AreCounted(t *testing.T) {
	if n := parseRefresh("Hit:1 http://a stable InRelease\nErr:2 http://b InRelease\nW: Failed to fetch http://b  x\n"); n != 2 {
		t.Error(n)
	}
}

func TestParseLocks_DeviceOrTool_Decides(t *testing.T) {
	got := parseLocks([]string{
		"/var/lib/dpkg/lock-frontend 2049 08:01:131 77 apt-get",
		"/var/lib/dpkg/lock 2049 00:2a:131 78 mysqld",     // another file of the same number
		"/var/lib/apt/lists/lock 52 00:2a:131 79 dpkg",    // an overlay, whose devices differ
		"/run/unattended-upgrades.lock 26 00:1a:9 80 x y", // on /run
		"garbage", "/x y z w", "",
	})
	var pids []int
	for _, h := range got {
		pids = append(pids, h.pid)
	}
	if d := cmp.Diff([]int{77, 79, 80}, pids); d != "" {
		t.Error(d)
	}
	if s := got[0].String(); s != "pid 77 (apt-get), /var/lib/dpkg/lock-frontend" {
		t.Error(s)
	}
}

func TestParseSystem_EachState_GivesItsChecks(t *testing.T) {
	for text, want := range map[string][]string{
		"running\n": nil, "none\n": nil, "": nil, "offline": nil, "starting": {"system: starting"}, "degraded": {"system: degraded"},
		"degraded\n● b.service loaded failed failed X\na.mount loaded failed failed Y\n": {"system: a.mount failed", "system: b.service failed"},
		"\x1b[31mweird": {`system: \x1b[31mweird`},
	} {
		if d := cmp.Diff(want, parseSystem(text)); d != "" {
			t.Errorf("%q: %s", text, d)
		}
	}
}

func TestParseSpace_LinesOfDf_GiveFreeSpace(t *testing.T) {
	got := parseSpace("/dev/vda1 100 50 40 50% /\n/dev/vda1 100 50 40 50% /\n/dev/vdb 9 8 -1 90% /boot\nFilesystem x\n/dev/vdc 0 0 0 - /data\n")
	if d := cmp.Diff([]fileSystem{{"/", 100, 40}, {"/boot", 9, 0}, {"/data", 0, 0}}, got, cmp.AllowUnexported(fileSystem{})); d != "" {
		t.Error(d)
	}
}

func TestInitAge_EachKindOfNode_IsMeasured(t *testing.T) {
	stat := func(ticks string) string {
		return "1 (sys (t) emd) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 " + ticks + " 1 2\n"
	}
	for name, c := range map[string]struct {
		stat, uptime, hz string
		container        bool
		want             float64
		ok               bool
	}{
		"machine":            {stat("5"), "12.30 20.00\n", "100", false, 12.25, true},
		"other ticks":        {stat("1000"), "12.00 1", "1000", false, 11, true},
		"no getconf":         {stat("100"), "12.00 1", "", false, 11, true},
		"container":          {stat("99000"), "1000.00 1", "100", true, 10, true},
		"container of lxcfs": {stat("99000"), "10.00 1", "100", true, 10, true},
		"impossible":         {stat("99000"), "10.00 1", "100", false, 10, false},
		"garbage":            {"1 (x", "10", "100", false, 0, false},
		"no uptime":          {stat("5"), "", "100", false, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := initAge(c.stat, c.uptime, c.hz, c.container)
			if ok != c.ok || ok && got != c.want {
				t.Errorf("%v %v", got, ok)
			}
		})
	}
}

const grub = `#
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="DEFAULT"
fi
function savedefault {
  if [ -z "${boot_once}" ]; then
    saved_entry="${chosen}"
  fi
}
menuentry 'Debian GNU/Linux' --class debian --class os $menuentry_id_option 'gnulinux-simple-ab' {
	load_video
	if [ x$grub_platform = xxen ]; then insmod xzio; fi
	linux	/boot/vmlinuz-6.1.0-26-amd64 root=UUID=ab ro quiet
	initrd	/boot/initrd.img-6.1.0-26-amd64
}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-ab' {
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-26-amd64' --class debian $menuentry_id_option 'gnulinux-6.1.0-26-amd64-advanced-ab' {
		linux	/boot/vmlinuz-6.1.0-26-amd64 root=UUID=ab ro
	}
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-25-amd64' --class debian $menuentry_id_option 'gnulinux-6.1.0-25-amd64-advanced-ab' {
		linuxefi	/vmlinuz-6.1.0-25-amd64 root=UUID=ab ro
	}
}
menuentry "Memory test" {
	linux16	/boot/memtest86+.bin
}
`

func TestDefaultKernel_EveryWayToName_FindsIt(t *testing.T) {
	for choice, want := range map[string]string{
		"0": "6.1.0-26-amd64", "1": "6.1.0-26-amd64", "1>1": "6.1.0-25-amd64", "gnulinux-simple-ab": "6.1.0-26-amd64",
		"gnulinux-advanced-ab>gnulinux-6.1.0-25-amd64-advanced-ab":                          "6.1.0-25-amd64",
		"Advanced options for Debian GNU/Linux>Debian GNU/Linux, with Linux 6.1.0-25-amd64": "6.1.0-25-amd64",
		"2": "", "9": "", "0>3": "", "nothing": "", "${other}": "",
	} {
		if got := defaultKernel(strings.Replace(grub, "DEFAULT", choice, 1), ""); got != want {
			t.Errorf("%s: %q, want %q", choice, got, want)
		}
	}
	saved := strings.Replace(grub, "DEFAULT", "${saved_entry}", 1)
	if got := defaultKernel(saved, "# GRUB Environment Block\nsaved_entry=1>1\n####"); got != "6.1.0-25-amd64" {
		t.Error(got)
	}
	if got := defaultKernel(saved, ""); got != "6.1.0-26-amd64" {
		t.Error(got)
	}
	if got := defaultKernel("", ""); got != "" {
		t.Error(got)
	}
}

func TestNewestKernel_Releases_AreComparedAsNumbers(t *testing.T) {
	if got := newestKernel("config-6.1.0-9-amd64\nvmlinuz-6.1.0-9-amd64\nvmlinuz-6.1.0-26-amd64\nvmlinuz-6.1.0-26-rc1-amd64\nvmlinuz.old\ninitrd.img-7.0\n"); got != "6.1.0-26-amd64" {
		t.Error(got)
	}
	if got := newestKernel("grub"); got != "" {
		t.Error(got)
	}
}

func TestParseRecord_OnlyWholeRecords_Count(t *testing.T) {
	r := maintenanceRecord{Operation: "a", Token: 5, Found: "off"}
	if got, ok := parseRecord(recordText(r) + "\n"); !ok || got != r {
		t.Error(got, ok)
	}
	for _, text := range []string{"", "{", `{"operation":"a"}`, `{"operation":"","found":"on"}`, `{"operation":"a","found":"maybe"}`, recordText(r)[:10]} {
		if _, ok := parseRecord(text); ok {
			t.Errorf("%q is a record", text)
		}
	}
}

func TestRefusal_WordsOfFailure_AreFound(t *testing.T) {
	for out, want := range map[string]string{"": "", "retiring...\nok\n": "", "\x1b[31mError: no capacity\x1b[0m": "Error: no capacity", "Usage:\n kato": "Usage:"} {
		if got := refusal(out); got != want {
			t.Errorf("%q: %q", out, got)
		}
	}
}

// packageTools puts small doubles of apt and dpkg before the machine's own, which it may not have.
func packageTools(t *testing.T) (path string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"apt-get": "cat <<'END'\n" + inst + "END\n", "apt-cache": "cat <<'END'\n" + policy + "END\n",
		"dpkg-query": "case \"$*\" in *Version*) v=1 ;; *) v='' ;; esac\necho \"install ok installed bash:amd64 ${v:+5.2}\"\necho \"deinstall ok config-files old:amd64 ${v:+1}\"\necho \"install ok half-configured tz:all ${v:+3}\"\n",
		"dpkg":       "[ \"$1\" != --print-architecture ] || echo amd64\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir + string(os.PathListSeparator) + os.Getenv("PATH")
}

// The scripts are run by this machine's shells where they can be; they only read.
func TestScripts_EveryShell_GivesACompleteAnswer(t *testing.T) {
	home, path := t.TempDir(), packageTools(t)
	require.NoError(t, os.WriteFile(filepath.Join(home, ".kato-upgrade-failed"), nil, 0o600))
	kato12 := filepath.Join(t.TempDir(), "kato")
	require.NoError(t, os.WriteFile(kato12, []byte("#!/bin/sh\necho 1.2.0\n"), 0o700))
	for _, shell := range shellsToTry(t) {
		for name, c := range map[string]struct {
			text string
			args []string
		}{
			"gates": {gatesScript, []string{"5", "", "0", "true", "exit 3"}}, "proof": {proofScript, nil}, "probe": {probeScript, nil}, "upgraded": {upgradedScript, nil},
			"preflight": {preflightScript, []string{"0", "0", "1", "1", "5", "", "0"}}, "record": {recordScript, []string{"x", "bash"}}, "prepare": {prepareScript, []string{"list"}},
			"candidates": {candidatesScript, []string{"bash"}}, "maintenance": {maintenanceScript, []string{"5", "echo", "true"}}, "roles": {rolesScript, []string{"5", "echo"}},
			"forget": {forgetScript, []string{"x"}}, "status": {statusScript, []string{"/", "/not there"}}, "full": {fullScript, []string{"/not/there yet"}}, "maintenance_set": {setMaintenanceScript, []string{"", "", "true", "printf true"}}, "maintenance_life": {lifeScript, []string{"x", "1"}},
			"release": {releaseScript, []string{"5", kato12, "1", "", "", "", "http://127.0.0.1:9"}}, "kato_says": {katoSaysScript, []string{"5", "echo", "v1.3.0"}},
		} {
			t.Run(shell[0]+"/"+name, func(t *testing.T) {
				cmd := exec.Command(shell[0], append(append(slices.Clone(shell[1:]), "-c", c.text, "sh"), c.args...)...)
				cmd.Env = append(os.Environ(), "HOME="+home, "PATH="+path)
				out, err := cmd.Output()
				a := parseAnswer(out)
				if err != nil || !a.complete {
					t.Fatalf("%v: %s", err, out)
				}
				switch name {
				case "gates":
					if d := cmp.Diff([]string{"0 0", "1 3"}, a.values["command"]); d != "" {
						t.Error(d)
					}
				case "proof":
					if _, ok := initAge(a.sections["init"], a.value("uptime"), a.value("ticks"), true); !ok || a.value("boot") == "" || a.value("release") == "" {
						t.Errorf("%s", out)
					}
				case "record":
					if d := cmp.Diff(map[string]string{"bash": "5.2", "tz": "3"}, parsePackages(a.sections["now"])); d != "" {
						t.Error(d)
					}
				case "status":
					n := statusOf(a, []string{"/", "/not there"}, false)
					if n.System == "" || n.BootedAt == "" || n.Kernel == "" || len(n.Storage) == 0 || !strings.Contains(n.Storage[0], "on the root volume (/)") {
						t.Errorf("%+v of %s", n, out)
					}
				case "kato_says":
					if kato.ParseVersion([]byte(a.sections["said"])) != "1.3.0" || a.exit("said-exit") != 0 {
						t.Errorf("%s", out)
					}
				case "release":
					if f := releaseOf(a); f.version != "1.2.0" || f.disk <= 0 || f.memory <= 0 || len(f.marks) != 1 || !strings.HasSuffix(f.marks[0], " "+home+"/.kato-upgrade-failed") || f.marks[0][0] == ' ' || len(f.unreached) != 1 || !strings.HasPrefix(f.unreached[0], "http://127.0.0.1:9 curl:") {
						t.Errorf("%+v of %s", f, out)
					}
				case "candidates":
					if parsePolicy(a.sections["policy"])["libssl3"].candidate == "" {
						t.Errorf("%s", out)
					}
				case "preflight":
					pending, _ := parsePending(a.sections["pending"])
					if packages, _ := unfinished(a); !slices.Equal(packages, []string{"tz"}) || len(pending) != 3 {
						t.Errorf("%s", out)
					}
					if len(parseSpace(a.sections["space"])) == 0 || a.value("user") == "" || a.value("now") == "" {
						t.Errorf("%s", out)
					}
				case "maintenance":
					if !strings.Contains(a.sections["mode"], "true") || a.exit("mode-exit") != 0 {
						t.Errorf("%s", out)
					}
				}
			})
		}
		t.Run(shell[0]+"/record", func(t *testing.T) {
			folder := filepath.Join(home, ".local/state/katoflow")
			if err := os.MkdirAll(folder, 0o700); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(shell[0], append(slices.Clone(shell[1:]), "-c", setMaintenanceScript, "sh", `{"operation":"a","token":1,"found":"off"}`, "", "", "printf true")...)
			cmd.Env = append(os.Environ(), "HOME="+home, "PATH="+path)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			b, err := os.ReadFile(filepath.Join(folder, "maintenance.json"))
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := parseRecord(string(b)); !ok {
				t.Errorf("%s", b)
			}
			if info, _ := os.Stat(filepath.Join(folder, "maintenance.json")); info.Mode().Perm() != 0o600 {
				t.Error(info.Mode())
			}
		})
	}
}
