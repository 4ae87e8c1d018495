// Package sample makes archives for the tests of what lists, verifies, downloads and deletes them, where no export is made.
package sample

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"time"

	"github.com/katoflow/katoflow/internal/archive"
)

// Bytes returns size random bytes, the same for each seed.
func Bytes(seed byte, size int) []byte {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(data) // it never fails
	return data
}

// Make keeps data as an archive of a cluster's export that was begun at started and took a minute; change may change its manifest. The parts are of 5 MiB.
func Make(ctx context.Context, store *archive.Store, ref archive.Ref, data []byte, started time.Time, recipients []string, change func(*archive.Manifest)) (archive.Manifest, error) {
	stored, err := store.Upload(ctx, archive.Upload{Ref: ref, Source: source(data), Recipients: recipients, PartSize: 5 << 20})
	if err != nil {
		return archive.Manifest{}, err
	}
	m := archive.Manifest{Ref: ref, Platform: "als", Mode: "cluster", Node: "fs-1", Who: "a test", ExportFile: "export.tgz", Started: started, Ended: started.Add(time.Minute), Stored: stored}
	if change != nil {
		change(&m)
	}
	return store.Finish(ctx, m)
}

// Begin leaves a transfer of data in the middle, with all of its parts sent.
func Begin(ctx context.Context, store *archive.Store, ref archive.Ref, data []byte) error {
	transfer, err := store.Begin(ctx, archive.Upload{Ref: ref, Source: source(data), PartSize: 5 << 20})
	if err != nil {
		return err
	}
	return transfer.Send(ctx)
}

// source is an export in memory.
type source []byte

func (s source) Stat(context.Context) (archive.Stat, error) {
	return archive.Stat{Size: int64(len(s)), Modified: time.Unix(1_700_000_000, 0)}, nil
}

func (s source) ReadRange(_ context.Context, offset, length int64) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(s[offset : offset+length])), nil
}

func (s source) Sums(_ context.Context, ranges []archive.Range) ([]archive.Sum, error) {
	var sums []archive.Sum
	for _, r := range ranges {
		sums = append(sums, sha256.Sum256(s[r.Offset:r.Offset+r.Length]))
	}
	return sums, nil
}
