package vsphere

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/vsphere/vspheretest"
	"github.com/katoflow/katoflow/internal/inventory"
)

// described writes an inventory with the section, and the CA of the double beside it.
func described(t *testing.T, v *vspheretest.VCenter, section string) (*inventory.File, *inventory.HypervisorVSphere) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.pem"), v.CA(), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "password"), []byte(vspheretest.Password+"\n"), 0o600))
	path := filepath.Join(dir, "inventory.yaml")
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, `clusters:
  a:
    hypervisor: {provider: vsphere, vsphere: {url: "%s", user: "%s", ca_file: ca.pem, %s}}
    nodes: [{name: core, address: 10.0.0.1}]
`, v.URL(), vspheretest.User, section), 0o600))
	file, err := inventory.Load(path)
	require.NoError(t, err)
	cluster, err := file.Cluster("a")
	require.NoError(t, err)
	return file, cluster.Hypervisor.VSphere
}

func TestConfigOf_PasswordOfEachKind_IsLetIn(t *testing.T) {
	v := vspheretest.Start(t, 1)
	env := func(name string) (string, bool) { return vspheretest.Password, name == "SECRET" }
	for _, section := range []string{"password: {file: password}", "password: {env: SECRET}"} {
		file, s := described(t, v, section)
		cfg, err := ConfigOf(file, s, env)
		require.NoError(t, err)
		require.InDelta(t, 0.1, cfg.FreeShare, 1e-9)
		require.False(t, cfg.Quiesce)
		cfg.Timeout = limit
		p, err := Open(cfg)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, p.Close()) })
		power, err := p.Power(bounded(t), node(vm0))
		require.NoError(t, err)
		require.Equal(t, hypervisor.On, power)
	}
	file, s := described(t, v, "password: {file: password}, quiesce: true, free_percent: 25")
	cfg, err := ConfigOf(file, s, env)
	require.NoError(t, err)
	require.InDelta(t, 0.25, cfg.FreeShare, 1e-9)
	require.True(t, cfg.Quiesce)
}

func TestConfigOf_WhatCannotBeRead_IsNamedByItsField(t *testing.T) {
	v := vspheretest.Start(t, 1)
	none := func(string) (string, bool) { return "", false }
	for _, secret := range []string{"{env: NONE}", "{file: none}"} {
		file, s := described(t, v, "password: "+secret)
		_, err := ConfigOf(file, s, none)
		require.ErrorContains(t, err, "hypervisor.vsphere.password: ")
		require.NotContains(t, err.Error(), "\n")
	}
	file, s := described(t, v, "password: {file: password}")
	s.CAFile = "password"
	_, err := ConfigOf(file, s, none)
	require.ErrorContains(t, err, "hypervisor.vsphere.ca_file: ")
	require.NotContains(t, err.Error(), vspheretest.Password)
	_, err = ConfigOf(file, nil, none)
	require.ErrorContains(t, err, "no vsphere section")
}
