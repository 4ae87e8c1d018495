package main

import (
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/operation"
)

// downloadFlags are the flags of `backup download`.
type downloadFlags struct {
	inventory, to, manifest string
	identities              []string
	stored, force           bool
}

func (c *cli) backupDownloadCommand() *cobra.Command {
	var f downloadFlags
	cmd := &cobra.Command{
		Use:   "download CLUSTER [ARCHIVE]",
		Short: "Download an archive, decrypted and compared with its manifest",
		Long: `Download an archive into a file. Without ARCHIVE it is the latest. It is read from here, with the bucket and credentials
of the local inventory file: its bytes do not go through Temporal or the worker.

Every part is compared with the manifest, and at the end the whole; the file has its name only then. A download that broke
off goes on where it ended: what is there (FILE.partial) is compared first, and only what does not agree is read again.

An encrypted archive needs --identity with the secret key of one of its recipients, or --stored, which writes it as it
lies in the bucket: one age file a part, one after the other. With --manifest they can be taken apart and decrypted
without katoflow; docs/backups.md has the loop.

With --to - the archive goes to standard output as it is read. A part is compared when it has been written, so only exit
code 0 says that it was right.`,
		Example: `  katoflow backup download prod --inventory clusters.yaml
  katoflow backup download prod nightly-20261122t020000z --to /srv/restore/prod.tgz
  katoflow backup download prod latest --identity key.txt --to - | tar tzf -
  katoflow backup download prod latest --stored --to prod.age --manifest prod.json`,
		Args:              clusterAndArchive,
		ValidArgsFunction: c.completeArchives(&f.inventory, true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.backupDownload(cmd.Context(), args[0], archiveOf(args), f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.to, "to", "", "file or folder to write to, - for standard output (default: CLUSTER-ARCHIVE.tgz in this folder)")
	identityFlag(cmd, &f.identities)
	flags.BoolVar(&f.stored, "stored", false, "an encrypted archive as it is stored, not decrypted")
	flags.StringVar(&f.manifest, "manifest", "", "also write the manifest to this file")
	flags.BoolVar(&f.force, "force", false, "overwrite files that are there")
	c.inventoryFlag(flags, &f.inventory)
	must(cmd.MarkFlagFilename("to"))
	must(cmd.MarkFlagFilename("manifest"))
	return cmd
}

// downloaded is what a download prints.
type downloaded struct {
	Cluster   string `json:"cluster"`
	Operation string `json:"operation"`
	// File that was written, - for standard output.
	File string `json:"file"`
	// Manifest that was written.
	Manifest string `json:"manifest,omitempty"`
	// Bytes of the file, of which Kept were there from a download before.
	Bytes int64 `json:"bytes"`
	Kept  int64 `json:"keptBytes,omitempty"`
	// SHA256 of the file, hexadecimal.
	SHA256 string `json:"sha256"`
	// Stored: it is encrypted, as it lies in the bucket.
	Stored bool `json:"stored,omitempty"`
}

const standardOutput = "-"

func (c *cli) backupDownload(ctx context.Context, cluster, name string, f downloadFlags) error {
	identities, problems := c.identities(f.identities)
	if f.to == standardOutput {
		if c.output != "table" {
			problems = append(problems, fmt.Sprintf("--output %s: with --to - the archive itself goes to standard output", c.output))
		}
		if _, is := c.terminalOf(c.out); is {
			problems = append(problems, "--to -: standard output is a terminal, and an archive is not text: name a file, or send it on to another program")
		}
	}
	if f.stored && len(f.identities) > 0 {
		problems = append(problems, "--stored and --identity: choose one, either as it is stored or decrypted")
	}
	for _, file := range []struct{ flag, name string }{{"to", f.to}, {"manifest", f.manifest}} {
		if file.name == "" || file.name == standardOutput && file.flag == "to" {
			continue
		}
		if err := mayWrite(file.name, f.force || file.flag == "to" && isFolder(file.name)); err != nil {
			problems = append(problems, "--"+file.flag+": "+err.Error())
		}
	}
	if err := (&catalogFlags{inventory: f.inventory, queue: operation.DefaultTaskQueue}).check(c, cluster, name, problems); err != nil {
		return err
	}
	store, _, err := c.localStore(f.inventory, cluster)
	if err != nil {
		return err
	}
	defer store.Close()
	ref, err := localArchive(ctx, store, cluster, name)
	if err != nil {
		return err
	}
	m, err := store.Manifest(ctx, ref)
	if err != nil {
		return storeFailure(err)
	}
	if m.Encrypted() && !f.stored && len(identities) == 0 {
		return badInput("archive %s is encrypted: give --identity FILE with the secret key of one of its %s, or --stored for it as it lies in the bucket",
			ref.Operation, plural(len(m.Recipients), "recipient"))
	}
	d := &download{c: c, store: store, m: m, identities: identities, stored: f.stored && m.Encrypted(), force: f.force}
	if f.manifest != "" {
		if err := d.writeManifest(f.manifest); err != nil {
			return err
		}
	}
	out := downloaded{Cluster: cluster, Operation: ref.Operation, Manifest: f.manifest, Stored: d.stored}
	if f.to == standardOutput {
		out.File = standardOutput
		if err := d.stream(ctx, &out); err != nil {
			return err
		}
		c.say("katoflow: %s", out.line())
		return nil
	}
	if out.File = f.to; out.File == "" || isFolder(out.File) {
		out.File = filepath.Join(out.File, d.fileName())
	}
	if err := mayWrite(out.File, f.force); err != nil {
		return badInput("%s", err.Error())
	}
	if err := d.save(ctx, &out); err != nil {
		return err
	}
	return c.print(out, func() string { return out.line() + "\n" })
}

func (d downloaded) line() string {
	text := fmt.Sprintf("archive %s of %s is in %s: %s (%d bytes), sha256 %s", d.Operation, d.Cluster, oneLine(d.File), operation.Size(d.Bytes), d.Bytes, d.SHA256)
	if d.File == standardOutput {
		text = fmt.Sprintf("archive %s of %s was written whole: %s (%d bytes), sha256 %s", d.Operation, d.Cluster, operation.Size(d.Bytes), d.Bytes, d.SHA256)
	}
	if d.Kept > 0 {
		text += fmt.Sprintf("; %s of it were there already", operation.Size(d.Kept))
	}
	if d.Stored {
		text += "; it is encrypted"
	}
	return text
}

// mayWrite says why a file cannot be written to.
func mayWrite(name string, force bool) error {
	info, err := os.Lstat(name)
	switch {
	case err == nil && info.IsDir() && !force:
		return fmt.Errorf("%s is a folder: name a file", oneLine(name))
	case err == nil && !force:
		return fmt.Errorf("%s is there already: choose another name, or say --force", oneLine(name))
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return errors.New(oneLine(err.Error()))
	case err != nil && !isFolder(filepath.Dir(name)):
		return fmt.Errorf("there is no folder %s: make it", oneLine(filepath.Dir(name)))
	}
	return nil
}

func isFolder(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

// download is one archive on its way here.
type download struct {
	c          *cli
	store      *archive.Store
	m          archive.Manifest
	identities []age.Identity
	stored     bool
	force      bool
}

// fileName is the file's where none was given.
func (d *download) fileName() string {
	name := d.m.Cluster + "-" + d.m.Operation + ".tgz"
	if d.stored {
		name += ".age"
	}
	return name
}

func (d *download) size() int64 {
	if d.stored {
		return d.m.StoredSize
	}
	return d.m.Size
}

// part is the range of a part in the file, and its SHA-256 in hexadecimal.
func (d *download) part(p archive.Part) (size int64, sum string) {
	if d.stored {
		return p.StoredSize, p.StoredSHA256
	}
	return p.Size, p.SHA256
}

// check compares the whole. Of an archive that is kept encrypted the manifest has the sums of the parts only, which were compared.
func (d *download) check(whole hash.Hash) (string, error) {
	sum := hex.EncodeToString(whole.Sum(nil))
	if !d.stored && sum != d.m.SHA256 {
		return sum, fail(exitArchive, "archive %s is damaged: what was read has the SHA-256 %s, and the export had %s", d.m.Operation, sum, d.m.SHA256)
	}
	return sum, nil
}

func (d *download) open(ctx context.Context, offset int64) (*archive.Reader, error) {
	reader, err := d.store.Open(ctx, d.m.Ref, archive.OpenOptions{Offset: offset, Identities: d.identities, Stored: d.stored})
	if err != nil {
		return nil, storeFailure(err)
	}
	return reader, nil
}

// stream writes the archive to standard output.
func (d *download) stream(ctx context.Context, out *downloaded) error {
	reader, err := d.open(ctx, 0)
	if err != nil {
		return err
	}
	defer func() { _ = reader.Close() }()
	progress := d.c.newProgress("download "+d.m.Operation, d.size(), 0)
	whole := sha256.New()
	_, err = d.copy(io.MultiWriter(d.c.out, whole), reader, progress, 0)
	progress.end()
	if err != nil {
		return d.stopped(ctx, err, "what was written is not whole: throw it away")
	}
	out.Bytes = d.size()
	out.SHA256, err = d.check(whole)
	return err
}

// writeError is an error of the side that is written to.
type writeError struct{ error }

func (e writeError) Unwrap() error { return e.error }

// copy writes what reader has, and returns how many bytes were written.
func (d *download) copy(to io.Writer, reader io.Reader, p *progress, at int64) (int64, error) {
	buffer := make([]byte, 1<<20)
	for {
		n, err := reader.Read(buffer)
		if n > 0 {
			if _, werr := to.Write(buffer[:n]); werr != nil {
				return at, writeError{werr}
			}
			at += int64(n)
			p.at(at)
		}
		if errors.Is(err, io.EOF) {
			return at, nil
		}
		if err != nil {
			return at, err
		}
	}
}

// stopped is the error of a download that did not come to its end; advice says what to do.
func (d *download) stopped(ctx context.Context, err error, advice string) error {
	var w writeError
	switch {
	case ctx.Err() != nil:
		return &failure{code: exitInterrupted, lines: []string{"interrupted: " + advice}}
	case errors.As(err, &w):
		return fail(exitError, "download of archive %s: cannot write: %s; %s", d.m.Operation, oneLine(w.Error()), advice)
	}
	f := asFailure(storeFailure(err))
	if f.code == exitError {
		f.lines = append(f.lines, advice)
	}
	return f
}

// partialName is the file's name until it is whole.
func partialName(file string) string { return file + ".partial" }

// save writes the archive to a file, going on where a download before ended.
func (d *download) save(ctx context.Context, out *downloaded) error {
	partial := partialName(out.File)
	f, err := openPartial(partial)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	whole := sha256.New()
	kept, err := d.keep(ctx, f, whole)
	if err != nil {
		return d.stopped(ctx, err, "run it again")
	}
	reader, err := d.open(ctx, kept)
	if err != nil {
		return err
	}
	defer func() { _ = reader.Close() }()
	progress := d.c.newProgress("download "+d.m.Operation, d.size(), kept)
	_, err = d.copy(io.MultiWriter(f, whole), reader, progress, kept)
	progress.end()
	if err != nil {
		// What was not compared is not kept. Where that fails the next download finds out by itself.
		_ = f.Truncate(reader.Verified())
		return d.stopped(ctx, err, fmt.Sprintf("%s of %s are in %s: run it again to go on", operation.Size(reader.Verified()), operation.Size(d.size()), oneLine(partial)))
	}
	out.Kept, out.Bytes = kept, d.size()
	if out.SHA256, err = d.check(whole); err != nil {
		_ = f.Truncate(0)
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fail(exitError, "%s: %s", oneLine(partial), oneLine(err.Error()))
	}
	return d.place(partial, out.File)
}

// place gives a file that is whole its name.
func (d *download) place(from, to string) error {
	if err := mayWrite(to, d.force); err != nil { // somebody else was quicker
		return badInput("%s; the archive is in %s", err, oneLine(from))
	}
	if err := os.Rename(from, to); err != nil {
		return fail(exitError, "%s; the archive is in %s", oneLine(err.Error()), oneLine(from))
	}
	syncFolder(filepath.Dir(to))
	return nil
}

// syncFolder makes a name outlive a power cut, where the system can do that for folders.
func syncFolder(name string) {
	if folder, err := os.Open(name); err == nil {
		_ = folder.Sync()
		_ = folder.Close()
	}
}

// keep compares what a download before has left with the manifest, part by part, and cuts off what is not whole parts of this archive. It returns how many
// bytes stay; whole has seen them.
func (d *download) keep(ctx context.Context, f *os.File, whole hash.Hash) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, writeError{err}
	}
	var kept int64
	progress := d.c.newProgress("compare "+filepath.Base(f.Name()), min(info.Size(), d.size()), 0)
	for _, p := range d.m.Parts {
		size, sum := d.part(p)
		if kept+size > info.Size() {
			break
		}
		before, err := whole.(encoding.BinaryMarshaler).MarshalBinary()
		if err != nil {
			return 0, err
		}
		part := sha256.New()
		if _, err := io.Copy(io.MultiWriter(part, whole), io.NewSectionReader(f, kept, size)); err != nil {
			return 0, writeError{err}
		}
		if hex.EncodeToString(part.Sum(nil)) != sum {
			if err := whole.(encoding.BinaryUnmarshaler).UnmarshalBinary(before); err != nil {
				return 0, err
			}
			break
		}
		kept += size
		progress.at(kept)
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
	if info.Size() > 0 && progress.screen != nil {
		progress.screen.Close(false)
	}
	if err := f.Truncate(kept); err != nil {
		return 0, writeError{err}
	}
	if _, err := f.Seek(kept, io.SeekStart); err != nil {
		return 0, writeError{err}
	}
	return kept, nil
}

// writeManifest writes the manifest to a file, whole or not at all.
func (d *download) writeManifest(name string) error {
	data, err := d.m.JSON()
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return fail(exitError, "--manifest: %s", oneLine(err.Error()))
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fail(exitError, "--manifest: %s", oneLine(err.Error()))
	}
	return nil
}

// openPartial opens the file of a download, made when it is not there, for this process alone.
func openPartial(name string) (*os.File, error) {
	for {
		// An export holds passwords: nobody else may read it.
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fail(exitError, "%s", oneLine(err.Error()))
		}
		if err := lockFile(f); err != nil {
			_ = f.Close()
			return nil, badInput("%s is being written by another download: wait for it, or choose another file with --to", oneLine(name))
		}
		// The other one may have given it its name since.
		mine, err := f.Stat()
		now, nowErr := os.Stat(name)
		if err == nil && nowErr == nil && os.SameFile(mine, now) {
			return f, nil
		}
		_ = f.Close()
	}
}
