package view

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/operation"
)

func TestAccessStatus_SaysWhoReachesWhomAndWhyNot(t *testing.T) {
	a := operation.AccessStatus{Cluster: "prod", From: "core", Key: "stackato@core", Problems: []string{"dea-9: not reached"}, Nodes: []operation.AccessNode{
		{Name: "core", Granted: true, FromLogin: "ok", OwnLogin: "ok", Methods: []string{"publickey"}, Sudo: true},
		{Name: "dea-1", FromLogin: "Permission denied (publickey).", OwnLogin: "ok", Methods: []string{"publickey", "password"}, Loose: []string{"/home/stackato/.ssh 775"}},
		{Name: "dea-9", FromLogin: "not tried", OwnLogin: "not tried"},
	}}
	text := AccessStatus(&a, Style{})
	for _, want := range []string{"prod, 3 nodes, from core, with the key stackato@core", "FROM CORE", "dea-1: from core: Permission denied (publickey).", "others may write /home/stackato/.ssh 775", "dea-9: not reached", "limited", "taken", "off", "not known"} {
		require.Contains(t, text, want)
	}
	require.Equal(t, 2, AccessFailing(&a))
	a.Key, a.Nodes = "", nil
	require.Contains(t, AccessStatus(&a, Style{}), "which has no key")
}
