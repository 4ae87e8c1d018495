package simcluster

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// dockerCall is one run of the client.
type dockerCall struct {
	*invocation
	d   *Docker
	all *dockers
	v   dockerVersion

	holding bool // what is printed is held back until the lock is given up
	held    []func()
}

func (c *dockerCall) printf(format string, args ...any) {
	c.print(func() { c.invocation.printf(format, args...) })
}

func (c *dockerCall) errorf(format string, args ...any) {
	c.print(func() { c.invocation.errorf(format, args...) })
}

func (c *dockerCall) print(do func()) {
	if c.holding {
		c.held = append(c.held, do)
		return
	}
	do()
}

// locked lets a command do something with the state of all dockers. What it prints comes after that: nobody waits for those who read it.
func (c *dockerCall) locked(do func() int) int {
	c.all.mu.Lock()
	c.holding = true
	exit := do()
	c.holding = false
	c.all.mu.Unlock()
	for _, print := range c.held {
		print()
	}
	c.held = nil
	return exit
}

// dockerCommand says what a command of the client takes.
type dockerCommand struct {
	since      [2]int // the first version that has it
	flags      map[string]string
	inOrder    bool // options end with the first argument in all versions
	least, any int  // so many arguments, and how many at most; any < 0 for no limit
	usage      string
	help       string
	run        func(*dockerCall, map[string]string, []string) int
}

// The flags of commands: as they are written -> what they are called. A name that ends in "=" takes a value.
func dockerCommands() map[string]dockerCommand {
	return map[string]dockerCommand{
		"version": {any: 0, usage: "[OPTIONS]", help: "Show the Docker version information", run: (*dockerCall).versions},
		"info":    {any: 0, usage: "[OPTIONS]", help: "Display system-wide information", run: (*dockerCall).info},
		"images":  {flags: map[string]string{"--no-trunc": "no-trunc", "-q": "quiet", "--quiet": "quiet"}, any: 1, usage: "[OPTIONS] [REPOSITORY[:TAG]]", help: "List images", run: (*dockerCall).images},
		"inspect": {least: 1, any: -1, usage: "[OPTIONS] NAME|ID [NAME|ID...]", help: "Return low-level information on Docker objects", run: (*dockerCall).inspect},
		"history": {flags: map[string]string{"--no-trunc": "no-trunc", "-q": "quiet", "--quiet": "quiet"}, least: 1, any: 1, usage: "[OPTIONS] IMAGE", help: "Show the history of an image", run: (*dockerCall).history},
		"build":   {flags: map[string]string{"--no-cache": "no-cache", "--rm": "rm", "-t": "tag=", "--tag": "tag="}, least: 1, any: 1, usage: "[OPTIONS] PATH | URL | -", help: "Build an image from a Dockerfile", run: (*dockerCall).build},
		"tag":     {flags: map[string]string{"-f": "force", "--force": "force"}, least: 2, any: 2, usage: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", help: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE", run: (*dockerCall).tag},
		"run":     {flags: map[string]string{"--rm": "rm", "--net": "net=", "--network": "net="}, inOrder: true, least: 1, any: -1, usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]", help: "Run a command in a new container", run: (*dockerCall).run},
		"ps":      {flags: map[string]string{"--no-trunc": "no-trunc", "-q": "quiet", "--quiet": "quiet", "-a": "all", "--all": "all"}, any: 0, usage: "[OPTIONS]", help: "List containers", run: (*dockerCall).ps},
		"exec":    {since: [2]int{1, 3}, flags: map[string]string{"-i": "interactive", "--interactive": "interactive"}, inOrder: true, least: 2, any: -1, usage: "[OPTIONS] CONTAINER COMMAND [ARG...]", help: "Run a command in a running container", run: (*dockerCall).execIn},
		"push":    {least: 1, any: 1, usage: "[OPTIONS] NAME[:TAG]", help: "Push an image or a repository to a registry", run: (*dockerCall).push},
		"pull":    {least: 1, any: 1, usage: "[OPTIONS] NAME[:TAG|@DIGEST]", help: "Pull an image or a repository from a registry", run: (*dockerCall).pull},
		"rmi":     {least: 1, any: -1, usage: "[OPTIONS] IMAGE [IMAGE...]", help: "Remove one or more images", run: (*dockerCall).rmi},
	}
}

var nameForm = regexp.MustCompile(`^((localhost(:\d+)?|[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)+(:\d+)?|[a-zA-Z0-9-]+:\d+)/)?[a-z0-9._-]+(/[a-z0-9._-]+)*:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// docker is the client. What it prints is that of the cluster's version: what is not told of a generation in the comments is as in docker 20.10.
func docker(inv *invocation) int {
	d := inv.node.docker
	c := &dockerCall{invocation: inv, d: d, all: d.all, v: d.all.version}
	if len(c.argv) < 2 {
		c.help()
		return 0
	}
	switch c.argv[1] {
	case "--version", "-v":
		c.printf("Docker version %s, build %s\n", c.v.text, c.v.build())
		return 0
	case "--help", "-h", "help":
		c.help()
		return 0
	}
	command, known := dockerCommands()[c.argv[1]]
	if !known || c.v.before(command.since[0], command.since[1]) {
		return c.unknown(c.argv[1])
	}
	opts, args, exit := c.options(command)
	if opts == nil {
		return exit
	}
	if len(args) < command.least || command.any >= 0 && len(args) > command.any {
		return c.wrongCount(command)
	}
	if message := c.unreachable(); message != "" {
		return c.notReached(message)
	}
	c.all.mu.Lock()
	c.all.settle()
	c.all.mu.Unlock()
	return command.run(c, opts, args)
}

func (c *dockerCall) help() {
	c.printf("Usage: docker [OPTIONS] COMMAND [arg...]\n\nA self-sufficient runtime for linux containers.\n\nCommands:\n")
	for _, name := range []string{"build", "exec", "history", "images", "info", "inspect", "ps", "pull", "push", "rmi", "run", "tag", "version"} {
		if command := dockerCommands()[name]; !c.v.before(command.since[0], command.since[1]) {
			c.printf("    %-9s %s\n", name, command.help)
		}
	}
}

// unknown is a command that the version does not have. The first ones said so, printed how docker is used, and exited 0.
func (c *dockerCall) unknown(name string) int {
	if c.v.before(1, 3) {
		c.printf("Error: Command not found: %s\n", name)
		c.help()
		return 0
	}
	if strings.HasPrefix(name, "-") {
		if c.v.before(1, 13) {
			c.errorf("flag provided but not defined: %s\nSee 'docker --help'.", name)
			return c.flagExit()
		}
		c.errorf("unknown flag: %s\nSee 'docker --help'.", name)
		return 125
	}
	c.errorf("docker: '%s' is not a docker command.\nSee 'docker --help'", name)
	return 1
}

// flagExit is the code after an option that is not known.
func (c *dockerCall) flagExit() int {
	if c.v.before(1, 8) {
		return 2
	}
	return 125
}

// options reads those of a command, by name, and the arguments. Until 1.12 they came before the arguments, and until 1.8 some long ones could have one dash.
func (c *dockerCall) options(command dockerCommand) (opts map[string]string, args []string, exit int) {
	name := c.argv[1]
	opts = map[string]string{}
	unknown := func(flag string) (map[string]string, []string, int) {
		switch {
		case c.v.before(1, 12):
			c.errorf("flag provided but not defined: %s\nSee 'docker %s --help'.", flag, name)
			return nil, nil, c.flagExit()
		case strings.HasPrefix(flag, "--"):
			c.errorf("unknown flag: %s\nSee 'docker %s --help'.", flag, name)
		default:
			c.errorf("unknown shorthand flag: '%s' in %s\nSee 'docker %s --help'.", flag[1:2], flag, name)
		}
		return nil, nil, 125
	}
	rest := c.argv[2:]
	for len(rest) > 0 {
		a := rest[0]
		rest = rest[1:]
		switch {
		case a == "--":
			return opts, append(args, rest...), 0
		case a == "--help":
			c.printf("\nUsage:\tdocker %s %s\n\n%s\n", name, command.usage, command.help)
			return nil, nil, 0
		case len(a) < 2 || a[0] != '-':
			args = append(args, a)
			if command.inOrder || c.v.before(1, 12) {
				return opts, append(args, rest...), 0
			}
			continue
		}
		flag, value, has := strings.Cut(a, "=")
		to, ok := command.flags[flag]
		if long := "-" + flag; !ok && c.v.before(1, 8) && (long == "--rm" || long == "--no-cache") && command.flags[long] != "" {
			c.errorf("Warning: '%s' is deprecated, it will be replaced by '%s' soon. See usage.", flag, long)
			to, ok = command.flags[long], true
		}
		if !ok || name == "tag" && !c.v.before(1, 12) {
			return unknown(flag)
		}
		if name == "tag" && !c.v.before(1, 10) {
			c.errorf("Warning: '%s' is deprecated, it will be removed soon. See usage.", flag)
		}
		key, takes := strings.CutSuffix(to, "=")
		switch {
		case takes && !has && len(rest) == 0:
			c.errorf("flag needs an argument: %s\nSee 'docker %s --help'.", flag, name)
			return nil, nil, c.flagExit()
		case takes && !has:
			value, rest = rest[0], rest[1:]
		case !takes && !has:
			value = "true"
		case !takes:
			on, err := strconv.ParseBool(value)
			if err != nil {
				c.errorf("invalid argument %q for %q flag: strconv.ParseBool: parsing %q: invalid syntax\nSee 'docker %s --help'.", value, flag, value, name)
				return nil, nil, c.flagExit()
			}
			value = strconv.FormatBool(on)
		}
		opts[key] = value
	}
	return opts, args, 0
}

func (c *dockerCall) wrongCount(command dockerCommand) int {
	name := c.argv[1]
	if c.v.before(1, 5) { // which is no error there
		c.errorf("\nUsage: docker %s %s\n\n%s\n", name, command.usage, command.help)
		return 0
	}
	what := map[int]string{0: "accepts no arguments", 1: "requires exactly 1 argument", 2: "requires exactly 2 arguments"}[command.least]
	switch {
	case command.any < 0 && command.least == 1:
		what = "requires at least 1 argument"
	case command.any < 0:
		what = fmt.Sprintf("requires at least %d arguments", command.least)
	case command.any > command.least:
		what = fmt.Sprintf("requires at most %d argument", command.any)
	}
	c.errorf("\"docker %s\" %s.\nSee 'docker %s --help'.\n\nUsage:  docker %s %s\n\n%s", name, what, name, name, command.usage, command.help)
	return 1
}

// fatal prints an error that ends the client, as its generation logs one, and returns exit code 1.
func (c *dockerCall) fatal(format string, args ...any) int {
	text := fmt.Sprintf(format, args...)
	switch now := c.node.now().UTC(); {
	case c.v.before(1, 4):
		c.errorf("%s %s", now.Format("2006/01/02 15:04:05"), text)
	case c.v.before(1, 7):
		c.errorf("time=%q level=fatal msg=%q", now.Format(time.RFC3339), text)
	default:
		c.errorf("%s", text)
	}
	return 1
}

func (c *dockerCall) daemonError(format string, args ...any) int {
	return c.fatal("Error response from daemon: %s", fmt.Sprintf(format, args...))
}

func (c *dockerCall) badName(name string) int {
	if c.v.before(1, 10) {
		return c.daemonError("Invalid repository name (%s), only [a-z0-9-_.] are allowed", name)
	}
	return c.fatal("Error parsing reference: %q is not a valid repository/tag: invalid reference format", name)
}

// unreachable says why the daemon cannot be asked; "" when it can.
func (c *dockerCall) unreachable() string {
	path := map[string]string{"info": "info", "images": "images/json", "ps": "containers/json", "build": "build", "version": "version"}[c.argv[1]]
	if path == "" {
		path = "containers/json"
	}
	c.all.mu.Lock()
	down := c.d.down || c.d.stopped
	c.all.mu.Unlock()
	switch {
	case c.user() != superuser && c.v.before(1, 5):
		return fmt.Sprintf("Get http:///var/run/docker.sock/v1.%d/%s: dial unix /var/run/docker.sock: permission denied", 12+c.v.minor, path)
	case c.user() != superuser && c.v.before(1, 13):
		return fmt.Sprintf("Get http:///var/run/docker.sock/v1.%d/%s: dial unix /var/run/docker.sock: permission denied. Are you trying to connect to a TLS-enabled daemon without TLS?", 12+c.v.minor, path)
	case c.user() != superuser:
		return fmt.Sprintf("Got permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: Get \"http://%%2Fvar%%2Frun%%2Fdocker.sock/v1.24/%s\": dial unix /var/run/docker.sock: connect: permission denied", path)
	case down && c.v.before(1, 8):
		return "Cannot connect to the Docker daemon. Is 'docker -d' running on this host?"
	case down && c.v.before(1, 13):
		return "Cannot connect to the Docker daemon. Is the docker daemon running on this host?"
	case down:
		return "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
	}
	return ""
}

func (c *dockerCall) notReached(message string) int {
	switch name := c.argv[1]; {
	case name == "info" && !c.v.before(18, 9):
		c.printf("Client:\n Context:    default\n Debug Mode: false\n\nServer:\n")
		c.errorf("ERROR: %s\nerrors pretty printing info", message)
		return 1
	case name == "run" && !c.v.before(1, 10):
		c.errorf("docker: %s.\nSee 'docker run --help'.", message)
		if strings.Contains(message, "permission denied") {
			return 126
		}
		return 125
	case name == "version":
		c.clientVersion()
	}
	return c.fatal("%s", message)
}

func (c *dockerCall) clientVersion() {
	if c.v.before(1, 8) {
		c.printf("Client version: %s\nClient API version: 1.%d\nGit commit (client): %s\n", c.v.text, 12+c.v.minor, c.v.build())
		return
	}
	c.printf("Client:\n Version:           %s\n Git commit:        %s\n OS/Arch:           linux/amd64\n", c.v.text, c.v.build())
}

func (c *dockerCall) versions(map[string]string, []string) int {
	c.clientVersion()
	if c.v.before(1, 8) {
		c.printf("Server version: %s\nGit commit (server): %s\n", c.v.text, c.v.build())
	} else {
		c.printf("\nServer:\n Engine:\n  Version:          %s\n  Git commit:       %s\n", c.v.text, c.v.build())
	}
	return 0
}

// driver of the storage.
func (v dockerVersion) driver() string {
	if v.before(1, 12) {
		return "aufs"
	}
	return "overlay2"
}

// info: docker's folder is told since 1.8; before, that of the storage driver.
func (c *dockerCall) info(map[string]string, []string) int {
	c.all.mu.Lock()
	running, images := len(c.d.containers), len(c.d.images)
	c.all.mu.Unlock()
	kernel := c.node.KernelRunning()
	if c.v.before(1, 8) {
		c.printf("Containers: %d\nImages: %d\nStorage Driver: aufs\n Root Dir: %s/aufs\n Dirs: %d\nExecution Driver: native-0.2\nKernel Version: %s\n", running, images*baseLayers, dockerRoot, images*baseLayers, kernel)
		return 0
	}
	text := fmt.Sprintf("Containers: %d\n Running: %d\n Paused: 0\n Stopped: 0\nImages: %d\nServer Version: %s\nStorage Driver: %s\n Backing Filesystem: extfs\nLogging Driver: json-file\nKernel Version: %s\nOperating System: Debian GNU/Linux 12 (bookworm)\nOSType: linux\nArchitecture: x86_64\nCPUs: 2\nTotal Memory: 1.937GiB\nName: %s\nDocker Root Dir: %s\nDebug Mode: false\nLive Restore Enabled: false\n",
		running, running, images, c.v.text, c.v.driver(), kernel, c.node.name, dockerRoot)
	if c.v.before(18, 9) {
		c.printf("%s", text)
		return 0
	}
	c.printf("Client:\n Context:    default\n Debug Mode: false\n\nServer:\n")
	for line := range strings.Lines(text) {
		c.printf(" %s", line)
	}
	c.printf("\n")
	return 0
}

// ago is how docker writes the age of something.
func ago(d time.Duration) string {
	hours := int(d.Hours())
	switch seconds, minutes := int(d.Seconds()), int(d.Minutes()); {
	case seconds < 1:
		return "Less than a second ago"
	case seconds < 60:
		return fmt.Sprintf("%d seconds ago", seconds)
	case minutes == 1:
		return "About a minute ago"
	case minutes < 60:
		return fmt.Sprintf("%d minutes ago", minutes)
	case hours == 1:
		return "About an hour ago"
	case hours < 48:
		return fmt.Sprintf("%d hours ago", hours)
	case hours < 24*7*2:
		return fmt.Sprintf("%d days ago", hours/24)
	case hours < 24*30*2:
		return fmt.Sprintf("%d weeks ago", hours/24/7)
	case hours < 24*365*2:
		return fmt.Sprintf("%d months ago", hours/24/30)
	}
	return fmt.Sprintf("%d years ago", hours/24/365)
}

// humanSize has three digits, four before 1.13, with the units of ten.
func (v dockerVersion) humanSize(size int64) string {
	f, units := float64(size), []string{"B", "kB", "MB", "GB", "TB"}
	i := 0
	for ; f >= 1000 && i < len(units)-1; i++ {
		f /= 1000
	}
	if v.before(1, 13) {
		return fmt.Sprintf("%.4g %s", f, units[i])
	}
	return fmt.Sprintf("%.3g%s", f, units[i])
}

// table prints rows in columns, which were 20 wide before 20.10.
func (c *dockerCall) table(rows [][]string) {
	width := 10
	if c.v.before(20, 10) {
		width = 20
	}
	w := tabwriter.NewWriter(c, width, 1, 3, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // a failed write is kept by the invocation
}

// shown is an id as a table has it.
func (c *dockerCall) shown(id string, opts map[string]string) string {
	if opts["no-trunc"] == "true" {
		return c.v.id(id)
	}
	return id[:12]
}

func (c *dockerCall) images(opts map[string]string, args []string) int {
	size := "SIZE"
	if c.v.before(1, 10) {
		size = "VIRTUAL SIZE"
	}
	rows := [][]string{{"REPOSITORY", "TAG", "IMAGE ID", "CREATED", size}}
	c.all.mu.Lock()
	parents := c.d.parents()
	list := make([]*dockerImage, 0, len(c.d.images))
	for _, i := range c.d.images {
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b *dockerImage) int {
		if order := b.created.Compare(a.created); order != 0 {
			return order
		}
		return strings.Compare(a.id, b.id)
	})
	for _, i := range list {
		tags := names(c.d.tags, i.id)
		if len(tags) == 0 && (parents[i.id] || len(args) > 0) {
			continue
		}
		if len(tags) == 0 {
			tags = []string{"<none>:<none>"}
		}
		for _, name := range tags {
			repository, tag := splitName(name)
			if len(args) > 0 && args[0] != repository && args[0] != name {
				continue
			}
			rows = append(rows, []string{repository, tag, c.shown(i.id, opts), ago(c.node.now().Sub(i.created)), c.v.humanSize(i.size())})
		}
	}
	c.all.mu.Unlock()
	if opts["quiet"] == "true" {
		for _, row := range rows[1:] {
			c.printf("%s\n", row[2])
		}
		return 0
	}
	c.table(rows)
	return 0
}

// history: since 1.10 only the layers that were built here have an id.
func (c *dockerCall) history(opts map[string]string, args []string) int {
	c.all.mu.Lock()
	i := c.d.lookup(args[0])
	if i != nil {
		i = i.copy()
	}
	c.all.mu.Unlock()
	if i == nil {
		return c.daemonError("No such image: %s", withTag(args[0]))
	}
	rows := [][]string{{"IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"}}
	for n, l := range slices.Backward(i.layers) {
		id := "<missing>"
		if n == len(i.layers)-1 || l.local || !c.v.digestIDs() {
			id = c.shown(l.id, opts)
		}
		if opts["quiet"] == "true" {
			c.printf("%s\n", id)
			continue
		}
		by := l.by
		if opts["no-trunc"] != "true" && len(by) > 45 {
			by = by[:42] + "..."
		}
		rows = append(rows, []string{id, ago(c.node.now().Sub(l.created)), by, c.v.humanSize(l.size), ""})
	}
	if opts["quiet"] != "true" {
		c.table(rows)
	}
	return 0
}

// --- inspect -----------------------------------------------------------------------------------------------------------------------------

// jsonObject keeps the order of its fields.
type jsonObject []jsonField

type jsonField struct {
	name  string
	value any
}

// MarshalJSON writes the fields in their order.
func (o jsonObject) MarshalJSON() ([]byte, error) {
	var b strings.Builder
	b.WriteByte('{')
	for i, f := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		value, err := json.Marshal(f.value)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%q:%s", f.name, value)
	}
	b.WriteByte('}')
	return []byte(b.String()), nil
}

// sorted is the object with all fields in the order of the alphabet.
func (o jsonObject) sorted() map[string]any {
	out := map[string]any{}
	for _, f := range o {
		if inner, ok := f.value.(jsonObject); ok {
			f.value = inner.sorted()
		}
		out[f.name] = f.value
	}
	return out
}

func (c *dockerCall) inspect(_ map[string]string, args []string) int {
	var found []any
	var missing []string
	c.all.mu.Lock()
	for _, name := range args {
		var o jsonObject
		if container := c.d.findContainer(name); container != nil {
			o = c.containerObject(container)
		} else if i := c.d.lookup(name); i != nil {
			o = c.imageObject(i)
		} else {
			missing = append(missing, name)
			continue
		}
		if c.v.before(1, 6) && !c.v.before(1, 0) {
			found = append(found, o.sorted())
		} else {
			found = append(found, o)
		}
	}
	c.all.mu.Unlock()
	c.printf("%s\n", c.v.inspectText(found))
	for _, name := range missing {
		if c.v.before(1, 13) {
			c.errorf("Error: No such image or container: %s", name)
		} else {
			c.errorf("Error: No such object: %s", name)
		}
	}
	if len(missing) > 0 {
		return 1
	}
	return 0
}

// inspectText indents what was found. Before 1.10 every object was indented by itself.
func (v dockerVersion) inspectText(found []any) string {
	text := func(o any) string {
		b, err := json.MarshalIndent(o, "", "    ")
		if err != nil {
			panic(err) // plain values always marshal
		}
		return string(b)
	}
	if len(found) == 0 {
		return "[]"
	}
	if !v.before(1, 10) {
		return text(found)
	}
	all := make([]string, len(found))
	for i, o := range found {
		all[i] = text(o)
	}
	if v.before(1, 4) {
		return "[" + strings.Join(all, ",") + "]"
	}
	return "[\n" + strings.Join(all, ",") + "\n]"
}

// imageObject is an image as docker tells it. Before 1.0 its fields were those of the file of the image; from 1.0 to 1.5 they are in the order of the alphabet. Names came with 1.9, layers with 1.10;
// before that Size is the last layer's.
func (c *dockerCall) imageObject(i *dockerImage) jsonObject {
	created := i.created.Format(time.RFC3339Nano)
	last := i.layers[len(i.layers)-1]
	parent := ""
	if n := len(i.layers); n > 1 && (!c.v.digestIDs() || i.layers[n-2].local) {
		parent = c.v.id(i.layers[n-2].id)
	}
	config := jsonObject{{"Hostname", ""}, {"Env", []string{"PATH=" + containerPath}}, {"Cmd", []string{"/bin/bash"}}, {"Image", parent}, {"Labels", nil}}
	if c.v.before(1, 0) {
		return jsonObject{{"id", i.id}, {"parent", parent}, {"created", created}, {"container", hashOf(i.id)}, {"container_config", config}, {"docker_version", c.v.text}, {"config", config}, {"architecture", "amd64"}, {"os", "linux"}, {"Size", last.size}}
	}
	o := jsonObject{{"Id", c.v.id(i.id)}}
	if !c.v.before(1, 9) {
		o = append(o, jsonField{"RepoTags", names(c.d.tags, i.id)}, jsonField{"RepoDigests", names(c.d.digests, i.id)})
	}
	size := i.size()
	if !c.v.digestIDs() {
		size = last.size
	}
	o = append(o, jsonObject{{"Parent", parent}, {"Comment", ""}, {"Created", created}, {"Container", hashOf(i.id)}, {"DockerVersion", c.v.text}, {"Author", ""}, {"Config", config}, {"Architecture", "amd64"}, {"Os", "linux"}, {"Size", size}, {"VirtualSize", i.size()}}...)
	if c.v.digestIDs() {
		layers := make([]string, len(i.layers))
		for n, l := range i.layers {
			layers[n] = l.diff()
		}
		o = append(o, jsonField{"GraphDriver", jsonObject{{"Data", nil}, {"Name", c.v.driver()}}}, jsonField{"RootFS", jsonObject{{"Type", "layers"}, {"Layers", layers}}})
	}
	return o
}

// containerObject: the same of a container. In the order of the alphabet the name of its image comes before its id.
func (c *dockerCall) containerObject(d *dockerContainer) jsonObject {
	created := d.created.Format(time.RFC3339Nano)
	first, args := "/bin/bash", []string{}
	if len(d.command) > 0 {
		first, args = d.command[0], d.command[1:]
	}
	state := jsonObject{{"Status", "running"}, {"Running", true}, {"Paused", false}, {"Restarting", false}, {"Pid", 4242}, {"ExitCode", 0}, {"StartedAt", created}, {"FinishedAt", "0001-01-01T00:00:00Z"}}
	if c.v.before(1, 9) {
		state = state[1:]
	}
	config := jsonObject{{"Hostname", d.id[:12]}, {"User", ""}, {"Env", []string{"PATH=" + containerPath}}, {"Cmd", append([]string{first}, args...)}, {"Image", d.imageName}, {"Volumes", nil}, {"WorkingDir", ""}}
	network := jsonObject{{"Bridge", ""}, {"IPAddress", "172.17.0.2"}, {"MacAddress", "02:42:ac:11:00:02"}}
	if c.v.before(1, 0) {
		return jsonObject{{"ID", d.id}, {"Created", created}, {"Path", first}, {"Args", args}, {"Config", config}, {"State", state}, {"Image", d.image}, {"NetworkSettings", network}, {"Name", "/" + d.name}, {"Driver", c.v.driver()}}
	}
	return jsonObject{{"Id", d.id}, {"Created", created}, {"Path", first}, {"Args", args}, {"State", state}, {"Image", c.v.id(d.image)}, {"Name", "/" + d.name}, {"RestartCount", 0}, {"Driver", c.v.driver()}, {"Config", config}, {"NetworkSettings", network}}
}

// --- containers --------------------------------------------------------------------------------------------------------------------------

// ps shows the id of a container's image where the name that it was made from is another image's now.
func (c *dockerCall) ps(opts map[string]string, _ []string) int {
	rows := [][]string{{"CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"}}
	c.all.mu.Lock()
	for _, d := range slices.Backward(c.d.sorted()) {
		image := d.imageName
		if i := c.d.lookup(d.imageName); i == nil || i.id != d.image {
			image = d.image[:12]
		} else if c.v.before(1, 10) {
			image = withTag(image)
		}
		id, command := d.id[:12], `"`+strings.Join(d.command, " ")+`"`
		if opts["no-trunc"] == "true" {
			id = d.id
		} else if len(command) > 20 {
			command = command[:19] + `…"`
		}
		age := ago(c.node.now().Sub(d.created))
		rows = append(rows, []string{id, image, command, age, "Up " + strings.TrimSuffix(age, " ago"), "", d.name})
	}
	c.all.mu.Unlock()
	if opts["quiet"] == "true" {
		for _, row := range rows[1:] {
			c.printf("%s\n", row[0])
		}
		return 0
	}
	c.table(rows)
	return 0
}

// execIn is docker exec. It knows cat, of the environment that app instances have.
func (c *dockerCall) execIn(_ map[string]string, args []string) int {
	c.all.mu.Lock()
	d := c.d.findContainer(args[0])
	c.all.mu.Unlock()
	switch {
	case d == nil && c.v.before(1, 13):
		return c.daemonError("No such container: %s", args[0])
	case d == nil:
		return c.fatal("Error: No such container: %s", args[0])
	case args[1] != "cat" && c.v.before(1, 12):
		return c.daemonError(`Cannot run exec command %s in container %s: [8] System error: exec: "%s": executable file not found in $PATH`, newHexID(), d.id, args[1])
	case args[1] != "cat":
		c.printf("OCI runtime exec failed: exec failed: container_linux.go:380: starting container process caused: exec: %q: executable file not found in $PATH: unknown\n", args[1])
		return 126
	}
	exit := 0
	for _, file := range args[2:] {
		if file != "/home/stackato/etc/droplet.env.json" || d.of.guid == "" {
			c.errorf("cat: %s: No such file or directory", file)
			exit = 1
			continue
		}
		c.printf("%s", d.environment())
	}
	return exit
}

// --- names and the registry --------------------------------------------------------------------------------------------------------------

// tag: before 1.10 a name that is there, whatever it names, needed -f to be moved.
func (c *dockerCall) tag(opts map[string]string, args []string) int {
	name := withTag(args[1])
	if !nameForm.MatchString(name) {
		return c.badName(args[1])
	}
	full := c.d.noSpace()
	return c.locked(func() int { return c.tagLocked(args[0], name, opts["force"] == "true", full) })
}

func (c *dockerCall) tagLocked(from, name string, force, full bool) int {
	i := c.d.lookup(from)
	_, tag := splitName(name)
	switch old, exists := c.d.tags[name]; {
	case i == nil && c.v.before(1, 10):
		return c.daemonError("could not find image: no such id: %s", from)
	case i == nil:
		return c.daemonError("No such image: %s", withTag(from))
	case exists && c.v.before(1, 10) && !force:
		return c.daemonError("Conflict: Tag %s is already set to image %s, if you want to replace it, please use -f option", tag, old)
	case full && c.v.before(1, 10):
		return c.daemonError("write %s/repositories-aufs: no space left on device", dockerRoot)
	case full:
		return c.daemonError("open %s/image/%s/.tmp-repositories.json%s: no space left on device", dockerRoot, c.v.driver(), newHexID()[:9])
	}
	c.d.tags[name] = i.id
	return 0
}

func (c *dockerCall) rmi(_ map[string]string, args []string) int {
	return c.locked(func() int {
		exit := 0
		for _, ref := range args {
			exit = max(exit, c.removeImage(ref))
		}
		if exit != 0 && c.v.before(1, 10) {
			c.fatal("Error: failed to remove one or more images")
		}
		return exit
	})
}

// removeImage is rmi of one image; the caller holds mu.
func (c *dockerCall) removeImage(ref string) int {
	i := c.d.lookup(ref)
	if i == nil {
		if c.v.before(1, 10) {
			c.errorf("Error response from daemon: No such image: %s", ref)
		} else {
			c.errorf("Error: No such image: %s", ref)
		}
		return 1
	}
	user := ""
	for _, d := range c.d.sorted() {
		if d.image == i.id {
			user = d.id[:12]
		}
	}
	tags := names(c.d.tags, i.id)
	_, named := c.d.tags[withTag(ref)]
	if user != "" && (!named || len(tags) == 1) {
		switch {
		case c.v.before(1, 10):
			c.errorf("Error response from daemon: Conflict, cannot delete %s because the running container %s is using it, stop it and use -f to force", i.id[:12], user)
		case named:
			c.errorf("Error response from daemon: conflict: unable to remove repository reference \"%s\" (must force) - container %s is using its referenced image %s", ref, user, i.id[:12])
		default:
			c.errorf("Error response from daemon: conflict: unable to delete %s (cannot be forced) - image is being used by running container %s", i.id[:12], user)
		}
		return 1
	}
	if !named && len(tags) > 1 {
		c.errorf("Error response from daemon: conflict: unable to delete %s (must be forced) - image is referenced in multiple repositories", i.id[:12])
		return 1
	}
	if named {
		tags = []string{withTag(ref)}
	}
	for _, name := range tags {
		delete(c.d.tags, name)
		c.printf("Untagged: %s\n", name)
	}
	if len(names(c.d.tags, i.id)) > 0 || c.d.parents()[i.id] {
		return 0
	}
	for _, name := range names(c.d.digests, i.id) {
		c.printf("Untagged: %s\n", name)
	}
	c.d.drop(i)
	c.printf("Deleted: %s\n", c.v.id(i.id))
	return 0
}

// notThere is what docker says of an image that is neither here nor where it looks for it. The cluster's registry is not looked into for a build or a run.
func (d *Docker) notThere(name string) string {
	repository, _ := splitName(withTag(name))
	if d.all.version.before(1, 10) {
		return fmt.Sprintf("image %s not found", strings.TrimSuffix(withTag(name), ":latest"))
	}
	return fmt.Sprintf("pull access denied for %s, repository does not exist or may require 'docker login': denied: requested access to the resource is denied", repository)
}

// registryProblem says why the registry of a name cannot be reached; "" when it can. The caller holds mu.
func (c *dockerCall) registryProblem(name string) string {
	host := registryOf(name)
	switch {
	case !c.all.registryDown && !c.node.offline():
		return ""
	case c.v.before(1, 6):
		return fmt.Sprintf("Invalid registry endpoint https://%s/v1/: Get https://%s/v1/_ping: dial tcp 192.0.2.20:5000: connection refused. If this private registry supports only HTTP or HTTPS with an unknown CA certificate, please add `--insecure-registry %s` to the daemon's arguments.", host, host, host)
	}
	return fmt.Sprintf("Get \"https://%s/v2/\": dial tcp 192.0.2.20:5000: connect: connection refused", host)
}

// push: a registry gives digests since 1.6. Docker keeps that of what it pushed since 1.11 (before, it printed it only).
func (c *dockerCall) push(_ map[string]string, args []string) int {
	name := withTag(args[0])
	return c.locked(func() int { return c.pushLocked(name) })
}

func (c *dockerCall) pushLocked(name string) int {
	repository, tag := splitName(name)
	id, exists := c.d.tags[name]
	switch {
	case !exists && c.v.before(1, 10):
		return c.daemonError("No such id: %s", repository)
	case !exists && !c.v.before(1, 13):
		c.printf("The push refers to repository [%s]\n", repository)
		return c.fatal("An image does not exist locally with the tag: %s", repository)
	case !exists:
		return c.fatal("An image does not exist locally with the tag: %s", repository)
	}
	if c.v.before(1, 10) {
		c.printf("The push refers to a repository [%s] (len: 1)\n", repository)
	} else {
		c.printf("The push refers to repository [%s]\n", repository)
	}
	if problem := c.registryProblem(name); problem != "" {
		return c.fatal("%s", problem)
	}
	if registryOf(name) == hubAddress {
		return c.fatal("denied: requested access to the resource is denied")
	}
	i := c.d.images[id]
	there := map[string]bool{}
	for _, m := range c.all.manifests {
		for _, l := range m.layers {
			there[l.id] = true
		}
	}
	if c.v.before(1, 6) {
		c.printf("Sending image list\nPushing repository %s (1 tags)\n", repository)
	}
	for _, l := range slices.Backward(i.layers) {
		done := "Pushed"
		switch {
		case c.v.before(1, 6) && there[l.id]:
			done = "Image already pushed, skipping"
		case c.v.before(1, 10):
			done = "Image successfully pushed"
		case there[l.id]:
			done = "Layer already exists"
		}
		c.printf("%s: %s\n", strings.TrimPrefix(l.diff(), "sha256:")[:12], done)
	}
	if c.all.registry[repository] == nil {
		c.all.registry[repository] = map[string]string{}
	}
	c.all.registry[repository][tag], c.all.manifests[id], c.all.pushed[repository+" "+id] = id, i.copy(), true
	digest := manifestDigest(id)
	switch {
	case c.v.before(1, 6):
		host := registryOf(name)
		c.printf("Pushing tag for rev [%s] on {https://%s/v1/repositories%s/tags/%s}\n", id[:12], host, strings.TrimPrefix(repository, host), tag)
	case c.v.before(1, 8):
		c.printf("Digest: %s\n", digest)
	default:
		c.printf("%s: digest: %s size: %d\n", tag, digest, 500+200*len(i.layers))
	}
	if !c.v.before(1, 11) {
		c.d.digests[repository+"@"+digest] = id
	}
	return 0
}

// pulled is the image as it is where it was not built: without the images of its layers, and in 1.8 and 1.9 with other ids, which are digests of what was pulled.
func (v dockerVersion) pulled(i *dockerImage) *dockerImage {
	i = i.copy()
	for n := range i.layers {
		l := &i.layers[n]
		l.local = n == len(i.layers)-1
		if v.before(1, 10) && !v.before(1, 8) {
			l.id = hashOf("pulled " + l.id)
		}
	}
	i.id = i.layers[len(i.layers)-1].id
	return i
}

func (c *dockerCall) pull(_ map[string]string, args []string) int {
	name := withTag(args[0])
	if strings.Contains(name, "@") && c.v.before(1, 6) {
		return c.daemonError("Invalid repository name (%s), only [a-z0-9-_.] are allowed", strings.TrimPrefix(strings.SplitN(name, ":sha", 2)[0], registryOf(name)+"/"))
	}
	full := c.d.noSpace()
	return c.locked(func() int { return c.pullLocked(name, full) })
}

func (c *dockerCall) pullLocked(name string, full bool) int {
	repository, tag := splitName(name)
	byDigest := strings.Contains(name, "@")
	if problem := c.registryProblem(name); problem != "" {
		return c.daemonError("%s", problem)
	}
	if registryOf(name) == hubAddress {
		return c.daemonError("%s", c.d.notThere(name))
	}
	var pushed *dockerImage
	if id, ok := c.all.registry[repository][tag]; ok {
		pushed = c.all.manifests[id]
	}
	for id, m := range c.all.manifests {
		if byDigest && manifestDigest(id) == tag && c.all.pushed[repository+" "+id] {
			pushed = m
		}
	}
	switch {
	case pushed == nil && c.v.before(1, 6):
		return c.daemonError("HTTP code: 404")
	case pushed == nil && c.v.before(1, 10):
		return c.daemonError("manifest unknown: manifest unknown")
	case pushed == nil:
		return c.daemonError("manifest for %s not found: manifest unknown: manifest unknown", name)
	case c.v.before(1, 6):
		c.printf("Pulling repository %s\n", repository)
	case byDigest:
		c.printf("%s: Pulling from %s\n", name, strings.TrimPrefix(repository, registryOf(name)+"/"))
	default:
		c.printf("%s: Pulling from %s\n", tag, strings.TrimPrefix(repository, registryOf(name)+"/"))
	}
	i := c.v.pulled(pushed)
	there := map[string]bool{}
	for _, known := range c.d.images {
		for _, l := range known.layers {
			there[l.id] = true
		}
	}
	for _, l := range i.layers {
		done := "Pull complete"
		if there[l.id] {
			done = "Already exists"
		} else if full {
			return c.fatal("failed to register layer: Error processing tar file(exit status 1): write /usr/lib/libssl.so.3: no space left on device")
		}
		c.printf("%s: %s\n", strings.TrimPrefix(l.diff(), "sha256:")[:12], done)
	}
	status := "Image is up to date for"
	if c.d.images[i.id] == nil || !byDigest && c.d.tags[name] != i.id || byDigest && c.d.digests[name] != i.id {
		status = "Downloaded newer image for"
	}
	if c.d.images[i.id] == nil {
		c.d.add(i)
	}
	if !byDigest {
		c.d.tags[name] = i.id
	}
	digest := manifestDigest(pushed.id)
	if byDigest || !c.v.before(1, 10) {
		c.d.digests[repository+"@"+digest] = i.id
	}
	if !c.v.before(1, 6) {
		c.printf("Digest: %s\n", digest)
	}
	c.printf("Status: %s %s\n", status, name)
	if !c.v.before(19, 3) {
		c.printf("%s\n", name)
	}
	return 0
}
