package simcluster

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

const loginKeys = "/home/admin/.ssh/authorized_keys"

// logInBy tries to log in with these methods alone.
func logInBy(t *testing.T, n *Node, user string, auth ...ssh.AuthMethod) error {
	t.Helper()
	c, err := ssh.Dial("tcp", net.JoinHostPort(n.Address(), strconv.Itoa(n.Port())), &ssh.ClientConfig{User: user, Auth: auth, HostKeyCallback: ssh.FixedHostKey(n.HostKey()), Timeout: 5 * time.Second})
	if err == nil {
		c.Close()
	}
	return err
}

// answering answers every question, and notes them.
func answering(answer string, asked *[]string) ssh.AuthMethod {
	return ssh.KeyboardInteractive(func(_, _ string, questions []string, echos []bool) ([]string, error) {
		var out []string
		for i, q := range questions {
			*asked = append(*asked, fmt.Sprintf("%s%v", q, echos[i]))
			out = append(out, answer)
		}
		return out, nil
	})
}

// newKey is another key and its line of authorized_keys.
func newKey(t *testing.T) (ssh.Signer, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	signer, err := ssh.NewSignerFromKey(private)
	require.NoError(t, err)
	return signer, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))) + " other\n"
}

// asRoot runs a script that must end well.
func asRoot(t *testing.T, c *ssh.Client, script string) string {
	t.Helper()
	r := run(t, c, "sudo -n sh -e", script)
	require.Equal(t, 0, r.exit, "%s%s", r.out, r.err)
	return r.out
}

func TestLogin_ByKey_GoesByTheFilesOfTheMoment(t *testing.T) {
	n := oneNode(t, Config{Platform: "plain"})
	c := dial(t, n)
	require.Equal(t, []string{strings.TrimSpace(n.cluster.operatorLine())}, n.AuthorizedKeys())
	require.Equal(t, 1, n.LoginsBy("publickey"))
	signer, line := newKey(t)
	other := func() error { return logInBy(t, n, "admin", ssh.PublicKeys(signer)) }
	require.Error(t, other())

	put := func(lines string) { require.NoError(t, n.tree.put(loginKeys, n.cluster.operatorLine()+lines, 0o600)) }
	for _, options := range []string{"", `from="127.0.0.0/8,!127.9.9.9",restrict `, `command="echo \"a b\"",no-pty `, `environment="A=a b" `, "restrict,pty "} {
		put("# a comment\n\nnonsense\n" + options + line)
		require.NoError(t, other(), options)
	}
	require.Equal(t, 6, n.LoginsBy("publickey"))
	require.Error(t, logInBy(t, n, "root", ssh.PublicKeys(signer)))
	for _, options := range []string{`from="10.*" `, `from="!127.*,*" `, "cert-authority "} {
		put(options + line)
		require.Error(t, other(), options)
	}
	put(line[:40] + "\n")
	require.Error(t, other())

	// The second file is in force as well, as with any sshd.
	put("")
	require.NoError(t, n.tree.put(loginKeys+"2", line, 0o600))
	require.NoError(t, other())
	require.Equal(t, 0, run(t, c, "rm .ssh/authorized_keys2").exit)
	require.Error(t, other())
	put(line)
	require.NoError(t, other())

	for _, change := range []string{"chmod 0660 .ssh/authorized_keys", "chmod o+w .ssh", "chmod 775 .", "sudo -n rm .ssh/authorized_keys"} {
		require.Equal(t, 0, run(t, c, change).exit)
		require.Error(t, other(), change)
		_, err := tryDial(t, n)
		require.Error(t, err, change)
		require.Equal(t, 0, run(t, c, "chmod 755 .; chmod 700 .ssh; [ ! -e .ssh/authorized_keys ] || chmod 644 .ssh/authorized_keys").exit)
	}
	put(line)
	asRoot(t, c, "printf 'StrictModes no\\n' >>/etc/ssh/sshd_config; systemctl reload ssh")
	require.Equal(t, 0, run(t, c, "chmod 777 .ssh").exit)
	require.NoError(t, other())
}

func TestLogin_ByPassword_GoesByTheConfigurationOfTheLastReload(t *testing.T) {
	n := oneNode(t, Config{Platform: "plain"})
	c := dial(t, n)
	require.Equal(t, []string{"publickey", "password"}, n.OfferedMethods())
	require.Error(t, logInBy(t, n, "admin", ssh.Password("")), "there is none")
	n.SetPassword("sesame")
	require.NoError(t, logInBy(t, n, "admin", ssh.Password("sesame")))
	require.Error(t, logInBy(t, n, "admin", ssh.Password("wrong")))
	require.Error(t, logInBy(t, n, "root", ssh.Password("sesame")))
	require.Equal(t, 1, n.LoginsBy("password"))
	var asked []string
	require.Error(t, logInBy(t, n, "admin", answering("sesame", &asked)), "not offered")

	asRoot(t, c, "sed -i 's/^KbdInteractiveAuthentication no/KbdInteractiveAuthentication yes/' /etc/ssh/sshd_config")
	require.Equal(t, []string{"publickey", "password"}, n.OfferedMethods(), "not reloaded")
	asRoot(t, c, "service ssh reload")
	require.Equal(t, []string{"publickey", "password", "keyboard-interactive"}, n.OfferedMethods())
	require.NoError(t, logInBy(t, n, "admin", answering("sesame", &asked)))
	require.Equal(t, []string{"Password: false"}, asked)
	require.Error(t, logInBy(t, n, "admin", answering("wrong", &asked)))
	require.Equal(t, 1, n.LoginsBy("keyboard-interactive"))

	// What is included comes first, so that it wins.
	asRoot(t, c, "printf 'PasswordAuthentication no\\nKbdInteractiveAuthentication no\\n' >/etc/ssh/sshd_config.d/10-a.conf; printf 'PasswordAuthentication yes\\n' >>/etc/ssh/sshd_config; printf 'Nonsense\\n' >/etc/ssh/sshd_config.d/a.conf.off; sshd -t; systemctl reload ssh.service")
	require.Equal(t, []string{"publickey"}, n.OfferedMethods())
	require.Error(t, logInBy(t, n, "admin", ssh.Password("sesame")))
	_, err := tryDial(t, n)
	require.NoError(t, err)

	// A Match block has the last word, for whom it means.
	asRoot(t, c, "printf 'Match User nobody,adm*\\n  PasswordAuthentication yes\\nMatch all\\n  PasswordAuthentication no\\n' >>/etc/ssh/sshd_config; systemctl reload sshd")
	require.NoError(t, logInBy(t, n, "admin", ssh.Password("sesame")))
	asRoot(t, c, "sed -i 's/^Match User .*/Match User !admin,* Address 127.0.0.0\\/8/' /etc/ssh/sshd_config; systemctl reload ssh")
	require.Error(t, logInBy(t, n, "admin", ssh.Password("sesame")))

	// A configuration that is wrong stays out of force, and is fatal to a restart.
	before := n.OfferedMethods()
	asRoot(t, c, "cp -p /etc/ssh/sshd_config /root/kept; printf 'PasswordAuthentication yes\\nNonsense yes\\n' >/etc/ssh/sshd_config")
	r := run(t, c, "sudo -n sshd -t")
	require.Equal(t, result{err: "/etc/ssh/sshd_config: line 2: Bad configuration option: Nonsense\n/etc/ssh/sshd_config: terminating, 1 bad configuration options\n", exit: 255}, r)
	r = run(t, c, "sudo -n systemctl reload ssh")
	require.Equal(t, 1, r.exit)
	require.Contains(t, r.err, "Job for ssh.service failed.\n")
	require.Equal(t, before, n.OfferedMethods())
	_, err = tryDial(t, n)
	require.NoError(t, err)
	require.Equal(t, 1, run(t, c, "sudo -n systemctl restart ssh").exit)
	_, err = tryDial(t, n)
	require.ErrorContains(t, err, "refused")
	require.Equal(t, result{out: "activating\n", exit: 3}, run(t, c, "systemctl is-active ssh"), "open connections stay")
	asRoot(t, c, "cp -p /root/kept /etc/ssh/sshd_config")
	eventually(t, "systemd starts it by itself", func() bool { return run(t, c, "systemctl is-active ssh").exit == 0 })
	asRoot(t, c, "echo Nonsense >>/etc/ssh/sshd_config")
	require.Equal(t, 1, run(t, c, "sudo -n systemctl restart ssh").exit)
	eventually(t, "systemd gives up", func() bool { return run(t, c, "systemctl is-active ssh").out == "failed\n" })
	asRoot(t, c, "cp -p /root/kept /etc/ssh/sshd_config")
	require.Equal(t, 1, run(t, c, "sudo -n systemctl restart ssh").exit, "too soon")
	require.Equal(t, 1, run(t, c, "sudo -n systemctl reload ssh").exit)
	asRoot(t, c, "systemctl reset-failed ssh; systemctl start ssh")
	dial(t, n)
	asRoot(t, c, "echo Nonsense >>/etc/ssh/sshd_config; kill -HUP $(cat /run/sshd.pid)")
	require.Equal(t, result{out: "failed\n", exit: 3}, run(t, c, "systemctl is-active ssh"))
	n.RebootNow()
	eventually(t, "the second boot", func() bool { return n.Boots() == 2 && n.Running() })
	_, err = tryDial(t, n)
	require.ErrorContains(t, err, "refused")
	require.NoError(t, n.tree.put(sshdConfigPath, sshdConfigText, 0o644))
	n.Heal()
	require.Equal(t, result{out: "active\n"}, run(t, dial(t, n), "systemctl is-active ssh"))
}

func TestSSHD_Old_HasTwoSettingsForKeyboardInteractive(t *testing.T) {
	n := oneNode(t, Config{Platform: "plain", Nodes: []NodeConfig{{Name: "old", OldSSHD: true}}})
	c := dial(t, n)
	n.SetPassword("sesame")
	require.Equal(t, []string{"publickey", "password"}, n.OfferedMethods())
	r := run(t, c, "printf 'Include /etc/ssh/sshd_config.d/*.conf\n' >bad; sudo -n sshd -t -f bad")
	require.Equal(t, 255, r.exit)
	require.Contains(t, r.err, "line 1: Bad configuration option: Include\n")
	// KbdInteractiveAuthentication is known and does nothing as long as the other one is on, which it is by default.
	asRoot(t, c, "sed -i 's/^ChallengeResponseAuthentication no/KbdInteractiveAuthentication no/' /etc/ssh/sshd_config; systemctl reload ssh")
	require.Equal(t, []string{"publickey", "password", "keyboard-interactive"}, n.OfferedMethods())
	require.Contains(t, asRoot(t, c, "sshd -T"), "kbdinteractiveauthentication yes\nchallengeresponseauthentication yes\n")
	asRoot(t, c, "printf 'ChallengeResponseAuthentication no\nPasswordAuthentication no\n' >>/etc/ssh/sshd_config; systemctl reload ssh")
	require.Equal(t, []string{"publickey"}, n.OfferedMethods())
	r = run(t, c, "printf 'Match all\nChallengeResponseAuthentication no\n' >bad; sudo -n sshd -t -f bad")
	require.Contains(t, r.err, "Directive 'ChallengeResponseAuthentication' is not allowed within a Match block\n")
	r = run(t, c, "sudo -n sshd -T -C user=admin")
	require.Equal(t, 1, r.exit)
}

func TestSSHD_FaultsOfReloads_AreUndoneByWhatUndoesThem(t *testing.T) {
	n := oneNode(t, Config{Platform: "plain"})
	c := dial(t, n)
	n.SetPassword("sesame")
	n.BreakKeyLoginsOnReload(true)
	dial(t, n)
	asRoot(t, c, "cp -p /etc/ssh/sshd_config /root/kept; printf 'LoginGraceTime 60\\n' >>/etc/ssh/sshd_config; systemctl reload ssh")
	_, err := tryDial(t, n)
	require.Error(t, err)
	require.NoError(t, logInBy(t, n, "admin", ssh.Password("sesame")))
	asRoot(t, c, "systemctl reload ssh")
	_, err = tryDial(t, n)
	require.Error(t, err, "the same configuration")
	asRoot(t, c, "mv /root/kept /etc/ssh/sshd_config; systemctl reload ssh")
	dial(t, n)

	n.SSHDNeverReloads(true)
	asRoot(t, c, "printf 'PasswordAuthentication no\\n' >/etc/ssh/sshd_config.d/a.conf; systemctl reload ssh")
	require.Equal(t, []string{"publickey", "password"}, n.OfferedMethods())
	require.Contains(t, asRoot(t, c, "sshd -T"), "\npasswordauthentication no\n", "the file says so")
	asRoot(t, c, "systemctl restart ssh")
	require.Equal(t, []string{"publickey"}, n.OfferedMethods())
	n.SSHDNeverReloads(false)
	asRoot(t, c, "rm /etc/ssh/sshd_config.d/a.conf; systemctl reload ssh")
	require.Equal(t, []string{"publickey", "password"}, n.OfferedMethods())

	n.ReadOnlyHome(true)
	for _, script := range []string{"echo a >>.ssh/authorized_keys", "echo a >.ssh/new", "mkdir .ssh/d", "mv .ssh/authorized_keys x", "rm .ssh/authorized_keys", "chmod 600 .ssh/authorized_keys", "sudo -n touch .ssh/x", "test -w .ssh"} {
		r := run(t, c, script)
		require.NotEqual(t, 0, r.exit, script)
		if !strings.HasPrefix(script, "test") {
			require.Contains(t, r.err, "Read-only file system", script)
		}
	}
	require.Equal(t, 0, run(t, c, "cat .ssh/authorized_keys && touch other").exit)
	require.NoError(t, n.Inject("read-only-home", "off"))
	require.Equal(t, 0, run(t, c, "echo a >>.ssh/authorized_keys").exit)
	require.Len(t, n.AuthorizedKeys(), 2)
}

func TestSSHClient_OptionsAndMessages_AreOpenSSHs(t *testing.T) {
	_, core, _ := alsCluster(t, Config{})
	dea := core.cluster.Node("dea-1")
	c := dial(t, core)
	ssh := "ssh -F none -n -T -o BatchMode=yes "
	require.Equal(t, result{out: "dea-1\n"}, run(t, c, ssh+dea.Address()+" hostname"))
	require.Equal(t, 1, dea.LoginsBy("publickey"))
	denied := "stackato@" + dea.Address() + ": Permission denied (publickey,password).\r\n"
	for _, o := range []string{"-o PreferredAuthentications=none", "-o PreferredAuthentications=password", "-o PubkeyAuthentication=no -o PasswordAuthentication=no", "-o IdentitiesOnly=yes -i .ssh/id_ed25519 -o PreferredAuthentications=none"} {
		require.Equal(t, result{err: denied, exit: 255}, run(t, c, ssh+o+" "+dea.Address()+" true"), o)
	}
	require.Equal(t, result{err: "Warning: Identity file nofile not accessible: No such file or directory.\n" + denied, exit: 255}, run(t, c, ssh+"-i nofile "+dea.Address()+" true"))
	require.Equal(t, result{err: "command-line line 0: unsupported option \"maybe\".\r\n", exit: 255}, run(t, c, ssh+"-o PubkeyAuthentication=maybe "+dea.Address()+" true"))
	for strict, want := range map[string]string{
		"ask": "Host key verification failed.\r\n", "yes": "No ED25519 host key is known for " + dea.Address() + " and you have requested strict checking.\r\nHost key verification failed.\r\n",
		"accept-new": "Warning: Permanently added '" + dea.Address() + "' (ED25519) to the list of known hosts.\r\n",
	} {
		r := run(t, c, "rm -f kh; "+ssh+"-o UserKnownHostsFile=kh -o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking="+strict+" "+dea.Address()+" true")
		require.Equal(t, want, r.err, strict)
		require.Equal(t, strict == "accept-new", r.exit == 0, strict)
	}
	require.Equal(t, 0, run(t, c, ssh+"-o UserKnownHostsFile=kh -o StrictHostKeyChecking=accept-new "+dea.Address()+" true; wc -l <kh").exit)
	require.Equal(t, 0, run(t, c, "mv kh gkh; "+ssh+"-o UserKnownHostsFile=/dev/null -o GlobalKnownHostsFile=gkh "+dea.Address()+" true").exit)
	// The server's own configuration and files decide.
	asRoot(t, dial(t, dea), "printf 'PasswordAuthentication no\\n' >/etc/ssh/sshd_config.d/a.conf; systemctl reload ssh; chmod g+w /home/stackato/.ssh")
	require.Equal(t, result{err: "stackato@" + dea.Address() + ": Permission denied (publickey).\r\n", exit: 255}, run(t, c, ssh+dea.Address()+" true"))
	dea.ChangeHostKey()
	r := run(t, c, ssh+dea.Address()+" true")
	require.Contains(t, r.err, "REMOTE HOST IDENTIFICATION HAS CHANGED")
	require.True(t, strings.HasSuffix(r.err, "\r\nHost key verification failed.\r\n"))
	require.Equal(t, 0, run(t, dial(t, core), "chmod 644 .ssh/id_ed25519").exit)
	require.Contains(t, run(t, c, ssh+core.Address()+" true").err, "are too open")
}

// real runs a program of this machine in a folder.
func real(t *testing.T, dir, script string) result {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	r := result{}
	if err := cmd.Run(); err != nil {
		r.exit = cmd.ProcessState.ExitCode()
	}
	r.out, r.err = out.String(), errs.String()
	return r
}

func TestSSHKeygen_PrintsWhatTheRealOnePrints(t *testing.T) {
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Skip("this machine has no ssh-keygen")
	}
	n := oneNode(t, Config{Platform: "plain"})
	c, dir := dial(t, n), t.TempDir()
	script := "ssh-keygen -q -t ed25519 -N '' -C 'a comment' -f k && ssh-keygen -q -t rsa -b 2048 -N '' -f r && ssh-keygen -q -t ecdsa -N '' -C e -f e && stat -c '%n %a' k k.pub"
	require.Equal(t, result{out: "k 600\nk.pub 644\n"}, run(t, c, script))
	// The same keys on both sides: those of the node.
	for _, f := range []string{"k", "k.pub", "r", "r.pub", "e", "e.pub"} {
		text, err := n.ReadFile("/home/admin/" + f)
		require.NoError(t, err)
		mode := os.FileMode(0o600)
		if strings.HasSuffix(f, ".pub") {
			mode = 0o644
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, f), text, mode))
	}
	prepare := `printf '# c\n\nfrom="1.2.3.4",restrict %s\nbad\n%s' "$(cat r.pub)" "$(cat k.pub)" >ak; cut -d' ' -f1,2 k.pub >nc; echo hello >nokey; chmod 600 nokey; rm -f k2; cp -p k k2; cp k k3; chmod 644 k3`
	require.Equal(t, run(t, c, prepare), real(t, dir, prepare))
	for _, script := range []string{
		"ssh-keygen -l -f k", "ssh-keygen -lf k.pub", "ssh-keygen -l -f r", "ssh-keygen -lf e.pub", "ssh-keygen -l -E md5 -f k.pub", "ssh-keygen -l -f ak", "ssh-keygen -l -f - <ak", "ssh-keygen -lf nc", "ssh-keygen -lf k2",
		"ssh-keygen -y -f k", "ssh-keygen -y -f r", "ssh-keygen -y -f e", "echo hi | ssh-keygen -l -f -", "ssh-keygen -l -f nofile", "ssh-keygen -y -f nofile", "ssh-keygen -y -f k3", "ssh-keygen -y -f nokey", "ssh-keygen -lf nokey",
		"ssh-keygen -q -t ed25519 -N '' -f k </dev/null", "ssh-keygen -q -t rsa -b 512 -N '' -f z", "ssh-keygen -q -t foo -N '' -f z", "ssh-keygen -q -t ed25519 -N '' -f /nodir/k",
	} {
		require.Equal(t, real(t, dir, script), run(t, c, script), script)
	}
	require.Equal(t, 0, run(t, c, "printf 'y\\n' | ssh-keygen -q -t ed25519 -N '' -f k && ssh-keygen -q -t ed25519 -N secret -f p").exit)
	require.Equal(t, 255, run(t, c, "ssh-keygen -y -f p </dev/null").exit)
	require.Equal(t, 0, run(t, c, "ssh-keygen -y -P secret -f p").exit)
	n.ReadOnlyHome(true)
	require.Equal(t, result{err: "Saving key \".ssh/k\" failed: Read-only file system\r\n", exit: 1}, run(t, c, "ssh-keygen -q -t ed25519 -N '' -f .ssh/k"))
}

func TestSSHDProgram_SaysWhatTheRealOneSays(t *testing.T) {
	sshd := "/usr/sbin/sshd"
	if _, err := os.Stat(sshd); err != nil || os.Getuid() != 0 {
		t.Skip("this machine has no sshd, or the test is not root")
	}
	if out := real(t, "/", sshd+" -V 2>&1; ssh -V 2>&1"); !strings.Contains(out.out, "OpenSSH_9.2") {
		t.Skip("messages differ from version to version")
	}
	n := oneNode(t, Config{Platform: "plain"})
	c, dir := dial(t, n), t.TempDir()
	require.Equal(t, 0, real(t, dir, "mkdir -p /run/sshd; ssh-keygen -q -t ed25519 -N '' -f hk").exit)
	require.Equal(t, 0, run(t, c, "mkdir -p "+dir+"/x.d || sudo -n install -d -o admin "+dir+" "+dir+"/x.d").exit)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "x.d"), 0o755))
	keywords := `grep -E '^(port|addressfamily|usepam|permitrootlogin|pubkeyauthentication|passwordauthentication|kbdinteractiveauthentication|strictmodes|permitemptypasswords|allowusers|denyusers|authorizedkeysfile|authenticationmethods|maxauthtries|maxsessions) '`
	for i, config := range []string{
		"", "Foo yes\nBar no\nPasswordAuthentication maybe", "PasswordAuthentication maybe", "UsePAM", "UsePAM yes no\nFoo", "Match User bob\n UsePAM yes", "Match Foo bob\n PasswordAuthentication yes", "Match\n PasswordAuthentication yes",
		"Match all User a\n", "StrictModes off", "PermitRootLogin true", `PasswordAuthentication "no" # so`, "PasswordAuthentication=no", "passwordauthentication = No",
		"ChallengeResponseAuthentication no\nKbdInteractiveAuthentication yes\nAuthorizedKeysFile a b c\nPort 23\nMatch User nobody\n PasswordAuthentication no\n PubkeyAuthentication no\nMatch all\n KbdInteractiveAuthentication yes\n PasswordAuthentication yes",
		"Protocol 2\nUsePrivilegeSeparation yes\nPermitRootLogin prohibit-password\nPubkeyAuthentication YES", "PubkeyAuthentication true", "DenyUsers a b\nAllowUsers c*\nDenyUsers d\nAuthenticationMethods publickey,password publickey",
		"Include " + dir + "/x.d/*.conf\nPasswordAuthentication yes\nPubkeyAuthentication no", "Match User root\nInclude " + dir + "/x.d/*.conf\nPasswordAuthentication yes", "Match Address 10.0.0.0/8,!10.1.0.0/16\nPasswordAuthentication no\nMatch Host h,b*\nPubkeyAuthentication no",
		"PasswordAuthentication \"no",
	} {
		for _, included := range []string{"PasswordAuthentication no\nMatch User nobody\nKbdInteractiveAuthentication no\n", "Foo\n"} {
			if !strings.Contains(config, "Include") && included == "Foo\n" {
				continue
			}
			text := "HostKey " + dir + "/hk\n" + config + "\n"
			require.NoError(t, os.WriteFile(filepath.Join(dir, "c"), []byte(text), 0o644))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "x.d/a.conf"), []byte(included), 0o644))
			require.NoError(t, n.tree.put(dir+"/c", text, 0o644))
			require.NoError(t, n.tree.put(dir+"/x.d/a.conf", included, 0o644))
			for _, args := range []string{"-t", "-T", "-T -C user=nobody,host=h,addr=10.2.3.4", "-T -C user=root,addr=10.1.2.3,host=bob"} {
				script := sshd + " " + args + " -f c"
				if args != "-t" {
					script += " | " + keywords
				}
				want := real(t, dir, script)
				want.err = strings.ReplaceAll(want.err, "\r", "")
				got := run(t, c, "cd "+dir+"; sudo -n "+script)
				got.err = strings.ReplaceAll(got.err, "\r", "")
				require.Equal(t, want, got, "%d %s: %s", i, args, text)
			}
		}
	}
	require.Equal(t, result{err: "nofile: No such file or directory\n", exit: 1}, run(t, c, "sudo -n sshd -t -f nofile"))
	require.Equal(t, result{err: "sshd: no hostkeys available -- exiting.\n", exit: 1}, strippedCRs(run(t, c, "/usr/sbin/sshd -T")))
	require.Equal(t, 1, run(t, c, "sudo -n sshd -T -C foo=1").exit)
}

func strippedCRs(r result) result {
	r.err = strings.ReplaceAll(r.err, "\r", "")
	return r
}

func TestPrograms_ThatHandleKeyFiles_DoAsTheRealOnes(t *testing.T) {
	n := oneNode(t, Config{Platform: "plain"})
	c, dir := dial(t, n), t.TempDir()
	for _, script := range []string{
		"umask 077; printf 'a\\nb c\\nd' >f; stat -c '%a' f; tail -c1 f; chmod 640 f; cp -p f g; stat -c '%a' g; test f -ot g || test ! f -ot g && echo same; cp f h; stat -c '%a' h",
		"touch r; chmod 604 r; chmod --reference=f r; stat -c %a r; chmod --reference=nofile r 2>&1; chown --reference=f r; echo $?",
		"grep -v -F -x -e 'b c' f; grep -F -x -q 'b' f; echo $?; grep -Fxq -- 'b c' f; echo $?; printf 'a\\nd\\n' >p; grep -vFxf p f; grep -cFxf p f; : >e; grep -Ff e f; echo $?; grep -vFxf e f | wc -l",
		"t=$(mktemp f.XXXXXX); stat -c %a \"$t\"; mv -f \"$t\" z; mktemp -p . q.XXXX | cut -c1-4; t=$(mktemp ./.ak.XXXXXX) && cp -p f \"$t\" && mv -f \"$t\" f && cat f",
		"printf 'k\\n' | install -m 600 /dev/stdin i; stat -c %a i; cat i; install -m 644 i j; stat -c %a j; sync f; echo $?",
		"cp nofile x 2>&1; mkdir -p d; cp d x 2>&1; echo $?",
	} {
		want, got := real(t, dir, script), run(t, c, script)
		require.Equal(t, want.out, got.out, script)
		require.Equal(t, want.exit, got.exit, script)
	}
	require.Equal(t, result{out: "admin:x:1000:1000:,,,:/home/admin:/bin/bash\n"}, run(t, c, "getent passwd admin"))
	require.Equal(t, "/home/admin\n", run(t, c, "getent passwd \"$(id -un)\" | cut -d: -f6").out)
	require.Equal(t, 2, run(t, c, "getent passwd nobody1").exit)
	require.Equal(t, result{out: "admin:admin 600\nroot:root 644\n"}, run(t, c, "stat -c '%U:%G %a' .ssh/authorized_keys /etc/ssh/sshd_config"))
	require.Equal(t, "root admin\n", asRoot(t, c, "cd /home/admin; cp .ssh/authorized_keys k; a=$(stat -c %U k); chown --reference=.ssh/authorized_keys k; echo $a $(stat -c %U k)"))
	require.Contains(t, run(t, c, "systemctl cat ssh").out, "\nExecReload=/usr/sbin/sshd -t\n")
}
