package view

import (
	"fmt"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/katoflow/katoflow/internal/operation"
)

// AccessFailing counts the nodes to which a login does not work.
func AccessFailing(a *operation.AccessStatus) int {
	n := 0
	for i := range a.Nodes {
		if a.Nodes[i].FromLogin != operation.LoginOK || a.Nodes[i].OwnLogin != operation.LoginOK {
			n++
		}
	}
	return n
}

// AccessStatus is who reaches whom, ending with a line feed.
func AccessStatus(a *operation.AccessStatus, s Style) string {
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(s.fit(fmt.Sprintf(format, args...)) + "\n") }
	key := "with the key " + clean(a.Key)
	if a.Key == "" {
		key = s.paint(yellow, "which has no key")
	}
	line("%s, %s, from %s, %s", s.paint(bold, clean(a.Cluster)), count(len(a.Nodes), "node"), clean(a.From), key)
	if len(a.Nodes) > 0 {
		b.WriteString("\n")
		w := newTable(s, "NODE", "FROM "+strings.ToUpper(clean(a.From)), "TO ITSELF", "PASSWORDS", "SUDO")
		for i := range a.Nodes {
			n := &a.Nodes[i]
			passwords := "not known"
			switch {
			case operation.OffersPasswords(n.Methods):
				passwords = s.paint(yellow, "taken")
			case len(n.Methods) > 0:
				passwords = s.paint(green, "off")
			}
			sudo := s.paint(green, "all")
			if !n.Sudo {
				sudo = "limited"
			}
			w.AppendRow(table.Row{clean(n.Name), loginWord(n.FromLogin, s), loginWord(n.OwnLogin, s), passwords, sudo})
		}
		b.WriteString(renderFit(w, s))
	}
	var remarks []string
	for i := range a.Nodes {
		n := &a.Nodes[i]
		if n.FromLogin != operation.LoginOK && n.FromLogin != "not tried" {
			remarks = append(remarks, s.paint(red, fmt.Sprintf("%s: from %s: %s", clean(n.Name), clean(a.From), clean(n.FromLogin))))
		}
		if n.OwnLogin != operation.LoginOK && n.OwnLogin != "not tried" && n.OwnLogin != n.FromLogin {
			remarks = append(remarks, s.paint(red, fmt.Sprintf("%s: to itself: %s", clean(n.Name), clean(n.OwnLogin))))
		}
		if len(n.Loose) > 0 {
			remarks = append(remarks, s.paint(yellow, fmt.Sprintf("%s: others may write %s, which an SSH server refuses: chmod go-w", clean(n.Name), strings.ReplaceAll(cleanAll(n.Loose), ",", ", "))))
		}
	}
	for _, p := range a.Problems {
		remarks = append(remarks, s.paint(red, clean(p)))
	}
	if len(remarks) > 0 {
		b.WriteString("\n")
	}
	for _, r := range remarks {
		line("%s", r)
	}
	return b.String()
}

func loginWord(login string, s Style) string {
	switch login {
	case operation.LoginOK:
		return s.paint(green, "ok")
	case "not tried":
		return login
	}
	return s.paint(red, "fails")
}
