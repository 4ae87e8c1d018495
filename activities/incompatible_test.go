package activities

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/archive"
	"github.com/katoflow/katoflow/internal/archive/archivetest/sample"
)

// tgz is a tar of files, name and content in turn, compressed.
func tgz(t *testing.T, files ...string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for i := 0; i < len(files); i += 2 {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: files[i], Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(files[i+1]))}))
		_, err := w.Write([]byte(files[i+1]))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, z.Close())
	return b.String()
}

// oldArchive has two apps that do not run in 3.x, two that do, and a droplet of no form that is known.
func oldArchive(t *testing.T) string {
	return tgz(t,
		"helion-main-db/content.json", "{}",
		"droplets/shop-web.tgz", tgz(t, "app/server.js", "http.createServer(f).listen(3000)", "app/run.sh", "cd /app/bin && exec ./x"),
		"droplets/3c9a/droplet", tgz(t, "app/config.php", "<?php $db = getenv('VMC_SERVICES');"),
		"droplets/clean.tgz", tgz(t, "app/server.js", "listen(process.env.PORT || 8080); // report 3000 apps at /application", "app/node_modules/x/index.js", "server.listen(3000)", "app/logo.png", "\x00\x00listen(3000)"),
		"droplets/lib.tgz", tgz(t, "app/main.rb", "port = ENV['VCAP_APP_PORT']; '/apps/list'"),
		"droplets/0005", "random bytes",
		"packages/p.tgz", tgz(t, "server.js", "listen(3000)"))
}

func TestDroplets_OfAnOldArchive_AreLookedIntoForWhatDoesNotRunAnyMore(t *testing.T) {
	e := examine(t.Context(), strings.NewReader(oldArchive(t)))
	require.Equal(t, examined{droplets: 4, incompatible: []incompatible{{"droplets/shop-web.tgz", []string{"port 3000", "paths in /app"}}, {"droplets/3c9a/droplet", []string{"VMC_ variables"}}}}, e)

	var f findings
	f.judgeDroplets(e, &archive.Content{Apps: 6, List: []archive.Org{{Name: "o", Spaces: []archive.Space{{Name: "s", Apps: []archive.App{{Name: "shop-web"}, {Name: "other"}}}}}}})
	require.Empty(t, f.problems)
	require.Equal(t, []string{
		"archive: app o/s/shop-web uses port 3000, paths in /app, which does not run since version 3: its owner has to change it, or to deploy it by hand",
		"archive: the droplet droplets/3c9a/droplet uses VMC_ variables, which does not run since version 3: its owner has to change it, or to deploy it by hand",
		"archive: looked into 4 droplets for port 3000, VMC_ variables and paths in /app; not examined: 2 of 6 apps",
	}, f.warnings)
}

func TestDroplets_OfAnArchiveThatCannotBeRead_AreToldAsNotExamined(t *testing.T) {
	whole := oldArchive(t)
	for name, c := range map[string]struct {
		archive string
		stopped string
	}{
		"no archive":   {"not gzip", "it cannot be unpacked"},
		"nothing":      {"", "it cannot be unpacked"},
		"cut":          {whole[:len(whole)/2], "it cannot be read on"},
		"no droplets":  {tgz(t, "main-db", "x"), ""},
		"of something": {tgz(t, "droplets/a", tgz(t)), ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := examine(t.Context(), strings.NewReader(c.archive))
			require.Equal(t, c.stopped, e.stopped)
			if name != "cut" {
				require.Zero(t, e.droplets)
			}
		})
	}
	// A droplet that unpacks to more than is looked at ends its reading, and not that of the others.
	var zeros bytes.Buffer
	z := gzip.NewWriter(&zeros)
	w := tar.NewWriter(z)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "app/big", Typeflag: tar.TypeReg, Mode: 0o644, Size: maxUnpacked + 1<<20}))
	_, err := io.CopyN(w, zeroReader{}, maxUnpacked+1<<20)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, z.Close())
	e := examine(t.Context(), strings.NewReader(tgz(t, "droplets/bomb.tgz", zeros.String(), "droplets/web.tgz", tgz(t, "app/a", "$VMC_SERVICES"))))
	require.Equal(t, 1, e.droplets)
	require.Equal(t, []incompatible{{"droplets/web.tgz", []string{"VMC_ variables"}}}, e.incompatible)
}

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// archivesDroplets reads one from its bucket.
func archivesDroplets(t *testing.T, s *services) {
	r := s.rehearsing(t, "    scratch: true\n", "")
	_, err := sample.Make(t.Context(), r.store, prod("old"), []byte(oldArchive(t)), month(3), nil, func(m *archive.Manifest) { m.KatoVersion = "2.10.6" })
	require.NoError(t, err)
	e := r.archives.examineArchive(t.Context(), RestoreReadyInput{From: prod("old").Cluster}, prod("old"))
	require.Equal(t, 4, e.droplets)
	require.Len(t, e.incompatible, 2)
	require.Empty(t, e.stopped)
	require.Contains(t, r.archives.examineArchive(t.Context(), RestoreReadyInput{From: prod("old").Cluster}, prod("never")).stopped, "never")
}
