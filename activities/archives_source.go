package activities

import (
	"bytes"
	"context"
	"encoding/hex"
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
	return &NodeFile{runner: runner, host: host, path: path, ranges: rangeServer{runner: runner, host: host, path: path}}
}

const (
	// rangesAtOnce are hashed by one command.
	rangesAtOnce = 64
	// sumWithin bounds hashing, by its bytes: no disk is slower.
	sumRate  = 4 << 20 // bytes a second
	statWait = time.Minute
)

var (
	sumsScript = script("range_sums")
	sendScript = remote.VaultsScript() + script("range_send")
)

// Stat returns size and time of the last change, by the node's clock.
func (f *NodeFile) Stat(ctx context.Context) (archive.Stat, error) {
	ctx, cancel := context.WithTimeout(ctx, statWait)
	defer cancel()
	result, err := f.runner.Run(ctx, f.host, remote.Command{Argv: []string{"stat", "-c", "%s %Y", f.path}})
	if err != nil {
		return archive.Stat{}, err
	}
	size, changed, _ := strings.Cut(strings.TrimSpace(string(result.Stdout)), " ")
	bytes, err := strconv.ParseInt(size, 10, 64)
	seconds, timeErr := strconv.ParseInt(changed, 10, 64)
	if err != nil || timeErr != nil {
		return archive.Stat{}, fmt.Errorf("%s: size and time of %s cannot be read", remote.Escape(f.host.Name), remote.Escape(f.path))
	}
	return archive.Stat{Size: bytes, Modified: time.Unix(seconds, 0)}, nil
}

// ReadRange streams a range. Closing the reader before its end ends the command on the node.
func (f *NodeFile) ReadRange(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
	return f.ranges.open(ctx, offset, length)
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
			return nil, err
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
}

// partsAhead is how many presigned URLs a node has at once.
const partsAhead = 3

// errUnreachable says that the node cannot reach the S3 service.
type errUnreachable struct{ text string }

func (e errUnreachable) Error() string { return e.text }

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
	const tries = 4
	for failed := 0; ; {
		missing := t.Missing()
		if len(missing) == 0 {
			return nil
		}
		before := len(missing)
		parts, err := t.PresignParts(ctx, missing[:min(len(missing), parallel)], expiry)
		if err != nil {
			return err
		}
		errs := make([]error, len(parts))
		var sending sync.WaitGroup
		for i, p := range parts {
			sending.Go(func() { errs[i] = d.part(ctx, p, expiry) })
		}
		sending.Wait()
		if ctx.Err() != nil {
			return ctx.Err()
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
		if failed++; failed == tries {
			for _, err := range errs {
				if err != nil {
					return err
				}
			}
			return fmt.Errorf("%s has sent parts and S3 has not recorded them", remote.Escape(d.File.host.Name))
		}
		if err := sleep(ctx, time.Duration(failed)*time.Second); err != nil {
			return err
		}
	}
}

// part uploads one part.
func (d DirectSender) part(ctx context.Context, p archive.PresignedPart, expiry time.Duration) error {
	var config bytes.Buffer
	option := func(name, value string) { fmt.Fprintf(&config, "%s = \"%s\"\n", name, curlQuoted(value)) }
	option("url", p.URL.Reveal())
	for _, name := range sortedHeaders(p.Headers) {
		for _, value := range p.Headers[name] {
			option("header", name+": "+value)
		}
	}
	// curl does not know how long its standard input is: without these it would send chunks, which S3 does not take, and wait for a word of the server first.
	option("header", "Content-Length: "+strconv.FormatInt(p.Length, 10))
	option("header", "Transfer-Encoding:")
	option("header", "Expect:")
	config.WriteString("silent\nshow-error\nconnect-timeout = 20\n")
	fmt.Fprintf(&config, "max-time = %d\n", int(expiry/time.Second))
	config.WriteString("-- certificates\n")
	config.Write(d.CA)

	ctx, cancel := context.WithTimeout(ctx, expiry+time.Minute)
	defer cancel()
	node := remote.Escape(d.File.host.Name)
	result, err := d.File.runner.Run(ctx, d.File.host, remote.Command{Script: sendScript, Stdin: &config, AnyExit: true,
		Args: []string{"", d.File.path, strconv.FormatInt(p.Offset, 10), strconv.FormatInt(p.Length, 10)}})
	if err != nil {
		return err
	}
	answer := parseAnswer(result.Stdout)
	if !answer.complete {
		return fmt.Errorf("%s: part %d was not sent: the node gave no answer (exit %d)", node, p.Number, result.ExitCode)
	}
	switch code, exit := answer.value("code"), answer.exit("exit"); {
	case exit == 0 && strings.HasPrefix(code, "2"):
		return nil
	case exit == 6 || exit == 7 || exit == 28 || exit == 35 || exit == 60 || exit == 77:
		return errUnreachable{fmt.Sprintf("%s cannot reach the S3 service (curl %d): use --transfer worker, or see to its network and certificates", node, exit)}
	case exit == 0:
		return fmt.Errorf("%s: S3 refused part %d: HTTP %s %s", node, p.Number, oneLine(code, 10), oneLine(answer.value("why"), 60))
	default:
		return fmt.Errorf("%s: curl could not send part %d (exit %d)", node, p.Number, exit)
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
