package operation

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMatchApp_Patterns_MeanWhatTheySay(t *testing.T) {
	for _, c := range []struct {
		pattern, org, space, app string
		want                     bool
	}{
		{"*/*/*", "shop", "production", "orders", true},
		{"shop/*/orders", "shop", "staging", "orders", true},
		{"shop/*/orders", "shop", "staging", "orders-2", false},
		{"shop/prod*/*", "shop", "production", "x", true},
		{"shop/production/orders", "shop", "production", "orders", true},
		{"Shop/*/*", "shop", "production", "orders", false},
		{`shop/*/a\*`, "shop", "s", "a*", true},
		{`shop/*/a\*`, "shop", "s", "ab", false},
		{"shop/s/a/b", "shop", "s", "a/b", true},
		{"*/*/*", "a/b", "c", "d", true},
		{"*/*", "a", "b", "c", false},
	} {
		require.Equal(t, c.want, MatchApp(c.pattern, c.org, c.space, c.app), "%s: %s/%s/%s", c.pattern, c.org, c.space, c.app)
	}
}

func TestAppsInput_BadOnes_AreNamedAllAtOnce(t *testing.T) {
	in := AppsInput{Action: "reboot", Apps: []string{"a", "a/b/[", "a//c"}, AtOnce: -1, AppTimeout: -1}
	require.Equal(t, []string{
		"cluster is missing: name one of the inventory",
		`action "reboot": choose restart or restage`,
		"apps at once -1: write a number from 1 to 200",
		"app timeout is negative",
		`app "a": write ORG/SPACE/APP, * for any`,
		`app "a/b/[": the pattern "[" is not closed`,
		`app "a//c": write ORG/SPACE/APP, * for any`,
	}, in.Check())
	require.Empty(t, AppsInput{Request: Request{Cluster: "prod"}, Action: AppRestart, Apps: []string{"*/*/*"}}.Check())
}
