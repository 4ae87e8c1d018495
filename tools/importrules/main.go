// Command importrules checks the rules of katoflow's design on who may import what. It reads the main module and
// prints one line per finding:
//
//	file:line: message
//
// Usage: importrules [DIR], with DIR the root of the main module (default: the working directory). Exit code 0: no
// finding, 1: findings, 2: the module could not be read.
//
// The rules, on code that is not a test:
//
//   - workflows imports the operation and activities packages, Temporal's workflow API and pure standard packages only;
//   - inventory, remote, kato, controller, archive, hypervisor, simcluster and lab do not reach Temporal, not even
//     through another package;
//   - only worker, starter, the end-to-end tests and the main packages of simcluster and deploy read flags or the
//     environment;
//   - go.mod does not require the Temporal server, its Web UI or the S3 server: those belong to deploy/devstack;
//   - nothing in internal uses a global logger.
package main

import (
	"fmt"
	"io"
	"os"
)

func main() { os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr)) }

func execute(args []string, stdout, stderr io.Writer) int {
	dir := "."
	switch {
	case len(args) == 1 && args[0] != "" && args[0][0] != '-':
		dir = args[0]
	case len(args) > 0:
		_, _ = fmt.Fprintln(stderr, "usage: importrules [DIR]\nDIR is the root of the main module; it is the working directory if not given.")
		return 2
	}
	findings, err := check(dir)
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "importrules: %v\n", err)
		return 2
	}
	for _, f := range findings {
		_, _ = fmt.Fprintln(stdout, f)
	}
	if len(findings) > 0 {
		return 1
	}
	return 0
}
