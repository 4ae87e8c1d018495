package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/archive"
)

func TestBackup_OfAClusterWithAController_SaysWhatTheControllerHad(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil, nil, exporting)
	s.worker("")
	o := s.backup()
	r := o.done(60 * time.Second)
	require.NotNil(t, r.Export.Contents)
	m := o.listed()
	require.NotNil(t, m.Content)
	require.Equal(t, []int{2, 3, 7, 5, 8, 5}, []int{m.Content.Orgs, m.Content.Spaces, m.Content.Apps, m.Content.AppsStarted, m.Content.Instances, m.Content.Services})
	require.Equal(t, []int{2, 3, 7, 5, 5}, []int{r.Export.Contents.Orgs, r.Export.Contents.Spaces, r.Export.Contents.Apps, r.Export.Contents.AppsStarted, r.Export.Contents.Services})

	names := map[string][]string{}
	for _, org := range m.Content.List {
		for _, space := range org.Spaces {
			for _, app := range space.Apps {
				names[org.Name+"/"+space.Name] = append(names[org.Name+"/"+space.Name], app.Name)
			}
		}
	}
	require.Equal(t, map[string][]string{"intranet/production": {"survey", "wiki"}, "shop/production": {"mailer", "orders", "storefront"}, "shop/staging": {"orders", "storefront"}}, names)
	require.Contains(t, appsOf(m.Content, "shop", "production"), archive.App{Name: "storefront", State: "STARTED", Instances: 3, Buildpack: "Ruby/Rack"})

	shown := s.cli(0, "backup", "show", s.cluster.Name(), o.id).Stdout
	require.Regexp(t, `2 orgs.*3 spaces.*7 apps.*5 started.*5 services`, shown)
	o.settled()
	require.False(t, o.inHistory(controllerPassword, o.workflow), "the Cloud Controller's password in the history")
}

// controllerPassword is the default of package cloudcontroller.
const controllerPassword = "demo-password"

func appsOf(c *archive.Content, org, space string) []archive.App {
	for _, o := range c.List {
		for _, s := range o.Spaces {
			if o.Name == org && s.Name == space {
				return s.Apps
			}
		}
	}
	return nil
}
