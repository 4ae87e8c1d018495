package ec2

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/hypervisor/ec2/ec2test"
	"github.com/katoflow/katoflow/internal/inventory"
)

// described writes an inventory with the section, and the CA of the double beside it.
func described(t *testing.T, c *ec2test.Cloud, section string) (*inventory.File, *inventory.HypervisorEC2) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"ca.pem": string(c.CA()), "access": ec2test.AccessKey + "\n", "secret": ec2test.SecretKey + "\n"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	path := filepath.Join(dir, "inventory.yaml")
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, `clusters:
  a:
    hypervisor: {provider: ec2, ec2: {region: eu-central-1, endpoint: "%s", ca_file: ca.pem, %s}}
    nodes: [{name: core, address: 10.0.0.1, vm: i-0123456789abcdef0}]
`, c.URL(), section), 0o600))
	file, err := inventory.Load(path)
	require.NoError(t, err)
	cluster, err := file.Cluster("a")
	require.NoError(t, err)
	return file, cluster.Hypervisor.EC2
}

func TestConfigOf_EveryKindOfCredentials_IsLetIn(t *testing.T) {
	c := start(t)
	id := c.Instance("m5.large", "/dev/sda1")
	none := filepath.Join(t.TempDir(), "none")
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": ec2test.AccessKey, "AWS_SECRET_ACCESS_KEY": ec2test.SecretKey, "AWS_SESSION_TOKEN": "", "AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none, "AWS_PROFILE": "",
	} {
		t.Setenv(name, value)
	}
	env := func(name string) (string, bool) { return ec2test.SessionToken, name == "TOKEN" }
	for name, section := range map[string]string{
		"keys": "access_key: {file: access}, secret_key: {file: secret}", "temporary keys": "access_key: {file: access}, secret_key: {file: secret}, session_token: {env: TOKEN}", "its own": "tags: {a: b}",
	} {
		t.Run(name, func(t *testing.T) {
			file, e := described(t, c, section)
			cfg, err := ConfigOf(file, e, env)
			require.NoError(t, err)
			require.Equal(t, e.Tags, cfg.Tags)
			cfg.Timeout = limit
			p, err := Open(cfg)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, p.Close()) })
			_, err = p.Power(bounded(t), vmOf(id))
			require.NoError(t, err)
			calls := c.Calls("DescribeInstances")
			require.Equal(t, name == "temporary keys", calls[len(calls)-1].Token == ec2test.SessionToken)
		})
	}
}

func TestConfigOf_NoCredentialsAtAll_IsAProblemOfTheCheck(t *testing.T) {
	c := start(t)
	none := filepath.Join(t.TempDir(), "none")
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none, "AWS_PROFILE": "", "AWS_WEB_IDENTITY_TOKEN_FILE": "",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "",
	} {
		t.Setenv(name, value)
	}
	file, e := described(t, c, "tags: {a: b}")
	cfg, err := ConfigOf(file, e, os.LookupEnv)
	require.NoError(t, err)
	p, err := Open(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	problems, err := p.Check(bounded(t), nil)
	require.NoError(t, err)
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].Text, "the worker has no AWS credentials of its own")
	require.Contains(t, problems[0].Text, "hypervisor.ec2.access_key")
	require.Empty(t, c.Calls(""))
}

func TestConfigOf_WhatCannotBeRead_IsNamedByItsField(t *testing.T) {
	c := start(t)
	none := func(string) (string, bool) { return "", false }
	for want, section := range map[string]string{
		"access_key":    "access_key: {env: NONE}, secret_key: {file: secret}",
		"secret_key":    "access_key: {file: access}, secret_key: {file: none}",
		"session_token": "access_key: {file: access}, secret_key: {file: secret}, session_token: {env: NONE}",
	} {
		file, e := described(t, c, section)
		_, err := ConfigOf(file, e, none)
		require.ErrorContains(t, err, "hypervisor.ec2."+want+": ")
		require.False(t, strings.ContainsAny(err.Error(), "\n"), err)
	}
	file, e := described(t, c, "access_key: {file: access}, secret_key: {file: secret}")
	e.CAFile = "secret"
	_, err := ConfigOf(file, e, none)
	require.ErrorContains(t, err, "hypervisor.ec2.ca_file: ")
	require.NotContains(t, err.Error(), ec2test.SecretKey)
	_, err = ConfigOf(file, nil, none)
	require.ErrorContains(t, err, "no ec2 section")
}
