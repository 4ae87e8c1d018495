// Package inventory loads and checks the cluster file: which clusters there are, their nodes and roles, how to log in to them, and
// what must hold between two nodes.
//
// There are two levels of checking. [Load] and [Parse] look at the text only, so that an operator's machine can check a file whose
// keys it does not have. [File.CheckFiles] looks at what the file refers to, keys, known_hosts and secrets, and belongs on the worker.
// Both report every problem at once as [Problems], each with file, line, field and what would be right.
//
// Nothing in a message may surprise a terminal or tell a secret: text from the file is quoted, escaped and shortened, and text that
// stands where a secret belongs is never repeated.
//
// YAML is read by go.yaml.in/yaml/v3 and not by a parser with nicer syntax errors, because its time is linear in the size of the
// file whatever the file holds, and its recursion is bounded. Positions of values come from its node tree.
package inventory
