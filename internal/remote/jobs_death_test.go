package remote

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"mvdan.cc/sh/v3/syntax"

	"github.com/katoflow/katoflow/internal/share"
)

// A statement of a script, by its place in the text.
type statement struct {
	from, to, line int
}

// statements of a script, nested ones too, in the order of the text.
func statements(t testing.TB, name, script string) []statement {
	file, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(strings.NewReader(script), name)
	require.NoError(t, err)
	var all []statement
	syntax.Walk(file, func(node syntax.Node) bool {
		if s, ok := node.(*syntax.Stmt); ok {
			// `a && b` and its `a` begin at one place: one death is enough.
			if from := int(s.Pos().Offset()); len(all) == 0 || all[len(all)-1].from != from {
				all = append(all, statement{from, int(s.End().Offset()), int(s.Pos().Line())})
			}
		}
		return true
	})
	return all
}

// dieBefore puts a death, which happens once, before the statement. The exit code of what came before is kept.
func dieBefore(script string, s statement, flag, death string) string {
	return script[:s.from] + "{ was=$?; mkdir '" + flag + "' 2>/dev/null && " + death + "; (exit $was); " + script[s.from:s.to] + "\n}" + script[s.to:]
}

// deaths: what is killed. Each is one moment at which a script, a process that holds a lock for it, or the node ends.
var deaths = map[string]string{
	"group":  "kill -9 0",     // the connection and everything that ran on it; in the wrapper: everything of it but the payload
	"shell":  "kill -9 $$",    // the script alone
	"holder": "kill -9 $PPID", // the flock process that runs the script
	"power":  "kill -9 0",     // the node
}

// deathPoint is one case of the matrix.
type deathPoint struct {
	script string
	// index of the statement among the script's.
	index int
	statement
	kind string
}

func (p deathPoint) String() string {
	return fmt.Sprintf("%s:%d@%d/%s", p.script, p.line, p.from, p.kind)
}

// deathPoints of the named scripts. Scripts with * are run by a flock process.
func deathPoints(t testing.TB, payload string, scripts ...string) []deathPoint {
	var all []deathPoint
	for _, name := range scripts {
		name, locked := strings.CutPrefix(name, "*")
		text := payload
		if name != "payload" {
			b, err := scriptFiles.ReadFile("scripts/" + name)
			require.NoError(t, err)
			text = string(b)
		}
		for index, s := range statements(t, name, text) {
			for _, kind := range []string{"group", "shell", "holder", "power"} {
				if kind != "holder" || locked {
					all = append(all, deathPoint{name, index, s, kind})
				}
			}
		}
	}
	return all
}

// dieAt arranges that the next run of the script dies at the point, once. It returns whether it has happened.
func (n *localNode) dieAt(p deathPoint, flag string) (happened func() bool) {
	n.jobs.edit = func(name, script string) string {
		if name == "start.sh" && p.script != name {
			// A start whose wrapper died is not waited for as long.
			script = strings.Replace(script, "-le 120 ]", "-le 25 ]", 1)
		}
		if name == p.script {
			return dieBefore(script, statements(n.t, name, script)[p.index], flag, deaths[p.kind])
		}
		return script
	}
	return func() bool {
		_, err := os.Stat(flag)
		return err == nil
	}
}

// settle waits until nothing of the node runs any more, or ends it when the node died.
func (n *localNode) settle(kind string) {
	if kind == "power" {
		n.endProcesses()
		n.setBoot("boot-2")
	}
	waitUntil(n.t, "processes ended", func() bool { return len(n.processes()) == 0 })
}

// selected says whether the i-th of the points is tried under the shell. KATOFLOW_FULL=1 tries all of them (20 minutes on two busy cores); without it dash dies once at
// every second statement that can matter, by another kind at each, and the other shells at every 19th point.
func selected(shell string, i int, points []deathPoint) bool {
	switch {
	case os.Getenv("KATOFLOW_FULL") != "":
		return true
	case testing.Short():
		return i%47 == 0
	case strings.Contains("facts.sh prelude.sh vaults.sh", points[i].script):
		return false // they change nothing
	case shell != "dash":
		return i%19 == 0
	case points[i].index%2 != 0:
		return false
	}
	first := i
	for first > 0 && points[first-1].script == points[i].script && points[first-1].from == points[i].from {
		first--
	}
	last := i
	for last+1 < len(points) && points[last+1].script == points[i].script && points[last+1].from == points[i].from {
		last++
	}
	return (points[i].line+points[i].from)%(last-first+1) == i-first
}

// choose returns the places of the selected points that belong to the part that is tried (package share), without those of a kind, and whether the part is all.
func choose(t *testing.T, shell string, points []deathPoint, without string) (chosen []int, all bool) {
	part, err := share.Parse(os.Getenv(share.Variable))
	require.NoError(t, err)
	n := 0
	for i, p := range points {
		if p.kind != without && selected(shell, i, points) {
			if part.Has(n) {
				chosen = append(chosen, i)
			}
			n++
		}
	}
	return chosen, len(chosen) == n
}

// The heart of invariant 1: whatever dies at whatever statement of whatever script of a start, the payload has run once when a second
// start is through, or at most once and the state says that nobody knows.
func TestStart_DeathAtEveryStatement_RunsThePayloadAtMostOnce(t *testing.T) {
	spec := JobSpec{ID: testID("x"), Lease: testLease, Argv: []string{"true"}, Interruptible: true, Secrets: map[string][]byte{"S": []byte("secret")}}
	payload, err := spec.script()
	require.NoError(t, err)
	points := deathPoints(t, payload, "facts.sh", "prelude.sh", "vaults.sh", "start.sh", "*lease.sh", "*start_locked.sh", "*wrapper.sh", "payload")
	for _, shell := range shellsToTry(t) {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			n := newLocalNode(t, shell)
			died, tried, states := 0, 0, map[JobState]int{}
			chosen, all := choose(t, shell, points, "")
			for _, i := range chosen {
				p := points[i]
				tried++
				state, dead := n.startWithDeath(t, fmt.Sprintf("s%d", i), spec, p)
				if t.Failed() {
					t.Fatalf("at %s", p)
				}
				if dead {
					died++
					states[state]++
				}
			}
			t.Logf("%d deaths in %d of %d cases, ended as %v", died, tried, len(points), states)
			require.True(t, died > tried/2 || !all, "too few of the deaths happened") // a part may have few that can
		})
	}
}

func (n *localNode) startWithDeath(t *testing.T, name string, spec JobSpec, p deathPoint) (JobState, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	n.t = t
	n.setBoot("boot-1")
	// Every case is a node of its own: otherwise a job of an earlier one could hide the death of this one.
	require.NoError(t, os.RemoveAll(n.state()))
	spec.ID.Step = name
	spec.Argv = []string{"sh", "-c", `echo ran >>"$0"; cat "$S" >>"$0".secret; exit 5`, n.work(name)}

	happened := n.dieAt(p, n.work(name+".died"))
	_, _ = n.jobs.Start(ctx, n.host, spec)
	n.settle(p.kind)
	dead := happened()
	n.jobs.edit = nil

	var before JobStatus
	waitUntil(t, "the kernel has closed what the dead held", func() bool {
		var err error
		before, err = n.jobs.Status(ctx, n.host, spec.ID)
		require.NoError(t, err)
		return before.State != JobRunning
	})
	if before.State == JobAbsent {
		require.Zero(t, n.count(name), "ran, and is said to be absent")
	}
	_, err := n.jobs.Start(ctx, n.host, spec)
	require.NoError(t, err)
	status := n.finish(spec.ID)
	n.settle("")
	require.NoError(t, n.jobs.Sweep(ctx, n.host, 0, time.Hour))
	swept, err := n.jobs.Status(ctx, n.host, spec.ID)
	require.NoError(t, err)
	require.Equal(t, status.State, swept.State)

	vaults, err := filepath.Glob(filepath.Join(n.dir, "root/dev/shm/*"))
	require.NoError(t, err)
	require.Empty(t, vaults, "secrets left behind")
	ran := n.count(name)
	switch {
	case status.State == JobExited && p.script == "payload" && status.ExitCode == 137:
		// The payload itself was killed, and its wrapper saw it.
		if ran > 1 {
			t.Errorf("killed after %d runs", ran)
		}
	case status.State == JobExited:
		if status.ExitCode != 5 || ran != 1 {
			t.Errorf("exited with %d after %d runs", status.ExitCode, ran)
		}
	case status.State == JobLost, status.State == JobInterrupted:
		if ran > 1 || (status.State == JobInterrupted) != (p.kind == "power") || (p.script != "wrapper.sh" && p.script != "payload" && p.kind != "power") {
			t.Errorf("%s after %d runs", status.State, ran)
		}
	default:
		t.Errorf("ended as %s after %d runs", status.State, ran)
	}
	if before.State != JobAbsent && before.State != status.State {
		t.Errorf("was %s before the second start, is %s after it", before.State, status.State)
	}
	return status.State, dead
}

// What else changes the state of a node can be repeated after a death at any statement.
func TestLeaseStopAndSweep_DeathAtEveryStatement_CanBeRepeated(t *testing.T) {
	points := deathPoints(t, "", "take.sh", "*take_locked.sh", "*lease.sh", "stop.sh", "*stop_locked.sh", "sweep.sh", "*sweep_locked.sh")
	for _, shell := range shellsToTry(t) {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			n := newLocalNode(t, shell)
			died := 0
			chosen, all := choose(t, shell, points, "power")
			for _, i := range chosen {
				p := points[i]
				name := fmt.Sprintf("s%d", i)
				if n.repeatAfterDeath(t, name, p) {
					died++
				}
				if t.Failed() {
					t.Fatalf("at %s", p)
				}
			}
			t.Logf("%d deaths", died)
			require.True(t, died > 0 || !all)
		})
	}
}

func (n *localNode) repeatAfterDeath(t *testing.T, name string, p deathPoint) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	n.t = t
	require.NoError(t, os.RemoveAll(n.state()))
	ended := n.payload(name+"-ended", "exit 6")
	never := n.payload(name+"-never", "true")
	_, err := n.jobs.Start(ctx, n.host, ended)
	require.NoError(t, err)
	require.Equal(t, 6, n.finish(ended.ID).ExitCode)
	ran := n.count("ran")
	newer := Lease{Token: testLease.Token + 1, Operation: "op-2"}
	for _, action := range []func() error{
		func() error { _, err := n.jobs.Stop(ctx, n.host, never.ID, 0); return err },
		func() error { return n.jobs.Sweep(ctx, n.host, 0, time.Hour) },
		func() error { _, err := n.jobs.TakeLease(ctx, n.host, newer); return err },
	} {
		n.dieAt(p, n.work(name+".died"))
		_ = action()
		n.settle(p.kind)
		n.jobs.edit = nil
		require.NoError(t, action())
	}
	for _, id := range []JobID{ended.ID, never.ID} {
		status, err := n.jobs.Status(ctx, n.host, id)
		require.NoError(t, err)
		require.Equal(t, JobExited, status.State)
		require.True(t, status.Swept)
	}
	_, err = n.jobs.TakeLease(ctx, n.host, testLease)
	require.Equal(t, KindFenced, KindOf(err))
	for _, spec := range []JobSpec{ended, never} {
		_, err := n.jobs.TakeLease(ctx, n.host, Lease{Token: newer.Token + 1, Operation: "op-1"})
		require.NoError(t, err)
		spec.Lease.Token = newer.Token + 1
		_, err = n.jobs.Start(ctx, n.host, spec)
		require.NoError(t, err)
	}
	require.Equal(t, ran, n.count("ran"))
	_, err = os.Stat(n.work(name + ".died"))
	return err == nil
}
