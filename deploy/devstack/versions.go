package main

import (
	"runtime/debug"

	uiversion "github.com/temporalio/ui-server/v2/server/version"
	"go.temporal.io/server/common/headers"
)

// serverVersion is the version of the embedded Temporal server, which is also recorded in every database file.
const serverVersion = headers.ServerVersion

type partVersion struct{ name, version string }

// partVersions lists the embedded servers in a fixed order. The S3 server has no version constant, so its module
// version is read from the binary.
func partVersions() []partVersion {
	s3 := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if module.Path == "github.com/versity/versitygw" {
				s3 = module.Version
			}
		}
	}
	return []partVersion{
		{"temporal-server", "v" + serverVersion},
		{"temporal-ui", "v" + uiversion.UIVersion},
		{"versitygw", s3},
	}
}
