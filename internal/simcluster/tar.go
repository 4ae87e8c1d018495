package simcluster

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
)

// tarProgram is tar for reading: t and x, of a file or of standard input, compressed or not. Errors are worded as by GNU tar with gzip as its child.
func tarProgram(c *invocation) int {
	if len(c.argv) > 1 && !strings.HasPrefix(c.argv[1], "-") { // the old form: tar tzf FILE
		c.argv = append([]string{c.argv[0], "-" + c.argv[1]}, c.argv[2:]...)
	}
	opts, names := c.getopt("txvzf:C:Opk", map[string]string{"list": "t", "extract": "x", "get": "x", "verbose": "v", "gzip": "z", "gunzip": "z", "file": "f", "directory": "C", "to-stdout": "O"})
	if opts == nil {
		return 2
	}
	_, list := opts["t"]
	_, extract := opts["x"]
	if list == extract {
		return c.fail(2, "You must specify one of the '-Acdtrux', '--delete' or '--test-label' options")
	}
	_, zipped := opts["z"]
	fatal := func(format string, args ...any) int {
		c.fail(2, format, args...)
		return c.fail(2, "Error is not recoverable: exiting now")
	}
	in := c.stdin()
	if name, ok := opts["f"]; ok && name != "-" {
		d, err := c.open(name, os.O_RDONLY, 0)
		if err != nil {
			if zipped {
				c.errorf("tar (child): %s: Cannot open: %s\ntar (child): Error is not recoverable: exiting now", name, errorText(err))
				return fatal("Child returned status 2")
			}
			return fatal("%s: Cannot open: %s", name, errorText(err))
		}
		defer d.release()
		in = fdReader{c.p.ctx, d}
	}
	blocks := bufio.NewReaderSize(in, 256<<10)
	var r io.Reader = blocks
	var unzip *gzip.Reader
	if head, _ := blocks.Peek(2); zipped || slices.Equal(head, []byte{0x1f, 0x8b}) {
		var err error
		if unzip, err = gzip.NewReader(blocks); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				c.errorf("\ngzip: stdin: unexpected end of file")
			} else {
				c.errorf("\ngzip: stdin: not in gzip format")
			}
			return fatal("Child returned status 1")
		}
		r = unzip
	}
	_, verbose := opts["v"]
	exit := 0
	seen := map[string]bool{}
	archive := tar.NewReader(r)
	for {
		h, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			if c.p.ctx.Err() != nil {
				return 128 + sigTERM
			}
			if len(names) > 0 && !slices.ContainsFunc(names, func(n string) bool { return below(path.Clean(h.Name), path.Clean(n)) }) {
				continue
			}
			for _, n := range names {
				seen[n] = seen[n] || below(path.Clean(h.Name), path.Clean(n))
			}
			switch {
			case list && verbose:
				c.printf("%s %s/%s %10d %s %s\n", modeString(h.FileInfo().Mode()), h.Uname, h.Gname, h.Size, h.ModTime.UTC().Format("2006-01-02 15:04"), h.Name)
			case list || verbose:
				c.printf("%s\n", h.Name)
			}
			if extract {
				err = c.extract(archive, h, opts)
			}
			if c.broken != nil {
				return 2
			}
		}
		if err == nil {
			continue
		}
		switch {
		case c.p.ctx.Err() != nil:
			return 128 + sigTERM
		case unzip != nil && (errors.Is(err, gzip.ErrChecksum) || isCorrupt(err)):
			c.errorf("\ngzip: stdin: invalid compressed data--crc error")
			return fatal("Child returned status 1")
		case errors.Is(err, io.ErrUnexpectedEOF):
			if unzip != nil {
				c.errorf("\ngzip: stdin: unexpected end of file")
			}
			return fatal("Unexpected EOF in archive")
		case errors.Is(err, tar.ErrHeader):
			return fatal("This does not look like a tar archive")
		case h == nil:
			return fatal("%s", errorText(err))
		default:
			exit = c.fail(2, "%s: Cannot open: %s", h.Name, errorText(err))
		}
	}
	// What is behind the end of the archive has to be whole as well: gzip is read to its checksum.
	if _, err := copyBlocks(io.Discard, r); err != nil && unzip != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			c.errorf("\ngzip: stdin: unexpected end of file")
		} else {
			c.errorf("\ngzip: stdin: invalid compressed data--crc error")
		}
		return fatal("Child returned status 1")
	}
	for _, n := range names {
		if !seen[n] {
			exit = c.fail(2, "%s: Not found in archive", n)
		}
	}
	return exit
}

// isCorrupt says that what gzip read is no compressed data.
func isCorrupt(err error) bool {
	return strings.HasPrefix(err.Error(), "flate: ") || errors.Is(err, gzip.ErrHeader)
}

// extract makes one entry, below the folder of -C, or writes it to standard output.
func (c *invocation) extract(r io.Reader, h *tar.Header, opts map[string]string) error {
	if _, out := opts["O"]; out {
		_, err := copyBlocks(c, r)
		return err
	}
	name := path.Join(opts["C"], path.Join("/", h.Name)[1:])
	if h.Typeflag == tar.TypeDir {
		return c.mkdirAll(name, h.FileInfo().Mode().Perm(), true)
	}
	if h.Typeflag != tar.TypeReg {
		return syscall.ENOTSUP
	}
	if err := c.mkdirAll(path.Dir(name), 0o777&^c.umask, true); err != nil {
		return err
	}
	d, err := c.open(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, h.FileInfo().Mode().Perm())
	if err != nil {
		return err
	}
	defer d.release()
	_, err = copyBlocks(fdWriter{c.p.ctx, d}, r)
	return err
}
