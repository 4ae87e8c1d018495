package activities

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// HostKeys reads the keys that a host shows; *remote.Pool does.
type HostKeys interface {
	ScanHostKeys(ctx context.Context, h remote.Host) ([]ssh.PublicKey, error)
}

// Inventory answers from the worker's own cluster file, which is the truth: a starter's file is only compared with it. Its fields are set by the
// worker and not changed afterwards.
type Inventory struct {
	Source   *Source
	HostKeys HostKeys

	trusting sync.Mutex
}

// badInput is what cannot be carried out as it is written, all of it at once.
func badInput(problems ...string) error {
	message := problems[0]
	if len(problems) > 1 {
		message = fmt.Sprintf("%s (and %d more)", message, len(problems)-1)
	}
	const most = 50
	shown := slices.Clone(problems[:min(len(problems), most)])
	if more := len(problems) - most; more > 0 {
		shown = append(shown, fmt.Sprintf("and %d more", more))
	}
	for i := range shown {
		shown[i] = oneLine(shown[i], 512)
	}
	return operation.NewError(operation.Failure{Type: operation.ErrBadInput, Message: oneLine(message, maxMessage), Problems: shown})
}

// Resolve checks the request against the cluster file, and the files and secrets that the cluster refers to, and freezes what the operation needs into
// a Plan. It reads only, and reaches no node. The error is BadInput, not retryable, with all problems.
func (i *Inventory) Resolve(ctx context.Context, in ResolveInput) (operation.Plan, error) {
	a := begin(ctx, "inventory")
	defer a.finish()
	file, err := i.Source.load()
	if err != nil {
		return operation.Plan{}, badInput(problemsOf(err)...)
	}
	c, err := file.Cluster(in.Cluster)
	if err != nil {
		return operation.Plan{}, badInput(err.Error())
	}
	digest := c.Digest()
	if in.InventoryDigest != "" && in.InventoryDigest != digest {
		return operation.Plan{}, badInput(fmt.Sprintf("cluster %s is not the same in your inventory and in the worker's (%s): bring the two files together, or leave --inventory out",
			c.Name, file.Path()))
	}
	var problems []string
	if err := file.CheckFiles(i.Source.env, c.Name); err != nil {
		problems = append(problems, problemsOf(err)...)
	}
	var selected []*inventory.Node
	if in.NoNodes {
		if c.Controller == nil {
			problems = append(problems, fmt.Sprintf("cluster %s has no controller in the inventory: write url, user and password of its Cloud Controller", c.Name))
		}
	} else if in.Core {
		if c.Platform != inventory.PlatformALS {
			problems = append(problems, fmt.Sprintf("cluster %s is a plain one, and has no Core", c.Name))
		}
		selected = []*inventory.Node{c.CoreNode()}
	} else if in.Import != "" {
		node, wrong := importNode(file, c, in.Import, in.Running, i.Source.env)
		if in.Scratch {
			wrong = append(wrong, scratchProblems(file, c, in.Import)...)
		}
		selected, problems = []*inventory.Node{node}, append(problems, wrong...)
	} else if in.Export != nil {
		node, wrong := exportNode(file, c, *in.Export, i.Source.env)
		selected, problems = []*inventory.Node{node}, append(problems, wrong...)
	} else if selected, err = c.Select(in.Nodes, in.Roles); err != nil {
		problems = append(problems, strings.Split(err.Error(), "; ")...)
	}
	if err := c.CheckRoleOrder(in.RoleOrder); err != nil {
		problems = append(problems, err.Error())
	}
	core := c.CoreNode()
	if c.Platform == inventory.PlatformALS && core == nil {
		problems = append(problems, fmt.Sprintf("cluster %s has no Core node: write core: true at it", c.Name))
	}
	if len(problems) > 0 {
		return operation.Plan{}, badInput(problems...)
	}
	plan := planOf(c, c.OrderOf(selected, in.RoleOrder), core, digest)
	if in.NoNodes {
		plan.Others = nil
	}
	return plan, nil
}

func planOf(c *inventory.Cluster, ordered []*inventory.Node, core *inventory.Node, digest string) operation.Plan {
	plan := operation.Plan{
		Cluster: c.Name, Platform: string(c.Platform), Digest: digest,
		GateTimes: c.Gates.Times, GateInterval: operation.Duration(c.Gates.Interval), GateTimeout: operation.Duration(c.Gates.Timeout),
		UnreachableAfter: operation.Duration(c.Timeouts.UnreachableAfter), BootTimeout: operation.Duration(c.Timeouts.Boot),
		UpgradeTimeout: operation.Duration(c.Timeouts.Upgrade), AptLockTimeout: operation.Duration(c.Timeouts.AptLock),
		ExportTimeout: operation.Duration(c.ExportSettings().Timeout), KeepReports: c.S3 != nil,
	}
	if c.Images != nil {
		plan.Images = operation.ImageSettings{Repository: c.Images.Repository, Base: c.Images.BaseTag, Registry: c.Images.Registry}
	}
	for _, n := range ordered {
		plan.Nodes = append(plan.Nodes, operation.PlannedNode{Name: n.Name, Roles: n.Roles, Core: n == core})
	}
	for _, n := range c.Nodes {
		if !slices.Contains(ordered, n) {
			plan.Others = append(plan.Others, n.Name)
		}
		if n.HasRole("dea") {
			plan.DEAs++
		}
	}
	if core != nil {
		plan.Core = core.Name
	}
	if c.Notify.Webhook != nil || len(c.Notify.Command) > 0 {
		plan.NotifyOn = c.Notify.On
	}
	return plan
}

// Trust shows the host keys of nodes and, for those the operator has confirmed by fingerprint, writes them into the first known_hosts file of the
// node. Nothing is believed that was not confirmed; a key that another is known for is only replaced when Replace says so. A node that cannot be
// asked is in the result. Repeating it is harmless.
func (i *Inventory) Trust(ctx context.Context, in TrustInput) (TrustResult, error) {
	a := begin(ctx, "host keys")
	defer a.finish()
	file, err := i.Source.load()
	if err != nil {
		return TrustResult{}, badInput(problemsOf(err)...)
	}
	c, err := file.Cluster(in.Cluster)
	if err != nil {
		return TrustResult{}, badInput(err.Error())
	}
	nodes, err := c.Select(in.Nodes, nil)
	if err != nil {
		return TrustResult{}, badInput(strings.Split(err.Error(), "; ")...)
	}
	confirmed, err := confirmations(in.Accept, c)
	if err != nil {
		return TrustResult{}, err
	}
	s := site{file: file, cluster: c, env: i.Source.env}
	shown := make([][]TrustedKey, len(nodes))
	each(len(nodes), func(at int) { shown[at] = i.trust(a.ctx, s, nodes[at], confirmed[nodes[at].Name], in.Replace) })
	if a.ctx.Err() != nil {
		return TrustResult{}, ended(a.ctx)
	}
	var out TrustResult
	for _, keys := range shown {
		out.Keys = append(out.Keys, keys...)
	}
	return out, nil
}

// confirmations are the fingerprints by node.
func confirmations(accept []string, c *inventory.Cluster) (map[string][]string, error) {
	confirmed := map[string][]string{}
	var problems []string
	for _, pair := range accept {
		name, fingerprint, _ := strings.Cut(strings.TrimSpace(pair), " ")
		fingerprint = strings.TrimSpace(fingerprint)
		if _, err := c.Node(name); err != nil {
			problems = append(problems, err.Error())
		} else if !strings.HasPrefix(fingerprint, "SHA256:") {
			problems = append(problems, fmt.Sprintf("accept %q: write NODE SHA256:FINGERPRINT", operation.Shorten(pair, 80)))
		}
		confirmed[name] = append(confirmed[name], fingerprint)
	}
	if len(problems) > 0 {
		return nil, badInput(problems...)
	}
	return confirmed, nil
}

// trust is one node.
func (i *Inventory) trust(ctx context.Context, s site, node *inventory.Node, confirmed []string, replace bool) []TrustedKey {
	broken := func(err error) []TrustedKey {
		return []TrustedKey{{Node: node.Name, State: "error", Error: failureOf(err).Message}}
	}
	t, err := s.of(node)
	if err != nil {
		return broken(err)
	}
	if len(t.host.KnownHosts) == 0 {
		return []TrustedKey{{Node: node.Name, State: "error", Error: "no known_hosts file: write ssh.known_hosts"}}
	}
	keys, err := i.HostKeys.ScanHostKeys(ctx, t.host)
	if err != nil {
		return broken(err)
	}
	var out []TrustedKey
	seen := map[string]bool{}
	var accepted []ssh.PublicKey
	changed := false
	for _, key := range keys {
		fingerprint := ssh.FingerprintSHA256(key)
		seen[fingerprint] = true
		shown := TrustedKey{Node: node.Name, Type: oneLine(key.Type(), 64), Fingerprint: fingerprint}
		if shown.State, err = knownState(t.host, key); err != nil {
			shown.State, shown.Error = "error", oneLine(err.Error(), maxMessage)
		}
		isConfirmed := slices.Contains(confirmed, fingerprint)
		switch {
		case shown.State == "new" && isConfirmed:
			accepted, shown.State = append(accepted, key), "added"
		case shown.State == "changed" && isConfirmed && replace:
			accepted, shown.State, changed = append(accepted, key), "replaced", true
		case shown.State == "changed" && isConfirmed:
			shown.Error = "another key is known for this node: confirm with --replace when it was really changed"
		}
		out = append(out, shown)
	}
	for _, fingerprint := range confirmed {
		if !seen[fingerprint] {
			out = append(out, TrustedKey{Node: node.Name, Fingerprint: oneLine(fingerprint, 64), State: "error", Error: "the node does not show this key: compare again"})
		}
	}
	if len(accepted) == 0 {
		return out
	}
	// The files of nodes may be the same one.
	i.trusting.Lock()
	defer i.trusting.Unlock()
	write := remote.AppendKnownHost
	if changed {
		write = remote.ReplaceKnownHost
	}
	if err := write(t.host.KnownHosts[0], t.host, accepted...); err != nil {
		for at := range out {
			if out[at].State == "added" || out[at].State == "replaced" {
				out[at].State, out[at].Error = "error", oneLine(err.Error(), maxMessage)
			}
		}
	}
	return out
}
