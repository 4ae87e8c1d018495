package activities

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/kato"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

const (
	leastSpace  = 500 << 10 // KiB in / and /var
	leastBoot   = 50 << 10  // KiB in /boot
	scarceSpace = 1 << 20   // KiB below which a warning is due
	mostSkew    = time.Minute
	oldLists    = 7 * 24 * time.Hour
	jobPoll     = 2 * time.Second
)

// Preflight looks at all nodes in parallel and changes nothing. What is wrong with a node is in its entry, all of it at once, and never an error. What
// does not hold now is the baseline (Broken) that later gates are compared with.
func (n *Nodes) Preflight(ctx context.Context, in PreflightInput) (PreflightResult, error) {
	a := begin(ctx, "preflight")
	defer a.finish()
	s, err := n.Source.site(in.Operation.Cluster)
	if err != nil {
		return PreflightResult{}, err
	}
	names := append(append([]string{}, in.Nodes...), in.Others...)
	targets, err := s.targets(names)
	if err != nil {
		return PreflightResult{}, err
	}
	core := s.cluster.CoreNode()
	out := PreflightResult{Nodes: make([]NodePreflight, len(names))}
	readings := make([]answer, len(names))
	errs := make([]error, len(names))
	each(len(names), func(i int) {
		t, work := targets[i], i < len(in.Nodes)
		args := []string{flag(t.host.User != "root"), flag(in.Reboot), flag(work), flag(in.Packages)}
		ctx, cancel := context.WithTimeout(a.ctx, gateTime(s, t))
		defer cancel()
		began := time.Now()
		// One more try, so that a connection lost by chance is no problem of the node.
		for try := 0; try < 2; try++ {
			readings[i], errs[i] = askFor(ctx, gateTime(s, t), n.Connections, t.host, preflightScript, append(args, gateArguments(s, t, t.node == core && s.als())...)...)
			if !remote.IsKind(errs[i], remote.KindTransport) || sleep(ctx, firstPause) != nil {
				break
			}
			began = time.Now()
		}
		out.Nodes[i] = n.judge(s, t, readings[i], errs[i], work, in.Packages, began, time.Now())
	})
	if a.ctx.Err() != nil {
		return PreflightResult{}, ended(a.ctx)
	}
	if s.als() && core != nil {
		n.preflightRoles(a.ctx, s, targets, readings, errs, &out)
	}
	if err := n.foreignJobs(a, in, targets, errs, &out); err != nil {
		return PreflightResult{}, err
	}
	if s.als() && core != nil {
		n.preflightMaintenance(a.ctx, s, targets, readings, errs, in.Operation, &out)
	}
	return out, nil
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// judge turns one node's reading into findings.
func (n *Nodes) judge(s site, t target, read answer, err error, work, packages bool, began, ended time.Time) NodePreflight {
	out := NodePreflight{Node: t.node.Name}
	if err != nil {
		out.Broken = []operation.GateFailure{{Node: t.node.Name, Check: unreachable(err)}}
		if work {
			out.Problems = []string{withoutNode(failureOf(err).Message, t.host.Name)}
		}
		return out
	}
	for _, check := range gateChecks(s, t, read) {
		out.Broken = append(out.Broken, operation.GateFailure{Node: t.node.Name, Check: check})
	}
	if !work {
		return out
	}
	problem := func(format string, args ...any) {
		out.Problems = append(out.Problems, oneLine(fmt.Sprintf(format, args...), 500))
	}
	warning := func(format string, args ...any) {
		out.Warnings = append(out.Warnings, oneLine(fmt.Sprintf(format, args...), 500))
	}

	if user := read.value("user"); user != t.host.User {
		problem("the login gives user %s, the inventory says %s: correct ssh.user", user, t.host.User)
	}
	if missing := read.value("missing"); missing != "" {
		problem("the node lacks %s: install it", strings.Join(strings.Fields(missing), ", "))
	}
	if refused := read.value("refused"); refused != "" {
		problem("sudo does not let %s run without a password: %s: install deploy/sudoers/katoflow there", t.host.User, strings.Join(strings.Split(refused, ","), "; "))
	}
	for _, fs := range parseSpace(read.sections["space"]) {
		least := int64(leastSpace)
		if fs.mount == "/boot" {
			least = leastBoot
		}
		switch {
		case fs.free < least:
			problem("%d MB free in %s, at least %d MB are needed: free some space", fs.free>>10, fs.mount, least>>10)
		case fs.free < scarceSpace && fs.mount != "/boot":
			warning("only %d MB free in %s", fs.free>>10, fs.mount)
		}
	}
	now, clock := strconv.ParseInt(read.value("now"), 10, 64)
	if packages {
		if unfinished, dirty := unfinished(read); len(unfinished) > 0 || dirty {
			warning("dpkg has left %s unfinished: it will be repaired before the upgrade", some(unfinished, 5))
		}
		if holders := parseLocks(read.values["lock"]); len(holders) > 0 {
			warning("apt is in use by %s: the upgrade will wait for it", holders[0])
		}
		pending, trouble := parsePending(read.sections["pending"])
		if trouble != "" {
			warning("apt-get cannot plan an upgrade: %s", trouble)
		}
		switch lists, err := strconv.ParseInt(read.value("lists"), 10, 64); {
		case err != nil:
			warning("no package lists were ever fetched: what is pending shows when the upgrade fetches them")
		case clock == nil && now-lists > int64(oldLists/time.Second):
			warning("its package lists are %d days old: more may be pending than they say", (now-lists)/(24*3600))
		}
		out.Pending = len(pending)
	}
	out.Kernel = oneLine(read.value("kernel"), 128)
	out.RebootRequired = read.value("reboot-required") == "1"
	if clock == nil {
		// The node read its clock between the two times.
		skew := time.Duration(0)
		switch at := time.Unix(now, 0); {
		case at.Before(began.Add(-mostSkew)):
			skew = began.Sub(at)
			warning("its clock is %s behind the worker's: see its time service", skew.Round(time.Second))
		case at.After(ended.Add(mostSkew)):
			skew = at.Sub(ended)
			warning("its clock is %s ahead of the worker's: see its time service", skew.Round(time.Second))
		}
	} else {
		warning("its clock cannot be read")
	}
	return out
}

// preflightRoles adds what only the Core knows: the roles that do not run, and whether it knows the same nodes as the inventory.
func (n *Nodes) preflightRoles(ctx context.Context, s site, targets []target, readings []answer, errs []error, out *PreflightResult) {
	core := s.cluster.CoreNode()
	at := slices.IndexFunc(targets, func(t target) bool { return t.node == core })
	if at < 0 {
		return
	}
	entry := &out.Nodes[at]
	view := roleView{err: coreSilent}
	switch {
	case errs[at] != nil:
		if len(entry.Problems) == 0 {
			entry.Problems = append(entry.Problems, "it is the Core and must answer: "+withoutNode(failureOf(errs[at]).Message, core.Name))
		}
	case readings[at].value("no-kato") != "":
		entry.Problems = append(entry.Problems, fmt.Sprintf("kato is not at %s: correct kato.path", remote.Escape(s.cluster.Kato.Path)))
	default:
		view = viewOf(readings[at])
		if view.err != "" {
			entry.Warnings = append(entry.Warnings, "the states of roles cannot be compared: "+view.err)
		}
	}
	for i, t := range targets {
		if errs[i] != nil {
			continue
		}
		for _, check := range view.checks(ctx, t) {
			out.Nodes[i].Broken = append(out.Nodes[i].Broken, operation.GateFailure{Node: t.node.Name, Check: check})
		}
	}
	if view.err != "" && view.status == nil && readings[at].exit("nodes-exit") != 0 {
		return
	}
	if nodes, err := kato.ParseNodeList([]byte(readings[at].sections["nodes"])); err == nil && readings[at].exit("nodes-exit") == 0 {
		entry.Warnings = append(entry.Warnings, compareNodes(ctx, s, nodes)...)
	} else {
		entry.Warnings = append(entry.Warnings, "kato node list gives no nodes: the inventory cannot be compared with it")
	}
}

// compareNodes warns of nodes that only one of kato and the inventory knows.
func compareNodes(ctx context.Context, s site, listed []kato.Node) []string {
	var warnings []string
	var known []string
	for _, node := range s.cluster.Nodes {
		id, err := nodeID(ctx, target{node: node})
		if err != nil {
			continue
		}
		known = append(known, id)
		if !slices.ContainsFunc(listed, func(l kato.Node) bool { return sameAddress(l.ID, id) }) {
			warnings = append(warnings, fmt.Sprintf("kato node list does not have %s (%s)", node.Name, id))
		}
	}
	for _, l := range listed {
		if !slices.ContainsFunc(known, func(id string) bool { return sameAddress(l.ID, id) }) {
			warnings = append(warnings, "kato node list has "+l.ID+", which the inventory does not have: it will not be upgraded")
		}
	}
	return warnings[:min(len(warnings), maxFailures)]
}

func sameAddress(a, b string) bool {
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	return errX == nil && errY == nil && x.Unmap() == y.Unmap()
}

// foreignJobs waits for jobs of other operations that still run on any node, and then makes them a problem: as long as they live the node's lease cannot be taken.
func (n *Nodes) foreignJobs(a *attempt, in PreflightInput, targets []target, errs []error, out *PreflightResult) error {
	waiting := make([]bool, len(targets))
	for i := range targets {
		waiting[i] = errs[i] == nil
	}
	began := a.since("jobs of other operations")
	for {
		over := time.Since(began)+jobPoll > in.WaitForJobs.D()
		running, warnings := make([]string, len(targets)), make([]string, len(targets))
		failed := make([]error, len(targets))
		each(len(targets), func(i int) {
			if !waiting[i] {
				return
			}
			var jobs []remote.JobStatus
			for try := 0; try < 2; try++ {
				if jobs, failed[i] = n.Jobs.Running(a.ctx, targets[i].host); !remote.IsKind(failed[i], remote.KindTransport) || sleep(a.ctx, firstPause) != nil {
					break
				}
			}
			for _, j := range jobs {
				if j.ID.Operation != in.Operation.ID && j.ID.Step != stepDeadMan {
					running[i] = fmt.Sprintf("job %s of operation %s still runs: wait for its end (katoflow op show), or end it there", oneLine(j.ID.Step, 64), oneLine(j.ID.Operation, 64))
					return
				}
			}
			if dead, ok := deadManOf(jobs, in.Operation); ok {
				running[i], warnings[i] = n.relieve(a.ctx, in.Operation, targets[i], dead, over)
			}
		})
		if a.ctx.Err() != nil {
			return ended(a.ctx)
		}
		left := 0
		for i := range targets {
			entry := &out.Nodes[i]
			switch {
			case !waiting[i]:
			case failed[i] != nil && i >= len(in.Nodes):
				waiting[i] = false // it is only fenced, if it can be
			case failed[i] != nil:
				waiting[i] = false
				entry.Problems = append(entry.Problems, withoutNode(failureOf(failed[i]).Message, targets[i].host.Name))
			case running[i] == "":
				waiting[i] = false
				entry.Warnings = append(entry.Warnings, notes(warnings[i])...)
			case over:
				waiting[i] = false
				entry.Problems = append(entry.Problems, running[i])
			default:
				left++
				a.phase(targets[i].host.Name + ": " + running[i])
			}
		}
		if left == 0 {
			return nil
		}
		if !a.pause(jobPoll) {
			return ended(a.ctx)
		}
	}
}
