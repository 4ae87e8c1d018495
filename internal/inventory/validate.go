package inventory

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/docker"
)

var (
	clusterNameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	hostLabelForm   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
	roleForm        = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
	userForm        = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,31}$`)
	zoneForm        = regexp.MustCompile(`^[A-Za-z0-9._-]{1,15}$`)
	envForm         = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	noProxyForm     = regexp.MustCompile(`^[A-Za-z0-9.*:/,_\[\]-]+$`)
	bucketForm      = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	regionForm      = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)
	storageForm     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)
	kmsKeyForm      = regexp.MustCompile(`^[A-Za-z0-9:/_.-]+$`)
	folderForm      = regexp.MustCompile(`^(/[^/]+)+$`)
	prefixForm      = regexp.MustCompile(`^[A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*/?$`)
)

// validator checks what the types cannot say. It skips fields whose value could not be read: they have their problem already.
type validator struct{ *decoder }

// at adds a problem at a field, or at the nearest field around it that stands in the file.
func (v validator) at(path, format string, args ...any) {
	v.problems.add(problemAt(v.decoder.file, v.positions, path, fmt.Sprintf(format, args...)))
}

func problemAt(file string, positions map[string]position, path, message string) Problem {
	p := Problem{File: file, Field: path, Message: message}
	for around := path; around != ""; around = parent(around) {
		if at, ok := positions[around]; ok {
			p.Line, p.Column = at.line, at.column
			return p
		}
	}
	return p
}

// parent is the path without its last part.
func parent(path string) string {
	if strings.HasSuffix(path, "]") {
		return path[:strings.LastIndexByte(path, '[')]
	}
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return path[:i]
	}
	return ""
}

// given tells whether the field stands in the file and could be read.
func (v validator) given(path string) bool {
	_, there := v.positions[path]
	return there && !v.broken[path]
}

// missing tells whether the field is not in the file at all.
func (v validator) missing(path string) bool {
	_, there := v.positions[path]
	return !there && !v.broken[path]
}

func (v validator) check(f *File) {
	if v.broken["clusters"] || v.broken[""] {
		return
	}
	if len(f.Clusters) == 0 {
		v.problems = append(v.problems, Problem{File: v.decoder.file, Line: 1, Column: 1, Field: "clusters", Message: "there is no cluster: write clusters: and below it a cluster with its nodes"})
		return
	}
	names := make([]string, 0, len(f.Clusters))
	for name := range f.Clusters {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		path := join("clusters", name)
		if !clusterNameForm.MatchString(name) {
			v.at(path, "%s is not a cluster name: use a-z, 0-9 and inner '-', at most 63 characters", quote(name))
		}
		if !v.broken[path] {
			v.cluster(f.Clusters[name], path)
		}
	}
}

func (v validator) cluster(c *Cluster, path string) {
	platform := path + ".platform"
	if v.given(platform) && c.Platform != PlatformALS && c.Platform != PlatformPlain {
		v.at(platform, "unknown platform %s: write als or plain", quote(string(c.Platform)))
		v.broken[platform] = true
	}
	v.ssh(c.SSH, path+".ssh")
	v.nodes(c, path)
	if c.Platform != PlatformALS && !v.broken[platform] {
		for _, section := range []struct{ field, what string }{{"kato", "kato"}, {"controller", "a Cloud Controller"}, {"export", "exports"}, {"images", "app containers"}, {"maintenance", "a maintenance mode"}, {"scratch", "imports, which scratch is about"}} {
			if p := path + "." + section.field; v.given(p) {
				v.at(p, "only clusters with platform: als have %s: take it out or write the platform", section.what)
			}
		}
	} else if p := path + ".kato.path"; v.given(p) && (!strings.HasPrefix(c.Kato.Path, "/") || strings.HasSuffix(c.Kato.Path, "/") || strings.Contains(c.Kato.Path+"/", "/../")) {
		v.at(p, "%s is not the full path of a program: write such as /home/stackato/bin/kato", quote(c.Kato.Path))
	}
	for _, folder := range []struct{ field, value string }{{"services", c.Kato.Services}, {"droplets", c.Kato.Droplets}, {"containers", c.Kato.Containers}} {
		if p := path + ".kato." + folder.field; v.given(p) && !folderForm.MatchString(folder.value) {
			v.at(p, "%s is not the full path of a folder: write such as /mnt/data/%s", quote(folder.value), folder.field)
		}
	}
	for i, u := range c.Kato.Releases {
		v.url(u, fmt.Sprintf("%s.kato.releases[%d]", path, i), "https://pkg.helion.com")
	}
	v.url(c.Proxy.HTTP, path+".proxy.http", "http://proxy.example.org:3128")
	v.url(c.Proxy.HTTPS, path+".proxy.https", "http://proxy.example.org:3128")
	if p := path + ".proxy.no_proxy"; v.given(p) && !noProxyForm.MatchString(c.Proxy.NoProxy) {
		v.at(p, "%s is not a list of hosts: write hosts, domains or networks with commas and no spaces", quote(c.Proxy.NoProxy))
	}
	v.between(c.Gates.Times, 1, 100, path+".gates.times")
	v.lines(c.Gates.Commands, path+".gates.commands")
	if i, t := path+".gates.interval", path+".gates.timeout"; v.given(i) && v.given(t) && c.Gates.Interval > c.Gates.Timeout {
		v.at(i, "%s is longer than the gates' timeout of %s: write a shorter interval", c.Gates.Interval, c.Gates.Timeout)
	}
	v.notify(c.Notify, path+".notify")
	if c.S3 != nil && !v.broken[path+".s3"] {
		v.s3(c.S3, path+".s3")
	}
	if c.Controller != nil && !v.broken[path+".controller"] {
		v.controller(c.Controller, path+".controller")
	}
	if c.Export != nil && !v.broken[path+".export"] {
		v.export(c, path+".export")
	}
	if c.Images != nil && !v.broken[path+".images"] {
		v.images(c.Images, path+".images")
	}
	if c.Hypervisor != nil && !v.broken[path+".hypervisor"] {
		v.hypervisor(c, path+".hypervisor")
	}
	if p := path + ".maintenance.dead_man"; c.Maintenance != nil && v.given(p) && c.Maintenance.DeadMan < leastDeadMan {
		v.at(p, "%s is too short: a lost connection would look like a dead operation; write at least %s", c.Maintenance.DeadMan, leastDeadMan)
	}
}

// leastDeadMan leaves the sign of life, given every third of it, room for a connection that is made anew.
const leastDeadMan = Duration(time.Minute)

func (v validator) ssh(s SSH, path string) {
	if p := path + ".user"; v.given(p) && !userForm.MatchString(s.User) {
		v.at(p, "%s is not a user name: use letters, digits, '_', '.' and '-', at most 32 characters", quote(s.User))
	}
	if p := path + ".port"; v.given(p) && (s.Port < 1 || s.Port > 65535) {
		v.at(p, "%d is not a port: write a number from 1 to 65535", s.Port)
	}
	v.lines(s.KeyFiles, path+".key_files")
	for i, file := range s.KeyFiles {
		if p := item(path+".key_files", i); v.given(p) && strings.Contains(file, "PRIVATE KEY") {
			v.at(p, "a key may not stand in the inventory: write the path of its file")
		}
	}
	v.secret(s.Passphrase, path+".passphrase")
	v.lines(s.KnownHosts, path+".known_hosts")
	if p := path + ".bastion"; v.given(p) {
		if _, _, _, err := parseBastion(s.Bastion); err != nil {
			v.at(p, "%v", err)
		}
	}
	v.between(s.MaxSessions, 1, 100, path+".max_sessions")
}

func (v validator) nodes(c *Cluster, path string) {
	list := path + ".nodes"
	if v.broken[list] {
		return
	}
	if len(c.Nodes) == 0 {
		v.at(list, "there is no node: write at least one \"- name: ...\" with an address")
		return
	}
	als := c.Platform == PlatformALS && !v.broken[path+".platform"]
	names, addresses := make(map[string]int), make(map[string]int)
	var primaries, cores []int
	rolesKnown := true
	for i, n := range c.Nodes {
		at := item(list, i)
		if v.broken[at] {
			rolesKnown = false
			continue
		}
		v.name(n, at)
		if v.given(at + ".name") {
			if first, twice := names[n.Name]; twice {
				v.at(at+".name", "%s is also the name of %s: give each node its own", quote(n.Name), item("nodes", first))
			} else {
				names[n.Name] = i
			}
		}
		v.address(n, c, at, addresses, i)
		v.ssh(n.SSH, at+".ssh")
		v.lines(n.GateCommands, at+".gate_commands")
		v.vm(n, c, at)
		if !v.roles(n, at, als) {
			rolesKnown = false
		}
		if slices.Contains(n.Roles, "primary") {
			primaries = append(primaries, i)
		}
		if n.Core {
			cores = append(cores, i)
			if !als && !v.broken[path+".platform"] {
				v.at(at+".core", "only clusters with platform: als have a Core node: take it out or write the platform")
			}
		}
	}
	if als {
		for _, i := range primaries[min(1, len(primaries)):] {
			v.at(item(list, i)+".roles", "has the role primary as %s has: exactly one node of an als cluster has it", item("nodes", primaries[0]))
		}
		if len(primaries) == 0 && rolesKnown {
			v.at(list, "no node has the role primary: exactly one node of an als cluster has it")
		}
		for _, i := range cores[min(1, len(cores)):] {
			v.at(item(list, i)+".core", "%s is the Core node already: a cluster has one", item("nodes", cores[0]))
		}
	}
}

func (v validator) name(n *Node, at string) {
	p := at + ".name"
	switch {
	case v.missing(p):
		v.at(p, "is missing: give the node a name")
	case !v.given(p):
	case strings.EqualFold(n.Name, ReservedNodeName):
		v.at(p, "%s is reserved for questions about the whole cluster: give the node another name", quote(n.Name))
	case !isNodeName(n.Name):
		v.at(p, "%s is not a node name: use a-z, 0-9 and inner '-', in parts joined by dots", quote(n.Name))
	}
}

// isNodeName holds for a lower-case DNS name. Lower case only, so that two names never differ by case alone.
func isNodeName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for _, label := range strings.Split(s, ".") {
		if !clusterNameForm.MatchString(label) {
			return false
		}
	}
	return true
}

func (v validator) address(n *Node, c *Cluster, at string, addresses map[string]int, i int) {
	p := at + ".address"
	if v.missing(p) {
		v.at(p, "is missing: write the node's IP address or host name")
		return
	}
	if !v.given(p) {
		return
	}
	canonical, err := parseAddress(n.Address)
	if err != nil {
		v.at(p, "%v", err)
		return
	}
	port := n.SSH.Port
	if port == 0 {
		port = c.SSH.Port
	}
	if port == 0 {
		port = 22
	}
	key := canonical + " " + strconv.Itoa(port)
	if first, twice := addresses[key]; twice {
		v.at(p, "%s with port %d is also the address of %s: each node has its own", quote(n.Address), port, item("nodes", first))
		return
	}
	addresses[key] = i
}

// parseAddress checks an IP address or a host name and returns its one spelling.
func parseAddress(s string) (string, error) {
	if s == "" {
		return "", fmt.Errorf("is empty: write an IP address or a host name")
	}
	if ip, err := netip.ParseAddr(s); err == nil {
		if ip.IsUnspecified() || ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			return "", fmt.Errorf("%s is not the address of one machine: write the node's own", quote(s))
		}
		if zone := ip.Zone(); zone != "" && !zoneForm.MatchString(zone) {
			return "", fmt.Errorf("%s is not an IP address: its zone is no interface name", quote(s))
		}
		return ip.Unmap().String(), nil
	}
	if strings.HasPrefix(s, "[") {
		return "", fmt.Errorf("%s is not an address: write it without brackets, and a port under ssh.port", quote(s))
	}
	if host, port, ok := strings.Cut(s, ":"); ok && allDigits(port) {
		if _, err := parseAddress(host); err == nil {
			return "", fmt.Errorf("%s holds a port: write only %s here, and the port under ssh.port", quote(s), quote(host))
		}
	}
	if strings.Contains(s, "@") {
		return "", fmt.Errorf("holds a user: write only the host here, and the user under ssh.user") // not repeated, as it may hold a password
	}
	if !isHostName(s) {
		return "", fmt.Errorf("%s is not an IP address or host name", quote(s))
	}
	return strings.ToLower(s), nil
}

func isHostName(s string) bool {
	if len(s) > 253 {
		return false
	}
	labels := strings.Split(s, ".")
	for _, label := range labels {
		if !hostLabelForm.MatchString(label) {
			return false
		}
	}
	return !allDigits(labels[len(labels)-1]) // 10.0.0.300 is a wrong address, not a host
}

func allDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// roles reports whether all of the node's roles could be read.
func (v validator) roles(n *Node, at string, als bool) bool {
	p := at + ".roles"
	if v.broken[p] {
		return false
	}
	ok := true
	if als && len(n.Roles) == 0 {
		v.at(p, "is missing: list the node's kato roles, or base alone")
		return false
	}
	for i, role := range n.Roles {
		field := item(p, i)
		if v.broken[field] {
			ok = false
			continue
		}
		switch {
		case als && !isRole(role):
			ok = false
			hint := roleHint(role)
			if hint == "" {
				hint = didYouMean(role, RoleNames())
			}
			v.at(field, "unknown role %s: %s", quote(role), hint)
		case !roleForm.MatchString(role):
			v.at(field, "%s is not a role name: use a-z, 0-9, '_' and '-', beginning with a letter", quote(role))
		case slices.Contains(n.Roles[:i], role):
			v.at(field, "the role %s is listed twice: keep one", quote(role))
		}
	}
	if als && slices.Contains(n.Roles, "load_balancer") && slices.ContainsFunc(n.Roles, func(r string) bool { return r != "load_balancer" && r != "base" }) {
		v.at(p, "the role load_balancer excludes every other role on its node (only base goes with it)") // kato.md §2
	}
	return ok
}

// lines checks a list of texts: not empty, and no item empty.
func (v validator) lines(list []string, path string) {
	if v.given(path) && len(list) == 0 {
		v.at(path, "is an empty list: list at least one or take the field out")
	}
	for i, s := range list {
		if p := item(path, i); v.given(p) && strings.TrimSpace(s) == "" {
			v.at(p, "is empty: fill it in or take the line out")
		}
	}
}

func (v validator) between(value, least, most int, path string) {
	if v.given(path) && (value < least || value > most) {
		v.at(path, "%d is out of range: write a number from %d to %d", value, least, most)
	}
}

// secret checks a reference. Its texts are never repeated: someone may have written the secret itself there.
func (v validator) secret(s *Secret, path string) {
	if s == nil || v.broken[path] || v.broken[path+".file"] || v.broken[path+".env"] {
		return
	}
	hasFile, hasEnv := v.given(path+".file"), v.given(path+".env")
	switch {
	case hasFile == hasEnv:
		v.at(path, "write exactly one of file: PATH and env: NAME")
	case hasFile && strings.TrimSpace(s.File) == "":
		v.at(path+".file", "is empty: write the path of the file that holds the secret")
	case hasEnv && !envForm.MatchString(s.Env):
		v.at(path+".env", "is not the name of an environment variable: use letters, digits and '_'; the secret itself may not stand here")
	}
}

// url checks the address of a proxy or an S3 service. Only the parts that cannot hold a password are repeated.
func (v validator) url(s, path, example string) {
	if !v.given(path) {
		return
	}
	right := "write such as " + example
	u, err := url.Parse(s)
	switch {
	case err != nil || s == "":
		v.at(path, "is not a URL: %s", right)
	case u.User != nil || strings.Contains(s, "@"):
		v.at(path, "no user or password may stand in it, this file holds no secrets: %s", right)
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		v.at(path, "is not an http or https URL: %s", right)
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		v.at(path, "holds more than a host and a port: %s", right)
	default:
		if _, err := parseAddress(u.Hostname()); err != nil {
			v.at(path, "host %v: %s", err, right)
		} else if port := u.Port(); port != "" && !isPort(port) || strings.HasSuffix(u.Host, ":") {
			v.at(path, "%s is not a port: %s", quote(port), right)
		}
	}
}

func isPort(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && allDigits(s) && n >= 1 && n <= 65535
}

func (v validator) notify(n Notify, path string) {
	v.secret(n.Webhook, path+".webhook")
	v.lines(n.Command, path+".command")
	v.lines(n.On, path+".on")
	for i, event := range n.On {
		p := item(path+".on", i)
		switch {
		case !v.given(p):
		case !slices.Contains(NotifyEvents(), event):
			v.at(p, "unknown event %s: %s", quote(event), didYouMean(event, NotifyEvents()))
		case slices.Contains(n.On[:i], event):
			v.at(p, "the event %s is listed twice: keep one", quote(event))
		}
	}
	if v.given(path+".on") && v.missing(path+".webhook") && v.missing(path+".command") {
		v.at(path, "nobody is told: write a webhook or a command")
	}
}

func (v validator) s3(s *S3, path string) {
	v.url(s.Endpoint, path+".endpoint", "https://s3.example.org")
	if p := path + ".bucket"; v.missing(p) {
		v.at(p, "is missing: name the bucket")
	} else if v.given(p) && !bucketForm.MatchString(s.Bucket) {
		v.at(p, "%s is not a bucket name: use a-z, 0-9, '.' and '-', 3 to 63 characters", quote(s.Bucket))
	}
	if p := path + ".region"; v.given(p) && !regionForm.MatchString(s.Region) {
		v.at(p, "%s is not a region: write such as us-east-1", quote(s.Region))
	}
	if p := path + ".prefix"; v.given(p) && (!prefixForm.MatchString(s.Prefix) || strings.Contains("/"+s.Prefix+"/", "/../") || len(s.Prefix) > 400) {
		v.at(p, "%s is not a key prefix: use letters, digits and !_.*'()- in parts joined by '/'", quote(s.Prefix))
	}
	if p := path + ".ca_file"; v.given(p) && strings.TrimSpace(s.CAFile) == "" {
		v.at(p, "is empty: write the path of the file with the certificates")
	}
	v.awsKeys(s.AccessKey, s.SecretKey, s.SessionToken, path)
	v.secret(s.Identity, path+".identity")
	v.oneOf(s.Encryption, S3Encryptions(), path+".encryption")
	if p := path + ".kms_key"; v.given(p) {
		if !kmsKeyForm.MatchString(s.KMSKey) {
			v.at(p, "%s is not the id, ARN or alias of a key", quote(s.KMSKey))
		}
		if !v.broken[path+".encryption"] && s.Encryption != "aws:kms" {
			v.at(p, "is used with encryption: aws:kms only: write that or take the key out")
		}
	}
	if p := path + ".storage_class"; v.given(p) && !storageForm.MatchString(s.StorageClass) {
		v.at(p, "%s is not a storage class: write such as STANDARD_IA", quote(s.StorageClass))
	}
	v.oneOf(s.LockMode, S3LockModes(), path+".lock_mode")
	mode, howLong := path+".lock_mode", path+".lock_for"
	if v.given(mode) && v.missing(howLong) {
		v.at(howLong, "is missing: lock_mode and lock_for go together")
	}
	if v.given(howLong) && v.missing(mode) {
		v.at(mode, "is missing: lock_mode and lock_for go together")
	}
}

// awsKeys checks the keys of an account with AWS, and that they are given together.
func (v validator) awsKeys(accessKey, secretKey, sessionToken *Secret, path string) {
	a, k, t := path+".access_key", path+".secret_key", path+".session_token"
	v.secret(accessKey, a)
	v.secret(secretKey, k)
	if v.given(a) && v.missing(k) {
		v.at(k, "is missing: access_key and secret_key go together")
	}
	if v.given(k) && v.missing(a) {
		v.at(a, "is missing: access_key and secret_key go together")
	}
	v.secret(sessionToken, t)
	if v.given(t) && v.missing(a) && v.missing(k) {
		v.at(t, "belongs to access_key and secret_key: write them too or take it out")
	}
}

// S3Encryptions returns what an S3 service can be told to encrypt with: AES256, aws:kms.
func S3Encryptions() []string { return []string{"AES256", "aws:kms"} }

// S3LockModes returns the modes of object lock: GOVERNANCE, COMPLIANCE.
func S3LockModes() []string { return []string{"GOVERNANCE", "COMPLIANCE"} }

func (v validator) oneOf(s string, known []string, path string) {
	if v.given(path) && !slices.Contains(known, s) {
		v.at(path, "%s is not one of %s: write one of them or take it out", quote(s), quoteAll(known))
		v.broken[path] = true
	}
}

func (v validator) controller(c *Controller, path string) {
	if p := path + ".url"; v.missing(p) {
		v.at(p, "is missing: write the API's address such as https://api.example.org")
	} else {
		v.url(c.URL, p, "https://api.example.org")
	}
	if p := path + ".user"; v.missing(p) {
		v.at(p, "is missing: name an admin of the cluster")
	} else if v.given(p) && (strings.TrimSpace(c.User) != c.User || c.User == "" || len(c.User) > 255) {
		v.at(p, "is not the name of a user: write an admin's name or e-mail address")
	}
	if p := path + ".password"; v.missing(p) {
		v.at(p, "is missing: write {file: PATH} or {env: NAME}")
	} else {
		v.secret(c.Password, p)
	}
	if p := path + ".ca_file"; v.given(p) && strings.TrimSpace(c.CAFile) == "" {
		v.at(p, "is empty: write the path of the file with the certificates")
	}
}

func (v validator) export(c *Cluster, path string) {
	nodes := parent(path) + ".nodes"
	isNamed := func(n *Node) bool { return n.Name == c.Export.Node }
	if p := path + ".node"; v.given(p) && !v.broken[nodes] && len(c.Nodes) > 0 && !slices.ContainsFunc(c.Nodes, isNamed) {
		names := make([]string, 0, len(c.Nodes))
		for _, n := range c.Nodes {
			names = append(names, n.Name)
		}
		v.at(p, "there is no node %s: %s", quote(c.Export.Node), didYouMean(c.Export.Node, names[:min(len(names), 500)]))
	}
	if p := path + ".folder"; v.given(p) {
		v.folder(c.Export.Folder, p)
	}
	v.lines(c.Export.DataFolders, path+".data_folders")
	for i, folder := range c.Export.DataFolders {
		if p := item(path+".data_folders", i); v.given(p) && strings.TrimSpace(folder) != "" {
			v.folder(folder, p)
		}
	}
}

func (v validator) images(i *Images, path string) {
	for _, field := range []struct {
		name, value string
		check       func(string) error
	}{{"repository", i.Repository, docker.CheckRepository}, {"base_tag", i.BaseTag, docker.CheckTag}, {"registry", i.Registry, docker.CheckRegistry}} {
		if p := path + "." + field.name; v.given(p) {
			if err := field.check(field.value); err != nil {
				v.at(p, "%s", err.Error())
			}
		}
	}
	if i.BaseTag == "latest" {
		v.at(path+".base_tag", "every upgrade would be built on the one before, with more and more layers: write another tag, such as kato-patched")
	}
}

// folder checks the full path of a folder on a node, not / itself.
func (v validator) folder(s, path string) {
	if !folderForm.MatchString(s) || strings.Contains(s+"/", "/../") || strings.Contains(s+"/", "/./") {
		v.at(path, "%s is not the full path of a folder: write such as /srv/backup", quote(s))
	}
}

// parseBastion reads "[user@]host[:port]"; an IPv6 address stands in brackets. user is "" and port 22 where not written.
func parseBastion(s string) (user, host string, port int, err error) {
	bad := func(why string) (string, string, int, error) {
		return "", "", 0, fmt.Errorf("%s is not a bastion: %s; write [user@]host[:port]", quote(s), why)
	}
	host = s
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		user, host = s[:i], s[i+1:]
		if strings.Contains(user, ":") {
			return "", "", 0, fmt.Errorf("no password may stand in a bastion: write [user@]host[:port]")
		}
		if !userForm.MatchString(user) {
			return bad("its user is no user name")
		}
	}
	port = 22
	portText := ""
	switch {
	case strings.HasPrefix(host, "["):
		inner, rest, closed := strings.Cut(host[1:], "]")
		if !closed || rest != "" && !strings.HasPrefix(rest, ":") {
			return bad("its brackets do not close")
		}
		if ip, err := netip.ParseAddr(inner); err != nil || !ip.Is6() {
			return bad("in brackets stands an IPv6 address")
		}
		host = inner
		if rest != "" {
			portText = rest
		}
	case strings.Count(host, ":") == 1:
		i := strings.IndexByte(host, ':')
		host, portText = host[:i], host[i:]
	case strings.Contains(host, ":"):
		return bad("an IPv6 address stands in brackets")
	}
	if portText != "" {
		if !isPort(portText[1:]) {
			return bad("its port is not a number from 1 to 65535")
		}
		port, _ = strconv.Atoi(portText[1:]) // isPort has read it
	}
	if _, err := parseAddress(host); err != nil {
		return bad("its host is no IP address or host name")
	}
	return user, host, port, nil
}

func item(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
