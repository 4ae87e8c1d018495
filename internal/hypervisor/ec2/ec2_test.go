package ec2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/connection"
	"github.com/katoflow/katoflow/internal/hypervisor/ec2/ec2test"
	"github.com/katoflow/katoflow/internal/hypervisor/hypervisortest"
	"github.com/katoflow/katoflow/internal/inventory"
)

func start(t *testing.T) *ec2test.Cloud {
	t.Helper()
	c := ec2test.New()
	t.Cleanup(c.Close)
	return c
}

// limit is what a busy machine needs for anything; nothing runs into it.
const limit = 2 * time.Minute

// configOf the double. Connections are not kept warm: what a test says of them does not depend on how long it takes.
func configOf(c *ec2test.Cloud) Config {
	return Config{
		Region: "eu-central-1", Endpoint: c.URL(), AccessKey: ec2test.AccessKey, SecretKey: ec2test.SecretKey, CA: c.CA(),
		Poll: 5 * time.Millisecond, Settle: 200 * time.Millisecond, Timeout: limit, Warm: time.Hour, MaxBackoff: 20 * time.Millisecond,
		Spacing: time.Nanosecond,
	}
}

func open(t *testing.T, c *ec2test.Cloud, change ...func(*Config)) *Provider {
	t.Helper()
	cfg := configOf(c)
	for _, f := range change {
		f(&cfg)
	}
	p, err := Open(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

func deleteInput(id string) *ec2.DeleteSnapshotInput {
	return &ec2.DeleteSnapshotInput{SnapshotId: &id}
}

func vmOf(id string) hypervisor.VM { return hypervisor.VM{Node: "core", ID: id} }

func prepare(t *testing.T, p *Provider, vm hypervisor.VM, name string) hypervisor.Shot {
	t.Helper()
	s, err := p.Prepare(bounded(t), vm, name)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func take(t *testing.T, p *Provider, vm hypervisor.VM, name string) hypervisor.Snapshot {
	t.Helper()
	snapshot, err := prepare(t, p, vm, name).Take(bounded(t))
	require.NoError(t, err)
	return snapshot
}

func stop(t *testing.T, p *Provider, vm hypervisor.VM) {
	t.Helper()
	require.NoError(t, p.Stop(bounded(t), vm, false))
	awaitPower(t, p, vm, hypervisor.Off)
}

func awaitPower(t *testing.T, p *Provider, vm hypervisor.VM, want hypervisor.Power) {
	t.Helper()
	require.Eventually(t, func() bool {
		power, err := p.Power(bounded(t), vm)
		return err == nil && power == want
	}, limit, 5*time.Millisecond)
}

func TestTake_OfSeveralVolumes_IsPendingThenReady(t *testing.T) {
	c := start(t)
	c.Copying, c.PageSize = -1, 2
	id := c.Instance("m5.large", "/dev/sda1", "/dev/sdb", "/dev/sdc")
	p := open(t, c)
	snapshot := take(t, p, vmOf(id), "op-1")
	require.Equal(t, hypervisor.Pending, snapshot.State)
	require.Len(t, strings.Split(snapshot.ID, ","), 3)
	c.Complete(false)
	found, ok, err := p.Find(bounded(t), vmOf(id), "op-1")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, hypervisor.Ready, found.State)
	require.Equal(t, snapshot.ID, found.ID)
	require.EqualValues(t, 24<<30, found.Size)
	require.WithinDuration(t, time.Now(), found.Created, limit)
	c.Complete(true)
	found, _, err = p.Find(bounded(t), vmOf(id), "op-1")
	require.NoError(t, err)
	require.Equal(t, hypervisor.Failed, found.State)
}

func TestTake_LostAnswer_IsUnknownNeverSentAgainAndFoundWhenShown(t *testing.T) {
	c := start(t)
	c.Hidden = 5
	id := c.Instance("m5.large", "/dev/sda1", "/dev/sdb")
	p := open(t, c, func(cfg *Config) { cfg.Settle = limit })
	s := prepare(t, p, vmOf(id), "op-1")
	c.Fault(hypervisortest.RequestFault{Call: "CreateSnapshots", Times: 1, Kind: hypervisortest.Lose})
	_, err := s.Take(bounded(t))
	var unknown *hypervisor.UnknownError
	require.ErrorAs(t, err, &unknown)
	require.Len(t, c.Calls("CreateSnapshots"), 1, "there is no token that would make a second one the same")
	// EC2 does not show it at once: none would be wrong.
	found, ok, err := p.Find(bounded(t), vmOf(id), "op-1")
	require.NoError(t, err)
	require.True(t, ok)
	again, err := s.Take(bounded(t))
	require.NoError(t, err)
	require.Equal(t, found.ID, again.ID)
	require.Len(t, c.Snapshots(), 2)
	// What was unknown is known now: that it is deleted is told at once.
	require.NoError(t, p.Delete(bounded(t), vmOf(id), "op-1"))
	before := len(c.Calls("DescribeSnapshots"))
	_, ok, err = p.Find(bounded(t), vmOf(id), "op-1")
	require.NoError(t, err)
	require.False(t, ok)
	require.Len(t, c.Calls("DescribeSnapshots"), before+1)
}

func TestTake_ServerError_IsUnknownAndThrottlingIsNot(t *testing.T) {
	c := start(t)
	id := c.Instance("m5.large", "/dev/sda1")
	p := open(t, c)
	s := prepare(t, p, vmOf(id), "op-1")
	c.Fault(hypervisortest.RequestFault{Call: "CreateSnapshots", Times: 1, Code: "InternalError", Status: 500})
	_, err := s.Take(bounded(t))
	var unknown *hypervisor.UnknownError
	require.ErrorAs(t, err, &unknown)
	_, ok, err := p.Find(bounded(t), vmOf(id), "op-1")
	require.NoError(t, err)
	require.False(t, ok)

	c.Fault(ec2test.Throttle("CreateSnapshots", 2))
	_, err = s.Take(bounded(t))
	require.NoError(t, err)
	require.Len(t, c.Snapshots(), 1)
	require.Len(t, c.Calls("CreateSnapshots"), 4)
}

func TestTake_LimitOfTheVolume_SaysWhatToDo(t *testing.T) {
	c := start(t)
	c.Copying = -1
	id := c.Instance("m5.large", "/dev/sda1")
	p := open(t, c)
	for _, n := range []string{"op-1", "op-2", "op-3", "op-4", "op-5"} {
		take(t, p, vmOf(id), n)
	}
	problems, err := p.Check(bounded(t), []hypervisor.VM{vmOf(id)})
	require.NoError(t, err)
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].Text, "5 snapshots of volume")
	_, err = prepare(t, p, vmOf(id), "op-6").Take(bounded(t))
	require.ErrorContains(t, err, "ConcurrentSnapshotLimitExceeded")
	require.ErrorContains(t, err, "core")
	var unknown *hypervisor.UnknownError
	require.False(t, errors.As(err, &unknown))
}

func TestReads_ThrottledAndLost_AreAskedAgain(t *testing.T) {
	c := start(t)
	id := c.Instance("m5.large", "/dev/sda1")
	p := open(t, c)
	take(t, p, vmOf(id), "op-1")
	c.Fault(ec2test.Throttle("DescribeSnapshots", 2))
	c.Fault(hypervisortest.RequestFault{Call: "DescribeSnapshots", Times: 1, Kind: hypervisortest.Unheard})
	_, ok, err := p.Find(bounded(t), vmOf(id), "op-1")
	require.NoError(t, err)
	require.True(t, ok)
}

func TestTake_AllPrepared_OpensNoConnection(t *testing.T) {
	c := start(t)
	p := open(t, c)
	var shots []hypervisor.Shot
	for range 100 {
		shots = append(shots, prepare(t, p, vmOf(c.Instance("m5.large", "/dev/sda1")), "op-1"))
	}
	warm := map[string]bool{}
	for _, call := range c.Calls("ping") {
		warm[call.From] = true
	}
	require.GreaterOrEqual(t, len(warm), 100)
	errs, ctx := make(chan error, len(shots)), bounded(t)
	for _, s := range shots {
		go func() {
			_, err := s.Take(ctx)
			errs <- err
		}()
	}
	for range shots {
		require.NoError(t, <-errs)
	}
	for _, call := range c.Calls("CreateSnapshots") {
		require.True(t, warm[call.From], "%s was not open before, or had another request", call.From)
		delete(warm, call.From)
	}
}

func TestFind_TwoSetsOfOneNameAndOneCutShort_TakesTheOldestWhole(t *testing.T) {
	c := start(t)
	id := c.Instance("m5.large", "/dev/sda1", "/dev/sdb")
	p := open(t, c, func(cfg *Config) { cfg.Settle = time.Nanosecond })
	first, second := prepare(t, p, vmOf(id), "op-1"), prepare(t, p, vmOf(id), "op-1")
	a, err := first.Take(bounded(t))
	require.NoError(t, err)
	b, err := second.Take(bounded(t))
	require.NoError(t, err)
	found, _, err := p.Find(bounded(t), vmOf(id), "op-1")
	require.NoError(t, err)
	require.Equal(t, a.ID, found.ID)
	list, err := p.List(bounded(t), vmOf(id), "op-")
	require.NoError(t, err)
	require.Len(t, list, 1)

	_, err = p.client.DeleteSnapshot(bounded(t), deleteInput(strings.Split(a.ID, ",")[0]))
	require.NoError(t, err)
	found, _, err = p.Find(bounded(t), vmOf(id), "op-1")
	require.NoError(t, err)
	require.Equal(t, b.ID, found.ID, "the first set lacks a volume")
	_, err = p.client.DeleteSnapshot(bounded(t), deleteInput(strings.Split(b.ID, ",")[1]))
	require.NoError(t, err)
	found, _, err = p.Find(bounded(t), vmOf(id), "op-1")
	require.NoError(t, err)
	require.Equal(t, hypervisor.Failed, found.State)
	require.NoError(t, p.Delete(bounded(t), vmOf(id), "op-1"))
	require.Empty(t, c.Snapshots())
}

func TestList_ManyNames_BeginWithThePrefixOldestFirst(t *testing.T) {
	c := start(t)
	c.PageSize = 3
	id, other := c.Instance("m5.large", "/dev/sda1", "/dev/sdb"), c.Instance("m5.large", "/dev/sda1")
	p := open(t, c)
	for _, n := range []string{"b-2", "b-1", "c", "b-3"} {
		take(t, p, vmOf(id), n)
	}
	take(t, p, vmOf(other), "b-9")
	list, err := p.List(bounded(t), vmOf(id), "b-")
	require.NoError(t, err)
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
	}
	require.Equal(t, []string{"b-2", "b-1", "b-3"}, names)
}

// requireRolledBack looks at what must be as before after a rollback: the place of a volume, and whether it goes with the instance.
func requireRolledBack(t *testing.T, c *ec2test.Cloud, id string) {
	t.Helper()
	require.Equal(t, "root at the moment", c.Content(id, "/dev/sda1"))
	require.Equal(t, "data at the moment", c.Content(id, "/dev/sdb"))
	_, deleted := c.Attached(id, "/dev/sda1")
	require.True(t, deleted, "the root volume goes with the instance, as before")
	_, deleted = c.Attached(id, "/dev/sdb")
	require.False(t, deleted)
}

func captured(t *testing.T, c *ec2test.Cloud, p *Provider) string {
	t.Helper()
	id := c.Instance("m5.large", "/dev/sda1", "/dev/sdb")
	c.Write(id, "/dev/sda1", "root at the moment")
	c.Write(id, "/dev/sdb", "data at the moment")
	take(t, p, vmOf(id), "op-1")
	c.Write(id, "/dev/sda1", "later")
	c.Write(id, "/dev/sdb", "later")
	return id
}

func TestRollback_Twice_LeavesNothingWrittenSinceAndKeepsTheOldVolumes(t *testing.T) {
	c := start(t)
	c.Slow = 30 * time.Millisecond
	p := open(t, c)
	id := captured(t, c, p)
	require.ErrorContains(t, p.Rollback(bounded(t), vmOf(id), "op-1"), "not stopped")
	stop(t, p, vmOf(id))
	oldRoot, _ := c.Attached(id, "/dev/sda1")
	require.NoError(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
	requireRolledBack(t, c, id)
	require.Len(t, c.Volumes(), 4)
	require.Equal(t, "op-1", c.Tags(oldRoot)["katoflow:replaced"])

	// Again without a start: nothing was written since, and nothing is made anew.
	require.NoError(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
	requireRolledBack(t, c, id)
	require.Len(t, c.Volumes(), 4)

	require.NoError(t, p.Start(bounded(t), vmOf(id)))
	awaitPower(t, p, vmOf(id), hypervisor.On)
	c.Write(id, "/dev/sda1", "after the first rollback")
	stop(t, p, vmOf(id))
	require.NoError(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
	requireRolledBack(t, c, id)
	require.Len(t, c.Volumes(), 6)

	require.NoError(t, p.Delete(bounded(t), vmOf(id), "op-1"))
	require.Len(t, c.Volumes(), 2, "the old ones go with the snapshot, those attached stay")
	requireRolledBack(t, c, id)
}

// A rollback that was ended after each of its requests, and one that lost each answer, goes on.
func TestRollback_InterruptedAtEachRequest_GoesOn(t *testing.T) {
	// How often each is sent: one volume of two goes with the instance.
	for action, times := range map[string]int{"CreateVolume": 2, "CreateTags": 4, "DetachVolume": 2, "AttachVolume": 2, "ModifyInstanceAttribute": 1} {
		for nth := range times {
			for name, f := range map[string]hypervisortest.RequestFault{
				"refused": {Kind: hypervisortest.Refuse, Code: "OperationNotPermitted"}, "lost": {Kind: hypervisortest.Lose}, "lost and nothing heard since": {Kind: hypervisortest.Lose, Last: true},
			} {
				t.Run(fmt.Sprintf("%s %d %s", action, nth+1, name), func(t *testing.T) {
					c := start(t)
					p := open(t, c)
					id := captured(t, c, p)
					stop(t, p, vmOf(id))
					f.Call, f.Times, f.Skip = action, 1, nth
					c.Fault(f)
					err := p.Rollback(bounded(t), vmOf(id), "op-1")
					var unknown *hypervisor.UnknownError
					switch {
					case f.Kind == hypervisortest.Refuse:
						require.Error(t, err)
						require.False(t, errors.As(err, &unknown), "asking again would not help: %v", err)
					case f.Last:
						require.ErrorAs(t, err, &unknown)
						c.ClearFaults()
						// The worker has gone, too.
						p = open(t, c)
					default:
						require.NoError(t, err, "the request is sent again")
						requireRolledBack(t, c, id)
					}
					require.NoError(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
					requireRolledBack(t, c, id)
					require.Len(t, c.Volumes(), 4, "no volume was made twice")
				})
			}
		}
	}
}

func TestRollback_WhatIsInTheWay_IsNamedAndNothingIsTaken(t *testing.T) {
	c := start(t)
	c.Copying = -1
	p := open(t, c)
	id := captured(t, c, p)
	stop(t, p, vmOf(id))
	before, _ := c.Attached(id, "/dev/sda1")
	var notFound *hypervisor.NotFoundError
	require.ErrorAs(t, p.Rollback(bounded(t), vmOf(id), "op-9"), &notFound)
	require.ErrorContains(t, p.Rollback(bounded(t), vmOf(id), "op-1"), "still being copied")
	c.Complete(true)
	require.ErrorContains(t, p.Rollback(bounded(t), vmOf(id), "op-1"), "failed")
	c.Complete(false)
	c.Fault(hypervisortest.RequestFault{Call: "CreateVolume", Times: 1, Skip: 1, Code: "VolumeLimitExceeded"})
	require.ErrorContains(t, p.Rollback(bounded(t), vmOf(id), "op-1"), "VolumeLimitExceeded")
	after, _ := c.Attached(id, "/dev/sda1")
	require.Equal(t, before, after, "all new volumes come before the first old one goes")
	require.NoError(t, p.Delete(bounded(t), vmOf(id), "op-1"))
	require.Len(t, c.Volumes(), 2, "what was made for the rollback goes too")
}

func TestCheckRollback_WhatIsInTheWay_IsNamedAllAtOnceAndNothingIsChanged(t *testing.T) {
	c := start(t)
	p := open(t, c)
	id := captured(t, c, p)
	in := func() (texts []string) {
		t.Helper()
		before := len(c.Calls(""))
		problems, err := p.CheckRollback(bounded(t), vmOf(id), "op-1", true)
		require.NoError(t, err)
		for _, problem := range problems {
			require.Equal(t, "core", problem.Node)
			texts = append(texts, problem.Text)
		}
		for _, call := range c.Calls("")[before:] {
			require.True(t, strings.HasPrefix(call.Action, "Describe") || call.Form.Get("DryRun") == "true", "%s changes something", call.Action)
		}
		return texts
	}
	require.Empty(t, in())
	c.Attach(id, "/dev/sdb")
	c.Attach(id, "/dev/sdc")
	c.MultiAttach(id, "/dev/sda1", "i-0fffffffffffffff0")
	snapshot := c.Snapshots()[1]
	c.Archive(snapshot)
	for _, action := range []string{"CreateVolume", "DetachVolume", "AttachVolume", "ModifyInstanceAttribute", "CreateTags", "StopInstances", "StartInstances"} {
		c.Fault(hypervisortest.RequestFault{Call: "DryRun:" + action, Times: 1 << 20, Code: "UnauthorizedOperation"})
	}
	got := in()
	for _, want := range []string{
		"snapshot " + snapshot + " is archived", "at /dev/sdb was attached after the snapshot", "at /dev/sdc was attached after the snapshot", "is also attached to instance i-0fffffffffffffff0",
		"may not stop it", "may not start it", "may not make a volume of snapshot " + snapshot, "may not tag its volumes", "may not detach its volumes", "may not attach volumes to it",
		"may not set DeleteOnTermination",
	} {
		require.True(t, slices.ContainsFunc(got, func(text string) bool { return strings.Contains(text, want) }), "%q is not in %q", want, got)
	}
	require.Len(t, got, 12, "%q", got)
	c.ClearFaults()

	// The rollback itself refuses the same, before it touches anything.
	stop(t, p, vmOf(id))
	asked := len(c.Calls("CreateVolume"))
	require.ErrorContains(t, p.Rollback(bounded(t), vmOf(id), "op-1"), "is archived")
	require.Empty(t, c.Calls("CreateVolume")[asked:])
	c.Detach(id, "/dev/sdb")
	c.Detach(id, "/dev/sdc")
	c.MultiAttach(id, "/dev/sda1", "")
	c.Restore(snapshot)
	require.NoError(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
	requireRolledBack(t, c, id)
	require.Empty(t, in(), "what a rollback has made is in the way of no other")
}

func TestCheckRollback_SnapshotThatIsNotThereOrNotWhole_IsForOthersToTell(t *testing.T) {
	c := start(t)
	p := open(t, c)
	id := captured(t, c, p)
	problems, err := p.CheckRollback(bounded(t), vmOf(id), "op-9", true)
	require.NoError(t, err)
	require.Empty(t, problems)
	c.Drop(c.Snapshots()[0])
	problems, err = p.CheckRollback(bounded(t), vmOf(id), "op-1", true)
	require.NoError(t, err)
	require.Empty(t, problems)
	var notFound *hypervisor.NotFoundError
	_, err = p.CheckRollback(bounded(t), vmOf("i-0fffffffffffffff0"), "op-1", true)
	require.ErrorAs(t, err, &notFound)
}

func TestDelete_OfOneSetOfTwo_LeavesWhatTheOtherTookAway(t *testing.T) {
	c := start(t)
	p := open(t, c)
	id := captured(t, c, p)
	take(t, p, vmOf(id), "op-2")
	stop(t, p, vmOf(id))
	require.NoError(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
	made, _ := c.Attached(id, "/dev/sdb")
	require.NoError(t, p.Rollback(bounded(t), vmOf(id), "op-2"))
	require.Equal(t, "later", c.Content(id, "/dev/sdb"))
	require.Len(t, c.Volumes(), 6)
	require.NoError(t, p.Delete(bounded(t), vmOf(id), "op-1"))
	require.Len(t, c.Volumes(), 4)
	require.Contains(t, c.Volumes(), made)
	require.NoError(t, p.Delete(bounded(t), vmOf(id), "op-2"))
	require.Len(t, c.Volumes(), 2)
}

func TestPrepare_MoreVolumesThanTags_IsNamedBefore(t *testing.T) {
	c := start(t)
	tags := map[string]string{}
	for n := range inventory.MostEC2Tags {
		tags[strconv.Itoa(n)] = "x"
	}
	p := open(t, c, func(cfg *Config) { cfg.Tags = tags })
	var devices []string
	for n := range 26 {
		devices = append(devices, fmt.Sprintf("/dev/sd%02d", n))
	}
	most, more := c.Instance("m5.large", devices...), c.Instance("m5.large", append(devices, "/dev/sdx")...)
	take(t, p, vmOf(most), "op-1")
	_, err := p.Prepare(bounded(t), vmOf(more), "op-1")
	require.ErrorContains(t, err, "27 volumes, and no more than 26 fit")
	problems, err := p.Check(bounded(t), []hypervisor.VM{vmOf(more)})
	require.NoError(t, err)
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].Text, "27 EBS volumes")
}

func TestPower_StopAndStart_AreIdempotent(t *testing.T) {
	c := start(t)
	c.Slow = time.Hour
	id := c.Instance("m5.large", "/dev/sda1")
	p := open(t, c)
	for range 2 {
		require.NoError(t, p.Stop(bounded(t), vmOf(id), false))
	}
	power, err := p.Power(bounded(t), vmOf(id))
	require.NoError(t, err)
	require.Equal(t, hypervisor.Other, power)
	c.Settle()
	awaitPower(t, p, vmOf(id), hypervisor.Off)
	require.NoError(t, p.Stop(bounded(t), vmOf(id), true))
	for range 2 {
		require.NoError(t, p.Start(bounded(t), vmOf(id)))
	}
	c.Settle()
	awaitPower(t, p, vmOf(id), hypervisor.On)
	forced := c.Calls("StopInstances")
	require.Equal(t, "true", forced[len(forced)-1].Form.Get("Force"))
	require.Equal(t, "false", forced[0].Form.Get("Force"))
}

func TestCheck_EachTrouble_IsNamedAllAtOnce(t *testing.T) {
	c := start(t)
	c.Copying, c.PageSize = -1, 2
	c.Stores["m5d.large"] = true
	good, store, diskless, multi, busy := c.Instance("m5.large", "/dev/sda1"), c.Instance("m5d.large", "/dev/sda1"), c.Instance("m1.small"), c.Instance("m5.large", "/dev/sda1"),
		c.Instance("m5.large", "/dev/sda1")
	c.MultiAttach(multi, "/dev/sda1", "")
	p := open(t, c)
	take(t, p, vmOf(busy), "somebody's")
	vm := func(node, id string) hypervisor.VM { return hypervisor.VM{Node: node, ID: id} }
	problems, err := p.Check(bounded(t), []hypervisor.VM{
		vm("good", good), vm("store", store), vm("diskless", diskless), vm("multi", multi), vm("busy", busy), vm("gone", "i-0fffffffffffffff0"), vm("again", good),
	})
	require.NoError(t, err)
	got := map[string]string{}
	for _, problem := range problems {
		got[problem.Node] += problem.Text
	}
	want := map[string]string{
		"store": "instance store volumes", "diskless": "root on instance store", "multi": "attached to several", "busy": "under way", "gone": "is not there", "again": "also that of good",
	}
	require.Len(t, got, len(want), "%v", problems)
	for node, text := range want {
		require.Contains(t, got[node], text)
	}
	require.Len(t, c.Snapshots(), 1, "a check makes none")
}

func TestCheck_Rights_AreAskedForWithoutDoing(t *testing.T) {
	c := start(t)
	id := c.Instance("m5.large", "/dev/sda1")
	p := open(t, c)
	problems, err := p.Check(bounded(t), []hypervisor.VM{vmOf(id)})
	require.NoError(t, err)
	require.Empty(t, problems)
	c.Fault(hypervisortest.RequestFault{Call: "DryRun:CreateSnapshots", Times: 1 << 20, Code: "UnauthorizedOperation"})
	problems, err = p.Check(bounded(t), []hypervisor.VM{vmOf(id)})
	require.NoError(t, err)
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].Text, "we may not create snapshots of it")
	power, err := p.Power(bounded(t), vmOf(id))
	require.NoError(t, err)
	require.Equal(t, hypervisor.On, power)
}

func TestCheck_WhoIsNotLetInOrHeard_IsToldApart(t *testing.T) {
	c := start(t)
	problems, err := open(t, c, func(cfg *Config) { cfg.AccessKey = "AKIAOTHER" }).Check(bounded(t), []hypervisor.VM{vmOf("i-1")})
	require.NoError(t, err)
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].Text, "AuthFailure")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	ctx, cancel := context.WithTimeout(bounded(t), 2*time.Second)
	defer cancel()
	_, err = open(t, c, func(cfg *Config) { cfg.Endpoint = "https://" + listener.Addr().String() }).Check(ctx, []hypervisor.VM{vmOf("i-1")})
	require.ErrorContains(t, err, "does not answer")
}

func TestOpen_BadConfig_NamesTheField(t *testing.T) {
	tags := map[string]string{}
	for n := range inventory.MostEC2Tags + 1 {
		tags[strconv.Itoa(n)] = ""
	}
	for want, cfg := range map[string]Config{
		"region": {AccessKey: "x", SecretKey: "y"}, "secret key": {Region: "r", AccessKey: "x"}, "endpoint": {Region: "r", AccessKey: "x", SecretKey: "y", Endpoint: "ftp://x"},
		"CA": {Region: "r", AccessKey: "x", SecretKey: "y", CA: []byte("x")}, "21 tags": {Region: "r", AccessKey: "x", SecretKey: "y", Tags: tags},
		"no endpoint is known": {Region: "not a region", AccessKey: "x", SecretKey: "y"},
	} {
		_, err := Open(cfg)
		require.ErrorContains(t, err, want)
	}
}

// The connection that is kept is one to where the requests go.
func TestOpen_RegionOfAnyPartition_KeepsConnectionsToItsEndpoint(t *testing.T) {
	for region, want := range map[string]string{
		"eu-central-1": "https://ec2.eu-central-1.amazonaws.com/ping", "cn-north-1": "https://ec2.cn-north-1.amazonaws.com.cn/ping", "us-iso-east-1": "https://ec2.us-iso-east-1.c2s.ic.gov/ping",
	} {
		p, err := Open(Config{Region: region, AccessKey: "x", SecretKey: "y"})
		require.NoError(t, err)
		require.Equal(t, want, p.warm)
		require.NoError(t, p.Close())
	}
}

// closed is a body that was closed when all of it was sent, as the SDK's.
type closed struct{ io.ReadCloser }

func (closed) WriteTo(io.Writer) (int64, error) { return 0, io.EOF }

func TestPlainBodies_BodyClosedBeforeItsEndIsSeen_DoesNotEndTheAnswer(t *testing.T) {
	const long = 1 << 20
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = w.Write(make([]byte, long))
	}))
	t.Cleanup(server.Close)
	transport, ok := connection.New(connection.Config{})
	require.True(t, ok)
	t.Cleanup(transport.Close)
	ask := func(over http.RoundTripper) (int, error) {
		r, err := http.NewRequestWithContext(bounded(t), http.MethodPost, server.URL, closed{io.NopCloser(strings.NewReader("Action=X"))})
		require.NoError(t, err)
		r.ContentLength = int64(len("Action=X"))
		resp, err := over.RoundTrip(r)
		if err != nil {
			return 0, err
		}
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, resp.Body.Close())
		return len(body), err
	}
	_, err := ask(transport)
	require.Error(t, err, "net/http takes it for a body that cannot be read")
	n, err := ask(plainBodies{transport})
	require.NoError(t, err)
	require.Equal(t, long, n)
}

func TestAttachment_Tag_ReadsAsItWasWritten(t *testing.T) {
	for _, a := range []attachment{{device: "/dev/sda1", delete: true, kind: "gp3", iops: 3000, throughput: 125}, {device: "xvdb", kind: "st1"}} {
		read, err := parseAttachment(a.String())
		require.NoError(t, err)
		require.Equal(t, a, read)
	}
	for _, s := range []string{"", "/dev/sda1", "/dev/sda1 delete=x type=gp3", "/dev/sda1 delete=true type=gp3 iops=many"} {
		_, err := parseAttachment(s)
		require.Error(t, err, s)
	}
}

func TestTags_OfTheSite_AreOnWhatIsMade(t *testing.T) {
	c := start(t)
	id := c.Instance("m5.large", "/dev/sda1")
	p := open(t, c, func(cfg *Config) { cfg.Tags = map[string]string{"cost-center": "42"} })
	take(t, p, vmOf(id), "op-1")
	tags := c.Tags(c.Snapshots()[0])
	require.Equal(t, "42", tags["cost-center"])
	require.Equal(t, "op-1", tags["katoflow:snapshot"])
	require.Equal(t, "op-1 core", tags["Name"])
	require.True(t, slices.ContainsFunc(c.Calls("CreateSnapshots"), func(x ec2test.Call) bool { return strings.Contains(x.Form.Get("Description"), "op-1") }))
}
