package katodouble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// namesHost says whether a source that is no file can be a host: a path or an archive's name cannot.
func namesHost(source string) bool {
	return !strings.Contains(source, "/") && !strings.HasSuffix(source, ".tgz")
}

// loggedIn tries to log in to an old host; exit is 0 when it lets the caller in.
func (k *call) loggedIn(host string) (exit int) {
	if k.SSH == nil {
		return k.fail("Could not log in to %s: ssh: command not found", host)
	}
	_, err := k.SSH(k.ctx, host, "true", io.Discard, io.Discard)
	switch {
	case k.ctx.Err() != nil:
		return killedByTerm
	case err != nil:
		return k.fail("Could not log in to %s: %v", host, err)
	}
	return 0
}

// exportThere exports on the old host and prints the archive; nothing is left there. The end of standard input, which is that of the connection, ends the export.
const exportThere = `exec bash -lc 'd=$(mktemp -d /tmp/kato-export-XXXXXX) || exit
exec 3<&0
kato data export %s --base-dir "$d" "$d/export.tgz" </dev/null >/dev/null 3<&- & p=$!
{ cat <&3; kill $p; } >/dev/null 2>&1 &
wait $p; e=$?
if [ $e = 0 ]; then cat "$d/export.tgz" || e=$?; fi
rm -rf "$d"
exit $e'`

// fetch has the old host export what is to be imported, and opens a copy of the archive.
func (i *importer) fetch() (io.Closer, error) {
	k := i.k
	k.printf("Exporting from %s...\n", i.host)
	f, err := k.Files.Create(i.file)
	if err != nil {
		return nil, err
	}
	options := append([]string{i.options.mode()}, i.options.selection...)
	to, said := &copying{w: f}, &bytes.Buffer{}
	exit, err := k.SSH(k.ctx, i.host, fmt.Sprintf(exportThere, strings.Join(options, " ")), to, said)
	closed := f.Close()
	switch {
	case to.err != nil:
		return nil, to.err
	case err != nil:
		return nil, err
	case exit != 0:
		return nil, errors.New(reason(said.String(), exit))
	case closed != nil:
		return nil, closed
	}
	source, size, err := k.Files.Open(i.file)
	if err != nil {
		return nil, err
	}
	i.source, i.total, i.began = source, size, time.Now()
	return source, nil
}

// mode is the option that says where an export or import is at work.
func (o exportOptions) mode() string {
	switch {
	case o.cluster:
		return "--cluster"
	case o.local:
		return "--only-this-node"
	case o.force:
		return "--manual --force"
	}
	return "--manual"
}

// copying keeps the first error of writing.
type copying struct {
	w   io.Writer
	err error
}

func (c *copying) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	if c.err == nil {
		c.err = err
	}
	return n, err
}

// reason is what a command on another host has said of its failure: the last error of kato, or its last line.
func reason(said string, exit int) string {
	last := lastLine(said)
	for line := range strings.Lines(said) {
		if text, ok := strings.CutPrefix(line, "ERROR: "); ok {
			last = strings.TrimSpace(text)
		}
	}
	if last == "" {
		return fmt.Sprintf("exit code %d", exit)
	}
	return last
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:])
}

// OSSSH is the machine's ssh, which never asks; its own exit code is 255.
func OSSSH(ctx context.Context, host, command string, stdout, stderr io.Writer) (exit int, err error) {
	cmd := exec.CommandContext(ctx, "ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "--", host, command)
	cmd.WaitDelay = time.Second
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = stdout, io.MultiWriter(stderr, &said)
	// Held open until ssh has ended, and closed for the host when this process is killed.
	if _, err := cmd.StdinPipe(); err != nil {
		return 0, err
	}
	err = cmd.Run()
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	var failed *exec.ExitError
	if !errors.As(err, &failed) {
		return 0, err
	}
	if failed.ExitCode() == 255 || failed.ExitCode() < 0 {
		return 0, errors.New(reason(said.String(), failed.ExitCode()))
	}
	return failed.ExitCode(), nil
}
