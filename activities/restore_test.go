package activities

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/kato"
)

func TestRestore_WhatAnArchiveDoesNotHave_IsToldBefore(t *testing.T) {
	here := targetState{endpoint: "api.new.example.com", known: map[string]bool{"mysql": true}, enabled: map[string]bool{"mysql": true}}
	m := archive.Manifest{Mode: "cluster", KatoVersion: "3.4.2", Content: &archive.Content{Apps: 1, Endpoint: "api.old.example.com",
		List: []archive.Org{{Name: "shop", Spaces: []archive.Space{{Name: "live", Services: []archive.Service{
			{Name: "db", Service: "mysql"}, {Name: "outside", Service: "user-provided"}, {Name: "legacy", Service: ""}}}}}}}}
	judged := func(m archive.Manifest, target targetState) []string {
		var f findings
		f.judgeArchive("archive", m, target)
		require.Empty(t, f.problems)
		return f.warnings
	}
	warnings := judged(m, here)
	require.Len(t, warnings, 2, "%q", warnings)
	require.Contains(t, warnings[0], "api.old.example.com, and of this one api.new.example.com")
	require.Contains(t, warnings[1], "1 user-provided services (shop/live/outside)")

	without := here
	without.enabled = map[string]bool{"base": true}
	var f findings
	f.judgeArchive("archive", m, without)
	require.Len(t, f.problems, 1)
	require.Contains(t, strings.Join(f.problems, "\n"), "the archive has services of mysql (1), and no node has that role: enable it (kato role add mysql), or they do not come back")

	here.endpoint, m.Content.List = "api.old.example.com", nil
	require.Empty(t, judged(m, here))
	m.Content.Endpoint = "" // of an older katoflow
	require.Empty(t, judged(m, here))
	m.KatoVersion = "2.10.6"
	require.Contains(t, strings.Join(judged(m, here), "\n"), "each user gets an organization of their own")
}

func TestRestore_UsersOfTheManifest_AreMissedByName(t *testing.T) {
	recorded := archive.Content{Users: []string{"ada", "grace"}}
	require.Equal(t, []string{"user grace"}, missingOf(recorded, archive.Content{Users: []string{"ada", "linus"}}))
	require.Empty(t, missingOf(recorded, archive.Content{Users: []string{"grace", "ada"}}))
	require.Empty(t, missingOf(recorded, archive.Content{}), "a controller that tells no names")
	require.Empty(t, missingOf(archive.Content{}, recorded), "a manifest that has none")
}

func TestRestore_AppsToBeStagedAnew_MustBeOfTheArchive(t *testing.T) {
	content := &archive.Content{List: []archive.Org{{Name: "shop", Spaces: []archive.Space{{Name: "live", Apps: []archive.App{{Name: "orders"}}}}}}}
	judged := func(c *archive.Content, patterns ...string) []string {
		var f findings
		f.judgeRestage(patterns, c)
		return f.problems
	}
	require.Empty(t, judged(content, "shop/*/orders", "*/*/*"))
	require.Contains(t, judged(nil, "shop/live/nothing")[0], "does not say which apps it has")
	require.Empty(t, judged(nil))
	problems := judged(content, "shop/live/order", "shop/live/orders", "a/b/1", "a/b/2", "a/b/3", "a/b/4", "a/b/5")
	require.Len(t, problems, 1)
	require.Contains(t, problems[0], "the archive has no app shop/live/order, a/b/1, a/b/2, a/b/3, a/b/4, and 1 more")
}

func TestWithoutApps_AnErrorWithAPathInTheList_IsKept(t *testing.T) {
	said := "Failed apps:\n  shop/prod/orders\n  error: cannot read services/mysql/dump.sql\n"
	got := withoutApps(said, kato.ParseFailedApps([]byte(said)))
	if want := "Failed apps:\n  error: cannot read services/mysql/dump.sql\n"; got != want {
		t.Errorf("kept %q, want %q", got, want)
	}
}
