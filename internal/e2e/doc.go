// Package e2e holds the end-to-end tests: the binaries of bin/ against a cluster that lives in the test process, so that whatever is killed,
// the cluster lives on. `make build` makes the binaries.
//
// Exports go to a real S3 server, devstack's, each site's into a bucket of its own and through a proxy of its own that does the faults (archivetest).
//
// One suite runs in two worlds: on the simulated cluster, and with KATOFLOW_LAB=1, as root on Linux, on real Debian hosts (package lab). A case
// that has sense in one of them only says why it is skipped in the other. A run on real hosts ends with a table of what went wrong and what came of it.
package e2e
