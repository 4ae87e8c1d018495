package inventory

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// Order returns all nodes in the order in which a rolling procedure takes them.
//
// On als a node's place is the latest of its roles in roleOrder; roles that roleOrder does not name come after all named ones, in
// kato's start order. base counts only for a node that has no other role, mdns not at all. Nodes of one place keep the file's order,
// and the Core comes after every other node of its place. roleOrder nil is [DefaultRoleOrder]. On plain it is the file's order.
func (c *Cluster) Order(roleOrder []string) []*Node { return c.OrderOf(c.Nodes, roleOrder) }

// OrderOf is Order for some of the cluster's nodes, as Select returns them.
func (c *Cluster) OrderOf(nodes []*Node, roleOrder []string) []*Node {
	ordered := slices.Clone(nodes)
	if c.Platform != PlatformALS {
		return ordered
	}
	if len(roleOrder) == 0 {
		roleOrder = DefaultRoleOrder()
	}
	place := make(map[string]int)
	for i, role := range roleOrder {
		if _, there := place[role]; !there {
			place[role] = i
		}
	}
	for i, role := range RoleNames() {
		if _, there := place[role]; !there {
			place[role] = len(roleOrder) + i
		}
	}
	core := c.CoreNode()
	sort.SliceStable(ordered, func(i, j int) bool {
		a, b := placeOf(ordered[i], place), placeOf(ordered[j], place)
		if a != b {
			return a < b
		}
		return ordered[i] != core && ordered[j] == core
	})
	return ordered
}

// placeOf is the latest place of the node's roles.
func placeOf(n *Node, place map[string]int) int {
	latest := -1
	for _, role := range n.Roles {
		if role != "base" && role != "mdns" {
			latest = max(latest, place[role])
		}
	}
	if latest < 0 {
		return place["base"]
	}
	return latest
}

// Mistakes are what is wrong with the names that an operator gave for one operation. Take them apart with errors.As: a name itself
// may hold any text.
type Mistakes []string

// Error is one line.
func (m Mistakes) Error() string { return strings.Join(m, "; ") }

// CheckRoleOrder refuses names that are not kato's roles, and names given twice; all of them at once, as [Mistakes].
func CheckRoleOrder(roleOrder []string) error {
	var wrong Mistakes
	for i, role := range roleOrder {
		switch hint := roleHint(role); {
		case slices.Contains(roleOrder[:i], role):
			wrong = append(wrong, quote(role)+" is given twice")
		case isRole(role):
		case hint != "":
			wrong = append(wrong, fmt.Sprintf("unknown role %s: %s", quote(role), hint))
		default:
			wrong = append(wrong, fmt.Sprintf("unknown role %s: %s", quote(role), didYouMean(role, RoleNames())))
		}
	}
	if len(wrong) > 0 {
		wrong[0] = "role order: " + wrong[0]
		return wrong
	}
	return nil
}

// CheckRoleOrder is the function of this name, and refuses any role order for a plain cluster, which goes in file order.
func (c *Cluster) CheckRoleOrder(roleOrder []string) error {
	if len(roleOrder) > 0 && c.Platform != PlatformALS {
		return fmt.Errorf("role order: cluster %s is plain and goes in the order of its file: leave the role order out", quote(c.Name))
	}
	return CheckRoleOrder(roleOrder)
}

// Select returns the nodes, in file order, that are named in nodes and have one of roles. An empty filter lets all through. Unknown
// names are reported all at once, as [Mistakes]; a filter that leaves no node is an error.
func (c *Cluster) Select(nodes, roles []string) ([]*Node, error) {
	var wrong Mistakes
	for i, name := range nodes {
		if _, err := c.Node(name); err != nil && !slices.Contains(nodes[:i], name) {
			wrong = append(wrong, err.Error())
		}
	}
	known := c.Roles()
	for i, role := range roles {
		if slices.Contains(known, role) || slices.Contains(roles[:i], role) {
			continue
		}
		why := ""
		if hint := roleHint(role); c.Platform == PlatformALS && hint != "" {
			why = " (" + hint + ")"
		}
		wrong = append(wrong, fmt.Sprintf("no node of cluster %s has the role %s%s: roles there are %s", quote(c.Name), quote(role), why, orNone(known)))
	}
	if len(wrong) > 0 {
		return nil, wrong
	}
	var selected []*Node
	for _, n := range c.Nodes {
		if (len(nodes) == 0 || slices.Contains(nodes, n.Name)) && (len(roles) == 0 || slices.ContainsFunc(roles, n.HasRole)) {
			selected = append(selected, n)
		}
	}
	if len(selected) == 0 {
		return nil, fmt.Errorf("no node of cluster %s is left: none of the nodes %s has one of the roles %s", quote(c.Name), orNone(nodes), orNone(roles))
	}
	return selected, nil
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "(none)"
	}
	return quoteAll(names)
}
