// Package deploy holds what an administrator installs on nodes.
package deploy

import _ "embed"

// FreezeProgram is the text of /usr/local/sbin/katoflow-freeze, owner root, mode 0755. It names its version in the line "version=N".
//
//go:embed node/katoflow-freeze
var FreezeProgram string

// FreezeSudoers is /etc/sudoers.d/katoflow-freeze, mode 0440: what lets the login user stackato run it as root.
//
//go:embed sudoers/katoflow-freeze
var FreezeSudoers string
