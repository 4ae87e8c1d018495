package view

import (
	"fmt"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/katoflow/katoflow/internal/operation"
)

// PatchStatus is which patches there are, ending with a line feed.
func PatchStatus(p *operation.PatchStatus, s Style) string {
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(s.fit(fmt.Sprintf(format, args...)) + "\n") }
	line("%s, %s: %s", s.paint(bold, clean(p.Cluster)), count(p.Nodes, "node"), patchCounts(p, s))
	if len(p.Patches) > 0 {
		b.WriteString("\n" + patchTable(p.Patches, true, s))
	}
	if len(p.Problems)+len(p.Warnings) > 0 {
		b.WriteString("\n")
	}
	for _, text := range p.Problems {
		line("%s", s.paint(red, clean(text)))
	}
	for _, text := range p.Warnings {
		line("%s", s.paint(yellow, clean(text)))
	}
	return b.String()
}

// patchCounts is "3 patches, 1 to be installed", of the nodes that did say.
func patchCounts(p *operation.PatchStatus, s Style) string {
	missing, silent := 0, ""
	for i := range p.Patches {
		if p.Patches[i].MissingCount > 0 {
			missing++
		}
	}
	if n := len(p.Problems); n > 0 {
		silent = ", " + s.paint(red, count(n, "node")+" did not say")
	}
	all := fmt.Sprintf("%d patches", len(p.Patches))
	switch {
	case len(p.Patches) == 0 && silent != "":
		return "patches not known" + silent
	case len(p.Patches) == 0:
		return "no patches"
	case len(p.Patches) == 1:
		all = "1 patch"
	}
	switch {
	case missing > 0:
		all += ", " + s.paint(yellow, itoa(missing)+" to be installed")
	case silent == "":
		all += ", " + s.paint(green, "installed everywhere")
	}
	return all + silent
}

// patchTable is a table of patches; descriptions follow it.
func patchTable(list []operation.Patch, descriptions bool, s Style) string {
	w := newTable(s, "PATCH", "SEVERITY", "ROLES", "INSTALLED", "MISSING ON")
	for i := range list {
		p := &list[i]
		missing := "-"
		if p.MissingCount > 0 {
			missing = s.paint(yellow, someNames(p.Missing, p.MissingCount))
		}
		w.AppendRow(table.Row{clean(p.Name), orNone(clean(p.Severity)), orNone(cleanAll(p.Roles)), fmt.Sprintf("%d of %d", p.InstalledCount, p.InstalledCount+p.MissingCount), missing})
	}
	out := renderFit(w, s)
	for i := range list {
		if p := &list[i]; descriptions && p.Description != "" {
			if i == 0 {
				out += "\n"
			}
			out += s.fit(clean(p.Name)+": "+clean(p.Description)) + "\n"
		}
	}
	return out
}

// someNames are the first of many.
func someNames(names []string, all int) string {
	const most = 8
	if len(names) > most {
		names = names[:most]
	}
	text := strings.ReplaceAll(cleanAll(names), ",", ", ")
	if all > len(names) {
		text += fmt.Sprintf(" and %d more", all-len(names))
	}
	return text
}

// patched tells of kato's patches in a report.
func patched(r *operation.Report, s Style) string {
	p := r.Patches
	if p == nil || len(p.Patches) == 0 {
		return ""
	}
	list := p.Patches
	if p.Patch != "" { // the others are no concern of it
		list = nil
		for _, one := range p.Patches {
			if one.Name == p.Patch {
				list = append(list, one)
			}
		}
	}
	out := "\n" + patchTable(list, false, s)
	if p.AsFound && !r.DryRun {
		out += s.fit(s.paint(dim, "as found before the first node")) + "\n"
	}
	if p.Unasked > 0 {
		out += s.fit(s.paint(yellow, count(p.Unasked, "node")+" did not say what they have")) + "\n"
	}
	return out
}
