package openstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/hypervisortest"
	"github.com/katoflow/katoflow/internal/hypervisor/openstack/openstacktest"
)

func start(t *testing.T) *openstacktest.Cloud {
	t.Helper()
	c := openstacktest.New()
	t.Cleanup(c.Close)
	return c
}

// limit is what a busy machine needs for anything; nothing runs into it.
const limit = 2 * time.Minute

// configOf the double. Connections are not kept warm: what a test says of them does not depend on how long it takes.
func configOf(c *openstacktest.Cloud) Config {
	return Config{
		AuthURL: c.URL(), User: openstacktest.User, Password: openstacktest.Password, Project: openstacktest.Project, CA: c.CA(),
		Poll: 5 * time.Millisecond, Settle: 200 * time.Millisecond, Timeout: limit, Warm: time.Hour,
	}
}

func open(t *testing.T, c *openstacktest.Cloud, change ...func(*Config)) *Provider {
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

func find(t *testing.T, p *Provider, vm hypervisor.VM, name string) (hypervisor.Snapshot, bool) {
	t.Helper()
	found, ok, err := p.Find(bounded(t), vm, name)
	require.NoError(t, err)
	return found, ok
}

func awaitPower(t *testing.T, p *Provider, vm hypervisor.VM, want hypervisor.Power) {
	t.Helper()
	require.Eventually(t, func() bool {
		power, err := p.Power(bounded(t), vm)
		return err == nil && power == want
	}, limit, 5*time.Millisecond)
}

func stop(t *testing.T, p *Provider, vm hypervisor.VM) {
	t.Helper()
	require.NoError(t, p.Stop(bounded(t), vm, false))
	awaitPower(t, p, vm, hypervisor.Off)
}

// taking is what Take returned.
type taking struct {
	snapshot hypervisor.Snapshot
	err      error
}

// The moment of a snapshot in the double is when it stops creating: what is written before is in it, what is written after Take is not.
func TestTake_WhateverTheServerBootsFrom_ReturnsWhenTheMomentHasPassed(t *testing.T) {
	for what, fromImage := range map[string]bool{"volumes": false, "image and a volume": true} {
		t.Run(what, func(t *testing.T) {
			c := start(t)
			c.Creating, c.Saving = -1, -1
			id := c.Server("core", fromImage, "/dev/vda", "/dev/vdb")
			p := open(t, c)
			s := prepare(t, p, vmOf(id), "op-1")
			c.Write(id, "/dev/vdb", "before the request")
			done := make(chan taking, 1)
			ctx := bounded(t)
			go func() {
				snapshot, err := s.Take(ctx)
				done <- taking{snapshot, err}
			}()
			// All its requests have been carried out: none comes after the moment.
			want := [2]int{2, 0}
			if fromImage {
				want[1] = 1
			}
			require.Eventually(t, func() bool {
				snapshots, images := c.Count()
				return [2]int{snapshots, images} == want
			}, limit, time.Millisecond)
			select {
			case <-done:
				t.Fatal("it returned although the moment is still to come")
			case <-time.After(50 * time.Millisecond):
			}
			c.Write(id, "/dev/vdb", "at the moment")
			c.Made()
			taken := <-done
			require.NoError(t, taken.err)
			snapshot := taken.snapshot
			c.Write(id, "/dev/vdb", "after Take")
			if fromImage {
				require.Equal(t, hypervisor.Pending, snapshot.State)
				c.Saved()
			}
			found, ok := find(t, p, vmOf(id), "op-1")
			require.True(t, ok)
			require.Equal(t, hypervisor.Ready, found.State)
			require.Equal(t, snapshot.ID, found.ID)
			require.NotZero(t, found.Size)
			stop(t, p, vmOf(id))
			require.NoError(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
			require.Equal(t, "at the moment", c.Content(id, "/dev/vdb"))
		})
	}
}

func TestTake_LostAnswerOfOneDisk_IsUnknownNeverSentAgainAndFound(t *testing.T) {
	c := start(t)
	id := c.Server("core", false, "/dev/vda", "/dev/vdb")
	p := open(t, c)
	s := prepare(t, p, vmOf(id), "op-1")
	c.Fault(hypervisortest.RequestFault{Call: "POST snapshots", Times: 1, Kind: hypervisortest.Lose})
	_, err := s.Take(bounded(t))
	var unknown *hypervisor.UnknownError
	require.ErrorAs(t, err, &unknown)
	require.Len(t, c.Calls("POST snapshots"), 2)
	found, ok := find(t, p, vmOf(id), "op-1")
	require.True(t, ok)
	require.Equal(t, hypervisor.Ready, found.State)
	again, err := s.Take(bounded(t))
	require.NoError(t, err)
	require.Equal(t, found.ID, again.ID)
	n, _ := c.Count()
	require.Equal(t, 2, n)
}

func TestTake_OneDiskUnheard_IsUnknownAndTheSetHasFailed(t *testing.T) {
	for name, fault := range map[string]hypervisortest.RequestFault{
		"unheard":     {Call: "POST snapshots", Times: 1, Kind: hypervisortest.Unheard},
		"unavailable": {Call: "POST snapshots", Times: 1, Status: 503},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t)
			id := c.Server("core", false, "/dev/vda", "/dev/vdb")
			p := open(t, c)
			s := prepare(t, p, vmOf(id), "op-1")
			c.Fault(fault)
			_, err := s.Take(bounded(t))
			var unknown *hypervisor.UnknownError
			require.ErrorAs(t, err, &unknown)
			found, ok := find(t, p, vmOf(id), "op-1")
			require.True(t, ok)
			require.Equal(t, hypervisor.Failed, found.State, "it lacks a disk")
			require.NoError(t, p.Delete(bounded(t), vmOf(id), "op-1"))
			_, ok = find(t, p, vmOf(id), "op-1")
			require.False(t, ok)
		})
	}
}

func TestTake_QuotaOfOneDisk_IsARefusalThatLeavesAFailedSet(t *testing.T) {
	c := start(t)
	c.Snapshots = 1
	id := c.Server("core", false, "/dev/vda", "/dev/vdb")
	p := open(t, c)
	problems, err := p.Check(bounded(t), []hypervisor.VM{vmOf(id)})
	require.NoError(t, err)
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].Text, "quota of volume snapshots is 1, 0 are used and 2 are needed")
	s := prepare(t, p, vmOf(id), "op-1")
	_, err = s.Take(bounded(t))
	var unknown *hypervisor.UnknownError
	require.False(t, errors.As(err, &unknown))
	require.ErrorContains(t, err, "SnapshotLimitExceeded")
	again, err := s.Take(bounded(t))
	require.NoError(t, err)
	require.Equal(t, hypervisor.Failed, again.State)
	require.NoError(t, p.Delete(bounded(t), vmOf(id), "op-1"))
	n, _ := c.Count()
	require.Zero(t, n)
}

func TestToken_EndedBetweenPrepareAndTake_IsRenewedAndNothingTwice(t *testing.T) {
	c := start(t)
	id := c.Server("core", true, "/dev/vdb")
	p := open(t, c)
	s := prepare(t, p, vmOf(id), "op-1")
	c.EndTokens()
	_, err := s.Take(bounded(t))
	require.NoError(t, err)
	snapshots, images := c.Count()
	require.Equal(t, [2]int{1, 1}, [2]int{snapshots, images})
}

func TestToken_EndedAndNoOtherGranted_IsARefusal(t *testing.T) {
	c := start(t)
	id := c.Server("core", false, "/dev/vda")
	p := open(t, c)
	s := prepare(t, p, vmOf(id), "op-1")
	c.EndTokens()
	c.Fault(hypervisortest.RequestFault{Call: "POST auth", Times: 1, Status: 401})
	_, err := s.Take(bounded(t))
	var unknown *hypervisor.UnknownError
	require.Error(t, err)
	require.False(t, errors.As(err, &unknown), "a request whose token was refused was not carried out: %v", err)
	n, _ := c.Count()
	require.Zero(t, n)
}

func TestToken_EndsSoon_IsRenewedByPrepare(t *testing.T) {
	c := start(t)
	c.Token = tokenLeft - time.Second
	id := c.Server("core", false, "/dev/vda")
	p := open(t, c)
	_, err := p.Power(bounded(t), vmOf(id))
	require.NoError(t, err)
	before := len(c.Calls("POST auth"))
	prepare(t, p, vmOf(id), "op-1")
	require.Equal(t, before+1, len(c.Calls("POST auth")))
}

func TestLogin_ApplicationCredential_IsLetIn(t *testing.T) {
	c := start(t)
	id := c.Server("core", false, "/dev/vda")
	p := open(t, c, func(cfg *Config) {
		cfg.User, cfg.Password, cfg.Project = "", "", ""
		cfg.CredentialID, cfg.CredentialSecret = openstacktest.CredentialID, openstacktest.CredentialSecret
	})
	take(t, p, vmOf(id), "op-1")
	c.EndTokens()
	_, ok := find(t, p, vmOf(id), "op-1")
	require.True(t, ok)
}

func TestTake_AllPrepared_OpensNoConnection(t *testing.T) {
	c := start(t)
	p := open(t, c)
	var shots []hypervisor.Shot
	for i := range 100 {
		shots = append(shots, prepare(t, p, vmOf(c.Server(fmt.Sprint("n", i), false, "/dev/vda")), "op-1"))
	}
	warm := map[string]bool{}
	for _, call := range c.Calls("versions") {
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
	for _, call := range c.Calls("POST snapshots") {
		require.True(t, warm[call.From], "%s was not open before, or had another request", call.From)
		delete(warm, call.From)
	}
}

func TestReads_ServicesInTrouble_AreAskedAgain(t *testing.T) {
	c := start(t)
	id := c.Server("core", false, "/dev/vda")
	p := open(t, c)
	take(t, p, vmOf(id), "op-1")
	for _, call := range []string{"GET servers", "GET snapshots", "GET images"} {
		c.Fault(hypervisortest.RequestFault{Call: call, Times: 1, Status: 503})
		c.Fault(hypervisortest.RequestFault{Call: call, Times: 1, Kind: hypervisortest.Unheard})
	}
	_, ok := find(t, p, vmOf(id), "op-1")
	require.True(t, ok)
}

func TestList_ManyPages_BeginWithThePrefixOldestFirst(t *testing.T) {
	c := start(t)
	c.PageSize = 2
	id, other := c.Server("core", true, "/dev/vdb"), c.Server("dea", true, "/dev/vdb")
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
		require.Len(t, strings.Split(s.ID, ","), 2)
	}
	require.Equal(t, []string{"b-2", "b-1", "b-3"}, names)
}

func TestFind_TwoSetsOfOneName_TakesTheOlderAndDeletesBoth(t *testing.T) {
	c := start(t)
	id := c.Server("core", false, "/dev/vda")
	p := open(t, c)
	first, second := prepare(t, p, vmOf(id), "op-1"), prepare(t, p, vmOf(id), "op-1")
	a, err := first.Take(bounded(t))
	require.NoError(t, err)
	_, err = second.Take(bounded(t))
	require.NoError(t, err)
	found, _ := find(t, p, vmOf(id), "op-1")
	require.Equal(t, a.ID, found.ID)
	require.NoError(t, p.Delete(bounded(t), vmOf(id), "op-1"))
	n, _ := c.Count()
	require.Zero(t, n)
}

// captured takes a snapshot of a server whose disks have content, and writes to them afterwards.
func captured(t *testing.T, c *openstacktest.Cloud, p *Provider, fromImage bool) string {
	t.Helper()
	devices := []string{"/dev/vda", "/dev/vdb"}
	if fromImage {
		devices = []string{"", "/dev/vdb"}
	}
	id := c.Server("core", fromImage, devices[len(devices)-1])
	if !fromImage {
		c.Remove(id)
		id = c.Server("core", false, devices...)
	}
	for _, d := range devices {
		c.Write(id, d, d+" at the moment")
	}
	take(t, p, vmOf(id), "op-1")
	for _, d := range devices {
		c.Write(id, d, "later")
	}
	return id
}

func requireRolledBack(t *testing.T, c *openstacktest.Cloud, id string, fromImage bool) {
	t.Helper()
	root := "/dev/vda"
	if fromImage {
		root = ""
	}
	require.Equal(t, root+" at the moment", c.Content(id, root))
	require.Equal(t, "/dev/vdb at the moment", c.Content(id, "/dev/vdb"))
	require.Equal(t, "in-use", c.VolumeStatus(id, "/dev/vdb"))
}

func TestRollback_Twice_LeavesNothingWrittenSinceAndTheServerOff(t *testing.T) {
	for _, fromImage := range []bool{false, true} {
		for _, mayReset := range []bool{true, false} {
			if !fromImage && !mayReset {
				continue // is refused, see below
			}
			t.Run(fmt.Sprintf("from image %t, may reset %t", fromImage, mayReset), func(t *testing.T) {
				c := start(t)
				c.Slow, c.MayReset = 20*time.Millisecond, mayReset
				p := open(t, c)
				id := captured(t, c, p, fromImage)
				require.ErrorContains(t, p.Rollback(bounded(t), vmOf(id), "op-1"), "not shut off")
				stop(t, p, vmOf(id))
				require.NoError(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
				requireRolledBack(t, c, id, fromImage)
				c.Write(id, "/dev/vdb", "after the first time")
				require.NoError(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
				requireRolledBack(t, c, id, fromImage)
				power, err := p.Power(bounded(t), vmOf(id))
				require.NoError(t, err)
				require.Equal(t, hypervisor.Off, power)
			})
		}
	}
}

func TestRollback_RootVolumeWithoutTheRight_SaysSoAndChangesNothing(t *testing.T) {
	c := start(t)
	c.MayReset = false
	p := open(t, c)
	id := captured(t, c, p, false)
	stop(t, p, vmOf(id))
	require.ErrorContains(t, p.Rollback(bounded(t), vmOf(id), "op-1"), "os-reset_status")
	require.Equal(t, "later", c.Content(id, "/dev/vdb"))
	require.Equal(t, "in-use", c.VolumeStatus(id, "/dev/vdb"))
}

func TestRollback_NewerSnapshot_IsNamedAndNothingIsChanged(t *testing.T) {
	c := start(t)
	p := open(t, c)
	id := captured(t, c, p, false)
	take(t, p, vmOf(id), "op-2")
	stop(t, p, vmOf(id))
	err := p.Rollback(bounded(t), vmOf(id), "op-1")
	require.ErrorContains(t, err, "snapshot op-2")
	require.ErrorContains(t, err, "newer")
	require.Equal(t, "later", c.Content(id, "/dev/vda"))
	require.NoError(t, p.Delete(bounded(t), vmOf(id), "op-2"))
	require.NoError(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
	requireRolledBack(t, c, id, false)
}

func TestCheckRollback_WhatIsInTheWay_IsNamedAllAtOnceAndNothingIsChanged(t *testing.T) {
	c := start(t)
	p := open(t, c)
	id := captured(t, c, p, false)
	in := func(another bool) (texts []string) {
		t.Helper()
		problems, err := p.CheckRollback(bounded(t), vmOf(id), "op-1", another)
		require.NoError(t, err)
		for _, problem := range problems {
			require.Equal(t, "core", problem.Node)
			texts = append(texts, problem.Text)
		}
		return texts
	}
	require.Empty(t, in(false))
	more := in(true)
	require.Len(t, more, 1)
	require.Contains(t, more[0], "--no-safety-snapshots")
	take(t, p, vmOf(id), "op-2")
	c.Change(id, "/dev/vdb", map[string]any{"size": 20})
	before := len(c.Calls(""))
	got := strings.Join(in(true), "\n")
	require.Len(t, strings.Split(got, "\n"), 4, got)
	require.Equal(t, 2, strings.Count(got, "snapshot op-2"), got)
	require.Contains(t, got, "extended to 20 GiB")
	for _, call := range c.Calls("")[before:] {
		require.Contains(t, call.Name, "GET", "it only reads")
	}

	image := c.Server("image", true)
	take(t, p, hypervisor.VM{Node: "image", ID: image}, "op-1")
	problems, err := p.CheckRollback(bounded(t), hypervisor.VM{Node: "image", ID: image}, "op-1", true)
	require.NoError(t, err)
	require.Empty(t, problems, "an image is gone back to whatever is newer")
}

func TestRollback_WhatIsInTheWay_IsNamed(t *testing.T) {
	c := start(t)
	p := open(t, c)
	id := captured(t, c, p, false)
	stop(t, p, vmOf(id))
	var notFound *hypervisor.NotFoundError
	require.ErrorAs(t, p.Rollback(bounded(t), vmOf(id), "op-9"), &notFound)
	c.Change(id, "/dev/vdb", map[string]any{"size": 20})
	require.ErrorContains(t, p.Rollback(bounded(t), vmOf(id), "op-1"), "extended to 20 GiB")
	require.Equal(t, "later", c.Content(id, "/dev/vda"), "nothing goes back before all may")
	c.Change(id, "/dev/vdb", map[string]any{"size": 10})
	c.Fault(hypervisortest.RequestFault{Call: "revert", Times: 1, Status: 409})
	require.Error(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
	require.Equal(t, "in-use", c.VolumeStatus(id, "/dev/vda"), "its status is set back")
	c.Fail()
	require.ErrorContains(t, p.Rollback(bounded(t), vmOf(id), "op-1"), "failed")
}

// A rollback that was ended at each of its requests, and one that lost each answer, goes on.
func TestRollback_InterruptedAtEachRequest_GoesOn(t *testing.T) {
	type row struct {
		fromImage, mayReset bool
		calls               []string
	}
	for _, r := range []row{
		{false, true, []string{"os-reset_status", "revert"}},
		{true, true, []string{"os-reset_status", "revert", "rebuild"}},
		{true, false, []string{"DELETE os-volume_attachments", "revert", "POST os-volume_attachments", "rebuild"}},
	} {
		for _, call := range r.calls {
			for skip := range 2 {
				for name, fault := range map[string]hypervisortest.RequestFault{"refused": {Status: 400}, "lost": {Kind: hypervisortest.Lose}} {
					t.Run(fmt.Sprintf("%t %t %s %d %s", r.fromImage, r.mayReset, call, skip, name), func(t *testing.T) {
						c := start(t)
						c.Slow, c.MayReset = 10*time.Millisecond, r.mayReset
						p := open(t, c)
						id := captured(t, c, p, r.fromImage)
						stop(t, p, vmOf(id))
						fault.Call, fault.Skip, fault.Times = call, skip, 1
						c.Fault(fault)
						err := p.Rollback(bounded(t), vmOf(id), "op-1")
						if name == "lost" {
							require.NoError(t, err, "what is lost is looked up")
						}
						if err == nil {
							_ = p.Rollback(bounded(t), vmOf(id), "op-1") // the fault may have been left for the second
						}
						require.NoError(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
						requireRolledBack(t, c, id, r.fromImage)
					})
				}
			}
		}
	}
}

func TestPower_StopAndStart_AreIdempotentAlsoWhenAnswersAreLost(t *testing.T) {
	c := start(t)
	c.Slow = 50 * time.Millisecond
	id := c.Server("core", false, "/dev/vda")
	p := open(t, c)
	c.Fault(hypervisortest.RequestFault{Call: "os-stop", Times: 1, Kind: hypervisortest.Lose})
	for range 2 {
		require.NoError(t, p.Stop(bounded(t), vmOf(id), false))
	}
	awaitPower(t, p, vmOf(id), hypervisor.Off)
	require.NoError(t, p.Stop(bounded(t), vmOf(id), true))
	c.Fault(hypervisortest.RequestFault{Call: "os-start", Times: 1, Kind: hypervisortest.Lose})
	for range 2 {
		require.NoError(t, p.Start(bounded(t), vmOf(id)))
	}
	awaitPower(t, p, vmOf(id), hypervisor.On)
}

func TestServer_ByName_MustBeOne(t *testing.T) {
	c := start(t)
	c.PageSize = 1
	c.Server("core-old", false, "/dev/vda")
	c.Server("core", false, "/dev/vda")
	p := open(t, c)
	power, err := p.Power(bounded(t), vmOf("core"))
	require.NoError(t, err)
	require.Equal(t, hypervisor.On, power)
	c.Server("core", false, "/dev/vda")
	_, err = p.Power(bounded(t), vmOf("core"))
	require.ErrorContains(t, err, "2 servers are called core")
	_, err = p.Power(bounded(t), vmOf("cor"))
	var notFound *hypervisor.NotFoundError
	require.ErrorAs(t, err, &notFound)
}

func TestCheck_EachTrouble_IsNamedAllAtOnce(t *testing.T) {
	c := start(t)
	c.Creating, c.Images, c.Gigabytes = -1, 0, 75
	vm := func(node, id string) hypervisor.VM { return hypervisor.VM{Node: node, ID: id} }
	good, paused, busy, detaching, multi, ephemeral := c.Server("good", false, "/dev/vda"), c.Server("paused", false, "/dev/vda"), c.Server("busy", false, "/dev/vda"),
		c.Server("detaching", false, "/dev/vda"), c.Server("multi", false, "/dev/vda"), c.Server("ephemeral", true)
	c.Change(paused, "", map[string]any{"status": "PAUSED"})
	c.Change(busy, "", map[string]any{"task": "resize_prep"})
	c.Change(detaching, "/dev/vda", map[string]any{"volume status": "detaching"})
	c.Change(multi, "/dev/vda", map[string]any{"multiattach": true})
	c.Change(ephemeral, "", map[string]any{"ephemeral": 20})
	p := open(t, c)
	problems, err := p.Check(bounded(t), []hypervisor.VM{
		vm("good", good), vm("paused", paused), vm("busy", busy), vm("detaching", detaching), vm("multi", multi), vm("ephemeral", ephemeral), vm("gone", "nobody"), vm("again", good),
	})
	require.NoError(t, err)
	got := map[string]string{}
	for _, problem := range problems {
		got[problem.Node] += problem.Text + "; "
	}
	want := map[string]string{
		"paused": "is paused", "busy": "resize_prep", "detaching": "is detaching", "multi": "several servers", "ephemeral": "ephemeral disk of 20 GiB", "gone": "is not there", "again": "also that of good",
		"": "quota of images is 0",
	}
	require.Len(t, got, len(want), "%v", problems)
	for node, text := range want {
		require.Contains(t, got[node], text)
	}
	require.Contains(t, got[""], "volume gigabytes is 75, 50 are used")
}

func TestCheck_SnapshotUnderWay_IsAProblem(t *testing.T) {
	c := start(t)
	c.Creating = -1
	id := c.Server("core", false, "/dev/vda")
	p := open(t, c)
	problems, err := p.Check(bounded(t), []hypervisor.VM{vmOf(id)})
	require.NoError(t, err)
	require.Empty(t, problems)
	s := prepare(t, p, vmOf(id), "op-1")
	ctx, cancel := context.WithCancel(bounded(t))
	done := make(chan error, 1)
	go func() {
		_, err := s.Take(ctx)
		done <- err
	}()
	require.Eventually(t, func() bool { n, _ := c.Count(); return n == 1 }, limit, time.Millisecond)
	problems, err = p.Check(bounded(t), []hypervisor.VM{vmOf(id)})
	require.NoError(t, err)
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].Text, "under way")
	cancel()
	var unknown *hypervisor.UnknownError
	require.ErrorAs(t, <-done, &unknown, "it was accepted, and nobody knows about its moment")
}

func TestCheck_WhoIsNotLetInOrHeard_IsToldApart(t *testing.T) {
	c := start(t)
	problems, err := open(t, c, func(cfg *Config) { cfg.Password = "falsches" }).Check(bounded(t), nil)
	require.NoError(t, err)
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].Text, "refuses the login")
	problems, err = open(t, c, func(cfg *Config) { cfg.Region = "Elsewhere" }).Check(bounded(t), nil)
	require.NoError(t, err)
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].Text, "catalog has no compute")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	_, err = open(t, c, func(cfg *Config) { cfg.AuthURL = "https://" + listener.Addr().String() }).Check(bounded(t), nil)
	require.ErrorContains(t, err, "does not answer")
	_, err = open(t, c, func(cfg *Config) { cfg.CA = nil }).Check(bounded(t), nil)
	require.ErrorContains(t, err, "certificate")
}

func TestOpen_BadConfig_NamesTheField(t *testing.T) {
	good := Config{AuthURL: "https://x/v3", User: "u", Password: "p", Project: "q"}
	for want, change := range map[string]func(*Config){
		"auth url": func(c *Config) { c.AuthURL = "x" }, "project": func(c *Config) { c.Project = "" }, "secret": func(c *Config) { c.CredentialID = "x" }, "CA": func(c *Config) { c.CA = []byte("x") },
	} {
		cfg := good
		change(&cfg)
		_, err := Open(cfg)
		require.ErrorContains(t, err, want)
	}
}

func TestChanges_NobodyKnows_AreUnknownAndRefusalsAreNot(t *testing.T) {
	rollback := func(p *Provider, vm hypervisor.VM) error { return p.Rollback(bounded(t), vm, "op-1") }
	for _, a := range []struct {
		call string
		f    hypervisortest.RequestFault
		do   func(p *Provider, vm hypervisor.VM) error
	}{
		{"revert", hypervisortest.RequestFault{Kind: hypervisortest.Unheard}, rollback},
		{"DELETE snapshots", hypervisortest.RequestFault{Status: 503}, func(p *Provider, vm hypervisor.VM) error { return p.Delete(bounded(t), vm, "op-1") }},
		{"os-start", hypervisortest.RequestFault{Status: 500}, func(p *Provider, vm hypervisor.VM) error { return p.Start(bounded(t), vm) }},
		{"GET servers", hypervisortest.RequestFault{Status: 429}, rollback},
	} {
		c := start(t)
		p := open(t, c)
		vm := vmOf(c.Server("core", false, "/dev/vda"))
		take(t, p, vm, "op-1")
		stop(t, p, vm)
		t.Run(a.call, func(t *testing.T) {
			t.Parallel() // each waits between its attempts
			var unknown *hypervisor.UnknownError
			a.f.Call, a.f.Times = a.call, 1<<20
			c.Fault(a.f)
			err := a.do(p, vm)
			require.ErrorAs(t, err, &unknown)
			require.ErrorContains(t, err, "core: ")
			require.NotContains(t, err.Error(), "\n")
			c.ClearFaults()
			c.Fault(hypervisortest.RequestFault{Call: a.call, Times: 1 << 20, Status: 403})
			err = a.do(p, vm)
			require.ErrorContains(t, err, "403")
			require.False(t, errors.As(err, &unknown), "asking again would not help: %v", err)
		})
	}
	var unknown *hypervisor.UnknownError
	err := open(t, start(t)).Rollback(bounded(t), vmOf("gone"), "op-1")
	require.Error(t, err)
	require.False(t, errors.As(err, &unknown))
}
