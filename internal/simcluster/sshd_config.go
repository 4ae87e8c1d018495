package simcluster

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

const sshdConfigPath = "/etc/ssh/sshd_config"

// sshdConfigText is Debian 12's, without its comments.
const sshdConfigText = "Include /etc/ssh/sshd_config.d/*.conf\n\n#PasswordAuthentication yes\n#PermitEmptyPasswords no\n\nKbdInteractiveAuthentication no\n\nUsePAM yes\nX11Forwarding yes\nPrintMotd no\nAcceptEnv LANG LC_*\nSubsystem\tsftp\t/usr/lib/openssh/sftp-server\n"

// oldSSHDConfigText is that of an sshd before 8.2, which knows no Include and has ChallengeResponseAuthentication.
const oldSSHDConfigText = "Port 22\nProtocol 2\nHostKey /etc/ssh/ssh_host_ed25519_key\nSyslogFacility AUTH\nLogLevel INFO\nLoginGraceTime 120\nPermitRootLogin without-password\nStrictModes yes\n\nPubkeyAuthentication yes\nPermitEmptyPasswords no\n\nChallengeResponseAuthentication no\n#PasswordAuthentication yes\n\nX11Forwarding yes\nPrintMotd no\nAcceptEnv LANG LC_*\nSubsystem sftp /usr/lib/openssh/sftp-server\nUsePAM yes\n"

// sshdKeyword is what sshd knows of a keyword.
type sshdKeyword struct {
	match  bool     // may stand in a Match block
	values []string // the only ones it takes; nil for any
	many   bool     // takes more than one value
	again  bool     // every line of it counts
	gone   bool     // known and ignored
}

var (
	yesNo     = []string{"yes", "no"}
	rootLogin = []string{"without-password", "prohibit-password", "forced-commands-only", "yes", "no"}
)

// sshdKeywords are those of OpenSSH 9.2.
var sshdKeywords = func() map[string]sshdKeyword {
	all := map[string]sshdKeyword{
		"passwordauthentication": {match: true, values: yesNo}, "kbdinteractiveauthentication": {match: true, values: yesNo}, "challengeresponseauthentication": {match: true, values: yesNo}, "skeyauthentication": {match: true, values: yesNo},
		"pubkeyauthentication": {match: true, values: yesNo}, "authorizedkeysfile": {match: true, many: true}, "permitrootlogin": {match: true, values: rootLogin}, "permitemptypasswords": {match: true, values: yesNo},
		"usepam": {values: yesNo}, "strictmodes": {values: yesNo}, "port": {again: true}, "allowusers": {match: true, many: true, again: true}, "denyusers": {match: true, many: true, again: true},
		"allowgroups": {match: true, many: true, again: true}, "denygroups": {match: true, many: true, again: true}, "authenticationmethods": {match: true, many: true},
	}
	for _, k := range strings.Fields("acceptenv allowagentforwarding allowstreamlocalforwarding allowtcpforwarding authorizedkeyscommand authorizedkeyscommanduser authorizedprincipalscommand authorizedprincipalscommanduser authorizedprincipalsfile banner casignaturealgorithms chrootdirectory clientalivecountmax clientaliveinterval disableforwarding exposeauthinfo forcecommand gatewayports gssapiauthentication hostbasedacceptedalgorithms hostbasedauthentication hostbasedusesnamefrompacketonly ignorerhosts include ipqos kerberosauthentication loglevel logverbose maxauthtries maxsessions permitlisten permitopen permittty permittunnel permituserrc pubkeyacceptedalgorithms pubkeyacceptedkeytypes pubkeyauthoptions rekeylimit revokedkeys setenv streamlocalbindmask streamlocalbindunlink trustedusercakeys unusedconnectiontimeout x11displayoffset x11forwarding x11maxdisplays x11uselocalhost") {
		all[k] = sshdKeyword{match: true, many: true, again: true}
	}
	for _, k := range strings.Fields("addressfamily ciphers compression debianbanner fingerprinthash gssapicleanupcredentials gssapikexalgorithms gssapikeyexchange gssapistorecredentialsonrekey gssapistrictacceptorcheck hostcertificate hostkey hostkeyagent hostkeyalgorithms ignoreuserknownhosts kerberosorlocalpasswd kerberosticketcleanup kexalgorithms listenaddress logingracetime macs maxstartups modulifile permituserenvironment persourcemaxstartups persourcenetblocksize pidfile printlastlog printmotd requiredrsasize securitykeyprovider subsystem syslogfacility tcpkeepalive usedns versionaddendum xauthlocation") {
		all[k] = sshdKeyword{many: true, again: true}
	}
	for _, k := range strings.Fields("keyregenerationinterval protocol rhostsrsaauthentication rsaauthentication serverkeybits uselogin useprivilegeseparation") {
		all[k] = sshdKeyword{match: true, many: true, again: true, gone: true}
	}
	return all
}()

// sshdDefaults are the values that are compiled in.
var sshdDefaults = map[string]string{"port": "22", "usepam": "no", "permitrootlogin": "without-password", "pubkeyauthentication": "yes", "passwordauthentication": "yes", "kbdinteractiveauthentication": "yes",
	"challengeresponseauthentication": "yes", "strictmodes": "yes", "permitemptypasswords": "no", "authorizedkeysfile": ".ssh/authorized_keys .ssh/authorized_keys2", "authenticationmethods": "any", "allowusers": "", "denyusers": ""}

// sshdConfig is a configuration that sshd has read.
type sshdConfig struct {
	old     bool
	globals map[string]string
	blocks  []sshdBlock // in the order of the files
	text    string      // of all its files
}

// sshdBlock is what a Match line governs.
type sshdBlock struct {
	when   []sshdCondition
	values map[string]string
}

type sshdCondition struct{ what, patterns string }

// sshdPeer is a login as Match lines see it.
type sshdPeer struct{ user, host, address, localAddress, localPort string }

// sshdConfigError is what sshd says of a configuration that it does not take.
type sshdConfigError struct {
	text string
	exit int
}

func (e sshdConfigError) Error() string { return e.text }

var errNoSSHDConfig = sshdConfigError{sshdConfigPath + ": No such file or directory", 1}

// sshdReader reads one configuration.
type sshdReader struct {
	node     *Node
	out      *sshdConfig
	messages []string
}

// readSSHDConfig reads a configuration as sshd does, which calls it by a name that may be relative. The warnings are what it says of one that it takes.
func (n *Node) readSSHDConfig(file, name string) (cfg *sshdConfig, warnings []string, err error) {
	r := &sshdReader{node: n, out: &sshdConfig{old: n.cfg.OldSSHD, globals: map[string]string{}}}
	text, err := r.read(file)
	if err != nil && file == sshdConfigPath && errors.Is(err, fs.ErrNotExist) {
		return nil, nil, errNoSSHDConfig
	}
	if err != nil {
		return nil, nil, sshdConfigError{fmt.Sprintf("%s: %s", name, errorText(err)), 1}
	}
	if !r.file(name, string(text), nil, false, 0) {
		return nil, nil, sshdConfigError{strings.Join(r.messages, "\n"), 255}
	}
	return r.out, r.messages, nil
}

func (r *sshdReader) read(file string) ([]byte, error) {
	virt, err := r.node.tree.resolve("/", file, true)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(r.node.tree.host(virt))
	return text, bare(err)
}

// file reads one file, which is included from a block of these conditions. A Match block that it begins ends with it.
func (r *sshdReader) file(name, text string, outer []sshdCondition, inMatch bool, depth int) bool {
	in := outer
	r.out.text += text + "\n"
	say := func(format string, args ...any) { r.messages = append(r.messages, fmt.Sprintf(format, args...)) }
	bad := 0
	block := func(when []sshdCondition) map[string]string {
		r.out.blocks = append(r.out.blocks, sshdBlock{when: when, values: map[string]string{}})
		return r.out.blocks[len(r.out.blocks)-1].values
	}
	values := r.out.globals
	if inMatch {
		values = block(in)
	}
	number := 0
	for line := range strings.SplitSeq(text, "\n") {
		number++
		words, closed := sshdWords(line, !r.out.old)
		if !closed {
			say("%s line %d: invalid quotes", name, number)
			bad++
			continue
		}
		if len(words) == 0 {
			continue
		}
		keyword, args := strings.ToLower(words[0]), words[1:]
		if len(args) == 0 && !r.out.old {
			say("%s line %d: no argument after keyword %q", name, number, words[0])
			bad++
			continue
		}
		known, ok := sshdKeywords[keyword]
		if r.out.old {
			switch keyword {
			case "include":
				ok = false
			case "challengeresponseauthentication", "skeyauthentication":
				known.match = false
			}
			known.gone = false
		}
		if r.out.old && keyword == "skeyauthentication" || !r.out.old && (keyword == "skeyauthentication" || keyword == "challengeresponseauthentication") {
			keyword = map[bool]string{true: "challengeresponseauthentication", false: "kbdinteractiveauthentication"}[r.out.old]
		}
		if keyword == "match" {
			if len(args) == 0 {
				say("%s line %d: Bad Match condition", name, number)
				return false
			}
			when, wrong := sshdConditions(args)
			if wrong != "" {
				say("%s", wrong)
				say("%s line %d: Bad Match condition", name, number)
				return false
			}
			inMatch, in = true, append(slices.Clip(outer), when...)
			values = block(in)
			continue
		}
		switch {
		case !ok:
			say("%s: line %d: Bad configuration option: %s", name, number, words[0])
			bad++
			continue
		case keyword == "protocol":
			continue
		case known.gone:
			say("%s line %d: Deprecated option %s", name, number, words[0])
			continue
		case inMatch && !known.match:
			say("%s line %d: Directive '%s' is not allowed within a Match block", name, number, words[0])
			return false
		case len(args) == 0:
			say("%s line %d: missing argument.", name, number)
			return false
		}
		if keyword == "include" {
			for _, pattern := range args {
				if !path.IsAbs(pattern) {
					pattern = path.Join("/etc/ssh", pattern)
				}
				for _, file := range r.node.globFiles(pattern) {
					included, err := r.read(file)
					if err != nil || depth >= 16 {
						continue
					}
					if !r.file(file, string(included), in, inMatch, depth+1) {
						return false
					}
				}
			}
			if inMatch { // what follows goes on in the block
				values = block(in)
			}
			continue
		}
		value := args[0]
		if known.values != nil {
			value = strings.ToLower(value)
			if !slices.Contains(known.values, value) {
				if r.out.old {
					say("%s line %d: Bad yes/no argument: %s", name, number, args[0])
				} else {
					say("%s line %d: unsupported option %q.", name, number, args[0])
				}
				return false
			}
			if value == "prohibit-password" {
				value = "without-password"
			}
		}
		if _, set := values[keyword]; known.again && set {
			values[keyword] += " " + strings.Join(args, " ")
		} else if !set {
			values[keyword] = value
			if known.many {
				values[keyword] = strings.Join(args, " ")
			}
		}
		if !known.many && len(args) > 1 {
			if r.out.old {
				say("%s line %d: garbage at end of line; %q.", name, number, args[1])
				return false
			}
			say("%s line %d: keyword %s extra arguments at end of line", name, number, words[0])
			bad++
		}
	}
	if bad > 0 {
		say("%s: terminating, %d bad configuration options", name, bad)
	}
	return bad == 0
}

// sshdWords splits a line: words are parted by blanks, and the first one may be by an equals sign. Older ones know comments at the beginning of a line only.
func sshdWords(line string, comments bool) (words []string, closed bool) {
	line = strings.Trim(line, " \t\r\f")
	if line == "" || line[0] == '#' {
		return nil, true
	}
	if i := strings.IndexAny(line, " \t="); i > 0 {
		rest := strings.TrimLeft(line[i:], " \t")
		line = line[:i] + " " + strings.TrimPrefix(rest, "=")
	}
	for {
		line = strings.TrimLeft(line, " \t")
		if line == "" || comments && line[0] == '#' {
			return words, true
		}
		if line[0] == '"' || line[0] == '\'' {
			end := strings.IndexByte(line[1:], line[0])
			if end < 0 {
				return nil, false
			}
			words, line = append(words, line[1:end+1]), line[end+2:]
			continue
		}
		end := strings.IndexAny(line, " \t")
		if end < 0 {
			end = len(line)
		}
		words, line = append(words, line[:end]), line[end:]
	}
}

// sshdConditions reads what stands after Match.
func sshdConditions(args []string) (when []sshdCondition, wrong string) {
	for len(args) > 0 {
		what, patterns, joined := strings.Cut(args[0], "=")
		what = strings.ToLower(what)
		switch what {
		case "all":
			if len(args) > 1 || len(when) > 0 {
				return nil, "'all' cannot be combined with other Match attributes"
			}
			return []sshdCondition{{what: "all"}}, ""
		case "user", "group", "host", "address", "localaddress", "localport", "rdomain":
		default:
			return nil, "Unsupported Match attribute " + args[0]
		}
		args = args[1:]
		if !joined {
			if len(args) == 0 {
				return nil, "Missing Match criteria for " + what
			}
			patterns, args = args[0], args[1:]
		}
		when = append(when, sshdCondition{what, patterns})
	}
	return when, ""
}

// globFiles are the node's files of a pattern whose last part has the wildcards, in their order.
func (n *Node) globFiles(pattern string) (files []string) {
	if !strings.ContainsAny(pattern, "*?[") {
		return []string{pattern}
	}
	entries, err := n.tree.readdir(superuser, "/", path.Dir(pattern))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if ok, _ := path.Match(path.Base(pattern), e.name); ok && (e.name[0] != '.' || path.Base(pattern)[0] == '.') {
			files = append(files, path.Join(path.Dir(pattern), e.name))
		}
	}
	return files
}

// matches says whether a Match line means a login.
func (c sshdCondition) matches(p sshdPeer) bool {
	switch c.what {
	case "all":
		return true
	case "user":
		return p.user != "" && matchList(c.patterns, p.user)
	case "group":
		return p.user != "" && (matchList(c.patterns, p.user) || p.user != superuser && matchList(c.patterns, "sudo"))
	case "host":
		return p.host != "" && matchList(strings.ToLower(c.patterns), p.host)
	case "address":
		return p.address != "" && matchAddress(c.patterns, p.address)
	case "localaddress":
		return p.localAddress != "" && matchAddress(c.patterns, p.localAddress)
	case "localport":
		return p.localPort != "" && c.patterns == p.localPort
	}
	return false
}

// matchList is OpenSSH's match_pattern_list: commas between patterns, a pattern after ! refuses.
func matchList(patterns, value string) bool {
	found := false
	for p := range strings.SplitSeq(patterns, ",") {
		p, not := strings.CutPrefix(strings.TrimSpace(p), "!")
		if matchPattern(p, value) {
			if not {
				return false
			}
			found = true
		}
	}
	return found
}

// matchPattern knows * and ?.
func matchPattern(pattern, value string) bool {
	ok, err := path.Match(strings.NewReplacer("[", `\[`, `\`, `\\`).Replace(pattern), strings.ReplaceAll(value, "/", "_"))
	return err == nil && ok
}

// matchAddress is matchList for addresses, with networks as well.
func matchAddress(patterns, address string) bool {
	found := false
	at, err := netip.ParseAddr(address)
	for p := range strings.SplitSeq(patterns, ",") {
		p, not := strings.CutPrefix(strings.TrimSpace(p), "!")
		hit := matchPattern(p, address)
		if network, wrong := netip.ParsePrefix(p); wrong == nil && err == nil {
			hit = network.Contains(at)
		}
		if hit {
			if not {
				return false
			}
			found = true
		}
	}
	return found
}

// value of a keyword for a login: the first Match block that means it and has the keyword, then the rest of the configuration.
func (c *sshdConfig) value(keyword string, p sshdPeer) string {
	raw := func(keyword string) string {
		for _, b := range c.blocks {
			if v, set := b.values[keyword]; set && !slices.ContainsFunc(b.when, func(w sshdCondition) bool { return !w.matches(p) }) {
				return v
			}
		}
		return ""
	}
	if v := raw(keyword); v != "" {
		return v
	}
	v, set := c.globals[keyword]
	if keyword == "kbdinteractiveauthentication" && c.old {
		// Before 8.7 the two keywords were two settings, and ChallengeResponseAuthentication, which is on by default, switched the other one on.
		if c.value("challengeresponseauthentication", sshdPeer{}) == "yes" {
			return "yes"
		}
		if !set {
			return "no"
		}
	}
	if set {
		return v
	}
	return sshdDefaults[keyword]
}

func (c *sshdConfig) on(keyword string, p sshdPeer) bool { return c.value(keyword, p) == "yes" }

// methods that the server offers, in OpenSSH's order.
func (c *sshdConfig) methods(p sshdPeer) (list []string) {
	for _, m := range [][2]string{{"publickey", "pubkeyauthentication"}, {"password", "passwordauthentication"}, {"keyboard-interactive", "kbdinteractiveauthentication"}} {
		if c.on(m[1], p) {
			list = append(list, m[0])
		}
	}
	return list
}

// lets says whether AllowUsers and DenyUsers let a user in.
func (c *sshdConfig) lets(p sshdPeer) bool {
	listed := func(keyword string) bool {
		return slices.ContainsFunc(strings.Fields(c.value(keyword, p)), func(pattern string) bool {
			user, from, at := strings.Cut(pattern, "@")
			return matchPattern(user, p.user) && (!at || matchAddress(from, p.address))
		})
	}
	return !listed("denyusers") && (c.value("allowusers", p) == "" || listed("allowusers"))
}

// shown is what sshd -T prints, as far as it matters to logins.
func (c *sshdConfig) shown(p sshdPeer) string {
	var b bytes.Buffer
	port := c.value("port", p)
	fmt.Fprintf(&b, "port %s\naddressfamily any\nlistenaddress [::]:%s\nlistenaddress 0.0.0.0:%s\nusepam %s\nmaxauthtries 6\nmaxsessions %d\n", strings.ReplaceAll(port, " ", "\nport "), port, port, c.value("usepam", p), maxSessionsPerConnection)
	show := func(keywords ...string) {
		for _, k := range keywords {
			fmt.Fprintf(&b, "%s %s\n", k, c.value(k, p))
		}
	}
	show("permitrootlogin", "pubkeyauthentication", "passwordauthentication", "kbdinteractiveauthentication")
	if c.old {
		show("challengeresponseauthentication")
	}
	show("strictmodes", "permitemptypasswords", "authorizedkeysfile")
	for _, k := range []string{"allowusers", "denyusers"} {
		for _, u := range strings.Fields(c.value(k, p)) {
			fmt.Fprintf(&b, "%s %s\n", k, u)
		}
	}
	show("authenticationmethods")
	return b.String()
}

// sshdProgram is `sshd -t [-f FILE]` and `sshd -T [-f FILE] [-C user=U,host=H,addr=A]`. The daemon itself is the node's.
func sshdProgram(c *invocation) int {
	opts, rest := c.getopt("tTqdDef:C:o:p:", nil)
	if opts == nil || len(rest) > 0 {
		c.errorf("usage: sshd [-46DdeiqTtV] [-C connection_spec] [-c host_cert_file]")
		return 1
	}
	_, test := opts["t"]
	_, show := opts["T"]
	if !test && !show {
		return c.fail(255, "the node's sshd is run by its service")
	}
	peer := sshdPeer{}
	spec, given := opts["C"]
	if given {
		for _, part := range strings.Split(spec, ",") {
			k, v, _ := strings.Cut(part, "=")
			switch k {
			case "user":
				peer.user = v
			case "host":
				peer.host = v
			case "addr":
				peer.address = v
			case "laddr":
				peer.localAddress = v
			case "lport":
				if _, err := strconv.Atoi(v); err != nil {
					c.errorf("Invalid port '%s' in test mode specification %s", v, part)
					return 1
				}
				peer.localPort = v
			case "rdomain":
			default:
				c.errorf("Invalid test mode specification %s", part)
				return 1
			}
		}
	}
	if c.node.cfg.OldSSHD && given && (peer.user == "" || peer.host == "" || peer.address == "") {
		c.errorf("user, host and addr are all required when testing Match configs")
		return 1
	}
	name := sshdConfigPath
	if f, ok := opts["f"]; ok {
		name = f
	}
	file := name
	if !path.IsAbs(file) {
		file = path.Join(c.dir, file)
	}
	if _, err := c.readFile(file); err != nil {
		c.errorf("%s: %s", name, errorText(err))
		return 1
	}
	cfg, warnings, err := c.node.readSSHDConfig(file, name)
	if bad, ok := err.(sshdConfigError); ok {
		c.errorf("%s", bad.text)
		return bad.exit
	}
	for _, w := range warnings {
		c.errorf("%s", w)
	}
	if c.user() != superuser {
		c.errorf("sshd: no hostkeys available -- exiting.")
		return 1
	}
	if show {
		c.printf("%s", cfg.shown(peer))
	}
	return 0
}
