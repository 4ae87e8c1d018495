package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func TestRun_Argv_GivesOutputAndExitCode(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	res := mustRun(t, p, s.hostEntry(), "echo", "it's $HOME; `id`")
	if got := string(res.Stdout); got != "it's $HOME; `id`\n" || res.ExitCode != 0 || res.Duration <= 0 {
		t.Fatalf("got %q, exit %d, %s", got, res.ExitCode, res.Duration)
	}
}

func TestRun_NonZeroExit_IsErrorWithCodeAndCleanTail(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	h := s.hostEntry()
	c := Command{Script: `printf 'begin\n'; printf 'E: \033[31mheld\033[0m by pid 7\n' >&2; exit 100`}
	res, err := p.Run(testContext(t), h, c)
	wantError(t, err, KindExit, "dea-1: script: exit 100: ", `E: \x1b[31mheld\x1b[0m by pid 7`)
	var e *Error
	if !errors.As(err, &e) || e.ExitCode != 100 || !strings.Contains(e.Tail, `E: \x1b[31mheld`) || strings.Contains(e.Tail, "\x1b") {
		t.Errorf("error %+v", e)
	}
	if res.ExitCode != 100 || string(res.Stdout) != "begin\n" {
		t.Errorf("result %+v", res)
	}
	c.AnyExit = true
	if res, err = p.Run(testContext(t), h, c); err != nil || res.ExitCode != 100 {
		t.Errorf("with AnyExit: %v, exit %d", err, res.ExitCode)
	}
}

func TestRun_CommandKilledBySignal_ExitIs128PlusSignal(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	res, err := p.Run(testContext(t), s.hostEntry(), Command{Script: "kill -TERM $$"})
	wantError(t, err, KindExit, "exit 143")
	if res.ExitCode != 143 {
		t.Errorf("exit %d", res.ExitCode)
	}
}

func TestRun_ScriptWithArgsAndStdin_WorksInEveryLoginShell(t *testing.T) {
	for name, shell := range quoteShells(t) {
		t.Run(name, func(t *testing.T) {
			s := newSSHServer(t, func(s *sshServer) { s.shell = append(shell, "-c") })
			p := newTestPool(t, Options{})
			data := strings.Repeat("exit 9\n'\x00\xff", 20000)
			res, err := p.Run(testContext(t), s.hostEntry(), Command{
				Script: "# it's a \"script\" with $1 in a comment\nread first\nprintf '%s|' \"$first\" \"$@\"\ncat\n",
				Args:   []string{"a b", "", "$(id)", "it's\n"},
				Stdin:  strings.NewReader("line\n" + data),
			})
			if err != nil {
				t.Fatal(err)
			}
			if want := "line|a b||$(id)|it's\n|" + data; string(res.Stdout) != want {
				t.Errorf("got %d bytes, want %d; begins %.60q", len(res.Stdout), len(want), res.Stdout)
			}
		})
	}
}

func TestRun_NoStdin_CommandSeesItsEnd(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	if res := mustRun(t, p, s.hostEntry(), "cat"); len(res.Stdout) != 0 {
		t.Errorf("got %q", res.Stdout)
	}
}

func TestRun_MoreOutputThanKept_IsTruncatedAndDrained(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	res, err := p.Run(testContext(t), s.hostEntry(), Command{Script: "head -c 5000000 /dev/zero; echo done >&2", MaxOutput: 1000})
	if err != nil || len(res.Stdout) != 1000 || !res.Truncated || string(res.Stderr) != "done\n" {
		t.Errorf("%v: %d bytes, truncated %v, stderr %q", err, len(res.Stdout), res.Truncated, res.Stderr)
	}
}

func TestRun_Writers_GetTheStreamsApartAndNothingIsKept(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	var out, errs bytes.Buffer
	res, err := p.Run(testContext(t), s.hostEntry(), Command{Script: "echo o; echo e >&2; exit 3", Stdout: &out, Stderr: &errs})
	wantError(t, err, KindExit, "exit 3: e")
	if out.String() != "o\n" || errs.String() != "e\n" || res.Stdout != nil || res.Stderr != nil {
		t.Errorf("%q %q %+v", out.String(), errs.String(), res)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("bucket is gone") }

func TestRun_CallersWriterFails_CommandIsStopped(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	_, err := p.Run(testContext(t), s.hostEntry(), Command{Script: "yes", Stdout: failingWriter{}})
	if err == nil || KindOf(err) != "" || !strings.Contains(err.Error(), "bucket is gone") {
		t.Fatalf("got %v", err)
	}
	eventually(t, "the command is gone", 10*time.Second, func() bool { return s.sessions.Load() == 0 })
}

type failingReader struct{ once sync.Once }

func (f *failingReader) Read(b []byte) (n int, err error) {
	err = errors.New("disk is gone")
	f.once.Do(func() { n, err = copy(b, "half"), nil })
	return n, err
}

func TestRun_CallersReaderFails_CommandDoesNotSeeACompleteInput(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	_, err := p.Run(testContext(t), s.hostEntry(), Command{Argv: []string{"cat"}, Stdin: &failingReader{}})
	if err == nil || KindOf(err) != "" || !strings.Contains(err.Error(), "disk is gone") {
		t.Fatalf("got %v", err)
	}
}

func TestRun_StdinThatNeverEnds_CommandEndsAnyway(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	r, w := io.Pipe()
	defer w.Close()
	began := time.Now()
	if _, err := p.Run(testContext(t), s.hostEntry(), Command{Argv: []string{"true"}, Stdin: r}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestRun_ContextEnds_CommandIsKilledAndPlaceIsFree(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	h := s.hostEntry()
	h.MaxSessions = 1
	for name, end := range map[string]error{"deadline": context.DeadlineExceeded, "cancel": context.Canceled} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			if end == context.Canceled {
				ctx, cancel = context.WithCancel(context.Background())
				time.AfterFunc(300*time.Millisecond, cancel)
			}
			began := time.Now()
			_, err := p.Run(ctx, h, Command{Script: "echo begun; sleep 100; echo no"})
			if !errors.Is(err, end) || KindOf(err) != "" || !strings.Contains(err.Error(), "dea-1: stopped while running script") {
				t.Errorf("got kind %q: %v", KindOf(err), err)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("took %s", took)
			}
			eventually(t, "the command is gone", 10*time.Second, func() bool { return s.sessions.Load() == 0 })
			mustRun(t, p, h, "true")
		})
	}
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestRun_ConnectionLostMidCommand_IsTransportAndNothingIsSentAgain(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	h := s.hostEntry()
	mark := filepath.Join(t.TempDir(), "ran")
	done := make(chan error, 1)
	go func() {
		_, err := p.Run(testContext(t), h, Command{Script: `echo x >> "$1"; sleep 100`, Args: []string{mark}})
		done <- err
	}()
	eventually(t, "the command runs", 10*time.Second, func() bool { b, _ := os.ReadFile(mark); return len(b) > 0 })
	s.dropAll()
	wantError(t, <-done, KindTransport, "dea-1: ssh: connection to 127.0.0.1", "lost while running script", "unknown")
	mustRun(t, p, h, "true")
	if b, _ := os.ReadFile(mark); string(b) != "x\n" {
		t.Errorf("the command ran %d times", bytes.Count(b, []byte("x")))
	}
	if n := s.execs.Load(); n != 2 {
		t.Errorf("%d commands were sent, want 2", n)
	}
}

func TestRun_ServerDropsAtTheExecRequest_IsNotSentAgain(t *testing.T) {
	s := newSSHServer(t, func(s *sshServer) { s.beforeExec = func(string) error { return errors.New("drop") } })
	p := newTestPool(t, Options{})
	_, err := p.Run(testContext(t), s.hostEntry(), Command{Argv: []string{"reboot"}})
	wantError(t, err, KindTransport, "unknown")
	if n := s.execs.Load(); n != 1 {
		t.Errorf("sent %d times", n)
	}
}

func TestRun_OutputBeforeTheConnectionBroke_IsKept(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	h := s.hostEntry()
	var out notifyingBuffer
	out.c = make(chan struct{}, 1)
	go func() { <-out.c; s.dropAll() }()
	_, err := p.Run(testContext(t), h, Command{Script: "echo going down; sleep 100", Stdout: &out})
	wantError(t, err, KindTransport)
	if out.b.String() != "going down\n" {
		t.Errorf("got %q", out.b.String())
	}
}

type notifyingBuffer struct {
	b bytes.Buffer
	c chan struct{}
}

func (n *notifyingBuffer) Write(b []byte) (int, error) {
	select {
	case n.c <- struct{}{}:
	default:
	}
	return n.b.Write(b)
}

func TestRun_ContextEndedBefore_NothingIsSent(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	h := s.hostEntry()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for range 20 {
		if _, err := p.Run(ctx, h, Command{Argv: []string{"true"}}); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
	}
	if n := s.execs.Load(); n != 0 {
		t.Errorf("%d commands sent", n)
	}
}

func TestRun_TextOfTheServerInTheChainOfErrors_IsEscaped(t *testing.T) {
	s := newSSHServer(t, func(s *sshServer) { s.refusal = "no\x1b[2J\nmore" })
	p := newTestPool(t, Options{})
	p.waits.refused = time.Millisecond
	_, err := p.Run(testContext(t), s.hostEntry(), Command{Argv: []string{"true"}})
	wantError(t, err, KindTransport, `no\x1b[2J\nmore`)
	var refused *ssh.OpenChannelError
	if !errors.As(err, &refused) {
		t.Error("the cause is lost")
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		if strings.ContainsAny(e.Error(), "\x1b\n") {
			t.Errorf("%q", e.Error())
		}
	}
}

func TestRun_CommandThatCannotBeSent_TouchesNoNode(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	h := s.hostEntry()
	for name, c := range map[string]Command{
		"empty":           {},
		"empty word":      {Argv: []string{""}},
		"NUL":             {Argv: []string{"echo", "a\x00; reboot"}},
		"NUL in script":   {Script: "echo \x00"},
		"NUL in args":     {Script: "echo", Args: []string{"\x00"}},
		"argv and script": {Argv: []string{"x"}, Script: "x"},
		"too long":        {Argv: []string{"echo", strings.Repeat("x", 200<<10)}},
	} {
		if _, err := p.Run(testContext(t), h, c); err == nil || KindOf(err) != "" || !strings.HasPrefix(err.Error(), "dea-1: ") || strings.Contains(err.Error(), "\x00") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, h := range map[string]Host{
		"no address": {Name: "x", User: "u"}, "no user": {Name: "x", Address: "127.0.0.1"}, "port": {Name: "x", Address: "a", User: "u", Port: 70000},
		"two bastions": {Name: "x", Address: "a", User: "u", Bastion: &Host{Address: "b", User: "u", Bastion: &Host{}}},
	} {
		if _, err := p.Run(testContext(t), h, Command{Argv: []string{"true"}}); err == nil || !strings.HasPrefix(err.Error(), "x: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s.accepted.Load() != 0 {
		t.Error("the node was dialled")
	}
}

func TestRun_LongScript_FitsTheExecRequest(t *testing.T) {
	s := newSSHServer(t)
	p := newTestPool(t, Options{})
	res, err := p.Run(testContext(t), s.hostEntry(), Command{Script: strings.Repeat("# it's long\n", 6000) + "echo end"})
	if err != nil || string(res.Stdout) != "end\n" {
		t.Errorf("%v %q", err, res.Stdout)
	}
}

func TestRun_EveryErrorKind_IsFoundThroughWrapping(t *testing.T) {
	cause := errors.New("cause\x1b")
	err := fmt.Errorf("step: %w", &Error{Kind: KindBusy, Node: "dea-1", Holder: "op-1", Err: cause})
	if !IsKind(err, KindBusy) || IsKind(err, KindExit) || IsKind(nil, KindBusy) || IsKind(err, "") || KindOf(cause) != "" || !errors.Is(err, cause) {
		t.Error("kinds are not told apart")
	}
	if got := err.Error(); got != `step: dea-1: busy: cause\x1b` {
		t.Errorf("got %q", got)
	}
}
