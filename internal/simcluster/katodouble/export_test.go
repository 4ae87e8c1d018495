package katodouble

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// exports is a cluster whose nodes share one folder.
type exports struct {
	t    *testing.T
	c    *Cluster
	dir  string
	sudo error
	deny map[string]error
}

const (
	coreID, filesID = "10.0.0.1", "10.0.0.4"
)

func exportCluster(t *testing.T) *exports {
	c := fixture()
	c.AddNode(filesID, "filesystem-1", []string{"filesystem", "mysql"}, 0)
	return &exports{t: t, c: c, dir: t.TempDir(), deny: map[string]error{}}
}

func (e *exports) start(ctx context.Context, node string, stdout io.Writer, stderr io.Writer, args ...string) int {
	return e.c.Run(ctx, Invocation{Args: append([]string{"data", "export"}, args...), Node: node, UID: 1000, Home: "/home/stackato", Path: "/home/stackato/bin:/usr/bin", Stdin: strings.NewReader(""),
		Stdout: stdout, Stderr: stderr, Dir: e.dir, Files: OSFiles{}, Sudo: func(context.Context) error { return e.sudo },
		Reach: func(_ context.Context, from, to string) error {
			if from != coreID {
				return fmt.Errorf("asked from %s", from)
			}
			return e.deny[to]
		}})
}

func (e *exports) run(node string, args ...string) (out, errs string, exit int) {
	e.t.Helper()
	var o, s bytes.Buffer
	ctx, cancel := context.WithTimeout(e.t.Context(), 20*time.Second)
	defer cancel()
	exit = e.start(ctx, node, &o, &s, args...)
	return o.String(), s.String(), exit
}

func (e *exports) patch(p ExportPatch) {
	e.t.Helper()
	require.NoError(e.t, e.c.PatchNode(filesID, StatePatch{Export: &p}))
}

func (e *exports) left() []string {
	e.t.Helper()
	entries, err := os.ReadDir(e.dir)
	require.NoError(e.t, err)
	var out []string
	for _, en := range entries {
		out = append(out, en.Name())
	}
	return out
}

// read lists an archive and adds up its content.
func read(t *testing.T, file string) (names []string, content int64, err error) {
	t.Helper()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, 0, err
	}
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		if err == io.EOF {
			_, err := io.Copy(io.Discard, z)
			return names, content, err
		}
		if err != nil {
			return names, content, err
		}
		names = append(names, h.Name)
		n, err := io.Copy(io.Discard, r)
		content += n
		if err != nil {
			return names, content, err
		}
	}
}

func TestDataExport_OfTheCluster_IsAReadableArchiveOfTheSizeAsked(t *testing.T) {
	e := exportCluster(t)
	e.patch(ExportPatch{Size: new(int64(3<<20 + 17))})
	file := filepath.Join(e.dir, "export.tgz")
	out, errs, exit := e.run(filesID, "--cluster", "--base-dir", e.dir, file)
	require.Zero(t, exit, errs)
	require.Contains(t, out, "Exporting main-db...\n")
	require.Contains(t, out, "100%\n")
	require.Contains(t, out, "Export finished: "+file+"\n")
	names, content, err := read(t, file)
	require.NoError(t, err)
	require.Equal(t, int64(3<<20+17), content)
	for _, want := range []string{"main-db", "droplets/0001", "mysql-data/0001", "mysql-metadata", "filesystem-data/0001", "filesystem-user-creation", "license"} {
		require.Contains(t, names, want)
	}
	for _, n := range names {
		require.NotContains(t, []string{"resources/0001", "aok-config", "postgresql-metadata"}, n, "not exported by default, or of no role")
	}
	fi, err := os.Stat(file)
	require.NoError(t, err)
	require.Greater(t, fi.Size(), content, "random bytes do not become smaller")
	require.Equal(t, []string{"export.tgz"}, e.left(), "temporary files are gone")
	require.False(t, e.c.Exporting(filesID))
}

func TestDataExport_Selectors_DecideWhatIsInIt(t *testing.T) {
	for _, tc := range []struct {
		name string
		node string
		args []string
		want []string
	}{
		{"one part", filesID, []string{"--cluster", "--main-db"}, []string{"main-db"}},
		{"the other product's name", filesID, []string{"--cluster", "--stackato-rest-db", "--aok-config"}, []string{"aok-config", "helion-rest-db"}},
		{"without data", filesID, []string{"--cluster", "--mysql", "--exclude-mysql-data"}, []string{"mysql-metadata"}},
		{"without the users", filesID, []string{"--only-this-node", "--filesystem", "--exclude-filesystem-user-creation"}, []string{"filesystem-data/0001", "filesystem-data/0002"}},
		{"this node has what its roles have", filesID, []string{"--only-this-node", "--exclude-filesystem"}, []string{"mysql-data/0001", "mysql-data/0002", "mysql-metadata"}},
		{"users and orgs", filesID, []string{"--cluster", "--only-users-orgs"}, []string{"main-db", "aok-db"}},
		{"forced although no node has the role", coreID, []string{"--manual", "--force", "--redis"}, []string{"redis-data/0001", "redis-metadata"}},
		{"the filesystem left out, from another node", coreID, []string{"--cluster", "--exclude-filesystem", "--license", "--db-encryption-key"}, []string{"license", "db-encryption-key"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := exportCluster(t)
			_, errs, exit := e.run(tc.node, append(tc.args, "--base-dir="+e.dir, "x.tgz")...)
			require.Zero(t, exit, errs)
			names, _, err := read(t, filepath.Join(e.dir, "x.tgz"))
			require.NoError(t, err)
			require.Equal(t, tc.want, names)
		})
	}
}

func TestDataExport_WrongUsage_WritesNothing(t *testing.T) {
	e := exportCluster(t)
	for _, args := range [][]string{{}, {"--cluster", "--only-this-node"}, {"--cluster", "--manual"}, {"--cluster", "--force"}, {"--all"}, {"--cluster", "--controller"}, {"-cluster"}, {"--cluster", "a", "b"},
		{"--cluster", "--base-dir"}, {"--cluster", "--mysql-data"}, {"--cluster", "--exclude-mysql-user-creation"}, {"--only-this-node", "-v"}} {
		out, errs, exit := e.run(filesID, args...)
		require.Equal(t, 1, exit, args)
		require.Empty(t, out)
		require.Contains(t, errs, "Usage:")
	}
	require.Empty(t, e.left())
}

func TestDataExport_WithoutAName_MakesOneInTheWorkingFolder(t *testing.T) {
	e := exportCluster(t)
	_, errs, exit := e.run(filesID, "--only-this-node")
	require.Zero(t, exit, errs)
	require.Len(t, e.left(), 1)
	require.Regexp(t, `^stackato-export-\d{10}\.tgz$`, e.left()[0])
}

func TestDataExport_WhatTheClusterNeeds_IsNamedWhenItIsMissing(t *testing.T) {
	e := exportCluster(t)
	refused := func(text, node string, args ...string) {
		t.Helper()
		_, errs, exit := e.run(node, append(args, "x.tgz")...)
		require.Equal(t, 1, exit)
		require.Contains(t, errs, text)
		require.Empty(t, e.left())
	}
	refused("run the export on the node with the filesystem role", coreID, "--cluster")
	e.deny["10.0.0.2"] = errors.New("Permission denied (publickey)")
	refused("Could not log in from 10.0.0.1 to 10.0.0.2: Permission denied (publickey)", filesID, "--cluster")
	delete(e.deny, "10.0.0.2")
	e.c.NodeDown("10.0.0.3")
	refused("Could not connect to node 10.0.0.3", filesID, "--cluster")
	_, errs, exit := e.run(filesID, "--only-this-node", "x.tgz")
	require.Zero(t, exit, errs, "one node needs no other")
	require.NoError(t, os.Remove(filepath.Join(e.dir, "x.tgz")))
	e.sudo = errors.New("a password is required")
	out, errs, exit := e.run(filesID, "--only-this-node", "x.tgz")
	require.Equal(t, 1, exit)
	require.Contains(t, out, "[sudo] password for stackato")
	require.Contains(t, errs, "no password was provided")
	e.sudo = nil
	refused("no such file or directory", filesID, "--only-this-node", "--base-dir", filepath.Join(e.dir, "nothing"))
}

func TestDataExport_WhileOneRuns_IsRefused(t *testing.T) {
	e := exportCluster(t)
	e.patch(ExportPatch{Fault: new(ExportHangs), Times: new(1)})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	go func() {
		ended <- e.start(ctx, filesID, io.Discard, io.Discard, "--cluster", "--base-dir", e.dir, "first.tgz")
	}()
	require.Eventually(t, func() bool {
		fi, err := os.Stat(filepath.Join(e.dir, "first.tgz"))
		return err == nil && fi.Size() > 100<<10
	}, 10*time.Second, 2*time.Millisecond)
	require.True(t, e.c.Exporting(filesID))
	for _, call := range [][]string{{filesID, "--cluster"}, {filesID, "--only-this-node"}, {coreID, "--only-this-node"}} {
		_, errs, exit := e.run(call[0], call[1], "second.tgz")
		require.Equal(t, 1, exit)
		require.Equal(t, "ERROR: An export is already in progress.\n", errs)
	}
	e.c.SetExitAlwaysZero(coreID, true)
	_, errs, exit := e.run(coreID, "--only-this-node", "second.tgz")
	require.Zero(t, exit, "an old kato exits 0 with the error text")
	require.Contains(t, errs, "already in progress")
	stop()
	require.Equal(t, killedByTerm, <-ended)
	require.Contains(t, e.left(), "first.tgz", "what was killed leaves what it has written")
	_, _, err := read(t, filepath.Join(e.dir, "first.tgz"))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	_, errs, exit = e.run(filesID, "--cluster", "second.tgz")
	require.Zero(t, exit, errs)
}

func TestDataExport_OnTwoNodes_RunsSideBySide(t *testing.T) {
	e := exportCluster(t)
	e.patch(ExportPatch{Fault: new(ExportHangs), Times: new(1)})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	go func() {
		ended <- e.start(ctx, filesID, io.Discard, io.Discard, "--only-this-node", "--base-dir", e.dir, "first.tgz")
	}()
	require.Eventually(t, func() bool { return e.c.Exporting(filesID) }, 10*time.Second, time.Millisecond)
	_, errs, exit := e.run(coreID, "--only-this-node", "second.tgz")
	require.Zero(t, exit, errs)
	_, errs, exit = e.run(coreID, "--cluster", "--exclude-filesystem", "third.tgz")
	require.Equal(t, 1, exit)
	require.Contains(t, errs, "already in progress")
	stop()
	<-ended
}

func TestDataExport_Faults_AreWhatTheySayAndEndAfterTheirTimes(t *testing.T) {
	e := exportCluster(t)
	e.patch(ExportPatch{Size: new(int64(1 << 20))})
	for _, tc := range []struct {
		fault ExportFault
		exit  int
		left  bool
		text  string
	}{
		{ExportErrorText, 0, false, "ERROR: Could not dump"},
		{ExportNothing, 0, false, "Export finished"},
		{ExportTruncated, 0, true, "Export finished"},
		{ExportFails, 3, true, "ERROR: Could not dump"},
	} {
		t.Run(string(tc.fault), func(t *testing.T) {
			e.patch(ExportPatch{Fault: &tc.fault, Times: new(2), Exit: new(3)})
			for range 2 {
				out, errs, exit := e.run(filesID, "--cluster", "--base-dir", e.dir, "x.tgz")
				require.Equal(t, tc.exit, exit)
				require.Contains(t, out+errs, tc.text)
				if !tc.left {
					require.Empty(t, e.left())
					continue
				}
				_, _, err := read(t, filepath.Join(e.dir, "x.tgz"))
				require.ErrorIs(t, err, io.ErrUnexpectedEOF)
				require.NoError(t, os.Remove(filepath.Join(e.dir, "x.tgz")))
			}
			_, errs, exit := e.run(filesID, "--cluster", "--base-dir", e.dir, "x.tgz")
			require.Zero(t, exit, errs)
			_, _, err := read(t, filepath.Join(e.dir, "x.tgz"))
			require.NoError(t, err)
			require.NoError(t, os.Remove(filepath.Join(e.dir, "x.tgz")))
		})
	}
	require.Error(t, e.c.PatchNode(filesID, StatePatch{Export: &ExportPatch{Fault: new(ExportFault("explodes"))}}))
	require.Error(t, e.c.PatchNode(filesID, StatePatch{Export: &ExportPatch{Size: new(int64(-1))}}))
}

func TestDataExport_Slow_TellsItsProgressMeanwhile(t *testing.T) {
	e := exportCluster(t)
	e.patch(ExportPatch{Seconds: new(0.4)})
	r, w := io.Pipe()
	began := time.Now()
	ended := make(chan int, 1)
	go func() {
		ended <- e.start(t.Context(), filesID, w, io.Discard, "--only-this-node", "--base-dir", e.dir, "x.tgz")
		w.Close()
	}()
	var times []time.Duration
	buf := make([]byte, 1<<10)
	for {
		_, err := r.Read(buf)
		if err != nil {
			break
		}
		times = append(times, time.Since(began))
	}
	require.Zero(t, <-ended)
	require.GreaterOrEqual(t, time.Since(began), 400*time.Millisecond)
	require.Less(t, times[0], times[len(times)-1]/2, "the first line comes before the end")
	require.True(t, slices.IsSorted(times))
}

func TestKato_DatabaseHost_IsConfigurable(t *testing.T) {
	c := fixture()
	out, _, exit := kato(t, c, coreID, "config", "get", "mysql_node", "mysql/host")
	require.Zero(t, exit)
	require.Equal(t, "127.0.0.1\n", out)
	require.NoError(t, c.SetDatabaseHost("postgresql", "db.example.com"))
	out, _, _ = kato(t, c, coreID, "config", "get", "postgresql_node", "postgresql/host")
	require.Equal(t, "db.example.com\n", out)
	require.Error(t, c.SetDatabaseHost("redis", "x"))
}
