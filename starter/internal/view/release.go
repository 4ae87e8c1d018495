package view

import (
	"fmt"
	"strings"

	"github.com/katoflow/katoflow/internal/operation"
)

// released tells of an upgrade to another release: what was made before, and what is left to do by hand.
func released(r *operation.Report, s Style) string {
	if r.Release == nil {
		return ""
	}
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(s.fit(fmt.Sprintf(format, args...)) + "\n") }
	switch {
	case r.Release.SafetyAt != "":
		line("%s before it: %s", clean(string(r.Release.Safety)), clean(r.Release.SafetyAt))
	case r.Release.Safety == operation.SafetyNone:
		line("nothing was made of the cluster before it")
	}
	for i, l := range r.Release.Afterwards {
		if i == 0 {
			line("left to do by hand:")
		}
		b.WriteString("  - " + clean(l) + "\n")
	}
	return b.String()
}

// versions is what a node had and has.
func versions(p *operation.ReleaseProgress) string {
	switch {
	case p == nil || p.Before == "":
		return ""
	case p.Now == "" || p.Now == p.Before:
		return clean(p.Before)
	}
	return clean(p.Before) + " → " + clean(p.Now)
}
