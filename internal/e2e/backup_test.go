package e2e

import (
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/operation"
)

func TestBackup_OfACluster_IsListedVerifiedAndLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	for name, c := range map[string]struct {
		args       []string
		identities []age.Identity
		mode       operation.TransferMode
		options    []siteOption
	}{
		"by the worker":  {args: []string{"--transfer", "worker"}, mode: operation.TransferWorker},
		"by the node":    {args: []string{"--transfer", "direct"}, mode: operation.TransferDirect},
		"by whoever can": {mode: operation.TransferDirect},
		"by the worker, S3 under a CA of its own": {args: []string{"--transfer", "worker"}, mode: operation.TransferWorker, options: []siteOption{privateCA}},
		"by the node, S3 under a CA of its own":   {args: []string{"--transfer", "direct"}, mode: operation.TransferDirect, options: []siteOption{privateCA}},
		"encrypted, by the worker":                {args: []string{"--encrypt-to", identity.Recipient().String()}, identities: []age.Identity{identity}, mode: operation.TransferWorker},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, nil, append([]siteOption{exporting}, c.options...)...)
			s.worker("")
			require.NoError(t, s.exporter(files).ExportSize(multiparted))
			o := s.backup(c.args...)
			r := o.done(60 * time.Second)
			m := o.listed(c.identities...)
			require.NotNil(t, r.Export)
			require.Equal(t, c.mode, r.Export.Transfer)
			require.Equal(t, []any{m.SHA256, m.Size, m.StoredSize, len(m.Parts)}, []any{r.Export.SHA256, r.Export.Size, r.Export.StoredSize, r.Export.Parts})
			require.Len(t, m.Parts, 5)
			require.Equal(t, "put back (off)", r.Maintenance)
			require.Equal(t, 1, s.exports(files))
			o.settled()
			require.Contains(t, s.cli(0, "backup", "list", s.cluster.Name()).Stdout, o.id)
			require.Contains(t, s.cli(0, "op", "show", o.id).Stdout, "s3://"+s.bucket.Name)
		})
	}
}

// exports counts the runs of `kato data export` on a node.
func (s *site) exports(node string) int {
	n := 0
	for _, e := range s.cluster.Node(node).Commands() {
		if strings.Contains(e.Command(), "kato data export") {
			n++
		}
	}
	return n
}
