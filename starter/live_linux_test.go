package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// startOnTerminal runs the command on a pseudo terminal of its own; what it writes comes to process.out.
func (s *site) startOnTerminal(columns, rows uint16, args ...string) (p *process, keys io.Writer) {
	s.t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		s.t.Skipf("no pseudo terminal on this machine: %v", err)
	}
	s.t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		s.t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}); err != nil {
		s.t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	p = &process{s: s, cmd: exec.Command("katoflow", args...), ended: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = s.env, terminal, terminal, terminal
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	terminal.Close()
	drained := make(chan struct{})
	go func() {
		_, _ = io.Copy(&p.out, master) // ends with EIO when the command has ended
		close(drained)
	}()
	go func() {
		_ = p.cmd.Wait()
		<-drained
		close(p.ended)
	}()
	s.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
	})
	return p, master
}

func TestWatch_OnATerminal_RedrawsRingsAndLeavesTheCursor(t *testing.T) {
	s := newSite(t)
	s.startWorker()
	p, keys := s.startOnTerminal(100, 30, "upgrade", "security", "prod", "--id", "park-1")
	p.says("katoflow op decide park-1 --node core --step upgrade --try 1 retry").says("\a")
	p.says("\x1b[33mblocked\x1b[0m")
	if !strings.Contains(p.out.String(), "\x1b[?25l") {
		t.Error("the cursor was not hidden")
	}
	if _, err := keys.Write([]byte{3}); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	p.end(exitInterrupted).says("operation park-1 goes on: watch it again with katoflow op watch park-1")
	if out := p.out.String(); strings.LastIndex(out, "\x1b[?25h") < strings.LastIndex(out, "\x1b[?25l") {
		t.Error("the cursor stays hidden")
	}

	p, _ = s.startOnTerminal(60, 12, "op", "watch", "prod", "--no-color")
	p.says("katoflow op decide park-1")
	s.run(exitDone, "op", "decide", "prod", "retry", "--node", "dea-1")
	s.run(exitDone, "op", "decide", "prod", "retry")
	p.end(exitDone).says("2 nodes: 2 done")
	if strings.Contains(p.out.String(), "\x1b[3") {
		t.Error("colours although --no-color")
	}

	s.env = append(s.env, "TERM=dumb")
	p, _ = s.startOnTerminal(80, 24, "op", "watch", "park-1")
	p.end(exitDone)
	if strings.Contains(p.out.String(), "\x1b") {
		t.Errorf("escape codes on a dumb terminal: %q", &p.out)
	}
}

func TestTrust_OnATerminal_AsksFirst(t *testing.T) {
	s := newSite(t)
	s.startWorker()
	p, keys := s.startOnTerminal(100, 30, "cluster", "trust", "prod")
	p.says("SHA256:aaa").says("Trust these 1 keys? [y/N] ")
	if _, err := keys.Write([]byte("n\n")); err != nil {
		t.Fatal(err)
	}
	p.end(exitAborted).says("no key was trusted")
	p, keys = s.startOnTerminal(100, 30, "cluster", "trust", "prod", "--replace")
	p.says("Trust these 2 keys? [y/N] ")
	if _, err := keys.Write([]byte("y\n")); err != nil {
		t.Fatal(err)
	}
	p.end(exitDone).says("replaced")
}
