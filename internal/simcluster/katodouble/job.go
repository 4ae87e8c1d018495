package katodouble

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// JobOf is the name of katoflow's durable job that a process runs in, or "": one of its ancestors is the shell that runs jobs/NAME/script, or
// the wrapper that started it. proc is where the proc file system is mounted.
func JobOf(proc string, pid int) string {
	script := regexp.MustCompile(`/jobs/([^/]+)/(?:script|wrapper)$`)
	for range 64 { // no line of ancestors is longer, and a strange proc has no end
		pid = parentOf(proc, pid)
		if pid <= 0 {
			return ""
		}
		line, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "cmdline"))
		if err != nil {
			return ""
		}
		for arg := range bytes.SplitSeq(line, []byte{0}) {
			if m := script.FindSubmatch(arg); m != nil {
				return string(m[1])
			}
		}
	}
	return ""
}

// parentOf reads proc/PID/stat: the second field, the name in brackets, may hold anything.
func parentOf(proc string, pid int) int {
	b, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(fields[1])
	return parent
}
