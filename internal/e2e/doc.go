// Package e2e holds the end-to-end tests: Temporal, workers and the CLI are processes of their own, the nodes are a simulated cluster behind real
// SSH servers. Tests look at effects from outside: which commands ran on a node and how often, what the operator sees, how the CLI exits.
package e2e
