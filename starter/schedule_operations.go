package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/katoflow/katoflow/internal/operation"
)

// schedulable is a kind of operation that a schedule can start.
type schedulable struct {
	// command starts one by hand: "upgrade security".
	command        string
	kind, workflow string
	// title for lists: "Rolling security upgrade".
	title string
	// options adds the command's flags to cmd and returns what makes an operation of them. Its error is a failure that holds all problems.
	options func(c *cli, cmd *cobra.Command) func(cluster string) (prepared, error)
}

// prepared is an operation that could be started.
type prepared struct {
	// input of the workflow, a pointer.
	input interface {
		Schedule(operation.ScheduleDefinition)
	}
	queue string
	// cluster that is worked on, where it is another one than the schedule's.
	cluster string
	// details are what was asked for, for the Web UI; called once the input is as it will be.
	details func() string
}

// schedulables are all operations that can be scheduled. A new one is one line.
func schedulables() []schedulable {
	return []schedulable{
		{"upgrade security", operation.KindSecurityUpgrade, operation.WorkflowSecurityUpgrade, "Rolling security upgrade", securityOptions},
		{"upgrade image", operation.KindImageUpgrade, operation.WorkflowImageUpgrade, "Upgrade of the docker base image", imageOptions},
		{"patch install", operation.KindPatchInstall, operation.WorkflowPatch, "Installation of kato's patches", patchOptions},
		{"backup create", operation.KindBackup, operation.WorkflowBackup, "Export of a cluster", backupOptions},
		{"backup verify", operation.KindBackupVerify, operation.WorkflowBackupVerify, "Verification of the latest archive", verifyOptions},
		{"backup prune", operation.KindBackupPrune, operation.WorkflowBackupPrune, "Retention of the archives", pruneOptions(prunedArchives)},
		{"backup rehearse", operation.KindRehearse, operation.WorkflowRestore, "Rehearsal of the latest archive", rehearseOptions},
		{"snapshot create", operation.KindSnapshot, operation.WorkflowSnapshot, "Snapshots of all VMs", snapshotOptions},
		{"snapshot prune", operation.KindSnapshotPrune, operation.WorkflowSnapshotPrune, "Retention of the sets of snapshots", pruneOptions(prunedSets)},
		{"apps restart", operation.KindAppsRestart, operation.WorkflowApps, "Restart of apps", appsOptions(operation.AppRestart)},
		{"apps redeploy", operation.KindAppsRedeploy, operation.WorkflowApps, "Redeployment of apps", appsOptions(operation.AppRestage)},
	}
}

func securityOptions(c *cli, cmd *cobra.Command) func(string) (prepared, error) {
	f := &securityFlags{}
	f.register(c, cmd)
	return func(cluster string) (prepared, error) {
		in, err := f.input(c, cluster)
		return prepared{input: &in, queue: f.queue, details: func() string { return details(in) }}, err
	}
}

func imageOptions(c *cli, cmd *cobra.Command) func(string) (prepared, error) {
	f := &imageFlags{}
	f.register(c, cmd)
	return func(cluster string) (prepared, error) {
		in, err := f.input(c, cluster)
		return prepared{input: &in, queue: f.queue, details: func() string { return imageDetails(in) }}, err
	}
}

// patchOptions install all patches that there are when the run begins.
func patchOptions(c *cli, cmd *cobra.Command) func(string) (prepared, error) {
	f := &patchFlags{action: operation.PatchInstall}
	f.register(c, cmd)
	return func(cluster string) (prepared, error) {
		in, err := f.input(c, cluster, "", false)
		return prepared{input: &in, queue: f.queue, details: func() string { return patchDetails(in) }}, err
	}
}

func backupOptions(c *cli, cmd *cobra.Command) func(string) (prepared, error) {
	f := &backupFlags{}
	f.register(c, cmd)
	return func(cluster string) (prepared, error) {
		in, err := f.input(c, cluster)
		return prepared{input: &in, queue: f.queue, details: func() string { return backupDetails(in) }}, err
	}
}

// verifyOptions verify the archive that is the latest when the run begins.
func verifyOptions(c *cli, cmd *cobra.Command) func(string) (prepared, error) {
	f := &verifyFlags{}
	f.register(c, cmd)
	return func(cluster string) (prepared, error) {
		in, err := f.input(c, cluster, operation.LatestArchive)
		return prepared{input: &in, queue: f.queue, details: func() string { return verifyDetails(in) }}, err
	}
}

// rehearseOptions rehearse the archive that is the latest of the schedule's cluster when the run begins.
func rehearseOptions(c *cli, cmd *cobra.Command) func(string) (prepared, error) {
	f := &rehearseFlags{}
	f.register(c, cmd)
	return func(cluster string) (prepared, error) {
		in, err := f.input(c, cluster)
		return prepared{input: &in, queue: f.queue, cluster: in.Cluster, details: func() string { return restoreDetails(in) }}, err
	}
}

func pruneOptions(of pruned) func(*cli, *cobra.Command) func(string) (prepared, error) {
	return func(c *cli, cmd *cobra.Command) func(string) (prepared, error) {
		f := &pruneFlags{}
		f.register(c, cmd, of)
		return func(cluster string) (prepared, error) {
			in, err := f.input(c, cluster)
			return prepared{input: &in, queue: f.queue, details: func() string { return pruneDetails(in, of) }}, err
		}
	}
}

func appsOptions(action operation.AppAction) func(*cli, *cobra.Command) func(string) (prepared, error) {
	return func(c *cli, cmd *cobra.Command) func(string) (prepared, error) {
		f := &appsFlags{action: action}
		f.register(c, cmd)
		return func(cluster string) (prepared, error) {
			in, err := f.input(c, cluster, nil)
			return prepared{input: &in, queue: f.queue, details: func() string { return appsDetails(in) }}, err
		}
	}
}

// notScheduled are flags that mean something only where a person starts the operation; the text says why.
func notScheduled(name string) string {
	switch name {
	case "id":
		return "every run takes an operation id of its own"
	case "detach":
		return "nobody watches a scheduled run"
	case "dry-run":
		return "a dry run changes nothing, so its success would mean nothing"
	case "inventory":
		return "it belongs to this command: katoflow schedule apply --inventory FILE"
	case "yes":
		return "a scheduled run asks nobody"
	case "from-report":
		return "what failed once is no selection for every night"
	case "identity":
		return "the secret key does not leave your machine"
	case "help":
		return "see katoflow help"
	}
	return ""
}

// kindNamed finds an operation by its command or its kind.
func kindNamed(name string) (schedulable, error) {
	all := schedulables()
	words := strings.Join(strings.Fields(name), " ")
	for _, s := range all {
		if s.command == words || s.kind == words {
			return s, nil
		}
	}
	known := make([]string, len(all))
	for i, s := range all {
		known[i] = strconv.Quote(s.command)
	}
	return schedulable{}, fmt.Errorf("operation %q cannot be scheduled: choose %s", operationName(name), strings.Join(known, " or "))
}

// optionSet is the flags of an operation, set but not yet checked together.
type optionSet struct {
	schedulable
	flags *pflag.FlagSet
	build func(cluster string) (prepared, error)
}

// newOptions are the flags as they are when nothing was set. inventoryPath is the local file to check against, or "".
func (s schedulable) newOptions(c *cli, inventoryPath string) *optionSet {
	scratch := &cobra.Command{Use: s.command}
	o := &optionSet{schedulable: s, build: s.options(c, scratch), flags: scratch.Flags()}
	o.flags.Usage = func() {}
	if f := o.flags.Lookup("inventory"); f != nil && inventoryPath != "" {
		_ = f.Value.Set(inventoryPath) // not by Set, which would count it as given; any text is a path
	}
	return o
}

// set is one option from a file: the value of a flag under its name.
func (o *optionSet) set(name, value string) error {
	f := o.flags.Lookup(name)
	if f == nil {
		var known []string
		o.flags.VisitAll(func(f *pflag.Flag) {
			if notScheduled(f.Name) == "" {
				known = append(known, f.Name)
			}
		})
		return fmt.Errorf("%s has no option %q: it takes %s", o.command, operationName(name), strings.Join(known, ", "))
	}
	if why := notScheduled(name); why != "" {
		return fmt.Errorf("%s cannot be given to a schedule: %s", name, why)
	}
	if f.Value.Type() == "bool" && value != "true" && value != "false" {
		return fmt.Errorf("%q: write true or false", operationName(value))
	}
	values := []string{value}
	if isArray(f) {
		values = textList(value)
	}
	for _, v := range values {
		if err := o.flags.Set(name, v); err != nil {
			return fmt.Errorf("%q is no %s for it", operationName(value), f.Value.Type())
		}
	}
	return nil
}

// isArray reports whether a flag takes several values that may have commas in them, each given by itself.
func isArray(f *pflag.Flag) bool { return f.Value.Type() == "stringArray" }

// takesArray reports that of an option.
func (o *optionSet) takesArray(name string) bool {
	f := o.flags.Lookup(name)
	return f != nil && isArray(f)
}

// takesList reports whether an option may be a list; an unknown one may be anything.
func (o *optionSet) takesList(name string) bool {
	f := o.flags.Lookup(name)
	if f == nil {
		return true
	}
	_, ok := f.Value.(pflag.SliceValue)
	return ok
}

// parse takes options as they stand on a command line and returns the other words.
func (o *optionSet) parse(args []string) ([]string, error) {
	if err := o.flags.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return nil, badInput("see katoflow %s --help", o.command)
		}
		return nil, badInput("%s; see katoflow %s --help", oneLine(err.Error()), o.command)
	}
	var problems []string
	o.flags.Visit(func(f *pflag.Flag) {
		if why := notScheduled(f.Name); why != "" {
			problems = append(problems, fmt.Sprintf("--%s cannot be given to a schedule: %s", f.Name, why))
		}
	})
	return o.flags.Args(), badInputs(problems)
}

// given are the options that were set, in the form that set takes. nil when there are none.
func (o *optionSet) given() map[string]string {
	out := map[string]string{}
	o.flags.Visit(func(f *pflag.Flag) {
		text := f.Value.String()
		if list, ok := f.Value.(pflag.SliceValue); ok {
			text = listText(list.GetSlice())
		}
		out[f.Name] = text
	})
	if len(out) == 0 {
		return nil
	}
	return out
}

// listText is a list as a flag takes it.
func listText(values []string) string {
	var b strings.Builder
	w := csv.NewWriter(&b)
	_ = w.Write(values) // a strings.Builder takes everything
	w.Flush()
	return strings.TrimSuffix(b.String(), "\n")
}

// textList is what listText has written.
func textList(text string) []string {
	values, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return []string{text}
	}
	return values
}

// commandLine is an operation as a person would start it.
func (c *cli) commandLine(d operation.ScheduleDefinition) []string {
	takesArray := func(string) bool { return false }
	if s, err := kindNamed(d.Operation); err == nil { // one that this version does not know has flags that it does not know
		takesArray = s.newOptions(c, "").takesArray
	}
	argv := append([]string{"katoflow"}, strings.Fields(d.Operation)...)
	argv = append(argv, d.Cluster)
	for _, name := range slices.Sorted(maps.Keys(d.Options)) {
		values := []string{d.Options[name]}
		if takesArray(name) {
			values = textList(d.Options[name])
		}
		for _, v := range values {
			argv = append(argv, "--"+name+"="+v)
		}
	}
	return argv
}
