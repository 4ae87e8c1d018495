package archive

import (
	"context"

	"github.com/katoflow/katoflow/internal/remote"
)

const (
	// reportsFolder is no cluster's: no encoded name begins with a dot.
	reportsFolder = ".reports"
	// maxReport bounds what is read as a report, in bytes.
	maxReport = 8 << 20
)

// ReportKey returns the key of an operation's report: PREFIX/.reports/CLUSTER/OPERATION.json, encoded as remote.EncodeID does.
func (s *Store) ReportKey(ref Ref) string {
	return s.folder("") + reportsFolder + "/" + remote.EncodeID(ref.Cluster) + "/" + remote.EncodeID(ref.Operation) + ".json"
}

// KeepReport writes the report of an operation, of whatever kind, beside the archives; an earlier one of the same operation is replaced. It is in no list of
// archives. Its errors are those of Check.
func (s *Store) KeepReport(ctx context.Context, ref Ref, report []byte) error {
	if err := ref.check(); err != nil {
		return err
	}
	return s.put(ctx, s.ReportKey(ref), report, false)
}

// Report reads the report of an operation; an error of KindNotFound when there is none.
func (s *Store) Report(ctx context.Context, ref Ref) ([]byte, error) {
	if err := ref.check(); err != nil {
		return nil, err
	}
	return s.get(ctx, s.ReportKey(ref), maxReport)
}
