package e2e

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/katoflow/katoflow/internal/operation"
)

// write puts a file that only its owner reads into the site's folder and returns its path.
func (s *site) write(name, content string) string {
	s.t.Helper()
	path := filepath.Join(s.Dir, name)
	require.NoError(s.t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// replace changes the worker's inventory; the text must be there.
func (s *site) replace(from, to string) {
	s.t.Helper()
	b, err := os.ReadFile(s.Inventory)
	require.NoError(s.t, err)
	require.Contains(s.t, string(b), from)
	require.NoError(s.t, os.WriteFile(s.Inventory, []byte(strings.Replace(string(b), from, to, 1)), 0o600))
}

// encryptedKey writes the key that logs in to the nodes to the file key, encrypted.
func (s *site) encryptedKey(passphrase string) string {
	s.t.Helper()
	b, err := os.ReadFile(s.cluster.ClientKeyPath())
	require.NoError(s.t, err)
	key, err := ssh.ParseRawPrivateKey(b)
	require.NoError(s.t, err)
	block, err := ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
	require.NoError(s.t, err)
	return s.write("key", string(pem.EncodeToMemory(block)))
}

// refused runs an upgrade that must not begin: the exit code, one line for each problem, and no node touched.
func (s *site) refused(t *testing.T, code int, lines []string, args ...string) {
	t.Helper()
	s = s.in(t)
	out, err := s.Katoflow(time.Minute, append([]string{"upgrade", "security"}, args...)...)
	require.NoError(t, err)
	require.Equal(t, code, out.Code, out.Stdout+out.Stderr)
	require.Empty(t, strings.TrimSpace(progress.ReplaceAllString(out.Stdout, "")))
	got := strings.Split(strings.TrimSpace(out.Stderr), "\n")
	require.Len(t, got, len(lines), out.Stderr)
	for i, want := range lines {
		require.Regexp(t, want, got[i])
		require.Less(t, len(got[i]), 600)
		require.NotRegexp(t, `[\x00-\x08\x0b-\x1f\x7f]`, got[i])
	}
	require.Empty(t, s.cluster.Commands())
}

// progress is what a plain watch says before the operation ends.
var progress = regexp.MustCompile(`(?m)^[0-9:]+ .*$\n?`)

func TestBadInput_Flags_OneLineEachAndNoNodeTouched(t *testing.T) {
	onlySimulated(t, "bad input touches no node")
	t.Parallel()
	s := newSite(t, nil, nil)
	s.worker("")
	c := s.cluster.Name()
	for name, row := range map[string]struct {
		args []string
		code int
		line string
	}{
		"unknown cluster":      {[]string{"nowhere"}, 2, `cluster "nowhere"`},
		"cluster as a command": {[]string{"a; reboot"}, 2, `cluster "a; reboot"`},
		"unknown node":         {[]string{c, "--nodes", "dea-9"}, 2, `"dea-9".*dea-1`},
		"node as a command":    {[]string{c, "--nodes", "a; reboot"}, 2, `--nodes: "a; reboot" is no name`},
		"node twice":           {[]string{c, "--nodes", "dea-1,dea-1"}, 2, `"dea-1" is given twice`},
		"unknown role":         {[]string{c, "--roles", "deaa"}, 2, `"deaa".*dea`},
		"no node left":         {[]string{c, "--roles", "redis"}, 2, `redis`},
		"unknown in the order": {[]string{c, "--role-order", "dea,rooter"}, 2, `"rooter".*router`},
		"unknown flag":         {[]string{c, "--bach", "2"}, 2, `--bach`},
		"no unit":              {[]string{c, "--soak", "10"}, 2, `--soak "10": write a number with a unit`},
		"unknown unit":         {[]string{c, "--soak", "10 fortnights"}, 2, `--soak "10 fortnights": write a number with a unit`},
		"negative time":        {[]string{c, "--wait=-5m"}, 2, `--wait -5m`},
		"batch 0":              {[]string{c, "--batch", "0"}, 2, `batch "0": write a number of nodes from 1`},
		"batch 120 %":          {[]string{c, "--batch", "120%"}, 2, `batch "120%": .* to 100%`},
		"batch abc":            {[]string{c, "--batch", "abc"}, 2, `batch "abc"`},
		"reboot":               {[]string{c, "--reboot", "sometimes"}, 2, `--reboot "sometimes": choose always, if-required or never`},
		"max failures":         {[]string{c, "--max-failures", "-1"}, 2, `--max-failures "-1"`},
		"operation id":         {[]string{c, "--id", "../x"}, 2, `operation id "../x"`},
		"then something else":  {[]string{c, "--then", "patches"}, 2, `--then "patches": choose image`},
		"apps without then":    {[]string{c, "--restart-apps"}, 2, `--restart-apps goes with --then image`},
		"no cluster at all":    {nil, 2, `CLUSTER`},
		"no worker":            {[]string{c, "--task-queue", "nobody-is-here"}, 8, `no worker polls the task queue "nobody-is-here"`},
		"no server":            {[]string{c, "--address", "127.0.0.1:1"}, 9, `127\.0\.0\.1:1`},
	} {
		t.Run(name, func(t *testing.T) { s.refused(t, row.code, []string{row.line}, row.args...) })
	}
	t.Run("several", func(t *testing.T) {
		s.refused(t, 2, []string{`batch "0"`, `--soak "x"`, `--reboot "no"`}, c, "--batch", "0", "--reboot", "no", "--soak", "x")
	})
}

func TestBadInput_Inventory_FileLineFieldAndWhatWouldBeRight(t *testing.T) {
	onlySimulated(t, "bad input touches no node")
	t.Parallel()
	s := newSite(t, nil, nil)
	s.worker("")
	c := s.cluster.Name()
	good := string(s.cluster.InventoryYAML())
	dea := s.cluster.Node("dea-1")
	noise := make([]byte, 5<<20)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	for name, row := range map[string]struct {
		text  string
		lines []string
	}{
		"unknown field":         {strings.Replace(good, "platform: als", "platform: als\n    plattform: als", 1), []string{`bad\.yaml:4:.*plattform.*platform`}},
		"unknown platform":      {strings.Replace(good, "platform: als", "platform: windows", 1), []string{`bad\.yaml:3:.*"windows".*als or plain`}},
		"no unit":               {strings.Replace(good, "platform: als", "platform: als\n    timeouts: {boot: 15}", 1), []string{`bad\.yaml:4:.*boot.*15`}},
		"unknown unit":          {strings.Replace(good, "platform: als", "platform: als\n    timeouts: {boot: 15 fortnights}", 1), []string{`bad\.yaml:4:.*boot.*fortnights`}},
		"unknown role":          {strings.Replace(good, "mysql]", "mysqll]", 1), []string{`bad\.yaml:[0-9]+:.*roles.*"mysqll".*mysql`}},
		"node twice":            {strings.Replace(good, "name: dea-2", "name: dea-1", 1), []string{`bad\.yaml:[0-9]+:.*"dea-1" is also the name of`}},
		"node as a command":     {strings.Replace(good, "name: dea-2", `name: "a; reboot"`, 1), []string{`bad\.yaml:[0-9]+:.*"a; reboot" is not a node name`}},
		"node as an escape":     {strings.Replace(good, "name: dea-2", `name: "a\x1b[2J"`, 1), []string{`bad\.yaml:[0-9]+:.*nodes\[2\]\.name: contains the character U\+001B`}},
		"noise":                 {string(noise), []string{`bad\.yaml`}},
		"noise that looks like": {"clusters:\n  " + c + ":\n    nodes:\n" + strings.Repeat("      - {name: x, address: y, colour: z}\n", (5<<20)/40), []string{`bad\.yaml`}},
		"empty":                 {"", []string{`bad\.yaml: is empty: write clusters`}},
		"secret in clear text":  {strings.Replace(good, "platform: als", "platform: als\n    notify: {webhook: \"https://example.org/hook/hush-hush\"}", 1), []string{`bad\.yaml:4:.*webhook`}},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			require.NotEqual(t, good, row.text)
			bad := s.write("bad.yaml", row.text)
			s.refused(t, 2, row.lines, c, "--inventory", bad)
			// The worker's file is held to the same.
			require.NoError(t, os.WriteFile(s.Inventory, []byte(row.text), 0o600))
			s.refused(t, 2, []string{strings.ReplaceAll(row.lines[0], `bad\.yaml`, `inventory\.yaml`)}, c, "--inventory", s.write("good.yaml", good))
		})
	}
	t.Run("address twice", func(t *testing.T) {
		twice := strings.Replace(good, s.cluster.Node("dea-2").Address(), dea.Address(), 1)
		twice = strings.Replace(twice, fmt.Sprintf("port: %d", s.cluster.Node("dea-2").Port()), fmt.Sprintf("port: %d", dea.Port()), 1)
		s.refused(t, 2, []string{`bad\.yaml:[0-9]+:.*is also the address of`}, c, "--inventory", s.write("bad.yaml", twice))
	})
	t.Run("several at once", func(t *testing.T) {
		many := strings.NewReplacer("platform: als", "platform: als\n    plattform: als", "name: dea-2", "name: dea-1", "mysql]", "mysqll]").Replace(good)
		s.refused(t, 2, []string{`bad\.yaml:4`, `bad\.yaml`, `bad\.yaml`}, c, "--inventory", s.write("bad.yaml", many))
	})
	t.Run("no such file", func(t *testing.T) {
		s.refused(t, 2, []string{`nowhere\.yaml`}, c, "--inventory", filepath.Join(s.Dir, "nowhere.yaml"))
	})
}

func TestBadInput_FilesOfTheWorker_AreNamedBeforeAnyNodeIsReached(t *testing.T) {
	onlySimulated(t, "bad input touches no node")
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b", "c"))
	s.worker("")
	c := s.cluster.Name()
	readable := s.write("readable", "")
	key, err := os.ReadFile(s.cluster.ClientKeyPath())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(readable, key, 0o600))
	require.NoError(t, os.Chmod(readable, 0o644))
	encrypted := s.encryptedKey("right")
	wrong := s.write("wrong", "wrong\n")
	for name, row := range map[string]struct {
		from, to string
		line     string
	}{
		"missing key":               {s.cluster.ClientKeyPath(), filepath.Join(s.Dir, "no-key"), `key_files.*no-key`},
		"key readable by others":    {s.cluster.ClientKeyPath(), readable, `readable" can be read by group or others \(mode 0644\): run chmod 600`},
		"missing known_hosts":       {s.cluster.KnownHostsPath(), filepath.Join(s.Dir, "no-known-hosts"), `known_hosts.*no-known-hosts`},
		"wrong passphrase":          {"key_files:\n      - " + s.cluster.ClientKeyPath(), fmt.Sprintf("passphrase: {file: %q}\n      key_files:\n      - %s", wrong, encrypted), `inventory\.yaml:[0-9]+:.*ssh\.passphrase: does not open the key`},
		"no passphrase":             {s.cluster.ClientKeyPath(), encrypted, `passphrase`},
		"missing passphrase":        {"key_files:\n      - " + s.cluster.ClientKeyPath(), fmt.Sprintf("passphrase: {env: NOT_SET}\n      key_files:\n      - %s", encrypted), `NOT_SET is not set|"NOT_SET" is not set`},
		"not a key":                 {s.cluster.ClientKeyPath(), wrong, `wrong`},
		"known_hosts is not a file": {s.cluster.KnownHostsPath(), s.Dir, `known_hosts`},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			s.inventory(quickGates)
			s.replace(row.from, row.to)
			s.refused(t, 2, []string{row.line}, c)
			for _, n := range s.cluster.Nodes() {
				require.Zero(t, n.Connections(), "%s was reached", n.Name())
			}
		})
	}
}

func TestBadInput_LocalInventoryDiffers_SaysSo(t *testing.T) {
	onlySimulated(t, "bad input touches no node")
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"))
	s.worker("")
	local := s.write("local.yaml", strings.Replace(string(s.cluster.InventoryYAML()), "platform: plain", "platform: plain\n    gates: {times: 7}", 1))
	s.refused(t, 2, []string{`is not the same in your inventory and in the worker's .*inventory\.yaml`}, s.cluster.Name(), "--inventory", local)
}

func TestBadInput_PreflightFailsOnThreeNodes_AllThreeAreListed(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil)
	s.worker("")
	for _, n := range []string{"dea-1", "core", "mysql-1"} {
		s.cluster.Node(n).SudoPassword(true)
	}
	f := s.fault("sudo asks for a password on three nodes")
	s.refused(t, 7, []string{`^katoflow: 3 problems on 3 nodes: nothing was changed$`, `dea-1: sudo does not let stackato run without a password: .*deploy/sudoers/katoflow`, `core: sudo does not let`, `mysql-1: sudo does not let`}, s.cluster.Name())
	out := s.cli(7, "cluster", "check", s.cluster.Name())
	for _, n := range []string{"dea-1", "core", "mysql-1"} {
		require.Contains(t, out.Stdout+out.Stderr, n+": sudo does not let stackato run without a password")
	}
	require.Empty(t, s.cluster.Commands())
	require.False(t, s.locked())
	// Mended, it begins at once.
	for _, n := range s.cluster.Nodes() {
		n.SudoPassword(false)
	}
	s.cli(0, "upgrade", "security", s.cluster.Name(), "--dry-run")
	f.end(refused)
}

func TestBadInput_OperationIDUsedTwice_IsRefusedWhetherItRunsOrHasEnded(t *testing.T) {
	onlySimulated(t, "bad input touches no node")
	t.Parallel()
	s := newSite(t, nil, nil, plain("a"), slow(time.Second))
	s.worker("")
	o := s.start()
	want := fmt.Sprintf("operation id %q has been used already: choose another --id", o.id)
	require.Contains(t, s.cli(2, "upgrade", "security", s.cluster.Name(), "--id", o.id).Stderr, want)
	o.done(30 * time.Second)
	require.Contains(t, s.cli(2, "upgrade", "security", s.cluster.Name(), "--id", o.id).Stderr, want)
	require.Contains(t, s.cli(2, "upgrade", "security", s.cluster.Name(), "--id", o.id, "--detach").Stderr, want)
	require.Equal(t, 1, s.ran("a", "unattended-upgrades"))
}

func TestBadInput_InventoryBreaksInMidRun_TheOperationAsksAndGoesOn(t *testing.T) {
	onlySimulated(t, "bad input touches no node")
	t.Parallel()
	s := newSite(t, nil, nil, plain("a", "b"), slow(time.Second))
	s.worker("")
	good, err := os.ReadFile(s.Inventory)
	require.NoError(t, err)
	o := s.start()
	s.unpacking("a")
	require.NoError(t, os.WriteFile(s.Inventory, bytes.Replace(good, []byte("name: b"), []byte("name: \"a; reboot\""), 1), 0o600))
	q := o.question(30 * time.Second)
	require.Equal(t, operation.ErrInternal, q.Cause.Type)
	require.Contains(t, q.Cause.Message, "the worker's inventory cannot be used any more")
	require.Contains(t, q.Cause.Message, "inventory.yaml")
	require.NoError(t, os.WriteFile(s.Inventory, good, 0o600))
	o.decide(q, operation.Retry)
	o.done(60 * time.Second)
	s.upgraded(1, "a", "b")
	require.Empty(t, s.repeated())
}
