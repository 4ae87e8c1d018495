package activities

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/operation"
)

const (
	grantedLine = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIImpZrPP8pfGG039fwTyH9Rhnfu1S8HUET2ompwBBsYi stackato@core"
	anotherLine = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGiwIGv/vKkDXETDlUp4uGZ5iwDzlkBEyy0j51a+CFtP somebody"
)

// shell is one of this machine's, with variables beside the test's own.
type shell struct{ argv, env []string }

func (s shell) with(env ...string) shell { return shell{s.argv, append(slices.Clone(s.env), env...)} }

// run runs a script with home as the user's.
func (s shell) run(home, text string, args ...string) (answer, error) {
	cmd := exec.Command(s.argv[0], append(append(slices.Clone(s.argv[1:]), "-c", text, "sh"), args...)...)
	cmd.Env = append(append(os.Environ(), "HOME="+home), s.env...)
	out, err := cmd.Output()
	return parseAnswer(out), err
}

// inShells runs a test with all of them, side by side.
func inShells(t *testing.T, do func(t *testing.T, sh shell)) {
	for _, argv := range shellsToTry(t) {
		t.Run(argv[0], func(t *testing.T) {
			t.Parallel()
			do(t, shell{argv: argv})
		})
	}
}

func TestKeysScript_LineIsAddedOnceAndTakenAway_TheRestStaysAsItIs(t *testing.T) {
	inShells(t, func(t *testing.T, sh shell) {
		for name, c := range map[string]struct {
			before string // "" = no file
			added  string // what is expected, "" = before
			gone   string // what is left after it is taken away
		}{
			"no file":                  {"", grantedLine + "\n", ""},
			"another one":              {anotherLine + "\n", anotherLine + "\n" + grantedLine + "\n", anotherLine + "\n"},
			"last line does not end":   {anotherLine, anotherLine + "\n" + grantedLine + "\n", anotherLine + "\n"},
			"there":                    {grantedLine + "\n", "", ""},
			"there, with options":      {`from="10.0.0.1",no-pty ` + grantedLine + "\n", "", ""},
			"there, another comment":   {strings.Replace(grantedLine, "stackato@core", "old name", 1) + "\n" + anotherLine + "\n", "", anotherLine + "\n"},
			"there, as a comment only": {"# " + grantedLine + "\n", "# " + grantedLine + "\n" + grantedLine + "\n", ""},
			"comments and empty lines": {"# mine\n\n" + anotherLine + "\n", "# mine\n\n" + anotherLine + "\n" + grantedLine + "\n", "# mine\n\n" + anotherLine + "\n"},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				home := t.TempDir()
				file := filepath.Join(home, ".ssh", "authorized_keys")
				if c.before != "" {
					require.NoError(t, os.Mkdir(filepath.Join(home, ".ssh"), 0o700))
					require.NoError(t, os.WriteFile(file, []byte(c.before), 0o640))
					require.NoError(t, os.Chmod(file, 0o640))
				}
				if c.added == "" {
					c.added = c.before
				}
				for range 2 {
					a, err := sh.run(home, keysScript, "add", "without", "", grantedLine)
					require.NoError(t, err)
					require.True(t, a.complete)
					now, err := os.ReadFile(file)
					require.NoError(t, err)
					require.Equal(t, c.added, string(now))
				}
				info, err := os.Stat(file)
				require.NoError(t, err)
				require.Equal(t, map[bool]os.FileMode{true: 0o600, false: 0o640}[c.before == ""], info.Mode().Perm())
				for _, told := range []string{"removed", "gone"} {
					a, err := sh.run(home, keysScript, "remove", "without", "", grantedLine)
					require.NoError(t, err)
					require.Equal(t, []string{grantedLine}, a.values[told])
					now, err := os.ReadFile(file)
					require.NoError(t, err)
					require.Equal(t, c.gone, string(now))
				}
				after, err := os.Stat(file)
				require.NoError(t, err)
				require.Equal(t, info.Mode(), after.Mode())
				left, err := filepath.Glob(filepath.Join(home, ".ssh", "katoflow*"))
				require.NoError(t, err)
				require.Empty(t, left)
			})
		}
	})
}

func TestKeysScript_Remove_TakesNothingElseAway(t *testing.T) {
	inShells(t, func(t *testing.T, sh shell) {
		home := t.TempDir()
		file := filepath.Join(home, ".ssh", "authorized_keys")
		require.NoError(t, os.Mkdir(filepath.Join(home, ".ssh"), 0o700))
		latin := strings.Replace(anotherLine, "somebody", "M\xfcller", 1)
		require.NoError(t, os.WriteFile(file, []byte(latin+"\n"+grantedLine+"\n"), 0o600))
		sh = sh.with("LC_ALL=C.UTF-8")
		a, err := sh.run(home, keysScript, "remove", "without", operation.KeyOf(grantedLine), grantedLine)
		require.NoError(t, err)
		require.Equal(t, []string{grantedLine}, a.values["guarded"])
		_, err = sh.run(home, keysScript, "remove", "without", "", grantedLine)
		require.NoError(t, err)
		now, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, latin+"\n", string(now))

		zeros := append([]byte(grantedLine+"\n"), make([]byte, 100)...)
		require.NoError(t, os.WriteFile(file, zeros, 0o600))
		for _, action := range []string{"add", "remove"} {
			a, err = sh.run(home, keysScript, action, "without", "", grantedLine)
			require.Error(t, err)
			require.Contains(t, a.value("failed"), "holds zero bytes")
			now, err = os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, zeros, now)
		}
	})
}

func TestKeysScript_ALink_StaysOne(t *testing.T) {
	inShells(t, func(t *testing.T, sh shell) {
		home := t.TempDir()
		elsewhere := filepath.Join(home, "keys")
		require.NoError(t, os.Mkdir(filepath.Join(home, ".ssh"), 0o700))
		require.NoError(t, os.WriteFile(elsewhere, []byte(anotherLine+"\n"), 0o600))
		file := filepath.Join(home, ".ssh", "authorized_keys")
		require.NoError(t, os.Symlink(elsewhere, file))
		for _, c := range [][2]string{{"add", anotherLine + "\n" + grantedLine + "\n"}, {"remove", anotherLine + "\n"}} {
			_, err := sh.run(home, keysScript, c[0], "without", "", grantedLine)
			require.NoError(t, err)
			now, err := os.ReadFile(elsewhere)
			require.NoError(t, err)
			require.Equal(t, c[1], string(now))
			info, err := os.Lstat(file)
			require.NoError(t, err)
			require.NotZero(t, info.Mode()&os.ModeSymlink)
		}
	})
}

func TestKeysScript_OwnKey_IsMadeOnceAndNeverWrittenOver(t *testing.T) {
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Skip("ssh-keygen is not installed")
	}
	inShells(t, func(t *testing.T, sh shell) {
		home := t.TempDir()
		a, err := sh.run(home, keysScript, "add", "make", "", grantedLine)
		require.NoError(t, err)
		require.NotEmpty(t, a.value("made"))
		require.NoError(t, operation.CheckPublicKey(a.value("public")))
		private := filepath.Join(home, ".ssh", "id_rsa")
		info, err := os.Stat(private)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
		key, err := os.ReadFile(private)
		require.NoError(t, err)

		// A public half that does not belong to it is not believed.
		require.NoError(t, os.WriteFile(private+".pub", []byte(anotherLine+"\n"), 0o644))
		b, err := sh.run(home, keysScript, "add", "make", "", grantedLine)
		require.NoError(t, err)
		require.Empty(t, b.value("made"))
		require.Equal(t, operation.KeyOf(a.value("public")), operation.KeyOf(b.value("public")))
		again, err := os.ReadFile(private)
		require.NoError(t, err)
		require.Equal(t, key, again)
		lines, err := os.ReadFile(filepath.Join(home, ".ssh", "authorized_keys"))
		require.NoError(t, err)
		require.Equal(t, 2, strings.Count(string(lines), "\n"))
		left, err := filepath.Glob(filepath.Join(home, ".ssh", "katoflow*"))
		require.NoError(t, err)
		require.Empty(t, left)

		// Without the private half nothing is made beside the public one.
		require.NoError(t, os.Remove(private))
		c, err := sh.run(home, pairScript, "1")
		require.Error(t, err)
		require.Contains(t, c.value("no-key"), "move it away")
	})
}

func TestKeysScript_OthersMayWrite_IsTold(t *testing.T) {
	inShells(t, func(t *testing.T, sh shell) {
		home := t.TempDir()
		require.NoError(t, os.Mkdir(filepath.Join(home, ".ssh"), 0o700))
		require.NoError(t, os.Chmod(filepath.Join(home, ".ssh"), 0o775))
		a, err := sh.run(home, keysScript, "add", "without", "", grantedLine)
		require.NoError(t, err)
		require.Equal(t, []string{filepath.Join(home, ".ssh") + " 775"}, a.values["loose"])
	})
}

// aServer stands for sshd, what reloads it, and a client: what is in force is a copy that a reload makes.
const aServer = `#!/bin/sh
case $(basename "$0") in
sshd) grep -q BROKEN "${3:-$CONFIG}" && { echo "line 1: BROKEN"; exit 255; }; exit 0 ;;
systemctl | service) [ ! -e "$STATE/reload-fails" ] || { echo "Job for ssh.service failed."; exit 1; }; [ -e "$STATE/never" ] || cat "$CONFIG" >"$STATE/in-force" ;;
ssh)
	ways=publickey,password
	if grep -q '^PasswordAuthentication no' "$STATE/in-force" && ! grep -q '^Match' "$STATE/in-force"; then ways=publickey; fi
	echo "user@host: Permission denied ($ways)." >&2
	exit 255
	;;
sleep)
	if [ -e "$STATE/kill" ] && [ -e "$CONFIG.katoflow-trial" ] && tr '\\0' ' ' <"/proc/$PPID/cmdline" | grep -q 'action=.1 confirmed'; then
		rm "$STATE/kill"
		kill -9 "$PPID"
	fi
	[ ! -e "$STATE/confirm" ] || touch "$(cat "$STATE/confirm")"
	/bin/sleep 0.05
	;;
sync) ;;
esac
`

func TestPasswordsScript_OnTrial_KeptWhenConfirmedAndElseAsItWas(t *testing.T) {
	inShells(t, func(t *testing.T, sh shell) {
		const first = "# the site's own\nPort 22\nUsePAM yes\n"
		for name, c := range map[string]struct {
			before  string
			state   string // a file that makes something go wrong
			confirm string // what is made while it waits
			told    string
			failed  string
			changed bool
		}{
			"confirmed":       {before: first, confirm: "confirmed", told: "changed", changed: true},
			"nobody confirms": {before: first, told: "reverted"},
			"called off":      {before: first, confirm: "confirmed.not", told: "reverted"},
			"killed":          {before: first, state: "kill"},
			"our lines, cut":  {before: first + "# katoflow: password logins are off; katoflow access revoke --restore-passwords takes this away\nPort 2222\n", failed: "whether somebody has changed katoflow's lines"},
			"Match block":     {before: first + "Match User stackato\nPasswordAuthentication yes\n", failed: "look for a Match block"},
			"never reloads":   {before: first, state: "never", failed: "sshd still offers"},
			"reload fails":    {before: first, state: "reload-fails", failed: "sshd was not reloaded"},
			"refused":         {before: first + "BROKEN\n", failed: "sshd refuses the new configuration"},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				bin, state, config := filepath.Join(dir, "bin"), filepath.Join(dir, "state"), filepath.Join(dir, "sshd_config")
				require.NoError(t, os.Mkdir(bin, 0o700))
				require.NoError(t, os.Mkdir(state, 0o700))
				for _, program := range []string{"sshd", "systemctl", "service", "ssh", "sleep", "sync"} {
					require.NoError(t, os.WriteFile(filepath.Join(bin, program), []byte(aServer), 0o700))
				}
				require.NoError(t, os.WriteFile(config, []byte(c.before), 0o640))
				require.NoError(t, os.Chmod(config, 0o640))
				require.NoError(t, os.WriteFile(filepath.Join(state, "in-force"), []byte(c.before), 0o600))
				if c.state != "" {
					require.NoError(t, os.WriteFile(filepath.Join(state, c.state), nil, 0o600))
				}
				if c.confirm != "" {
					require.NoError(t, os.WriteFile(filepath.Join(state, "confirm"), []byte(filepath.Join(dir, c.confirm)), 0o600))
				}
				sh := sh.with("CONFIG="+config, "STATE="+state, "PATH="+bin+":"+os.Getenv("PATH"))
				text := strings.ReplaceAll(passwordsScript, "config=/etc/ssh/sshd_config", "config="+config)
				act := func(action string) (answer, error) {
					return sh.run(dir, text, action, filepath.Join(dir, "confirmed"), "3", "stackato", "10.0.0.1", "22")
				}
				a, err := act("off")
				if c.state == "kill" {
					require.Eventually(t, func() bool {
						_, err := os.Stat(config + ".katoflow-trial")
						inForce, readErr := os.ReadFile(filepath.Join(state, "in-force"))
						return errors.Is(err, os.ErrNotExist) && readErr == nil && string(inForce) == c.before
					}, 30*time.Second, 20*time.Millisecond, "it is taken back although nobody is there")
				}
				now, readErr := os.ReadFile(config)
				require.NoError(t, readErr)
				info, statErr := os.Stat(config)
				require.NoError(t, statErr)
				require.Equal(t, os.FileMode(0o640), info.Mode().Perm())
				inForce, readErr := os.ReadFile(filepath.Join(state, "in-force"))
				require.NoError(t, readErr)
				left, globErr := filepath.Glob(config + ".*")
				require.NoError(t, globErr)
				require.Empty(t, left)
				if !c.changed {
					require.Error(t, err)
					require.Equal(t, c.before, string(now))
					if c.state == "" || c.state == "kill" {
						require.Equal(t, c.before, string(inForce))
					}
					require.Contains(t, a.value("failed"), c.failed)
					if c.told != "" {
						require.NotEmpty(t, a.value(c.told))
					}
					return
				}
				require.NoError(t, err)
				require.NotEmpty(t, a.value(c.told))
				require.Equal(t, string(now), string(inForce))
				require.True(t, strings.HasSuffix(string(now), "# katoflow: end\n"+c.before))
				a, err = act("off")
				require.NoError(t, err)
				require.NotEmpty(t, a.value("unchanged"))
				a, err = act("on")
				require.NoError(t, err)
				require.NotEmpty(t, a.value("changed"))
				now, err = os.ReadFile(config)
				require.NoError(t, err)
				require.Equal(t, c.before, string(now))
				a, err = act("on")
				require.NoError(t, err)
				require.NotEmpty(t, a.value("unchanged"))
			})
		}
	})
}

func TestOffered_WhatAServerSays(t *testing.T) {
	require.Equal(t, []string{"publickey", "password"}, offered("Warning: Permanently added\nstackato@10.0.0.1: Permission denied (publickey,password).\r\n"))
	require.Nil(t, offered("ssh: connect to host 10.0.0.1 port 22: Connection refused"))
	require.Nil(t, offered("Permission denied (publickey"))
	require.Equal(t, "its host key has changed: see why, and remove the old one there with ssh-keygen -R", tellingSSH("@@@\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nHost key verification failed.\n"))
	require.Equal(t, "a@b: Permission denied (publickey).", tellingSSH("banner\r\na@b: Permission denied (publickey).\r\n"))
}
