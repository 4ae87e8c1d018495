package main

import (
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/archive/archivetest"
)

func TestBackup_OnATerminal_AsksBeforeItDeletes(t *testing.T) {
	s := newShelves(t)
	b := s.shelf(t, false)
	for day, name := range []string{"night-1", "night-2", "night-3"} {
		b.keep(name, day+1, 100)
	}
	answer := func(keys io.Writer, text string) {
		_, err := keys.Write([]byte(text + "\n"))
		require.NoError(t, err)
	}
	p, keys := b.startOnTerminal(120, 40, "backup", "delete", b.cluster, "night-1")
	p.says("archive night-1\x1b[0m of " + b.cluster).says("Delete archive night-1 for ever? Type the cluster's name to confirm: ")
	answer(keys, "yes")
	p.end(exitAborted).says("that is not " + b.cluster + ": nothing was deleted")
	p, keys = b.startOnTerminal(120, 40, "backup", "delete", b.cluster, "night-1")
	p.says("to confirm: ")
	answer(keys, b.cluster)
	p.end(exitDone).says("archive night-1 is deleted")
	require.Equal(t, "night-3 night-2", b.names())

	p, keys = b.startOnTerminal(120, 40, "backup", "prune", b.cluster, "--keep-last", "1")
	p.says("would be deleted").says("Delete 1 archive and abort 0 uploads? [y/N] ")
	answer(keys, "")
	p.end(exitAborted).says("nothing was deleted")
	p, keys = b.startOnTerminal(120, 40, "backup", "prune", b.cluster, "--keep-last", "1")
	p.says("[y/N] ")
	b.keep("night-4", 4, 100) // meanwhile: night-3 is not kept any more, and nobody has confirmed that
	answer(keys, "y")
	p.end(exitDone).says("1 archive deleted, 1 kept, 1 not confirmed")
	require.Equal(t, "night-4 night-3", b.names())
	p, _ = b.startOnTerminal(120, 40, "backup", "prune", b.cluster, "--keep-last", "2")
	p.end(exitDone).says("0 archives would be deleted")

	// An archive is not text; on a terminal it is refused, and its progress redrawn.
	p, _ = b.startOnTerminal(120, 40, "backup", "download", b.cluster, "--to", "-")
	p.end(exitBadInput).says("standard output is a terminal")
	b.keep("night-5", 5, 12<<20)
	b.bucket.Proxy.Fail("GET export.tgz", 1, archivetest.Slow(1<<20, 50*time.Millisecond))
	p, _ = b.startOnTerminal(120, 40, "backup", "download", b.cluster, "--to", filepath.Join(t.TempDir(), "x.tgz"))
	p.end(exitDone).says("download night-5 [").says("100%  12 MiB of 12 MiB").says("\x1b[?25h").says("archive night-5 of " + b.cluster + " is in ")
}
