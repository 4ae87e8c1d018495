package kato

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// PatchDialect is which options a version of `kato patch` has (kato.md §0.1, §3.6). The zero value is that of ALS 1.1 to 1.3 and Stackato 3.4.
type PatchDialect struct {
	// OnlyThisNode: --only-this-node, of ALS 1.0 and Stackato 3.0; --local otherwise.
	OnlyThisNode bool
	// NoJSON: status has no --json.
	NoJSON bool
}

// ParsePatchHelp reads `kato patch --help`. A text without any of the options is no help, and an error.
func ParsePatchHelp(out []byte) (PatchDialect, error) {
	words := optionWords(out)
	d := PatchDialect{OnlyThisNode: !words["--local"], NoJSON: !words["--json"]}
	if d.OnlyThisNode && !words["--only-this-node"] {
		return PatchDialect{}, errors.New("kato patch --help names neither --local nor --only-this-node")
	}
	return d, nil
}

// optionWords are the words of a usage text, options without what surrounds them.
func optionWords(out []byte) map[string]bool {
	words := map[string]bool{}
	for _, w := range strings.FieldsFunc(Clean(out), func(r rune) bool { return strings.ContainsRune(" \t\n[](),|=", r) }) {
		words[w] = true
	}
	return words
}

// PatchHelp prints the options of `kato patch`; see ParsePatchHelp.
func (c CLI) PatchHelp() []string { return []string{c.Path, "patch", "--help"} }

// Local is the option that keeps kato to the node it runs on.
func (d PatchDialect) Local() string {
	if d.OnlyThisNode {
		return "--only-this-node"
	}
	return "--local"
}

// What `kato patch` does to the patches of a node.
const (
	PatchInstall   = "install"
	PatchRevert    = "revert"
	PatchReinstall = "reinstall"
)

// ChangePatches does something to one patch, or to all where name is "", on the node it runs on; the roles that a patch is for are restarted unless noRestart. Installing what is installed, and
// reverting what is not, is expected to change nothing; that is not documented. Its exit code is no proof (kato.md §0.4): see ParsePatches.
func (c CLI) ChangePatches(d PatchDialect, action, name string, noRestart bool) []string {
	argv := []string{c.Path, "patch", action, d.Local()}
	if noRestart {
		argv = append(argv, "--no-restart")
	}
	if name != "" {
		argv = append(argv, name)
	}
	return argv
}

// RestartRoles restarts roles of the local node (kato.md §3.5).
func (c CLI) RestartRoles(roles []string) []string {
	return append([]string{c.Path, "restart"}, roles...)
}

// patchName is what a patch can be called: never an option.
var patchName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$`)

// CheckPatchName says what is wrong with the name of a patch.
func CheckPatchName(name string) error {
	if !patchName.MatchString(name) {
		return fmt.Errorf("patch %q: write its name as katoflow patch status shows it", clip(name))
	}
	return nil
}

// Patch is one that kato knows of.
type Patch struct {
	Name        string
	ID          string // "" where it is not told
	Description string
	Severity    string
	Roles       []string
	// Installed and Missing are the ids of the nodes on which it is installed, and on which it is not and should be; both are nil where that is not told (Told).
	Installed, Missing []string
	Told               bool
}

// Patches is what `kato patch status` says.
type Patches struct {
	// Available is how many are to be installed, -1 where that is not told.
	Available int
	List      []Patch
}

// maxPatches bounds a list that comes from a node.
const maxPatches = 300

// ParsePatches reads `kato patch status`, as text in both of its forms or as JSON (kato.md §3.6):
//
//   - of ALS: "2 updates available to be installed.", then "Known updates:" with name, description, severity and roles;
//   - of Stackato 3.4: "2 updates are available for 3.4.2.", and also the nodes of each patch;
//   - JSON, an array whose fields are not documented: what is understood has at least names.
//
// Lines before it (a bug of kato's prints some, §3.1) are no part of it. The error says that it is none of them.
func ParsePatches(out []byte) (Patches, error) {
	text := Clean(out)
	if list, ok := patchesJSON(text); ok {
		return list, nil
	}
	return patchesText(text)
}

var patchesHead = regexp.MustCompile(`^([0-9]{1,6}) (?:updates?|patch(?:es)?) (?:(?:is|are) )?available\b`)

func patchesText(text string) (Patches, error) {
	out := Patches{Available: -1}
	indent := -1
	for line := range strings.Lines(text) {
		bare := strings.TrimSpace(line)
		if m := patchesHead.FindStringSubmatch(bare); m != nil {
			out = Patches{}
			out.Available, _ = strconv.Atoi(m[1]) // six digits
			indent = -1
			continue
		}
		depth := len(line) - len(strings.TrimLeft(line, " \t"))
		key, value, found := strings.Cut(bare, ":")
		if out.Available < 0 || bare == "" || depth == 0 || !found {
			continue
		}
		if indent < 0 {
			indent = depth
		}
		if depth <= indent {
			if !patchName.MatchString(key) {
				return Patches{}, fmt.Errorf("kato patch status: %q is no name of a patch", clip(key))
			}
			if len(out.List) == maxPatches {
				return Patches{}, fmt.Errorf("kato patch status: more than %d patches", maxPatches)
			}
			out.List = append(out.List, Patch{Name: key, Description: strings.TrimSpace(value)})
			continue
		}
		out.List[len(out.List)-1].set(strings.ToLower(key), strings.TrimSpace(value))
	}
	switch {
	case out.Available < 0:
		return Patches{}, errors.New("kato patch status: no line says how many updates are available")
	case out.Available > len(out.List):
		return Patches{}, fmt.Errorf("kato patch status: %d updates are available and %d are named", out.Available, len(out.List))
	}
	return out, nil
}

// set is one line of a patch.
func (p *Patch) set(key, value string) {
	switch key {
	case "severity":
		p.Severity = value
	case "patch id":
		p.ID = value
	case "roles affected":
		p.Roles = words(value)
	case "installed on":
		p.Installed, p.Told = addresses(words(value)), true
	case "to be installed on":
		p.Missing, p.Told = addresses(words(value)), true
	}
}

// words of a list in a line; "none" is an empty one.
func words(list string) []string {
	out := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
	if len(out) == 1 && strings.EqualFold(out[0], "none") {
		return nil
	}
	return out
}

// addresses in their usual form; what is none stays as it is.
func addresses(list []string) []string {
	for i, a := range list {
		if addr, err := netip.ParseAddr(a); err == nil {
			list[i] = addr.Unmap().String()
		}
	}
	return list
}

// patchesJSON reads an array of patches, or one under "patches".
func patchesJSON(text string) (Patches, bool) {
	var all []map[string]json.RawMessage
	raw, ok := firstJSON(text, '[')
	if !ok && strings.TrimSpace(text) == "[]" {
		return Patches{Available: -1}, true
	}
	if !ok || json.Unmarshal(raw, &all) != nil || len(all) > maxPatches {
		return Patches{}, false
	}
	out := Patches{Available: -1}
	for _, fields := range all {
		p := Patch{Name: textField(fields, "name", "patchname", "patch"), ID: textField(fields, "id", "patch_id"), Description: textField(fields, "description", "desc"),
			Severity: textField(fields, "severity")}
		if !patchName.MatchString(p.Name) {
			return Patches{}, false
		}
		p.Roles, _ = listField(fields, "roles_affected", "roles", "affected_roles")
		installed, told := listField(fields, "installed_on", "installed")
		missing, also := listField(fields, "to_be_installed_on", "to_be_installed", "not_installed_on")
		p.Installed, p.Missing, p.Told = addresses(installed), addresses(missing), told && also
		out.List = append(out.List, p)
	}
	return out, true
}

func textField(fields map[string]json.RawMessage, names ...string) string {
	for _, name := range names {
		var text string
		var number json.Number
		switch raw := fields[name]; {
		case raw == nil:
		case json.Unmarshal(raw, &text) == nil:
			return text
		case json.Unmarshal(raw, &number) == nil:
			return number.String()
		}
	}
	return ""
}

// listField is an array of words, or a text with commas between them.
func listField(fields map[string]json.RawMessage, names ...string) ([]string, bool) {
	for _, name := range names {
		raw, there := fields[name]
		if !there {
			continue
		}
		var list []string
		var text string
		switch {
		case json.Unmarshal(raw, &list) == nil:
			return list, true
		case json.Unmarshal(raw, &text) == nil:
			return words(text), true
		}
	}
	return nil, false
}

// OnNode puts together what holds for one node, whose id and roles are given: the patches that concern it, and whether each is installed there. all is the status with --all of this node, open the one
// without; open is only looked at where all does not tell the nodes. The error says that the two do not fit, or that kato knows the node by another id.
func OnNode(id string, roles []string, all, open Patches) ([]NodePatch, error) {
	var out []NodePatch
	stranger := Patch{}
	for _, p := range all.List {
		n := NodePatch{Patch: p}
		concerns := len(p.Roles) == 0 || slices.ContainsFunc(p.Roles, func(r string) bool { return slices.Contains(roles, r) })
		switch {
		case p.Told:
			n.Installed = slices.Contains(p.Installed, id)
			if !n.Installed && !slices.Contains(p.Missing, id) { // it is for other nodes
				if concerns && len(p.Roles) > 0 && len(p.Installed)+len(p.Missing) > 0 {
					stranger = p
				}
				continue
			}
		case !concerns:
			continue
		default:
			n.Installed = !slices.ContainsFunc(open.List, func(o Patch) bool { return o.Name == p.Name })
		}
		out = append(out, n)
	}
	if len(out) == 0 && stranger.Name != "" {
		return nil, fmt.Errorf("kato patch status does not name %s, the node's address, for %s, which is for one of its roles: write the address by which kato knows it", id, stranger.Name)
	}
	for _, o := range open.List {
		if !slices.ContainsFunc(all.List, func(p Patch) bool { return p.Name == o.Name }) {
			return nil, fmt.Errorf("kato patch status names %s only without --all", clip(o.Name))
		}
	}
	return out, nil
}

// NodePatch is a patch on one node.
type NodePatch struct {
	Patch
	Installed bool
}
