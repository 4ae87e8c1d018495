package temporalkit

import (
	"context"
	"errors"
	"fmt"
	"strings"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/katoflow/katoflow/internal/operation"
)

// ErrAttributesUnknown is what errors.Is finds when the server does not let us list search attributes (Temporal Cloud, a restricted account): whether
// they are there is not known.
var ErrAttributesUnknown = errors.New("search attributes cannot be listed")

// MissingAttributesError lists the search attributes that a namespace lacks, or has with another type.
type MissingAttributesError struct {
	Namespace string
	// Missing by name.
	Missing []string
	// Wrong are "NAME is Text, must be Keyword".
	Wrong []string
}

// Error is one line that says what to do.
func (e *MissingAttributesError) Error() string {
	var parts []string
	if len(e.Missing) > 0 {
		parts = append(parts, fmt.Sprintf("namespace %q lacks the search attributes %s: run `katoflow init`", e.Namespace, strings.Join(e.Missing, ", ")))
	}
	if len(e.Wrong) > 0 {
		parts = append(parts, fmt.Sprintf("namespace %q has search attributes of another type (%s): remove them with `temporal operator search-attribute remove`, then run `katoflow init`",
			e.Namespace, strings.Join(e.Wrong, "; ")))
	}
	return strings.Join(parts, "; ")
}

// attribute is one search attribute with its type.
type attribute struct {
	name string
	kind enumspb.IndexedValueType
}

// attributes are those that every operation sets.
func attributes() []attribute {
	keys := []temporal.SearchAttributeKey{
		operation.AttributeCluster, operation.AttributeOperation, operation.AttributePhase, operation.AttributeNode, operation.AttributeNeedsOperator,
	}
	out := make([]attribute, len(keys))
	for i, k := range keys {
		out[i] = attribute{name: k.GetName(), kind: k.GetValueType()}
	}
	return out
}

// CheckSearchAttributes returns nil when the namespace has all search attributes of katoflow with their types, a *MissingAttributesError when not,
// an error for which errors.Is(err, ErrAttributesUnknown) holds when the server does not say, and a one-line error otherwise.
func CheckSearchAttributes(ctx context.Context, c client.Client, namespace string) error {
	missing, wrong, err := compareAttributes(ctx, c, namespace)
	if err != nil {
		return err
	}
	return attributesError(namespace, missing, wrong)
}

// RegisterSearchAttributes adds the search attributes that the namespace lacks and returns their names, in order; run again it adds nothing. An
// attribute that exists with another type is an error, and nothing is added then.
func RegisterSearchAttributes(ctx context.Context, c client.Client, namespace string) (added []string, err error) {
	missing, wrong, err := compareAttributes(ctx, c, namespace)
	if err != nil {
		return nil, err
	}
	if len(wrong) > 0 {
		return nil, attributesError(namespace, nil, wrong)
	}
	if len(missing) == 0 {
		return nil, nil
	}
	kinds := map[string]enumspb.IndexedValueType{}
	for _, a := range missing {
		kinds[a.name] = a.kind
		added = append(added, a.name)
	}
	_, err = c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{Namespace: namespace, SearchAttributes: kinds})
	var exists *serviceerror.AlreadyExists
	switch {
	case errors.As(err, &exists): // somebody else was faster
		return nil, CheckSearchAttributes(ctx, c, namespace)
	case err != nil:
		return nil, fmt.Errorf("search attributes could not be added to namespace %q: %w", namespace, err)
	}
	return added, nil
}

func compareAttributes(ctx context.Context, c client.Client, namespace string) (missing []attribute, wrong []string, err error) {
	got, err := c.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	var (
		noNamespace   *serviceerror.NamespaceNotFound
		notFound      *serviceerror.NotFound
		denied        *serviceerror.PermissionDenied
		unimplemented *serviceerror.Unimplemented
	)
	switch {
	case err == nil:
	case errors.As(err, &noNamespace), errors.As(err, &notFound):
		return nil, nil, fmt.Errorf("namespace %q does not exist on the Temporal server: create it with `temporal operator namespace create -n %s`, or set --namespace or TEMPORAL_NAMESPACE", namespace, namespace)
	case errors.As(err, &denied), errors.As(err, &unimplemented):
		return nil, nil, fmt.Errorf("%w in namespace %q: %s", ErrAttributesUnknown, namespace, oneLine(err.Error()))
	default:
		return nil, nil, fmt.Errorf("the search attributes of namespace %q could not be read: %w", namespace, err)
	}
	for _, a := range attributes() {
		switch kind, ok := got.GetCustomAttributes()[a.name]; {
		case !ok:
			missing = append(missing, a)
		case kind != a.kind:
			wrong = append(wrong, fmt.Sprintf("%s is %s, must be %s", a.name, kind, a.kind))
		}
	}
	return missing, wrong, nil
}

func attributesError(namespace string, missing []attribute, wrong []string) error {
	if len(missing) == 0 && len(wrong) == 0 {
		return nil
	}
	e := &MissingAttributesError{Namespace: namespace, Wrong: wrong}
	for _, a := range missing {
		e.Missing = append(e.Missing, a.name)
	}
	return e
}
