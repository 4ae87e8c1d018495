package view

import (
	"fmt"
	"strings"

	"github.com/katoflow/katoflow/internal/operation"
)

// imaged tells of the docker base image: its name, what apps get from now on, and which ones run on an older one.
func imaged(r *operation.Report, s Style) string {
	i := r.Image
	if i == nil {
		return ""
	}
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(s.fit(fmt.Sprintf(format, args...)) + "\n") }
	line("image %s", clean(i.Tag))
	digest := ""
	for n := range r.Nodes {
		if p := r.Nodes[n].Image; p != nil && p.Digest != "" {
			digest = p.Digest
		}
	}
	if digest != "" {
		line("digest %s", clean(digest))
	}
	if len(i.List) > 0 {
		line("apps get %s", cleanAll(i.List))
	}
	if len(i.ListBefore) > 0 {
		line("  before: %s", cleanAll(i.ListBefore))
	}
	if i.Template != "" {
		line("template of autoscaling: %s", clean(i.Template))
	}
	if r.DryRun || i.OldContainers < 0 {
		return b.String()
	}
	if i.Unasked > 0 {
		line("%s", s.paint(yellow, count(i.Unasked, "DEA")+" did not say which image apps run on"))
	}
	if i.OldContainers == 0 {
		if i.Unasked > 0 {
			return b.String()
		}
		line("%s", s.paint(green, "no app runs on an older image"))
		return b.String()
	}
	line("%s", s.paint(yellow, fmt.Sprintf("%s of %s on an older image, until restarted (katoflow apps restart):", count(i.OldContainers, "container"), count(i.OldApps, "app"))))
	for n, app := range i.Old {
		if n == 50 && len(i.Old) > 51 {
			line("  ... and %d more", i.OldApps-n)
			break
		}
		line("  %s", clean(app.String()))
	}
	return b.String()
}
