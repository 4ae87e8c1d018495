package hypervisortest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"time"

	"github.com/katoflow/katoflow/internal/remote"
)

// Local runs commands as processes of this machine, as sshd would: a script by sh, words by the login shell.
type Local struct {
	// Path is looked into first for commands; with Only nowhere else, but for sh and env.
	Path string
	Only bool
}

// Run runs one.
func (l Local) Run(ctx context.Context, h remote.Host, c remote.Command) (remote.Result, error) {
	argv := c.Argv
	if c.Script != "" {
		argv = append([]string{"sh", "-c", c.Script, "sh"}, c.Args...)
	}
	cmd := exec.Command("sh", "-c", remote.Quote(argv))
	if l.Only {
		cmd.Args[2] = "PATH=" + remote.Quote([]string{l.Path}) + "; env() { command -p env \"$@\"; }; " + cmd.Args[2]
	} else if l.Path != "" {
		cmd.Env = append(cmd.Environ(), "PATH="+l.Path+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if c.Stdout != nil {
		cmd.Stdout = c.Stdout
	}
	input, err := cmd.StdinPipe()
	if err != nil {
		return remote.Result{}, err
	}
	if ctx.Err() != nil {
		return remote.Result{}, ctx.Err()
	}
	if err := cmd.Start(); err != nil {
		return remote.Result{}, err
	}
	var copied sync.WaitGroup
	if c.Stdin != nil {
		copied.Go(func() { _, _ = io.Copy(input, c.Stdin); _ = input.Close() })
	} else {
		_ = input.Close()
	}
	cmd.WaitDelay = time.Second // what was started by it may live on and hold its output, as over SSH
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	err = cmd.Wait()
	stop()
	if closer, ok := c.Stdin.(io.Closer); ok {
		_ = closer.Close()
	}
	copied.Wait()
	result := remote.Result{ExitCode: cmd.ProcessState.ExitCode(), Stdout: stdout.Bytes(), Stderr: stderr.Bytes()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return result, ctx.Err()
	case result.ExitCode < 0:
		return result, &remote.Error{Kind: remote.KindTransport, Node: h.Name, Message: "the session was lost"}
	case err != nil && !errors.As(err, &exit):
		return result, err
	case result.ExitCode != 0 && !c.AnyExit:
		return result, &remote.Error{Kind: remote.KindExit, Node: h.Name, ExitCode: result.ExitCode, Message: fmt.Sprintf("exit %d", result.ExitCode)}
	}
	return result, nil
}
