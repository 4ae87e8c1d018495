package activities

import (
	"context"
	"encoding/json"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/operation"
)

// KeepReport writes the report of an operation into the cluster's bucket, beside its archives, where it outlives Temporal's retention. Repeating it
// writes the same again. The error is S3.
func (x *Archives) KeepReport(ctx context.Context, report operation.Report) error {
	a := begin(ctx, "keeping the report")
	defer a.finish()
	s, err := x.Source.site(report.Cluster)
	if err != nil {
		return err
	}
	store, err := s.store(x.Logger)
	if err != nil {
		return err
	}
	defer store.Close()
	data, err := json.Marshal(report)
	if err != nil {
		return operation.NewError(operation.Failure{Type: operation.ErrInternal, Message: "the report cannot be written: " + err.Error()})
	}
	if err := store.KeepReport(a.ctx, archive.Ref{Cluster: report.Cluster, Operation: report.OperationID}, data); err != nil {
		if a.ctx.Err() != nil {
			return ended(a.ctx)
		}
		return storeError("bucket", err)
	}
	return nil
}
