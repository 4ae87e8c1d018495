package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
)

// Bounds of a file of schedules.
const (
	maxScheduleFile = 1 << 20
	maxSchedules    = 1000
	maxTimes        = 100 // cron lines, or calendars, of one schedule
)

// scheduleFile reads a file of schedules, noting every problem with its place.
type scheduleFile struct {
	c         *cli
	name      string
	inventory string
	problems  inventory.Problems
}

// loadSchedules reads a file, "-" for standard input. Its error is inventory.Problems where the file can be read: every problem at once.
func (c *cli) loadSchedules(path, inventoryPath string) ([]*wantedSchedule, error) {
	var data []byte
	var err error
	name := path
	if path == "-" {
		name = "standard input"
		data, err = io.ReadAll(io.LimitReader(c.in, maxScheduleFile+1))
	} else {
		data, err = readBounded(path)
	}
	if err != nil {
		return nil, badInput("%s", oneLine(err.Error()))
	}
	return c.parseSchedules(name, data, inventoryPath)
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if st, err := f.Stat(); err == nil && st.IsDir() {
		return nil, fmt.Errorf("%s is a directory: name a file of schedules", path)
	}
	return io.ReadAll(io.LimitReader(f, maxScheduleFile+1))
}

func (c *cli) parseSchedules(name string, data []byte, inventoryPath string) ([]*wantedSchedule, error) {
	f := &scheduleFile{c: c, name: name, inventory: inventoryPath}
	wanted := f.read(data)
	if len(f.problems) > 0 {
		sort.SliceStable(f.problems, func(i, j int) bool { return f.problems[i].Line < f.problems[j].Line })
		return nil, f.problems
	}
	return wanted, nil
}

// mostFileProblems are shown; a file with more is broken in one way many times.
const mostFileProblems = 200

// problem notes one; n is where, or nil for the whole file.
func (f *scheduleFile) problem(n *yaml.Node, field, format string, args ...any) {
	if len(f.problems) >= mostFileProblems {
		return
	}
	p := inventory.Problem{File: f.name, Field: field, Message: oneLine(fmt.Sprintf(format, args...))}
	if n != nil {
		p.Line, p.Column = n.Line, n.Column
	}
	f.problems = append(f.problems, p)
}

var scheduleYAMLLine = regexp.MustCompile(`^(?:yaml: )?line ([0-9]+): (.*)$`)

func (f *scheduleFile) read(data []byte) []*wantedSchedule {
	if !f.readable(data) {
		return nil
	}
	decode := yaml.NewDecoder(strings.NewReader(string(data)))
	var document, second yaml.Node
	err := decode.Decode(&document)
	if err == nil {
		if err = decode.Decode(&second); err == nil {
			f.problem(&second, "", "holds more than one YAML document: write one, without a second ---")
			return nil
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
	} else if errors.Is(err, io.EOF) {
		f.problem(nil, "", "is empty: write a list of schedules")
		return nil
	}
	if err != nil {
		p := inventory.Problem{File: f.name, Line: 1, Message: oneLine(strings.TrimPrefix(err.Error(), "yaml: "))}
		if m := scheduleYAMLLine.FindStringSubmatch(err.Error()); m != nil {
			p.Line, _ = strconv.Atoi(m[1])
			p.Message = oneLine(m[2])
		}
		p.Message = "not valid YAML: " + p.Message
		f.problems = append(f.problems, p)
		return nil
	}
	root := document.Content[0]
	switch {
	case root.Kind != yaml.SequenceNode:
		f.problem(root, "", "write a list of schedules: each begins with \"- name:\"")
		return nil
	case len(root.Content) == 0:
		f.problem(root, "", "the list is empty: write at least one schedule")
	case len(root.Content) > maxSchedules:
		f.problem(root, "", "holds more than %d schedules", maxSchedules)
		return nil
	}
	var out []*wantedSchedule
	lines := map[string]int{}
	for i, item := range root.Content {
		if len(f.problems) >= mostFileProblems {
			break
		}
		w, name := f.schedule(item, fmt.Sprintf("[%d]", i))
		if name != nil {
			if line := lines[name.Value]; line > 0 {
				f.problem(name, fmt.Sprintf("[%d].name", i), "%q is also the name of the schedule of line %d", operationName(name.Value), line)
			} else {
				lines[name.Value] = name.Line
			}
		}
		if w != nil {
			out = append(out, w)
		}
	}
	return out
}

// readable refuses what no such file holds.
func (f *scheduleFile) readable(data []byte) bool {
	if len(data) > maxScheduleFile {
		f.problem(nil, "", "is larger than 1 MiB: is this the right file?")
		return false
	}
	line := 1
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		what := ""
		switch {
		case r == utf8.RuneError && size <= 1:
			what = fmt.Sprintf("byte 0x%02x is not UTF-8: save the file as UTF-8 text", data[i])
		case r == '\n':
			line++
		case r != '\t' && r != '\r' && unicode.IsControl(r):
			what = fmt.Sprintf("control character %U: take it out", r)
		}
		if what != "" {
			f.problems = append(f.problems, inventory.Problem{File: f.name, Line: line, Message: what})
			return false
		}
		i += size
	}
	return true
}

// mapping reads the pairs of a map; unknown keys, keys given twice and aliases are problems. false when n is no map.
func (f *scheduleFile) mapping(n *yaml.Node, path string, known []string) (map[string]*yaml.Node, bool) {
	if n.Kind != yaml.MappingNode {
		what := "fields and their values"
		if len(known) > 0 {
			what += ": " + strings.Join(known, ", ")
		}
		f.problem(n, path, "write %s", what)
		return nil, false
	}
	out := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case key.Kind != yaml.ScalarNode || known != nil && !slices.Contains(known, key.Value):
			f.problem(key, path, "unknown field %q: known are %s", operationName(key.Value), strings.Join(known, ", "))
		case out[key.Value] != nil:
			f.problem(key, path+"."+key.Value, "is given twice, first on line %d", out[key.Value].Line)
		default:
			out[key.Value] = value
		}
	}
	return out, true
}

// text reads a plain value. false, with the problem noted, for anything else; "" is a problem too.
func (f *scheduleFile) text(n *yaml.Node, path string) (string, bool) {
	switch {
	case n.Kind == yaml.AliasNode:
		f.problem(n, path, "aliases are not taken here: write the value out, or put it in quotes when it begins with *")
	case n.Kind != yaml.ScalarNode:
		f.problem(n, path, "write one value here")
	case n.ShortTag() == "!!null" || strings.TrimSpace(n.Value) == "":
		f.problem(n, path, "is empty: write a value or leave the field out")
	default:
		return n.Value, true
	}
	return "", false
}

// list reads a value or a list of them, with their places.
func (f *scheduleFile) list(n *yaml.Node, path string) (texts []string, at []*yaml.Node, ok bool) {
	items := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		items = n.Content
		if len(items) == 0 {
			f.problem(n, path, "the list is empty: write a value or leave the field out")
			return nil, nil, false
		}
		if strings.HasSuffix(path, ".cron") && len(items) > maxTimes {
			f.problem(n, path, "has more than %d lines", maxTimes)
			return nil, nil, false
		}
	}
	ok = true
	for i, item := range items {
		where := path
		if n.Kind == yaml.SequenceNode {
			where = fmt.Sprintf("%s[%d]", path, i)
		}
		text, good := f.text(item, where)
		ok = ok && good
		texts, at = append(texts, text), append(at, item)
	}
	return texts, at, ok
}

// schedule reads one; name is its place, or nil.
func (f *scheduleFile) schedule(n *yaml.Node, path string) (w *wantedSchedule, name *yaml.Node) {
	before := len(f.problems)
	fields, ok := f.mapping(n, path, []string{"name", "cluster", "operation", "options", "cron", "calendar", "time_zone", "jitter", "catch_up", "paused"})
	if !ok {
		return nil, nil
	}
	var d operation.ScheduleDefinition
	var jitter, catchUp, command string
	for _, field := range []struct {
		name     string
		to       *string
		required bool
	}{
		{"name", &d.Name, true}, {"cluster", &d.Cluster, true}, {"operation", &command, true}, {"time_zone", &d.TimeZone, false}, {"jitter", &jitter, false}, {"catch_up", &catchUp, false},
	} {
		value := fields[field.name]
		switch {
		case value != nil:
			*field.to, _ = f.text(value, path+"."+field.name)
		case field.required:
			f.problem(n, path, "%s is missing", field.name)
		}
	}
	paused := false
	if value := fields["paused"]; value != nil {
		text, ok := f.text(value, path+".paused")
		if ok && text != "true" && text != "false" {
			f.problem(value, path+".paused", "%q: write true or false", operationName(text))
		}
		paused = text == "true"
	}
	places := map[schedulePart]*yaml.Node{}
	if value := fields["cron"]; value != nil {
		texts, at, ok := f.list(value, path+".cron")
		for i := range at {
			places[schedulePart{"cron", i}] = at[i]
		}
		if ok {
			d.Cron = texts
		}
	}
	if value := fields["calendar"]; value != nil {
		d.Calendar = f.calendars(value, path+".calendar", places)
	}
	var options *optionSet
	given := map[string]*yaml.Node{}
	if command != "" {
		kind, err := kindNamed(command)
		if err != nil {
			f.problem(fields["operation"], path+".operation", "%s", err)
		} else {
			options = kind.newOptions(f.c, f.inventory)
			if value := fields["options"]; value != nil {
				given = f.options(value, path+".options", options)
			}
		}
	}
	if len(f.problems) == before || len(d.Cron)+len(d.Calendar) > 0 || fields["cron"] == nil && fields["calendar"] == nil {
		w = want(d, jitter, catchUp, paused, options, func(at schedulePart, message string) {
			f.point(n, fields, given, places, path, at, message)
		})
	}
	if len(f.problems) > before {
		w = nil
	}
	if d.Name != "" {
		name = fields["name"]
	}
	return w, name
}

// calendars reads one calendar or a list of them.
func (f *scheduleFile) calendars(n *yaml.Node, path string, places map[schedulePart]*yaml.Node) []map[string]string {
	items := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		items = n.Content
	}
	if len(items) == 0 || len(items) > maxTimes {
		f.problem(n, path, "write 1 to %d calendars", maxTimes)
		return nil
	}
	var known []string
	for _, field := range scheduleFields() {
		known = append(known, field.name)
	}
	var out []map[string]string
	for i, item := range items {
		places[schedulePart{"calendar", i}] = item
		fields, ok := f.mapping(item, path, known)
		if !ok {
			continue
		}
		calendar := map[string]string{}
		for name, value := range fields {
			if text, ok := f.text(value, path+"."+name); ok {
				calendar[name] = text
			}
		}
		if len(calendar) == 0 {
			f.problem(item, path, "is empty: write at least one of %s", strings.Join(known, ", "))
			continue
		}
		out = append(out, calendar)
	}
	return out
}

// options sets the options and returns where they stand.
func (f *scheduleFile) options(n *yaml.Node, path string, options *optionSet) map[string]*yaml.Node {
	fields, ok := f.mapping(n, path, nil)
	if !ok {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 { // in the order of the file
		name := n.Content[i].Value
		value := fields[name]
		if value == nil || value != n.Content[i+1] {
			continue
		}
		texts, _, ok := f.list(value, path+"."+name)
		if !ok {
			continue
		}
		text := texts[0]
		if value.Kind == yaml.SequenceNode {
			if !options.takesList(name) {
				f.problem(value, path+"."+name, "write one value here, not a list")
				continue
			}
			text = listText(texts)
		} else if options.takesArray(name) {
			text = listText(texts)
		}
		if err := options.set(name, text); err != nil {
			f.problem(n.Content[i], path+"."+name, "%s", err)
		}
	}
	return fields
}

var mentionedFlag = regexp.MustCompile(`--([a-z][a-z-]*)`)

// point notes a problem that the check of a whole schedule found, at the value that it is about.
func (f *scheduleFile) point(item *yaml.Node, fields, given map[string]*yaml.Node, places map[schedulePart]*yaml.Node, path string, at schedulePart, message string) {
	if n := places[at]; n != nil {
		f.problem(n, path+"."+at.field, "%s", message)
		return
	}
	if at.field == "options" {
		for _, m := range mentionedFlag.FindAllStringSubmatch(message, -1) {
			if n := given[m[1]]; n != nil {
				f.problem(n, path+".options."+m[1], "%s", strings.TrimPrefix(message, "--"))
				return
			}
		}
		for name, n := range given { // "batch "0": ..."
			if strings.HasPrefix(message, name+" ") {
				f.problem(n, path+".options."+name, "%s", message)
				return
			}
		}
		if strings.HasPrefix(message, "cluster ") {
			at.field = "cluster"
		}
	}
	if n := fields[at.field]; n != nil {
		f.problem(n, path+"."+at.field, "%s", message)
		return
	}
	for _, missing := range []string{"name", "cluster", "operation"} { // said already
		if at.field == missing || at.field == "" && strings.Contains(message, "the "+missing+" is missing") {
			return
		}
	}
	f.problem(item, path, "%s", message)
}
