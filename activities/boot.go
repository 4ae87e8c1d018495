package activities

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// What a node says about its last boot is read here.

// parseStartTicks reads /proc/1/stat: field 22 is the start of the process in ticks since the kernel started. The name in parentheses may hold
// spaces and parentheses.
func parseStartTicks(stat string) (ticks uint64, ok bool) {
	i := strings.LastIndexByte(stat, ')')
	if i < 0 {
		return 0, false
	}
	words := strings.Fields(stat[i+1:])
	if len(words) < 20 {
		return 0, false
	}
	ticks, err := strconv.ParseUint(words[19], 10, 64)
	return ticks, err == nil
}

// parseUptime reads /proc/uptime: seconds since the kernel started.
func parseUptime(text string) (seconds float64, ok bool) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return 0, false
	}
	seconds, err := strconv.ParseFloat(words[0], 64)
	return seconds, err == nil && seconds >= 0 && seconds < 1e12
}

// initAge is how long PID 1 has been running, in seconds. A container sees the kernel's uptime; where something (lxcfs) gives it one of its own, that
// is the container's age, and less than the start of PID 1.
func initAge(stat, uptime, ticksPerSecond string, inContainer bool) (seconds float64, ok bool) {
	start, ok1 := parseStartTicks(stat)
	up, ok2 := parseUptime(uptime)
	if !ok1 || !ok2 {
		return 0, false
	}
	hz := 100.0
	if n, err := strconv.ParseUint(strings.TrimSpace(ticksPerSecond), 10, 32); err == nil && n > 0 {
		hz = float64(n)
	}
	age := up - float64(start)/hz
	if age < -1 {
		return up, inContainer
	}
	return max(age, 0), true
}

var (
	grubSet     = regexp.MustCompile(`^set default=["']?([^"']*)["']?$`)
	grubEntry   = regexp.MustCompile(`^(menuentry|submenu)\s+(?:'([^']*)'|"([^"]*)")(.*)\{\s*$`)
	grubID      = regexp.MustCompile(`(?:\$menuentry_id_option|--id)\s+(?:'([^']*)'|"([^"]*)"|([^\s{]+))`)
	grubLinux   = regexp.MustCompile(`^linux(?:16|efi)?\s+(\S+)`)
	kernelImage = regexp.MustCompile(`^vmlinu[zx]-([A-Za-z0-9][A-Za-z0-9.+~_-]{0,127})$`)
)

// grubMenu is one entry or submenu.
type grubMenu struct {
	title, id, kernel string
	submenu           bool
	entries           []*grubMenu
}

// defaultKernel returns the release that grub.cfg starts when nobody chooses: by number, by title or by id, through submenus ("1>2"), and as saved in
// grubenv. "" when it cannot be told.
func defaultKernel(config, environment string) string {
	choice, root := parseGrub(config)
	if choice == "${saved_entry}" {
		choice = grubVariable(environment, "saved_entry")
		if choice == "" {
			choice = "0"
		}
	}
	// One-time choices were for this boot or the next, and grub has taken them away.
	if choice == "" || strings.Contains(choice, "$") {
		return ""
	}
	menu := root
	for part := range strings.SplitSeq(choice, ">") {
		next := menu.find(strings.TrimSpace(part))
		if next == nil {
			return ""
		}
		menu = next
	}
	// The default of a submenu is its first entry.
	for menu.submenu {
		if len(menu.entries) == 0 {
			return ""
		}
		menu = menu.entries[0]
	}
	return menu.kernel
}

func (m *grubMenu) find(name string) *grubMenu {
	for _, e := range m.entries {
		if name == e.id && name != "" || name == e.title {
			return e
		}
	}
	if n, err := strconv.Atoi(name); err == nil && n >= 0 && n < len(m.entries) {
		return m.entries[n]
	}
	return nil
}

// parseGrub reads the menu, and the last choice that is no one-time one.
func parseGrub(config string) (choice string, root *grubMenu) {
	root = &grubMenu{submenu: true}
	type level struct {
		menu  *grubMenu
		depth int
	}
	stack := []level{{root, 0}}
	depth := 0
	for line := range strings.Lines(config) {
		line = strings.TrimSpace(line)
		top := stack[len(stack)-1].menu
		if m := grubEntry.FindStringSubmatch(line); m != nil {
			e := &grubMenu{title: m[2] + m[3], submenu: m[1] == "submenu"}
			if id := grubID.FindStringSubmatch(m[4]); id != nil {
				e.id = id[1] + id[2] + id[3]
			}
			if top.submenu && len(stack) < 16 {
				top.entries = append(top.entries, e)
				depth++
				stack = append(stack, level{e, depth})
				continue
			}
		}
		switch {
		case strings.HasPrefix(line, "#"):
		case line == "}":
			if depth > 0 {
				if stack[len(stack)-1].depth == depth && len(stack) > 1 {
					stack = stack[:len(stack)-1]
				}
				depth--
			}
		case strings.HasSuffix(line, "{"):
			depth++
		case !top.submenu && top.kernel == "":
			if m := grubLinux.FindStringSubmatch(line); m != nil {
				top.kernel = kernelRelease(m[1])
			}
		case len(stack) == 1:
			if m := grubSet.FindStringSubmatch(line); m != nil && m[1] != "${next_entry}" {
				choice = m[1]
			}
		}
	}
	return choice, root
}

// kernelRelease of a path of a kernel image; "" for another file.
func kernelRelease(path string) string {
	if m := kernelImage.FindStringSubmatch(path[strings.LastIndexByte(path, '/')+1:]); m != nil {
		return m[1]
	}
	return ""
}

// grubVariable reads a grubenv block.
func grubVariable(environment, name string) string {
	for line := range strings.Lines(environment) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// newestKernel of a list of the files in /boot; "" when there is none.
func newestKernel(files string) string {
	newest := ""
	for name := range strings.FieldsSeq(files) {
		if r := kernelRelease(name); r != "" && (newest == "" || compareReleases(newest, r) < 0) {
			newest = r
		}
	}
	return newest
}

// compareReleases compares kernel releases: numbers as numbers, the rest as text; a release candidate ("-rc1") comes before its release.
func compareReleases(a, b string) int {
	x, y := releaseParts(a), releaseParts(b)
	for i := 0; i < max(len(x), len(y)); i++ {
		var p, q string
		if i < len(x) {
			p = x[i]
		}
		if i < len(y) {
			q = y[i]
		}
		if p == q {
			continue
		}
		n, errN := strconv.ParseUint(p, 10, 64)
		m, errM := strconv.ParseUint(q, 10, 64)
		switch {
		case errN == nil && errM == nil:
			if n != m {
				return sign(n < m)
			}
		case strings.HasPrefix(p, "rc"):
			return -1
		case strings.HasPrefix(q, "rc"):
			return 1
		case errN == nil:
			return 1
		case errM == nil:
			return -1
		default:
			return strings.Compare(p, q)
		}
	}
	return strings.Compare(a, b)
}

func sign(less bool) int {
	if less {
		return -1
	}
	return 1
}

// releaseParts are the runs of digits and of letters.
func releaseParts(s string) []string {
	var parts []string
	kind := 0
	for _, r := range s {
		k := 0
		switch {
		case r >= '0' && r <= '9':
			k = 1
		case r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z':
			k = 2
		}
		if k != 0 {
			if k != kind {
				parts = append(parts, "")
			}
			parts[len(parts)-1] += string(r)
		}
		kind = k
	}
	return slices.Clip(parts)
}
