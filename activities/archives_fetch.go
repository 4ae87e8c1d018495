package activities

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"filippo.io/age"
	"go.uber.org/zap"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// FetchInput asks for an archive to be brought to the node.
type FetchInput struct {
	ExportInput
	// Archive of a cluster of the worker's inventory, whose s3 section has the bucket.
	Archive archive.Ref            `json:"archive"`
	Mode    operation.TransferMode `json:"mode,omitempty"`
}

// FetchResult is the file that is on the node.
type FetchResult struct {
	// Size in bytes and SHA256, in hexadecimal, of the whole as the manifest has them. Every part was compared with what the manifest has of it: on the node where the node fetched it or
	// had it from an earlier attempt, on its way through the worker otherwise. CheckArchive proves the whole on the node.
	Size   int64                  `json:"size"`
	SHA256 string                 `json:"sha256"`
	Mode   operation.TransferMode `json:"mode"`
	// Kept is how many bytes were there from an earlier attempt.
	Kept  int64    `json:"kept,omitempty"`
	Notes []string `json:"notes,omitempty"`
}

// Fetch brings an archive from its bucket into the file of the try on the node, in the folder that PrepareExport made. The parts of the manifest are the unit: each is written into its
// place and counts when it is what the manifest says: what the node fetches is hashed there, what the worker sends is hashed on its way, and SSH keeps it as it is. What an earlier attempt
// has fetched is hashed on the node and kept, so that whatever worker goes on, at most the parts in flight are moved again. Whether the disk has kept it all is CheckArchive's to say, which
// reads the whole. An encrypted archive is decrypted on its way through the worker, which then is the only way. By Mode the worker reads from S3 and writes over SSH, or the node fetches presigned URLs, which go to it over standard input; with auto the latter falls back
// to the former where the node cannot reach S3. Repeating it is harmless, also after its end.
//
// Errors: Archive when there is no such archive, it is not complete, not what its manifest says, or encrypted to others than the inventory's identity; S3 when the bucket cannot be used; DiskFull when the node has no space for
// it, with the file system; Verify when a part comes again and again as something else than S3 has; Unreachable when the node is not reached for UnreachableAfter; what package remote tells.
func (x *Archives) Fetch(ctx context.Context, in FetchInput) (FetchResult, error) {
	a := begin(ctx, "fetching the archive")
	defer a.finish()
	_, t, err := x.where(in.ExportInput)
	if err != nil {
		return FetchResult{}, err
	}
	if !path.IsAbs(in.Place) {
		return FetchResult{}, fail(operation.ErrInternal, t.host.Name, "there is no folder for the archive: it is made before the archive is fetched")
	}
	from, err := x.Source.site(in.Archive.Cluster)
	if err != nil {
		return FetchResult{}, err
	}
	store, err := from.store(x.Logger)
	if err != nil {
		return FetchResult{}, err
	}
	defer store.Close()
	cfg, err := archive.ConfigOf(from.file, from.cluster.S3, from.env)
	if err != nil {
		return FetchResult{}, operation.NewError(operation.Failure{Type: operation.ErrS3, Message: oneLine(err.Error(), maxMessage)})
	}
	file := NewNodeFile(x.Connections, t.host, in.staged())
	defer file.Close()
	f := Fetcher{Store: store, File: file, CA: cfg.CA, Identities: func() ([]age.Identity, error) { return archive.IdentitiesOf(from.file, from.cluster.S3, from.env) }, Secrets: partSecrets(in.Operation), Record: a.fetched,
		way: way{mode: in.Mode, log: logOf(x.Logger, in.Operation, in.Node.Name, operation.StepTransfer)}}
	defer f.close()
	err = a.againstFaults(t, in.UnreachableAfter.D(), func(ctx context.Context) error {
		err := f.fetch(ctx, in.Archive)
		if gone(err) {
			// Somebody may have removed it: the bucket says so better than the answer to a range.
			if _, now := store.Manifest(ctx, in.Archive); now != nil {
				err = now
			}
		}
		if archive.IsKind(err, archive.KindNotFound) {
			return fail(operation.ErrArchive, t.host.Name, "%v", err)
		}
		return err
	})
	if err != nil {
		return FetchResult{}, err
	}
	return FetchResult{Size: f.manifest.Size, SHA256: f.manifest.SHA256, Mode: f.used, Kept: f.kept, Notes: notes(f.note)}, nil
}

// gone reports whether an answer of S3 may mean that the object is not there any more, or another one.
func gone(err error) bool {
	var direct directFailure
	if errors.As(err, &direct) {
		return direct.status == http.StatusNotFound || direct.status == http.StatusPreconditionFailed || direct.status == http.StatusRequestedRangeNotSatisfiable
	}
	kind := archive.KindOf(err)
	return kind == archive.KindNotFound || kind == archive.KindConflict
}

// Fetcher brings an archive into a file on a node. The file's folder must be there.
type Fetcher struct {
	Store *archive.Store
	File  *NodeFile
	// CA are the certificates, PEM, that the node verifies the endpoint against instead of its own.
	CA []byte
	// Identities are asked for what opens an archive, if it is encrypted; nil for none.
	Identities func() ([]age.Identity, error)
	// Secrets is how the names of the folders begin that URLs are kept in, in memory on the node: see DirectSender.
	Secrets string
	// Record is told how far it is; nil for nobody.
	Record func(archive.Progress)

	way
	manifest archive.Manifest
	opens    []age.Identity // of an encrypted archive
	boot     string         // of the node when the file was last looked at
	compared bool           // what was there before
	writers  *rangeServer
	kept     int64

	telling sync.Mutex // keeps what is recorded in order
	mu      sync.Mutex
	done    []bool // by part
}

const (
	// fetchedDirect and fetchedByWorker are how many parts are on their way at once.
	fetchedDirect   = 3
	fetchedByWorker = 4
	// fetchExpiry of a presigned URL; a part must have come within it.
	fetchExpiry = 15 * time.Minute
	// partTries is how often a part is fetched that does not arrive as what the manifest says.
	partTries = 3
	// comparedAtOnce parts that are there are hashed by one command.
	comparedAtOnce = 8
	// takeWithin is how long a node may take no byte of a part.
	takeWithin = 2 * time.Minute
	fetchPiece = 256 << 10
)

var (
	fileScript  = script("range_file")
	fetchScript = remote.VaultsScript() + script("curl_order", "range_place", "range_sum", "range_fetch")
	writeScript = script("range_place", "range_write")
)

// Fetch brings the archive there by the way that is named; it can be repeated, and goes on then.
func (f *Fetcher) Fetch(ctx context.Context, ref archive.Ref, mode operation.TransferMode) error {
	f.way = way{mode: mode, log: zap.NewNop()}
	defer f.close()
	return f.fetch(ctx, ref)
}

// close ends the sessions that ranges were written over.
func (f *Fetcher) close() {
	if f.writers != nil {
		f.writers.close()
		f.writers = nil
	}
}

func (f *Fetcher) fetch(ctx context.Context, ref archive.Ref) error {
	if f.done == nil {
		m, err := f.Store.Manifest(ctx, ref)
		if err != nil {
			return err
		}
		if m.Encrypted() {
			if f.Identities != nil {
				if f.opens, err = f.Identities(); err != nil {
					return err
				}
			}
			if problem := sealed(f.opens, f.mode); problem != "" {
				return &archive.Error{Kind: archive.KindDecrypt, Message: fmt.Sprintf("archive %s %s", ref, problem)}
			}
			f.mode = operation.TransferWorker
		}
		f.manifest = m
	}
	if f.writers == nil {
		f.writers = &rangeServer{runner: f.File.runner, host: f.File.host, path: f.File.path, script: writeScript}
	}
	if err := f.look(ctx); err != nil {
		return err
	}
	err := f.move(
		func() error { return f.parts(ctx, fetchedDirect, f.byNode) },
		func() error { return f.parts(ctx, fetchedByWorker, f.byWorker) })
	if err != nil {
		return err
	}
	// Whatever happened to the file meanwhile is seen here.
	if err := f.look(ctx); err != nil {
		return err
	}
	if n := len(f.missing()); n > 0 {
		return &remote.Error{Kind: remote.KindTransport, Node: f.File.host.Name, Message: fmt.Sprintf("%d parts of the archive are there no more, as after a reboot: fetching them again", n)}
	}
	return nil
}

// sealed says why an encrypted archive cannot be fetched this way, "" when it can.
func sealed(identities []age.Identity, mode operation.TransferMode) string {
	switch {
	case len(identities) == 0:
		return "is encrypted, and the worker has no key to it: write s3.identity into the inventory of the cluster that it was made of, by reference, or decrypt it with katoflow backup download --identity"
	case mode == operation.TransferDirect:
		return "is encrypted, and no node gets a secret key: use --transfer worker, or auto"
	}
	return ""
}

// look makes the file where it is not there, and compares the parts that may be in it with the manifest. What this process has compared before counts, unless the node has rebooted
// since or the file is shorter.
func (f *Fetcher) look(ctx context.Context) error {
	answer, err := askFor(ctx, askWithin, runnerOnly{f.File.runner}, f.File.host, fileScript, f.File.path, strconv.FormatInt(f.manifest.Size, 10))
	if remote.IsKind(err, remote.KindExit) {
		return f.noFile(err)
	}
	if err != nil {
		return err
	}
	size, err := strconv.ParseInt(answer.value("size"), 10, 64)
	if err != nil {
		return fmt.Errorf("%s: the size of %s cannot be read", remote.Escape(f.File.host.Name), remote.Escape(f.File.path))
	}
	boot := answer.value("boot")
	f.mu.Lock()
	if f.done == nil || boot != f.boot {
		f.done, f.boot = make([]bool, len(f.manifest.Parts)), boot
	}
	var there []int
	for i, p := range f.manifest.Parts {
		fits := p.Offset+p.Size <= size
		f.done[i] = f.done[i] && fits
		if fits && !f.done[i] {
			there = append(there, p.Number)
		}
	}
	f.mu.Unlock()
	f.record()
	for some := range slices.Chunk(there, comparedAtOnce) {
		var ranges []archive.Range
		for _, number := range some {
			ranges = append(ranges, f.rangeOf(number))
		}
		sums, err := f.File.Sums(ctx, ranges)
		if err != nil {
			return err
		}
		for i, number := range some {
			if sums[i].String() == f.manifest.Parts[number-1].SHA256 {
				f.finish(number)
			}
		}
	}
	if !f.compared {
		f.compared, f.kept = true, f.progress().Bytes()
	}
	return nil
}

// noFile says why the file cannot be made.
func (f *Fetcher) noFile(err error) error {
	var node *remote.Error
	if !errors.As(err, &node) {
		return err
	}
	name := f.File.host.Name
	switch {
	case node.ExitCode == 4:
		return fail(operation.ErrRemoteExit, name, "the folder %s for the archive is gone: retry makes it again", remote.Escape(path.Dir(f.File.path)))
	case isFull(node.Tail):
		return fail(operation.ErrDiskFull, name, "the archive cannot be written to %s: its file system is full, or out of inodes", remote.Escape(path.Dir(f.File.path)))
	}
	return err
}

func isFull(text string) bool {
	return strings.Contains(text, "No space left on device") || strings.Contains(text, "quota exceeded")
}

func (f *Fetcher) rangeOf(number int) archive.Range {
	p := f.manifest.Parts[number-1]
	return archive.Range{Offset: p.Offset, Length: p.Size}
}

func (f *Fetcher) missing() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []int
	for i, done := range f.done {
		if !done {
			out = append(out, i+1)
		}
	}
	return out
}

func (f *Fetcher) progress() archive.Progress {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.manifest.Progress(func(number int) bool { return f.done[number-1] })
}

func (f *Fetcher) finish(number int) {
	f.mu.Lock()
	f.done[number-1] = true
	f.mu.Unlock()
	f.record()
}

func (f *Fetcher) record() {
	f.telling.Lock()
	defer f.telling.Unlock()
	if f.Record != nil {
		f.Record(f.progress())
	}
}

// parts fetches what is missing, some at once. What the node itself could not fetch is tried again a few times; then the error says why.
func (f *Fetcher) parts(ctx context.Context, atOnce int, move func(context.Context, archive.Part) (string, error)) error {
	const tries = 4
	got := false
	for failed := 0; ; {
		missing := f.missing()
		if len(missing) == 0 {
			return nil
		}
		err := f.round(ctx, missing, atOnce, move)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if len(f.missing()) < len(missing) {
			got, failed = true, 0
		}
		var failure directFailure
		switch {
		case err == nil:
			continue
		case !errors.As(err, &failure) || gone(err) || failure.final && !got:
			return err
		}
		if failed++; failed < tries {
			if err := sleep(ctx, time.Duration(failed)*time.Second); err != nil {
				return err
			}
			continue
		}
		// What went well before may do so again.
		failure.passing = failure.passing || failure.elsewhere && got
		return failure
	}
}

// round fetches parts until one fails; those on their way are waited for. The error is the one that says most.
func (f *Fetcher) round(ctx context.Context, numbers []int, atOnce int, move func(context.Context, archive.Part) (string, error)) error {
	var mu sync.Mutex
	var errs []error
	failed := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(errs) > 0
	}
	next := make(chan int)
	var fetching sync.WaitGroup
	for range min(atOnce, len(numbers)) {
		fetching.Go(func() {
			for number := range next {
				if err := f.part(ctx, number, move); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	for _, number := range numbers {
		if failed() || ctx.Err() != nil {
			break
		}
		next <- number
	}
	close(next)
	fetching.Wait()
	for _, err := range errs {
		var failure directFailure
		if !passes(err) && !errors.As(err, &failure) {
			return err
		}
	}
	if len(errs) > 0 {
		return errs[0]
	}
	return nil
}

// part fetches one part until it is what the manifest says. move returns the SHA-256 of what came.
func (f *Fetcher) part(ctx context.Context, number int, move func(context.Context, archive.Part) (string, error)) error {
	p := f.manifest.Parts[number-1]
	for try := 1; ; try++ {
		sum, err := move(ctx, p)
		if err != nil {
			return err
		}
		if sum == p.SHA256 {
			f.finish(number)
			return nil
		}
		f.log.Info("a part arrived as something else than the manifest says", zap.Int("part", number), zap.Int("try", try))
		if try < partTries {
			continue
		}
		if err := f.Store.CheckPart(ctx, f.manifest, number); err != nil {
			return err
		}
		if f.used == operation.TransferDirect {
			return directFailure{text: fmt.Sprintf("%s: part %d arrived %d times as something else than S3 has: something changes it on its way, or the disk fails", remote.Escape(f.File.host.Name),
				number, try), final: true, elsewhere: true}
		}
		return fail(operation.ErrVerify, f.File.host.Name, "part %d of the archive came %d times as something else than S3 has: something changes it on its way to the worker", number, try)
	}
}

// byNode has the node fetch a part.
func (f *Fetcher) byNode(ctx context.Context, p archive.Part) (string, error) {
	get, err := f.Store.PresignPart(ctx, f.manifest, p.Number, fetchExpiry)
	if err != nil {
		return "", err
	}
	host := f.File.host
	result, err := within(ctx, fetchExpiry+time.Minute, f.File.runner, host, remote.Command{Script: fetchScript, Stdin: curlOrder(get.URL, get.Headers, fetchExpiry, f.CA), AnyExit: true,
		Args: []string{"", secretsOr(f.Secrets), f.File.path, strconv.FormatInt(p.Offset, 10), strconv.FormatInt(p.Size, 10)}})
	if err != nil {
		return "", err
	}
	answer := parseAnswer(result.Stdout)
	if !answer.complete {
		return "", directFailure{text: fmt.Sprintf("%s: part %d was not fetched: the node gave no answer (exit %d)", remote.Escape(host.Name), p.Number, result.ExitCode),
			passing: result.ExitCode > 128, elsewhere: true}
	}
	if err := f.written(answer); err != nil {
		return "", err
	}
	return answer.value("sum"), curlFailure(remote.Escape(host.Name), "fetch", p.Number, answer, func(status int) bool {
		return status == http.StatusPartialContent || status == http.StatusOK && p.Size == f.manifest.Size
	})
}

// written is why the node did not write a part into its place, nil when it did.
func (f *Fetcher) written(a answer) error {
	if len(a.values["disk"]) == 0 {
		return nil
	}
	name, why := f.File.host.Name, oneLine(a.value("disk"), 200)
	if !isFull(why) {
		if why == "" {
			return &remote.Error{Kind: remote.KindTransport, Node: name, Message: "the writing of the archive was ended on the node"}
		}
		return fail(operation.ErrRemoteExit, name, "the archive cannot be written: %s", why)
	}
	where := remote.Escape(path.Dir(f.File.path))
	if spaces := parseSpace(a.sections["space"]); len(spaces) > 0 {
		where = fmt.Sprintf("%s (%d KiB free)", remote.Escape(spaces[0].mount), spaces[0].free)
	}
	if strings.Contains(why, "quota") {
		where += ", by the login user's quota"
	}
	return fail(operation.ErrDiskFull, name, "no space for the archive in %s: %s of it are missing: free some, then retry", where, operation.Size(f.manifest.Size-f.progress().Bytes()))
}

// byWorker reads a part from S3 and writes it over SSH. The sum is of what was sent: reading it back on the node took a tenth of a download, for what CheckArchive proves anyway.
func (f *Fetcher) byWorker(ctx context.Context, p archive.Part) (string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	body, err := f.Store.OpenPlainPart(ctx, f.manifest, p.Number, f.opens)
	if err != nil {
		return "", err
	}
	defer func() { _ = body.Close() }()
	name := f.File.host.Name
	// S3 may be slow and is watched by the store; the node may be, and is watched here.
	timer := time.AfterFunc(takeWithin, func() {
		cancel(&remote.Error{Kind: remote.KindTransport, Node: name, Message: "no byte of the archive was taken for " + takeWithin.String() + ", the disk may hang: see to it, or try again"})
	})
	defer timer.Stop()
	s := f.writers.take()
	stop := context.AfterFunc(ctx, s.cancel)
	whole := false
	defer func() {
		if stop() && whole {
			f.writers.give(s)
		} else {
			s.end()
		}
	}()
	told := make(chan answer, 1)
	go func() { told <- readAnswer(s.bytes) }()
	sum := sha256.New()
	_, err = fmt.Fprintf(s.orders, "%d %d\n", p.Offset, p.Size)
	for piece := make([]byte, fetchPiece); err == nil; {
		timer.Stop()
		n, readErr := body.Read(piece)
		timer.Reset(takeWithin)
		if n > 0 {
			sum.Write(piece[:n])
			_, err = s.orders.Write(piece[:n])
		}
		if err == nil && errors.Is(readErr, io.EOF) {
			break
		}
		if readErr != nil && !errors.Is(readErr, io.EOF) {
			s.end() // half a part is not to be taken for a whole one
			<-told
			return "", readErr
		}
	}
	// Where the session ended it may have said why.
	timer.Reset(takeWithin)
	a := <-told
	if err := f.written(a); err != nil {
		return "", err
	}
	var silent *remote.Error
	switch {
	case a.complete && err == nil:
		whole = true
		return hex.EncodeToString(sum.Sum(nil)), nil
	case errors.As(context.Cause(ctx), &silent):
		return "", silent
	case ctx.Err() != nil:
		return "", ctx.Err()
	}
	s.end()
	if s.err != nil && !errors.Is(s.err, errShort) {
		return "", s.err
	}
	return "", &remote.Error{Kind: remote.KindExit, Node: name, Message: fmt.Sprintf("part %d of the archive was sent and the node does not say that it was written: see to the disk", p.Number)}
}

// readAnswer reads what a script tells of one order. It is not complete when the script ended before.
func readAnswer(r io.Reader) answer {
	var told bytes.Buffer
	lines := bufio.NewReader(r)
	for told.Len() < maxTail {
		line, err := lines.ReadBytes('\n')
		told.Write(line)
		if err != nil || bytes.HasSuffix(line, []byte(answerMark+"end\n")) {
			break
		}
	}
	return parseAnswer(told.Bytes())
}
