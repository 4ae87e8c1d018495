package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/operation"
)

// inCommand is the middle of a command, by its first words.
func inCommand(node, words string) func(ctx context.Context, o *op) (func(), error) {
	return func(ctx context.Context, o *op) (func(), error) {
		return nil, waitIn(ctx, words+" on "+node, func() bool { return o.running(node, words) })
	}
}

// running tells whether a command with those first words runs on a node. Of a kato of real hosts there is no record until it has ended, only the process.
func (s *site) running(node, words string) bool {
	if onHosts() {
		return strings.Contains(s.processes(node), words)
	}
	for _, e := range s.cluster.Node(node).Commands() {
		if e.End.IsZero() && strings.HasPrefix(e.Command(), words) {
			return true
		}
	}
	return false
}

// inProcess is the middle of a program that changes nothing and is therefore no command of the node's record.
func inProcess(node, words string) func(ctx context.Context, o *op) (func(), error) {
	return func(ctx context.Context, o *op) (func(), error) {
		return nil, waitIn(ctx, words+" on "+node, func() bool {
			return strings.Contains(o.processes(node), words)
		})
	}
}

// exporting tells whether a durable job's export has begun to write its archive: kato has then asked the other nodes what it wants of them.
func (s *site) exporting(node string) bool {
	return s.running(node, "kato data export") && strings.TrimSpace(s.shell(node, `for f in "$HOME"/katoflow-exports/*/try-*/export.tgz; do if [ -e "$f" ]; then echo yes; fi; done`)) != ""
}

// processes are the command lines of what runs on a node, one a line.
func (s *site) processes(node string) string {
	s.t.Helper()
	return "\n" + s.shell(node, `for f in /proc/[0-9]*/cmdline; do tr '\000' ' ' <"$f" 2>/dev/null; echo; done; true`)
}

// inPart is the middle of a part, when so many others have been sent. It stands still until the worker is dead, and what was sent of it is lost with it.
func inPart(others int) func(ctx context.Context, o *op) (func(), error) {
	return func(ctx context.Context, o *op) (func(), error) {
		reached, release := o.bucket.Proxy.Hold("UploadPart", 3<<20)
		select {
		case <-reached:
		case <-ctx.Done():
			release()
			return nil, fmt.Errorf("no part was sent: %w", ctx.Err())
		}
		err := waitIn(ctx, fmt.Sprintf("%d other parts", others), func() bool { return o.bucket.Proxy.Count("UploadPart") > others })
		return release, err
	}
}

// atRequest is the moment S3 is asked for something, before it hears of it.
func atRequest(operation string) func(ctx context.Context, o *op) (func(), error) {
	return func(ctx context.Context, o *op) (func(), error) {
		reached, release := o.bucket.Proxy.Hold(operation, 0)
		select {
		case <-reached:
			return release, nil
		case <-ctx.Done():
			release()
			return nil, fmt.Errorf("%s was not asked for: %w", operation, ctx.Err())
		}
	}
}

// during is a moment that comes while an activity of the operation runs.
func during(activity string, moment func(ctx context.Context, o *op) (func(), error)) func(ctx context.Context, o *op) (func(), error) {
	return func(ctx context.Context, o *op) (func(), error) {
		if err := o.reached(ctx, o.workflow, killPoint{name: activity + " scheduled", activity: activity, event: scheduled}, o.killedAt); err != nil {
			return nil, err
		}
		return moment(ctx, o)
	}
}

func waitIn(ctx context.Context, what string, condition func() bool) error {
	deadline, _ := ctx.Deadline()
	return harness.WaitFor(time.Until(deadline), what, func() (bool, error) { return condition(), ctx.Err() })
}

// backupMatrix is an export whose jobs take long enough to be killed in their middle.
func backupMatrix(input operation.BackupInput) matrix {
	return matrix{
		site: func(t *testing.T) *site {
			s := newSite(t, nil, nil, exporting)
			n := s.exporter(files)
			require.NoError(t, n.ExportSize(multiparted))
			require.NoError(t, n.ExportTime(in(600*time.Millisecond, 2*time.Second)))
			n.SlowCommand("tar tzf", -1, time.Second)
			if !onHosts() {
				// Long enough to be seen from outside on a busy machine, where it is looked for.
				n.SlowCommand("sha256sum", -1, map[bool]time.Duration{true: 2 * time.Second, false: 500 * time.Millisecond}[input.ToPath != ""])
			}
			s.cluster.Node(core).SlowCommand("kato config set", -1, in(300*time.Millisecond, time.Second))
			return s
		},
		start: func(s *site) *op { return s.backupDirectly(input) },
		intact: func(o *op, kills int) {
			o.done(2 * time.Minute)
			require.Equal(o.t, 1, o.exports(files), "runs of kato data export")
			if input.ToPath == "" {
				o.listed()
				require.LessOrEqual(o.t, o.bucket.Proxy.SentAgain(), kills*partsInFlight, "parts sent again")
			} else {
				o.placed(input.ToPath)
			}
			o.settled()
		},
	}
}

// partsInFlight is how many parts of a transfer are sent at once, at most.
const partsInFlight = 4

// TestKillMatrix_OfABackup kills the worker at the boundaries of every activity of an export, in the middle of every job, in the middle of a part and at every
// request to S3, and requires that kato exported once, that the archive is listed and whole, and that nothing was left behind. KATOFLOW_KILL_SEED changes the random part.
func TestKillMatrix_OfABackup(t *testing.T) {
	t.Parallel()
	t.Run("points", func(t *testing.T) {
		worker := backupMatrix(operation.BackupInput{Transfer: operation.TransferWorker})
		worker.lanes(t, "by the worker", 5, slices.Concat(
			boundaries("Resolve", "LockToken", "Preflight", "ExportReady", "Fence", "PrepareExport"),
			within("EnterMaintenance", killPoint{name: "in maintenance on", moment: inCommand(core, "kato config set cloud_controller_ng maintenance_mode true")}),
			within("Export", killPoint{name: "in export", moment: inCommand(files, "kato data export")}),
			within("LeaveMaintenance", killPoint{name: "in maintenance off", moment: inCommand(core, "kato config set cloud_controller_ng maintenance_mode false")}),
			within("CheckArchive", killPoint{name: "in check", moment: inProcess(files, "tar tzf /")}),
			within("Transfer",
				killPoint{name: "at the begin of the upload", moment: atRequest("CreateMultipartUpload")},
				killPoint{name: "at its state", moment: atRequest("PUT upload.json")},
				killPoint{name: "in a part", moment: inPart(4)},
				killPoint{name: "at its end", moment: atRequest("CompleteMultipartUpload")},
				killPoint{name: "at the manifest", moment: atRequest("PUT manifest.json")},
				killPoint{name: "at the removal of its state", moment: atRequest("DELETE upload.json")}),
			boundaries("TidyExport")))
		direct := backupMatrix(operation.BackupInput{Transfer: operation.TransferDirect})
		direct.lanes(t, "by the node", 2, within("Transfer", killPoint{name: "in a part", moment: inPart(2)}, killPoint{name: "at its end", moment: atRequest("CompleteMultipartUpload")}))
		path := backupMatrix(operation.BackupInput{ToPath: "/mnt/backup"})
		path.lanes(t, "to a path", 2, within("Place", killPoint{name: "in its job", moment: during("Place", inProcess(files, in("\nsha256sum", "")))}))
		if inThisPart(t) {
			t.Run("random moments", func(t *testing.T) {
				t.Parallel()
				killBackupAtRandom(t)
			})
		}
	})
	tellKills(t, "backup")
}

// killBackupAtRandom kills the worker every so often, wherever it is.
func killBackupAtRandom(t *testing.T) {
	seed, _ := strconv.ParseUint(os.Getenv("KATOFLOW_KILL_SEED"), 10, 64)
	random := rand.New(rand.NewPCG(seed, 2))
	m := backupMatrix(operation.BackupInput{Transfer: operation.TransferWorker})
	s := m.site(t)
	w := s.worker("")
	o := m.start(s)
	kills := 0
	for ; kills < 6; kills++ {
		timer := time.NewTimer(time.Duration(300+random.IntN(2000)) * time.Millisecond)
		<-timer.C
		if r, err := o.report(); err == nil && r.Finished() {
			break
		}
		w = s.killAndRestart(w)
	}
	o.done(3 * time.Minute)
	require.Equal(t, 1, s.exports(files))
	require.LessOrEqual(t, s.bucket.Proxy.SentAgain(), kills*partsInFlight)
	o.listed()
	o.settled()
}
