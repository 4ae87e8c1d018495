package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/operation"
)

// rollingFlags are those of every procedure that does the same on nodes, so many at a time, as they were written.
type rollingFlags struct {
	requestFlags
	windowFlags
	nodes       []string
	batch       string
	canary      bool
	soak        textFlag
	maxFailures textFlag
}

// rollingValues are the flags that have been read.
type rollingValues struct {
	request     operation.Request
	window      operation.WindowInput
	soak        operation.Duration
	maxFailures *int
}

// register adds the flags to the command that takes them. batch says what is done to so many at once, "" that it is done to one at a time.
func (f *rollingFlags) register(c *cli, cmd *cobra.Command, batch string) {
	flags := cmd.Flags()
	f.requestFlags.register(c, cmd, operation.Abort, operation.Skip)
	flags.StringSliceVar(&f.nodes, "nodes", nil, "only these nodes, separated by commas")
	f.batch = "1"
	if batch != "" {
		flags.StringVar(&f.batch, "batch", f.batch, batch+": a number, or a percentage such as 25%")
		must(cmd.RegisterFlagCompletionFunc("batch", cobra.NoFileCompletions))
	}
	flags.BoolVar(&f.canary, "canary", true, "the first node goes alone")
	durationFlag(flags, &f.soak, "soak", "", "how long the canary is watched before the others follow")
	f.maxFailures.kind = "number"
	flags.Var(&f.maxFailures, "max-failures", "so many failed nodes are skipped without asking, one more aborts (default: every failed node is asked about)")
	f.windowFlags.register(cmd, operation.UnitNode)
	must(cmd.RegisterFlagCompletionFunc("nodes", c.completeNodes(&f.inventory)))
	for _, name := range []string{"soak", "max-failures"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
}

// values checks these flags and adds what is wrong with them to problems.
func (f *rollingFlags) values(c *cli, cluster string, problems *[]string) rollingValues {
	out := rollingValues{request: f.request(c, cluster, problems)}
	*problems = append(*problems, checkNodes(f.nodes)...)
	if f.batch == "" {
		*problems = append(*problems, `--batch is empty: write a number of nodes ("3") or a percentage ("25%")`)
	} else if _, err := operation.ParseBatch(f.batch); err != nil {
		*problems = append(*problems, err.Error())
	}
	if f.maxFailures.text != "" {
		n, err := strconv.Atoi(f.maxFailures.text)
		if err != nil || n < 0 || n > 100_000 {
			*problems = append(*problems, fmt.Sprintf("--max-failures %q: write a number of nodes, 0 or more", operationName(f.maxFailures.text)))
		}
		out.maxFailures = &n
	}
	out.soak = f.soak.duration("soak", longestSoak, problems)
	out.window = f.window(problems)
	return out
}
