package operation

import (
	"fmt"
	"time"

	"github.com/katoflow/katoflow/internal/window"
)

// StepWindow is the step of the question that is asked when the nodes cannot be taken again in a maintenance window that has opened.
const StepWindow = "window"

// DefaultNodeTime is what a node, or an app, is expected to take until one has been done.
const DefaultNodeTime = Duration(15 * time.Minute)

// What a rolling procedure begins with inside its windows, one after the other.
const (
	UnitNode = "node"
	UnitApp  = "app"
)

// longestNodeTime that can be expected.
const longestNodeTime = Duration(24 * time.Hour)

// Windows are maintenance windows that have been read, and WindowSpan is one of them in one week.
type (
	Windows    = window.All
	WindowSpan = window.Span
)

// WindowInput are the maintenance windows of a rolling procedure. Without any it may begin with a node, or an app, at all times.
type WindowInput struct {
	// Times as package window reads them: "Sat 22:00-04:00 Europe/Berlin".
	Times []string `json:"times,omitempty"`
	// NodeTime is what a node, or an app, is expected to take until one has been done (default DefaultNodeTime).
	NodeTime Duration `json:"nodeTime,omitempty"`
}

// Windows are those of Times; what Check complains of is left out. When they are open depends on the time zones that the machine knows, so that a workflow keeps the answer.
func (in WindowInput) Windows() Windows {
	all, _ := window.ParseAll(in.Times)
	return all
}

// Check lists what is wrong with it, one line each. unit is UnitNode or UnitApp.
func (in WindowInput) Check(unit string) []string {
	all, problems := window.ParseAll(in.Times)
	if len(in.Times) > 20 {
		problems = append(problems, fmt.Sprintf("%d windows: at most 20", len(in.Times)))
	}
	switch {
	case in.NodeTime < 0 || in.NodeTime > longestNodeTime:
		problems = append(problems, fmt.Sprintf("%s-time %s: write a time up to %s", unit, in.NodeTime, longestNodeTime))
	case in.NodeTime > 0 && len(in.Times) == 0:
		problems = append(problems, fmt.Sprintf("%[1]s-time goes with window: it says how much of one %[2]s needs", unit, OneUnit(unit)))
	}
	if len(problems) > 0 || len(all) == 0 {
		return problems
	}
	need := in.NodeTime
	if need == 0 {
		need = DefaultNodeTime
	}
	if shortest := all.Shortest(); shortest < need.D() {
		problems = append(problems, fmt.Sprintf("window of %[1]s: %[2]s is expected to take %[3]s: write a longer one, or what %[2]s takes as %[4]s-time", Duration(shortest), OneUnit(unit), need, unit))
	}
	return problems
}

// OneUnit is "a node" or "an app".
func OneUnit(unit string) string {
	if unit == UnitApp {
		return "an " + unit
	}
	return "a " + unit
}
