package kato

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxOutput bounds what a reader looks at, in bytes: a node that prints without end must not cost the worker its memory.
const maxOutput = 1 << 20

// ANSI control sequences (CSI), operating system commands (OSC) and two-byte escapes: kato colours its output (kato.md §8).
var ansi = regexp.MustCompile("\x1b(?:\\[[0-9;:?<=>]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)?|[@-Z\\\\-_])")

// Clean returns out as text without escape sequences, carriage returns and bytes that are no UTF-8, cut to 1 MiB.
func Clean(out []byte) string {
	if len(out) > maxOutput {
		out = out[:maxOutput]
	}
	s := ansi.ReplaceAllString(strings.ToValidUTF8(string(out), ""), "")
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
}

// Node is one line of `kato node list`.
type Node struct {
	// ID is the node's IP address, which is its id (kato.md §1).
	ID    string
	Roles []string
}

// ParseNodeList reads `kato node list`: one line a node, the first field its IP address, role names later on the line (kato.md §3.3).
// Lines that do not begin with an address are no nodes. Nothing that looks like a node is an error.
func ParseNodeList(out []byte) ([]Node, error) {
	var nodes []Node
	seen := map[string]bool{}
	for line := range strings.Lines(Clean(out)) {
		words := strings.FieldsFunc(line, func(r rune) bool { return unicode.IsSpace(r) || r == ',' || r == '|' || r == '[' || r == ']' })
		if len(words) == 0 {
			continue
		}
		addr, err := netip.ParseAddr(words[0])
		if err != nil || seen[addr.String()] {
			continue
		}
		seen[addr.String()] = true
		n := Node{ID: addr.String()}
		for _, w := range words[1:] {
			if isWord(w) && !slices.Contains(n.Roles, w) {
				n.Roles = append(n.Roles, w)
			}
		}
		nodes = append(nodes, n)
	}
	if len(nodes) == 0 {
		return nil, errors.New("kato node list: no line begins with an address")
	}
	return nodes, nil
}

// Status is the state of roles, by node id and role: "running", "stopped", "starting", or another word in lower case.
type Status map[string]map[string]string

// Of returns the roles of a node in order, with their states.
func (s Status) Of(node string) []RoleState {
	var roles []RoleState
	for role, state := range s[node] {
		roles = append(roles, RoleState{Role: role, State: state})
	}
	slices.SortFunc(roles, func(a, b RoleState) int { return strings.Compare(a.Role, b.Role) })
	return roles
}

// RoleState is one role on one node.
type RoleState struct{ Role, State string }

// Running tells whether a state is a good one. START is how kato stores that a role is to run (kato.md §2).
func (r RoleState) Running() bool { return r.State == "running" }

// ParseStatus reads `kato status --json`, and the text of `kato status` where a version ignores the option. The shape of both is not documented
// (kato.md §3.5): JSON is understood as {id: {role: state}}, as {id: {"roles": {role: state}}} and as either under "nodes"; text as
// a block a node that begins with its address, then lines "role state".
func ParseStatus(out []byte) (Status, error) {
	text := Clean(out)
	if raw, ok := firstJSON(text, '{'); ok {
		var tree map[string]json.RawMessage
		if json.Unmarshal(raw, &tree) == nil {
			if nodes, ok := tree["nodes"]; ok {
				var inner map[string]json.RawMessage
				if json.Unmarshal(nodes, &inner) == nil {
					tree = inner
				}
			}
			if s := statusTree(tree); len(s) > 0 {
				return s, nil
			}
		}
	}
	if s := statusText(text); len(s) > 0 {
		return s, nil
	}
	return nil, errors.New("kato status: no node with its roles is in the answer")
}

func statusTree(tree map[string]json.RawMessage) Status {
	s := Status{}
	for id, raw := range tree {
		addr, err := netip.ParseAddr(id)
		if err != nil {
			continue
		}
		var nested struct {
			Roles map[string]json.RawMessage `json:"roles"`
		}
		var roles map[string]json.RawMessage
		if json.Unmarshal(raw, &nested) == nil && nested.Roles != nil {
			roles = nested.Roles
		} else if json.Unmarshal(raw, &roles) != nil {
			continue
		}
		states := map[string]string{}
		for role, raw := range roles {
			if !isWord(role) {
				continue
			}
			var state string
			if json.Unmarshal(raw, &state) != nil {
				var nested struct {
					State string `json:"state"`
				}
				if json.Unmarshal(raw, &nested) != nil || nested.State == "" {
					continue
				}
				state = nested.State
			}
			if state, ok := stateWord(state); ok {
				states[role] = state
			}
		}
		s[addr.String()] = states
	}
	return s
}

func statusText(text string) Status {
	s := Status{}
	var states map[string]string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if addr, err := netip.ParseAddr(strings.Trim(words[0], ":-[]")); err == nil {
			states = map[string]string{}
			s[addr.String()] = states
			words = words[1:]
		}
		if states == nil || len(words) < 2 || !isWord(strings.TrimSuffix(words[0], ":")) {
			continue
		}
		if state, ok := stateWord(words[len(words)-1]); ok {
			states[strings.TrimSuffix(words[0], ":")] = state
		}
	}
	for id, states := range s {
		if len(states) == 0 {
			delete(s, id)
		}
	}
	return s
}

// stateWord brings the words for states together: roles are running, stopped or starting, processes RUNNING, STARTING, STOPPED, ROGUE or
// FATAL (kato.md §3.5).
func stateWord(s string) (string, bool) {
	s = strings.ToLower(strings.Trim(strings.TrimSpace(s), "[]().,"))
	switch s {
	case "running", "start", "started", "ok", "ready":
		return "running", true
	case "":
		return "", false
	}
	return s, isWord(s)
}

// ParseProcesses reads `kato process list --json` of one node, and its text where a version ignores the option: the state of each process in lower case. JSON is
// understood as {process: state}, and as {id: {process: state}} of the Cloud Controller where there is one id only (kato.md §3.5, §6.2); text as lines "process state".
func ParseProcesses(out []byte) (map[string]string, error) {
	text := Clean(out)
	states := map[string]string{}
	if raw, ok := firstJSON(text, '{'); ok {
		var tree map[string]json.RawMessage
		if json.Unmarshal(raw, &tree) == nil {
			if len(tree) == 1 {
				for id, inner := range tree {
					var nested map[string]json.RawMessage
					if _, err := netip.ParseAddr(id); err == nil && json.Unmarshal(inner, &nested) == nil {
						tree = nested
					}
				}
			}
			for process, value := range tree {
				var state string
				if json.Unmarshal(value, &state) != nil || !isWord(process) {
					continue
				}
				if state, ok := stateWord(state); ok {
					states[process] = state
				}
			}
		}
	}
	if len(states) == 0 {
		for line := range strings.Lines(text) {
			words := strings.Fields(line)
			if len(words) != 2 || !isWord(words[0]) || strings.ToUpper(words[1]) != words[1] {
				continue
			}
			if state, ok := stateWord(words[1]); ok {
				states[words[0]] = state
			}
		}
	}
	if len(states) == 0 {
		return nil, errors.New("kato process list: no process is in the answer")
	}
	return states, nil
}

// Infrastructure tells the processes that may go on after `kato stop`: those of the role base, and what the Core's configuration is kept by. Whether kato stops them is not
// known (kato.md §3.5: 1.0 has --all for "core processes too"); none of them has data of apps or services.
func Infrastructure(process string) bool {
	switch process {
	case "cloud_events", "logyard", "logyard_remote", "systail", "config_redis", "avahi_daemon", "avahi_publisher", "app_mdns":
		return true
	}
	return false
}

// ParseReady reads `kato process ready all`: nil when it said READY and ended well. Exit 0 alone is no proof, because kato once
// always exited 0 (kato.md §0.4, §3.5). The error is a short phrase that is the same for the same finding.
func ParseReady(out []byte, exitCode int) error {
	ready, notReady := false, false
	for line := range strings.Lines(Clean(out)) {
		words := strings.Fields(strings.ToUpper(line))
		for i, w := range words {
			if strings.Trim(w, ".:!,") == "READY" {
				if i > 0 && words[i-1] == "NOT" {
					notReady = true
				} else {
					ready = true
				}
			}
		}
	}
	switch {
	case exitCode != 0:
		return fmt.Errorf("exit %d", exitCode)
	case notReady:
		return errors.New("exit 0 but NOT READY")
	case !ready:
		return errors.New("exit 0 without READY")
	}
	return nil
}

// ParseBool reads a value of `kato config get`: true or false, as a word, a quoted string (v1 era, kato.md §4), JSON, or YAML, with stray
// lines around it (kato.md §3.1). An empty answer is what an unknown key gives, and is an error, like one that says both.
func ParseBool(out []byte) (bool, error) {
	var values []bool
	for line := range strings.Lines(Clean(out)) {
		line = strings.TrimSpace(line)
		if line == "" || line == "---" || line == "..." || strings.HasPrefix(strings.ToUpper(line), "WARNING") {
			continue
		}
		line = strings.TrimPrefix(line, "--- ")
		if key, value, ok := strings.Cut(line, ":"); ok && isWord(strings.Trim(key, `"'/ `)) {
			line = value
		}
		line = strings.ToLower(strings.Trim(strings.TrimSpace(line), `"',`))
		switch line {
		case "true", "false":
			values = append(values, line == "true")
		}
	}
	if len(values) == 0 {
		return false, errors.New("kato config get: neither true nor false is in the answer")
	}
	for _, v := range values[1:] {
		if v != values[0] {
			return false, errors.New("kato config get: both true and false are in the answer")
		}
	}
	return values[0], nil
}

// ParseInfo reads `kato info --json`: the roles assigned to the local node. Its shape is not documented (kato.md §9); understood are
// {"assigned_roles": [...]}, {"roles": [...]} and {"roles": {name: state}}.
func ParseInfo(out []byte) ([]string, error) {
	raw, ok := firstJSON(Clean(out), '{')
	if !ok {
		return nil, errors.New("kato info: no JSON object is in the answer")
	}
	var tree map[string]json.RawMessage
	if err := json.Unmarshal(raw, &tree); err != nil {
		return nil, errors.New("kato info: the answer is no JSON object")
	}
	for _, key := range []string{"assigned_roles", "assigned", "roles"} {
		value, ok := tree[key]
		if !ok {
			continue
		}
		var list []string
		if json.Unmarshal(value, &list) != nil {
			var states map[string]json.RawMessage
			if json.Unmarshal(value, &states) != nil {
				continue
			}
			for role := range states {
				list = append(list, role)
			}
		}
		list = slices.DeleteFunc(list, func(r string) bool { return !isWord(r) })
		slices.Sort(list)
		return slices.Compact(list), nil
	}
	return nil, errors.New("kato info: no roles are in the answer")
}

// firstJSON finds the first complete JSON value that begins with open at the start of a line, past stray lines.
func firstJSON(text string, open byte) (json.RawMessage, bool) {
	for tries := 0; tries < 64; tries++ {
		i := strings.IndexByte(text, open)
		if i < 0 {
			return nil, false
		}
		var raw json.RawMessage
		if json.NewDecoder(strings.NewReader(text[i:])).Decode(&raw) == nil && len(raw) > 2 {
			return raw, true
		}
		text = text[i+1:]
	}
	return nil, false
}

// isWord tells whether w has the form of kato's names and states, so that nothing else of an answer gets into messages.
func isWord(w string) bool {
	if w == "" || len(w) > 64 || !utf8.ValidString(w) {
		return false
	}
	for _, r := range w {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-') {
			return false
		}
	}
	return true
}

// ParseValue reads one value of `kato config get`: the first line that is one, without YAML's marks, quotes, warnings and the key where it is printed too (kato.md
// §3.1, §4). An empty answer is what an unknown key gives.
func ParseValue(out []byte) string {
	for line := range strings.Lines(Clean(out)) {
		line = strings.TrimSpace(line)
		if line == "" || line == "---" || line == "..." || strings.HasPrefix(strings.ToUpper(line), "WARNING") {
			continue
		}
		line = strings.TrimPrefix(line, "--- ")
		if key, value, ok := strings.Cut(line, ": "); ok && isWord(strings.ReplaceAll(strings.Trim(key, `"' `), "/", "")) {
			line = value
		}
		return strings.Trim(strings.TrimSpace(line), `"',`)
	}
	return ""
}

// ParseList reads a list of texts of `kato config get`: JSON, possibly between stray lines (kato.md §3.1), YAML's items, or one value alone. nil when there is none.
func ParseList(out []byte) []string {
	text := Clean(out)
	for at := strings.IndexByte(text, '['); at >= 0; {
		var list []string
		if json.NewDecoder(strings.NewReader(text[at:])).Decode(&list) == nil {
			return list
		}
		next := strings.IndexByte(text[at+1:], '[')
		if next < 0 {
			break
		}
		at += 1 + next
	}
	var list []string
	for line := range strings.Lines(text) {
		if item, ok := strings.CutPrefix(strings.TrimSpace(line), "- "); ok {
			list = append(list, strings.Trim(strings.TrimSpace(item), `"'`))
		}
	}
	if len(list) > 0 {
		return list
	}
	if value := ParseValue(out); value != "" && value != "null" && !strings.ContainsAny(value, " []{}") {
		return []string{value}
	}
	return nil
}

// FailedApp is an app that an import could not redeploy. Org and Space are "" where the output did not say them.
type FailedApp struct{ Org, Space, Name string }

// String is what is known of ORG/SPACE/APP.
func (a FailedApp) String() string {
	if a.Org == "" {
		return a.Name
	}
	return a.Org + "/" + a.Space + "/" + a.Name
}

var (
	// The header of the list of apps that an import could not redeploy; the list's form is not documented (kato.md §3.2).
	failedHeader = regexp.MustCompile(`(?i)\bapp(s|lications?)?\b.*\bfail|\bfail\w*\b.*\bapp(s|lications?)?\b|\bapp(s|lications?)?\b.*\bredeployed\b.*\bmanually\b`)
	// A header of a list of none.
	noneFailed = regexp.MustCompile(`(?i)\b(0|no|none)\b`)
	// One app of it: after a bullet, ORG/SPACE/APP or APP (org: ORG, space: SPACE). Names of organizations and spaces may have spaces in them.
	failedItem = regexp.MustCompile(`^\s*(?:[-*•]\s+|\s)(?:([^\s/()](?:[^/()]*[^\s/()])?)/([^\s/()](?:[^/()]*[^\s/()])?)/([^\s/]+)|(\S+)\s+\(\s*org(?:anization)?:?\s*([^,()]+?)\s*,\s*space:?\s*([^,()]+?)\s*\)|([\w.-]+))\s*$`)
)

// ParseFailedApps reads the apps that `kato data import` says it could not redeploy: a line that speaks of failed apps and ends with a colon, and what is listed,
// indented or with bullets, below it. Empty lines and other stray lines in the list are left out; a line that begins at the margin and ends with a colon ends it.
func ParseFailedApps(out []byte) []FailedApp {
	var apps []FailedApp
	inList := false
	for line := range strings.Lines(Clean(out)) {
		line = strings.TrimRight(line, " \t\n")
		if strings.HasSuffix(line, ":") {
			inList = failedHeader.MatchString(line) && !noneFailed.MatchString(line)
			continue
		}
		if !inList {
			continue
		}
		m := failedItem.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		app := FailedApp{Org: m[1], Space: m[2], Name: m[3]}
		switch {
		case m[4] != "":
			app = FailedApp{Org: m[5], Space: m[6], Name: m[4]}
		case m[7] != "":
			app = FailedApp{Name: m[7]}
		}
		if !slices.Contains(apps, app) {
			apps = append(apps, app)
		}
	}
	return apps
}
