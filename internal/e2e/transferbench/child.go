package main

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// childArgument makes this program one transfer.
const childArgument = "transfer-child"

// order is what a child is told, on standard input.
type order struct {
	Node                                           login
	File, SHA256                                   string
	Endpoint, Region, Bucket, AccessKey, SecretKey string
	Ref                                            archive.Ref
	Mode                                           operation.TransferMode
	// Fetch brings the archive into File, instead of File into the bucket.
	Fetch bool
}

// result is what it says of itself.
type result struct {
	Seconds, CPU, PeakMiB float64
}

// child is one transfer by the same code that the activities Transfer and Fetch use.
func child(in io.Reader, out io.Writer) error {
	var o order
	if err := json.NewDecoder(in).Decode(&o); err != nil {
		return err
	}
	ctx := context.Background()
	pool := remote.NewPool(remote.Options{})
	defer func() { _ = pool.Close() }()
	store, err := archive.Open(archive.Config{Endpoint: o.Endpoint, Region: o.Region, Bucket: o.Bucket, AccessKey: o.AccessKey, SecretKey: o.SecretKey, PathStyle: true}, nil)
	if err != nil {
		return err
	}
	defer store.Close()
	began := time.Now()
	host := remote.Host{Name: "node", Address: o.Node.Address, Port: o.Node.Port, User: o.Node.User, KeyFiles: []string{o.Node.Key}, KnownHosts: []string{o.Node.KnownHosts}}
	file := activities.NewNodeFile(pool, host, o.File)
	defer file.Close()
	if o.Fetch {
		f := activities.Fetcher{Store: store, File: file, Secrets: "katoflow-part-bench"}
		if err := f.Fetch(ctx, o.Ref, o.Mode); err != nil {
			return err
		}
		return tell(out, began)
	}
	transfer, err := store.Begin(ctx, archive.Upload{Ref: o.Ref, Source: file, SHA256: o.SHA256})
	if err != nil {
		return err
	}
	if o.Mode == operation.TransferDirect {
		err = activities.DirectSender{File: file, Secrets: "katoflow-part-bench"}.Send(ctx, transfer, func(archive.Progress) {})
	} else {
		err = transfer.Send(ctx)
	}
	if err != nil {
		return err
	}
	stored, err := transfer.Complete(ctx)
	if err != nil {
		return err
	}
	if _, err := store.Finish(ctx, archive.Manifest{Ref: o.Ref, Platform: "als", Mode: "cluster", Who: "bench", Started: began, Ended: time.Now(), Stored: stored}); err != nil {
		return err
	}
	return tell(out, began)
}

func tell(out io.Writer, began time.Time) (err error) {
	r := result{Seconds: time.Since(began).Seconds()}
	if r.CPU, r.PeakMiB, err = usage(); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}
