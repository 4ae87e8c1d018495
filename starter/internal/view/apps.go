package view

import (
	"fmt"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/katoflow/katoflow/internal/operation"
)

// Apps is a table of a cluster's apps, ending with a line feed.
func Apps(cluster string, l *operation.AppList, s Style) string {
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(s.fit(fmt.Sprintf(format, args...)) + "\n") }
	if len(l.Apps) == 0 {
		line("no such apps on %s", clean(cluster))
		return b.String()
	}
	w := newTable(s, "APP", "STATE", "INSTANCES", "HEALTH", "BUILDPACK", "")
	for i := range l.Apps {
		a := &l.Apps[i]
		instances := itoa(a.Instances)
		if a.Running >= 0 {
			instances = fmt.Sprintf("%d/%d", a.Running, a.Instances)
		}
		required := ""
		if a.RestartRequired {
			required = "restart required"
		}
		w.AppendRow(table.Row{clean(a.String()), strings.ToLower(clean(a.State)), instances, s.paint(healthColor(a.Health), clean(a.Health)), clean(a.Buildpack), required})
	}
	w.SetColumnConfigs([]table.ColumnConfig{snipColumn(1, 80), snipColumn(5, 40)})
	b.WriteString(renderFit(w, s))
	if l.More > 0 {
		line("and %d more: name an org, as with \"ORG/*/*\"", l.More)
	}
	return b.String()
}

func healthColor(health string) string {
	switch health {
	case "running":
		return green
	case "stopped", "":
		return dim
	case "starting", "staging":
		return yellow
	}
	return red
}

// AppResults is what became of the apps of an operation: the counts, and those that are not well, or every one.
func AppResults(r *operation.AppsReport, every bool, s Style) string {
	if r == nil {
		return ""
	}
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(s.fit(fmt.Sprintf(format, args...)) + "\n") }
	what := count(r.Total, "app")
	if r.Action != "" { // apps that are seen to after an import have none in common
		what = clean(string(r.Action)) + " of " + what
	}
	line("%s: %s", what, outcomes(r))
	w := newTable(s, "APP", "OUTCOME", "TIME", "WHY", "TO DO")
	rows := 0
	for i := range r.Apps {
		a := &r.Apps[i]
		if !every && a.Outcome != operation.AppFailed && a.Outcome != operation.AppGone {
			continue
		}
		rows++
		took := ""
		if a.Took > 0 {
			took = short(a.Took.D())
		}
		w.AppendRow(table.Row{clean(a.String()), s.paint(outcomeColor(a.Outcome), clean(a.Outcome)), took, clean(a.Reason), clean(a.ToDo)})
	}
	if rows > 0 {
		w.SetColumnConfigs([]table.ColumnConfig{snipColumn(1, 80), snipColumn(4, 160), snipColumn(5, 100)})
		b.WriteString("\n" + renderFit(w, s))
	}
	if r.More > 0 && every {
		line("and %d more, which the report has no room for", r.More)
	}
	return b.String()
}

// outcomes is "37 running, 2 failed, 1 stopped".
func outcomes(r *operation.AppsReport) string {
	var parts []string
	for _, o := range []string{operation.AppRunning, operation.AppRestaged, operation.AppFailed, operation.AppGone, operation.AppStopped, operation.AppUntouched} {
		if n := r.Counts[o]; n > 0 {
			parts = append(parts, itoa(n)+" "+o)
		}
	}
	if rest := r.Total - r.Handled; rest > 0 {
		parts = append(parts, itoa(rest)+" to come")
	}
	return strings.Join(parts, ", ")
}

func outcomeColor(outcome string) string {
	switch outcome {
	case operation.AppRunning, operation.AppRestaged:
		return green
	case operation.AppFailed, operation.AppGone:
		return red
	case operation.AppUntouched:
		return yellow
	}
	return dim
}
