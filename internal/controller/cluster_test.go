package controller

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/simcluster/cloudcontroller"
)

func twoNodes() map[string][]string {
	return map[string][]string{"10.0.0.1": {"router", "primary", "base"}, "10.0.0.2": {"dea", "base"}}
}

func TestRoles_OfANodeAndTheCluster(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{Nodes: twoNodes}, nil)
	roles, err := s.Roles(t.Context())
	require.NoError(t, err)
	assert.Equal(t, map[string][]string{"10.0.0.1": {"base", "primary", "router"}, "10.0.0.2": {"base", "dea"}}, roles.Nodes)
	assert.Equal(t, []string{"router2g"}, roles.Available["router"])
	assert.Contains(t, roles.Required, "primary")

	for _, body := range []string{`{}`, `[]`, `{"nodes": []}`} {
		s.Answer("/v2/stackato/cluster/roles", 1, 200, body)
		_, err := s.Roles(t.Context())
		ofKind(t, err, KindAnswer)
	}
}

func TestComponents_EachProcess_WithItsState(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{Nodes: twoNodes}, nil)
	s.SetProcess("10.0.0.2", "fence", Stopped)
	s.SetProcess("10.0.0.2", "router2g", Rogue)
	nodes, err := s.Components(t.Context())
	require.NoError(t, err)
	assert.Equal(t, map[string]string{
		"cloud_events": Running, "logyard": Running, "logyard_remote": Running, "systail": Running, "dea_ng": Running, "dir_server": Running, "fence": Stopped, "apptail": Running,
		"router2g": Rogue,
	}, nodes["10.0.0.2"])
	assert.Equal(t, Running, nodes["10.0.0.1"]["config_redis"])
	s.SetProcess("10.0.0.2", "fence", "")
	nodes, err = s.Components(t.Context())
	require.NoError(t, err)
	assert.Equal(t, Running, nodes["10.0.0.2"]["fence"])
}

func TestComponents_SupervisordOfANodeDown_IsSaid(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{Nodes: twoNodes}, nil)
	s.SupervisordDown("10.0.0.2", true)
	_, err := s.Components(t.Context())
	e := ofKind(t, err, KindSupervisord)
	assert.Equal(t, []int{500, 110}, []int{e.Status, e.Code})
	assert.Contains(t, e.Error(), "10.0.0.2")
	assert.Contains(t, e.Error(), "its supervisord does not run")
	assert.Equal(t, 1, s.Count("GET", "/v2/stackato/components"))
	s.SupervisordDown("10.0.0.2", false)
	_, err = s.Components(t.Context())
	require.NoError(t, err)
}

func TestUsers_SeveralPages_AllOfThem(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{}, nil)
	for i := range 120 {
		s.AddUser(fmt.Sprintf("user-%d@example.org", i), "p", i == 7)
	}
	s.AddUser("user-7@example.org", "another password", true)
	users, err := s.Users(t.Context())
	require.NoError(t, err)
	require.Len(t, users, 121, "with the one who asks")
	var admins []string
	for _, u := range users {
		assert.NotEmpty(t, u.GUID)
		if u.Admin {
			admins = append(admins, u.Name)
		}
	}
	assert.Equal(t, []string{s.User(), "user-7@example.org"}, admins)
}

func TestAdminCalls_UserIsNoAdmin_AreForbidden(t *testing.T) {
	s := newSite(t, cloudcontroller.Options{Nodes: twoNodes}, func(c *Config) { c.User = "someone@example.org" })
	s.AddUser("someone@example.org", password, false)
	_, err := s.Users(t.Context())
	ofKind(t, err, KindForbidden)
	_, err = s.Roles(t.Context())
	ofKind(t, err, KindForbidden)
	_, err = s.Components(t.Context())
	ofKind(t, err, KindForbidden)
}
