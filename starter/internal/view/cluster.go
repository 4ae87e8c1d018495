package view

import (
	"fmt"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/katoflow/katoflow/internal/operation"
)

// ClusterRow is one cluster of an inventory.
type ClusterRow struct {
	Name, Platform string
	Nodes          int
	Roles          []string
}

// Clusters is a table of clusters, ending with a line feed.
func Clusters(rows []ClusterRow, s Style) string {
	w := newTable(s, "CLUSTER", "PLATFORM", "NODES", "ROLES")
	for _, r := range rows {
		w.AppendRow(table.Row{clean(r.Name), clean(r.Platform), itoa(r.Nodes), cleanAll(r.Roles)})
	}
	return renderFit(w, s)
}

// NodeRow is one node of a cluster as the inventory has it.
type NodeRow struct {
	Name, Address, User, Bastion string
	Port                         int
	Roles, Gates                 []string
	Core                         bool
}

// GateTimes are how often and for how long gates are asked.
type GateTimes struct {
	Times             int
	Interval, Timeout string
}

// Cluster is one cluster with its nodes in the order of a rolling procedure, ending with a line feed.
func Cluster(name, platform, digest string, nodes []NodeRow, gates GateTimes, s Style) string {
	var b strings.Builder
	fmt.Fprintf(&b, "cluster %s, platform %s, %s\n%s\n", s.paint(bold, clean(name)), clean(platform), count(len(nodes), "node"), clean(digest))
	fmt.Fprintf(&b, "gates must hold %d times in a row, %s apart, within %s\n\n", gates.Times, clean(gates.Interval), clean(gates.Timeout))
	w := newTable(s, "ORDER", "NODE", "LOGIN", "ROLES", "OWN GATES")
	for i, n := range nodes {
		login := fmt.Sprintf("%s@%s:%d", clean(n.User), clean(n.Address), n.Port)
		if n.Bastion != "" {
			login += " via " + clean(n.Bastion)
		}
		node := clean(n.Name)
		if n.Core {
			node += " (core)"
		}
		own := make([]string, len(n.Gates))
		for j, g := range n.Gates {
			own[j] = clean(g)
		}
		w.AppendRow(table.Row{itoa(i + 1), node, login, cleanAll(n.Roles), strings.Join(own, "; ")})
	}
	return b.String() + renderFit(w, s)
}

// Check is the result of a check that found no problem, ending with a line feed.
func Check(r *operation.Report, s Style) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s ready\n", clean(r.Cluster), count(len(r.Nodes), "node"))
	if len(r.Nodes) > 0 {
		w := newTable(s, "NODE", "ROLES", "PACKAGES PENDING")
		for _, n := range r.Nodes {
			w.AppendRow(table.Row{clean(n.Name), cleanAll(n.Roles), itoa(n.Pending)})
		}
		b.WriteString("\n" + renderFit(w, s))
	}
	if lines := PreflightNotes(operation.PreflightOutcome{BrokenBefore: r.BrokenBefore, Warnings: r.Warnings}); len(lines) > 0 {
		b.WriteString("\n" + strings.Join(lines, "\n") + "\n")
	}
	return b.String()
}

// KeyRow is one host key.
type KeyRow struct{ Node, Type, Fingerprint, State, Error string }

// Keys is a table of host keys, ending with a line feed.
func Keys(rows []KeyRow, s Style) string {
	w := newTable(s, "NODE", "KEY", "FINGERPRINT", "STATE", "")
	for _, r := range rows {
		attribute := ""
		switch r.State {
		case "known", "added":
			attribute = green
		case "new", "replaced":
			attribute = yellow
		case "changed", "error":
			attribute = red
		}
		w.AppendRow(table.Row{clean(r.Node), clean(r.Type), clean(r.Fingerprint), s.paint(attribute, clean(r.State)), clean(r.Error)})
	}
	return renderFit(w, s)
}
