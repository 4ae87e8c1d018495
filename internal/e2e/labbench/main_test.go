package main

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestMedian_OddEvenAndUnsorted_IsTheMiddleAndLeavesTheOrder(t *testing.T) {
	for want, v := range map[float64][]float64{3: {5, 1, 3}, 2.5: {4, 1, 3, 2}, 7: {7}, 0: nil} {
		before := slices.Clone(v)
		if got := median(v); got != want || !slices.Equal(v, before) {
			t.Errorf("median of %v: %v, order now %v", before, got, v)
		}
	}
}

func TestCompare_Rounds_ArePaired(t *testing.T) {
	ours, theirs := times{Seconds: []float64{30, 20, 33}}, times{Seconds: []float64{40, 25, 30}}
	ours.Median, theirs.Median = median(ours.Seconds), median(theirs.Seconds)
	out := compare(ours, theirs)
	if !slices.Equal(out.Each, []float64{0.75, 0.8, 1.1}) || out.Median != 0.8 || out.OfMedians != 1 {
		t.Errorf("%+v", out)
	}
}

// The floor has to be a floor: against a node that is back at once, it asks no more than it must.
func TestFloor_OneNode_RunsEachCommandOnceAndWaitsForTheBoot(t *testing.T) {
	dir := t.TempDir()
	// An ssh that answers as a node which is down for two questions after its reboot, then starting for one.
	fake := `#!/bin/sh
shift 2
node=$1
shift
echo "$node: $*" >>"$LOG"
count() { grep -c "$1" "$LOG"; }
case "$*" in
*boot_id)
	case $(count boot_id) in
	1) echo old ;;
	2) echo old ;;
	3) exit 255 ;;
	*) echo new ;;
	esac
	;;
*reboot) exit 255 ;;
*is-system-running)
	[ "$(count is-system-running)" -gt 1 ] || { echo starting; exit 1; }
	echo running
	;;
esac
`
	if err := os.WriteFile(dir+"/ssh", []byte(fake), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", floorScript, "sh", "config", "node-1")
	cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "LOG=" + dir + "/log"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	log, err := os.ReadFile(dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	boot, system := "node-1: cat /proc/sys/kernel/random/boot_id", "node-1: systemctl is-system-running"
	want := []string{"node-1: sudo -n apt-get update", "node-1: sudo -n env DEBIAN_FRONTEND=noninteractive unattended-upgrades -d", boot, "node-1: sudo -n /sbin/reboot",
		boot, boot, boot, system, system}
	if got := strings.Split(strings.TrimSpace(string(log)), "\n"); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
