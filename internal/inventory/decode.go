package inventory

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const (
	// maxFileSize is refused before anything is parsed.
	maxFileSize = 4 << 20
	// maxNodes in one cluster.
	maxNodes = 5000
	// maxItems in any other list.
	maxItems = 100
	// maxText is the longest single value, in bytes.
	maxText = 4096
	// maxDepth of the tree; the types themselves need 8.
	maxDepth = 32
	// maxExpanded is how many values may come from aliases and merges. What is written out is bounded by maxFileSize.
	maxExpanded = 200_000
)

// decoder turns a YAML tree into a File, noting the place of every value and every problem on its way.
type decoder struct {
	file      string
	problems  Problems
	positions map[string]position
	broken    map[string]bool // fields that already have a problem: their value means nothing
	expanding int             // how many aliases and merges are being followed
	expanded  int             // values that came from them
	exhausted bool            // no more is read
}

func (d *decoder) problem(n *yaml.Node, path, format string, args ...any) {
	d.broken[path] = true
	if !d.problems.add(Problem{File: d.file, Line: n.Line, Column: n.Column, Field: path, Message: fmt.Sprintf(format, args...)}) {
		d.exhausted = true
	}
}

// parseTree checks the bytes and returns the root of the only document. The problem is nil when all is well.
func parseTree(name string, data []byte) (*yaml.Node, *Problem) {
	whole := func(format string, args ...any) (*yaml.Node, *Problem) {
		return nil, &Problem{File: name, Message: fmt.Sprintf(format, args...)}
	}
	if len(data) > maxFileSize {
		return whole("larger than 4 MiB: an inventory of %d nodes needs less than 1 MiB; is this the right file?", maxNodes)
	}
	if p := checkBytes(name, data); p != nil {
		return nil, p
	}
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	var doc yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) || err == nil && (len(doc.Content) == 0 || doc.Content[0].ShortTag() == "!!null") {
		return whole("is empty: write clusters: and below it a cluster with its nodes")
	}
	if err != nil {
		return nil, syntaxProblem(name, data, err)
	}
	var second yaml.Node
	if err := dec.Decode(&second); err == nil {
		return nil, &Problem{File: name, Line: second.Line, Column: second.Column, Message: "holds more than one YAML document: write one, without a second ---"}
	} else if !errors.Is(err, io.EOF) {
		return nil, syntaxProblem(name, data, err)
	}
	return doc.Content[0], nil
}

// checkBytes finds what no inventory holds: bytes that are not UTF-8, and control characters.
func checkBytes(name string, data []byte) *Problem {
	line, column := 1, 1
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		at := Problem{File: name, Line: line, Column: column}
		switch {
		case r == utf8.RuneError && size <= 1:
			at.Message = fmt.Sprintf("byte 0x%02x is not UTF-8: save the file as UTF-8 text", data[i])
			return &at
		case r == '\ufeff' && i == 0: // a byte order mark is what some editors write
		case r == '\n':
			line++
			column = 0
		case r == '\t' || r == '\r' && i+1 < len(data) && data[i+1] == '\n':
		case unicode.IsControl(r):
			at.Message = fmt.Sprintf("control character %U: an inventory is plain text, take it out", r)
			return &at
		}
		column++
		i += size
	}
	return nil
}

var yamlErrorLine = regexp.MustCompile(`^(?:yaml: )?line ([0-9]+): `)

// syntaxProblem puts the parser's message into one line. Of the file's own text the parser repeats only anchor names.
func syntaxProblem(name string, data []byte, err error) *Problem {
	p := Problem{File: name, Line: 1}
	message := err.Error()
	if m := yamlErrorLine.FindStringSubmatch(message); m != nil {
		p.Line, _ = strconv.Atoi(m[1]) // digits only, by the expression
		message = message[len(m[0]):]
	}
	message = strings.TrimPrefix(message, "yaml: ")
	if strings.HasPrefix(message, "unknown anchor") {
		message = "*name refers to an anchor that is not defined: put a text that begins with * in quotes" // without the name: it may be a password
	}
	if len(message) > 120 || strings.ContainsFunc(message, func(r rune) bool { return !unicode.IsPrint(r) }) {
		message = quote(message)
	}
	p.Message = "not valid YAML: " + message
	if line := tabIndented(data, p.Line); line > 0 {
		p.Line = line
		p.Message = "not valid YAML: the line is indented with a tab: use spaces"
	} else {
		p.Message += " (on this line or near it)"
	}
	return &p
}

// tabIndented is the line at or just after line whose indentation holds a tab, or 0.
func tabIndented(data []byte, line int) int {
	for i, text := range strings.SplitN(string(data), "\n", line+2) {
		if i+1 < line || i > line {
			continue
		}
		indent := text[:len(text)-len(strings.TrimLeft(text, " \t"))]
		if strings.Contains(indent, "\t") {
			return i + 1
		}
	}
	return 0
}

// synonyms are what people write who know other tools' files.
func synonym(key string) string {
	switch strings.ToLower(key) {
	case "host", "hostname", "ip", "ansible_host", "addr":
		return "address"
	case "identity_file", "identityfile", "private_key", "ssh_key", "key", "keys":
		return "key_files"
	case "username", "login":
		return "user"
	case "jump", "jump_host", "proxyjump", "proxy_jump":
		return "bastion"
	case "labels", "groups", "tags", "role":
		return "roles"
	case "hosts", "vms", "machines":
		return "nodes"
	case "url":
		return "webhook"
	case "endpoint", "api", "target":
		return "url"
	}
	return ""
}

// fieldIndex finds the fields of a struct type by their YAML name, in their order.
func fieldIndex(t reflect.Type) (map[string]int, []string) {
	index := make(map[string]int, t.NumField())
	var names []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if name == "" || name == "-" {
			continue
		}
		index[name] = i
		names = append(names, name)
	}
	return index, names
}

var (
	durationType  = reflect.TypeFor[Duration]()
	retentionType = reflect.TypeFor[Retention]()
	secretType    = reflect.TypeFor[Secret]()
	nodeType      = reflect.TypeFor[Node]()
)

// value decodes n into v, which is addressable. A null leaves v as it is, as if the field were not there.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string, depth int) {
	if d.exhausted {
		return
	}
	if d.tooMuch(n, path, depth) {
		return
	}
	if n.Kind == yaml.AliasNode {
		d.expanding++
		d.value(n.Alias, v, path, depth+1)
		d.expanding--
		return
	}
	if n.ShortTag() == "!!null" {
		return
	}
	d.positions[path] = position{n.Line, n.Column}
	if n.Style&yaml.TaggedStyle != 0 {
		d.problem(n, path, "has a YAML tag: write the value without it")
		return
	}
	switch {
	case v.Type() == durationType:
		d.duration(n, v, path, func(s string) (int64, error) { t, err := ParseDuration(s); return int64(t), err })
	case v.Type() == retentionType:
		d.duration(n, v, path, func(s string) (int64, error) { t, err := ParseRetention(s); return int64(t), err })
	case v.Kind() == reflect.Pointer:
		if v.Type().Elem() == secretType && n.Kind != yaml.MappingNode {
			// Nothing of the value is repeated: it may be the secret itself.
			d.problem(n, path, "a secret may not stand in the inventory: write {file: PATH} or {env: NAME}")
			return
		}
		if v.IsNil() { // a merge goes on with what is there
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.value(n, v.Elem(), path, depth)
	case v.Kind() == reflect.Struct:
		d.structure(n, v, path, depth)
	case v.Kind() == reflect.Map:
		d.mapping(n, v, path, depth)
	case v.Kind() == reflect.Slice:
		d.list(n, v, path, depth)
	case v.Kind() == reflect.String:
		d.text(n, v, path)
	case v.Kind() == reflect.Int:
		d.number(n, v, path)
	case v.Kind() == reflect.Bool:
		if n.Kind != yaml.ScalarNode || n.Value != "true" && n.Value != "false" || n.ShortTag() != "!!bool" {
			d.problem(n, path, "%s: write one of them, without quotes", isNot(n, "true or false"))
			return
		}
		v.SetBool(n.Value == "true")
	}
}

// tooMuch stops reading where values refer to themselves or multiply.
func (d *decoder) tooMuch(n *yaml.Node, path string, depth int) bool {
	if d.expanding > 0 {
		d.expanded++
	}
	if d.expanded <= maxExpanded && depth <= maxDepth {
		return false
	}
	d.problem(n, path, "nested too deeply or repeated too often: write the values out instead of anchors and aliases")
	d.exhausted = true
	return true
}

// isNot says what stands at n instead of what was expected.
func isNot(n *yaml.Node, expected string) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "is a mapping, not " + expected
	case yaml.SequenceNode:
		return "is a list, not " + expected
	}
	return quote(n.Value) + " is not " + expected
}

// members calls each for every key of a mapping, merged mappings (<<) last, and reports keys given twice.
func (d *decoder) members(n *yaml.Node, path string, depth int, each func(key, value *yaml.Node)) {
	seen := make(map[string]int)
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content) && !d.exhausted; i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.ShortTag() == "!!merge" {
			merged = append(merged, value)
			continue
		}
		if key.Kind != yaml.ScalarNode {
			d.problem(key, path, "has a key that is not plain text")
			continue
		}
		if line, twice := seen[key.Value]; twice {
			d.problem(key, join(path, key.Value), "is written twice, first on line %d: keep one", line)
			continue
		}
		seen[key.Value] = key.Line
		each(key, value)
	}
	for _, m := range merged {
		d.merge(m, path, depth+1, seen, each)
	}
}

// merge hands over what a merged mapping adds to the keys already seen.
func (d *decoder) merge(m *yaml.Node, path string, depth int, seen map[string]int, each func(key, value *yaml.Node)) {
	if d.exhausted || d.tooMuch(m, path, depth) {
		return
	}
	d.expanding++
	defer func() { d.expanding-- }()
	switch m.Kind {
	case yaml.AliasNode:
		d.merge(m.Alias, path, depth+1, seen, each)
	case yaml.SequenceNode:
		for _, item := range m.Content {
			d.merge(item, path, depth+1, seen, each)
		}
	case yaml.MappingNode:
		d.members(m, path, depth+1, func(key, value *yaml.Node) {
			if _, there := seen[key.Value]; there {
				return
			}
			seen[key.Value] = key.Line
			each(key, value)
		})
	default:
		d.problem(m, path, "<< must refer to a mapping, such as *name")
	}
}

func (d *decoder) structure(n *yaml.Node, v reflect.Value, path string, depth int) {
	if n.Kind != yaml.MappingNode {
		_, names := fieldIndex(v.Type())
		if v.Type() == nodeType {
			d.problem(n, path, "is not a node: write a mapping with name and address")
			return
		}
		d.problem(n, path, "is not a mapping: write its fields below it, one a line; known are %s", quoteAll(names))
		return
	}
	index, names := fieldIndex(v.Type())
	if v.Type() == secretType {
		// {hunter2} is a mapping with the key hunter2: no key but ours is repeated.
		for i := 0; i < len(n.Content); i += 2 {
			if _, known := index[n.Content[i].Value]; !known {
				d.problem(n, path, "a secret may not stand in the inventory: write exactly one of file: PATH and env: NAME, and no other field")
				return
			}
		}
	}
	d.members(n, path, depth, func(key, value *yaml.Node) {
		i, known := index[key.Value]
		if known {
			d.value(value, v.Field(i), join(path, key.Value), depth+1)
			return
		}
		suggestion := didYouMean(key.Value, names)
		if s := synonym(key.Value); slices.Contains(names, s) {
			suggestion = fmt.Sprintf("did you mean %q?", s)
		} else if strings.Contains(strings.ToLower(key.Value), "password") && !slices.Contains(names, "password") {
			suggestion = "there are no passwords here: log in with key_files or an agent, and write secrets as {file: PATH} or {env: NAME}"
		}
		d.problem(key, join(path, key.Value), "unknown field %s: %s", quote(key.Value), suggestion)
	})
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string, depth int) {
	ofClusters := v.Type().Elem().Kind() == reflect.Pointer
	if n.Kind != yaml.MappingNode {
		right := "write each key with a colon and its value"
		if ofClusters {
			right = "write each cluster's name with a colon and its fields below"
		}
		d.problem(n, path, "%s: %s", isNot(n, "a mapping"), right)
		return
	}
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	d.members(n, path, depth, func(key, value *yaml.Node) {
		field := join(path, key.Value)
		if len(key.Value) > maxText {
			d.problem(key, field, "the name is too long")
			return
		}
		item := reflect.New(v.Type().Elem()).Elem()
		if ofClusters {
			item.Set(reflect.New(v.Type().Elem().Elem())) // one that is only a name still gets its own problems
		}
		d.value(value, item, field, depth+1)
		d.positions[field] = position{key.Line, key.Column}
		v.SetMapIndex(reflect.ValueOf(key.Value), item)
	})
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string, depth int) {
	ofNodes := v.Type().Elem().Kind() == reflect.Pointer
	if n.Kind != yaml.SequenceNode {
		if ofNodes {
			d.problem(n, path, "%s: write each node as \"- name: ...\"", isNot(n, "a list"))
		} else {
			d.problem(n, path, "%s: write [one, two] or one line \"- ...\" for each", isNot(n, "a list"))
		}
		return
	}
	most := maxItems
	if ofNodes {
		most = maxNodes
	}
	if len(n.Content) > most {
		d.problem(n, path, "holds %d entries: at most %d are allowed; split the cluster or the list", len(n.Content), most)
		return
	}
	items := reflect.MakeSlice(v.Type(), 0, len(n.Content))
	for i, c := range n.Content {
		if d.exhausted {
			break
		}
		field := path + "[" + strconv.Itoa(i) + "]"
		item := reflect.New(v.Type().Elem()).Elem()
		if ofNodes {
			item.Set(reflect.New(v.Type().Elem().Elem()))
		}
		if c.ShortTag() == "!!null" {
			d.problem(c, field, "is empty: fill it in or take the line out")
		} else {
			d.value(c, item, field, depth+1)
		}
		items = reflect.Append(items, item)
	}
	v.Set(items)
}

// multiLine tells fields whose values may hold line breaks and tabs: shell lines.
func multiLine(path string) bool {
	return strings.Contains(path, ".commands[") || strings.Contains(path, ".gate_commands[")
}

func (d *decoder) text(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		d.problem(n, path, "%s: write one value", isNot(n, "a text"))
		return
	}
	if tag := n.ShortTag(); tag != "!!str" {
		what := map[string]string{"!!int": "a number", "!!float": "a number", "!!bool": "true or false", "!!timestamp": "a date"}[tag]
		if what == "" {
			what = "no text"
		}
		d.problem(n, path, "is read as %s, not as a text: put it in quotes", what)
		return
	}
	if len(n.Value) > maxText {
		d.problem(n, path, "is longer than %d bytes", maxText)
		return
	}
	for _, r := range n.Value {
		if unicode.IsPrint(r) || multiLine(path) && (r == '\n' || r == '\t') {
			continue
		}
		d.problem(n, path, "contains the character %U, which cannot be printed: take it out", r)
		return
	}
	v.SetString(n.Value)
}

func (d *decoder) number(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int" {
		if i, err := strconv.ParseInt(n.Value, 10, 32); err == nil {
			v.SetInt(i)
			return
		}
	}
	expected := "a whole number"
	if strings.HasSuffix(path, ".port") {
		expected = "a port"
		d.problem(n, path, "%s: write a number from 1 to 65535", isNot(n, expected))
		return
	}
	d.problem(n, path, "%s: write one such as 3", isNot(n, expected))
}

func (d *decoder) duration(n *yaml.Node, v reflect.Value, path string, parse func(string) (int64, error)) {
	if n.Kind != yaml.ScalarNode {
		d.problem(n, path, "%s: write a number with a unit, such as \"30s\"", isNot(n, "a duration"))
		return
	}
	nanoseconds, err := parse(n.Value)
	if err != nil {
		d.problem(n, path, "%v", err)
		return
	}
	v.SetInt(nanoseconds)
}

var simpleKey = regexp.MustCompile(`^[A-Za-z0-9_-]{1,63}$`)

// join is the path of key below path.
func join(path, key string) string {
	if !simpleKey.MatchString(key) {
		key = quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}
