package controller

import (
	"context"
	"net/http"
	"slices"
)

// ClusterRoles is which roles there are and where they run (kato.md §6.2).
type ClusterRoles struct {
	// Available roles, with the processes of each.
	Available map[string][]string `json:"available"`
	// Nodes by their address, with the roles of each; all of them sorted.
	Nodes map[string][]string `json:"nodes"`
	// Required roles: of each of them the cluster needs one.
	Required []string `json:"required"`
}

// Roles asks /v2/stackato/cluster/roles, as an admin (kato.md §6.2). It says what is configured; whether it runs is Components' to tell.
func (c *Client) Roles(ctx context.Context) (ClusterRoles, error) {
	const what = "ask for the roles of the nodes"
	var roles ClusterRoles
	if err := c.do(ctx, request{what: what, method: http.MethodGet, path: "/v2/stackato/cluster/roles"}, &roles); err != nil {
		return ClusterRoles{}, err
	}
	if roles.Nodes == nil {
		return ClusterRoles{}, c.failure(KindAnswer, what, "the answer names no nodes", "check that controller.url is an ALS or Stackato cluster's")
	}
	for _, names := range roles.Nodes {
		slices.Sort(names)
	}
	slices.Sort(roles.Required)
	return roles, nil
}

// Rogue is the state of a process that runs and is not configured (kato.md §6.2); the others are Running, Starting and Stopped, as of instances and apps.
const Rogue = "ROGUE"

// Components asks /v2/stackato/components, as an admin: the state of each process by its node's address, which is what `kato process list` says (kato.md §6.2).
// KindSupervisord when the supervisord of any node does not run: then there is no answer for the others, either.
func (c *Client) Components(ctx context.Context) (map[string]map[string]string, error) {
	var nodes map[string]map[string]string
	err := c.do(ctx, request{what: "ask for the processes of the nodes", method: http.MethodGet, path: "/v2/stackato/components"}, &nodes)
	return nodes, err
}

// User is an account of the cluster.
type User struct {
	GUID string
	// Name may be "": it is the login's to know, and not every controller repeats it.
	Name string
	// Admin may do everything on the cluster.
	Admin bool
}

// Users lists all accounts, as an admin; KindForbidden for anybody else (GET /v2/users, paged as every list; kato.md §6; who may, and its fields: the controller's source).
func (c *Client) Users(ctx context.Context) ([]User, error) {
	type entity struct {
		Name  string `json:"username"`
		Admin truth  `json:"admin"`
	}
	return listAs(ctx, c, "users", func(guid string, e entity) User { return User{GUID: guid, Name: e.Name, Admin: bool(e.Admin)} })
}
