package lab

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// What a host has done is read from the host itself: sudo's own log, dpkg's status, the jobs' files, kato's log. All of it can also be read while the host is off.

// Execution is one run of a command that changes a host, or the cluster.
type Execution struct {
	Node string
	Argv []string
	// Job is the name of the durable job that ran then and whose script has the command; "" when there is none.
	Job   string
	Start time.Time
	// End is zero while it runs, and when the host went down with it.
	End      time.Time
	ExitCode int
}

// Command is the argv as one line.
func (e Execution) Command() string { return strings.Join(e.Argv, " ") }

// Boots counts the times the host was booted.
func (h *Host) Boots() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.boots
}

// Running reports whether the host is booted or booting.
func (h *Host) Running() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.process != nil
}

// inside reads a file of the running host, also one it has in memory.
func (h *Host) inside(name string) ([]byte, error) {
	leader, err := h.leader()
	if err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join("/proc", strconv.Itoa(leader), "root", name))
}

// BootID is the host's boot id, "" while it is off.
func (h *Host) BootID() string {
	b, _ := h.inside("proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// RebootRequired reports whether a package has asked for a reboot since the boot.
func (h *Host) RebootRequired() bool {
	_, err := h.inside("run/reboot-required")
	return err == nil
}

// Connections is the number of SSH connections that are open.
func (h *Host) Connections() int {
	leader, err := h.leader()
	if err != nil {
		return 0
	}
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", leader))
	n := 0
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 3 && strings.HasSuffix(f[1], ":0016") && f[3] == "01" {
			n++
		}
	}
	return n
}

// packageState is one entry of dpkg's status.
type packageState struct {
	version, want, state string
}

// packages reads dpkg's status and its journal of changes that are not in it yet.
func (h *Host) packages() (map[string]packageState, error) {
	files := []string{h.path("var/lib/dpkg/status")}
	updates, _ := filepath.Glob(h.path("var/lib/dpkg/updates/[0-9]*"))
	slices.Sort(updates)
	out := map[string]packageState{}
	for i, f := range append(files, updates...) {
		b, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) && i > 0 {
			continue // dpkg has put it into the status meanwhile
		}
		if err != nil {
			return nil, err
		}
		for _, entry := range strings.Split(string(b), "\n\n") {
			var name string
			var p packageState
			for line := range strings.Lines(entry) {
				key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
				switch key {
				case "Package":
					name = value
				case "Version":
					p.version = value
				case "Status":
					if words := strings.Fields(value); len(words) == 3 {
						p.want, p.state = words[0], words[2]
					}
				}
			}
			if name != "" {
				out[name] = p
			}
		}
	}
	return out, nil
}

// Packages returns the versions of the lab's packages on the host.
func (h *Host) Packages() (map[string]string, error) {
	all, err := h.packages()
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, s := range packageSources {
		out[s.name] = all[s.name].version
	}
	return out, nil
}

// PendingCount is the number of the lab's packages that are not on hold and not at the archive's version.
func (h *Host) PendingCount() (int, error) {
	all, err := h.packages()
	if err != nil {
		return 0, err
	}
	n := 0
	for _, s := range packageSources {
		if p := all[s.name]; p.want != "hold" && p.version != "2.0" {
			n++
		}
	}
	return n, nil
}

// HalfConfigured names the packages that dpkg has begun and not ended.
func (h *Host) HalfConfigured() ([]string, error) {
	all, err := h.packages()
	if err != nil {
		return nil, err
	}
	var out []string
	for name, p := range all {
		if p.state != "installed" && p.state != "config-files" && p.state != "not-installed" && p.state != "" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out, nil
}

// job is what a durable job's files say.
type job struct {
	name, script string
	started      time.Time
}

func (h *Host) jobs() ([]job, error) {
	var out []job
	for _, state := range []string{"home/" + LoginUser + "/.local/state/katoflow", "var/lib/katoflow/" + LoginUser} {
		dirs, err := filepath.Glob(h.path(state) + "/jobs/*/started")
		if err != nil {
			return nil, err
		}
		for _, f := range dirs {
			b, err := os.ReadFile(f)
			if err != nil {
				return nil, err
			}
			if len(strings.Fields(string(b))) < 2 {
				continue
			}
			st, err := os.Stat(f) // its text gives whole seconds of a clock that may be wrong
			if err != nil {
				return nil, err
			}
			script, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "script"))
			out = append(out, job{name: filepath.Base(filepath.Dir(f)), script: string(script), started: st.ModTime()})
		}
	}
	slices.SortFunc(out, func(a, b job) int { return a.started.Compare(b.started) })
	return out, nil
}

// sudoTime is a time of sudo's log.
type sudoTime struct {
	Seconds     int64 `json:"seconds"`
	Nanoseconds int64 `json:"nanoseconds"`
}

func (t sudoTime) time() time.Time { return time.Unix(t.Seconds, t.Nanoseconds) }

// sudoEvent is one entry of sudo's log.
type sudoEvent struct {
	UUID       string   `json:"uuid"`
	SubmitTime sudoTime `json:"submit_time"`
	ServerTime sudoTime `json:"server_time"`
	RunTime    sudoTime `json:"run_time"`
	Argv       []string `json:"runargv"`
	ExitValue  int      `json:"exit_value"`
	Signal     string   `json:"signal"`
}

// sudoLog reads sudo's log: one object with many members of the same few names.
func parseSudoLog(b []byte) (accepted []sudoEvent, exits map[string]sudoEvent, err error) {
	exits = map[string]sudoEvent{}
	d := json.NewDecoder(bytes.NewReader(b))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return accepted, exits, nil
		}
		if err != nil {
			return nil, nil, err
		}
		kind, ok := token.(string)
		if !ok {
			continue
		}
		var e sudoEvent
		if err := d.Decode(&e); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				return accepted, exits, nil // being written
			}
			return nil, nil, err
		}
		switch kind {
		case "accept":
			if len(e.Argv) > 0 && e.Argv[0] != "list" && e.Argv[0] != "validate" {
				accepted = append(accepted, e)
			}
		case "exit":
			exits[e.UUID] = e
		}
	}
}

// lookName is $0 of katoflow's scripts that root runs and that change nothing.
const lookName = "katoflow-look"

// dockerReads are docker's commands that change nothing; what runs in a container stays there.
var dockerReads = []string{"exec", "history", "images", "info", "inspect", "ps", "version"}

// sudoLog is what sudo has run. It writes each entry over the end of the file, which a reader may find half done.
func (h *Host) sudoLog() (accepted []sudoEvent, exits map[string]sudoEvent, err error) {
	err = retry(20, func() error {
		b, err := os.ReadFile(h.path("var/log/sudo.json"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		accepted, exits, err = parseSudoLog(b)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("sudo's log of %s: %w", h.Name(), err)
	}
	return accepted, exits, nil
}

// Commands returns the runs of commands that change the host, in order of their start: what sudo has run as root, kato's, and on hosts with disks the
// programs that change file systems, also in scripts.
func (h *Host) Commands() ([]Execution, error) {
	jobs, err := h.jobs()
	if err != nil {
		return nil, err
	}
	accepted, exits, err := h.sudoLog()
	if err != nil {
		return nil, err
	}
	var out []Execution
	for _, a := range accepted {
		e := Execution{Node: h.Name(), Argv: slices.Clone(a.Argv), Start: a.SubmitTime.time()}
		e.Argv[0] = path.Base(e.Argv[0])
		if e.Argv[0] == "true" || e.Argv[0] == "kill" || e.Argv[0] == "timeout" && len(e.Argv) > 2 && e.Argv[2] == "du" || e.Argv[0] == "docker" && len(e.Argv) > 1 && slices.Contains(dockerReads, e.Argv[1]) {
			continue
		}
		if slices.Equal(e.Argv, []string{"sh", "-c", "true"}) || len(e.Argv) == 5 && e.Argv[2] == `touch "$1"` && strings.HasPrefix(e.Argv[4], "/run/katoflow-") { // asked whether it may, and a word to a job
			continue
		}
		if h.recordedStorage(e.Argv[0]) || e.Argv[0] == "quotaon" && slices.Contains(e.Argv, "-p") || len(e.Argv) > 3 && e.Argv[0] == "sh" && (e.Argv[3] == katodouble.RelocateName || e.Argv[3] == lookName) { // told elsewhere, asked, or of kato itself
			continue
		}
		for _, j := range jobs { // the last one that was started before and has the command
			if !j.started.After(e.Start) && strings.Contains(j.script, e.Argv[0]) {
				e.Job = j.name
			}
		}
		if x, ended := exits[a.UUID]; ended {
			e.End, e.ExitCode = x.ServerTime.time(), x.ExitValue
			if x.RunTime != (sudoTime{}) {
				e.End = e.Start.Add(time.Duration(x.RunTime.Seconds)*time.Second + time.Duration(x.RunTime.Nanoseconds))
			}
			if x.Signal != "" {
				e.ExitCode = 128
			}
		}
		out = append(out, e)
	}
	kato, err := h.katoCommands()
	if err != nil {
		return nil, err
	}
	storage, err := h.storageCommands()
	if err != nil {
		return nil, err
	}
	out = append(append(out, kato...), storage...)
	slices.SortStableFunc(out, func(a, b Execution) int { return a.Start.Compare(b.Start) })
	return out, nil
}

// katoCommands are the calls of kato that change something.
func (h *Host) katoCommands() ([]Execution, error) {
	b, err := os.ReadFile(h.path("var/lib/kato/commands.jsonl"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []Execution
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c struct {
			Time, End time.Time
			Args      []string
			Exit      int
			Job       string
		}
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return nil, fmt.Errorf("kato's log of %s: %w", h.Name(), err)
		}
		if changes(c.Args) {
			out = append(out, Execution{Node: h.Name(), Argv: append([]string{"kato"}, c.Args...), Job: c.Job, Start: c.Time, End: c.End, ExitCode: c.Exit})
		}
	}
	return out, lines.Err()
}

// changes reports whether a call of kato changes something.
func changes(args []string) bool {
	words := slices.DeleteFunc(slices.Clone(args), func(a string) bool { return strings.HasPrefix(a, "-") })
	if len(words) == 0 {
		return false
	}
	second := ""
	if len(words) > 1 {
		second = words[1]
	}
	switch words[0] {
	case "config":
		return second == "set" || second == "del"
	case "node":
		return second == "retire" || second == "upgrade" && !slices.ContainsFunc(args, func(a string) bool { return slices.Contains([]string{"--status", "--help", "-h"}, a) })
	case "patch":
		return slices.Contains([]string{"install", "revert", "reinstall", "mark", "reset"}, second)
	case "data", "op":
		return true
	case "start", "stop", "restart", "relocate":
		return true
	}
	return false
}

// Commands of all hosts, host by host.
func (c *Cluster) Commands() ([]Execution, error) {
	var out []Execution
	for _, h := range c.hosts {
		more, err := h.Commands()
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

// ReadFile reads a file of the host, of its root disk whether the host runs or not, of one of its Disks while it runs. Links are followed inside the host.
func (h *Host) ReadFile(name string) ([]byte, error) {
	place, err := h.resolve(name)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(place)
}

// resolve is where this machine has a file of the host, which may be named by links.
func (h *Host) resolve(name string) (string, error) {
	at := "/"
	words := strings.Split(name, "/")
	for links := 0; len(words) > 0; {
		next := path.Join(at, words[0])
		words = words[1:]
		place, err := h.onDisk(next)
		if err != nil {
			return "", err
		}
		st, err := os.Lstat(place)
		if err != nil {
			return "", err
		}
		if st.Mode()&os.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > 40 {
			return "", fmt.Errorf("%s: %s: too many links", h.Name(), name)
		}
		target, err := os.Readlink(place)
		if err != nil {
			return "", err
		}
		if path.IsAbs(target) {
			at = "/"
		}
		words = append(strings.Split(target, "/"), words...)
	}
	return h.onDisk(at)
}

// onDisk is where this machine has a path of the host without links in it: what lies on a disk that the host has mounted is only seen with its eyes.
func (h *Host) onDisk(name string) (string, error) {
	for _, d := range h.cfg.Disks {
		if name == d.Path || strings.HasPrefix(name, d.Path+"/") {
			leader, err := h.leader()
			if err != nil {
				return "", err
			}
			return fmt.Sprintf("/proc/%d/root%s", leader, name), nil
		}
	}
	return h.path(name), nil
}
