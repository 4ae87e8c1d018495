package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/starter/internal/screen"
	"github.com/katoflow/katoflow/starter/internal/view"
)

// localStore opens the bucket of a cluster with the inventory and the credentials of this machine.
func (c *cli) localStore(path, cluster string) (*archive.Store, *inventory.S3, error) {
	name := c.inventoryPath(path)
	if name == "" {
		return nil, nil, badInput("no inventory file: the archive is read from here, so give --inventory FILE with the cluster's s3 section, or set KATOFLOW_INVENTORY")
	}
	file, err := inventory.Load(name)
	if err != nil {
		return nil, nil, err
	}
	of, err := file.Cluster(cluster)
	if err != nil {
		return nil, nil, badInput("%s", err.Error())
	}
	if of.S3 == nil {
		return nil, nil, badInput("cluster %s has no s3 section in %s: write the bucket of its archives there", cluster, oneLine(name))
	}
	cfg, err := archive.ConfigOf(file, of.S3, func(name string) (string, bool) {
		value := c.getenv(name)
		return value, value != ""
	})
	if err != nil {
		return nil, nil, storeFailure(err)
	}
	store, err := archive.Open(cfg, nil)
	if err != nil {
		return nil, nil, storeFailure(err)
	}
	return store, of.S3, nil
}

// localArchive is one archive of a cluster; of latest it is the newest complete one.
func localArchive(ctx context.Context, store *archive.Store, cluster, name string) (archive.Ref, error) {
	if name != operation.LatestArchive {
		return archive.Ref{Cluster: cluster, Operation: name}, nil
	}
	archives, _, err := store.List(ctx, cluster)
	if err != nil {
		return archive.Ref{}, storeFailure(err)
	}
	if len(archives) == 0 {
		return archive.Ref{}, badInput("cluster %s has no archive; see katoflow backup list %s --incomplete", cluster, cluster)
	}
	return archives[0].Ref, nil
}

// storeFailure gives an error of the store its exit code.
func storeFailure(err error) error {
	var f *failure
	if err == nil || errors.As(err, &f) || errors.Is(err, context.Canceled) {
		return err
	}
	code := exitError
	switch archive.KindOf(err) {
	case archive.KindBadInput, archive.KindNotFound, archive.KindDecrypt:
		code = exitBadInput
	case archive.KindCorrupt, archive.KindIncomplete, archive.KindLocked:
		code = exitArchive
	}
	return &failure{code: code, lines: []string{oneLine(err.Error())}}
}

// identityFlag adds --identity.
func identityFlag(cmd *cobra.Command, files *[]string) {
	cmd.Flags().StringArrayVar(files, "identity", nil, "file with a secret key, of age or SSH, of a recipient of the archive; may be given several times")
	must(cmd.MarkFlagFilename("identity"))
}

// maxIdentity bounds a file of secret keys, in bytes.
const maxIdentity = 64 << 10

// identities reads secret keys. No part of a file is in a problem.
func (c *cli) identities(files []string) (identities []age.Identity, problems []string) {
	for _, name := range files {
		data, err := readUpTo(name, maxIdentity)
		if err != nil {
			problems = append(problems, "--identity: "+oneLine(err.Error()))
			continue
		}
		some, err := archive.ParseIdentities(data)
		if err != nil {
			problems = append(problems, fmt.Sprintf("--identity %s: %s", operationName(name), oneLine(err.Error())))
			continue
		}
		identities = append(identities, some...)
	}
	return identities, problems
}

// readUpTo reads a file, which may be a pipe, of at most so many bytes.
func readUpTo(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s is larger than %d bytes: is this the right file?", name, most)
	}
	return data, err
}

// interactive reports whether there is a person to ask.
func (c *cli) interactive() bool {
	f, ok := c.in.(*os.File)
	if !ok {
		return false
	}
	_, is := c.terminalOf(f)
	return is
}

// progress tells on standard error how far a transfer is: a line that is redrawn on a terminal, else one now and then.
type progress struct {
	c           *cli
	what        string
	total, from int64
	began, told time.Time
	screen      *screen.Screen
	done        int64
}

// How often a transfer is told.
const (
	redrawEvery = 200 * time.Millisecond
	tellEvery   = 10 * time.Second
)

// newProgress begins to tell of a transfer of total bytes, of which from are there already.
func (c *cli) newProgress(what string, total, from int64) *progress {
	p := &progress{c: c, what: what, total: total, from: from, began: c.now(), told: c.now(), done: from}
	if f, ok := c.terminalOf(c.err); ok {
		p.screen, p.told = screen.New(f), time.Time{}
	}
	return p
}

// at tells that done bytes are there.
func (p *progress) at(done int64) {
	p.done = done
	now, every := p.c.now(), tellEvery
	if p.screen != nil {
		every = redrawEvery
	}
	if now.Sub(p.told) < every {
		return
	}
	p.told = now
	p.draw(now)
}

func (p *progress) draw(now time.Time) {
	style := p.c.style(p.c.err)
	line := view.Transfer(p.what, p.done, p.total, p.from, now.Sub(p.began), style)
	if p.screen == nil {
		p.c.say("%s", line)
		return
	}
	p.screen.Draw([]string{line}, style.Width)
}

// end leaves the terminal in order, with the last state on it.
func (p *progress) end() {
	if p.screen != nil {
		p.draw(p.c.now())
		p.screen.Close(true)
	}
}
