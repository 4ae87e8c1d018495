package activities

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/katoflow/katoflow/internal/operation"
)

// What dpkg and apt print is read here. Nothing of it is believed to be well formed, and only words of the form of a package name or a version get
// out.

var (
	packageName    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+.-]{0,127}(:[a-z0-9-]{1,32})?$`)
	packageVersion = regexp.MustCompile(`^[A-Za-z0-9.+~:-]{1,128}$`)
)

// pendingPackage is one package that apt would install.
type pendingPackage struct {
	name string
	// security: it comes from an archive of security updates.
	security bool
}

var instLine = regexp.MustCompile(`^Inst (\S+) (?:\[([^\]]*)\] )?\((\S+) ?([^)]*)\)`)

// parsePending reads the lines of `apt-get -s`: `Inst NAME [OLD] (NEW Origin:Version/suite, ... [arch])`. A package that was not installed before is
// not pending by itself. An E: line means that apt cannot say.
func parsePending(text string) (pending []pendingPackage, trouble string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "E:") && trouble == "" {
			trouble = oneLine(strings.TrimPrefix(line, "E:"), 200)
			continue
		}
		m := instLine.FindStringSubmatch(line)
		if m == nil || m[2] == "" || !packageName.MatchString(m[1]) || !packageVersion.MatchString(m[3]) {
			continue
		}
		origins := m[4]
		if i := strings.IndexByte(origins, '['); i >= 0 {
			origins = origins[:i]
		}
		pending = append(pending, pendingPackage{name: m[1], security: strings.Contains(strings.ToLower(origins), "security")})
	}
	return pending, trouble
}

// securityNames are the names of the pending packages from a security archive, sorted.
func securityNames(pending []pendingPackage) []string {
	var names []string
	for _, p := range pending {
		if p.security {
			names = append(names, p.name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// parseUnfinished reads the lines "ERROR STATE NAME" of unfinished() in answer.sh. The packages, sorted.
func parseUnfinished(text string) []string {
	var names []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) != 3 || !packageName.MatchString(words[2]) {
			continue
		}
		if words[0] == "ok" && (words[1] == "installed" || words[1] == "config-files" || words[1] == "not-installed") {
			continue
		}
		names = append(names, words[2])
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// unfinished is what unfinished() of a script told: the packages, and whether dpkg's journal was left behind.
func unfinished(a answer) (packages []string, dirty bool) {
	return parseUnfinished(a.sections["unfinished"]), a.value("dirty") == "1"
}

// candidate is what `apt-cache policy` says of a package; "" where there is none.
type candidate struct{ installed, candidate string }

// parsePolicy reads `apt-cache policy NAME...`: a block a package, its name at the margin with a colon.
func parsePolicy(text string) map[string]candidate {
	out := map[string]candidate{}
	name := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \t\r\n")
		if n, ok := strings.CutSuffix(line, ":"); ok && packageName.MatchString(n) {
			name = n
			out[name] = candidate{}
			continue
		}
		key, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		if name == "" || !ok || !packageVersion.MatchString(value) {
			continue
		}
		c := out[name]
		switch key {
		case "Installed":
			c.installed = value
		case "Candidate":
			c.candidate = value
		default:
			continue
		}
		out[name] = c
	}
	return out
}

// parsePackages reads the lines "STATE NAME VERSION" of packages() in answer.sh, by name. Several versions of one name (never, on a sound node)
// leave the last.
func parsePackages(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 3 && packageName.MatchString(words[1]) && packageVersion.MatchString(words[2]) {
			out[words[1]] = words[2]
		}
	}
	return out
}

// changesOf compares two lists of packages. A package that went away is no change of an upgrade.
func changesOf(before, now map[string]string) []operation.PackageChange {
	var changes []operation.PackageChange
	for name, version := range now {
		if before[name] != version {
			changes = append(changes, operation.PackageChange{Name: name, From: before[name], To: version})
		}
	}
	slices.SortFunc(changes, func(a, b operation.PackageChange) int { return strings.Compare(a.Name, b.Name) })
	return changes
}

// transcript is what is worth knowing of the output of unattended-upgrades and the dpkg below it.
type transcript struct {
	// locked: it stopped because another process held a lock, before it changed anything.
	locked bool
	// broken: dpkg was interrupted or left packages unconfigured.
	broken bool
	// nothing: it says itself that there is nothing to do.
	nothing bool
	// changes that dpkg told of ("Unpacking NAME (NEW) over (OLD) ...").
	changes []operation.PackageChange
}

var (
	lockedText = regexp.MustCompile(`(?i)lock could not be acquired|could not get lock|unable to acquire the dpkg (frontend )?lock|` +
		`is another process using it|lock file is already taken|another package manager running`)
	brokenText  = regexp.MustCompile(`(?i)dpkg was interrupted|dpkg --configure -a|errors were encountered while processing|error processing package|sub-process \S*dpkg returned`)
	nothingText = regexp.MustCompile(`(?i)no packages found that can be upgraded unattended`)
	touchedText = regexp.MustCompile(`(?m)^\s*(Unpacking|Setting up|Preparing to (unpack|replace)|Selecting previously|Removing) `)
	unpacking   = regexp.MustCompile(`^Unpacking (?:replacement )?(\S+) \(([^)]*)\)(?: over \(([^)]*)\))?`)
)

func parseTranscript(text string) transcript {
	t := transcript{broken: brokenText.MatchString(text), nothing: nothingText.MatchString(text)}
	t.locked = lockedText.MatchString(text) && !touchedText.MatchString(text)
	seen := map[string]int{}
	for line := range strings.Lines(text) {
		m := unpacking.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil || !packageName.MatchString(m[1]) || !packageVersion.MatchString(m[2]) || m[3] != "" && !packageVersion.MatchString(m[3]) {
			continue
		}
		name := m[1]
		if i, again := seen[name]; again {
			t.changes[i].To = m[2]
			continue
		}
		seen[name] = len(t.changes)
		t.changes = append(t.changes, operation.PackageChange{Name: name, From: m[3], To: m[2]})
	}
	slices.SortFunc(t.changes, func(a, b operation.PackageChange) int { return strings.Compare(a.Name, b.Name) })
	return t
}

// parseRefresh counts the sources that `apt-get update` could not fetch although it may have ended with 0.
func parseRefresh(text string) (failed int) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "W: Failed to fetch ") || strings.HasPrefix(line, "E: Failed to fetch ") || strings.HasPrefix(line, "Err:") || strings.HasPrefix(line, "Err ") {
			failed++
		}
	}
	return failed
}

// lockHolder is a process that holds a lock of apt, dpkg or unattended-upgrades.
type lockHolder struct {
	file string
	pid  int
	name string
}

// String is "pid 123 (apt-get), /var/lib/dpkg/lock".
func (h lockHolder) String() string {
	s := "pid " + strconv.Itoa(h.pid)
	if h.name != "" {
		s += " (" + oneLine(h.name, 32) + ")"
	}
	return s + ", " + h.file
}

// parseLocks reads what locks() in answer.sh tells: file, its device as stat prints it (decimal), the device and inode as /proc/locks has them, pid
// and name of the process. The inode agrees already; on overlay file systems the devices need not, and then the name of the process decides,
// because another file may have the same number.
func parseLocks(lines []string) []lockHolder {
	var holders []lockHolder
	for _, line := range lines {
		words := strings.Fields(line)
		if len(words) < 4 {
			continue
		}
		device, err := strconv.ParseUint(words[1], 10, 64)
		pid, perr := strconv.Atoi(words[3])
		if err != nil || perr != nil || !strings.HasPrefix(words[0], "/") {
			continue
		}
		h := lockHolder{file: oneLine(words[0], 128), pid: pid, name: strings.Join(words[4:], " ")}
		if !sameDevice(device, words[2]) && !isPackageTool(h.name) {
			continue
		}
		if !slices.Contains(holders, h) {
			holders = append(holders, h)
		}
	}
	return holders
}

// sameDevice compares stat's device number with the MAJOR:MINOR:INODE of /proc/locks, whose device is hexadecimal.
func sameDevice(device uint64, where string) bool {
	parts := strings.Split(where, ":")
	if len(parts) != 3 {
		return false
	}
	major, err1 := strconv.ParseUint(parts[0], 16, 32)
	minor, err2 := strconv.ParseUint(parts[1], 16, 32)
	return err1 == nil && err2 == nil && major == (device>>8)&0xfff|(device>>32)&0xfffff000 && minor == device&0xff|(device>>12)&0xffffff00
}

func isPackageTool(name string) bool {
	for _, tool := range []string{"apt", "dpkg", "unattended-upgr", "packagekit", "synaptic", "update-manager", "frontend"} {
		if strings.HasPrefix(name, tool) {
			return true
		}
	}
	return false
}
