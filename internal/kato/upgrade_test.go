package kato

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	help10 = `Usage:
  kato node upgrade [options]

Options:
  -n --node <node>
  -v --version <version>
  --rollback
  --skip-confirmation
  --resume
  --cluster
  --status
  --force
  -j --json
  -u --update-kato
  --role-order <order>
  --ignore-inspect-failures
`
	help13 = `Usage:
  kato node upgrade [options]
  kato node upgrade --run-command <command>

Options:
  -j --json
  -n --node <node>
  -u --update-kato
  -v --version <version>
  --force
  --prepare
  --resume
  --role-order <order>
  --skip-confirmation
  --status
  --development
  --cache-ip <ip>
  --download-only
  --cluster
  --offline
`
)

func TestUpgrade_EveryGeneration_GetsOnlyTheOptionsThatItHas(t *testing.T) {
	c := CLI{Path: "kato"}
	u := Upgrade{Node: "10.0.0.5", Version: "1.3.0", CacheIP: "10.0.0.1", Resume: true, Offline: true}
	for _, x := range []struct {
		help, node string
		back, down bool
	}{
		{help10, "kato node upgrade --node 10.0.0.5 --version 1.3.0 --resume --skip-confirmation", true, false},
		{help13, "kato node upgrade --node 10.0.0.5 --version 1.3.0 --cache-ip 10.0.0.1 --offline --resume --skip-confirmation", false, true},
	} {
		d, err := ParseUpgradeHelp([]byte(x.help))
		require.NoError(t, err)
		require.Equal(t, x.node, strings.Join(c.UpgradeNode(d, u), " "))
		require.Equal(t, x.back, d.Rollback)
		require.Equal(t, x.down, d.Cache)
		require.True(t, d.UpdateKato && d.Resume && d.Version && d.SkipConfirmation)
	}
	d, err := ParseUpgradeHelp([]byte(help13))
	require.NoError(t, err)
	require.Equal(t, "kato node upgrade --download-only --cache-ip 10.0.0.1 --version 1.3.0 --skip-confirmation", strings.Join(c.DownloadRelease(d, "1.3.0", "10.0.0.1"), " "))
	require.Equal(t, "kato node upgrade --update-kato --skip-confirmation", strings.Join(c.UpdateKato(d), " "))
	require.Equal(t, "kato node upgrade --rollback --node 10.0.0.5", strings.Join(c.RollBackNode(UpgradeDialect{}, "10.0.0.5"), " "))
	for _, text := range []string{"", "bash: kato: command not found", "Usage:\n  kato node upgrade --nodes <n>\n", "ERROR: no"} {
		_, err := ParseUpgradeHelp([]byte(text))
		require.Error(t, err, text)
	}
}

func TestParseVersion_WhateverStandsAroundIt_IsFound(t *testing.T) {
	for text, want := range map[string]string{
		"1.2.0\n": "1.2.0", "v3.4.2": "3.4.2", "Helion Development Platform 1.3.0-g12ab (build 5)": "1.3.0-g12ab",
		"\x1b[32m1.2\x1b[0m": "1.2", "10.0.0.5: 1.2.1": "1.2.1", "3.4.2.1": "3.4.2.1", "unknown": "", "": "", "version: 1.2.0.\n": "1.2.0", "kato2.0": "",
	} {
		require.Equal(t, want, ParseVersion([]byte(text)), text)
	}
	require.True(t, SameVersion("1.3.0", "1.3.0"))
	require.True(t, SameVersion("1.3.0-g12ab", "1.3.0"))
	require.True(t, SameVersion("1.3.0", "1.3"))
	require.True(t, SameVersion("1.3", "1.3.0"))
	require.True(t, SameVersion("1.3.0-rc1", "1.3.0-rc1"))
	require.False(t, SameVersion("1.3.0-rc2", "1.3.0-rc1"))
	require.False(t, SameVersion("1.3.0", "1.3.0-rc1"))
	require.False(t, SameVersion("", "1.3.0"))
	require.False(t, SameVersion("1.3.0", ""))
	require.Negative(t, CompareVersions("1.9.0", "1.10"))
	require.Positive(t, CompareVersions("1.3.0.1", "1.3"))
	require.False(t, SameVersion("1.3.010", "1.3.0"))
	require.False(t, SameVersion("1.3.0.1", "1.3.0"))
	require.False(t, SameVersion("1.2.0", "1.3.0"))
	for _, v := range []string{"1.3.0", "1.3", "3.4.2-rc1", "1.3.0+b.7"} {
		require.NoError(t, CheckVersion(v), v)
	}
	for _, v := range []string{"", "1", "v1.3", "1.3.", "1.3 ", "--force", "1.3;reboot", "1.3.0\n", strings.Repeat("1.", 30) + "0"} {
		require.Error(t, CheckVersion(v), v)
	}
}
