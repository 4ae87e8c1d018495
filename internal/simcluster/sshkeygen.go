package simcluster

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
)

// sshKeygen is ssh-keygen: it makes a key (-t, -b, -N, -C, -f, -q), prints the public half of one (-y) and fingerprints (-l, -E).
func sshKeygen(c *invocation) int {
	opts, rest := c.getopt("qt:b:N:C:f:ylE:P:vo", nil)
	if opts == nil || len(rest) > 0 {
		return 1
	}
	has := func(o string) bool { _, ok := opts[o]; return ok }
	file := opts["f"]
	if !has("f") {
		file = c.env["HOME"] + "/.ssh/" + map[bool]string{true: "id_" + opts["t"], false: "id_rsa"}[has("t")]
		question := "Enter file in which to save the key (" + file + "): "
		if has("l") || has("y") {
			question = "Enter file in which the key is (" + file + "): "
		}
		c.printf("%s", question)
		answer, err := bufio.NewReader(c.stdin()).ReadString('\n')
		if err != nil {
			return 1
		}
		if answer = strings.TrimSpace(answer); answer != "" {
			file = answer
		}
	}
	switch {
	case has("l"):
		return c.fingerprints(file, opts["E"])
	case has("y"):
		return c.publicHalf(file, opts["P"])
	}
	return c.makeKey(file, opts)
}

// publicHalf prints the public key of a private key file.
func (c *invocation) publicHalf(file, passphrase string) int {
	st, err := c.stat(file)
	if err != nil {
		c.errorf("%s: %s\r", file, errorText(err))
		return 255
	}
	text, err := c.readFile(file)
	if err != nil {
		c.errorf("Load key %q: %s\r", file, errorText(err))
		return 255
	}
	if tooOpen(st.Mode()) && c.user() == c.tree().ownerOf(st.virt) {
		c.errorf("%s\r", unprotected(file, st.Mode()))
		return 255
	}
	var signer ssh.Signer
	if passphrase == "" {
		signer, err = ssh.ParsePrivateKey(text)
	} else {
		signer, err = ssh.ParsePrivateKeyWithPassphrase(text, []byte(passphrase))
	}
	if err != nil {
		why := "error in libcrypto"
		if strings.Contains(err.Error(), "passphrase") || strings.Contains(err.Error(), "decryption") {
			why = "incorrect passphrase supplied to decrypt private key"
		}
		c.errorf("Load key %q: %s\r", file, why)
		return 255
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	if block, _ := pem.Decode(text); block != nil {
		line = strings.TrimSpace(line + " " + keyComment(block.Bytes))
	}
	c.printf("%s\n", line)
	return 0
}

// fingerprints prints those of the keys in a file, private or public.
func (c *invocation) fingerprints(file, hash string) int {
	var text []byte
	var err error
	name := file
	if file == "-" {
		name = "(stdin)"
		text, err = io.ReadAll(c.stdin())
	} else {
		text, err = c.readFile(file)
	}
	if err != nil {
		return c.fail(255, "%s: %s\r", file, errorText(err))
	}
	show := func(key ssh.PublicKey, comment string) {
		print := ssh.FingerprintSHA256(key)
		if strings.EqualFold(hash, "md5") {
			print = "MD5:" + ssh.FingerprintLegacyMD5(key)
		}
		if comment == "" {
			comment = "no comment"
		}
		bits, kind := keySize(key)
		c.printf("%d %s %s (%s)\n", bits, print, comment, kind)
	}
	if block, _ := pem.Decode(text); block != nil {
		if signer, err := ssh.ParsePrivateKey(text); err == nil {
			show(signer.PublicKey(), keyComment(block.Bytes))
			return 0
		}
		if public, err := c.readFile(file + ".pub"); err == nil {
			text = public
		}
	}
	found := false
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		key, comment, _, _, err := ssh.ParseAuthorizedKey(line)
		if err != nil {
			if _, _, key, comment, _, err = ssh.ParseKnownHosts(line); err != nil {
				continue
			}
		}
		found = true
		show(key, comment)
	}
	if !found {
		c.errorf("%s is not a public key file.\r", name)
		return 255
	}
	return 0
}

// keySize is what ssh-keygen says of a key.
func keySize(key ssh.PublicKey) (bits int, kind string) {
	if k, ok := key.(ssh.CryptoPublicKey); ok {
		switch p := k.CryptoPublicKey().(type) {
		case *rsa.PublicKey:
			return p.N.BitLen(), "RSA"
		case *ecdsa.PublicKey:
			return p.Params().BitSize, "ECDSA"
		}
	}
	return 256, "ED25519"
}

// makeKey makes a pair of key files.
func (c *invocation) makeKey(file string, opts map[string]string) int {
	_, quiet := opts["q"]
	kind := strings.ToLower(opts["t"])
	if kind == "" {
		kind = "rsa"
	}
	bits := 0
	if text, ok := opts["b"]; ok {
		var err error
		if bits, err = strconv.Atoi(text); err != nil || bits <= 0 {
			c.errorf("Bits has bad value %s (invalid)", text)
			return 255
		}
	}
	if kind != "rsa" && kind != "ed25519" && kind != "ecdsa" {
		c.errorf("unknown key type %s\r", opts["t"])
		return 255
	}
	switch {
	case kind == "rsa" && bits == 0:
		bits = 3072
	case kind == "rsa" && bits < 1024:
		c.errorf("Invalid RSA key length: minimum is 1024 bits\r")
		return 255
	case kind == "rsa" && bits > 16384:
		c.errorf("Invalid RSA key length: maximum is 16384 bits\r")
		return 255
	case kind == "ecdsa" && bits == 0:
		bits = 256
	}
	if !quiet {
		c.printf("Generating public/private %s key pair.\n", kind)
	}
	in := bufio.NewReader(c.stdin())
	if _, err := c.lstat(file); err == nil {
		c.printf("%s already exists.\nOverwrite (y/n)? ", file)
		if answer, _ := in.ReadString('\n'); !strings.HasPrefix(answer, "y") && !strings.HasPrefix(answer, "Y") {
			return 1
		}
	}
	passphrase, given := opts["N"]
	if !given {
		for _, question := range []string{"Enter passphrase (empty for no passphrase): ", "Enter same passphrase again: "} {
			c.printf("%s", question)
			answer, _ := in.ReadString('\n')
			passphrase = strings.TrimSuffix(answer, "\n")
		}
	}
	comment, given := opts["C"]
	if !given {
		comment = c.user() + "@" + c.node.name
	}
	var key crypto.Signer
	var err error
	switch kind {
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case "rsa":
		key, err = rsa.GenerateKey(rand.Reader, bits)
	default:
		curve := map[int]elliptic.Curve{256: elliptic.P256(), 384: elliptic.P384(), 521: elliptic.P521()}[bits]
		if curve == nil {
			c.errorf("Invalid ECDSA key length: valid lengths are 256, 384 or 521 bits\r")
			return 255
		}
		key, err = ecdsa.GenerateKey(curve, rand.Reader)
	}
	var block *pem.Block
	if err == nil && passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, comment, []byte(passphrase))
	} else if err == nil {
		block, err = ssh.MarshalPrivateKey(key, comment)
	}
	if err != nil {
		c.errorf("sshkey_generate failed\r")
		return 255
	}
	public, err := authorizedKey(key.Public(), comment)
	if err != nil {
		c.errorf("sshkey_generate failed\r")
		return 255
	}
	for _, f := range []struct {
		name, text string
		mode       os.FileMode
	}{{file, string(pem.EncodeToMemory(block)), 0o600}, {file + ".pub", public, 0o644}} {
		if err := c.writeFile(f.name, f.text, f.mode); err != nil {
			c.errorf("Saving key %q failed: %s\r", f.name, errorText(err))
			return 1
		}
	}
	if !quiet {
		parsed, _ := ssh.NewPublicKey(key.Public())
		c.printf("Your identification has been saved in %s\nYour public key has been saved in %s.pub\nThe key fingerprint is:\n%s %s\n", file, file, ssh.FingerprintSHA256(parsed), comment)
	}
	return 0
}

// writeFile writes a whole file as the process's user.
func (c *invocation) writeFile(name, text string, mode os.FileMode) error {
	d, err := c.open(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	defer d.release()
	_, err = d.write(c.p.ctx, []byte(text))
	return err
}

const sshUnit = `[Unit]
Description=OpenBSD Secure Shell server
Documentation=man:sshd(8) man:sshd_config(5)
After=network.target auditd.service
ConditionPathExists=!/etc/ssh/sshd_not_to_be_run

[Service]
EnvironmentFile=-/etc/default/ssh
ExecStartPre=/usr/sbin/sshd -t
ExecStart=/usr/sbin/sshd -D $SSHD_OPTS
ExecReload=/usr/sbin/sshd -t
ExecReload=/bin/kill -HUP $MAINPID
KillMode=process
Restart=on-failure
RestartPreventExitStatus=255
Type=notify
RuntimeDirectory=sshd
RuntimeDirectoryMode=0755

[Install]
WantedBy=multi-user.target
Alias=sshd.service
`

// sshUnitVerb is what systemctl does to sshd's service; ok is false for what is not about it.
func (c *invocation) sshUnitVerb(verb string, units []string) (exit int, ok bool) {
	if len(units) != 1 {
		return 0, false
	}
	name := strings.TrimSuffix(units[0], ".service")
	if name != "ssh" && name != "sshd" {
		return 0, false
	}
	n := c.node
	failed := func(err error) (int, bool) {
		if err == nil {
			return 0, true
		}
		n.cluster.event(n.name, "command", "sshd: %v", err)
		why := " because the control process exited with error code"
		if verb == "reload" {
			why = ""
		}
		c.errorf("Job for ssh.service failed%s.\nSee \"systemctl status ssh.service\" and \"journalctl -xeu ssh.service\" for details.", why)
		return 1, true
	}
	n.mu.Lock()
	dead, state := n.sshd.dead, n.sshd.state
	n.mu.Unlock()
	switch verb {
	case "cat":
		c.printf("# /lib/systemd/system/ssh.service\n%s", sshUnit)
		return 0, true
	case "status":
		if dead {
			c.printf("○ ssh.service - OpenBSD Secure Shell server\n     Active: %s\n", state)
			return 3, true
		}
		c.printf("● ssh.service - OpenBSD Secure Shell server\n     Active: active (running)\n")
		return 0, true
	case "reload":
		if dead {
			c.errorf("ssh.service is not active, cannot reload.")
			return 1, true
		}
		return failed(n.reloadSSHD())
	case "reload-or-restart", "try-reload-or-restart":
		if dead {
			return failed(n.restartSSHD())
		}
		return failed(n.reloadSSHD())
	case "restart", "try-restart":
		return failed(n.restartSSHD())
	case "start":
		if !dead {
			return 0, true
		}
		return failed(n.restartSSHD())
	case "stop":
		n.endSSHD("inactive")
		return 0, true
	case "reset-failed":
		n.mu.Lock()
		n.sshd.starts = nil
		if n.sshd.state == "failed" {
			n.sshd.state = "inactive"
		}
		n.mu.Unlock()
		return 0, true
	}
	return 0, false
}

// serviceProgram is service(8): `service NAME start|stop|restart|reload|force-reload|status`.
func serviceProgram(c *invocation) int {
	if len(c.argv) < 3 {
		c.errorf("Usage: service < option > | --status-all | [ service_name [ command | --full-restart ] ]")
		return 1
	}
	verb := c.argv[2]
	if verb == "force-reload" {
		verb = "reload-or-restart"
	}
	if _, err := c.stat("/lib/systemd/system/" + c.argv[1] + ".service"); err != nil && !slices.Contains(services, c.argv[1]) && !(c.argv[1] == "docker" && c.node.docker != nil) {
		c.errorf("%s: unrecognized service", c.argv[1])
		return 1
	}
	as := *c
	as.argv = []string{path.Join("/usr/bin", "systemctl"), verb, c.argv[1] + ".service"}
	exit := systemctl(&as)
	c.broken = as.broken
	return exit
}

// getent is `getent passwd [NAME...]`, group and hosts.
func getent(c *invocation) int {
	if len(c.argv) < 2 {
		c.errorf("getent: wrong number of arguments")
		return 1
	}
	file := map[string]string{"passwd": "/etc/passwd", "group": "/etc/group", "hosts": "/etc/hosts"}[c.argv[1]]
	if file == "" {
		c.errorf("Unknown database: %s", c.argv[1])
		return 1
	}
	text, err := c.readFile(file)
	if err != nil {
		return 2
	}
	all := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(c.argv) == 2 {
		c.printf("%s\n", strings.Join(all, "\n"))
		return 0
	}
	exit := 0
	for _, name := range c.argv[2:] {
		found := false
		for _, line := range all {
			fields := strings.Split(line, ":")
			if c.argv[1] == "hosts" {
				fields = strings.Fields(line)
				found = len(fields) > 1 && (fields[0] == name || fields[1] == name)
			} else {
				found = len(fields) > 2 && (fields[0] == name || fields[2] == name)
			}
			if found {
				c.printf("%s\n", line)
				break
			}
		}
		if !found {
			exit = 2
		}
	}
	return exit
}
