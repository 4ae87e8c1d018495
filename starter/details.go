package main

import (
	"fmt"
	"strings"

	"github.com/katoflow/katoflow/internal/operation"
)

// asked is what was asked for, in Markdown, for the Web UI.
type asked struct{ b strings.Builder }

// newDetails begins with what is done, to which cluster, and who asked for it.
func newDetails(what string, r operation.Request, action string) *asked {
	d := &asked{}
	fmt.Fprintf(&d.b, "%s of %s%s, asked for by %s.\n\n", what, quoted(r.Cluster), strings.TrimSuffix(": "+action, ": "), quoted(r.RequestedBy))
	d.flag(r.DryRun, "dry run", "nothing is changed")
	return d
}

// quoted is a text that somebody has written, as code.
func quoted(s string) string { return "`" + strings.ReplaceAll(oneLine(s), "`", "'") + "`" }

// row adds a line, unless the value is empty.
func (d *asked) row(name, value string) {
	if value != "" {
		fmt.Fprintf(&d.b, "- %s: %s\n", name, value)
	}
}

// flag adds a line where something is so.
func (d *asked) flag(is bool, name, value string) {
	if is {
		d.row(name, value)
	}
}

// rolling adds how the nodes are gone over.
func (d *asked) rolling(r operation.Rolling) {
	if len(r.Nodes) > 0 {
		d.row("nodes", quoted(strings.Join(r.Nodes, ", ")))
	}
	d.row("batch", r.Batch)
	d.flag(r.NoCanary, "canary", "none")
	d.flag(r.Soak > 0, "soak", r.Soak.String())
	if r.MaxFailures != nil {
		d.row("failed nodes skipped without asking", fmt.Sprint(*r.MaxFailures))
	}
	if len(r.Window.Times) > 0 {
		d.row("maintenance window", quoted(strings.Join(r.Window.Times, ", ")))
	}
}

// text ends it.
func (d *asked) text(r operation.Request) string {
	d.flag(r.LockWait > 0, "waits for the cluster", r.LockWait.String())
	return operation.Shorten(d.b.String(), 4000)
}
