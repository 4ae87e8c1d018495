package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// versionResult is what this binary was built from.
type versionResult struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	// Time of the revision, RFC 3339; Modified when the sources had changes that are in no revision.
	Time     string `json:"time,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Temporal string `json:"temporalSdk,omitempty"`
}

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print what this binary was built from",
		Example: "  katoflow version -o json",
		Args:    exactly(),
		RunE: func(*cobra.Command, []string) error {
			v := built()
			return c.print(v, func() string {
				text := "katoflow " + v.Version
				if v.Revision != "" {
					text += " (" + v.Revision
					if v.Modified {
						text += ", modified"
					}
					text += ")"
				}
				return fmt.Sprintf("%s, %s, Temporal SDK %s\n", text, v.Go, v.Temporal)
			})
		},
	}
}

// buildVersion is set by the linker: -ldflags "-X main.buildVersion=v1.2.3".
var buildVersion string

func built() versionResult {
	v := versionResult{Version: "unknown", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	if buildVersion != "" {
		v.Version = buildVersion
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.time":
			v.Time = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	for _, m := range info.Deps {
		if m.Path == "go.temporal.io/sdk" {
			v.Temporal = m.Version
		}
	}
	return v
}
