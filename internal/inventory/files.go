package inventory

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

const (
	maxKeyFile    = 64 << 10
	maxKnownHosts = 16 << 20
)

// CheckFiles checks, on the worker, what the file refers to: that key files are there, private to their owner and can be opened with
// the passphrase given, that known_hosts files are there and can be read line by line, and that secrets resolve. Every problem is
// reported at once as [Problems], at the place in the inventory that refers to it. Without names all clusters are checked. env looks
// up an environment variable.
func (f *File) CheckFiles(env func(string) (string, bool), clusters ...string) error {
	c := fileChecker{inventory: f, env: env, told: make(map[Problem]bool), keys: make(map[string]error), secrets: make(map[Secret]secretValue), hosts: make(map[string]error)}
	if len(clusters) == 0 {
		clusters = f.ClusterNames()
	}
	for _, name := range clusters {
		cluster, err := f.Cluster(name)
		if err != nil {
			c.problems.add(Problem{File: f.path, Message: err.Error()})
			continue
		}
		c.cluster(cluster, join("clusters", name))
	}
	return c.problems.err()
}

var errPassphrase = errors.New("does not open the key")

type secretValue struct {
	value []byte
	err   error
}

// fileChecker reads every file and secret once, however many nodes refer to it.
type fileChecker struct {
	inventory *File
	env       func(string) (string, bool)
	problems  Problems
	told      map[Problem]bool // many nodes share a file, one line is enough
	keys      map[string]error
	secrets   map[Secret]secretValue
	hosts     map[string]error
}

func (c *fileChecker) at(path string, err error) {
	if err != nil {
		p := problemAt(c.inventory.path, c.inventory.positions, path, err.Error())
		if !c.told[p] {
			c.told[p] = true
			c.problems.add(p)
		}
	}
}

func (c *fileChecker) cluster(cluster *Cluster, path string) {
	c.ssh(cluster.SSH, path+".ssh")
	clusterKeysUsed := false
	for i, n := range cluster.Nodes {
		at := item(path+".nodes", i) + ".ssh"
		c.ssh(n.SSH, at)
		keysAt, passphraseAt := path+".ssh", path+".ssh"
		if len(n.SSH.KeyFiles) > 0 {
			keysAt = at
		} else {
			clusterKeysUsed = true
		}
		if n.SSH.Passphrase != nil {
			passphraseAt = at
		}
		s := cluster.SSHOf(n)
		c.keyFiles(s.KeyFiles, s.Passphrase, keysAt, passphraseAt)
	}
	if !clusterKeysUsed {
		c.keyFiles(cluster.SSH.KeyFiles, cluster.SSH.Passphrase, path+".ssh", path+".ssh")
	}
	c.login(cluster, path)
	if w := cluster.Notify.Webhook; w != nil {
		c.at(path+".notify.webhook", c.secret(w).err)
	}
	if s := cluster.S3; s != nil {
		c.awsKeys(s.AccessKey, s.SecretKey, s.SessionToken, path+".s3")
		if s.Identity != nil {
			c.at(path+".s3.identity", c.secret(s.Identity).err)
		}
		if s.CAFile != "" {
			c.at(path+".s3.ca_file", c.certificates(s.CAFile))
		}
	}
	if h := cluster.Hypervisor; h != nil {
		for i, host := range h.Hosts {
			at := item(path+".hypervisor.hosts", i) + ".ssh"
			c.ssh(host.SSH, at)
			s := cluster.SSHOf(&Node{Name: host.Name, SSH: host.SSH})
			c.keyFiles(host.SSH.KeyFiles, s.Passphrase, at, at)
		}
		if h.EC2 != nil {
			c.ec2(h.EC2, path+".hypervisor.ec2")
		}
		if h.OpenStack != nil {
			c.openStack(h.OpenStack, path+".hypervisor.openstack")
		}
		if h.VSphere != nil {
			c.vSphere(h.VSphere, path+".hypervisor.vsphere")
		}
	}
	if cc := cluster.Controller; cc != nil {
		c.at(path+".controller.password", c.secret(cc.Password).err)
		if cc.CAFile != "" {
			c.at(path+".controller.ca_file", c.certificates(cc.CAFile))
		}
	}
}

// awsKeys checks the keys of an account with AWS.
func (c *fileChecker) awsKeys(accessKey, secretKey, sessionToken *Secret, path string) {
	for _, ref := range []struct {
		field  string
		secret *Secret
	}{{"access_key", accessKey}, {"secret_key", secretKey}, {"session_token", sessionToken}} {
		if ref.secret != nil {
			c.at(path+"."+ref.field, c.secret(ref.secret).err)
		}
	}
}

// ssh checks what one section says by itself.
func (c *fileChecker) ssh(own SSH, path string) {
	if own.Passphrase != nil {
		c.at(path+".passphrase", c.secret(own.Passphrase).err)
	}
	for i, file := range own.KnownHosts {
		c.at(item(path+".known_hosts", i), c.knownHosts(file))
	}
}

// keyFiles checks keys with the passphrase that goes with them, which may stand in another section.
func (c *fileChecker) keyFiles(files []string, passphrase *Secret, keysAt, passphraseAt string) {
	for i, file := range files {
		err := c.key(file, passphrase)
		if errors.Is(err, errPassphrase) {
			c.at(passphraseAt+".passphrase", err)
		} else {
			c.at(item(keysAt+".key_files", i), err)
		}
	}
}

// login finds nodes that nothing could log in to, and says so once.
func (c *fileChecker) login(cluster *Cluster, path string) {
	for _, n := range cluster.Nodes {
		s := cluster.SSHOf(n)
		if len(s.KeyFiles) > 0 {
			continue
		}
		if s.Agent != nil && *s.Agent {
			if socket, _ := c.env("SSH_AUTH_SOCK"); socket != "" {
				continue
			}
		}
		own := c.inventory.ownKeyFiles()
		if len(own) == 0 {
			c.at(path+".ssh.key_files", errors.New(noWayIn))
			return
		}
		for _, file := range own {
			if err := c.key(file, s.Passphrase); err != nil {
				c.at(path+".ssh.key_files", err)
				return
			}
		}
	}
}

func (c *fileChecker) secret(s *Secret) secretValue {
	known, ok := c.secrets[*s]
	if !ok {
		known.value, known.err = s.Resolve(c.inventory, c.env)
		c.secrets[*s] = known
	}
	return known
}

// key checks one key file. A passphrase that does not resolve is a problem of its own, told where it stands.
func (c *fileChecker) key(file string, passphrase *Secret) error {
	id := file + "\x00"
	if passphrase != nil {
		id += passphrase.File + "\x00" + passphrase.Env
	}
	err, ok := c.keys[id]
	if !ok {
		err = c.readKey(file, passphrase)
		c.keys[id] = err
	}
	return err
}

func (c *fileChecker) readKey(file string, passphrase *Secret) error {
	path := c.inventory.ResolvePath(file)
	data, err := readPrivate(path, maxKeyFile)
	if err != nil {
		return err
	}
	_, err = ssh.ParseRawPrivateKey(data)
	var locked *ssh.PassphraseMissingError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &locked):
		if _, _, _, _, public := ssh.ParseAuthorizedKey(data); public == nil {
			return fmt.Errorf("%s is a public key: name the private key, usually the same without .pub", quotePath(path))
		}
		return fmt.Errorf("%s is not a private key that can be read: name an OpenSSH or PEM private key", quotePath(path))
	case passphrase == nil:
		return fmt.Errorf("%s needs a passphrase: write ssh.passphrase as {file: PATH} or {env: NAME}, or use an agent", quotePath(path))
	}
	secret := c.secret(passphrase)
	if secret.err != nil {
		return nil
	}
	if _, err := ssh.ParseRawPrivateKeyWithPassphrase(data, secret.value); errors.Is(err, x509.IncorrectPasswordError) {
		return fmt.Errorf("%w %s: correct what it refers to", errPassphrase, quotePath(path))
	} else if err != nil {
		return fmt.Errorf("%s is not a private key that can be read: name an OpenSSH or PEM private key", quotePath(path))
	}
	return nil
}

func (c *fileChecker) knownHosts(file string) error {
	err, ok := c.hosts[file]
	if !ok {
		err = c.readKnownHosts(file)
		c.hosts[file] = err
	}
	return err
}

func (c *fileChecker) readKnownHosts(file string) error {
	path := c.inventory.ResolvePath(file)
	info, err := os.Stat(path)
	if err != nil {
		err = fileError(path, err)
		return fmt.Errorf("%w; katoflow trusts no host by itself: add the hosts with ssh-keyscan or katoflow cluster trust", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file: name a file", quotePath(path))
	}
	data, err := readFile(path, info, maxKnownHosts)
	if err != nil {
		return err
	}
	if _, err := knownhosts.New(path); err == nil {
		return nil
	}
	// The whole does not parse: find the first line that does not, to name it.
	for i, line := range strings.Split(string(data), "\n") {
		if _, _, _, _, _, err := ssh.ParseKnownHosts([]byte(line)); err != nil && strings.TrimSpace(line) != "" && !strings.HasPrefix(strings.TrimSpace(line), "#") {
			return fmt.Errorf("%s line %d is not a known_hosts entry: correct the line or take it out", quotePath(path), i+1)
		}
	}
	return fmt.Errorf("%s is not a known_hosts file: write its lines as ssh-keyscan prints them", quotePath(path))
}

func (c *fileChecker) certificates(file string) error {
	_, err := c.inventory.Certificates(file)
	return err
}

// Certificates reads a file of certificates in PEM form that the inventory names, such as s3.ca_file, on the worker. The error says what is
// wrong with the file.
func (f *File) Certificates(file string) ([]byte, error) {
	path := f.ResolvePath(file)
	info, err := os.Stat(path)
	if err != nil {
		return nil, fileError(path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file: name a file", quotePath(path))
	}
	data, err := readFile(path, info, maxKnownHosts)
	if err != nil {
		return nil, err
	}
	if !x509.NewCertPool().AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s holds no certificate: name a PEM file", quotePath(path))
	}
	return data, nil
}
