package activities

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/kato"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// ExportReadyInput asks whether an export can be made.
type ExportReadyInput struct {
	ExportInput
	Mode         operation.TransferMode `json:"mode,omitempty"`
	EncryptTo    []string               `json:"encryptTo,omitempty"`
	NoSpaceCheck bool                   `json:"noSpaceCheck,omitempty"`
}

// ExportReadyResult is what was found, one line each, with the place it is about before a colon.
type ExportReadyResult struct {
	Problems []string `json:"problems,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	// DataSize is the size of what will be exported, in bytes, as far as it could be measured.
	DataSize int64 `json:"dataSize"`
}

var (
	readyScript       = script("export_ready")
	katoVersionScript = script("kato_version")
)

// ExportReady asks all nodes, the bucket and the Cloud Controller what an export needs of them, all at once, and changes nothing (a probe object in the bucket is
// written and removed). What is wrong is in the result and never an error.
func (x *Archives) ExportReady(ctx context.Context, in ExportReadyInput) (ExportReadyResult, error) {
	a := begin(ctx, "asking what an export needs")
	defer a.finish()
	s, t, err := x.where(in.ExportInput)
	if err != nil {
		return ExportReadyResult{}, err
	}
	core, err := s.core()
	if err != nil {
		return ExportReadyResult{}, err
	}
	nodes := s.cluster.Nodes
	if in.OnlyThisNode {
		nodes = []*inventory.Node{t.node}
		if core.node != t.node {
			nodes = append(nodes, core.node)
		}
	}
	r := ready{site: s, in: in, core: core.node, folders: s.cluster.ExportSettings().DataFolders}
	found := make([]findings, len(nodes)+2)
	each(len(found), func(i int) {
		switch {
		case i < len(nodes):
			found[i] = x.readyNode(a.ctx, r, nodes[i])
		case i == len(nodes):
			found[i] = x.readyBucket(a.ctx, r)
		default:
			found[i] = x.readyController(a.ctx, r)
		}
	})
	if a.ctx.Err() != nil {
		return ExportReadyResult{}, ended(a.ctx)
	}
	var out ExportReadyResult
	var space *fileSystem
	for _, f := range found {
		out.Problems = append(out.Problems, f.problems...)
		out.Warnings = append(out.Warnings, f.warnings...)
		out.DataSize += f.data << 10
		if f.space != nil {
			space = f.space
		}
	}
	if space != nil {
		out.judgeSpace(t.node.Name, *space, in.NoSpaceCheck)
	}
	return out, nil
}

// judgeSpace holds the space for the archive against the data: what is compressed takes less, what is staged beside it more.
func (r *ExportReadyResult) judgeSpace(node string, space fileSystem, noCheck bool) {
	free := space.free << 10
	switch {
	case free < r.DataSize && !noCheck:
		r.Problems = append(r.Problems, fmt.Sprintf("%s: %s free in %s for the archive of %s of data: free some space, set export.folder to a larger file system, or --no-space-check if it is known to fit",
			node, operation.Size(free), space.mount, operation.Size(r.DataSize)))
	case free < r.DataSize:
		r.Warnings = append(r.Warnings, fmt.Sprintf("%s: %s free in %s for the archive of %s of data", node, operation.Size(free), space.mount, operation.Size(r.DataSize)))
	case free < 2*r.DataSize:
		r.Warnings = append(r.Warnings, fmt.Sprintf("%s: %s free in %s for an export of %s of data: kato's own temporary files may not fit beside the archive",
			node, operation.Size(free), space.mount, operation.Size(r.DataSize)))
	}
}

// ready is what all questions have in common.
type ready struct {
	site site
	in   ExportReadyInput
	core *inventory.Node
	// other is a cluster whose Core the Core is to reach too, nil for none.
	other *inventory.Cluster
	// folders whose size is wanted.
	folders []string
}

// loginWithin is how long the Core waits for one node that does not answer.
const loginWithin = 15 * time.Second

// findings of one place.
type findings struct {
	problems, warnings []string
	data               int64 // KiB
	space              *fileSystem
	// boot is the boot id of a node, and reached those that the Core sees by address.
	boot    string
	reached map[string]string
}

func (f *findings) problem(place, format string, args ...any) {
	f.problems = append(f.problems, oneLine(place+": "+fmt.Sprintf(format, args...), 500))
}

func (f *findings) warning(place, format string, args ...any) {
	f.warnings = append(f.warnings, oneLine(place+": "+fmt.Sprintf(format, args...), 500))
}

func (x *Archives) readyNode(ctx context.Context, r ready, node *inventory.Node) (out findings) {
	name := node.Name
	t, err := r.site.of(node)
	if err != nil {
		out.problem(name, "%s", failureOf(err).Message)
		return out
	}
	here := name == r.in.Node.Name
	folder := r.site.staging(r.in.ExportInput)
	folders := r.folders
	// As long as everything may take that the script bounds: folders that are measured, calls of kato, nodes that do not answer to the Core.
	limit := gateTime(r.site, t) + time.Duration(len(folders))*4*time.Minute + askWithin
	direct := r.in.ToPath == "" && r.in.Mode != operation.TransferWorker && len(r.in.EncryptTo) == 0
	args := append([]string{flag(here), flag(node == r.core), flag(!r.in.OnlyThisNode), folder[0], folder[1], flag(direct), katoSeconds(r.site), r.site.cluster.Kato.Path,
		strconv.Itoa(len(folders))}, folders...)
	addresses := map[string]string{}
	if node == r.core && !r.in.OnlyThisNode {
		for _, other := range r.site.cluster.Nodes {
			// kato reaches the nodes by their ids, which are their addresses (kato.md §1).
			id, err := nodeID(ctx, target{node: other})
			if err != nil {
				out.problem(name, "the address of %s cannot be found: %s", other.Name, failureOf(err).Message)
				continue
			}
			addresses[id] = other.Name
			args = append(args, id)
			limit += loginWithin
		}
		if r.other != nil && r.other.CoreNode() != nil {
			other := r.other.CoreNode().Address // kato is given it as it is written
			addresses[other] = "the Core of " + r.other.Name
			args = append(args, other)
			limit += loginWithin
		}
	}
	var read answer
	for try := 0; try < 2; try++ {
		read, err = askFor(ctx, limit, x.Connections, t.host, readyScript, args...)
		if !remote.IsKind(err, remote.KindTransport) || sleep(ctx, firstPause) != nil {
			break
		}
	}
	if err != nil {
		out.problem(name, "%s", withoutNode(failureOf(err).Message, t.host.Name))
		return out
	}
	if read.value("no-sudo") != "" {
		out.problem(name, "sudo asks %s for a password, and kato would wait for it: allow it there without one (NOPASSWD)", t.host.User)
	}
	if !r.in.OnlyThisNode || here {
		out.data, _ = strconv.ParseInt(read.value("data"), 10, 64)
		for _, f := range read.values["unmeasured"] {
			out.warning(name, "the size of %s could not be measured, or not whole: see for yourself whether the archive will fit", f)
		}
	}
	out.boot, out.reached = read.value("boot"), map[string]string{}
	for _, seen := range read.values["reached"] {
		address, boot, _ := strings.Cut(seen, " ")
		out.reached[address] = boot
	}
	for _, denied := range read.values["no-access"] {
		words := strings.SplitN(denied, " ", 3)
		why := ""
		if len(words) == 3 {
			why = ": " + words[2]
		}
		out.problem(name, "the Core cannot log in to %s (%s) by key, which kato needs for the whole cluster: ssh-copy-id %s@%s there%s", addresses[words[0]], words[0], t.host.User, words[0], why)
	}
	if pids := read.values["running"]; len(pids) > 0 {
		out.problem(name, "kato data export or import runs there already (process %s): wait for its end", pids[0])
	}
	for _, service := range []string{"mysql", "postgresql"} {
		if host := kato.ParseValue([]byte(read.sections["host-"+service])); host != "" && !isLocal(ctx, r.site, host) {
			out.warning(r.site.cluster.Name, "the %s service uses the external database %s, which is not in an export: back it up by its own means", service, host)
		}
	}
	if !here {
		return out
	}
	if missing := read.value("missing"); missing != "" {
		out.problem(name, "the node lacks %s: install it", strings.ReplaceAll(strings.Join(strings.Fields(missing), ", "), "GNU-dd", "the dd of GNU coreutils"))
	}
	if r.in.Mode == operation.TransferDirect && read.value("no-curl") != "" {
		out.problem(name, "the node has no curl for a direct transfer: install it, or use --transfer worker")
	}
	if where := read.value("unwritable"); where != "" {
		out.problem(name, "%s cannot write to %s: correct export.folder or its owner", t.host.User, where)
	}
	for _, left := range read.values["left"] {
		out.warning(name, "%s is left from another export: remove it when that one will not go on", left)
	}
	if spaces := parseSpace(read.sections["space"]); len(spaces) > 0 {
		out.space = &spaces[0]
	}
	if r.in.ToPath != "" {
		switch {
		case read.value("there") != r.in.ToPath:
			out.problem(name, "there is no folder %s: name one of a mounted file system", r.in.ToPath)
		case out.space != nil && out.space.mount == "/":
			out.problem(name, "nothing is mounted at %s, it is on the system's own disk: mount the file system, or name its folder", r.in.ToPath)
		}
	}
	return out
}

// isLocal reports whether a database host is one of the cluster's own.
func isLocal(ctx context.Context, s site, host string) bool {
	if host == "localhost" {
		return true
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Unmap().IsLoopback() {
		return true
	}
	return slices.ContainsFunc(s.cluster.Nodes, func(n *inventory.Node) bool {
		id, err := nodeID(ctx, target{node: n})
		return n.Address == host || err == nil && sameAddress(id, host)
	})
}

func (x *Archives) readyBucket(ctx context.Context, r ready) (out findings) {
	if r.in.ToPath != "" {
		return out
	}
	store, err := r.site.store(x.Logger)
	if err != nil {
		out.problem("bucket", "%s", failureOf(err).Message)
		return out
	}
	defer store.Close()
	if err := store.Check(ctx); err != nil && ctx.Err() == nil {
		out.problem("bucket", "%s", err.Error())
	}
	return out
}

func (x *Archives) readyController(ctx context.Context, r ready) (out findings) {
	if r.site.cluster.Controller == nil {
		out.warning("controller", "the inventory has no controller section: the manifest will not say which orgs, apps and services there were")
		return out
	}
	c, err := r.site.controller(x.Logger)
	if err == nil {
		defer c.Close()
		err = c.CheckAdmin(ctx)
	}
	if err != nil && ctx.Err() == nil {
		out.problem("controller", "%s", err.Error())
	}
	return out
}

// exportNode chooses the node of an export, and finds all that is wrong with the request by what the inventory knows.
func exportNode(file *inventory.File, c *inventory.Cluster, in ExportRequest, env func(string) (string, bool)) (*inventory.Node, []string) {
	var problems []string
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if c.Platform != inventory.PlatformALS {
		problem("cluster %s is a plain one: only an ALS cluster has kato data export", c.Name)
		return nil, problems
	}
	problems = append(problems, kato.CheckSelectors(in.Include, in.Exclude)...)
	if len(in.EncryptTo) > 0 {
		if err := archive.CheckRecipients(in.EncryptTo); err != nil {
			problem("encrypt-to: %v", err)
		}
		if in.Transfer == operation.TransferDirect {
			problem("transfer direct cannot be encrypted, because the node sends what it has: use transfer worker")
		}
	}
	switch {
	case in.ToPath != "":
	case c.S3 == nil:
		problem("cluster %s has no s3 section in the worker's inventory: write the bucket of its archives there, or use --to-path", c.Name)
	default:
		problems = append(problems, bucketProblems(file, c, env)...)
	}
	if in.OnlyThisNode && in.Node == "" {
		return c.CoreNode(), problems
	}
	if in.Node == "" {
		n, err := c.ExportNode()
		if err != nil {
			problems = append(problems, err.Error()+"; or name the node with --node")
		}
		return n, problems
	}
	n, err := c.Node(in.Node)
	switch {
	case err != nil:
		problems = append(problems, err.Error())
	case !in.OnlyThisNode && !n.HasRole("filesystem") && slices.ContainsFunc(c.Nodes, func(o *inventory.Node) bool { return o.HasRole("filesystem") }):
		problem("%s has not the role filesystem, and an export of the cluster runs on the node that has it: leave --node out, or correct the roles", in.Node)
	}
	return n, problems
}

// bucketProblems is what is wrong with a cluster's bucket by what the inventory knows.
func bucketProblems(file *inventory.File, c *inventory.Cluster, env func(string) (string, bool)) []string {
	cfg, err := archive.ConfigOf(file, c.S3, env)
	if err == nil {
		var store *archive.Store
		if store, err = archive.Open(cfg, nil); err == nil {
			store.Close()
			return nil
		}
	}
	return []string{"s3: " + err.Error()}
}
