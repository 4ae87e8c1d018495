package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/starter/internal/view"
)

// trustFlags are the flags of `cluster trust`.
type trustFlags struct {
	nodes        []string
	yes, replace bool
	path, queue  string
}

func (c *cli) clusterTrustCommand() *cobra.Command {
	var f trustFlags
	cmd := &cobra.Command{
		Use:   "trust CLUSTER",
		Short: "Let the worker learn the host keys of a cluster's nodes",
		Long: `Show the host keys that the worker sees on the nodes, with their fingerprints, and after a yes write exactly those into the
worker's known_hosts file. Compare the fingerprints with what the nodes' consoles or the provider say: whoever accepts a
wrong one hands the cluster over.

A key that has changed is refused unless --replace is given.`,
		Example: `  katoflow cluster trust prod
  katoflow cluster trust prod --nodes dea-3 --replace
  katoflow cluster trust prod --yes -o json`,
		Args:              exactly("CLUSTER"),
		ValidArgsFunction: c.completeClusters(&f.path),
		RunE:              func(cmd *cobra.Command, args []string) error { return c.clusterTrust(cmd.Context(), args[0], f) },
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&f.nodes, "nodes", nil, "only these nodes, separated by commas")
	flags.BoolVar(&f.yes, "yes", false, "accept the keys without asking")
	flags.BoolVar(&f.replace, "replace", false, "also accept keys that have changed")
	flags.StringVar(&f.queue, "task-queue", operation.DefaultTaskQueue, "task queue of the worker that reaches the cluster")
	c.inventoryFlag(flags, &f.path)
	must(cmd.RegisterFlagCompletionFunc("nodes", c.completeNodes(&f.path)))
	must(cmd.RegisterFlagCompletionFunc("task-queue", cobra.NoFileCompletions))
	return cmd
}

// States of a host key, as the worker names them.
const (
	keyNew     = "new"
	keyChanged = "changed"
	keyError   = "error"
)

func (c *cli) clusterTrust(ctx context.Context, cluster string, f trustFlags) error {
	problems := checkNodes(f.nodes)
	if err := checkCluster(cluster); err != nil {
		problems = append(problems, err.Error())
	}
	if len(problems) > 0 {
		return badInputs(problems)
	}
	local, err := c.localCluster(f.path, cluster)
	if err != nil {
		return err
	}
	if local != nil {
		if _, err := local.Select(f.nodes, nil); err != nil {
			return badInput("%s", err.Error())
		}
	}
	s, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.requireWorker(ctx, f.queue); err != nil {
		return err
	}
	in := activities.TrustInput{Cluster: cluster, Nodes: f.nodes, Replace: f.replace}
	seen, err := c.trust(ctx, s, f.queue, in)
	if err != nil {
		return err
	}
	accept, refused := acceptable(seen, f.replace)
	if len(accept) == 0 {
		if err := c.printKeys(seen); err != nil {
			return err
		}
		return keyProblems(seen, refused)
	}
	// The keys to decide on are no result yet, so that with -o json only the outcome stands on standard output.
	if _, err := fmt.Fprint(c.err, keyTable(seen, c.style(c.err))); err != nil {
		return err
	}
	if !f.yes {
		ok, err := c.confirm(ctx, fmt.Sprintf("Trust these %d keys?", len(accept)))
		if err != nil {
			return err
		}
		if !ok {
			return fail(exitAborted, "no key was trusted")
		}
	}
	in.Accept = accept
	done, err := c.trust(ctx, s, f.queue, in)
	if err != nil {
		return err
	}
	if err := c.printKeys(done); err != nil {
		return err
	}
	_, refused = acceptable(done, false)
	return keyProblems(done, refused)
}

// trust runs the workflow once.
func (c *cli) trust(ctx context.Context, s *server, queue string, in activities.TrustInput) (activities.TrustResult, error) {
	var out activities.TrustResult
	workflowID := operation.WorkflowID(in.Cluster, operation.KindClusterTrust, newID(c.now()))
	options := startOptions(workflowID, queue, in.Cluster, operation.KindClusterTrust, c.who(), "Host keys of "+in.Cluster, "")
	if err := s.runShort(ctx, options, operation.WorkflowClusterTrust, in, &out); err != nil {
		return out, c.failed(ctx, s, workflowID, err)
	}
	return out, nil
}

// acceptable splits what the worker saw into what a yes accepts, as TrustInput.Accept wants it, and the changed keys that stay refused.
func acceptable(seen activities.TrustResult, replace bool) (accept []string, refused []activities.TrustedKey) {
	for _, k := range seen.Keys {
		switch {
		case k.State == keyNew, k.State == keyChanged && replace:
			accept = append(accept, k.Node+" "+k.Fingerprint)
		case k.State == keyChanged:
			refused = append(refused, k)
		}
	}
	return accept, refused
}

// keyProblems is the error for nodes whose keys could not be seen or are refused.
func keyProblems(seen activities.TrustResult, refused []activities.TrustedKey) error {
	out := &failure{code: exitPreflight}
	for _, k := range seen.Keys {
		if k.State == keyError {
			out.lines = append(out.lines, oneLine(k.Node)+": "+oneLine(k.Error))
		}
	}
	for _, k := range refused {
		out.lines = append(out.lines, fmt.Sprintf("%s: its host key has changed to %s: if that is right, use --replace", oneLine(k.Node), oneLine(k.Fingerprint)))
	}
	if len(out.lines) == 0 {
		return nil
	}
	return out
}

func keyTable(r activities.TrustResult, style view.Style) string {
	rows := make([]view.KeyRow, len(r.Keys))
	for i, k := range r.Keys {
		rows[i] = view.KeyRow{Node: k.Node, Type: k.Type, Fingerprint: k.Fingerprint, State: k.State, Error: k.Error}
	}
	return view.Keys(rows, style)
}

func (c *cli) printKeys(r activities.TrustResult) error {
	return c.print(r, func() string { return keyTable(r, c.style(c.out)) })
}

// confirm asks a person; without a terminal to ask on it is bad input.
func (c *cli) confirm(ctx context.Context, question string) (bool, error) {
	f, ok := c.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return false, badInput("there is no terminal to ask on: compare the fingerprints above and say --yes")
	}
	fmt.Fprintf(c.err, "%s [y/N] ", question)
	type line struct {
		text string
		err  error
	}
	answer := make(chan line, 1)
	go func() {
		text, err := bufio.NewReader(f).ReadString('\n')
		answer <- line{text, err}
	}()
	select {
	case <-ctx.Done(): // the process ends; nothing else reads from the terminal
		return false, ctx.Err()
	case l := <-answer:
		if l.err != nil {
			return false, nil
		}
		text := strings.ToLower(strings.TrimSpace(l.text))
		return text == "y" || text == "yes", nil
	}
}
