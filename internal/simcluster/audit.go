package simcluster

import (
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// Execution is one run of a command that changes a node (or the cluster, for kato).
type Execution struct {
	Node string   `json:"node"`
	Argv []string `json:"argv"`
	// Env are the variables that matter to package commands: proxies, DEBIAN_FRONTEND, NEEDRESTART_*.
	Env map[string]string `json:"env,omitempty"`
	// User it ran as.
	User string `json:"user"`
	// Job is the name of the durable job it ran in (the folder of the job's files); "" outside of one.
	Job    string    `json:"job,omitempty"`
	BootID string    `json:"boot_id"`
	PID    int       `json:"pid"`
	Start  time.Time `json:"start"`
	// End is zero while it runs.
	End time.Time `json:"end"`
	// ExitCode is valid once End is set; 128+n when signal n (9 at a reboot) ended it.
	ExitCode int `json:"exit_code"`
	// Failed is true when a fault (FailCommand, HangCommand) kept it from doing anything.
	Failed bool `json:"failed,omitempty"`
}

// Command is the argv as one line.
func (e Execution) Command() string { return strings.Join(e.Argv, " ") }

// mutating says whether a program with these arguments changes the node.
func mutating(name string, args []string) bool {
	has := func(words ...string) bool {
		return slices.ContainsFunc(args, func(a string) bool { return slices.Contains(words, a) })
	}
	words := slices.DeleteFunc(slices.Clone(args), func(a string) bool { return strings.HasPrefix(a, "-") })
	first, second := "", ""
	if len(words) > 0 {
		first = words[0]
	}
	if len(words) > 1 {
		second = words[1]
	}
	switch name {
	case "apt-get", "apt":
		if has("-s", "--simulate", "--dry-run", "--just-print", "--recon", "--no-act", "--print-uris") {
			return false
		}
		return has("update", "upgrade", "dist-upgrade", "full-upgrade", "install", "remove", "purge", "autoremove", "clean")
	case "unattended-upgrade", "unattended-upgrades":
		return !has("--dry-run", "--help", "-h")
	case "dpkg":
		return has("--configure", "-i", "--install", "-r", "--remove", "-P", "--purge")
	case "apt-mark":
		return has("hold", "unhold")
	case "reboot", "shutdown", "poweroff", "halt":
		return !has("-c", "--help")
	case "systemctl":
		return slices.Contains([]string{"reboot", "poweroff", "halt", "restart", "reload", "stop", "start", "kill", "mask"}, first)
	case "service":
		return slices.Contains([]string{"restart", "reload", "force-reload", "stop", "start"}, second)
	case "mount":
		return slices.ContainsFunc(args, func(a string) bool {
			return strings.HasPrefix(a, "-o") || a == "--options" || strings.HasPrefix(a, "--options=")
		})
	case "quotacheck", "quotaoff":
		return true
	case "quotaon":
		return !slices.ContainsFunc(args, func(a string) bool {
			return a == "--print-state" || strings.HasPrefix(a, "-") && !strings.HasPrefix(a, "--") && strings.Contains(a, "p")
		})
	case "docker":
		return slices.Contains([]string{"build", "tag", "run", "push", "pull", "rmi"}, first)
	case "kato":
		switch first {
		case "config":
			return slices.Contains([]string{"set", "del", "push", "pop"}, second)
		case "node":
			return !slices.Contains([]string{"list", "version", "availabilityzone"}, second) && !(second == "upgrade" && has("--status", "--help", "-h"))
		case "process":
			return slices.Contains([]string{"start", "stop", "restart"}, second)
		case "role":
			return slices.Contains([]string{"add", "remove"}, second)
		case "start", "stop", "restart", "relocate", "data":
			return true
		case "patch":
			return slices.Contains([]string{"install", "revert", "reinstall", "mark", "reset"}, second) // update only fetches the list of what there is
		case "op":
			return true
		}
	}
	return false
}

// record notes the start of a program that changes the node; the returned function notes its end.
func (n *Node) record(c *invocation, name string) func(int) {
	if !mutating(name, c.argv[1:]) {
		return func(int) {}
	}
	env := map[string]string{}
	for k, v := range c.env {
		if strings.HasSuffix(strings.ToLower(k), "_proxy") || k == "DEBIAN_FRONTEND" || strings.HasPrefix(k, "NEEDRESTART_") || strings.HasPrefix(k, "KATOFLOW_") {
			env[k] = v
		}
	}
	c.p.mu.Lock()
	job := c.p.job
	c.p.mu.Unlock()
	if job == "" && (name == "mount" || strings.HasPrefix(name, "quota")) {
		return func(int) {} // a boot runs them as well
	}
	e := &Execution{Node: n.name, Argv: slices.Clone(c.argv), Env: env, User: c.user(), Job: job, BootID: c.p.boot.id, PID: c.p.pid, Start: time.Now()}
	e.Argv[0] = path.Base(e.Argv[0])
	n.mu.Lock()
	for _, f := range n.faults.commands {
		if f.slow == 0 && f.match(name, c.argv[1:]) {
			e.Failed = true
		}
	}
	n.executed = append(n.executed, e)
	n.mu.Unlock()
	n.cluster.event(n.name, "command", "%s", e.Command())
	return func(exit int) {
		c.p.mu.Lock()
		if c.p.signal != 0 {
			exit = 128 + c.p.signal
		}
		c.p.mu.Unlock()
		n.mu.Lock()
		e.End, e.ExitCode = time.Now(), exit
		n.mu.Unlock()
	}
}

// Commands returns the runs of commands that change the node, in order of their start.
func (n *Node) Commands() []Execution {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]Execution, 0, len(n.executed))
	for _, e := range n.executed {
		x := *e
		x.Env = maps.Clone(e.Env)
		out = append(out, x)
	}
	return out
}
