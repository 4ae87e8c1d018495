package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/share"
)

var errKilled = errors.New("killed")

// killAfter uploads until so many parts are recorded, then ends as a killed process would, with parts in flight. It returns the last progress that
// a heartbeat would have had, through JSON.
func killAfter(t *testing.T, s *Store, up Upload, parts int) Progress {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var mu sync.Mutex
	var last []byte
	up.Record = func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		data, err := json.Marshal(p)
		if err != nil {
			t.Error(err)
		}
		last = data
		if done, _ := p.Parts(); done >= parts {
			cancel(errKilled)
		}
	}
	_, err := s.Upload(ctx, up)
	require.ErrorIs(t, err, errKilled)
	var p Progress
	require.NoError(t, json.Unmarshal(last, &p))
	return p
}

func TestUpload_KilledAtEveryPart_GoesOnAndSendsAgainOnlyWhatWasInFlight(t *testing.T) {
	const parts, parallel = 6, 3
	tried, err := share.Parse(os.Getenv(share.Variable))
	require.NoError(t, err)
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	ref := Ref{"prod", "backup-1"}
	source := newMemory(1, (parts-1)*5*mib+mib/2)
	for _, row := range []struct {
		name       string
		recipients []string
		identities []age.Identity
		lost       bool
	}{
		{name: "plain"},
		{name: "plain, progress lost", lost: true},
		{name: "encrypted", recipients: []string{identity.Recipient().String()}, identities: []age.Identity{identity}},
		{name: "encrypted, progress lost", recipients: []string{identity.Recipient().String()}, identities: []age.Identity{identity}, lost: true},
	} {
		t.Run(row.name, func(t *testing.T) {
			for killed := 0; killed < parts; killed++ {
				if !tried.Has(killed) {
					continue
				}
				b := newBucket(t, false)
				up := Upload{Ref: ref, Source: source, SHA256: source.sha256(), PartSize: 5 * mib, Parallel: parallel, Recipients: row.recipients}
				progress := killAfter(t, b.open(t), up, killed)
				if done, all := progress.Parts(); all != parts || done < killed {
					t.Fatalf("killed after %d parts: progress says %d of %d", killed, done, all)
				}
				up.Progress = progress
				if row.lost {
					up.Progress = Progress{}
				}
				s := b.open(t)
				var first *Progress
				up.Record = func(p Progress) {
					if first == nil {
						first = &p
					}
				}
				stored, err := s.Upload(t.Context(), up)
				require.NoError(t, err)
				require.Equal(t, progress.UploadID, first.UploadID, "the same upload")
				require.GreaterOrEqual(t, first.Bytes(), progress.Bytes(), "a heartbeat does not go back")
				require.LessOrEqual(t, b.Proxy.SentAgain(), parallel, "killed after %d parts", killed)
				_, err = s.Finish(t.Context(), manifestOf(ref, stored))
				require.NoError(t, err)
				requireExport(t, s, ref, OpenOptions{Identities: row.identities}, source.data)
				require.Equal(t, 1, b.Proxy.Count("CreateMultipartUpload"))
				left, err := s.Leftovers(t.Context())
				require.NoError(t, err)
				require.Empty(t, left)
			}
		})
	}
}

func TestUpload_KilledWhileCompleting_GoesOn(t *testing.T) {
	ref := Ref{"prod", "backup-1"}
	source := newMemory(2, 11*mib)
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	for name, recipients := range map[string][]string{"plain": nil, "encrypted": {identity.Recipient().String()}} {
		for _, operation := range []string{"ListParts", "PUT upload.json", "CompleteMultipartUpload", "HEAD export.tgz"} {
			t.Run(name+" at "+operation, func(t *testing.T) {
				b := newBucket(t, false)
				up := Upload{Ref: ref, Source: source, PartSize: 5 * mib, Recipients: recipients}
				s := b.open(t)
				transfer, err := s.Begin(t.Context(), up)
				require.NoError(t, err)
				require.NoError(t, transfer.Send(t.Context()))
				ctx, cancel := context.WithCancelCause(t.Context())
				b.Proxy.After(func(seen string, _ int) {
					if seen == operation {
						cancel(errKilled)
					}
				})
				if _, err = transfer.Complete(ctx); err != nil {
					require.ErrorIs(t, err, errKilled)
				}
				b.Proxy.After(nil)
				s = b.open(t)
				stored, err := s.Upload(t.Context(), up)
				require.NoError(t, err)
				require.Zero(t, b.Proxy.SentAgain())
				_, err = s.Finish(t.Context(), manifestOf(ref, stored))
				require.NoError(t, err)
				requireExport(t, s, ref, OpenOptions{Identities: []age.Identity{identity}}, source.data)
			})
		}
	}
}

func TestUpload_OfANewExportAfterADeadOne_StartsAnew(t *testing.T) {
	b := newBucket(t, false)
	ref := Ref{"prod", "backup-1"}
	old := Upload{Ref: ref, Source: newMemory(1, 11*mib), PartSize: 5 * mib, Parallel: 1}
	progress := killAfter(t, b.open(t), old, 1)
	s := b.open(t)
	source := newMemory(2, 12*mib)
	keep(t, s, Upload{Ref: ref, Source: source, PartSize: 5 * mib})
	requireExport(t, s, ref, OpenOptions{}, source.data)
	left, err := s.Leftovers(t.Context())
	require.NoError(t, err)
	require.Empty(t, left, "the dead upload is ended")

	ref.Operation = "backup-2"
	_, err = s.Upload(t.Context(), Upload{Ref: ref, Source: source, PartSize: 5 * mib, Progress: progress})
	require.True(t, IsKind(err, KindSourceChanged), "the progress is of another source: %v", err)
}

func TestUpload_AbortedByAnotherWhenKilled_StartsAnew(t *testing.T) {
	b := newBucket(t, false)
	ref := Ref{"prod", "backup-1"}
	up := Upload{Ref: ref, Source: newMemory(1, 11*mib), PartSize: 5 * mib, Parallel: 1}
	up.Progress = killAfter(t, b.open(t), up, 2)
	s := b.open(t)
	require.NoError(t, s.Abort(t.Context(), ref))
	keep(t, s, up)
	requireExport(t, s, ref, OpenOptions{}, up.Source.(*memory).data)
}

func TestUpload_OfTwoProcessesAtOnce_MakesOneWholeArchive(t *testing.T) {
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	for name, recipients := range map[string][]string{"plain": nil, "encrypted": {identity.Recipient().String()}} {
		t.Run(name, func(t *testing.T) {
			b := newBucket(t, false)
			ref := Ref{"prod", "backup-1"}
			source := newMemory(3, 21*mib)
			up := Upload{Ref: ref, Source: source, SHA256: source.sha256(), PartSize: 5 * mib, Parallel: 2, Recipients: recipients}
			// Both open the same upload, as an attempt that was given up and lives on and the one that took its place.
			var transfers []*Transfer
			for range 2 {
				transfer, err := b.open(t).Begin(t.Context(), up)
				require.NoError(t, err)
				transfers = append(transfers, transfer)
			}
			require.Equal(t, transfers[0].uploadID, transfers[1].uploadID)
			var wg sync.WaitGroup
			stored := make([]Stored, 2)
			errs := make([]error, 2)
			for i, transfer := range transfers {
				wg.Go(func() {
					if errs[i] = transfer.Send(t.Context()); errs[i] == nil {
						stored[i], errs[i] = transfer.Complete(t.Context())
					}
				})
			}
			wg.Wait()
			s := b.open(t)
			for i, err := range errs {
				if err != nil { // it lost the race; trying again finds what the other made
					stored[i], err = s.Upload(t.Context(), up)
				}
				require.NoError(t, err)
			}
			require.Equal(t, stored[0], stored[1])
			_, err := s.Finish(t.Context(), manifestOf(ref, stored[0]))
			require.NoError(t, err)
			requireExport(t, s, ref, OpenOptions{Identities: []age.Identity{identity}}, source.data)
		})
	}
}

func TestUpload_OfAnySize_HoldsNoMoreThanItsBound(t *testing.T) {
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	b := newBucket(t, false)
	s := b.open(t)
	source := newMemory(4, 40*mib)

	// Plain: parts are streamed; what is held is a copy buffer for each open reader, and these are bounded.
	_, err = s.Upload(t.Context(), Upload{Ref: Ref{"prod", "plain"}, Source: source, PartSize: 5 * mib, Parallel: 3})
	require.NoError(t, err)
	require.LessOrEqual(t, source.most, 3)
	require.Positive(t, source.most)
	require.Zero(t, source.reading, "every reader is closed")

	// Encrypted: each part in flight is held as a whole; 11 MiB is room for two of 5 MiB, whatever Parallel says.
	source.most = 0
	const memoryLimit = 11 * mib
	transfer, err := s.Begin(t.Context(), Upload{
		Ref: Ref{"prod", "encrypted"}, Source: source, PartSize: 5 * mib, Parallel: 8, Memory: memoryLimit, Recipients: []string{identity.Recipient().String()},
	})
	require.NoError(t, err)
	var mu sync.Mutex
	var most int64
	b.Proxy.After(func(operation string, _ int) {
		if operation == "UploadPart" {
			mu.Lock()
			defer mu.Unlock()
			most = max(most, transfer.held.Load())
		}
	})
	require.NoError(t, transfer.Send(t.Context()))
	require.LessOrEqual(t, source.most, 2)
	require.LessOrEqual(t, most, int64(memoryLimit))
	require.GreaterOrEqual(t, most, int64(5*mib))
	require.Zero(t, transfer.held.Load())
}

func TestUpload_WhoseSourceBreaks_ReadsThePartAgain(t *testing.T) {
	b := newBucket(t, false)
	s := b.open(t)
	source := newMemory(5, 16*mib)
	source.broken[0] = errors.New("dial: connection refused")
	source.broken[5*mib] = errMiddle
	ref := Ref{"prod", "backup-1"}
	keep(t, s, Upload{Ref: ref, Source: source, PartSize: 5 * mib, Parallel: 2})
	require.Empty(t, source.broken, "both were met")
	requireExport(t, s, ref, OpenOptions{}, source.data)
}

func TestUpload_WhoseConnectionToTheSourceLies_NeverStoresIt(t *testing.T) {
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	for name, recipients := range map[string][]string{"plain": nil, "encrypted": {identity.Recipient().String()}} {
		t.Run(name, func(t *testing.T) {
			b := newBucket(t, false)
			s := b.open(t)
			source := newMemory(6, 11*mib)
			source.lie = func(offset int64, p []byte) {
				if offset == 5*mib {
					p[len(p)-1] ^= 1
				}
			}
			_, err := s.Upload(t.Context(), Upload{Ref: Ref{"prod", "1"}, Source: source, PartSize: 5 * mib, Recipients: recipients})
			require.True(t, IsKind(err, KindSource), "%v", err)
			require.Contains(t, err.Error(), "part 2 was read with other bytes")
			// The source is sound, so that a later try with a sound connection goes on.
			source.change(func() { source.lie = nil })
			keep(t, s, Upload{Ref: Ref{"prod", "1"}, Source: source, PartSize: 5 * mib, Recipients: recipients})
			require.Equal(t, 1, b.Proxy.Count("CreateMultipartUpload"))
		})
	}
}

func TestUpload_OfASourceThatCannotBeRead_SaysSoWithoutItsSecrets(t *testing.T) {
	b := newBucket(t, false)
	s := b.open(t)
	source := newMemory(7, mib)
	source.onRead = func(offset int64) {
		source.change(func() {
			source.broken[offset] = fmt.Errorf("curl https://s3/x?X-Amz-Signature=abc: \x1b[31m%s", b.Server.SecretKey)
		})
	}
	_, err := s.Upload(t.Context(), Upload{Ref: Ref{"prod", "1"}, Source: source})
	require.True(t, IsKind(err, KindSource), "%v", err)
	require.NotContains(t, err.Error(), b.Server.SecretKey)
	require.NotContains(t, err.Error(), "Signature")
	require.NotContains(t, err.Error(), "\x1b")
}

func TestProgress_OfTenThousandParts_FitsAHeartbeat(t *testing.T) {
	p := Progress{
		UploadID: string(bytes.Repeat([]byte("x"), 150)), Size: 10_000 * smallPartSize, PartSize: smallPartSize, SHA256: Sum{}.String(), Done: bytes.Repeat([]byte{0xff}, 1250),
	}
	data, err := json.Marshal(p)
	require.NoError(t, err)
	require.Less(t, len(data), 2048)
	done, all := p.Parts()
	require.Equal(t, 10_000, done)
	require.Equal(t, 10_000, all)
	require.Equal(t, p.Size, p.Bytes())
}

func TestChoosePartSize_OfAnySize_KeepsS3sLimits(t *testing.T) {
	for _, size := range []int64{1, smallPartSize, smallPartSize + 1, 10_000 * smallPartSize, 10_000*smallPartSize + 1, 1 << 40, maxSize} {
		for _, encrypted := range []bool{false, true} {
			part := choosePartSize(size, encrypted)
			require.GreaterOrEqual(t, part, int64(smallPartSize))
			require.LessOrEqual(t, part, int64(maxPartSize))
			require.LessOrEqual(t, countParts(size, part), maxParts)
			last := partRange(size, part, countParts(size, part))
			require.Equal(t, size, last.Offset+last.Length)
			require.Positive(t, last.Length)
		}
	}
	require.Equal(t, int64(smallPartSize), choosePartSize(80_000*mib, true))
	require.Equal(t, int64(9*mib), choosePartSize(80_000*mib+1, true))
	require.Equal(t, int64(smallPartSize), choosePartSize(512*mib, false))
	require.Equal(t, int64(32*mib), choosePartSize(2048*mib, false))
	require.Equal(t, int64(256*mib), choosePartSize(100_000*mib, false))
}

func TestPresignedParts_UploadedByAnybody_AreCountedAndChecked(t *testing.T) {
	b := newBucket(t, false)
	s := b.open(t)
	source := newMemory(8, 16*mib)
	ref := Ref{"prod", "direct"}
	transfer, err := s.Begin(t.Context(), Upload{Ref: ref, Source: source, PartSize: 5 * mib})
	require.NoError(t, err)
	require.Equal(t, []int{1, 2, 3, 4}, transfer.Missing())
	parts, err := transfer.PresignParts(t.Context(), []int{1, 2, 3}, 15*time.Minute)
	require.NoError(t, err)
	send := func(p PresignedPart, change func(*http.Request)) int {
		request, err := http.NewRequest(http.MethodPut, p.URL.Reveal(), bytes.NewReader(source.data[p.Offset:p.Offset+p.Length]))
		require.NoError(t, err)
		request.Header = p.Headers.Clone()
		if change != nil {
			change(request)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return 0 // refused before the body was read
		}
		_, _ = io.Copy(io.Discard, response.Body)
		require.NoError(t, response.Body.Close())
		return response.StatusCode
	}
	require.NotEqual(t, 200, send(parts[0], func(r *http.Request) {
		r.Body = io.NopCloser(bytes.NewReader(source.data[1 : 5*mib+1]))
		r.GetBody = nil
	}), "other bytes")
	require.NotEqual(t, 200, send(parts[0], func(r *http.Request) { r.Header.Del("X-Amz-Checksum-Sha256") }), "without its checksum")
	require.NotEqual(t, 200, send(parts[0], func(r *http.Request) { r.URL.RawQuery = r.URL.RawQuery + "0" }), "another signature")
	progress, err := transfer.Refresh(t.Context())
	require.NoError(t, err)
	done, _ := progress.Parts()
	require.Zero(t, done)

	for _, p := range parts {
		require.Equal(t, 200, send(p, nil))
		shown, err := json.Marshal(p)
		require.NoError(t, err)
		for _, text := range []string{fmt.Sprint(p), fmt.Sprintf("%#v", p), fmt.Sprintf("%+v", p), string(shown), p.URL.String()} {
			require.NotContains(t, text, "Signature")
		}
	}
	progress, err = transfer.Refresh(t.Context())
	require.NoError(t, err)
	done, _ = progress.Parts()
	require.Equal(t, 3, done)
	require.Equal(t, []int{4}, transfer.Missing())
	_, err = transfer.Complete(t.Context())
	require.True(t, IsKind(err, KindIncomplete), "%v", err)
	// The worker takes over where the node left.
	other, err := b.open(t).Begin(t.Context(), Upload{Ref: ref, Source: source, Progress: progress})
	require.NoError(t, err)
	require.NoError(t, other.Send(t.Context()))
	stored, err := other.Complete(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, b.Proxy.Sent(4))
	_, err = s.Finish(t.Context(), manifestOf(ref, stored))
	require.NoError(t, err)
	requireExport(t, s, ref, OpenOptions{}, source.data)

	_, err = transfer.PresignParts(t.Context(), []int{5}, time.Minute)
	require.True(t, IsKind(err, KindBadInput), "%v", err)
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	encrypted, err := s.Begin(t.Context(), Upload{Ref: Ref{"prod", "2"}, Source: source, Recipients: []string{identity.Recipient().String()}})
	require.NoError(t, err)
	_, err = encrypted.PresignParts(t.Context(), []int{1}, time.Minute)
	require.True(t, IsKind(err, KindBadInput), "%v", err)
}

func TestPresignedParts_WithWrongBytesOfTheRightSize_AreNotCounted(t *testing.T) {
	b := newBucket(t, false)
	s := b.open(t)
	source := newMemory(9, 6*mib)
	ref := Ref{"prod", "direct"}
	transfer, err := s.Begin(t.Context(), Upload{Ref: ref, Source: source, PartSize: 5 * mib})
	require.NoError(t, err)
	other := newMemory(10, 5*mib)
	sum, err := other.Sums(t.Context(), []Range{{0, 5 * mib}})
	require.NoError(t, err)
	_, err = b.Client.UploadPart(t.Context(), &s3.UploadPartInput{
		Bucket: &b.Name, Key: aws.String(s.key(ref, exportName)), UploadId: &transfer.uploadID, PartNumber: aws.Int32(1),
		Body: bytes.NewReader(other.data), ChecksumSHA256: aws.String(sum[0].base64()),
	})
	require.NoError(t, err)
	_, err = transfer.Refresh(t.Context())
	require.NoError(t, err)
	require.Equal(t, []int{1, 2}, transfer.Missing())
}
