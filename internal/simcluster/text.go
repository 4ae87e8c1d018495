package simcluster

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// basicRegexp turns a POSIX basic expression into Go's syntax; extended ones need no change for what scripts use.
func basicRegexp(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch ch := s[i]; ch {
		case '\\':
			if i+1 < len(s) {
				i++
				switch s[i] {
				case '(', ')', '{', '}', '|', '+', '?':
					b.WriteByte(s[i])
				default:
					b.WriteByte('\\')
					b.WriteByte(s[i])
				}
			}
		case '(', ')', '{', '}', '|', '+', '?':
			b.WriteByte('\\')
			b.WriteByte(ch)
		case '*':
			if i == 0 || i == 1 && s[0] == '^' {
				b.WriteByte('\\')
			}
			b.WriteByte(ch)
		case '[':
			end := strings.IndexByte(s[i+1:], ']')
			if strings.HasPrefix(s[i+1:], "]") || strings.HasPrefix(s[i+1:], "^]") {
				if next := strings.IndexByte(s[i+3:], ']'); next >= 0 {
					end = next + 2
				}
			}
			for strings.Contains(s[i+1:min(len(s), i+2+end)], "[:") && !strings.Contains(s[i+1:i+1+end+1], ":]]") {
				next := strings.IndexByte(s[i+end+2:], ']')
				if next < 0 {
					break
				}
				end += next + 1
			}
			if end < 0 {
				b.WriteString(`\[`)
				continue
			}
			b.WriteString(strings.ReplaceAll(s[i:i+end+2], `\`, `\\`))
			i += end + 1
		default:
			b.WriteByte(ch)
		}
	}
	return b.String()
}

func compile(expr string, extended, fold bool) (*regexp.Regexp, error) {
	if !extended {
		expr = basicRegexp(expr)
	}
	if fold {
		expr = "(?i)" + expr
	}
	return regexp.Compile(expr)
}

// lines calls f with every line, without its newline.
func lines(r io.Reader, f func(string) bool) error {
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadString('\n')
		if line != "" && !f(strings.TrimSuffix(line, "\n")) {
			return nil
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func grep(c *invocation) int {
	opts, names := c.getopt("qvcEFilnsxhHoe:f:m:w", map[string]string{"quiet": "q", "silent": "q", "invert-match": "v", "count": "c", "extended-regexp": "E", "fixed-strings": "F", "ignore-case": "i", "only-matching": "o", "line-regexp": "x", "max-count": "m", "files-with-matches": "l", "file": "f", "regexp": "e", "no-messages": "s"})
	if opts == nil {
		return 2
	}
	has := func(o string) bool { _, ok := opts[o]; return ok }
	expr, ok := opts["e"]
	if file := opts["f"]; has("f") {
		var text []byte
		var err error
		if file == "-" {
			text, err = io.ReadAll(c.stdin())
		} else {
			text, err = c.readFile(file)
		}
		if err != nil {
			return c.fail(2, "%s: %s", file, errorText(err))
		}
		if len(text) == 0 && !ok { // no pattern at all matches nothing
			expr = `[^\s\S]`
			opts["E"] = ""
			delete(opts, "F")
			delete(opts, "x")
		} else if expr += strings.TrimSuffix(string(text), "\n"); ok {
			expr = opts["e"] + "\n" + strings.TrimSuffix(string(text), "\n")
		}
	} else if !ok {
		if len(names) == 0 {
			return c.fail(2, "missing pattern")
		}
		expr, names = names[0], names[1:]
	}
	if has("F") {
		expr = strings.ReplaceAll(regexp.QuoteMeta(expr), "\n", "|")
	} else if has("E") {
		expr = strings.ReplaceAll(expr, "\n", "|")
	} else {
		expr = strings.ReplaceAll(basicRegexp(expr), "\n", "|")
	}
	if has("w") {
		expr = `\b(?:` + expr + `)\b`
	}
	if has("x") {
		expr = "^(?:" + expr + ")$"
	}
	re, err := compile(expr, true, has("i"))
	if err != nil {
		return c.fail(2, "Invalid regular expression")
	}
	limit := -1
	if m, ok := opts["m"]; ok {
		limit, _ = strconv.Atoi(m)
	}
	matched := false
	exit := c.files(names, func(name string, r io.Reader) error {
		count, number := 0, 0
		err := lines(r, func(line string) bool {
			number++
			if re.MatchString(line) == has("v") || limit == 0 {
				return limit != 0
			}
			matched = true
			count++
			if has("q") || has("l") {
				return false
			}
			if !has("c") {
				prefix := ""
				if (len(names) > 1 || has("H")) && !has("h") {
					prefix = name + ":"
				}
				if has("n") {
					prefix += strconv.Itoa(number) + ":"
				}
				if has("o") {
					for _, m := range re.FindAllString(line, -1) {
						c.printf("%s%s\n", prefix, m)
					}
				} else {
					c.printf("%s%s\n", prefix, line)
				}
			}
			return c.broken == nil && (limit < 0 || count < limit)
		})
		if has("c") {
			c.printf("%d\n", count)
		}
		if has("l") && count > 0 {
			c.printf("%s\n", name)
		}
		return err
	})
	switch {
	case matched && (exit == 0 || has("q")):
		return 0
	case exit != 0:
		return 2
	}
	return 1
}

// sedInPlace runs sed over each file and puts a new file of the same mode and owner in its place.
func (c *invocation) sedInPlace(names []string) int {
	options := slices.DeleteFunc(slices.Clone(c.argv[:len(c.argv)-len(names)]), func(a string) bool { return a == "-i" || a == "--in-place" })
	exit := 0
	for _, name := range names {
		st, err := c.stat(name)
		if err != nil {
			exit = c.fail(2, "can't read %s: %s", name, errorText(err))
			continue
		}
		var out bytes.Buffer
		one := *c
		one.argv = append(slices.Clone(options), name)
		one.fds[1] = bufferDescription(&out)
		if code := sed(&one); code != 0 {
			exit = code
			continue
		}
		made := path.Join(path.Dir(name), "sed"+strconv.FormatInt(time.Now().UnixNano()%1e6, 36))
		if err = c.writeFile(made, out.String(), 0o600); err == nil {
			if err = c.preserve(st, made, true); err == nil {
				now := time.Now()
				os.Chtimes(c.tree().host(path.Join(path.Dir(st.virt), path.Base(made))), now, now)
				err = c.tree().rename(c.user(), c.dir, made, name)
			}
		}
		if err != nil {
			exit = c.fail(4, "couldn't open temporary file %s: %s", made, errorText(err))
		}
	}
	return exit
}

type sedCommand struct {
	from, to sedAddress
	ranged   bool
	negate   bool
	op       byte
	re       *regexp.Regexp
	with     string
	global   bool
	print    bool
	inside   bool
}

type sedAddress struct {
	line int
	last bool
	re   *regexp.Regexp
}

func (a sedAddress) set() bool { return a.line > 0 || a.last || a.re != nil }

func (a sedAddress) match(n int, last bool, line string) bool {
	return a.line > 0 && a.line == n || a.last && last || a.re != nil && a.re.MatchString(line)
}

// parseSed knows s, p, d, q, = with line, $, /re/ and range addresses.
func parseSed(script string, extended bool) ([]*sedCommand, error) {
	var out []*sedCommand
	rest := strings.TrimLeft(script, " \t\n;")
	delimited := func(delim byte) (string, error) {
		var b strings.Builder
		for i := 0; i < len(rest); i++ {
			switch {
			case rest[i] == '\\' && i+1 < len(rest):
				if rest[i+1] != delim || delim == '|' {
					b.WriteByte('\\')
				}
				i++
				b.WriteByte(rest[i])
			case rest[i] == delim:
				rest = rest[i+1:]
				return b.String(), nil
			default:
				b.WriteByte(rest[i])
			}
		}
		return "", fmt.Errorf("unterminated address or command")
	}
	address := func() (sedAddress, error) {
		var a sedAddress
		switch {
		case rest == "":
		case rest[0] == '$':
			a.last, rest = true, rest[1:]
		case rest[0] >= '0' && rest[0] <= '9':
			i := 0
			for i < len(rest) && rest[i] >= '0' && rest[i] <= '9' {
				i++
			}
			a.line, _ = strconv.Atoi(rest[:i])
			rest = rest[i:]
		case rest[0] == '/':
			rest = rest[1:]
			expr, err := delimited('/')
			if err != nil {
				return a, err
			}
			if a.re, err = compile(expr, extended, false); err != nil {
				return a, err
			}
		}
		return a, nil
	}
	for rest != "" {
		cmd := &sedCommand{}
		var err error
		if cmd.from, err = address(); err != nil {
			return nil, err
		}
		if strings.HasPrefix(rest, ",") {
			rest = rest[1:]
			cmd.ranged = true
			if cmd.to, err = address(); err != nil {
				return nil, err
			}
		}
		rest = strings.TrimLeft(rest, " ")
		if strings.HasPrefix(rest, "!") {
			cmd.negate, rest = true, strings.TrimLeft(rest[1:], " ")
		}
		if rest == "" {
			return nil, fmt.Errorf("missing command")
		}
		cmd.op, rest = rest[0], rest[1:]
		switch cmd.op {
		case 'p', 'd', 'q', '=':
		case 's':
			if rest == "" {
				return nil, fmt.Errorf("unterminated `s' command")
			}
			delim := rest[0]
			rest = rest[1:]
			expr, err := delimited(delim)
			if err != nil {
				return nil, err
			}
			with, err := delimited(delim)
			if err != nil {
				return nil, err
			}
			fold := false
			for rest != "" && strings.IndexByte("gpIi", rest[0]) >= 0 {
				switch rest[0] {
				case 'g':
					cmd.global = true
				case 'p':
					cmd.print = true
				default:
					fold = true
				}
				rest = rest[1:]
			}
			if cmd.re, err = compile(expr, extended, fold); err != nil {
				return nil, err
			}
			cmd.with = with
		default:
			return nil, fmt.Errorf("unknown command: `%c'", cmd.op)
		}
		rest = strings.TrimLeft(rest, " \t")
		if rest != "" && rest[0] != ';' && rest[0] != '\n' && rest[0] != '}' {
			return nil, fmt.Errorf("extra characters after command")
		}
		rest = strings.TrimLeft(rest, " \t\n;")
		out = append(out, cmd)
	}
	return out, nil
}

func sedReplace(cmd *sedCommand, line string) (string, bool) {
	limit := 1
	if cmd.global {
		limit = -1
	}
	all := cmd.re.FindAllStringSubmatchIndex(line, limit)
	if all == nil {
		return line, false
	}
	var b strings.Builder
	at := 0
	for _, m := range all {
		b.WriteString(line[at:m[0]])
		for i := 0; i < len(cmd.with); i++ {
			group := -1
			switch {
			case cmd.with[i] == '&':
				group = 0
			case cmd.with[i] == '\\' && i+1 < len(cmd.with):
				i++
				if d := cmd.with[i]; d >= '0' && d <= '9' {
					group = int(d - '0')
				} else if d == 'n' {
					b.WriteByte('\n')
					continue
				}
			}
			switch {
			case group < 0:
				b.WriteByte(cmd.with[i])
			case 2*group+1 < len(m) && m[2*group] >= 0:
				b.WriteString(line[m[2*group]:m[2*group+1]])
			}
		}
		at = m[1]
	}
	b.WriteString(line[at:])
	return b.String(), true
}

func sed(c *invocation) int {
	var scripts []string
	args := c.argv[1:]
	quiet, extended, inPlace := false, false, false
	var names []string
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "-n" || a == "--quiet":
			quiet = true
		case a == "-E" || a == "-r":
			extended = true
		case a == "-i" || a == "--in-place":
			inPlace = true
		case a == "-ne" || a == "-e" || a == "-nE":
			quiet = quiet || a != "-e"
			extended = extended || a == "-nE"
			if a != "-nE" && i+1 < len(args) {
				i++
				scripts = append(scripts, args[i])
			}
		case strings.HasPrefix(a, "-") && a != "-":
			return c.fail(1, "invalid option -- '%s'", a[1:])
		case scripts == nil:
			scripts = []string{a}
		default:
			names = append(names, a)
		}
	}
	if scripts == nil {
		return c.fail(1, "no script specified")
	}
	if inPlace {
		return c.sedInPlace(names)
	}
	program, err := parseSed(strings.Join(scripts, "\n"), extended)
	if err != nil {
		return c.fail(1, "-e expression #1, char 0: %v", err)
	}
	number := 0
	quit := false
	return c.files(names, func(_ string, r io.Reader) error {
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		all := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
		if len(data) == 0 || quit {
			return nil
		}
		for i, line := range all {
			number++
			last := i == len(all)-1
			deleted := false
			for _, cmd := range program {
				hit := !cmd.from.set()
				switch {
				case cmd.ranged && cmd.inside:
					hit = true
					if cmd.to.match(number, last, line) || cmd.to.line > 0 && number >= cmd.to.line {
						cmd.inside = false
					}
				case cmd.ranged:
					if hit = cmd.from.match(number, last, line); hit {
						cmd.inside = !(cmd.to.line > 0 && cmd.to.line <= number)
					}
				case cmd.from.set():
					hit = cmd.from.match(number, last, line)
				}
				if hit == cmd.negate {
					continue
				}
				switch cmd.op {
				case 'p':
					c.printf("%s\n", line)
				case '=':
					c.printf("%d\n", number)
				case 'd':
					deleted = true
				case 'q':
					quit = true
				case 's':
					var done bool
					if line, done = sedReplace(cmd, line); done && cmd.print {
						c.printf("%s\n", line)
					}
				}
				if deleted || quit {
					break
				}
			}
			if !deleted && !quiet {
				c.printf("%s\n", line)
			}
			if quit || c.broken != nil {
				break
			}
		}
		return nil
	})
}

// expandSet expands tr's ranges, classes and escapes.
func expandSet(s string) []byte {
	classes := map[string]string{"[:lower:]": "a-z", "[:upper:]": "A-Z", "[:digit:]": "0-9", "[:alpha:]": "A-Za-z", "[:alnum:]": "0-9A-Za-z", "[:space:]": " \\t\\n\\r\\v\\f", "[:blank:]": " \\t"}
	for k, v := range classes {
		s = strings.ReplaceAll(s, k, v)
	}
	if strings.Contains(s, "[:cntrl:]") {
		control := ""
		for i := range 32 {
			control += fmt.Sprintf("\\%03o", i)
		}
		s = strings.ReplaceAll(s, "[:cntrl:]", control+"\\177")
	}
	if strings.Contains(s, "[:print:]") {
		s = strings.ReplaceAll(s, "[:print:]", "\\040-~")
	}
	var out []byte
	next := func() (byte, bool) {
		if s == "" {
			return 0, false
		}
		ch := s[0]
		s = s[1:]
		if ch != '\\' || s == "" {
			return ch, true
		}
		n := 0
		for n < 3 && n < len(s) && s[n] >= '0' && s[n] <= '7' {
			n++
		}
		if n > 0 {
			v, _ := strconv.ParseUint(s[:n], 8, 8)
			s = s[n:]
			return byte(v), true
		}
		ch, s = s[0], s[1:]
		if i := strings.IndexByte("ntrvfa", ch); i >= 0 {
			return "\n\t\r\v\f\a"[i], true
		}
		return ch, true
	}
	for {
		ch, ok := next()
		if !ok {
			return out
		}
		if len(s) > 1 && s[0] == '-' {
			s = s[1:]
			to, _ := next()
			for x := int(ch); x <= int(to); x++ {
				out = append(out, byte(x))
			}
			continue
		}
		out = append(out, ch)
	}
}

func tr(c *invocation) int {
	opts, sets := c.getopt("dscC", map[string]string{"delete": "d", "squeeze-repeats": "s", "complement": "c"})
	if opts == nil || len(sets) == 0 {
		return 1
	}
	_, remove := opts["d"]
	_, squeeze := opts["s"]
	_, complement := opts["c"]
	if _, ok := opts["C"]; ok {
		complement = true
	}
	first := expandSet(sets[0])
	var second []byte
	if len(sets) > 1 {
		second = expandSet(sets[1])
	}
	in := [256]bool{}
	to := [256]byte{}
	for i := range 256 {
		to[i] = byte(i)
	}
	for _, b := range first {
		in[b] = true
	}
	if complement {
		for i := range in {
			in[i] = !in[i]
		}
	}
	if len(second) > 0 && !remove {
		if complement {
			for i := range in {
				if in[i] {
					to[i] = second[len(second)-1]
				}
			}
		} else {
			for i, b := range first {
				to[b] = second[min(i, len(second)-1)]
			}
		}
	}
	squeezed := in
	if len(second) > 0 {
		squeezed = [256]bool{}
		for _, b := range second {
			squeezed[b] = true
		}
	}
	last := -1
	buf := make([]byte, 32<<10)
	for {
		n, err := c.stdin().Read(buf)
		out := make([]byte, 0, n)
		for _, b := range buf[:n] {
			if remove && in[b] {
				continue
			}
			b = to[b]
			if squeeze && squeezed[b] && last == int(b) {
				continue
			}
			last = int(b)
			out = append(out, b)
		}
		if len(out) > 0 {
			c.Write(out)
		}
		if err != nil || c.broken != nil {
			return 0
		}
	}
}

func cut(c *invocation) int {
	opts, names := c.getopt("d:f:c:b:s", map[string]string{"delimiter": "d", "fields": "f", "characters": "c", "only-delimited": "s"})
	if opts == nil {
		return 1
	}
	list, byField := opts["f"]
	if !byField {
		list = opts["c"] + opts["b"]
	}
	delim, ok := opts["d"]
	if !ok {
		delim = "\t"
	}
	wanted := func(n int) bool {
		for _, part := range strings.Split(list, ",") {
			from, to, ranged := strings.Cut(part, "-")
			a, _ := strconv.Atoi(from)
			b := a
			if ranged {
				if b, _ = strconv.Atoi(to); to == "" {
					b = 1 << 30
				}
			}
			if n >= max(a, 1) && n <= b {
				return true
			}
		}
		return false
	}
	if list == "" {
		return c.fail(1, "you must specify a list of bytes, characters, or fields")
	}
	return c.files(names, func(_ string, r io.Reader) error {
		return lines(r, func(line string) bool {
			parts := strings.Split(line, "")
			sep := ""
			if byField {
				if !strings.Contains(line, delim) {
					if _, only := opts["s"]; !only {
						c.printf("%s\n", line)
					}
					return c.broken == nil
				}
				parts, sep = strings.Split(line, delim), delim
			}
			var out []string
			for i, p := range parts {
				if wanted(i + 1) {
					out = append(out, p)
				}
			}
			c.printf("%s\n", strings.Join(out, sep))
			return c.broken == nil
		})
	})
}

func (c *invocation) readLines(names []string) ([]string, int) {
	var all []string
	exit := c.files(names, func(_ string, r io.Reader) error {
		return lines(r, func(l string) bool { all = append(all, l); return true })
	})
	return all, exit
}

func sortProgram(c *invocation) int {
	opts, names := c.getopt("nruVk:t:b", map[string]string{"numeric-sort": "n", "reverse": "r", "unique": "u", "version-sort": "V"})
	if opts == nil {
		return 2
	}
	all, exit := c.readLines(names)
	key := func(l string) string {
		if k, ok := opts["k"]; ok {
			k, _, _ = strings.Cut(k, ",")
			n, _ := strconv.Atoi(strings.TrimRight(k, "nrbV"))
			fields := strings.Fields(l)
			if t, ok := opts["t"]; ok {
				fields = strings.Split(l, t)
			}
			if n >= 1 && n <= len(fields) {
				return fields[n-1]
			}
			return ""
		}
		return l
	}
	_, numeric := opts["n"]
	_, version := opts["V"]
	slices.SortStableFunc(all, func(a, b string) int {
		if numeric {
			x, _ := strconv.ParseFloat(strings.TrimSpace(key(a)), 64)
			y, _ := strconv.ParseFloat(strings.TrimSpace(key(b)), 64)
			if x != y {
				if x < y {
					return -1
				}
				return 1
			}
		}
		if version {
			return compareVersions(key(a), key(b))
		}
		return strings.Compare(key(a), key(b))
	})
	if _, reverse := opts["r"]; reverse {
		slices.Reverse(all)
	}
	if _, unique := opts["u"]; unique {
		all = slices.Compact(all)
	}
	for _, l := range all {
		c.printf("%s\n", l)
	}
	return exit
}

// compareVersions orders runs of digits by their number, as sort -V and dpkg do for the versions at hand.
func compareVersions(a, b string) int {
	for a != "" || b != "" {
		digits := func(s string) (string, string) {
			i := 0
			for i < len(s) && s[i] >= '0' && s[i] <= '9' {
				i++
			}
			return s[:i], s[i:]
		}
		text := func(s string) (string, string) {
			i := 0
			for i < len(s) && (s[i] < '0' || s[i] > '9') {
				i++
			}
			return s[:i], s[i:]
		}
		var x, y string
		x, a = text(a)
		y, b = text(b)
		if x != y {
			return strings.Compare(x, y)
		}
		x, a = digits(a)
		y, b = digits(b)
		m, _ := strconv.ParseUint(x, 10, 64)
		n, _ := strconv.ParseUint(y, 10, 64)
		if m != n {
			if m < n {
				return -1
			}
			return 1
		}
	}
	return 0
}

func uniq(c *invocation) int {
	opts, names := c.getopt("cdu", nil)
	if opts == nil {
		return 1
	}
	all, exit := c.readLines(names)
	_, count := opts["c"]
	for i := 0; i < len(all); {
		j := i
		for j < len(all) && all[j] == all[i] {
			j++
		}
		if count {
			c.printf("%7d %s\n", j-i, all[i])
		} else {
			c.printf("%s\n", all[i])
		}
		i = j
	}
	return exit
}

func tac(c *invocation) int {
	all, exit := c.readLines(c.argv[1:])
	for _, l := range slices.Backward(all) {
		c.printf("%s\n", l)
	}
	return exit
}

func od(c *invocation) int {
	opts, names := c.getopt("A:t:vN:w:", nil)
	if opts == nil {
		return 1
	}
	kind, ok := opts["t"]
	if !ok {
		kind = "o1"
	}
	return c.files(names, func(_ string, r io.Reader) error {
		if n, ok := opts["N"]; ok {
			limit, _ := strconv.ParseInt(n, 10, 64)
			r = io.LimitReader(r, limit)
		}
		data, err := io.ReadAll(r)
		for i := 0; i < len(data); i += 16 {
			line := ""
			for _, b := range data[i:min(len(data), i+16)] {
				switch kind[0] {
				case 'x':
					line += fmt.Sprintf(" %02x", b)
				case 'u', 'd':
					line += fmt.Sprintf(" %3d", b)
				default:
					line += fmt.Sprintf(" %03o", b)
				}
			}
			if opts["A"] != "n" {
				line = fmt.Sprintf("%07o", i) + line
			}
			c.printf("%s\n", line)
		}
		return err
	})
}

func xargs(c *invocation) int {
	opts, rest := c.leadingOptions("0rn:I:P:L:", map[string]string{"null": "0", "no-run-if-empty": "r"})
	if opts == nil {
		return 1
	}
	if len(rest) == 0 {
		rest = []string{"echo"}
	}
	data, err := io.ReadAll(c.stdin())
	if err != nil {
		return 1
	}
	words := strings.Fields(string(data))
	if _, zero := opts["0"]; zero {
		words = strings.FieldsFunc(string(data), func(r rune) bool { return r == 0 })
	}
	if _, r := opts["r"]; r && len(words) == 0 {
		return 0
	}
	size := max(1, len(words))
	if n, ok := opts["n"]; ok {
		size, _ = strconv.Atoi(n)
		size = max(1, size)
	}
	replace, perLine := opts["I"]
	if perLine {
		words, size = strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' }), 1
	}
	exit := 0
	for first := true; first || len(words) > 0; first = false {
		n := min(size, len(words))
		argv := append(slices.Clone(rest), words[:n]...)
		if perLine {
			if n == 0 {
				break
			}
			argv = slices.Clone(rest)
			for i := range argv {
				argv[i] = strings.ReplaceAll(argv[i], replace, words[0])
			}
		}
		words = words[n:]
		child, err := c.spawn(argv, func(n *invocation) {
			n.fds[0].release()
			n.fds[0] = discardDescription()
		})
		if err != nil {
			return 1
		}
		if e := c.waitFor(child); e != 0 {
			exit = 123
			if e == 126 || e == 127 {
				return e
			}
		}
		if c.p.ctx.Err() != nil {
			break
		}
	}
	return exit
}

// find knows -maxdepth, -mindepth, -name, -type, -newer, -mtime, -mmin, -print, -delete and -exec ... ;.
func find(c *invocation) int {
	args := c.argv[1:]
	var roots []string
	for len(args) > 0 && !strings.HasPrefix(args[0], "-") && args[0] != "!" && args[0] != "(" {
		roots = append(roots, args[0])
		args = args[1:]
	}
	if len(roots) == 0 {
		roots = []string{"."}
	}
	maxDepth, minDepth := 1<<30, 0
	type test func(name string, st info) bool
	var tests []test
	action := false
	exit := 0
	var batch, batchCmd []string // -exec COMMAND {} +
	negate, oneSystem := false, false
	add := func(t test) {
		if negate {
			inner := t
			t = func(n string, st info) bool { return !inner(n, st) }
			negate = false
		}
		tests = append(tests, t)
	}
	for len(args) > 0 {
		op := args[0]
		args = args[1:]
		arg := func() string {
			if len(args) == 0 {
				return ""
			}
			v := args[0]
			args = args[1:]
			return v
		}
		age := func(unit time.Duration) test {
			text := arg()
			n, _ := strconv.Atoi(strings.TrimLeft(text, "+-"))
			return func(_ string, st info) bool {
				units := int(c.node.now().Sub(st.mtime) / unit)
				switch text[0] {
				case '+':
					return units > n
				case '-':
					return units < n
				}
				return units == n
			}
		}
		switch op {
		case "!", "-not":
			negate = true
		case "-xdev", "-mount":
			oneSystem = true
		case "-maxdepth":
			maxDepth, _ = strconv.Atoi(arg())
		case "-mindepth":
			minDepth, _ = strconv.Atoi(arg())
		case "-name":
			pat := arg()
			add(func(name string, _ info) bool { return matches(pat, path.Base(name)) })
		case "-type":
			kinds := strings.Split(arg(), ",")
			add(func(_ string, st info) bool { return slices.Contains(kinds, typeLetter(st.Mode())) })
		case "-mtime":
			add(age(24 * time.Hour))
		case "-mmin":
			add(age(time.Minute))
		case "-newer":
			ref, err := c.stat(arg())
			add(func(_ string, st info) bool { return err == nil && st.mtime.After(ref.mtime) })
		case "-print":
			action = true
			add(func(name string, _ info) bool { c.printf("%s\n", name); return true })
		case "-print0":
			action = true
			add(func(name string, _ info) bool { c.printf("%s\x00", name); return true })
		case "-printf":
			action = true
			format := arg()
			add(func(name string, st info) bool {
				root := ""
				for _, r := range roots {
					if (name == r || strings.HasPrefix(name, strings.TrimRight(r, "/")+"/")) && len(r) > len(root) {
						root = r
					}
				}
				io.WriteString(c, c.findFormat(format, root, name, st))
				return true
			})
		case "-delete":
			action = true
			add(func(name string, _ info) bool {
				if err := c.remove(name, true); err != nil {
					exit = c.fail(1, "cannot delete '%s': %s", name, errorText(err))
				}
				return true
			})
		case "-exec":
			var cmd []string
			for len(args) > 0 && args[0] != ";" && args[0] != "+" {
				cmd = append(cmd, arg())
			}
			many := arg() == "+"
			action = true
			if many {
				add(func(name string, _ info) bool { batch = append(batch, name); batchCmd = cmd; return true })
				continue
			}
			add(func(name string, _ info) bool {
				argv := slices.Clone(cmd)
				for i := range argv {
					argv[i] = strings.ReplaceAll(argv[i], "{}", name)
				}
				p, err := c.spawn(argv, nil)
				return err == nil && c.waitFor(p) == 0
			})
		default:
			return c.fail(1, "unknown predicate '%s'", op)
		}
	}
	var walk func(name string, depth int)
	var on *fileSystem
	walk = func(name string, depth int) {
		st, err := c.lstat(name)
		if err != nil {
			exit = c.fail(1, "'%s': %s", name, errorText(err))
			return
		}
		if depth == 0 {
			on = c.tree().system(st.virt)
		}
		if depth >= minDepth {
			ok := true
			for _, t := range tests {
				if ok = t(name, st); !ok {
					break
				}
			}
			if ok && !action {
				c.printf("%s\n", name)
			}
		}
		if st.IsDir() && depth < maxDepth && c.p.ctx.Err() == nil && !(oneSystem && c.tree().system(st.virt) != on) {
			entries, err := c.tree().readdir(c.user(), c.dir, name)
			if err != nil && !errors.Is(err, syscall.ENOENT) {
				exit = c.fail(1, "'%s': %s", name, errorText(err))
			}
			for _, e := range entries {
				walk(strings.TrimRight(name, "/")+"/"+e.name, depth+1)
			}
		}
	}
	for _, r := range roots {
		walk(r, 0)
	}
	if len(batch) > 0 {
		argv := append(slices.DeleteFunc(slices.Clone(batchCmd), func(a string) bool { return a == "{}" }), batch...)
		p, err := c.spawn(argv, nil)
		if err != nil || c.waitFor(p) != 0 {
			exit = 1
		}
	}
	return exit
}

// typeLetter is the type of a file as find has it.
func typeLetter(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "d"
	case m&fs.ModeSymlink != 0:
		return "l"
	case m&fs.ModeNamedPipe != 0:
		return "p"
	case m&fs.ModeSocket != 0:
		return "s"
	case m&fs.ModeCharDevice != 0:
		return "c"
	case m&fs.ModeDevice != 0:
		return "b"
	}
	return "f"
}

// findFormat is what find -printf prints of a file that was found below root.
func (c *invocation) findFormat(format, root, name string, st info) string {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if i+1 == len(format) || format[i] != '%' && format[i] != '\\' {
			b.WriteByte(format[i])
			continue
		}
		i++
		if format[i-1] == '\\' {
			switch format[i] {
			case 'n':
				b.WriteByte('\n')
			case 't':
				b.WriteByte('\t')
			case '0':
				b.WriteByte(0)
			case '\\':
				b.WriteByte('\\')
			default:
				b.WriteString(format[i-1 : i+1])
			}
			continue
		}
		t := c.tree()
		owner, group := t.ownerOf(st.virt), t.groupOf(st.virt)
		inode, links, blocks := inodeOf(st.FileInfo, st.virt)
		switch format[i] {
		case '%':
			b.WriteByte('%')
		case 'p':
			b.WriteString(name)
		case 'P':
			b.WriteString(strings.TrimPrefix(strings.TrimPrefix(name, strings.TrimRight(root, "/")), "/"))
		case 'f':
			b.WriteString(path.Base(name))
		case 'h':
			b.WriteString(path.Dir(name))
		case 'H':
			b.WriteString(root)
		case 'y':
			b.WriteString(typeLetter(st.Mode()))
		case 'm':
			b.WriteString(octalMode(st.Mode()))
		case 'M':
			b.WriteString(modeString(st.Mode()))
		case 'u':
			b.WriteString(owner)
		case 'g':
			b.WriteString(group)
		case 'U':
			b.WriteString(strconv.Itoa(uidOf(owner)))
		case 'G':
			b.WriteString(strconv.Itoa(uidOf(group)))
		case 's':
			b.WriteString(strconv.FormatInt(st.Size(), 10))
		case 'b':
			b.WriteString(strconv.FormatInt(blocks, 10))
		case 'k':
			b.WriteString(strconv.FormatInt((blocks+1)/2, 10))
		case 'i':
			b.WriteString(strconv.FormatUint(inode, 10))
		case 'n':
			b.WriteString(strconv.FormatUint(links, 10))
		case 'D':
			b.WriteString(strconv.FormatUint(t.deviceOf(st.virt), 10))
		case 'l':
			if st.Mode()&fs.ModeSymlink != 0 {
				target, _ := os.Readlink(t.host(st.virt)) // gone meanwhile
				b.WriteString(target)
			}
		case 'T':
			if i+1 < len(format) && format[i+1] == '@' {
				i++
				fmt.Fprintf(&b, "%d.%09d0", st.mtime.Unix(), st.mtime.Nanosecond())
			}
		default:
			b.WriteString(format[i-1 : i+1])
		}
	}
	return b.String()
}

// exprProgram evaluates left to right: A + B, comparisons, A : REGEXP.
func exprProgram(c *invocation) int {
	a := c.argv[1:]
	if len(a) == 0 {
		return c.fail(2, "missing operand")
	}
	value := a[0]
	for a = a[1:]; len(a) >= 2; a = a[2:] {
		x, errX := strconv.ParseInt(value, 10, 64)
		y, errY := strconv.ParseInt(a[1], 10, 64)
		numeric := errX == nil && errY == nil
		truth := func(b bool) string {
			if b {
				return "1"
			}
			return "0"
		}
		order := strings.Compare(value, a[1])
		if numeric {
			order = int(max(-1, min(1, x-y)))
		}
		switch op := a[0]; op {
		case "+", "-", "*", "/", "%":
			if !numeric {
				return c.fail(2, "non-integer argument")
			}
			if (op == "/" || op == "%") && y == 0 {
				return c.fail(2, "division by zero")
			}
			value = strconv.FormatInt(map[string]func() int64{"+": func() int64 { return x + y }, "-": func() int64 { return x - y }, "*": func() int64 { return x * y }, "/": func() int64 { return x / y }, "%": func() int64 { return x % y }}[op](), 10)
		case "=":
			value = truth(order == 0)
		case "!=":
			value = truth(order != 0)
		case "<":
			value = truth(order < 0)
		case "<=":
			value = truth(order <= 0)
		case ">":
			value = truth(order > 0)
		case ">=":
			value = truth(order >= 0)
		case ":":
			re, err := compile("^\\(\\)"+a[1], false, false)
			if err != nil {
				return c.fail(2, "invalid regular expression")
			}
			m := re.FindStringSubmatch(value)
			switch {
			case m == nil:
				value = "0"
			case len(m) > 2:
				value = m[2]
			default:
				value = strconv.Itoa(len(m[0]))
			}
		default:
			return c.fail(2, "syntax error: unexpected argument '%s'", op)
		}
	}
	c.printf("%s\n", value)
	if value == "" || value == "0" {
		return 1
	}
	return 0
}

// awk knows what one-liners on nodes are made of: [-F SEP] '[/RE/ | NR==N | $N==VALUE] {print [$N[, $N...]]}'.
func awk(c *invocation) int {
	opts, names := c.getopt("F:", nil)
	if opts == nil || len(names) == 0 {
		return 2
	}
	m := regexp.MustCompile(`^\s*(?:/((?:[^/\\]|\\.)*)/|NR\s*==\s*(\d+)|\$(\w+)\s*==\s*"?([^"{]*?)"?)?\s*(?:\{\s*print\s*([^{}]*?)\s*;?\s*(?:;\s*exit\s*)?\})?\s*$`).FindStringSubmatch(names[0])
	if m == nil {
		return c.fail(2, "this program is beyond the node's awk: %s", names[0])
	}
	var re *regexp.Regexp
	if m[1] != "" {
		var err error
		if re, err = regexp.Compile(m[1]); err != nil {
			return c.fail(2, "%v", err)
		}
	}
	number := 0
	return c.files(names[1:], func(_ string, r io.Reader) error {
		return lines(r, func(line string) bool {
			number++
			fields := strings.Fields(line)
			if f, ok := opts["F"]; ok {
				fields = strings.Split(line, f)
			}
			field := func(ref string) string {
				switch ref {
				case "0":
					return line
				case "NF":
					if len(fields) > 0 {
						return fields[len(fields)-1]
					}
					return ""
				}
				n, _ := strconv.Atoi(ref)
				if n >= 1 && n <= len(fields) {
					return fields[n-1]
				}
				return ""
			}
			switch {
			case re != nil && !re.MatchString(line), m[2] != "" && strconv.Itoa(number) != m[2], m[3] != "" && field(m[3]) != m[4]:
				return true
			}
			if m[5] == "" {
				c.printf("%s\n", line)
				return c.broken == nil
			}
			var out []string
			for _, item := range strings.Split(m[5], ",") {
				item = strings.TrimSpace(item)
				switch {
				case strings.HasPrefix(item, "$"):
					out = append(out, field(item[1:]))
				case item == "NF":
					out = append(out, strconv.Itoa(len(fields)))
				case item == "NR":
					out = append(out, strconv.Itoa(number))
				default:
					out = append(out, strings.Trim(item, `"`))
				}
			}
			c.printf("%s\n", strings.Join(out, " "))
			return c.broken == nil
		})
	})
}

// comm compares two sorted files.
func comm(c *invocation) int {
	opts, names := c.getopt("123", nil)
	if opts == nil || len(names) != 2 {
		return 1
	}
	left, exit := c.readLines(names[:1])
	right, exit2 := c.readLines(names[1:])
	prefix := func(column string) (string, bool) {
		if _, off := opts[column]; off {
			return "", false
		}
		out := ""
		for _, before := range []string{"1", "2"} {
			if _, off := opts[before]; before < column && !off {
				out += "\t"
			}
		}
		return out, true
	}
	show := func(column, line string) {
		if p, on := prefix(column); on {
			c.printf("%s%s\n", p, line)
		}
	}
	for len(left) > 0 || len(right) > 0 {
		switch {
		case len(right) == 0 || len(left) > 0 && left[0] < right[0]:
			show("1", left[0])
			left = left[1:]
		case len(left) == 0 || right[0] < left[0]:
			show("2", right[0])
			right = right[1:]
		default:
			show("3", left[0])
			left, right = left[1:], right[1:]
		}
	}
	return max(exit, exit2)
}

func getconf(c *invocation) int {
	values := map[string]string{"CLK_TCK": "100", "PAGESIZE": "4096", "PAGE_SIZE": "4096", "ARG_MAX": "2097152", "_NPROCESSORS_ONLN": "2"}
	if len(c.argv) < 2 || values[c.argv[1]] == "" {
		return c.fail(1, "Unrecognized variable")
	}
	c.printf("%s\n", values[c.argv[1]])
	return 0
}
