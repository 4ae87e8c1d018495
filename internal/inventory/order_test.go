package inventory

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// alsCluster makes a cluster of "name role,role" lines; a name that ends in "*" is the Core.
func alsCluster(lines ...string) *Cluster {
	c := &Cluster{Name: "prod", Platform: PlatformALS}
	for i, line := range lines {
		name, roles, _ := strings.Cut(line, " ")
		n := &Node{Name: strings.TrimSuffix(name, "*"), Address: fmt.Sprintf("192.0.2.%d", i+1), Core: strings.HasSuffix(name, "*")}
		if roles != "" {
			n.Roles = strings.Split(roles, ",")
		}
		c.Nodes = append(c.Nodes, n)
	}
	return c
}

func names(nodes []*Node) string {
	var list []string
	for _, n := range nodes {
		list = append(list, n.Name)
	}
	return strings.Join(list, " ")
}

func TestOrder_Table(t *testing.T) {
	for name, tc := range map[string]struct {
		nodes []string
		order []string
		want  string
	}{
		"five nodes of the demo": {
			nodes: []string{"core* base,primary,controller,router", "dea-1 base,dea", "dea-2 base,dea", "mysql base,mysql", "fs base,filesystem"},
			want:  "dea-1 dea-2 core mysql fs",
		},
		"the latest role decides": {
			nodes: []string{"a dea,mysql", "b dea", "c router,dea", "d controller,dea"},
			want:  "b d c a",
		},
		"base counts only alone": {
			nodes: []string{"p primary", "b base", "r router,base", "m mdns,base", "d dea,base"},
			want:  "d r b m p",
		},
		"mdns alone is as base": {
			nodes: []string{"p primary", "m mdns", "d dea"},
			want:  "d m p",
		},
		"ties keep the file's order": {
			nodes: []string{"z dea", "a dea", "m dea"},
			want:  "z a m",
		},
		"the core after every other node of its place": {
			nodes: []string{"core* controller,router", "r1 router", "r2 router", "p primary"},
			want:  "r1 r2 core p",
		},
		"the primary is the core when none is marked": {
			nodes: []string{"core primary,dea", "d dea"}, order: []string{"primary", "dea"},
			want: "d core",
		},
		"roles not named come last in start order": {
			nodes: []string{"h harbor", "l load_balancer", "x rabbit3", "m memcached", "d dea"},
			want:  "d m x h l",
		},
		"an order of one's own": {
			nodes: []string{"d dea", "m mysql", "p* primary,controller,router"}, order: []string{"mysql", "primary"},
			want: "m p d",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := alsCluster(tc.nodes...)
			before := names(c.Nodes)
			assert.Equal(t, tc.want, names(c.Order(tc.order)))
			assert.Equal(t, before, names(c.Nodes), "the cluster itself keeps its order")
		})
	}
}

func TestOrder_OwnOrderMovesTheCore_RouterIsLaterThanPrimary(t *testing.T) {
	c := alsCluster("p* primary,controller,router", "d dea", "m mysql")
	// router is not named: it comes after all named roles, in start order before dea.
	assert.Equal(t, "m p d", names(c.Order([]string{"mysql", "primary"})))
	assert.Equal(t, "m d p", names(c.Order([]string{"mysql", "dea", "primary"})))
}

func TestOrder_Plain_FileOrder(t *testing.T) {
	c := alsCluster("b mysql", "a dea")
	c.Platform = PlatformPlain
	assert.Equal(t, "b a", names(c.Order([]string{"dea", "mysql"})))
}

func TestDefaultRoleOrder_IsThatOfKato(t *testing.T) {
	assert.Equal(t, []string{"dea", "controller", "router", "base", "primary"}, DefaultRoleOrder()[:5])
	assert.ElementsMatch(t, []string{"mysql", "postgresql", "redis", "mongodb", "rabbit", "memcached", "filesystem"}, DefaultRoleOrder()[5:])
	require.NoError(t, CheckRoleOrder(DefaultRoleOrder()))
	require.NoError(t, CheckRoleOrder(RoleNames()))
}

func TestCheckRoleOrder_WrongNames_AllInOneLine(t *testing.T) {
	err := CheckRoleOrder([]string{"dea", "routr", "dea", "core"})
	require.Error(t, err)
	assert.Equal(t, `role order: unknown role "routr": did you mean "router"?; "dea" is given twice; unknown role "core": core is not a role, it names the node: write core: true at the node, with its roles such as primary, controller, router`, err.Error())

	plain := alsCluster("a dea")
	plain.Platform = PlatformPlain
	assert.ErrorContains(t, plain.CheckRoleOrder([]string{"dea"}), "leave the role order out")
	assert.NoError(t, plain.CheckRoleOrder(nil))
}

func TestSelect_Filters(t *testing.T) {
	c := alsCluster("core* base,primary,router", "dea-1 base,dea", "dea-2 base,dea", "db base,mysql")
	for name, tc := range map[string]struct {
		nodes, roles []string
		want         string
	}{
		"no filter":        {nil, nil, "core dea-1 dea-2 db"},
		"nodes":            {[]string{"db", "dea-1", "db"}, nil, "dea-1 db"},
		"roles":            {nil, []string{"mysql", "dea"}, "dea-1 dea-2 db"},
		"both":             {[]string{"dea-2", "core"}, []string{"dea"}, "dea-2"},
		"base is on every": {nil, []string{"base"}, "core dea-1 dea-2 db"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.Select(tc.nodes, tc.roles)
			require.NoError(t, err)
			assert.Equal(t, tc.want, names(got))
		})
	}
}

func TestSelect_BadFilters_NameWhatIsThere(t *testing.T) {
	c := alsCluster("core* base,primary", "dea-1 base,dea")
	_, err := c.Select([]string{"dae-1", "\x1b[2J"}, []string{"mysql", "core"})
	require.Error(t, err)
	assert.Equal(t, `unknown node "dae-1" in cluster "prod": did you mean "dea-1"?; unknown node "\x1b[2J" in cluster "prod": nodes there are "core", "dea-1"; `+
		`no node of cluster "prod" has the role "mysql": roles there are "base", "primary", "dea"; `+
		`no node of cluster "prod" has the role "core" (core is not a role, it names the node: write core: true at the node, with its roles such as primary, controller, router): roles there are "base", "primary", "dea"`, err.Error())

	_, err = c.Select([]string{"a; reboot", "x"}, nil)
	var mistakes Mistakes
	require.ErrorAs(t, err, &mistakes)
	assert.Equal(t, Mistakes{`unknown node "a; reboot" in cluster "prod": nodes there are "core", "dea-1"`, `unknown node "x" in cluster "prod": nodes there are "core", "dea-1"`}, mistakes)

	_, err = c.Select([]string{"core"}, []string{"dea"})
	assert.EqualError(t, err, `no node of cluster "prod" is left: none of the nodes "core" has one of the roles "dea"`)

	_, err = (&Cluster{Name: "x", Nodes: []*Node{{Name: "a"}}}).Select(nil, []string{"web"})
	assert.EqualError(t, err, `no node of cluster "x" has the role "web": roles there are (none)`)
}
