package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/starter/internal/view"
)

func (c *cli) accessCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "access",
		Short:   "Show, grant and revoke logins by SSH key between the nodes",
		Example: "  katoflow access check prod",
	})
	cmd.AddCommand(c.accessCheckCommand(), c.accessChangeCommand(operation.AccessGrant), c.accessChangeCommand(operation.AccessRevoke))
	return cmd
}

func (c *cli) accessCheckCommand() *cobra.Command {
	var f catalogFlags
	var from string
	var port int
	cmd := &cobra.Command{
		Use:   "check CLUSTER",
		Short: "Show who reaches whom by key, and where passwords are taken",
		Long: `Let the Core, or the node that --from names, log in to every node by key, as kato does it, and every node to itself; show which
logins work, why others do not, which nodes still take passwords, and whether sudo asks for one.

Nothing is changed, and no lock is taken. The exit code is 1 when a node does not answer or a login does not work.`,
		Example: `  katoflow access check prod
  katoflow access check web --from web-1
  katoflow access check prod -o json | jq -r '.nodes[] | select(.fromLogin != "ok") | .name'`,
		Args:              exactly("CLUSTER"),
		ValidArgsFunction: c.completeClusters(&f.inventory),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(c, args[0], "", nil); err != nil {
				return err
			}
			if problems := checkSSHPort(port); len(problems) > 0 {
				return badInputs(problems)
			}
			local, err := c.localCluster(f.inventory, args[0])
			if err != nil {
				return err
			}
			in, out := operation.AccessCheckInput{Cluster: args[0], From: from, Port: port}, operation.AccessStatus{}
			if local != nil {
				if from != "" {
					if _, err := local.Select([]string{from}, nil); err != nil {
						return badInputs([]string{err.Error()})
					}
				}
				in.InventoryDigest = local.Digest()
			}
			if err := c.look(cmd.Context(), f.queue, args[0], operation.KindAccessCheck, operation.WorkflowAccessCheck, "SSH access of "+args[0], in, &out); err != nil {
				return err
			}
			if err := c.print(out, func() string { return view.AccessStatus(&out, c.style(c.out)) }); err != nil {
				return err
			}
			if len(out.Problems) > 0 || view.AccessFailing(&out) > 0 {
				return &failure{code: exitError, said: true}
			}
			return nil
		},
	}
	f.register(c, cmd)
	cmd.Flags().StringVar(&from, "from", "", "the node that is to reach the others (default: the Core)")
	cmd.Flags().IntVar(&port, "port", 22, "port of the nodes' SSH servers, as they reach each other")
	must(cmd.RegisterFlagCompletionFunc("from", c.completeNodes(&f.inventory)))
	must(cmd.RegisterFlagCompletionFunc("port", cobra.NoFileCompletions))
	return cmd
}

func checkSSHPort(port int) []string {
	if port < 1 || port > 65535 {
		return []string{fmt.Sprintf("--port %d: write a number between 1 and 65535", port)}
	}
	return nil
}

// accessFlags are the flags of the commands that change access, as they were written.
type accessFlags struct {
	rollingFlags
	action                    operation.AccessAction
	from, publicKey           string
	port                      int
	ownKeys, keepKeys         bool
	disable, restore          bool
	passwordEnv, passwordFile string
	passwordEnvSet, fileIsSet func() bool
	publicKeyGiven            func() bool
}

func (c *cli) accessChangeCommand(action operation.AccessAction) *cobra.Command {
	f := accessFlags{action: action}
	cmd := &cobra.Command{
		Use:               string(action) + " CLUSTER",
		Args:              exactly("CLUSTER"),
		ValidArgsFunction: c.completeClusters(&f.inventory),
		RunE:              func(cmd *cobra.Command, args []string) error { return c.access(cmd.Context(), args[0], &f) },
	}
	if action == operation.AccessGrant {
		cmd.Short = "Let the Core log in to all nodes by its key"
		cmd.Long = `Put the public key of the Core into authorized_keys of every node, as ssh-copy-id does from there, and prove it by a login from the
Core; give each node a key with which it reaches itself, as well. A key is made where there is none, and none is written over. What is there already stays, and nothing is added twice.

Nodes that do not know the worker's own key yet are reached with a password, where --password-env or --password-file says where the worker
finds it, and get that key first.

--disable-passwords then switches password logins off, node by node, when every node has proved its logins: a node on which a new login
does not work takes that back by itself.`
		cmd.Example = `  # what would be done; nothing is changed
  katoflow access grant prod --dry-run

  # new nodes, that only have a password; the worker reads it from a file
  katoflow access grant prod --password-file /etc/katoflow/first-password

  # and then no passwords any more
  katoflow access grant prod --disable-passwords`
	} else {
		cmd.Short = "Take the Core's key away from all nodes again"
		cmd.Long = `Take the public key of the Core, or the one that --public-key names, out of authorized_keys of every node, and see to it that it is
refused there. The key with which the worker itself logs in is never taken away.

--restore-passwords takes back what access grant --disable-passwords has done, before the keys are taken away; with --keep-keys it is all
that is done.`
		cmd.Example = `  # a key that is not to be used any more
  katoflow access revoke prod --public-key old-admin.pub

  # password logins again, keys as they are
  katoflow access revoke prod --restore-passwords --keep-keys`
	}
	f.register(c, cmd)
	return cmd
}

// register adds the flags to the command that takes them.
func (f *accessFlags) register(c *cli, cmd *cobra.Command) {
	f.rollingFlags.register(c, cmd, "nodes whose password logins are switched at once")
	flags := cmd.Flags()
	flags.StringVar(&f.from, "from", "", "the node that is to reach the others (default: the Core)")
	flags.IntVar(&f.port, "port", 22, "port of the nodes' SSH servers, as they reach each other")
	flags.StringVar(&f.publicKey, "public-key", "", "file with the public key (default: the key of the Core)")
	f.publicKeyGiven = func() bool { return flags.Changed("public-key") }
	must(cmd.RegisterFlagCompletionFunc("from", c.completeNodes(&f.inventory)))
	must(cmd.RegisterFlagCompletionFunc("port", cobra.NoFileCompletions))
	if f.action == operation.AccessGrant {
		flags.BoolVar(&f.ownKeys, "own-keys", true, "give each node a key with which it reaches itself")
		flags.BoolVar(&f.disable, "disable-passwords", false, "then switch password logins off, when every node has proved its logins")
		flags.StringVar(&f.passwordEnv, "password-env", "", "environment variable of the worker with the password of nodes that refuse its key")
		flags.StringVar(&f.passwordFile, "password-file", "", "file on the worker with that password, which only its user can read")
		f.passwordEnvSet = func() bool { return flags.Changed("password-env") }
		f.fileIsSet = func() bool { return flags.Changed("password-file") }
		must(cmd.RegisterFlagCompletionFunc("password-env", cobra.NoFileCompletions))
		must(cmd.RegisterFlagCompletionFunc("password-file", cobra.NoFileCompletions)) // it is on the worker
		return
	}
	flags.BoolVar(&f.ownKeys, "own-keys", false, "take each node's own key away, too")
	flags.BoolVar(&f.restore, "restore-passwords", false, "switch password logins back on, where access grant has switched them off")
	flags.BoolVar(&f.keepKeys, "keep-keys", false, "take no key away: with --restore-passwords")
	f.passwordEnvSet, f.fileIsSet = func() bool { return false }, func() bool { return false }
}

// maxPublicKey bounds the file of a public key.
const maxPublicKey = 16 << 10

// readPublicKey returns the only line of a file that is no comment.
func readPublicKey(name string) (string, error) {
	info, err := os.Stat(name)
	var text []byte
	switch {
	case err == nil && !info.Mode().IsRegular():
		return "", fmt.Errorf("--public-key %s is not a file", operationName(name))
	case err == nil && info.Size() > maxPublicKey:
		return "", fmt.Errorf("--public-key %s is larger than a public key: is this the right file?", operationName(name))
	case err == nil:
		text, err = os.ReadFile(name)
	}
	if err != nil {
		var path *fs.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		return "", fmt.Errorf("--public-key %s: %v", operationName(name), err)
	}
	var lines []string
	for line := range strings.SplitSeq(string(text), "\n") {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	switch {
	case strings.Contains(string(text), "PRIVATE KEY"):
		return "", fmt.Errorf("--public-key %s holds a private key: give the public one, whose name ends with .pub", operationName(name))
	case len(lines) != 1:
		return "", fmt.Errorf("--public-key %s has %d keys: write one into it", operationName(name), len(lines))
	}
	if err := operation.CheckPublicKey(lines[0]); err != nil {
		return "", fmt.Errorf("--public-key %s: %w", operationName(name), err)
	}
	return lines[0], nil
}

// input checks all flags and gives every problem at once.
func (f *accessFlags) input(c *cli, cluster string) (operation.AccessInput, error) {
	var problems []string
	v := f.values(c, cluster, &problems)
	in := operation.AccessInput{Request: v.request, Action: f.action, From: f.from, KeepKeys: f.keepKeys, DisablePasswords: f.disable, RestorePasswords: f.restore,
		Password: operation.SecretRef{Env: f.passwordEnv, File: f.passwordFile}, Nodes: f.nodes, Batch: f.batch, NoCanary: !f.canary, Soak: v.soak, MaxFailures: v.maxFailures, Window: v.window}
	if f.action == operation.AccessGrant {
		in.NoOwnKeys = !f.ownKeys
	} else {
		in.OwnKeys = f.ownKeys
	}
	portProblems := checkSSHPort(f.port)
	if problems = append(problems, portProblems...); len(portProblems) == 0 && f.port != 22 {
		in.Port = f.port
	}
	if f.publicKeyGiven() {
		key, err := readPublicKey(f.publicKey)
		if err != nil {
			problems = append(problems, err.Error())
		}
		in.PublicKey = key
	}
	if f.passwordEnvSet() && f.passwordEnv == "" {
		problems = append(problems, "--password-env is empty: name an environment variable of the worker")
	}
	if f.fileIsSet() && f.passwordFile == "" {
		problems = append(problems, "--password-file is empty: name a file on the worker")
	}
	if f.from != "" {
		for _, problem := range checkNodes([]string{f.from}) {
			problems = append(problems, strings.Replace(problem, "--nodes", "--from", 1))
		}
	}
	if in.Cluster != "" {
		rest := in
		rest.Window, rest.Soak, rest.MaxFailures = operation.WindowInput{}, 0, nil // checked above
		for _, p := range rest.Check() {
			problems = append(problems, flagged(p))
		}
	}
	local, err := f.settle(c, &in.Request, problems)
	if err != nil || local == nil {
		return in, err
	}
	if _, err := local.Select(in.Nodes, nil); err != nil {
		problems = append(problems, err.Error())
	}
	switch {
	case f.from == "" && local.CoreNode() == nil:
		problems = append(problems, fmt.Sprintf("cluster %s has no Core: say with --from which node is to reach the others", cluster))
	case f.from != "":
		if _, err := local.Select([]string{f.from}, nil); err != nil {
			problems = append(problems, "--from: "+err.Error())
		}
	}
	return in, badInputs(problems)
}

// flagged writes the names of inputs as the flags that they are.
func flagged(problem string) string {
	for _, name := range []string{"disable-passwords", "restore-passwords", "keep-keys", "own-keys"} {
		problem = strings.ReplaceAll(problem, name, "--"+name)
	}
	return strings.ReplaceAll(problem, "----", "--")
}

// accessDetails is what was asked for, for the Web UI.
func accessDetails(in operation.AccessInput) string {
	var b strings.Builder
	quote := func(s string) string { return "`" + strings.ReplaceAll(oneLine(s), "`", "'") + "`" }
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "- %s: %s\n", name, value)
		}
	}
	yes := func(b bool, text string) string {
		if b {
			return text
		}
		return ""
	}
	fmt.Fprintf(&b, "SSH access of %s: %s, asked for by %s.\n\n", quote(in.Cluster), in.Action, quote(in.RequestedBy))
	row("dry run", yes(in.DryRun, "nothing is changed"))
	if in.From != "" {
		row("from", quote(in.From))
	}
	if in.PublicKey != "" {
		row("key", quote(operation.CommentOf(in.PublicKey)))
	}
	if len(in.Nodes) > 0 {
		row("nodes", quote(strings.Join(in.Nodes, ", ")))
	}
	row("own keys", yes(in.NoOwnKeys, "left out")+yes(in.OwnKeys, "taken away, too"))
	row("password logins", yes(in.DisablePasswords, "switched off when all logins are proved")+yes(in.RestorePasswords, "switched back on"))
	row("keys", yes(in.KeepKeys, "kept"))
	row("first contact", yes(in.Password.Given(), "with a password that the worker reads"))
	if in.Passwords() {
		row("batch", in.Batch)
	}
	if in.MaxFailures != nil {
		row("failed nodes skipped without asking", fmt.Sprint(*in.MaxFailures))
	}
	if len(in.Window.Times) > 0 {
		row("maintenance window", quote(strings.Join(in.Window.Times, ", ")))
	}
	if in.LockWait > 0 {
		row("waits for the cluster", in.LockWait.String())
	}
	return operation.Shorten(b.String(), 4000)
}

func (c *cli) access(ctx context.Context, cluster string, f *accessFlags) error {
	in, err := f.input(c, cluster)
	if err != nil {
		return err
	}
	return c.launch(ctx, launch{requestFlags: f.requestFlags, request: in.Request, kind: in.Action.Kind(), workflow: operation.WorkflowAccess, input: in,
		summary: fmt.Sprintf("access %s on %s", in.Action, cluster), details: accessDetails(in)})
}
