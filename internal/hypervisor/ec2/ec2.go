// Package ec2 takes snapshots of the EBS volumes of EC2 instances (hypervisor.Provider).
//
// A snapshot is what one CreateSnapshots makes: a snapshot of each EBS volume attached to the instance, "crash-consistent across the instance" (Amazon EC2 API Reference,
// CreateSnapshots). When its moment has passed: "The snapshot is created immediately, but it remains in the pending state until all of data has been transferred to Amazon S3.
// [...] The snapshot includes only the data that was written to the volume at the time the snapshot was requested"; "You can remount and resume writes once the snapshot enters
// the pending state" (Amazon EBS User Guide, "Create Amazon EBS snapshots"). The answer of CreateSnapshots lists the snapshots in that state, so the moment lies between request and
// answer, and Take returns with it; the copying goes on for minutes or hours.
//
// CreateSnapshots takes no client token, so a request that may have been heard is never sent again: Take says so, and Find looks by tags. What the API shows is "eventually
// consistent": after a lost answer this process's Find and Delete ask again for a while before they say that there is none.
package ec2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/connection"
	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/webclient"
)

// Tags that say what a snapshot or a volume is. All that a rollback needs to know is in those of the snapshots, so that it does not depend on what became of the volumes.
const (
	// tagSnapshot is the snapshot's name, on snapshots and on volumes made of them.
	tagSnapshot = "katoflow:snapshot"
	// tagInstance is the instance's id.
	tagInstance = "katoflow:instance"
	// tagRequest tells the snapshots of one CreateSnapshots from those of another of the same name.
	tagRequest = "katoflow:request"
	// tagVolume, with the volume's id after it, says how that volume was attached and of which kind it is. The snapshots of a set have all of them.
	tagVolume = "katoflow:volume:"
	// tagSource, on a volume, is the snapshot that a rollback made it of.
	tagSource = "katoflow:source"
	// tagReplaced, on a volume, is the name of the snapshot that a rollback went back to when it took this volume away.
	tagReplaced = "katoflow:replaced"
	// tagDevice, on a volume that a rollback made or took away, is where it belongs.
	tagDevice = "katoflow:device"
	// tagUsed, on a volume that a rollback made, is the instance's last start when it was attached. It is there before the volume is attached: one without it was never written to.
	tagUsed = "katoflow:used"
	// tagDeleted is on snapshots whose deletion was accepted while they were pending: EC2 carries it out when they are copied.
	tagDeleted = "katoflow:deleted"
)

const (
	defaultTimeout = 30 * time.Second
	defaultWait    = 15 * time.Minute
	defaultPoll    = 2 * time.Second
	defaultSettle  = 15 * time.Second
	defaultWarm    = 10 * time.Second
	defaultBackoff = 5 * time.Second
	// defaultSpacing is what has to lie between two snapshots of a volume (SnapshotCreationPerVolumeRateExceeded in "Error codes for the Amazon EC2 API").
	defaultSpacing = 15 * time.Second
	attempts       = 8
	// restWithin is how long Take waits for a connection that is just being kept warm, rather than open another.
	restWithin = time.Second
	// pageSize of lists.
	pageSize = 500
	// mostTags of a resource ("Tag restrictions", Amazon EC2 User Guide).
	mostTags = 50
	// ownTags are those of a snapshot besides one for each volume.
	ownTags = 4
)

// Config is a region of EC2 and who asks it.
type Config struct {
	// Region such as eu-central-1.
	Region string
	// Endpoint is another URL than the region's own; "" for that.
	Endpoint string
	// AccessKey, SecretKey and, for temporary ones, SessionToken are used when Credentials is nil.
	AccessKey, SecretKey, SessionToken string
	// Credentials are asked for at every signature, and kept until they expire.
	Credentials aws.CredentialsProvider
	// CA are the certificates, PEM, that the server is verified against instead of the system's.
	CA []byte
	// Proxy is asked for every request (http.Transport's Proxy); nil for none.
	Proxy func(*http.Request) (*url.URL, error)
	// Tags are put on every snapshot and volume that is made, for the site's own rules.
	Tags map[string]string
	// Timeout of one attempt at a request (default 30s).
	Timeout time.Duration
	// MaxBackoff is the longest wait between two attempts (default 5s).
	MaxBackoff time.Duration
	// Wait is how long a volume may take to be made, detached or attached (default 15m).
	Wait time.Duration
	// Poll is how often its state is asked for meanwhile (default 2s).
	Poll time.Duration
	// Settle is how long what was made or changed may take to be shown (default 15s).
	Settle time.Duration
	// Spacing is how old the newest snapshot of each volume has to be before another one is taken (default 15s).
	Spacing time.Duration
	// Warm is how often a shot's connection is used until it is taken (default 10s), because servers end those that are idle.
	Warm time.Duration
}

// Provider is one region of EC2.
type Provider struct {
	cfg         Config
	transport   *connection.Transport
	http        *http.Client
	credentials aws.CredentialsProvider
	client      calls
	warm        string // the URL that keeps connections

	mu      sync.Mutex
	unsure  map[string]time.Time // instance and name of snapshots whose answer was lost -> when
	taken   map[string]taken     // snapshots that were just made, which EC2 may not show yet
	newest  map[string]time.Time // volume -> when a snapshot of it was last asked for
	deleted map[string]bool      // snapshots whose deletion was accepted
}

// taken is a snapshot as EC2 answered when it was made.
type taken struct {
	snapshot types.Snapshot
	at       time.Time
}

var (
	_ hypervisor.Provider        = (*Provider)(nil)
	_ hypervisor.RollbackChecker = (*Provider)(nil)
)

// zoneForm is that of an availability zone, whose region comes first.
var zoneForm = regexp.MustCompile(`^([a-z]{2,}(?:-[a-z]+)+-[0-9]+)[a-z]$`)

// Open returns the provider of a configuration. It asks nothing of the network. An error names the field that is wrong.
func Open(cfg Config) (*Provider, error) {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&cfg.Timeout, defaultTimeout}, {&cfg.Wait, defaultWait}, {&cfg.Poll, defaultPoll}, {&cfg.Settle, defaultSettle}, {&cfg.Warm, defaultWarm}, {&cfg.MaxBackoff, defaultBackoff}, {&cfg.Spacing, defaultSpacing}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if cfg.Region == "" {
		return nil, errors.New("ec2: region is missing: write one such as eu-central-1")
	}
	if zone := zoneForm.FindStringSubmatch(cfg.Region); zone != nil {
		return nil, fmt.Errorf("ec2: %s is an availability zone: write its region %s", cfg.Region, zone[1])
	}
	if cfg.Credentials == nil && (cfg.AccessKey == "" || cfg.SecretKey == "") {
		return nil, errors.New("ec2: access key and secret key are missing")
	}
	if len(cfg.Tags) > inventory.MostEC2Tags {
		return nil, fmt.Errorf("ec2: there are %d tags: at most %d are possible", len(cfg.Tags), inventory.MostEC2Tags)
	}
	provider := cfg.Credentials
	if provider == nil {
		static := aws.Credentials{AccessKeyID: cfg.AccessKey, SecretAccessKey: cfg.SecretKey, SessionToken: cfg.SessionToken, Source: "katoflow"}
		provider = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return static, nil })
	}
	options := ec2.Options{Region: cfg.Region, Credentials: aws.NewCredentialsCache(provider)}
	parameters := ec2.EndpointParameters{Region: &cfg.Region}
	if cfg.Endpoint != "" {
		u, err := url.Parse(cfg.Endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
			return nil, errors.New("ec2: the endpoint is not a URL such as https://ec2.example.org")
		}
		options.BaseEndpoint, parameters.Endpoint = &cfg.Endpoint, &cfg.Endpoint
	}
	endpoint, err := ec2.NewDefaultEndpointResolverV2().ResolveEndpoint(context.Background(), parameters)
	if err != nil {
		return nil, fmt.Errorf("ec2: no endpoint is known for region %q: write one", cfg.Region)
	}
	transport, ok := connection.New(connection.Config{CA: cfg.CA, Proxy: cfg.Proxy})
	if !ok {
		return nil, errors.New("ec2: the CA file holds no certificate in PEM form")
	}
	client := &http.Client{Transport: plainBodies{transport}, Timeout: cfg.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	options.HTTPClient = client
	options.Retryer = retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = attempts
		o.MaxBackoff = cfg.MaxBackoff
		// The SDK's own bucket would stop all retries when a hundred nodes are throttled at once.
		o.RateLimiter = ratelimit.None
	})
	return &Provider{
		cfg: cfg, transport: transport, http: client, credentials: options.Credentials, client: callsOf(ec2.New(options)), warm: endpoint.URI.JoinPath("ping").String(), unsure: map[string]time.Time{},
		taken: map[string]taken{}, newest: map[string]time.Time{}, deleted: map[string]bool{},
	}, nil
}

// Close is hypervisor.Provider's.
func (p *Provider) Close() error {
	p.transport.Close()
	return nil
}

// plainBodies sends the SDK's requests without WriteTo of their bodies. The SDK closes a body when its answer begins; WriteTo of one that is closed fails (smithy-go, safeWriteToReadCloser), and when
// net/http asks for what may be left only then, as on a busy machine, it ends the connection in the middle of the answer.
type plainBodies struct{ transport http.RoundTripper }

// RoundTrip is http.RoundTripper's.
func (b plainBodies) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		plain := *r
		plain.Body = struct{ io.ReadCloser }{r.Body}
		r = &plain
	}
	return b.transport.RoundTrip(r)
}

// code of the API's error, "" for none.
func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// throttled tells whether the API says that it did not carry a request out because there are too many.
func throttled(err error) bool {
	_, ok := retry.DefaultThrottleErrorCodes[code(err)]
	return ok
}

// refused tells whether a request that ended with err was certainly not carried out.
func refused(err error) bool {
	if connection.Unsent(err) || throttled(err) {
		return true
	}
	var answer *smithyhttp.ResponseError
	return errors.As(err, &answer) && answer.HTTPStatusCode() >= 400 && answer.HTTPStatusCode() < 500 && answer.HTTPStatusCode() != http.StatusRequestTimeout
}

// once retries only what was certainly not carried out.
type once struct{ aws.RetryerV2 }

func (once) IsErrorRetryable(err error) bool { return connection.Unsent(err) || throttled(err) }

// barred tells whether EC2 answered that it will not do what was asked, now or later.
func barred(err error) bool {
	return code(err) != "" && refused(err) && !throttled(err) && !connection.Unsent(err)
}

// hints are what to do about some of EC2's refusals.
var hints = map[string]string{
	"ConcurrentSnapshotLimitExceeded":       "wait until other snapshots of its volumes are copied: those that were deleted meanwhile count until then",
	"PendingSnapshotLimitExceeded":          "wait until other snapshots are copied: those that were deleted meanwhile count until then",
	"SnapshotLimitExceeded":                 "delete some or have the quota raised",
	"SnapshotCreationPerVolumeRateExceeded": "wait 15 seconds after the last snapshot of its volumes, whoever took it",
}

// text of an error in one line, without the keys: what EC2 said of it, in the place of the SDK's words.
func (p *Provider) text(err error) string {
	var (
		api  smithy.APIError
		op   *smithy.OperationError
		u    *url.Error
		said string
	)
	text := err.Error()
	if errors.As(err, &api) {
		said = strings.TrimSuffix(api.ErrorMessage(), ".") + " (" + api.ErrorCode() + ")"
		if hint := hints[api.ErrorCode()]; hint != "" {
			said += ": " + hint
		}
	} else if errors.As(err, &u) {
		said = u.Err.Error()
	}
	switch {
	case said == "":
	case errors.As(err, &op):
		text = strings.Replace(text, op.Error(), said, 1)
	default:
		text = said
	}
	return webclient.Clean(text, p.cfg.SecretKey, p.cfg.SessionToken, p.cfg.AccessKey)
}

func (p *Provider) told(what string, err error) error {
	return fmt.Errorf("ec2 %s: %s: %w", p.cfg.Region, what, webclient.Hide(err, p.text(err)))
}

func (p *Provider) fail(vm hypervisor.VM, what string, err error) error {
	var notFound *hypervisor.NotFoundError
	if errors.As(err, &notFound) {
		return err
	}
	return fmt.Errorf("%s: %w", vm.Node, p.told(what, err))
}

// failChange is fail for what changes something and may be done again: an *UnknownError where EC2 has not refused for good.
func (p *Provider) failChange(vm hypervisor.VM, what string, err error) error {
	var request *smithy.OperationError
	if errors.As(err, &request) && !barred(err) {
		return &hypervisor.UnknownError{Node: vm.Node, Err: p.told(what, err)}
	}
	return p.fail(vm, what, err)
}

func tagsOf(list []types.Tag) map[string]string {
	tags := make(map[string]string, len(list))
	for _, t := range list {
		tags[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return tags
}

func filter(name string, values ...string) types.Filter {
	return types.Filter{Name: &name, Values: values}
}

// literal is a tag's value in a filter, where * and ? stand for others.
func literal(value string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`).Replace(value)
}

// pages asks for the pages of a list, each with the token that the one before gave. The SDK's own paginators need the client (see calls).
func pages(ask func(token *string) (*string, error)) error {
	var token *string
	for {
		next, err := ask(token)
		if err != nil || aws.ToString(next) == "" {
			return err
		}
		token = next
	}
}

// clock is EC2's, in whole seconds: its times are not compared with those of this machine.
func clock(m middleware.Metadata) time.Time {
	if t, ok := awsmiddleware.GetServerTime(m); ok {
		return t
	}
	return time.Now()
}

// describeSnapshots asks for our snapshots that filters name. now is when EC2 answered.
func (p *Provider) describeSnapshots(ctx context.Context, filters ...types.Filter) (all []types.Snapshot, now time.Time, err error) {
	err = pages(func(token *string) (*string, error) {
		page, err := p.client.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{OwnerIds: []string{"self"}, Filters: filters, NextToken: token, MaxResults: aws.Int32(pageSize)})
		if err != nil {
			return nil, err
		}
		all, now = append(all, page.Snapshots...), clock(page.ResultMetadata)
		return page.NextToken, nil
	})
	return all, now, err
}

// instance of a VM. One that is terminated is not there.
func (p *Provider) instance(ctx context.Context, vm hypervisor.VM) (types.Instance, error) {
	out, err := p.client.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{vm.ID}})
	if c := code(err); strings.HasPrefix(c, "InvalidInstanceID") {
		return types.Instance{}, &hypervisor.NotFoundError{Node: vm.Node, What: "instance " + vm.ID}
	}
	if err != nil {
		return types.Instance{}, err
	}
	for _, r := range out.Reservations {
		for _, i := range r.Instances {
			if aws.ToString(i.InstanceId) == vm.ID && i.State != nil && i.State.Name != types.InstanceStateNameTerminated {
				return i, nil
			}
		}
	}
	return types.Instance{}, &hypervisor.NotFoundError{Node: vm.Node, What: "instance " + vm.ID}
}

// volumes that filters name, by their id.
func (p *Provider) volumes(ctx context.Context, filters ...types.Filter) (map[string]types.Volume, error) {
	found := map[string]types.Volume{}
	err := pages(func(token *string) (*string, error) {
		page, err := p.client.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{Filters: filters, NextToken: token, MaxResults: aws.Int32(pageSize)})
		if err != nil {
			return nil, err
		}
		for _, v := range page.Volumes {
			found[aws.ToString(v.VolumeId)] = v
		}
		return page.NextToken, nil
	})
	return found, err
}

// attachment is how a volume was attached and of which kind it is, as its tag on snapshots says it.
type attachment struct {
	device     string
	delete     bool // with the instance
	kind       types.VolumeType
	iops       int32
	throughput int32
}

func (a attachment) String() string {
	s := fmt.Sprintf("%s delete=%t type=%s", a.device, a.delete, a.kind)
	if a.iops > 0 {
		s += fmt.Sprintf(" iops=%d", a.iops)
	}
	if a.throughput > 0 {
		s += fmt.Sprintf(" throughput=%d", a.throughput)
	}
	return s
}

func parseAttachment(s string) (attachment, error) {
	fields := strings.Fields(s)
	if len(fields) < 3 {
		return attachment{}, fmt.Errorf("a tag %q does not say how the volume was attached", s)
	}
	a := attachment{device: fields[0]}
	for _, f := range fields[1:] {
		name, value, _ := strings.Cut(f, "=")
		var n int64
		var err error
		switch name {
		case "delete":
			a.delete, err = strconv.ParseBool(value)
		case "type":
			a.kind = types.VolumeType(value)
		case "iops":
			n, err = strconv.ParseInt(value, 10, 32)
			a.iops = int32(n)
		case "throughput":
			n, err = strconv.ParseInt(value, 10, 32)
			a.throughput = int32(n)
		}
		if err != nil {
			return attachment{}, fmt.Errorf("a tag %q does not say how the volume was attached", s)
		}
	}
	return a, nil
}

// attached are the volumes of an instance, by their id. One that the instance has and EC2 does not show is an error.
func (p *Provider) attached(ctx context.Context, i types.Instance) (map[string]types.Volume, error) {
	volumes, err := p.volumes(ctx, filter("attachment.instance-id", aws.ToString(i.InstanceId)))
	if err != nil {
		return nil, err
	}
	for _, m := range i.BlockDeviceMappings {
		if m.Ebs == nil {
			continue
		}
		id := aws.ToString(m.Ebs.VolumeId)
		if _, shown := volumes[id]; shown {
			continue
		}
		v, err := p.volume(ctx, id)
		if err != nil {
			return nil, err
		}
		if v == nil {
			return nil, fmt.Errorf("volume %s is attached at %s, and ec2 does not show it: try again in a while", id, aws.ToString(m.DeviceName))
		}
		volumes[id] = *v
	}
	return volumes, nil
}

// attachments of an instance, by volume.
func (p *Provider) attachments(ctx context.Context, i types.Instance) (map[string]attachment, error) {
	volumes, err := p.attached(ctx, i)
	if err != nil {
		return nil, err
	}
	result := map[string]attachment{}
	for _, m := range i.BlockDeviceMappings {
		if m.Ebs == nil {
			continue
		}
		v := volumes[aws.ToString(m.Ebs.VolumeId)]
		a := attachment{device: aws.ToString(m.DeviceName), delete: aws.ToBool(m.Ebs.DeleteOnTermination), kind: v.VolumeType}
		switch v.VolumeType { // other kinds have figures that cannot be asked for
		case types.VolumeTypeGp3:
			a.iops, a.throughput = aws.ToInt32(v.Iops), aws.ToInt32(v.Throughput)
		case types.VolumeTypeIo1, types.VolumeTypeIo2:
			a.iops = aws.ToInt32(v.Iops)
		}
		result[aws.ToString(m.Ebs.VolumeId)] = a
	}
	return result, nil
}

// set is what one CreateSnapshots made.
type set struct {
	name        string
	snapshots   []types.Snapshot
	attachments map[string]attachment // of every volume that was to have a snapshot, by the volume
	now         time.Time             // when EC2 showed it
}

// gaps tells whether a volume has no snapshot in the set, and whether the set is another than the one that was asked for: it has a snapshot of another volume, or two of one.
func (s set) gaps() (missing, other bool) {
	seen := map[string]bool{}
	for _, x := range s.snapshots {
		volume := aws.ToString(x.VolumeId)
		if _, ok := s.attachments[volume]; !ok || seen[volume] {
			other = true
			continue
		}
		seen[volume] = true
	}
	return len(seen) < len(s.attachments), other
}

func (s set) complete() bool {
	missing, other := s.gaps()
	return len(s.snapshots) > 0 && !missing && !other
}

func (s set) created() time.Time {
	var first time.Time
	for _, x := range s.snapshots {
		if t := aws.ToTime(x.StartTime); first.IsZero() || t.Before(first) {
			first = t
		}
	}
	return first
}

// view of a set. One that lacks snapshots of volumes is pending while EC2 may not show them yet, and failed after that.
func (s set) view(settle time.Duration) hypervisor.Snapshot {
	v := hypervisor.Snapshot{Name: s.name, State: hypervisor.Ready, Created: s.created()}
	var ids []string
	for _, x := range s.snapshots {
		ids = append(ids, aws.ToString(x.SnapshotId))
		if size := aws.ToInt64(x.FullSnapshotSizeInBytes); size > 0 {
			v.Size += size
		} else {
			v.Size += int64(aws.ToInt32(x.VolumeSize)) << 30
		}
		switch {
		case x.State == types.SnapshotStateCompleted:
		case x.State == types.SnapshotStatePending:
			if v.State == hypervisor.Ready {
				v.State = hypervisor.Pending
			}
		default:
			v.State = hypervisor.Failed
		}
	}
	switch missing, other := s.gaps(); {
	case other || missing && (settle == 0 || s.now.Add(time.Second).Sub(v.Created) >= settle): // EC2's clock tells whole seconds
		v.State = hypervisor.Failed
	case missing && v.State == hypervisor.Ready:
		v.State = hypervisor.Pending
	}
	slices.Sort(ids)
	v.ID = strings.Join(ids, ",")
	return v
}

// copied tells whether a snapshot is a copy that somebody made of one of ours with its tags. "Snapshots created by a copy snapshot operation have an arbitrary volume ID that you should not use for any
// purpose" (Amazon EC2 API Reference, Snapshot).
func copied(x types.Snapshot) bool {
	tags := tagsOf(x.Tags)
	if _, ours := tags[tagVolume+aws.ToString(x.VolumeId)]; ours {
		return false
	}
	return x.TransferType != "" || aws.ToString(x.VolumeId) == "vol-ffffffff" || !strings.HasPrefix(aws.ToString(x.Description), description(tags[tagSnapshot], ""))
}

// description of the snapshots of a name.
func description(name, node string) string { return "katoflow " + name + " of " + node }

// ours are the snapshots of an instance that count, of those that EC2 shows: without copies and those that are deleted, and with those that were just made and are not shown yet.
func (p *Provider) ours(vm hypervisor.VM, name string, found []types.Snapshot) []types.Snapshot {
	p.mu.Lock()
	defer p.mu.Unlock()
	shown := map[string]bool{}
	var list []types.Snapshot
	add := func(x types.Snapshot) {
		id := aws.ToString(x.SnapshotId)
		if !shown[id] && !p.deleted[id] && tagsOf(x.Tags)[tagDeleted] == "" && !copied(x) {
			list = append(list, x)
		}
		shown[id] = true
	}
	for _, x := range found {
		add(x)
	}
	for id, t := range p.taken {
		tags := tagsOf(t.snapshot.Tags)
		switch {
		case time.Since(t.at) > p.cfg.Settle:
			delete(p.taken, id)
		case tags[tagInstance] == vm.ID && (name == "" || tags[tagSnapshot] == name):
			add(t.snapshot)
		}
	}
	return list
}

// sets of an instance, oldest first. name "" is for all.
func (p *Provider) sets(ctx context.Context, vm hypervisor.VM, name string) ([]set, error) {
	filters := []types.Filter{filter("tag:"+tagInstance, literal(vm.ID))}
	if name != "" {
		filters = append(filters, filter("tag:"+tagSnapshot, literal(name)))
	}
	byRequest := map[string]*set{}
	var sets []*set
	found, now, err := p.describeSnapshots(ctx, filters...)
	if err != nil {
		return nil, err
	}
	for _, x := range p.ours(vm, name, found) {
		tags := tagsOf(x.Tags)
		key := tags[tagSnapshot] + "\n" + tags[tagRequest]
		s := byRequest[key]
		if s == nil {
			s = &set{name: tags[tagSnapshot], attachments: map[string]attachment{}, now: now}
			byRequest[key] = s
			sets = append(sets, s)
		}
		s.snapshots = append(s.snapshots, x)
		for k, v := range tags {
			if volume, ok := strings.CutPrefix(k, tagVolume); ok {
				if s.attachments[volume], err = parseAttachment(v); err != nil {
					return nil, fmt.Errorf("snapshot %s: %w", aws.ToString(x.SnapshotId), err)
				}
			}
		}
	}
	result := make([]set, len(sets))
	for i, s := range sets {
		result[i] = *s
	}
	slices.SortStableFunc(result, func(a, b set) int {
		if c := a.created().Compare(b.created()); c != 0 {
			return c
		}
		return strings.Compare(a.view(0).ID, b.view(0).ID)
	})
	return result, nil
}

// named returns the sets of a name. After a lost answer it asks until one is shown whole or no more will come.
func (p *Provider) named(ctx context.Context, vm hypervisor.VM, name string) ([]set, error) {
	for attempt := 1; ; attempt++ {
		sets, err := p.sets(ctx, vm, name)
		key := vm.ID + "\n" + name
		whole := err == nil && len(sets) > 0 && which(sets).complete()
		p.mu.Lock()
		if whole {
			delete(p.unsure, key)
		}
		since, lost := p.unsure[key]
		p.mu.Unlock()
		if err != nil || whole || !lost || time.Since(since) > p.cfg.Settle {
			return sets, err
		}
		if err := webclient.Pause(ctx, attempt, p.cfg.Poll); err != nil {
			return nil, err
		}
	}
}

// which of several sets of one name counts: the oldest that has all its volumes.
func which(sets []set) set {
	for _, s := range sets {
		if s.complete() {
			return s
		}
	}
	return sets[0]
}

// Find is hypervisor.Provider's.
func (p *Provider) Find(ctx context.Context, vm hypervisor.VM, name string) (hypervisor.Snapshot, bool, error) {
	sets, err := p.named(ctx, vm, name)
	if err != nil {
		return hypervisor.Snapshot{}, false, p.fail(vm, "look for snapshot "+name, err)
	}
	if len(sets) == 0 {
		if _, err := p.instance(ctx, vm); err != nil {
			return hypervisor.Snapshot{}, false, p.fail(vm, "look for snapshot "+name, err)
		}
		return hypervisor.Snapshot{}, false, nil
	}
	return which(sets).view(p.cfg.Settle), true, nil
}

// List is hypervisor.Provider's.
func (p *Provider) List(ctx context.Context, vm hypervisor.VM, prefix string) ([]hypervisor.Snapshot, error) {
	sets, err := p.sets(ctx, vm, "")
	if err != nil {
		return nil, p.fail(vm, "list snapshots", err)
	}
	byName := map[string][]set{}
	var names []string
	for _, s := range sets {
		if !strings.HasPrefix(s.name, prefix) {
			continue
		}
		if byName[s.name] == nil {
			names = append(names, s.name)
		}
		byName[s.name] = append(byName[s.name], s)
	}
	list := make([]hypervisor.Snapshot, 0, len(names))
	for _, n := range names {
		list = append(list, which(byName[n]).view(p.cfg.Settle))
	}
	slices.SortStableFunc(list, func(a, b hypervisor.Snapshot) int { return a.Created.Compare(b.Created) })
	return list, nil
}

// Delete is hypervisor.Provider's. With the snapshots go the volumes that a rollback to them made and never attached, and those that one took away, as long as a volume that a rollback made is in
// their place. It deletes no other: what was ever attached may have been written to. While a rollback to it is unfinished it refuses.
func (p *Provider) Delete(ctx context.Context, vm hypervisor.VM, name string) error {
	if err := p.delete(ctx, vm, name); err != nil {
		return p.failChange(vm, "delete snapshot "+name, err)
	}
	return nil
}

func (p *Provider) delete(ctx context.Context, vm hypervisor.VM, name string) error {
	sets, err := p.named(ctx, vm, name)
	if err != nil {
		return err
	}
	volumes := map[string]types.Volume{}
	for _, tag := range []string{tagReplaced, tagSnapshot} {
		some, err := p.volumes(ctx, filter("tag:"+tag, literal(name)), filter("tag:"+tagInstance, literal(vm.ID)))
		if err != nil {
			return err
		}
		maps.Copy(volumes, some)
	}
	inPlace, err := p.inPlace(ctx, vm)
	if err != nil {
		return err
	}
	if inPlace != nil {
		if err := unfinished(volumes, name, inPlace); err != nil {
			return err
		}
	}
	for _, s := range sets {
		for _, x := range s.snapshots {
			if err := p.deleteSnapshot(ctx, x); err != nil {
				return fmt.Errorf("%s: %w", aws.ToString(x.SnapshotId), err)
			}
		}
	}
	for id, v := range volumes {
		if !spare(v, name, inPlace) {
			continue
		}
		_, err := p.client.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: &id})
		if err != nil && code(err) != "InvalidVolume.NotFound" && code(err) != "VolumeInUse" {
			return fmt.Errorf("%s: %w", id, err)
		}
	}
	return nil
}

// inPlace are an instance's volumes by their devices; nil for an instance that is not there.
func (p *Provider) inPlace(ctx context.Context, vm hypervisor.VM) (map[string]types.Volume, error) {
	i, err := p.instance(ctx, vm)
	var gone *hypervisor.NotFoundError
	if errors.As(err, &gone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	volumes, err := p.attached(ctx, i)
	if err != nil {
		return nil, err
	}
	devices := map[string]types.Volume{}
	for _, m := range i.BlockDeviceMappings {
		if m.Ebs != nil {
			devices[aws.ToString(m.DeviceName)] = volumes[aws.ToString(m.Ebs.VolumeId)]
		}
	}
	return devices, nil
}

// unfinished says at which device a rollback to a snapshot has stopped, by the volumes that it made or took away: at one that is empty, or where what it had made is not while it is at others.
func unfinished(volumes map[string]types.Volume, name string, inPlace map[string]types.Volume) error {
	usedAt := func(tags map[string]string) time.Time {
		at, _ := time.Parse(time.RFC3339Nano, tags[tagUsed])
		return at
	}
	var last time.Time // of the rollbacks to it
	var ids []string   // those that were taken away come first: they are what was there
	for _, id := range slices.Sorted(maps.Keys(volumes)) {
		tags := tagsOf(volumes[id].Tags)
		if at := usedAt(tags); tags[tagSnapshot] == name && at.After(last) {
			last = at
		}
		if tags[tagReplaced] == name {
			ids = append(ids, id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(volumes)) {
		if tags := tagsOf(volumes[id].Tags); tags[tagReplaced] == "" && tags[tagUsed] == "" && (volumes[id].State == types.VolumeStateAvailable || volumes[id].State == types.VolumeStateCreating) {
			ids = append(ids, id)
		}
	}
	for _, id := range ids {
		tags := tagsOf(volumes[id].Tags)
		device := tags[tagDevice]
		there, occupied := inPlace[device]
		current := tagsOf(there.Tags)
		switch {
		case device == "":
		case !occupied:
			return fmt.Errorf("a rollback to it is unfinished at %s, where nothing is attached: roll back again, or attach volume %s there", device, id)
		case tags[tagReplaced] == "" && !last.IsZero() && (current[tagSnapshot] != name || !usedAt(current).Equal(last)):
			return fmt.Errorf("a rollback to it is unfinished at %s, where volume %s is still attached: roll back again, or delete volume %s to leave it so", device, aws.ToString(there.VolumeId), id)
		}
	}
	return nil
}

// spare tells whether a volume of a rollback to a snapshot goes with it. inPlace are the instance's volumes by their devices, nil for an instance that is not there.
func spare(v types.Volume, name string, inPlace map[string]types.Volume) bool {
	tags := tagsOf(v.Tags)
	switch {
	case len(v.Attachments) > 0 || v.State != types.VolumeStateAvailable && v.State != types.VolumeStateError:
		return false
	case tags[tagReplaced] == "":
		return tags[tagUsed] == "" && tags[tagDevice] != ""
	case tags[tagReplaced] != name:
		return false // it goes with the snapshot of the rollback that took it away
	}
	there := tagsOf(inPlace[tags[tagDevice]].Tags)
	return tags[tagDevice] != "" && there[tagSource] != "" && there[tagUsed] != "" && there[tagInstance] == tags[tagInstance]
}

// deleteSnapshot deletes one. "You can delete EBS snapshots while they're in progress. [...] The deleted snapshot progress will continue until it's 100% complete" (AWS re:Post Knowledge Center, on
// ConcurrentSnapshotLimitExceeded): what is shown until then counts as deleted.
func (p *Provider) deleteSnapshot(ctx context.Context, x types.Snapshot) error {
	_, err := p.client.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{SnapshotId: x.SnapshotId})
	if err != nil && code(err) != "InvalidSnapshot.NotFound" {
		return err
	}
	p.mu.Lock()
	p.deleted[aws.ToString(x.SnapshotId)] = true
	p.mu.Unlock()
	if err == nil && x.State == types.SnapshotStatePending {
		// So that others know; where it cannot be written the snapshot is shown to them until it is copied, and may be deleted again.
		_, _ = p.client.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{aws.ToString(x.SnapshotId)}, Tags: []types.Tag{{Key: aws.String(tagDeleted), Value: aws.String("true")}}})
	}
	return nil
}

// Power is hypervisor.Provider's.
func (p *Provider) Power(ctx context.Context, vm hypervisor.VM) (hypervisor.Power, error) {
	i, err := p.instance(ctx, vm)
	if err != nil {
		return hypervisor.Other, p.fail(vm, "ask for its power", err)
	}
	switch i.State.Name {
	case types.InstanceStateNameRunning:
		return hypervisor.On, nil
	case types.InstanceStateNameStopped:
		return hypervisor.Off, nil
	}
	return hypervisor.Other, nil
}

// Start is hypervisor.Provider's. An instance that is still stopping cannot be started: that is an error.
func (p *Provider) Start(ctx context.Context, vm hypervisor.VM) error {
	_, err := p.client.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: []string{vm.ID}})
	return p.switched(vm, "start it", err)
}

// Stop is hypervisor.Provider's. EC2 takes the power of a guest away that does not shut down within some minutes; hard is StopInstances with Force.
func (p *Provider) Stop(ctx context.Context, vm hypervisor.VM, hard bool) error {
	_, err := p.client.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{vm.ID}, Force: &hard})
	return p.switched(vm, "stop it", err)
}

func (p *Provider) switched(vm hypervisor.VM, what string, err error) error {
	if strings.HasPrefix(code(err), "InvalidInstanceID") {
		return &hypervisor.NotFoundError{Node: vm.Node, What: "instance " + vm.ID}
	}
	if err != nil {
		return p.failChange(vm, what, err)
	}
	return nil
}
