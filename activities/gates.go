package activities

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/katoflow/katoflow/internal/kato"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

const (
	maxFailures = 20
	// coreSilent is told of the Core by the gates of the cluster, so that going on without what is broken leaves out the Core and not every node. The preflight
	// tells it of every node, so that a Core that never answered is in the baseline of the Core and of each node's own gates.
	coreSilent = "kato: the Core gives no status"
)

// ClusterGates asks whether the whole cluster, but for the excluded nodes, is as well as the baseline says: Times rounds in a row, Interval apart,
// until Timeout. Gates that do not hold by then are a result, not an error. It only reads.
func (n *Nodes) ClusterGates(ctx context.Context, in ClusterGatesInput) (GatesResult, error) {
	a := begin(ctx, "gates of the cluster")
	defer a.finish()
	return n.hold(a, "cluster gates", in.Times, in.Interval.D(), in.Timeout.D(), in.Baseline, func(ctx context.Context) ([]operation.GateFailure, error) {
		s, err := n.Source.site(in.Operation.Cluster)
		if err != nil {
			return nil, err
		}
		var targets []target
		for _, node := range s.cluster.Nodes {
			if slices.Contains(in.Exclude, node.Name) {
				continue
			}
			t, err := s.of(node)
			if err != nil {
				return nil, err
			}
			targets = append(targets, t)
		}
		// A Core that is in work cannot be asked about the others.
		askCore := s.als() && s.cluster.CoreNode() != nil && !slices.Contains(in.Exclude, s.cluster.CoreNode().Name)
		return n.round(ctx, s, targets, askCore), nil
	})
}

// Gates asks whether one node is as well as its baseline says, as ClusterGates does. The Core is asked for the states of its roles.
func (n *Nodes) Gates(ctx context.Context, in NodeGatesInput) (GatesResult, error) {
	a := begin(ctx, "gates")
	defer a.finish()
	return n.hold(a, "gates of "+in.Node.Name, in.Times, in.Interval.D(), in.Timeout.D(), in.Baseline, func(ctx context.Context) ([]operation.GateFailure, error) {
		s, t, err := n.where(in.Operation, in.Node.Name)
		if err != nil {
			return nil, err
		}
		return n.round(ctx, s, []target{t}, s.als()), nil
	})
}

// hold repeats a round until it has held often enough in a row or the time is over.
func (n *Nodes) hold(a *attempt, name string, times int, interval, timeout time.Duration, baseline []operation.GateFailure,
	round func(ctx context.Context) ([]operation.GateFailure, error)) (GatesResult, error) {
	began := a.since(name)
	var out GatesResult
	for row := 0; ; {
		found, err := round(a.ctx)
		if a.ctx.Err() != nil {
			return GatesResult{}, ended(a.ctx)
		}
		if err != nil {
			return GatesResult{}, nodeError(err)
		}
		found = slices.DeleteFunc(found, func(f operation.GateFailure) bool { return slices.Contains(baseline, f) })
		out.Rounds++
		out.Failures = found[:min(len(found), maxFailures)]
		wait := interval
		if len(found) == 0 {
			if row++; row >= max(times, 1) {
				out.Held, out.Failures = true, nil
				return out, nil
			}
			a.phase(fmt.Sprintf("%s hold %d of %d times", name, row, times))
		} else {
			row, wait = 0, min(interval, time.Second)
			a.phase(fmt.Sprintf("%s: %s", name, found[0]))
		}
		if time.Since(began)+wait > timeout {
			return out, nil
		}
		if !a.pause(wait) {
			return GatesResult{}, ended(a.ctx)
		}
	}
}

// round asks all targets once, in one session each, and the Core once for all roles. What does not hold is in the order of the targets.
func (n *Nodes) round(ctx context.Context, s site, targets []target, askCore bool) []operation.GateFailure {
	core := s.cluster.CoreNode()
	coreIncluded := askCore && slices.ContainsFunc(targets, func(t target) bool { return t.node == core })
	checks := make([][]string, len(targets))
	view := make(chan roleView, 1)
	var alone sync.WaitGroup
	if askCore && !coreIncluded {
		alone.Go(func() { view <- n.askRoles(ctx, s) })
	}
	each(len(targets), func(i int) {
		t := targets[i]
		isCore := coreIncluded && t.node == core
		reading, err := n.readGates(ctx, s, t, isCore)
		if err != nil {
			checks[i] = []string{unreachable(err)}
			if isCore {
				view <- roleView{err: coreSilent}
			}
			return
		}
		checks[i] = gateChecks(s, t, reading)
		if isCore {
			view <- viewOf(reading)
		}
	})
	alone.Wait()
	if askCore {
		v := <-view
		for i, t := range targets {
			// A node that does not answer has one finding, not one a role.
			if len(checks[i]) == 1 && strings.HasPrefix(checks[i][0], "ssh: ") {
				continue
			}
			// A silent Core is one fault of the Core's. Only the gates of another node alone have to tell it as that node's: its roles are not known.
			if v.err != "" && coreIncluded && t.node != core {
				continue
			}
			checks[i] = append(checks[i], v.checks(ctx, t)...)
		}
	}
	var found []operation.GateFailure
	for i, t := range targets {
		for _, c := range checks[i] {
			found = append(found, operation.GateFailure{Node: t.node.Name, Check: c})
		}
	}
	return found
}

// readGates is one session on a node.
func (n *Nodes) readGates(ctx context.Context, s site, t target, core bool) (answer, error) {
	args := gateArguments(s, t, core)
	return askFor(ctx, gateTime(s, t), n.Connections, t.host, gatesScript, args...)
}

// gateTime is how long a session may take in which every call takes all its time.
func gateTime(s site, t target) time.Duration {
	return time.Minute + time.Duration(4+len(s.cluster.GateCommandsOf(t.node)))*s.cluster.Kato.Timeout.Std()
}

var (
	gatesScript      = script("gates")
	rolesScript      = script("roles")
	preflightScript  = script("preflight", "gates")
	probeScript      = script("probe")
	prepareScript    = script("prepare")
	candidatesScript = script("candidates")
	upgradedScript   = script("upgraded")
	recordScript     = script("record")
	proofScript      = script("proof")
)

func katoSeconds(s site) string {
	return strconv.FormatInt(max(int64(s.cluster.Kato.Timeout.Std()/time.Second), 1), 10)
}

func gateArguments(s site, t target, core bool) []string {
	args := []string{katoSeconds(s), "", "0"}
	if s.als() {
		args[1] = s.cluster.Kato.Path
	}
	if core {
		args[2] = "1"
	}
	return append(args, s.cluster.GateCommandsOf(t.node)...)
}

// unreachable is the check of a node that could not be asked.
func unreachable(err error) string {
	switch remote.KindOf(err) {
	case remote.KindAuth:
		return "ssh: login refused"
	case remote.KindHostKey:
		return "ssh: host key not accepted"
	case remote.KindExit, remote.KindMissingTool:
		return "ssh: the node cannot be read"
	}
	return "ssh: unreachable"
}

// gateChecks are a node's own findings.
func gateChecks(s site, t target, a answer) []string {
	checks := parseSystem(a.sections["system"])
	if s.als() {
		switch {
		case a.value("no-kato") != "":
			checks = append(checks, "kato: "+remote.Escape(s.cluster.Kato.Path)+" is not there")
		case a.exit("ready-exit") == 124:
			checks = append(checks, "kato: not ready (no answer within "+s.cluster.Kato.Timeout.String()+")")
		default:
			if err := kato.ParseReady([]byte(a.sections["ready"]), a.exit("ready-exit")); err != nil {
				checks = append(checks, "kato: not ready ("+err.Error()+")")
			}
		}
	}
	commands := s.cluster.GateCommandsOf(t.node)
	codes := map[string]string{}
	for _, v := range a.values["command"] {
		if index, code, ok := strings.Cut(v, " "); ok {
			codes[index] = code
		}
	}
	for i, line := range commands {
		code, ran := codes[strconv.Itoa(i)]
		if ran && code == "0" {
			continue
		}
		if !ran {
			code = "?"
		}
		checks = append(checks, "command: "+oneLine(line, 120)+" (exit "+oneLine(code, 5)+")")
	}
	return checks
}

// roleView is what the Core says of all roles.
type roleView struct {
	status kato.Status
	err    string
}

// viewOf reads the Core's status. kato's exit code does not count when the answer can be read: one node that is away makes it another one (kato.md §0.7).
func viewOf(a answer) roleView {
	status, err := kato.ParseStatus([]byte(a.sections["status"]))
	if err == nil {
		return roleView{status: status}
	}
	switch code := a.exit("status-exit"); {
	case code == 124:
		return roleView{err: coreSilent + " (in time)"}
	case code != 0:
		return roleView{err: fmt.Sprintf("%s (exit %d)", coreSilent, code)}
	}
	return roleView{err: coreSilent + " that can be read"}
}

// askRoles asks the Core alone.
func (n *Nodes) askRoles(ctx context.Context, s site) roleView {
	core, err := s.core()
	if err != nil {
		return roleView{err: coreSilent}
	}
	a, err := askFor(ctx, time.Minute+s.cluster.Kato.Timeout.Std(), n.Connections, core.host, rolesScript, katoSeconds(s), s.cluster.Kato.Path)
	if err != nil {
		return roleView{err: coreSilent}
	}
	return viewOf(a)
}

// checks are the roles of a node that do not run. base and mdns have no state of their own.
func (v roleView) checks(ctx context.Context, t target) []string {
	if v.err != "" {
		return []string{v.err}
	}
	id, err := nodeID(ctx, t)
	if err != nil {
		return []string{"kato: the node's address is not known"}
	}
	roles, listed := v.status[id]
	if !listed {
		return []string{"kato: the Core does not list the node"}
	}
	var checks []string
	for _, r := range v.status.Of(id) {
		if !r.Running() {
			checks = append(checks, "role: "+r.Role+" is "+r.State)
		}
	}
	for _, role := range t.node.Roles {
		if _, there := roles[role]; !there && role != "base" && role != "mdns" {
			checks = append(checks, "role: "+role+" is absent")
		}
	}
	return checks
}

// nodeID is the id that kato knows a node by: its IP address (kato.md §1).
func nodeID(ctx context.Context, t target) (string, error) {
	if addr, err := netip.ParseAddr(t.node.Address); err == nil {
		return addr.Unmap().String(), nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", t.node.Address)
	if err != nil || len(found) == 0 {
		return "", fail(operation.ErrInternal, t.node.Name, "the address %s cannot be resolved on the worker: kato knows nodes by IP address, write that", remote.Escape(t.node.Address))
	}
	return found[0].Unmap().String(), nil
}

// each calls do for 0..n-1, at most atOnce at a time, and waits for all.
func each(n int, do func(i int)) {
	places := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for i := range n {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			do(i)
		})
	}
	all.Wait()
}
