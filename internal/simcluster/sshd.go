package simcluster

import (
	"context"
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"mvdan.cc/sh/v3/expand"
)

const serverVersion = "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3"

// maxSessionsPerConnection is OpenSSH's MaxSessions.
const maxSessionsPerConnection = 10

// wire is a node's side of a TCP connection, with what the network does to it.
type wire struct {
	net.Conn
	node *Node
	once sync.Once
	gone chan struct{}
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.gone) })
	return w.Conn.Close()
}

// hold waits while the network is cut; bytes are not lost, as TCP would send them again.
func (w *wire) hold() error {
	for {
		silent, latency := w.node.network()
		if silent == nil {
			if latency > 0 {
				t := time.NewTimer(latency)
				defer t.Stop()
				select {
				case <-t.C:
				case <-w.gone:
					return net.ErrClosed
				}
			}
			return nil
		}
		select {
		case <-silent:
		case <-w.gone:
			return net.ErrClosed
		}
	}
}

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if herr := w.hold(); herr != nil {
		return 0, herr
	}
	return n, err
}

func (w *wire) Write(b []byte) (int, error) {
	if silent, _ := w.node.network(); silent != nil {
		if err := w.hold(); err != nil {
			return 0, err
		}
	}
	return w.Conn.Write(b)
}

// accept serves connections of one listener until it is closed.
func (n *Node) accept(l net.Listener, boot *bootState) {
	defer n.cluster.wg.Done()
	for {
		conn, err := l.Accept()
		if err != nil {
			if closedListener(err) {
				return
			}
			time.Sleep(time.Millisecond) // out of descriptors for a moment
			continue
		}
		w := &wire{Conn: conn, node: n, gone: make(chan struct{})}
		if !n.addConn(w, boot) {
			w.Close()
			continue
		}
		n.cluster.wg.Add(1)
		go func() {
			defer n.cluster.wg.Done()
			defer n.removeConn(w)
			defer w.Close()
			n.serve(w, boot)
		}()
	}
}

func (n *Node) serve(w *wire, boot *bootState) {
	key := n.hostKey()
	config := &ssh.ServerConfig{ServerVersion: serverVersion}
	if err := n.authentication(config, w.RemoteAddr()); err != nil {
		return
	}
	config.AddHostKey(key)
	conn, channels, requests, err := ssh.NewServerConn(w, config)
	if err != nil {
		return
	}
	defer conn.Close()
	n.cluster.wg.Add(1)
	go func() {
		defer n.cluster.wg.Done()
		ssh.DiscardRequests(requests) // answers keepalives
	}()
	slots := make(chan struct{}, maxSessionsPerConnection)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer conn.Close()
	for ch := range channels {
		switch ch.ChannelType() {
		case "session":
			select {
			case slots <- struct{}{}:
			default:
				ch.Reject(ssh.ResourceShortage, "open failed")
				continue
			}
			channel, reqs, err := ch.Accept()
			if err != nil {
				<-slots
				continue
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				held := &heldChannel{Channel: channel, release: sync.OnceFunc(func() { <-slots })}
				defer held.release()
				n.session(held, reqs, boot)
			}()
		case "direct-tcpip":
			wg.Add(1)
			go func() {
				defer wg.Done()
				n.forward(ch)
			}()
		default:
			ch.Reject(ssh.UnknownChannelType, "unsupported channel type")
		}
	}
}

// heldChannel gives its place back before the client learns that it is closed, so that the client's next one finds it free.
type heldChannel struct {
	ssh.Channel
	release func()
}

func (c *heldChannel) Close() error {
	c.release()
	return c.Channel.Close()
}

// forward makes the node usable as a jump host, to loopback addresses only.
func (n *Node) forward(ch ssh.NewChannel) {
	var to struct {
		Host   string
		Port   uint32
		Origin string
		OPort  uint32
	}
	if err := ssh.Unmarshal(ch.ExtraData(), &to); err != nil {
		ch.Reject(ssh.ConnectionFailed, "bad request")
		return
	}
	if ip := net.ParseIP(to.Host); to.Host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		ch.Reject(ssh.Prohibited, "open failed: only loopback addresses can be reached from here")
		return
	}
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))), 10*time.Second)
	if err != nil {
		ch.Reject(ssh.ConnectionFailed, "Connection refused")
		return
	}
	defer conn.Close()
	channel, reqs, err := ch.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	go ssh.DiscardRequests(reqs)
	done := make(chan struct{}, 2)
	go func() {
		io.Copy(conn, channel)
		conn.(*net.TCPConn).CloseWrite()
		done <- struct{}{}
	}()
	go func() {
		io.Copy(channel, conn)
		channel.CloseWrite()
		done <- struct{}{}
	}()
	<-done
	select {
	case <-done:
	case <-time.After(time.Minute):
	}
}

// session runs one exec or shell request.
func (n *Node) session(channel ssh.Channel, requests <-chan *ssh.Request, boot *bootState) {
	var once sync.Once
	closeChannel := func() { once.Do(func() { channel.Close() }) }
	defer closeChannel()
	var leader *process
	finished := make(chan struct{})
	running := false
	for {
		select {
		case req, ok := <-requests:
			if !ok {
				if running {
					<-finished
				}
				return
			}
			switch req.Type {
			case "exec", "shell":
				if running {
					req.Reply(false, nil)
					continue
				}
				var payload struct{ Command string }
				if req.Type == "exec" {
					if err := ssh.Unmarshal(req.Payload, &payload); err != nil {
						req.Reply(false, nil)
						continue
					}
				}
				p, err := boot.newProcess(n, nil, n.loginUser(), []string{"-bash"})
				if err != nil {
					req.Reply(false, nil)
					return
				}
				running, leader = true, p
				req.Reply(true, nil)
				go func() {
					defer close(finished)
					n.runSession(channel, p, req.Type == "shell", payload.Command)
					closeChannel()
				}()
			case "signal":
				var sig struct{ Name string }
				if ssh.Unmarshal(req.Payload, &sig) == nil && leader != nil {
					for _, p := range leader.boot.find(-leader.pid) {
						if _, user, _, _ := p.snapshot(); user == n.loginUser() {
							p.kill(signalNames[sig.Name])
						}
					}
				}
				if req.WantReply {
					req.Reply(true, nil)
				}
			case "env":
				// sshd's AcceptEnv takes nothing of ours.
				if req.WantReply {
					req.Reply(false, nil)
				}
			default:
				if req.WantReply {
					req.Reply(false, nil)
				}
			}
		case <-finished:
			finished = nil
			// The client closes its side; requests ends then.
		}
		if finished == nil {
			for range requests {
			}
			return
		}
	}
}

// runSession executes a command line as sshd does: by the login shell, with three pipes. The channel stays open until the last
// process that holds its output is gone; nothing is killed when the connection breaks.
func (n *Node) runSession(channel ssh.Channel, p *process, shellRequest bool, command string) {
	stdinR, stdinW := newPipe()
	n.cluster.wg.Add(1)
	go func() {
		defer n.cluster.wg.Done()
		defer stdinW.release()
		buf := make([]byte, 16<<10)
		for {
			k, err := channel.Read(buf)
			if k > 0 {
				// Unread input must not hold back the end of the channel: the reader's close ends the write.
				if _, werr := stdinW.write(n.cluster.ctx, buf[:k]); werr != nil {
					io.Copy(io.Discard, channel)
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	var open sync.WaitGroup
	output := func(w io.Writer) *description {
		open.Add(1)
		d := newDescription()
		var mu sync.Mutex
		d.write = func(_ context.Context, b []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			k, err := w.Write(b)
			if err != nil {
				err = syscall.EPIPE
			}
			return k, err
		}
		d.onClose = open.Done
		return d
	}
	env := n.loginEnvironment()
	s := &shell{node: n, p: p, bash: true, arg0: "bash", fds: fdTable{stdinR, output(channel), output(channel.Stderr())}, dir: env["HOME"], umask: 0o022, mainPID: p.pid}
	s.vars = variables(env, env["HOME"])
	if err := n.ready(); err != nil {
		s.complain("%v", err)
	}
	done := make(chan int, 1)
	go func() {
		n.untilThawed(p, command)
		if shellRequest {
			s.login()
			s.standardInput()
		} else {
			s.program(command)
		}
		s.fds.closeAll()
		p.finish(s.exit)
		done <- p.exit
	}()
	code := <-done
	p.mu.Lock()
	sig := p.signal
	p.mu.Unlock()
	if sig != 0 {
		name := "KILL"
		for k, v := range signalNames {
			if v == sig {
				name = k
			}
		}
		channel.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Name    string
			Core    bool
			Message string
			Lang    string
		}{name, false, "", ""}))
	} else {
		channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(code)}))
	}
	open.Wait()
	channel.CloseWrite()
}

// variables turns an environment into a shell's variables.
func variables(env map[string]string, dir string) map[string]expand.Variable {
	vars := make(map[string]expand.Variable, len(env)+4)
	for k, v := range env {
		x := str(v)
		x.Exported = true
		vars[k] = x
	}
	pwd := str(dir)
	pwd.Exported = true
	vars["PWD"] = pwd
	vars["IFS"] = str(" \t\n")
	vars["OPTIND"] = str("1")
	delete(vars, "_")
	return vars
}

// network says what happens on the way to the node: the channel is closed when a cut network works again.
func (n *Node) network() (silent chan struct{}, latency time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.silent, n.latency
}
