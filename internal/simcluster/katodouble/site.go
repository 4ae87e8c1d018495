package katodouble

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Paths of the compiled kato on a node, and the port of its agent.
const (
	BinaryPath = "/home/stackato/bin/kato"
	SitePath   = "/etc/kato/node.json"
	StateDir   = "/var/lib/kato"
	AgentPort  = 9090
)

// AgentUnit is the systemd unit kato-agent.service. It has started when the agent answers, so that `systemctl is-system-running` waits for it.
const AgentUnit = `[Unit]
Description=kato double: state of this node
After=network.target
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=` + BinaryPath + ` agent --config ` + SitePath + `
StateDirectory=kato
Restart=always
RestartSec=500ms
TimeoutStopSec=5

[Install]
WantedBy=multi-user.target
`

// Site is node.json: who this node is, and all nodes of its cluster.
type Site struct {
	// ID of this node, its address (kato.md §1).
	ID      string `json:"id"`
	Version string `json:"version"`
	// RoleStart is how long roles take from the boot to RUNNING, as "5s".
	RoleStart string `json:"role_start,omitempty"`
	// Login is the user whose keys lead from node to node, and who needs sudo without a password for an export or import; neither is looked at when it is empty.
	Login string `json:"login,omitempty"`
	// Database is the URL at which the Cloud Controller's content is read and written (DatabaseHandler); without one, none is exported or imported.
	Database string `json:"database,omitempty"`
	// Manifest is the URL of the vendor's patches (ServeManifest); without one they cannot be fetched.
	Manifest string `json:"manifest,omitempty"`
	// Marker is the file that says that an upgrade of this node failed (UpgradeMarker); none is written if it is empty.
	Marker string `json:"marker,omitempty"`
	// Reboot is the command with which the agent reboots this node in the end of an upgrade; without one it cannot.
	Reboot []string `json:"reboot,omitempty"`
	// Dir of the node's files; StateDir if empty.
	Dir string `json:"dir,omitempty"`
	// Nodes in file order. The one with the role primary is the Core; the first one if none has it.
	Nodes []SiteNode `json:"nodes"`

	roleStart time.Duration
}

// SiteNode is one node of a Site.
type SiteNode struct {
	ID    string   `json:"id"`
	Name  string   `json:"name"`
	Roles []string `json:"roles"`
	// Apps is the number of app instances that a dea runs at first; three times as many fit.
	Apps int `json:"apps,omitempty"`
	// Port of its agent; AgentPort if 0.
	Port int `json:"port,omitempty"`
}

func (n SiteNode) address() string {
	port := n.Port
	if port == 0 {
		port = AgentPort
	}
	return net.JoinHostPort(n.ID, strconv.Itoa(port))
}

// ReadSite reads and checks node.json.
func ReadSite(path string) (*Site, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &Site{}
	if err := decode(b, s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if s.Dir == "" {
		s.Dir = StateDir
	}
	if s.RoleStart != "" {
		if s.roleStart, err = time.ParseDuration(s.RoleStart); err != nil || s.roleStart < 0 {
			return nil, fmt.Errorf("%s: role_start %q is not a duration like 5s", path, s.RoleStart)
		}
	}
	seen := map[string]bool{}
	for _, n := range s.Nodes {
		if n.ID == "" || seen[n.ID] {
			return nil, fmt.Errorf("%s: the id %q of a node is empty or used twice", path, n.ID)
		}
		seen[n.ID] = true
		for _, r := range n.Roles {
			if !slices.Contains(roleOrder, r) {
				return nil, fmt.Errorf("%s: node %s: %q is not a role of kato", path, n.ID, r)
			}
		}
	}
	if !seen[s.ID] {
		return nil, fmt.Errorf("%s: nodes do not have the id %q of this node", path, s.ID)
	}
	return s, nil
}

// JSON is the text of node.json.
func (s Site) JSON() ([]byte, error) { return json.MarshalIndent(s, "", "  ") }

func (s *Site) core() SiteNode {
	for _, n := range s.Nodes {
		if slices.Contains(n.Roles, "primary") {
			return n
		}
	}
	return s.Nodes[0]
}

func (s *Site) node(id string) SiteNode {
	i := slices.IndexFunc(s.Nodes, func(n SiteNode) bool { return n.ID == id })
	if i < 0 {
		return SiteNode{}
	}
	return s.Nodes[i]
}

// logIn tries to log in to another node, or to this one, by the login user's key.
func (s *Site) logIn(ctx context.Context, id string) error {
	to := s.node(id)
	if to.ID == "" {
		return badRequest{fmt.Errorf("node %s is not part of the cluster", id)}
	}
	if s.Login == "" {
		return nil
	}
	const command = "ssh -n -o BatchMode=yes -o ConnectTimeout=5 "
	cmd := exec.CommandContext(ctx, "su", "-", s.Login, "-s", "/bin/sh", "-c", command+to.ID+" true")
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("%w: %s", err, lines[len(lines)-1])
	}
	return nil
}

// sudo returns an error when the login user's sudo asks for a password.
func (s *Site) sudo(ctx context.Context) error {
	if s.Login == "" {
		return nil
	}
	return exec.CommandContext(ctx, "sudo", "-n", "true").Run()
}

// sudoAsLogin returns an error when the login user's sudo asks for a password, as the agent sees it.
func (s *Site) sudoAsLogin(ctx context.Context) error {
	if s.Login == "" {
		return nil
	}
	return exec.CommandContext(ctx, "su", "-", s.Login, "-s", "/bin/sh", "-c", "sudo -n true").Run()
}

// reboot begins a reboot of this node.
func (s *Site) reboot() error {
	if len(s.Reboot) == 0 {
		return badRequest{fmt.Errorf("node %s has no command that reboots it", s.ID)}
	}
	if out, err := exec.Command(s.Reboot[0], s.Reboot[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("could not reboot: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// mark writes the file that says that an upgrade failed, or removes it.
func (s *Site) mark(there bool) {
	if s.Marker == "" {
		return
	}
	if there {
		_ = os.WriteFile(s.Marker, []byte(MarkerText), 0o644) // kato has no better place to say that it failed
		return
	}
	_ = os.Remove(s.Marker) // somebody may have done so
}

// cluster is the site as it was installed.
func (s *Site) cluster() *Cluster {
	c := New(s.Version)
	c.SetManifest(s.Manifest)
	for _, n := range s.Nodes {
		c.AddNode(n.ID, n.Name, n.Roles, n.Apps)
	}
	return c
}
