package activities

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/archive"
)

// Apps of version 2.x that use a fixed port 3000, VMC_ variables, or paths in /app do not run in 3.x ("Incompatible Apps" of the source page). Before an import the droplets of such an
// archive are looked into, as far as its contents let them be recognised: how kato lays them out is not known (kato.md §8), so that an entry counts as a droplet when its path names
// droplets and it is a tar compressed with gzip. All that is bounded; what was not looked at is told as a number.
const (
	examineWithin = 2 * time.Minute
	// maxExamined is how much of an archive is read, compressed, and maxUnpacked how much of one droplet, unpacked, in bytes.
	maxExamined, maxUnpacked = 2 << 30, 256 << 20
	// maxSource is the largest file of a droplet that is looked into, in bytes, and maxSources how many of one droplet are.
	maxSource, maxSources = 512 << 10, 20_000
)

// The techniques, and how they look in a file.
var techniques = []struct {
	name string
	form *regexp.Regexp
}{
	{"port 3000", regexp.MustCompile(`(?i)\b(port|listen|bind)\b\W{0,8}3000\b|(0\.0\.0\.0|localhost|127\.0\.0\.1):3000\b`)},
	{"VMC_ variables", regexp.MustCompile(`\bVMC_[A-Z][A-Z_]+`)},
	{"paths in /app", regexp.MustCompile("(^|[\\s\"'`=:(,])/app(/[A-Za-z0-9._-]|[\"'`\\s]|$)")},
}

// examined is what was found in the droplets of an archive.
type examined struct {
	// droplets that were looked into, whole.
	droplets int
	// incompatible are the names of droplets in the archive with what they use.
	incompatible []incompatible
	// stopped says why the archive was not read to its end, "" when it was.
	stopped string
}

type incompatible struct {
	droplet string
	uses    []string
}

// examine reads an archive up to the bounds. It never fails: an archive that cannot be read on is one that was not examined on.
func examine(ctx context.Context, r io.Reader) (out examined) {
	bounded := &io.LimitedReader{R: r, N: maxExamined}
	zipped, err := gzip.NewReader(bufio.NewReaderSize(bounded, 1<<20))
	if err != nil {
		out.stopped = "it cannot be unpacked"
		return out
	}
	entries := tar.NewReader(zipped)
	for {
		h, err := entries.Next()
		switch {
		case ctx.Err() != nil:
			out.stopped = "it takes longer than " + examineWithin.String()
		case errors.Is(err, io.EOF):
		case err != nil && bounded.N <= 0:
			out.stopped = fmt.Sprintf("it is longer than %d GiB", maxExamined>>30)
		case err != nil:
			out.stopped = "it cannot be read on"
		}
		if err != nil || out.stopped != "" {
			return out
		}
		if h.Typeflag != tar.TypeReg || !ofDroplets(h.Name) {
			continue
		}
		uses, whole := lookInto(ctx, entries)
		if whole {
			out.droplets++
		}
		if len(uses) > 0 {
			out.incompatible = append(out.incompatible, incompatible{path.Clean(h.Name), uses})
		}
	}
}

// ofDroplets says whether a path of an archive names droplets.
func ofDroplets(name string) bool {
	folder, _ := path.Split(path.Clean(name))
	return strings.Contains(strings.ToLower(folder), "droplet")
}

// lookInto finds the techniques that the files of one droplet use. whole: it is a droplet, and was read to its end.
func lookInto(ctx context.Context, r io.Reader) (uses []string, whole bool) {
	zipped, err := gzip.NewReader(r)
	if err != nil {
		return nil, false
	}
	bounded := &io.LimitedReader{R: zipped, N: maxUnpacked}
	files := tar.NewReader(bounded)
	for n := 0; n < maxSources && ctx.Err() == nil; n++ {
		h, err := files.Next()
		if err != nil {
			return uses, errors.Is(err, io.EOF) && n > 0 && bounded.N > 0
		}
		if h.Typeflag != tar.TypeReg || h.Size > maxSource || len(uses) == len(techniques) || ofOthers(h.Name) {
			continue
		}
		text, err := io.ReadAll(files)
		if err != nil {
			return uses, false
		}
		if bytes.IndexByte(text[:min(len(text), 1024)], 0) >= 0 {
			continue // no text
		}
		for _, t := range techniques {
			if !slices.Contains(uses, t.name) && t.form.Match(text) {
				uses = append(uses, t.name)
			}
		}
	}
	return uses, false
}

// ofOthers leaves out what is not the app's own: libraries speak of ports and paths that they do not use.
func ofOthers(name string) bool {
	for _, part := range strings.Split(path.Clean(name), "/") {
		switch part {
		case "node_modules", "vendor", "site-packages", "gems", ".git", "logs":
			return true
		}
	}
	return false
}

// judgeDroplets tells what was found. apps are the names of the manifest's, as ORG/SPACE/APP.
func (f *findings) judgeDroplets(e examined, content *archive.Content) {
	named := map[string][]string{}
	total := 0
	if content != nil {
		total = content.Apps
		for _, org := range content.List {
			for _, space := range org.Spaces {
				for _, app := range space.Apps {
					named[app.Name] = append(named[app.Name], org.Name+"/"+space.Name+"/"+app.Name)
				}
			}
		}
	}
	for i, d := range e.incompatible {
		if i == 50 {
			f.warning("archive", "and %d more droplets use what does not run any more", len(e.incompatible)-i)
			break
		}
		who := "the droplet " + d.droplet
		for _, part := range strings.Split(strings.TrimSuffix(strings.TrimSuffix(d.droplet, ".gz"), ".tar"), "/") {
			if apps := named[strings.TrimSuffix(part, ".tgz")]; len(apps) == 1 {
				who = "app " + apps[0]
			}
		}
		f.warning("archive", "%s uses %s, which does not run since version 3: its owner has to change it, or to deploy it by hand", oneLine(who, 200), strings.Join(d.uses, ", "))
	}
	text := fmt.Sprintf("looked into %d droplets for port 3000, VMC_ variables and paths in /app", e.droplets)
	if left := total - e.droplets; left > 0 {
		text += fmt.Sprintf("; not examined: %d of %d apps", left, total)
	}
	if e.stopped != "" {
		text += " (" + e.stopped + ")"
	}
	f.warning("archive", "%s", text)
}
