package simcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// What a container has is little: the node's interpreter and coreutils, and the package commands, which see the packages of the image. Files are the node's own, but for dpkg's status.

// notInImages are the programs of a node that an image does not have.
func notInImages() []string {
	return []string{"docker", "sudo", "su", "kato", "ssh", "curl", "systemctl", "reboot", "shutdown", "poweroff", "halt", "vmctl", "needrestart", "systemd-detect-virt"}
}

func inImages(program string) bool { return !slices.Contains(notInImages(), program) }

// containerEnvironment is what a container's first process gets.
func containerEnvironment(hostname string) map[string]string {
	return map[string]string{"PATH": containerPath, "HOSTNAME": hostname, "HOME": "/root"}
}

const containerPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// instruction of a Dockerfile.
type instruction struct{ verb, rest string }

// cachedStep is what a step made before on the same image.
type cachedStep struct {
	layer    dockerLayer
	packages packageDisk
}

// parseDockerfile knows what an upgrade needs: FROM, RUN, and some that change nothing here.
func parseDockerfile(text string) (out []instruction, err error) {
	line, number := "", 0
	for raw := range strings.Lines(text) {
		number++
		raw = strings.TrimRight(raw, "\r\n \t")
		if t := strings.TrimSpace(raw); t == "" || t[0] == '#' {
			continue
		}
		if more, continues := strings.CutSuffix(raw, `\`); continues {
			line += more
			continue
		}
		verb, rest, _ := strings.Cut(strings.TrimSpace(line+raw), " ")
		line = ""
		verb, rest = strings.ToUpper(verb), strings.TrimSpace(rest)
		switch {
		case !slices.Contains([]string{"FROM", "RUN", "ENV", "LABEL", "MAINTAINER", "CMD"}, verb):
			return nil, fmt.Errorf("dockerfile parse error line %d: unknown instruction: %s", number, verb)
		case rest == "":
			return nil, fmt.Errorf("dockerfile parse error line %d: %s requires at least one argument", number, verb)
		case len(out) == 0 && verb != "FROM":
			return nil, errors.New("no build stage in current context")
		}
		out = append(out, instruction{verb, rest})
	}
	if len(out) == 0 {
		return nil, errors.New("the Dockerfile (Dockerfile) cannot be empty")
	}
	return out, nil
}

// dockerBuild is one build. The daemon does it: it has no process of the client's.
type dockerBuild struct {
	d       *Docker
	boot    *bootState
	ctx     context.Context
	cancel  context.CancelFunc
	steps   []instruction
	name    string // with its tag; "" for none
	noCache bool
	remove  bool // the containers of its steps
	out     *buildOutput
	done    chan struct{}

	// valid once done is closed
	exit    int
	message string
}

// buildOutput is what a build has printed and its client has not read. It takes everything, because the build does not wait for its client.
type buildOutput struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func (o *buildOutput) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
	return o.text.Write(b)
}

// take returns what is there, and what is closed when there is more.
func (o *buildOutput) take() ([]byte, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	b := bytes.Clone(o.text.Bytes())
	o.text.Reset()
	return b, o.changed
}

// startBuild lets the daemon begin.
func (d *Docker) startBuild(boot *bootState, steps []instruction, name string, noCache, remove bool) *dockerBuild {
	b := &dockerBuild{d: d, boot: boot, steps: steps, name: name, noCache: noCache, remove: remove, out: &buildOutput{changed: make(chan struct{})}, done: make(chan struct{})}
	b.ctx, b.cancel = context.WithCancel(boot.ctx)
	d.all.mu.Lock()
	d.running[b] = true
	d.all.mu.Unlock()
	d.node.cluster.wg.Go(func() {
		defer close(b.done)
		defer b.cancel()
		b.exit, b.message = b.run()
		d.all.mu.Lock()
		delete(d.running, b)
		d.all.mu.Unlock()
	})
	return b
}

// follow copies what the build prints to its client until it ends. A client that is killed ends it since 1.12; before, the daemon went on.
func (b *dockerBuild) follow(c *invocation) (ended bool) {
	for {
		over := false
		select {
		case <-b.done:
			over = true
		default:
		}
		text, more := b.out.take()
		if len(text) > 0 {
			_, _ = c.Write(text)
		}
		if over {
			return true
		}
		select {
		case <-more:
		case <-b.done:
		case <-c.p.ctx.Done():
			if !b.d.all.version.before(1, 12) {
				b.cancel()
				<-b.done
			}
			return false
		}
	}
}

func (b *dockerBuild) say(format string, args ...any) { fmt.Fprintf(b.out, format+"\n", args...) }

// run does the steps, and returns the client's exit code and what it says last.
func (b *dockerBuild) run() (exit int, message string) {
	d, v := b.d, b.d.all.version
	d.all.mu.Lock()
	base := d.lookup(b.steps[0].rest)
	if base != nil {
		base = base.copy()
	}
	d.all.mu.Unlock()
	b.announce(0)
	if base == nil {
		return 1, d.notThere(b.steps[0].rest)
	}
	b.say(" ---> %s", base.id[:12])
	runs := 0
	for _, s := range b.steps {
		if s.verb == "RUN" {
			runs++
		}
	}
	pause := d.node.cluster.cfg.ImageBuildTime / time.Duration(max(1, runs))
	state := base.state(d.node)
	layers, broken := base.layers, base.broken
	layers[len(layers)-1].local = true
	env := containerEnvironment("")
	for n, s := range b.steps[1:] {
		b.announce(n + 1)
		if key, value, ok := strings.Cut(s.rest, "="); ok && s.verb == "ENV" {
			env[key] = strings.Trim(value, `"`)
		}
		layer := dockerLayer{id: newHexID(), by: "/bin/sh -c #(nop) " + s.verb + " " + s.rest, local: true}
		if s.verb == "RUN" {
			layer.by = "/bin/sh -c " + s.rest
		}
		key := layers[len(layers)-1].id + "\n" + layer.by
		d.all.mu.Lock()
		known, cached := d.cache[key]
		d.all.mu.Unlock()
		if cached && !b.noCache {
			b.say(" ---> Using cache\n ---> %s", known.layer.id[:12])
			layers = append(layers, known.layer)
			state.putBack(known.packages.copy())
			continue
		}
		container := newHexID()
		b.say(" ---> Running in %s", container[:12])
		if s.verb == "RUN" {
			env["HOSTNAME"] = container[:12]
			before := len(state.disk().pending)
			exit := b.step(s.rest, state, env, pause)
			if b.ctx.Err() != nil {
				return 1, "unexpected EOF"
			}
			if exit != 0 {
				if v.before(1, 6) {
					return exit, fmt.Sprintf("The command [/bin/sh -c %s] returned a non-zero code: %d", s.rest, exit)
				}
				return exit, fmt.Sprintf("The command '/bin/sh -c %s' returned a non-zero code: %d", s.rest, exit)
			}
			layer.size = 1<<20 + int64(before-len(state.disk().pending))*5<<20
		}
		if d.noSpace() {
			return 1, fmt.Sprintf("write %s/%s/%s/layer.tar: no space left on device", dockerRoot, v.driver(), layer.id[:12])
		}
		layer.created = d.node.now().UTC()
		gone := "Removing intermediate container " + container[:12]
		switch {
		case !b.remove:
			b.say(" ---> %s", layer.id[:12])
		case v.before(17, 9):
			b.say(" ---> %s\n%s", layer.id[:12], gone)
		default:
			b.say("%s\n ---> %s", gone, layer.id[:12])
		}
		layers = append(layers, layer)
		d.all.mu.Lock()
		d.cache[key] = cachedStep{layer, state.disk()}
		d.all.mu.Unlock()
	}
	last := layers[len(layers)-1]
	d.all.mu.Lock()
	defer d.all.mu.Unlock()
	if b.ctx.Err() != nil {
		return 1, "unexpected EOF"
	}
	d.all.settle()
	if d.images[last.id] == nil {
		d.add(&dockerImage{id: last.id, created: last.created, layers: layers, packages: state.disk(), broken: broken || d.breaks})
	}
	d.builds++
	b.say("Successfully built %s", last.id[:12])
	if b.name != "" {
		if old, moves := d.tags[b.name]; moves && old != last.id && v.before(17, 5) && !v.before(1, 5) {
			b.say("The image %s already exists, renaming the old one with ID %s to empty string", b.name, old[:12])
		}
		d.tags[b.name] = last.id
		if !v.before(17, 5) {
			b.say("Successfully tagged %s", b.name)
		}
	}
	return 0, ""
}

// announce prints a step as the version counts them.
func (b *dockerBuild) announce(n int) {
	text := b.steps[n].verb + " " + b.steps[n].rest
	switch v := b.d.all.version; {
	case v.before(1, 10):
		b.say("Step %d : %s", n, text)
	case v.before(1, 13):
		b.say("Step %d : %s", n+1, text)
	default:
		b.say("Step %d/%d : %s", n+1, len(b.steps), text)
	}
}

// step runs one command in a container, in a process of its own. Faults of commands ([Node.FailCommand]) meet those in containers too.
func (b *dockerBuild) step(line string, state *packageState, env map[string]string, pause time.Duration) int {
	argv := []string{"/bin/sh", "-c", line}
	p, err := b.boot.newProcess(b.d.node, nil, superuser, argv)
	if err != nil {
		return 128 + sigKILL
	}
	p.packages = state
	c := &invocation{node: b.d.node, p: p, argv: argv, env: maps.Clone(env), dir: "/", umask: 0o022, lookup: containerPath}
	c.fds[0], c.fds[1], c.fds[2] = discardDescription(), bufferDescription(b.out), bufferDescription(b.out)
	stop := context.AfterFunc(b.ctx, func() { p.kill(sigKILL) })
	defer stop()
	exit := 128 + sigKILL
	if p.sleep(pause) {
		exit = c.execute()
	}
	c.fds.closeAll()
	p.finish(exit)
	return p.exit
}

// absolute is a name as seen from a folder.
func absolute(dir, name string) string {
	if path.IsAbs(name) {
		return name
	}
	return path.Join(dir, name)
}

// build is docker build [--no-cache] [--rm] [-t NAME] FOLDER.
func (c *dockerCall) build(opts map[string]string, args []string) int {
	name := opts["tag"]
	if name != "" {
		name = withTag(name)
	}
	switch {
	case name == "" || nameForm.MatchString(name):
	case c.v.before(1, 13):
		return c.badName(opts["tag"])
	default:
		c.errorf("invalid argument %q for \"-t, --tag\" flag: invalid reference format\nSee 'docker build --help'.", opts["tag"])
		return 125
	}
	folder := args[0]
	if _, err := c.stat(folder); err != nil {
		if c.v.before(1, 10) {
			return c.fatal("%s: no such file or directory", folder)
		}
		return c.fatal("unable to prepare context: path %q not found", folder)
	}
	text, err := c.readFile(path.Join(folder, "Dockerfile"))
	if err != nil {
		if c.v.before(1, 10) {
			return c.fatal("Cannot locate Dockerfile: Dockerfile")
		}
		return c.fatal("unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat %s: no such file or directory", absolute(c.dir, path.Join(folder, "Dockerfile")))
	}
	c.printf("Sending build context to Docker daemon %s\n", map[bool]string{true: " 2.048 kB", false: " 2.048kB"}[c.v.before(1, 13)])
	steps, err := parseDockerfile(string(text))
	if err != nil {
		return c.daemonError("%v", err)
	}
	if c.d.noSpace() {
		return c.daemonError("mkdir %s/tmp/docker-builder%s: no space left on device", dockerRoot, newHexID()[:9])
	}
	b := c.d.startBuild(c.p.boot, steps, name, opts["no-cache"] == "true", opts["rm"] != "false")
	if !b.follow(c.invocation) {
		return 128 + sigKILL
	}
	if b.exit != 0 {
		c.fatal("%s", b.message)
	}
	return b.exit
}

// run is docker run [--rm] [--net NETWORK] IMAGE [COMMAND [ARG...]]. The container is gone afterwards in any case.
func (c *dockerCall) run(_ map[string]string, args []string) int {
	name, argv := args[0], args[1:]
	id := newHexID()
	c.all.mu.Lock()
	i := c.d.lookup(name)
	var state *packageState
	broken := false
	if i != nil {
		state, broken = i.state(c.node), i.broken
		c.d.containers[id] = &dockerContainer{id: id, name: "quiet_" + id[:8], image: i.id, imageName: name, command: argv, created: c.node.now().UTC()}
	}
	c.all.mu.Unlock()
	defer func() {
		c.all.mu.Lock()
		delete(c.d.containers, id)
		c.all.mu.Unlock()
	}()
	failed := func(exit int, format string, args ...any) int {
		text := fmt.Sprintf(format, args...)
		switch {
		case c.v.before(1, 8):
			c.fatal("Error response from daemon: %s", text)
			return 1
		case c.v.before(1, 10):
			c.errorf("Error response from daemon: %s", text)
		case exit == 125 && i == nil || c.v.before(1, 13):
			c.errorf("docker: Error response from daemon: %s.\nSee 'docker run --help'.", text)
		default:
			c.errorf("docker: Error response from daemon: %s.", text)
		}
		return exit
	}
	if i == nil {
		c.errorf("Unable to find image '%s' locally", withTag(name))
		return failed(125, "%s", c.d.notThere(name))
	}
	if c.d.noSpace() {
		return failed(125, "mkdir %s/%s/%s: no space left on device", dockerRoot, c.v.driver(), id)
	}
	if len(argv) == 0 {
		argv = []string{"/bin/bash"}
	}
	if broken || !inImages(path.Base(argv[0])) || c.node.which(superuser, "/", argv[0], containerPath) == "" {
		switch {
		case c.v.before(1, 8):
			return failed(1, `Cannot start container %s: [8] System error: exec: "%s": executable file not found in $PATH`, id, argv[0])
		case c.v.before(1, 12):
			return failed(127, "Container command '%s' not found or does not exist.", argv[0])
		}
		return failed(127, `OCI runtime create failed: container_linux.go:380: starting container process caused: exec: "%s": executable file not found in $PATH: unknown`, argv[0])
	}
	child, err := c.spawn(argv, func(n *invocation) {
		n.p.packages = state
		n.env, n.lookup, n.dir, n.umask = containerEnvironment(id[:12]), containerPath, "/", 0o022
		n.fds[0].release()
		n.fds[0] = discardDescription() // without -i
	})
	if err != nil {
		return failed(125, "fork: cannot allocate memory")
	}
	exit := c.waitFor(child)
	child.kill(sigKILL) // it does not outlive its client here
	<-child.done
	return exit
}
