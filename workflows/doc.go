// Package workflows holds the runbooks: deterministic, one file a procedure, readable from top to bottom by an administrator. What all
// procedures share (lock, preflight, questions, details, cancel, maintenance, report) is in spine.go and the files it names.
package workflows
