package inventory

import "slices"

// RoleNames returns kato's role names in the order in which kato starts them (kato.md §2).
func RoleNames() []string {
	return []string{"base", "mdns", "primary", "controller", "router", "dea", "postgresql", "mysql", "rabbit", "rabbit3",
		"mongodb", "redis", "filesystem", "harbor", "memcached", "load_balancer"}
}

// DataServiceRoles returns the members of kato's role group data-services (kato.md §2), in start order.
func DataServiceRoles() []string {
	return []string{"postgresql", "mysql", "rabbit", "mongodb", "redis", "filesystem", "memcached"}
}

// DefaultRoleOrder returns the order in which kato's own release upgrade takes the roles: dea, controller, router, base, primary,
// then the data services (kato.md §5). Roles that it does not name come after it, see [Cluster.Order].
func DefaultRoleOrder() []string {
	return append([]string{"dea", "controller", "router", "base", "primary"}, DataServiceRoles()...)
}

// roleHint explains words of kato's world that look like roles and are none; "" when there is nothing to explain.
func roleHint(name string) string {
	switch name {
	case "core":
		return "core is not a role, it names the node: write core: true at the node, with its roles such as primary, controller, router"
	case "data-services", "microcloud":
		return "it is a group of roles: list its roles one by one"
	case "health_manager", "stager", "cloud_controller_ng", "cloud_controller":
		return "it is a process, not a role: it runs with primary or controller"
	}
	return ""
}

func isRole(name string) bool { return slices.Contains(RoleNames(), name) }
