package activities

import (
	"slices"
	"strconv"
	"strings"
)

// parseSystem reads the section `system` of gates.sh: the state of systemd, then its failed units. The findings are checks that do not hold; none
// where there is no systemd that can be asked.
func parseSystem(text string) []string {
	state, rest, _ := strings.Cut(strings.TrimSpace(text), "\n")
	switch state = strings.TrimSpace(state); state {
	case "running", "", "none", "offline":
		return nil
	case "degraded":
	case "initializing", "starting", "maintenance", "stopping", "unknown":
		return []string{"system: " + state}
	default:
		return []string{"system: " + oneLine(state, 64)}
	}
	var failed []string
	for line := range strings.Lines(rest) {
		words := strings.Fields(strings.TrimLeft(strings.TrimSpace(line), "●*× "))
		if len(words) > 0 && isUnit(words[0]) {
			failed = append(failed, "system: "+words[0]+" failed")
		}
	}
	slices.Sort(failed)
	failed = slices.Compact(failed)
	if len(failed) == 0 {
		return []string{"system: degraded"}
	}
	return failed
}

func isUnit(s string) bool {
	if len(s) > 255 || !strings.Contains(s, ".") {
		return false
	}
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(":-_.\\@", r)) {
			return false
		}
	}
	return true
}

// fileSystem is one line of `df -P -k`.
type fileSystem struct {
	mount string
	// size in KiB, and free space that the user may take; or inodes.
	size, free int64
}

// parseSpace reads lines of `df -P -k`, or of `df -P -i`, without headings.
func parseSpace(text string) []fileSystem {
	var all []fileSystem
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		// Where there are no inodes to count, df writes "-" for the part of them.
		if len(words) < 6 || !strings.HasPrefix(words[5], "/") || !strings.HasSuffix(words[4], "%") && words[4] != "-" {
			continue
		}
		free, err := strconv.ParseInt(words[3], 10, 64)
		if err != nil {
			continue
		}
		size, _ := strconv.ParseInt(words[1], 10, 64)
		f := fileSystem{mount: oneLine(strings.Join(words[5:], " "), 64), size: size, free: max(free, 0)}
		if !slices.ContainsFunc(all, func(o fileSystem) bool { return o.mount == f.mount }) {
			all = append(all, f)
		}
	}
	return all
}
