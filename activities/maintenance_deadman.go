package activities

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// The dead-man: a job on the Core that puts maintenance mode back when the operation shows no sign of life any more, because worker and Temporal are gone. It acts
// only while the record is exactly the one it was armed for, and when no job of the operation lives on any node that it can reach from the Core by ssh; a node that
// it cannot reach counts as one where a job lives. After a reboot of the Core the operation's next sign of life starts it anew.

// stepDeadMan names its jobs.
const stepDeadMan = "maintenance-dead-man"

// closedSign tells a dead-man that its operation is closed, so that it need not wait any longer.
const closedSign = "closed"

// signWithin bounds one sign of life.
const signWithin = 30 * time.Second

var (
	deadManScript = script("dead_man")
	lifeScript    = script("maintenance_life")
)

func (k *Kato) deadManTime(s site) time.Duration {
	if k.deadMan > 0 {
		return k.deadMan
	}
	return s.cluster.DeadMan()
}

// deadManJob looks twelve times in the time of silence, at most every 5 s, in whole seconds as every sleep knows them.
func (k *Kato) deadManJob(ctx context.Context, s site, core target, op Operation, record maintenanceRecord, after time.Duration, try int) (remote.JobSpec, error) {
	seconds := func(d time.Duration) string { return strconv.Itoa(max(int(d/time.Second), 1)) }
	id := jobID(op, operation.ClusterNode, stepDeadMan, try)
	argv := []string{"sh", "-c", deadManScript, "sh", recordText(record), seconds(after), seconds(min(after/12, 5*time.Second)), shellWords(s.kato().SetMaintenance(record.Found == "on")),
		shellWords(s.kato().ReadMaintenance()), record.Found, shellWords(remote.RunningCommand()), remote.EncodeID(op.ID), remote.EncodeID(stepDeadMan)}
	for _, node := range s.cluster.Nodes {
		if node == core.node {
			continue
		}
		// As kato reaches them (kato.md §1).
		address, err := nodeID(ctx, target{node: node})
		if err != nil {
			return remote.JobSpec{}, err
		}
		argv = append(argv, address)
	}
	return remote.JobSpec{ID: id, Lease: lease(op), Login: true, Interruptible: true, Argv: argv}, nil
}

// arm starts the dead-man, or finds that it runs. The error is the activity's.
func (k *Kato) arm(a *attempt, s site, core target, in MaintenanceInput, record maintenanceRecord, after time.Duration) error {
	a.phase("start " + stepDeadMan)
	try, err := k.nextTry(a, core, in, stepDeadMan, false)
	if err != nil {
		return err
	}
	spec, err := k.deadManJob(a.ctx, s, core, in.Operation, record, after, try)
	if err != nil {
		return nodeError(err)
	}
	return a.persist(core.host.Name, in.UnreachableAfter.D(), spec.ID.Dir(), func(ctx context.Context) error {
		_, err := k.Jobs.Start(ctx, core.host, spec)
		return err
	})
}

// SignOfLife shows the dead-man that the operation lives: at once, and then every SignEvery. A dead-man that is gone, because the Core was rebooted, is started
// anew. It runs beside the steps until it is cancelled; it also ends when its worker or the Temporal server is gone, and when the Core has no record of this
// operation any more. A Core that is not reached is tried again and is no error.
func (k *Kato) SignOfLife(ctx context.Context, in SignOfLifeInput) error {
	a := begin(ctx, "sign of life")
	defer a.finish()
	every := max(in.SignEvery.D(), 100*time.Millisecond)
	for {
		pause := every
		gone, err := k.sign(a, in)
		switch {
		case a.ctx.Err() != nil:
			return ended(a.ctx)
		case err != nil:
			a.phase("no sign of life was given: " + failureOf(err).Message)
			pause = min(every, longestPause)
		case gone:
			return nil
		default:
			a.phase("sign of life")
		}
		if !a.pause(pause) {
			return ended(a.ctx)
		}
	}
}

// sign gives one sign and sees to it that there is somebody to see it. One who is started although the mode was put back meanwhile finds no record and ends.
func (k *Kato) sign(a *attempt, in SignOfLifeInput) (gone bool, err error) {
	s, core, err := k.where(in.MaintenanceInput)
	if err != nil {
		return false, err
	}
	record, shown, err := showLife(a.ctx, k.Connections, core, recordOwner(in.Operation.ID), strconv.FormatInt(time.Now().UnixNano(), 10))
	if after := k.deadManTime(s); err == nil && shown && after > 0 {
		err = k.arm(a, s, core, in.MaintenanceInput, record, after)
	}
	return err == nil && !shown, err
}

// showLife writes a sign for the dead-man of the operation whose records begin with owner. shown is false when there is no such record.
func showLife(ctx context.Context, c Connections, core target, owner, sign string) (record maintenanceRecord, shown bool, err error) {
	told, err := askFor(ctx, signWithin, c, core.host, lifeScript, owner, sign)
	if err != nil || told.value("gone") != "" {
		return maintenanceRecord{}, false, err
	}
	record, shown = parseRecord(told.sections["record"])
	return record, shown, nil
}

// deadManSaid reads what a dead-man has left: its operation, the mode, the time and why, on one line.
func deadManSaid(text string) (of, said string) {
	words := strings.SplitN(strings.TrimSpace(text), " ", 4)
	if len(words) != 4 || words[1] != "on" && words[1] != "off" {
		return "", ""
	}
	of, err := remote.DecodeID(words[0])
	if err != nil {
		return "", ""
	}
	return of, oneLine(fmt.Sprintf("the dead-man of operation %s put maintenance mode back (%s) at %s, %s", of, words[1], words[2], words[3]), 300)
}
