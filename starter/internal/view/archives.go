package view

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/katoflow/katoflow/internal/operation"
)

// Archives is a table of a cluster's archives, ending with a line feed; with incomplete also one of what is not an archive.
func Archives(cluster string, l *operation.ArchiveList, incomplete bool, s Style) string {
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(s.fit(fmt.Sprintf(format, args...)) + "\n") }
	where := clean(place(l.Bucket, l.Prefix))
	if len(l.Archives) == 0 {
		line("no archives of %s in %s", clean(cluster), where)
	} else {
		w := newTable(s, "ARCHIVE", "STARTED", "SIZE", "VERIFIED", "REHEARSED", "EXPORT", "NODE", "BY", "")
		for i := range l.Archives {
			a := &l.Archives[i]
			w.AppendRow(table.Row{clean(a.Operation), minute(a.StartedAt), operation.Size(a.Size), verified(a.Verified, s), rehearsed(a.Rehearsed, s), exported(a),
				clean(a.Node), clean(a.RequestedBy), encrypted(a)})
		}
		b.WriteString(renderFit(w, s))
		if l.More > 0 {
			line("and %d older: --limit shows more", l.More)
		}
	}
	others := len(l.Incomplete) + l.MoreIncomplete
	switch {
	case others == 0:
	case !incomplete:
		line("%s", s.paint(yellow, fmt.Sprintf("%s in %s: katoflow backup list %s --incomplete", notComplete(others), where, clean(cluster))))
	default:
		b.WriteString("\n" + s.paint(bold, "Not complete, and so no archives") + "\n")
		w := newTable(s, "OPERATION", "STARTED", "SIZE", "WHY")
		for i := range l.Incomplete {
			a := &l.Incomplete[i]
			w.AppendRow(table.Row{clean(a.Operation), orNone(minute(a.StartedAt)), operation.Size(a.StoredSize), clean(a.Reason)})
		}
		b.WriteString(renderFit(w, s))
		if l.MoreIncomplete > 0 {
			line("and %d more: --limit shows more", l.MoreIncomplete)
		}
	}
	return b.String()
}

func notComplete(n int) string {
	if n == 1 {
		return "1 that is not complete"
	}
	return itoa(n) + " that are not complete"
}

func place(bucket, prefix string) string {
	return "s3://" + strings.TrimSuffix(bucket+"/"+strings.Trim(prefix, "/"), "/")
}

// exported is what an archive holds: "cluster", "cluster without droplets", "only-this-node: mysql".
func exported(a *operation.Archive) string {
	text := a.Mode
	if len(a.Include) > 0 {
		text += ": " + strings.Join(a.Include, ", ")
	}
	if len(a.Exclude) > 0 {
		text += " without " + strings.Join(a.Exclude, ", ")
	}
	return clean(text)
}

func verified(v *operation.ArchiveVerification, s Style) string {
	switch {
	case v == nil:
		return "-"
	case !v.OK:
		return s.paint(red, "damaged "+minute(v.At))
	}
	return s.paint(green, minute(v.At))
}

func rehearsed(r *operation.ArchiveRehearsal, s Style) string {
	switch {
	case r == nil:
		return "-"
	case !r.OK:
		return s.paint(red, "failed "+day(r.At))
	}
	return s.paint(green, day(r.At))
}

// day of a time.
func day(at string) string {
	text, _, _ := strings.Cut(minute(at), " ")
	return text
}

func encrypted(a *operation.Archive) string {
	if a.Encrypted {
		return "encrypted"
	}
	return ""
}

// ArchiveDetails is everything about one archive as text, ending with a line feed.
func ArchiveDetails(d *operation.ArchiveDetails, s Style) string {
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(s.fit(fmt.Sprintf(format, args...)) + "\n") }
	row := func(name, format string, args ...any) {
		if text := fmt.Sprintf(format, args...); text != "" {
			line("%-12s %s", name, text)
		}
	}
	state := s.paint(green, "complete")
	if !d.Complete {
		state = s.paint(red, "not complete: "+clean(d.Reason))
	}
	line("%s of %s: %s", s.paint(bold, "archive "+clean(d.Operation)), clean(d.Cluster), state)
	row("object", "%s", clean(place(d.Bucket, d.Key)))
	row("manifest", "%s", clean(place(d.Bucket, d.ManifestKey)))
	if d.Lock != nil {
		row("object lock", "%s", s.paint(yellow, clean(d.Lock.String())))
	}
	if d.StartedAt != "" {
		times := minute(d.StartedAt)
		if took, ok := took(d.StartedAt, d.EndedAt, time.Time{}); ok {
			times += ", " + short(took)
		}
		row("made", "%s", times)
	}
	row("by", "%s", clean(d.RequestedBy))
	row("export", "%s", exported(&d.Archive))
	if d.Node != "" {
		row("node", "%s, %s", clean(d.Node), clean(d.ExportFile))
	}
	if d.Size > 0 {
		row("size", "%s (%d bytes), %s of %s", operation.Size(d.Size), d.Size, count(d.Parts, "part"), operation.Size(d.PartSize))
	}
	if d.StoredSize != d.Size {
		row("stored", "%s (%d bytes)", operation.Size(d.StoredSize), d.StoredSize)
	}
	row("sha256", "%s", clean(d.SHA256))
	row("checksum", "%s", clean(d.Checksum))
	for i, r := range d.Recipients {
		name := ""
		if i == 0 {
			name = "encrypted to"
		}
		row(name, "%s", clean(r))
	}
	switch v := d.Verified; {
	case v == nil && !d.Complete:
	case v == nil:
		row("verified", "never; katoflow backup verify %s %s", clean(d.Cluster), clean(d.Operation))
	case v.OK:
		row("verified", "%s by %s: it was as written", s.paint(green, minute(v.At)), orNone(clean(v.Who)))
	default:
		row("verified", "%s by %s: %s", s.paint(red, minute(v.At)), orNone(clean(v.Who)), clean(v.Problem))
	}
	switch r := d.Rehearsed; {
	case r == nil && (!d.Complete || d.Encrypted):
	case r == nil:
		row("rehearsed", "never; katoflow backup rehearse %s/%s --cluster SCRATCH", clean(d.Cluster), clean(d.Operation))
	default:
		text := s.paint(green, minute(r.At)) + " proven restorable"
		if !r.OK {
			text = s.paint(red, minute(r.At)) + " not proven restorable: " + clean(r.Problem)
		}
		if d.LastProven {
			text += ", the last one of " + clean(d.Cluster) + " that is"
		}
		row("rehearsed", "%s", text)
		row("", "in %s%s by %s, operation %s; %s ran, %d did not", clean(r.Cluster), suffix(" of version ", clean(r.PlatformVersion)), orNone(clean(r.Who)), clean(r.Operation),
			count(r.AppsRunning, "app"), r.AppsFailed)
	}
	row("platform", "%s", strings.TrimSpace(clean(d.Platform)+" "+clean(d.PlatformVersion)))
	row("kato", "%s", clean(d.KatoVersion))
	for i, n := range d.Nodes {
		name := ""
		if i == 0 {
			name = "nodes"
		}
		row(name, "%s", strings.TrimSpace(clean(n.Name)+" "+cleanAll(n.Roles)))
	}
	if d.MoreNodes > 0 {
		row("", "and %d more", d.MoreNodes)
	}
	c := d.Content
	if c == nil {
		return b.String()
	}
	users := ""
	if c.Users > 0 {
		users = ", " + count(c.Users, "user")
	}
	row("content", "%s, %s, %s (%d started, %s), %s%s", count(c.Orgs, "org"), count(c.Spaces, "space"), count(c.Apps, "app"), c.AppsStarted,
		count(c.Instances, "instance"), count(c.Services, "service"), users)
	if c.Endpoint != "" {
		row("API", "%s", clean(c.Endpoint))
	}
	if len(c.AppList) > 0 {
		b.WriteString("\n")
		w := newTable(s, "ORG", "SPACE", "APP", "STATE", "INSTANCES", "BUILDPACK")
		for _, a := range c.AppList {
			w.AppendRow(table.Row{clean(a.Org), clean(a.Space), clean(a.Name), clean(a.State), itoa(a.Instances), clean(a.Buildpack)})
		}
		b.WriteString(renderFit(w, s))
		if c.MoreApps > 0 {
			line("and %d more in the manifest", c.MoreApps)
		}
	}
	if len(c.ServiceList) > 0 {
		b.WriteString("\n")
		w := newTable(s, "ORG", "SPACE", "SERVICE", "OFFERING", "PLAN")
		for _, v := range c.ServiceList {
			w.AppendRow(table.Row{clean(v.Org), clean(v.Space), clean(v.Name), clean(v.Service), clean(v.Plan)})
		}
		b.WriteString(renderFit(w, s))
		if c.MoreServices > 0 {
			line("and %d more in the manifest", c.MoreServices)
		}
	}
	return b.String()
}

// catalog is the part of a report that an operation on archives has, "" where there is nothing to show.
func catalog(c *operation.CatalogReport, s Style) string {
	if c == nil {
		return ""
	}
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(s.fit(fmt.Sprintf(format, args...)) + "\n") }
	if a := c.Archive; a != nil {
		size := a.Size
		if size == 0 {
			size = a.StoredSize
		}
		line("archive %s in %s, %s, of %s%s", clean(a.Operation), clean(place(c.Bucket, c.Prefix)), operation.Size(size), orNone(minute(a.StartedAt)),
			suffix(", ", encrypted(a)))
	}
	if v := c.Verification; v != nil && v.At != "" {
		line("%s read back until %s%s", operation.Size(v.Bytes), stamp(v.At), suffix(", sha256 ", clean(v.SHA256)))
	}
	if c.Prune != nil {
		b.WriteString(prune(c, s))
	}
	return b.String()
}

func suffix(before, text string) string {
	if text == "" {
		return ""
	}
	return before + text
}

// prune is the table of what a retention keeps and what it does not, the newest first.
func prune(c *operation.CatalogReport, s Style) string {
	p := c.Prune
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(s.fit(fmt.Sprintf(format, args...)) + "\n") }
	line("keeps %s, in %s", clean(p.Retention.String()), clean(place(c.Bucket, c.Prefix)))
	type archiveRow struct {
		*operation.Archive
		outcome, color, why string
	}
	var rows []archiveRow
	for i := range p.Keep {
		k := &p.Keep[i]
		rows = append(rows, archiveRow{&k.Archive, "kept", green, strings.Join(k.Reasons, ", ")})
	}
	for i := range p.Delete {
		d := &p.Delete[i]
		color := yellow
		if d.Outcome == operation.PruneFailed {
			color = red
		}
		why := d.Problem
		if why == "" {
			why = "no rule keeps it"
		}
		rows = append(rows, archiveRow{&d.Archive, d.Outcome, color, why})
	}
	slices.SortStableFunc(rows, func(a, b archiveRow) int { return cmp.Compare(b.StartedAt, a.StartedAt) })
	if len(rows) > 0 {
		b.WriteString("\n")
		w := newTable(s, "ARCHIVE", "STARTED", "SIZE", "EXPORT", "", "WHY")
		for _, r := range rows {
			w.AppendRow(table.Row{clean(r.Operation), minute(r.StartedAt), operation.Size(r.Size), exported(r.Archive), s.paint(r.color, clean(r.outcome)), clean(r.why)})
		}
		b.WriteString(renderFit(w, s))
	}
	if p.MoreKept > 0 {
		line("and %d more that are kept", p.MoreKept)
	}
	if p.MoreDeleted > 0 {
		line("and %d more that are not: the next run deletes them", p.MoreDeleted)
	}
	if len(p.Uploads) > 0 {
		b.WriteString("\n" + s.paint(bold, "Uploads of operations that do not run any more") + "\n")
		for _, u := range p.Uploads {
			line("  %s, begun %s", clean(u.Operation), minute(u.Begun))
		}
		if p.MoreUploads > 0 {
			line("  and %d more", p.MoreUploads)
		}
	}
	return b.String()
}

// Transfer is one line that says how far a transfer is: what, a bar, bytes, speed, time left. began is when it was at from bytes.
func Transfer(what string, done, total, from int64, elapsed time.Duration, s Style) string {
	percent := int64(100)
	if total > 0 {
		percent = min(100, done*100/total)
	}
	const width = 24
	filled := int(percent) * width / 100
	bar := s.paint(green, strings.Repeat("#", filled)) + strings.Repeat("-", width-filled)
	text := fmt.Sprintf("%s [%s] %3d%%  %s of %s", clean(what), bar, percent, operation.Size(done), operation.Size(total))
	if moved := done - from; moved > 0 && elapsed >= time.Second {
		rate := float64(moved) / elapsed.Seconds()
		text += fmt.Sprintf("  %s/s", operation.Size(int64(rate)))
		if done < total {
			text += "  about " + short(time.Duration(float64(total-done)/rate*float64(time.Second))) + " left"
		}
	}
	return s.fit(text)
}
