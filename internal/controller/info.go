package controller

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
)

// Info is what /v2/info says of a controller to anybody.
type Info struct {
	Name          string `json:"name"`
	Description   string `json:"description"`
	APIVersion    string `json:"api_version"`
	VendorVersion string `json:"vendor_version"`
	// TokenEndpoint and AuthorizationEndpoint are where tokens are granted (kato.md §6).
	TokenEndpoint         string `json:"token_endpoint"`
	AuthorizationEndpoint string `json:"authorization_endpoint"`
}

// Info asks /v2/info, without a login.
func (c *Client) Info(ctx context.Context) (Info, error) {
	var info Info
	err := c.do(ctx, request{what: "ask for /v2/info", method: http.MethodGet, path: "/v2/info", anonymous: true}, &info)
	return info, err
}

// StackatoInfo is what a cluster says of itself (kato.md §6.2).
type StackatoInfo struct {
	// Endpoint is the API's host name.
	Endpoint string `json:"endpoint"`
	// VendorVersion such as "v3.4.2".
	VendorVersion string `json:"vendor_version"`
	// MaintenanceMode is whether the controller is read-only (kato.md §4).
	MaintenanceMode bool `json:"maintenance_mode"`
	// MBusIP is the Core's address.
	MBusIP string `json:"mbusip"`
	// MicroCloud is a cluster of one node.
	MicroCloud bool `json:"micro_cloud"`
	// Roles of each node, by its address, sorted.
	Roles map[string][]string `json:"roles"`
	// LicenseAccepted is whether the first user accepted the terms.
	LicenseAccepted bool `json:"license_accepted"`
}

// StackatoInfo asks /v2/stackato/info, without a login. It is the read by which a change of the maintenance mode is verified.
func (c *Client) StackatoInfo(ctx context.Context) (StackatoInfo, error) {
	const what = "ask for /v2/stackato/info"
	var answer struct {
		Endpoint        string    `json:"endpoint"`
		VendorVersion   string    `json:"vendor_version"`
		MaintenanceMode setting   `json:"maintenance_mode"`
		MBusIP          string    `json:"mbusip"`
		MicroCloud      truth     `json:"micro_cloud"`
		Nodes           nodeRoles `json:"nodes"`
		Stackato        struct {
			LicenseAccepted truth `json:"license_accepted"`
		} `json:"stackato"`
	}
	if err := c.do(ctx, request{what: what, method: http.MethodGet, path: "/v2/stackato/info", anonymous: true}, &answer); err != nil {
		return StackatoInfo{}, err
	}
	if !answer.MaintenanceMode.given {
		return StackatoInfo{}, c.failure(KindAnswer, what, "the answer says nothing about maintenance mode", "check that controller.url is an ALS or Stackato cluster's")
	}
	return StackatoInfo{
		Endpoint: answer.Endpoint, VendorVersion: answer.VendorVersion, MaintenanceMode: bool(answer.MaintenanceMode.truth), MBusIP: answer.MBusIP,
		MicroCloud: bool(answer.MicroCloud), Roles: answer.Nodes, LicenseAccepted: bool(answer.Stackato.LicenseAccepted),
	}, nil
}

// CheckAdmin logs in and finds out whether the user is an admin, who sees every organization. Its errors say what to correct:
// KindUnauthorized, KindForbidden, KindUnreachable, KindCertificate and others.
func (c *Client) CheckAdmin(ctx context.Context) error {
	// Only admins may read it (kato.md §6.2), and it costs the controller nothing.
	return c.do(ctx, request{what: "check that " + c.clean(c.cfg.User) + " is an admin", method: http.MethodGet, path: "/v2/stackato/config?name=cloud_controller_ng"}, nil)
}

// truth is true or false, also written as a text (kato.md §4).
type truth bool

func (t *truth) UnmarshalJSON(data []byte) error {
	switch strings.ToLower(strings.Trim(string(data), `"`)) {
	case "true":
		*t = true
	case "false", "null", "":
		*t = false
	default:
		return errors.New("neither true nor false")
	}
	return nil
}

// setting is a truth that knows whether it was there. One that nobody has set may be there as null, which is false.
type setting struct {
	truth
	given bool
}

func (s *setting) UnmarshalJSON(data []byte) error {
	s.given = true
	return s.truth.UnmarshalJSON(data)
}

// nodeRoles reads {"<ip>": {"roles": [...]}}.
type nodeRoles map[string][]string

func (n *nodeRoles) UnmarshalJSON(data []byte) error {
	var nodes map[string]struct {
		Roles []string `json:"roles"`
	}
	if err := json.Unmarshal(data, &nodes); err != nil {
		return err
	}
	*n = make(nodeRoles, len(nodes))
	for id, node := range nodes {
		slices.Sort(node.Roles)
		(*n)[id] = node.Roles
	}
	return nil
}
