// Package operation is the vocabulary that the starter, the workflows and the activities share: names, inputs, results, decisions,
// search attributes and error types. It does no I/O.
package operation
