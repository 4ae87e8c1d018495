package main

import (
	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/operation"
)

// windowFlags are the maintenance windows of a rolling procedure as they were written.
type windowFlags struct {
	unit     string
	windows  []string
	nodeTime textFlag
}

// register adds the flags to the command that takes them. unit is what it begins with: operation.UnitNode or UnitApp.
func (f *windowFlags) register(cmd *cobra.Command, unit string) {
	f.unit = unit
	flags := cmd.Flags()
	flags.StringArrayVar(&f.windows, "window", nil, "begin with "+operation.OneUnit(unit)+" only in this time of the week, as \"Sat 22:00-04:00 Europe/Berlin\" (days: Sat, Mon-Fri or daily; zone: default UTC); may be given several times")
	durationFlag(flags, &f.nodeTime, unit+"-time", "", "what "+operation.OneUnit(unit)+" is expected to take, until one has been done: so much of a window must be left (default "+operation.DefaultNodeTime.String()+")")
	for _, name := range []string{"window", unit + "-time"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
}

// window checks these flags and adds what is wrong with them to problems.
func (f *windowFlags) window(problems *[]string) operation.WindowInput {
	in := operation.WindowInput{Times: f.windows, NodeTime: f.nodeTime.duration(f.unit+"-time", longestWait, problems)}
	for _, p := range in.Check(f.unit) {
		*problems = append(*problems, "--"+p)
	}
	return in
}
