package activities

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/remote"
)

// NodeFile is a file on a node as the source of an upload: ranges of it are read, and hashed, where it lies.
type NodeFile struct {
	runner remote.Runner
	host   remote.Host
	path   string
	ranges rangeServer
}

var _ archive.Source = (*NodeFile)(nil)

// NewNodeFile returns the file at an absolute path on a node. Close it.
func NewNodeFile(runner remote.Runner, host remote.Host, path string) *NodeFile {
	return &NodeFile{runner: runner, host: host, path: path, ranges: rangeServer{runner: runner, host: host, path: path, script: serveScript}}
}

const (
	// rangesAtOnce are hashed by one command.
	rangesAtOnce = 64
	// sumWithin bounds hashing, by its bytes: no disk is slower.
	sumRate  = 4 << 20 // bytes a second
	statWait = time.Minute
)

var (
	sumsScript = script("range_sum", "range_sums")
	sendScript = remote.VaultsScript() + script("curl_order", "range_send")
)

// Stat returns size and time of the last change, by the node's clock.
func (f *NodeFile) Stat(ctx context.Context) (archive.Stat, error) {
	result, err := within(ctx, statWait, f.runner, f.host, remote.Command{Argv: []string{"stat", "-c", "%s %Y", f.path}})
	if err != nil {
		return archive.Stat{}, sourceError(err)
	}
	size, changed, _ := strings.Cut(strings.TrimSpace(string(result.Stdout)), " ")
	bytes, err := strconv.ParseInt(size, 10, 64)
	seconds, timeErr := strconv.ParseInt(changed, 10, 64)
	if err != nil || timeErr != nil {
		return archive.Stat{}, fmt.Errorf("%s: size and time of %s cannot be read", remote.Escape(f.host.Name), remote.Escape(f.path))
	}
	return archive.Stat{Size: bytes, Modified: time.Unix(seconds, 0)}, nil
}

// sourceError is an error of a node as package archive takes it: what is not mended by waiting, such as another host key, ends an upload at once.
func sourceError(err error) error {
	var node *remote.Error
	if !errors.As(err, &node) || node.Kind == remote.KindTransport {
		return err
	}
	return &archive.Error{Kind: archive.KindSource, Message: node.Error(), Err: node}
}

// within runs a command for so long at most; then the node counts as one that is not reached.
func within(ctx context.Context, limit time.Duration, r remote.Runner, h remote.Host, c remote.Command) (remote.Result, error) {
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	result, err := r.Run(bounded, h, c)
	if err != nil && ctx.Err() == nil && bounded.Err() != nil {
		err = &remote.Error{Kind: remote.KindTransport, Node: h.Name, Message: "no answer within " + limit.String() + ", the disk may hang: see to it, or try again"}
	}
	return result, err
}

// ReadRange streams a range. Closing the reader before its end ends the command on the node.
func (f *NodeFile) ReadRange(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
	r, err := f.ranges.open(ctx, offset, length)
	if err != nil {
		return nil, sourceError(err)
	}
	return r, nil
}

// Close ends what still waits on the node.
func (f *NodeFile) Close() { f.ranges.close() }

// Sums hashes ranges on the node.
func (f *NodeFile) Sums(ctx context.Context, ranges []archive.Range) ([]archive.Sum, error) {
	var out []archive.Sum
	for some := range slices.Chunk(ranges, rangesAtOnce) {
		args := []string{f.path}
		var bytes int64
		for _, r := range some {
			args = append(args, strconv.FormatInt(r.Offset, 10), strconv.FormatInt(r.Length, 10))
			bytes += r.Length
		}
		limit := askWithin + time.Duration(bytes/sumRate)*time.Second
		answer, err := askFor(ctx, limit, runnerOnly{f.runner}, f.host, sumsScript, args...)
		if err != nil {
			return nil, sourceError(err)
		}
		told := answer.values["sum"]
		if len(told) != len(some) {
			return nil, fmt.Errorf("%s: %d of %d ranges of %s were hashed", remote.Escape(f.host.Name), len(told), len(some), remote.Escape(f.path))
		}
		for _, text := range told {
			var sum archive.Sum
			if n, err := hex.Decode(sum[:], []byte(text)); err != nil || n != len(sum) {
				return nil, fmt.Errorf("%s: %q is no SHA-256", remote.Escape(f.host.Name), oneLine(text, 80))
			}
			out = append(out, sum)
		}
	}
	return out, nil
}

// runnerOnly is a Runner that keeps no connections.
type runnerOnly struct{ remote.Runner }

func (runnerOnly) Forget(remote.Host) {}

// DirectSender lets a node upload a file to presigned URLs by itself, with its own curl.
type DirectSender struct {
	File *NodeFile
	// CA are the certificates, PEM, that the node verifies the endpoint against instead of its own.
	CA []byte
	// Parallel parts at once (default 3).
	Parallel int
	// Expiry of the URLs (default 15 minutes); a part must be sent within it.
	Expiry time.Duration
	// Secrets is how the names of the folders begin that URLs are kept in, in memory on the node, while they are used (default katoflow-part). A connection that is
	// cut leaves one behind, until Expiry makes it worthless.
	Secrets string
}

// partsAhead is how many presigned URLs a node has at once.
const partsAhead = 3

// partSecrets is DirectSender.Secrets of an operation.
func partSecrets(op Operation) string { return "katoflow-part-" + remote.EncodeID(op.ID) }

// directFailure is why a node did not send or fetch a part by itself.
type directFailure struct {
	text string
	// status of S3's answer, 0 when there was none.
	status int
	// passing: the same may go well later. final: it will not within moments. elsewhere: the worker may be able to do what the node is not.
	passing, final, elsewhere bool
}

func (e directFailure) Error() string { return e.text }

// Send uploads the parts that are missing, a few at a time, and returns when S3 has recorded all of them with the checksums of the file. A part that failed is tried again a few
// times; then the error says why. It can be repeated.
func (d DirectSender) Send(ctx context.Context, t *archive.Transfer, record func(archive.Progress)) error {
	parallel, expiry := d.Parallel, d.Expiry
	if parallel <= 0 {
		parallel = partsAhead
	}
	if expiry <= 0 {
		expiry = 15 * time.Minute
	}
	// What an earlier process has sent counts as soon as it was compared with the file.
	progress, err := t.Refresh(ctx)
	if err != nil {
		return err
	}
	record(progress)
	const tries = 4
	for failed := 0; ; {
		missing := t.Missing()
		if len(missing) == 0 {
			return nil
		}
		before := len(missing)
		parts, errs, err := d.round(ctx, t, missing, parallel, expiry)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		var changed *archive.Error
		if errors.As(errors.Join(errs...), &changed) && changed.Kind == archive.KindSourceChanged {
			return changed
		}
		progress, err := t.Refresh(ctx)
		if err != nil {
			return err
		}
		record(progress)
		if len(t.Missing()) < before {
			failed = 0
			continue
		}
		// What S3 has recorded counts, whatever the node says.
		var node *remote.Error
		if failed++; failed < tries && !errors.As(errors.Join(errs...), &node) {
			if err := sleep(ctx, time.Duration(failed)*time.Second); err != nil {
				return err
			}
			continue
		}
		return d.why(ctx, parts, errs, progress)
	}
}

// tellEvery is how long parts are sent before S3 is asked which of them it has.
const tellEvery = 5 * time.Second

// round sends missing parts for a while, some at once, and prepares the next ones meanwhile: their sums on the node and their URLs. It stops at the first failure, and returns
// what was sent with the error of each.
func (d DirectSender) round(ctx context.Context, t *archive.Transfer, missing []int, parallel int, expiry time.Duration) (parts []archive.PresignedPart, errs []error, err error) {
	var mu sync.Mutex
	stopped := false
	stop := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return stopped
	}
	began := time.Now()
	ready := make(chan archive.PresignedPart)
	var sending sync.WaitGroup
	for range parallel {
		sending.Go(func() {
			for p := range ready {
				err := d.part(ctx, p, expiry)
				mu.Lock()
				parts, errs = append(parts, p), append(errs, err)
				stopped = stopped || err != nil
				mu.Unlock()
			}
		})
	}
	for numbers := range slices.Chunk(missing, parallel) {
		if time.Since(began) > tellEvery || stop() || ctx.Err() != nil {
			break
		}
		var presigned []archive.PresignedPart
		if presigned, err = t.PresignParts(ctx, numbers, expiry); err != nil {
			break
		}
		for _, p := range presigned {
			ready <- p
		}
	}
	close(ready)
	sending.Wait()
	return parts, errs, err
}

// why is the reason that no part got through.
func (d DirectSender) why(ctx context.Context, parts []archive.PresignedPart, errs []error, progress archive.Progress) error {
	for i, err := range errs {
		var failure directFailure
		if !errors.As(err, &failure) {
			if err != nil {
				return err
			}
			continue
		}
		// S3 and curl tell in many ways that a range has other bytes than when it was summed.
		sums, err := d.File.Sums(ctx, []archive.Range{parts[i].Range})
		if err != nil {
			return err
		}
		if sums[0].String() != parts[i].SHA256 {
			return &archive.Error{Kind: archive.KindSourceChanged, Message: fmt.Sprintf("%s: the archive has other bytes in part %d than when it was summed: something writes to it",
				remote.Escape(d.File.host.Name), parts[i].Number)}
		}
		// What went well before may do so again.
		failure.passing = failure.passing || failure.elsewhere && progress.Bytes() > 0
		return failure
	}
	return directFailure{text: remote.Escape(d.File.host.Name) + " has sent parts and S3 has not recorded them", passing: true, elsewhere: true}
}

// part uploads one part.
func (d DirectSender) part(ctx context.Context, p archive.PresignedPart, expiry time.Duration) error {
	// curl does not know how long its standard input is: without these it would send chunks, which S3 does not take, and wait for a word of the server first.
	order := curlOrder(p.URL, p.Headers, expiry, d.CA, "Content-Length: "+strconv.FormatInt(p.Length, 10), "Transfer-Encoding:", "Expect:")
	node := remote.Escape(d.File.host.Name)
	result, err := within(ctx, expiry+time.Minute, d.File.runner, d.File.host, remote.Command{Script: sendScript, Stdin: order, AnyExit: true,
		Args: []string{"", secretsOr(d.Secrets), d.File.path, strconv.FormatInt(p.Offset, 10), strconv.FormatInt(p.Length, 10)}})
	if err != nil {
		return err
	}
	answer := parseAnswer(result.Stdout)
	if !answer.complete {
		return directFailure{text: fmt.Sprintf("%s: part %d was not sent: the node gave no answer (exit %d)", node, p.Number, result.ExitCode), passing: result.ExitCode > 128, elsewhere: true}
	}
	if answer.value("short") != "" {
		return &archive.Error{Kind: archive.KindSourceChanged, Message: fmt.Sprintf("%s: the archive ends before part %d does, and did not when the transfer began: something writes to it", node, p.Number)}
	}
	return curlFailure(node, "send", p.Number, answer, func(status int) bool { return status/100 == 2 })
}

// secretsOr is how the names of the folders begin that URLs are kept in.
func secretsOr(name string) string {
	if name == "" {
		return "katoflow-part"
	}
	return name
}

// curlOrder is the standard input of curl_order.sh: one request, ended after expiry, and before when nothing moves.
func curlOrder(url archive.SecretURL, headers http.Header, expiry time.Duration, ca []byte, more ...string) *bytes.Buffer {
	var order bytes.Buffer
	option := func(name, value string) { fmt.Fprintf(&order, "%s = \"%s\"\n", name, curlQuoted(value)) }
	option("url", url.Reveal())
	for _, name := range sortedHeaders(headers) {
		for _, value := range headers[name] {
			option("header", name+": "+value)
		}
	}
	for _, header := range more {
		option("header", header)
	}
	order.WriteString("silent\nshow-error\nconnect-timeout = 20\nspeed-limit = 1\nspeed-time = 60\n") // a slow connection is left alone, a silent one is not
	fmt.Fprintf(&order, "max-time = %d\n", max(int(expiry/time.Second), 1))
	order.WriteString("-- certificates\n")
	order.Write(ca)
	return &order
}

// curlFailure is why a node's curl did not send or fetch a part, nil when it did.
func curlFailure(node, verb string, number int, a answer, good func(status int) bool) error {
	status, _ := strconv.Atoi(a.value("code"))
	said := oneLine(a.value("why"), 60)
	const httpError = 22 // of --fail
	switch exit := a.exit("exit"); {
	case exit == 0 && good(status):
		return nil
	case status/100 == 2 && !good(status):
		return directFailure{text: fmt.Sprintf("%s: part %d was asked for, and something else came: HTTP %d", node, number, status), status: status, final: true, elsewhere: true}
	case exit == 0 || exit == httpError:
		passing := status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout
		// What is not S3's own word may be that of a proxy which only the node has in its way.
		return directFailure{text: strings.TrimSpace(fmt.Sprintf("%s: S3 refused part %d: HTTP %d %s", node, number, status, said)), status: status,
			passing: passing, final: !passing, elsewhere: said == ""}
	case exit == 127 || exit == 126:
		return directFailure{text: node + " has no curl: use --transfer worker, or install it", final: true, elsewhere: true}
	case exit == 1 || exit == 2 || exit == 5 || exit == 6 || exit == 7 || exit == 35 || exit == 60 || exit == 77:
		return directFailure{text: fmt.Sprintf("%s cannot reach the S3 service (curl %d): use --transfer worker, or see to its network and certificates", node, exit), elsewhere: true}
	default: // cut off, or too slow
		return directFailure{text: fmt.Sprintf("%s: curl could not %s part %d (exit %d)", node, verb, number, exit), passing: true, elsewhere: true}
	}
}

// curlQuoted is a value for a quoted option in curl's configuration file.
func curlQuoted(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(s)
}

func sortedHeaders(h http.Header) []string {
	var names []string
	for name := range h {
		if name != "Content-Length" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
