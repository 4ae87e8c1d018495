package workflows

// Access ("Passwordless SSH Authentication" of the source page): what ssh-copy-id does from the Core to every other node, with what can be known beforehand and afterwards,
//
//  1. nodes that do not know the worker's key yet are reached with a password, where one is given, and get the key;
//  2. the Core's key is read, and made where there is none;
//  3. on every node, side by side: the key goes into authorized_keys, once, and the node's own key as well; then the logins are tried, from the Core and from the node to itself;
//  4. where it is wanted, and only when every node has proved its logins: password logins are switched off, node by node; a node on which a new login does not work then takes that back by itself.
//
// A revocation takes the keys away, and puts password logins back before. The steps of one node are in access_node.go.

import (
	"fmt"
	"slices"
	"strings"

	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

// Access is the operation workflow. It completes with the report when every node has what it should; otherwise it fails, or ends as cancelled, with the report in the details of its error.
func Access(ctx workflow.Context, in operation.AccessInput) (*operation.Report, error) {
	return operate(ctx, in.Action.Kind(), in.Request, in.Batch, &access{in: in})
}

type access struct {
	rolling
	in operation.AccessInput
	// key is what is granted or revoked.
	key string
	// switching: password logins are being switched, the keys are done.
	switching bool
	switched  int
}

func (p *access) attach(r *run) {
	p.rolling = rolling{run: r, work: p}
}

func (p *access) check() []string { return p.in.Check() }

func (p *access) selection() activities.ResolveInput {
	return activities.ResolveInput{Cluster: p.in.Cluster, InventoryDigest: p.in.InventoryDigest, Nodes: p.in.Nodes}
}

func (p *access) needs() activities.PreflightNeeds { return activities.PreflightNeeds{} }

func (p *access) wantsMaintenance() bool { return false }

// introduce reaches the nodes that do not know the worker's key. In a dry run their names are kept, because the preflight cannot ask them.
func (p *access) introduce(ctx workflow.Context) *operation.Failure {
	if !p.in.Password.Given() {
		return nil
	}
	p.report.Message = "first contact"
	p.refresh(ctx)
	meant := names(p.plan)
	if from, problem := accessFrom(p.plan, p.in.From); problem == "" && !slices.Contains(meant, from) {
		meant = append(meant, from)
	}
	var access *activities.Access
	var problems, introduced []string
	for part := range slices.Chunk(meant, nodesPerChunk) {
		var out activities.FirstContactResult
		err := workflow.ExecuteActivity(following(ctx, "first contact with "+count(len(part), "node"), nodesWithin), access.FirstContact,
			activities.FirstContactInput{Operation: p.op, Nodes: part, Password: p.in.Password, DryRun: p.in.DryRun}).Get(ctx, &out)
		if err != nil {
			f := operation.FailureOf(err)
			if len(introduced) > 0 {
				f.Message += fmt.Sprintf("; %s got the worker's key before (%s)", count(len(introduced), "node"), strings.Join(bound(introduced, 10), ", "))
			}
			return f
		}
		problems, introduced = append(problems, out.Problems...), append(introduced, out.Introduced...)
	}
	done := "got the worker's key, by password"
	if p.in.DryRun {
		p.strangers, done = introduced, "would get the worker's key: the password is right there"
	}
	if len(introduced) > 0 {
		p.touched = !p.in.DryRun
		p.warn(fmt.Sprintf("%s %s (%s)", count(len(introduced), "node"), done, strings.Join(bound(introduced, 10), ", ")))
	}
	if len(problems) == 0 {
		return nil
	}
	f := &operation.Failure{Type: operation.ErrPreflight, Problems: bound(problems, 500), Message: fmt.Sprintf("%s cannot be reached by key or password", count(len(problems), "node"))}
	if n := len(introduced); n > 0 && !p.in.DryRun {
		f.Message += fmt.Sprintf("; %s got the worker's key meanwhile, and nothing else was changed", count(n, "node"))
	}
	return f
}

// ready finds the node that reaches the others.
func (p *access) ready(ctx workflow.Context) (problems, warnings []string, err error) {
	warnings = p.setWindows(ctx, p.in.Window, operation.UnitNode)
	from, problem := accessFrom(p.plan, p.in.From)
	if problem != "" {
		return []string{problem}, warnings, nil
	}
	p.in.From = from
	if p.in.DisablePasswords && len(p.plan.Others) > 0 && !slices.Contains(names(p.plan), from) {
		warnings = append(warnings, fmt.Sprintf("%s itself is not among the nodes whose password logins are switched off", from))
	}
	if !p.in.Passwords() && p.in.Action == operation.AccessGrant {
		return nil, warnings, nil
	}
	asked := slices.DeleteFunc(names(p.plan), func(name string) bool { return slices.Contains(p.strangers, name) })
	var access *activities.Access
	for part := range slices.Chunk(asked, nodesPerChunk) {
		var out activities.PasswordsReadyResult
		if err := workflow.ExecuteActivity(following(ctx, "sudo on "+count(len(part), "node"), nodesWithin), access.PasswordsReady, activities.AccessLookInput{Cluster: p.in.Cluster, Nodes: part, Switch: p.in.Passwords()}).Get(ctx, &out); err != nil {
			return nil, nil, err
		}
		problems, warnings = append(problems, out.Problems...), append(warnings, out.Warnings...)
	}
	return problems, bound(warnings, 50), nil
}

// accessFrom is the node that reaches the others.
func accessFrom(plan operation.Plan, wanted string) (from, problem string) {
	switch {
	case wanted == "" && plan.Core == "":
		return "", "cluster: it has no Core: say with --from which node is to reach the others"
	case wanted == "":
		return plan.Core, ""
	case !slices.Contains(names(plan), wanted) && !slices.Contains(plan.Others, wanted):
		return "", fmt.Sprintf("cluster: there is no node %s to reach the others from", wanted)
	}
	return wanted, ""
}

func (p *access) dryRun(ctx workflow.Context) ([]operation.CommandPlan, error) {
	var access *activities.Access
	var out activities.PlanCommandsResult
	err := workflow.ExecuteActivity(quick(ctx, "commands of the plan"), access.PlanAccess, activities.PlanAccessInput{Operation: p.op, Nodes: p.plan.Nodes, Change: p.change()}).Get(ctx, &out)
	return out.Plans, err
}

// change is what is done to a node.
func (p *access) change() operation.AccessInput {
	key := p.key
	if key == "" {
		key = p.in.PublicKey
	}
	return operation.AccessInput{Action: p.in.Action, From: p.in.From, PublicKey: key, NoOwnKeys: p.in.NoOwnKeys, OwnKeys: p.in.OwnKeys, KeepKeys: p.in.KeepKeys,
		DisablePasswords: p.in.DisablePasswords, RestorePasswords: p.in.RestorePasswords, Port: p.in.Port}
}

func (p *access) nodeWorkflow() (name, what string) {
	return operation.WorkflowAccessNode, "access " + string(p.in.Action)
}

func (p *access) nodeInput(task nodeTask) any {
	in := nodeAccessInput{nodeTask: task, Change: p.change(), Given: p.in.PublicKey != ""}
	if p.in.Action == operation.AccessRevoke {
		in.Passwords, in.Keys = p.in.RestorePasswords, !p.in.KeepKeys
	} else {
		in.Passwords, in.Keys = p.switching, !p.switching
	}
	return in
}

func (p *access) first(*operation.NodeReport) {}

func (p *access) steps(ctx workflow.Context) {
	if !p.findKey(ctx) {
		return
	}
	// Keys are added beside what is there: nothing that works can break by them, so that all nodes get them at once.
	slots := p.report.Slots
	p.report.Slots = len(p.report.Nodes)
	p.rollingOptions = rollingOptions{noCanary: true, maxFailures: p.in.MaxFailures}
	p.roll(ctx)
	p.report.Slots = slots
	for i := range p.report.Nodes {
		p.report.Nodes[i].HostKeys = nil // no news for people
	}
	if ctx.Err() != nil || p.aborting || !p.in.DisablePasswords {
		return
	}
	unproved := 0
	for i := range p.report.Nodes {
		if p.report.Nodes[i].Status != operation.NodeDone {
			unproved++
		}
	}
	if unproved > 0 {
		p.warn(fmt.Sprintf("password logins were left as they are everywhere, because %s has not proved its logins by key", count(unproved, "node")))
		return
	}
	p.switchOff(ctx)
}

// findKey reads or makes the key that is granted. False: cancelled or aborted.
func (p *access) findKey(ctx workflow.Context) bool {
	if p.key = p.in.PublicKey; p.key != "" || p.in.KeepKeys {
		return true
	}
	var access *activities.Access
	for try, job := 1, 1; ; try++ {
		in := activities.NodeInput{Operation: p.op, Node: operation.PlannedNode{Name: p.in.From}, JobTry: job, UnreachableAfter: p.plan.UnreachableAfter, Settle: p.in.Action == operation.AccessRevoke}
		var out activities.CoreKeyResult
		err := workflow.ExecuteActivity(following(ctx, "the key of "+p.in.From, p.plan.UnreachableAfter.D()), access.CoreKey, in).Get(ctx, &out)
		if ctx.Err() != nil {
			return false
		}
		if err == nil {
			p.key = out.PublicKey
			if out.Made {
				p.warn("a key was made on " + p.in.From + " (RSA, 4096 bits, without a passphrase)")
			}
			return true
		}
		f := operation.FailureOf(err)
		if !operation.OutcomeUnknown(f.Type) {
			job++
		}
		if p.in.MaxFailures != nil { // nobody is there to answer
			p.warn(f.Message)
			p.aborting = true
			return false
		}
		switch p.ask(ctx, p.in.From, operation.StepCoreKey, try, *f, operation.Retry, operation.Abort) {
		case operation.Retry:
		case operation.Abort:
			p.aborting = true
			return false
		default:
			return false
		}
	}
}

// switchOff goes through the nodes once more.
func (p *access) switchOff(ctx workflow.Context) {
	proved := make([][]string, len(p.report.Nodes))
	for i := range p.report.Nodes {
		n := &p.report.Nodes[i]
		proved[i] = n.Notes
		n.Status, n.Step, n.StartedAt, n.EndedAt = operation.NodePending, "", "", ""
	}
	p.switching, p.next = true, 0
	p.rollingOptions = rollingOptions{noCanary: p.in.NoCanary, soakFor: p.in.Soak, maxFailures: p.in.MaxFailures}
	p.roll(ctx)
	for i := range p.report.Nodes {
		n := &p.report.Nodes[i]
		n.Notes = bound(slices.Concat(proved[i], n.Notes), 20)
		switch n.Status {
		case operation.NodeDone:
			p.switched++
		case operation.NodePending:
			n.Status = operation.NodeDone // what was begun with it before
			n.Notes = append(n.Notes, "its password logins are as they were")
		}
	}
}

// found is what the preflight tells the starter.
func (p *access) found() string {
	return fmt.Sprintf("%s, from %s", count(len(p.plan.Nodes), "node"), p.in.From)
}

// outcomeText is the message of an operation that ended well.
func (p *access) outcomeText() string {
	nodes := count(len(p.report.Nodes), "node")
	switch {
	case p.in.KeepKeys:
		return "password logins put back on " + nodes
	case p.in.Action == operation.AccessRevoke && p.in.PublicKey != "":
		return "the key is out of authorized_keys on " + nodes
	case p.in.Action == operation.AccessRevoke:
		return fmt.Sprintf("the key of %s is out of authorized_keys on %s", p.in.From, nodes)
	case p.in.PublicKey != "":
		return "the key is in authorized_keys on " + nodes
	case p.in.DisablePasswords:
		return fmt.Sprintf("%s reaches %s by key, password logins are off on %d", p.in.From, nodes, p.switched)
	}
	return fmt.Sprintf("%s reaches %s by key", p.in.From, nodes)
}

// AccessCheck tells who reaches whom. It changes nothing.
func AccessCheck(ctx workflow.Context, in operation.AccessCheckInput) (operation.AccessStatus, error) {
	out := operation.AccessStatus{Cluster: in.Cluster, At: stamp(ctx), Nodes: []operation.AccessNode{}}
	var inventory *activities.Inventory
	var plan operation.Plan
	if err := workflow.ExecuteActivity(quick(ctx, "inventory"), inventory.Resolve, activities.ResolveInput{Cluster: in.Cluster, InventoryDigest: in.InventoryDigest}).Get(ctx, &plan); err != nil {
		return out, err
	}
	from, problem := accessFrom(plan, in.From)
	if problem != "" {
		return out, operation.NewError(operation.Failure{Type: operation.ErrBadInput, Message: strings.TrimPrefix(problem, "cluster: ")})
	}
	out.From = from
	var access *activities.Access
	for part := range slices.Chunk(names(plan), nodesPerChunk) {
		var now operation.AccessStatus
		if err := workflow.ExecuteActivity(following(ctx, "who reaches "+count(len(part), "node"), nodesWithin), access.LookAtAccess, activities.AccessLookInput{Cluster: in.Cluster, Nodes: part, From: from, Port: in.Port}).Get(ctx, &now); err != nil {
			return out, err
		}
		if out.Key == "" {
			out.Key = now.Key
		}
		out.Nodes = append(out.Nodes, now.Nodes...)
		for _, problem := range now.Problems {
			if !slices.Contains(out.Problems, problem) {
				out.Problems = append(out.Problems, problem)
			}
		}
	}
	out.Problems = bound(out.Problems, 500)
	return out, nil
}
