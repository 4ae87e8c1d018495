package activities

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

var statusScript = script("status")

// dataFolders are where data services keep theirs, where the inventory says nothing (kato.md §3.7).
var dataFolders = []string{"/var/stackato/services", "/home/stackato/stackato/data"}

// statusWithin is how long a node may take to say how it is: a disk that hangs must not keep the others from being shown.
const statusWithin = 30 * time.Second

// NodesStatusInput names the nodes that are asked.
type NodesStatusInput struct {
	Cluster string   `json:"cluster"`
	Nodes   []string `json:"nodes"`
}

// NodesStatusResult is the answer, in their order.
type NodesStatusResult struct {
	Nodes []operation.NodeStatus `json:"nodes"`
}

// NodesStatus asks nodes how they are, side by side. One that does not answer says so in its entry. It changes nothing. The error is BadInput for a cluster or a node that is not in
// the worker's inventory.
func (n *Nodes) NodesStatus(ctx context.Context, in NodesStatusInput) (NodesStatusResult, error) {
	a := begin(ctx, "asking the nodes how they are")
	defer a.finish()
	s, err := n.Source.site(in.Cluster)
	if err != nil {
		return NodesStatusResult{}, err
	}
	targets, err := s.targets(in.Nodes)
	if err != nil {
		return NodesStatusResult{}, err
	}
	out := NodesStatusResult{Nodes: make([]operation.NodeStatus, len(targets))}
	each(len(targets), func(i int) {
		t := targets[i]
		folders := foldersOf(s, t.node)
		var read answer
		var err error
		began := time.Now()
		for try := 0; try < 2; try++ { // a connection lost by chance is no problem of the node
			if read, err = askFor(a.ctx, statusWithin, n.Connections, t.host, statusScript, folders...); !remote.IsKind(err, remote.KindTransport) || time.Since(began) > statusWithin/2 || sleep(a.ctx, firstPause) != nil {
				break
			}
		}
		if err != nil {
			out.Nodes[i] = operation.NodeStatus{Problem: withoutNode(failureOf(err).Message, t.host.Name)}
		} else {
			out.Nodes[i] = statusOf(read, folders, slices.Contains(t.node.Roles, "filesystem"))
		}
		out.Nodes[i].Node, out.Nodes[i].Roles = t.node.Name, t.node.Roles
	})
	if a.ctx.Err() != nil {
		return NodesStatusResult{}, ended(a.ctx)
	}
	return out, nil
}

// StorageResult has what is wrong with where data services keep their data, one line each.
type StorageResult struct {
	Warnings []string `json:"warnings,omitempty"`
}

// Storage asks the nodes with data services where these keep their data, and whether it is well kept there. A node that does not answer is left out: the preflight names it. It changes
// nothing. Errors as NodesStatus.
func (n *Nodes) Storage(ctx context.Context, in NodesStatusInput) (StorageResult, error) {
	s, err := n.Source.site(in.Cluster)
	if err != nil {
		return StorageResult{}, err
	}
	var asked []string
	for _, name := range in.Nodes {
		t, err := s.target(name)
		if err != nil {
			return StorageResult{}, err
		}
		if len(foldersOf(s, t.node)) > 0 {
			asked = append(asked, name)
		}
	}
	in.Nodes = asked
	states, err := n.NodesStatus(ctx, in)
	var out StorageResult
	for _, node := range states.Nodes {
		for _, w := range node.Storage {
			out.Warnings = append(out.Warnings, node.Node+": "+w)
		}
	}
	return out, err
}

// foldersOf are those in which a node keeps data of services; none where it has no role that does.
func foldersOf(s site, node *inventory.Node) []string {
	if !s.als() || !slices.ContainsFunc(node.Roles, func(r string) bool { return slices.Contains(inventory.DataServiceRoles(), r) }) {
		return nil
	}
	if e := s.cluster.Export; e != nil && len(e.DataFolders) > 0 {
		return e.DataFolders
	}
	return dataFolders
}

// statusOf reads an answer. folders are the arguments of the script.
func statusOf(read answer, folders []string, filesystem bool) operation.NodeStatus {
	out := operation.NodeStatus{System: oneLine(read.value("system"), 128), Kernel: oneLine(read.value("kernel"), 128), Container: oneLine(read.value("container"), 64),
		RebootRequired: read.value("reboot-required") == "1"}
	warning := func(format string, args ...any) {
		out.Warnings = append(out.Warnings, oneLine(fmt.Sprintf(format, args...), 300))
	}
	if at, err := strconv.ParseInt(read.value("booted"), 10, 64); err == nil && at > 0 {
		out.BootedAt = time.Unix(at, 0).UTC().Format(time.RFC3339)
	}
	if at, err := time.Parse("2006-01-02 15:04:05 -0700", read.value("patched")+" "+read.value("zone")); err == nil {
		out.PatchedAt = at.UTC().Format(time.RFC3339)
	}
	for _, name := range strings.Fields(read.sections["held"]) {
		if packageName.MatchString(name) {
			out.Held = append(out.Held, name)
		}
	}
	slices.Sort(out.Held)
	out.Held = out.Held[:min(len(out.Held), 100)]
	pending, trouble := parsePending(read.sections["pending"])
	out.Pending, out.Security = len(pending), len(securityNames(pending))
	if trouble != "" {
		out.Pending, out.Security = -1, -1
		warning("apt-get cannot plan an upgrade: %s", trouble)
	}
	now, _ := strconv.ParseInt(read.value("now"), 10, 64)
	switch lists, err := strconv.ParseInt(read.value("lists"), 10, 64); {
	case err != nil:
		out.Pending, out.Security = -1, -1
		warning("no package lists were ever fetched: what is pending is not known")
	case now-lists > int64(oldLists/time.Second):
		warning("its package lists are %d days old: more may be pending than they say", (now-lists)/(24*3600))
	}
	for line := range strings.Lines(read.sections["data"]) {
		for _, w := range storageWarnings(strings.Fields(line), folders, filesystem) {
			out.Storage = append(out.Storage, oneLine(w, 300))
		}
	}
	return out
}

// storageWarnings says what is wrong with the file system of a folder, whose line is its number, the type of the file system, and what df prints ("Persistent Storage" of the source page).
func storageWarnings(words, folders []string, filesystem bool) (out []string) {
	if len(words) < 8 {
		return nil
	}
	number, err := strconv.Atoi(words[0])
	if err != nil || number < 1 || number > len(folders) {
		return nil
	}
	folder, kind, words := remote.Escape(folders[number-1]), words[1], words[2:]
	mount := remote.Escape(strings.Join(words[5:], " "))
	switch {
	case strings.HasPrefix(kind, "nfs") && filesystem:
		out = append(out, fmt.Sprintf("the filesystem service keeps its data on NFS (%s in %s): use block storage or SSHFS", folder, mount))
	case strings.HasPrefix(kind, "nfs"):
		out = append(out, fmt.Sprintf("services keep their data on NFS (%s in %s): use block storage", folder, mount))
	case mount == "/":
		out = append(out, fmt.Sprintf("services keep their data on the root volume (%s): give it a volume of its own that outlives the VM, and relocate it there", folder))
	case mount == "/mnt":
		out = append(out, fmt.Sprintf("services keep their data in /mnt (%s), where clouds mount the disk that does not outlive the VM: see that it is another one", folder))
	}
	size, err1 := strconv.ParseInt(words[1], 10, 64)
	free, err2 := strconv.ParseInt(words[3], 10, 64)
	if err1 == nil && err2 == nil && size > 0 && free*100/size < operation.DefaultFreeShare {
		out = append(out, fmt.Sprintf("only %d %% of %s are free, where services keep their data (%s): less than %d %%", free*100/size, mount, folder, operation.DefaultFreeShare))
	}
	return out
}
