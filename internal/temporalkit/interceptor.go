package temporalkit

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"sync"
	"time"
	"unicode"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/katoflow/katoflow/internal/operation"
)

// Interceptor gives every line that an activity or a workflow logs the fields operation, cluster, kind, node, step and try, as far as its input
// and its workflow's id tell them, logs the begin and the end of every activity, and beats for activities. It schedules nothing, so workflows with
// and without it have the same history. It is an interceptor.WorkerInterceptor.
type Interceptor struct {
	interceptor.WorkerInterceptorBase
	options InterceptorOptions
}

// InterceptorOptions of NewInterceptor.
type InterceptorOptions struct {
	// KeepAlive beats every so often for each activity that has a heartbeat timeout, repeating the details that the activity, or the attempt
	// before it, has recorded last. So a short activity is missed as quickly as a long one when its worker dies, and hears of a cancellation,
	// without any code of its own. 0 = every 2 s; negative = never.
	KeepAlive time.Duration
	// Converter is the client's data converter; nil = the SDK's default. Details are kept encoded, because an activity may go on changing what it
	// has recorded.
	Converter converter.DataConverter
}

// NewInterceptor returns an interceptor for one worker.
func NewInterceptor(o InterceptorOptions) *Interceptor {
	if o.KeepAlive == 0 {
		o.KeepAlive = HeartbeatEvery
	}
	if o.Converter == nil {
		o.Converter = converter.GetDefaultDataConverter()
	}
	return &Interceptor{options: o}
}

// InterceptActivity is called by the SDK for every attempt of an activity.
func (i *Interceptor) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	return &activityInbound{ActivityInboundInterceptorBase: interceptor.ActivityInboundInterceptorBase{Next: next}, options: i.options}
}

// InterceptWorkflow is called by the SDK for every workflow that it loads.
func (i *Interceptor) InterceptWorkflow(_ workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	return &workflowInbound{WorkflowInboundInterceptorBase: interceptor.WorkflowInboundInterceptorBase{Next: next}, fields: &workflowFields{}}
}

type activityInbound struct {
	interceptor.ActivityInboundInterceptorBase
	options  InterceptorOptions
	outbound *activityOutbound
}

func (a *activityInbound) Init(outbound interceptor.ActivityOutboundInterceptor) error {
	a.outbound = &activityOutbound{ActivityOutboundInterceptorBase: interceptor.ActivityOutboundInterceptorBase{Next: outbound}, converter: a.options.Converter}
	return a.Next.Init(a.outbound)
}

func (a *activityInbound) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	info := activity.GetInfo(ctx)
	where, _ := placeOf(info.WorkflowExecution.ID)
	where.step = stepOf(info.ActivityType.Name)
	where = where.with(in.Args)
	a.outbound.fields = where.keyvals()

	if a.options.KeepAlive > 0 && info.HeartbeatTimeout > 0 && !info.IsLocalActivity {
		every := min(a.options.KeepAlive, info.HeartbeatTimeout/3)
		stop := a.outbound.keepAlive(ctx, every)
		defer stop()
	}
	logger := activity.GetLogger(ctx)
	logger.Debug("activity begins")
	began := time.Now()
	result, err := a.Next.ExecuteActivity(ctx, in)
	took := time.Since(began).Round(time.Millisecond).String()
	switch {
	case err == nil:
		logger.Info("activity done", "took", took)
	case ctx.Err() != nil:
		logger.Info("activity left", "took", took, "cause", oneLine(context.Cause(ctx).Error()), "error", oneLine(err.Error()))
	case benign(err): // handed over to another worker
		logger.Info("activity left", "took", took, "error", oneLine(err.Error()))
	default:
		logger.Warn("activity failed", "took", took, "error", oneLine(err.Error()))
	}
	return result, err
}

func benign(err error) bool {
	var app *temporal.ApplicationError
	return errors.As(err, &app) && app.Category() == temporal.ApplicationErrorCategoryBenign
}

type activityOutbound struct {
	interceptor.ActivityOutboundInterceptorBase
	converter converter.DataConverter
	fields    []any // set before the activity begins, then only read

	mu       sync.Mutex
	recorded bool               // something was recorded since the last tick
	details  *commonpb.Payloads // what was recorded last
}

func (a *activityOutbound) GetLogger(ctx context.Context) log.Logger {
	return log.With(a.Next.GetLogger(ctx), a.fields...)
}

func (a *activityOutbound) RecordHeartbeat(ctx context.Context, details ...any) {
	// What cannot be encoded is left to the SDK to complain about.
	if encoded, err := a.converter.ToPayloads(details...); err == nil {
		a.mu.Lock()
		a.recorded, a.details = true, encoded
		a.mu.Unlock()
	}
	a.Next.RecordHeartbeat(ctx, details...)
}

// keepAlive beats every so often unless the activity did so itself. stop waits for its end.
func (a *activityOutbound) keepAlive(ctx context.Context, every time.Duration) (stop func()) {
	if a.Next.HasHeartbeatDetails(ctx) {
		// The next attempt must not find less than this one.
		before, pointers := rawValues(maxDetails)
		if a.Next.GetHeartbeatDetails(ctx, pointers...) == nil {
			var found []any
			for _, v := range before {
				if v.Payload() != nil {
					found = append(found, v)
				}
			}
			a.details, _ = a.converter.ToPayloads(found...)
		}
	}
	done, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-ctx.Done():
				return
			case <-tick.C:
				a.beat(ctx)
			}
		}
	}()
	return func() {
		close(done)
		<-gone
	}
}

func (a *activityOutbound) beat(ctx context.Context) {
	// Held while recording, so that the activity's own newer details are never overtaken by these.
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.recorded {
		a.recorded = false
		return
	}
	values, pointers := rawValues(len(a.details.GetPayloads()))
	var details []any
	if a.converter.FromPayloads(a.details, pointers...) == nil {
		for _, v := range values {
			details = append(details, v)
		}
	}
	a.Next.RecordHeartbeat(ctx, details...)
}

// maxDetails is how many heartbeat details of an attempt before are carried on. Ours have one.
const maxDetails = 8

// rawValues are n values that take a payload as it is, and pointers to them.
func rawValues(n int) (values []converter.RawValue, pointers []any) {
	values = make([]converter.RawValue, n)
	pointers = make([]any, n)
	for i := range values {
		pointers[i] = &values[i]
	}
	return values, pointers
}

type workflowInbound struct {
	interceptor.WorkflowInboundInterceptorBase
	fields *workflowFields
}

// workflowFields are written once, by the workflow's first coroutine.
type workflowFields struct{ keyvals []any }

func (w *workflowInbound) Init(outbound interceptor.WorkflowOutboundInterceptor) error {
	return w.Next.Init(&workflowOutbound{WorkflowOutboundInterceptorBase: interceptor.WorkflowOutboundInterceptorBase{Next: outbound}, fields: w.fields})
}

func (w *workflowInbound) ExecuteWorkflow(ctx workflow.Context, in *interceptor.ExecuteWorkflowInput) (any, error) {
	info := workflow.GetInfo(ctx)
	where, ok := placeOf(info.WorkflowExecution.ID)
	if root := info.RootWorkflowExecution; !ok && root != nil {
		where, _ = placeOf(root.ID) // a node's child, the cluster lock
	}
	w.fields.keyvals = where.with(in.Args).keyvals()
	return w.Next.ExecuteWorkflow(ctx, in)
}

type workflowOutbound struct {
	interceptor.WorkflowOutboundInterceptorBase
	fields *workflowFields
}

func (w *workflowOutbound) GetLogger(ctx workflow.Context) log.Logger {
	logger := w.Next.GetLogger(ctx)
	if len(w.fields.keyvals) == 0 {
		return logger
	}
	return log.With(logger, w.fields.keyvals...)
}

// with adds what the input of an activity or workflow says: its first argument's fields Operation (ID, Cluster), OperationID, Cluster, Node (a name
// or something with a Name), Step or FromStep, JobTry or Try, also those of embedded structs. Inputs are plain structs that the packages which
// know them must not have to tell this one about.
func (p place) with(args []any) place {
	if len(args) == 0 {
		return p
	}
	in := reflect.Indirect(reflect.ValueOf(args[0]))
	if in.Kind() != reflect.Struct {
		return p
	}
	set := func(to *string, v string) {
		if v != "" {
			*to = v
		}
	}
	if op := field(in, "Operation"); op.Kind() == reflect.Struct {
		set(&p.operation, text(op, "ID"))
		set(&p.cluster, text(op, "Cluster"))
		if above, ok := placeOf(text(op, "WorkflowID")); ok && p.kind == "" {
			p.kind = above.kind
		}
	}
	set(&p.operation, text(in, "OperationID"))
	set(&p.cluster, text(in, "Cluster"))
	if node := field(in, "Node"); node.Kind() == reflect.Struct {
		set(&p.node, text(node, "Name"))
	} else {
		set(&p.node, text(in, "Node"))
	}
	set(&p.step, text(in, "FromStep"))
	set(&p.step, text(in, "Step"))
	for _, name := range []string{"Try", "JobTry"} {
		if v := field(in, name); v.CanInt() && v.Int() > 0 {
			p.try = int(v.Int())
		}
	}
	return p
}

// field returns the named field of a struct, also of an embedded one; the zero Value when there is none.
func field(v reflect.Value, name string) reflect.Value {
	f, ok := v.Type().FieldByName(name)
	if !ok || !f.IsExported() {
		return reflect.Value{}
	}
	found, err := v.FieldByIndexErr(f.Index)
	if err != nil { // inside an embedded nil pointer
		return reflect.Value{}
	}
	return reflect.Indirect(found)
}

func text(v reflect.Value, name string) string {
	if f := field(v, name); f.Kind() == reflect.String {
		return f.String()
	}
	return ""
}

// stepOf is the step that an activity is, as it stands in reports: the activity's name in lower case, with the few exceptions.
func stepOf(activityType string) string {
	switch activityType {
	case "EnterMaintenance":
		return operation.StepMaintenanceOn
	case "LeaveMaintenance":
		return operation.StepMaintenanceOff
	}
	var b strings.Builder
	for i, r := range activityType {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// firstPart is an operation id without what a child's workflow id has behind it.
func firstPart(id string) string {
	first, _, _ := strings.Cut(id, "/")
	return first
}
