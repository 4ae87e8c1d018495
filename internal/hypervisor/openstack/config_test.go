package openstack

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/hypervisor/openstack/openstacktest"
	"github.com/katoflow/katoflow/internal/inventory"
)

// described writes an inventory with the section, and the CA of the double beside it.
func described(t *testing.T, c *openstacktest.Cloud, section string) (*inventory.File, *inventory.HypervisorOpenStack) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.pem"), c.CA(), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "password"), []byte(openstacktest.Password+"\n"), 0o600))
	path := filepath.Join(dir, "inventory.yaml")
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, `clusters:
  a:
    hypervisor: {provider: openstack, openstack: {auth_url: "%s", ca_file: ca.pem, %s}}
    nodes: [{name: core, address: 10.0.0.1}]
`, c.URL(), section), 0o600))
	file, err := inventory.Load(path)
	require.NoError(t, err)
	cluster, err := file.Cluster("a")
	require.NoError(t, err)
	return file, cluster.Hypervisor.OpenStack
}

func TestConfigOf_BothKindsOfAccount_AreLetIn(t *testing.T) {
	c := start(t)
	id := c.Server("core", false, "/dev/vda")
	env := func(name string) (string, bool) { return openstacktest.CredentialSecret, name == "SECRET" }
	for name, section := range map[string]string{
		"user":       "user: " + openstacktest.User + ", password: {file: password}, project: " + openstacktest.Project,
		"credential": "application_credential: {id: " + openstacktest.CredentialID + ", secret: {env: SECRET}}",
	} {
		t.Run(name, func(t *testing.T) {
			file, o := described(t, c, section)
			cfg, err := ConfigOf(file, o, env)
			require.NoError(t, err)
			cfg.Timeout = limit
			p, err := Open(cfg)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, p.Close()) })
			_, err = p.Power(bounded(t), vmOf(id))
			require.NoError(t, err)
		})
	}
}

func TestConfigOf_WhatCannotBeRead_IsNamedByItsField(t *testing.T) {
	c := start(t)
	none := func(string) (string, bool) { return "", false }
	for want, section := range map[string]string{
		"password":                      "user: u, password: {env: NONE}, project: p",
		"application_credential.secret": "application_credential: {id: x, secret: {file: none}}",
	} {
		file, o := described(t, c, section)
		_, err := ConfigOf(file, o, none)
		require.ErrorContains(t, err, "hypervisor.openstack."+want+": ")
		require.False(t, strings.ContainsAny(err.Error(), "\n"), err)
	}
	file, o := described(t, c, "user: u, password: {file: password}, project: p")
	o.CAFile = "password"
	_, err := ConfigOf(file, o, none)
	require.ErrorContains(t, err, "hypervisor.openstack.ca_file: ")
	require.NotContains(t, err.Error(), openstacktest.Password)
	_, err = ConfigOf(file, nil, none)
	require.ErrorContains(t, err, "no openstack section")
}
