package ec2

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/ec2/ec2test"
	"github.com/katoflow/katoflow/internal/hypervisor/hypervisortest"
)

const always = 1 << 20

// rolledBack is an instance that went back to op-1 and ran since; it is stopped. old and made are the volumes at /dev/sdb before and since.
func rolledBack(t *testing.T, c *ec2test.Cloud, p *Provider) (id, old, made string) {
	t.Helper()
	id = captured(t, c, p)
	stop(t, p, vmOf(id))
	old, _ = c.Attached(id, "/dev/sdb")
	require.NoError(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
	made, _ = c.Attached(id, "/dev/sdb")
	require.NoError(t, p.Start(bounded(t), vmOf(id)))
	awaitPower(t, p, vmOf(id), hypervisor.On)
	c.Write(id, "/dev/sdb", "after the rollback")
	stop(t, p, vmOf(id))
	return id, old, made
}

func TestDelete_VolumesThatWereInUse_Stay(t *testing.T) {
	for name, by := range map[string]func(c *ec2test.Cloud, id, old, made string) (kept []string){
		"the new one was detached": func(c *ec2test.Cloud, id, _, made string) []string {
			c.Attach(id, "/dev/sdb")
			return []string{made}
		},
		"the old one was put back and detached again": func(c *ec2test.Cloud, id, old, made string) []string {
			c.Place(id, "/dev/sdb", old)
			c.Write(id, "/dev/sdb", "by the old volume")
			c.Attach(id, "/dev/sdb")
			return []string{old, made}
		},
		"the old one was put back": func(c *ec2test.Cloud, id, old, made string) []string {
			c.Place(id, "/dev/sdb", old)
			return []string{old, made}
		},
		"the instance was terminated": func(c *ec2test.Cloud, id, old, made string) []string {
			c.Remove(id)
			return []string{old, made}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t)
			p := open(t, c)
			id, old, made := rolledBack(t, c, p)
			kept := by(c, id, old, made)
			for range 2 {
				require.NoError(t, p.Delete(bounded(t), vmOf(id), "op-1"))
			}
			require.Empty(t, c.Snapshots())
			for _, volume := range kept {
				require.Contains(t, c.Volumes(), volume)
			}
		})
	}
}

func TestDelete_RollbackStoppedHalfWay_IsRefusedUntilItIsFinished(t *testing.T) {
	for _, action := range []string{"CreateTags", "AttachVolume"} {
		t.Run(action, func(t *testing.T) {
			c := start(t)
			p := open(t, c)
			id := captured(t, c, p)
			stop(t, p, vmOf(id))
			old, _ := c.Attached(id, "/dev/sda1")
			skip := 0
			if action == "CreateTags" {
				skip = 1 // that of the new volume, when the old one is detached
			}
			c.Fault(hypervisortest.RequestFault{Call: action, Skip: skip, Times: 1, Code: "OperationNotPermitted"})
			require.Error(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
			at, _ := c.Attached(id, "/dev/sda1")
			require.Empty(t, at)
			snapshots, volumes := c.Snapshots(), c.Volumes()
			err := p.Delete(bounded(t), vmOf(id), "op-1")
			require.ErrorContains(t, err, "core: ")
			require.ErrorContains(t, err, "unfinished at /dev/sda1")
			require.ErrorContains(t, err, "roll back again, or attach volume "+old)
			require.Equal(t, snapshots, c.Snapshots())
			require.Equal(t, volumes, c.Volumes())

			require.NoError(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
			requireRolledBack(t, c, id)
			require.NoError(t, p.Delete(bounded(t), vmOf(id), "op-1"))
			require.Len(t, c.Volumes(), 2)
			requireRolledBack(t, c, id)
		})
	}
}

func TestDelete_RollbackStoppedBetweenTwoDisks_IsRefusedUntilItIsFinished(t *testing.T) {
	for name, before := range map[string]func(*testing.T, *ec2test.Cloud, *Provider) string{
		"the first": func(t *testing.T, c *ec2test.Cloud, p *Provider) string {
			id := captured(t, c, p)
			stop(t, p, vmOf(id))
			return id
		},
		"the second": func(t *testing.T, c *ec2test.Cloud, p *Provider) string {
			id, _, _ := rolledBack(t, c, p)
			return id
		},
		"after one to another set": func(t *testing.T, c *ec2test.Cloud, p *Provider) string {
			id := captured(t, c, p)
			take(t, p, vmOf(id), "op-2")
			stop(t, p, vmOf(id))
			require.NoError(t, p.Rollback(bounded(t), vmOf(id), "op-2"))
			return id
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t)
			p := open(t, c)
			id := before(t, c, p)
			snapshots := c.Snapshots()
			still, _ := c.Attached(id, "/dev/sdb")
			c.Fault(hypervisortest.RequestFault{Call: "DetachVolume", Skip: 1, Times: 1, Code: "OperationNotPermitted"})
			require.Error(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
			volumes := c.Volumes()
			err := p.Delete(bounded(t), vmOf(id), "op-1")
			require.ErrorContains(t, err, "unfinished at /dev/sdb, where volume "+still+" is still attached")
			require.Equal(t, volumes, c.Volumes())
			require.Equal(t, snapshots, c.Snapshots())

			require.NoError(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
			requireRolledBack(t, c, id)
			require.NoError(t, p.Delete(bounded(t), vmOf(id), "op-1"))
			require.NoError(t, p.Delete(bounded(t), vmOf(id), "op-2"))
			require.Len(t, c.Volumes(), 2)
		})
	}
}

// A rollback that has made its volumes only, and taken nothing away, leaves nothing to finish.
func TestDelete_RollbackStoppedBeforeTheFirstDisk_DeletesWhatItMade(t *testing.T) {
	c := start(t)
	p := open(t, c)
	id, _, _ := rolledBack(t, c, p)
	c.Fault(hypervisortest.RequestFault{Call: "CreateTags", Times: 1, Code: "OperationNotPermitted"})
	require.Error(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
	require.Len(t, c.Volumes(), 6)
	require.NoError(t, p.Delete(bounded(t), vmOf(id), "op-1"))
	require.Len(t, c.Volumes(), 2)
	require.Equal(t, "after the rollback", c.Content(id, "/dev/sdb"))
}

func TestDelete_DiskDetachedByHand_IsInNobodysWay(t *testing.T) {
	c := start(t)
	p := open(t, c)
	id := captured(t, c, p)
	disk, _ := c.Attached(id, "/dev/sdb")
	c.Detach(id, "/dev/sdb")
	require.NoError(t, p.Delete(bounded(t), vmOf(id), "op-1"))
	require.Empty(t, c.Snapshots())
	require.Contains(t, c.Volumes(), disk)
}

func TestRollback_VolumeThatWasWrittenTo_IsNotTakenForANewOne(t *testing.T) {
	for name, by := range map[string]func(c *ec2test.Cloud, id, old, made string){
		"detached, and the old one attached again": func(c *ec2test.Cloud, id, old, _ string) { c.Place(id, "/dev/sdb", old) },
		"detached and attached again": func(c *ec2test.Cloud, id, _, made string) {
			c.Detach(id, "/dev/sdb")
			c.Place(id, "/dev/sdb", made)
		},
		"detached": func(c *ec2test.Cloud, id, _, _ string) { c.Detach(id, "/dev/sdb") },
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t)
			p := open(t, c)
			id, old, made := rolledBack(t, c, p)
			by(c, id, old, made)
			require.NoError(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
			requireRolledBack(t, c, id)
			at, _ := c.Attached(id, "/dev/sdb")
			require.NotEqual(t, made, at)
		})
	}
}

// A volume that a rollback made and did not come to attach is attached to another instance by somebody.
func TestRollback_NewVolumeAttachedElsewhere_TakesAnother(t *testing.T) {
	for name, device := range map[string]string{"to another instance": "/dev/sdx", "at another device": "/dev/sdc"} {
		t.Run(name, func(t *testing.T) {
			c := start(t)
			p := open(t, c)
			id := captured(t, c, p)
			where := id
			if device == "/dev/sdx" {
				where = c.Instance("m5.large", "/dev/sda1")
			}
			before := c.Volumes()
			stop(t, p, vmOf(id))
			c.Fault(hypervisortest.RequestFault{Call: "CreateTags", Times: 1, Code: "OperationNotPermitted"})
			require.Error(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
			var made []string
			for _, volume := range c.Volumes() {
				if !slices.Contains(before, volume) && c.Tags(volume)["katoflow:device"] == "/dev/sdb" {
					made = append(made, volume)
				}
			}
			require.Len(t, made, 1)
			c.Place(where, device, made[0])
			c.Write(where, device, "somebody's")
			err := p.Rollback(bounded(t), vmOf(id), "op-1")
			if where == id { // it is in the way, too
				require.ErrorContains(t, err, "at /dev/sdc was attached after the snapshot")
				require.Empty(t, c.Calls("DetachVolume"))
				return
			}
			require.NoError(t, err)
			requireRolledBack(t, c, id)
			require.Equal(t, "somebody's", c.Content(where, device))
		})
	}
}

func TestRollback_NewVolumeThatFails_IsNamedAndAnotherTakenTheNextTime(t *testing.T) {
	c := start(t)
	c.Broken, c.Encrypted, c.Slow = 1, true, 30*time.Millisecond
	p := open(t, c)
	id := captured(t, c, p)
	stop(t, p, vmOf(id))
	before, _ := c.Attached(id, "/dev/sda1")
	err := p.Rollback(bounded(t), vmOf(id), "op-1")
	require.ErrorContains(t, err, "is error")
	require.ErrorContains(t, err, "is encrypted: allow kms:CreateGrant")
	after, _ := c.Attached(id, "/dev/sda1")
	require.Equal(t, before, after)
	require.NoError(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
	requireRolledBack(t, c, id)
	require.NoError(t, p.Delete(bounded(t), vmOf(id), "op-1"))
	require.Len(t, c.Volumes(), 2, "what failed goes, too")
}

func TestRollback_OtherTagsOfTheSiteThanBefore_MakesAnotherVolume(t *testing.T) {
	c := start(t)
	p := open(t, c)
	id := captured(t, c, p)
	stop(t, p, vmOf(id))
	c.Fault(hypervisortest.RequestFault{Call: "CreateVolume", Skip: 1, Times: 1, Code: "VolumeLimitExceeded"})
	require.Error(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
	for _, volume := range c.Volumes() { // EC2 does not show it, and knows its token
		if c.Tags(volume)["katoflow:source"] != "" {
			c.Unlist(volume)
		}
	}
	require.NoError(t, open(t, c, func(cfg *Config) { cfg.Tags = map[string]string{"a": "b"} }).Rollback(bounded(t), vmOf(id), "op-1"))
	requireRolledBack(t, c, id)
}

func TestRollback_InstanceStartedMeanwhile_StopsBeforeTheNextVolume(t *testing.T) {
	c := start(t)
	p := open(t, c)
	id := captured(t, c, p)
	stop(t, p, vmOf(id))
	was, err := p.instance(bounded(t), vmOf(id))
	require.NoError(t, err)
	require.NoError(t, p.Start(bounded(t), vmOf(id)))
	awaitPower(t, p, vmOf(id), hypervisor.On)
	for _, again := range []bool{false, true} {
		if again {
			stop(t, p, vmOf(id))
		}
		err = p.exchange(bounded(t), vmOf(id), was, "op-1", &disk{attachment: attachment{device: "/dev/sdb"}, volume: "vol-1"})
		require.ErrorContains(t, err, "was started meanwhile")
	}
	require.Empty(t, c.Calls("CreateTags"))
	require.Empty(t, c.Calls("DetachVolume"))
}

func TestRollback_VolumesShownLate_AreWaitedFor(t *testing.T) {
	c := start(t)
	c.Late = 3
	p := open(t, c, func(cfg *Config) { cfg.Settle = limit })
	id, _, made := rolledBack(t, c, p)
	c.Unlist(made)
	root, _ := c.Attached(id, "/dev/sda1")
	require.NoError(t, p.Rollback(bounded(t), vmOf(id), "op-1"), "a list does not show %s, and it is ours", made)
	requireRolledBack(t, c, id)
	require.Equal(t, "op-1", c.Tags(root)["katoflow:replaced"])
}

func TestPrepare_VolumeThatIsNotShown_IsAnErrorAndNotOfSomeKind(t *testing.T) {
	c := start(t)
	p := open(t, c)
	id := c.Instance("m5.large", "/dev/sda1")
	volume, _ := c.Attached(id, "/dev/sda1")
	c.Unlist(volume)
	s, err := p.Prepare(bounded(t), vmOf(id), "op-1")
	require.NoError(t, err, "it is shown to who names it")
	require.NoError(t, s.Close())
	c.Fault(hypervisortest.RequestFault{Call: "DescribeVolumes", Skip: 1, Times: always, Code: "InvalidVolume.NotFound"})
	_, err = p.Prepare(bounded(t), vmOf(id), "op-1")
	require.ErrorContains(t, err, "volume "+volume+" is attached at /dev/sda1, and ec2 does not show it")
}

func TestCheck_InstanceStoresThatAreNotTold_AreAProblem(t *testing.T) {
	c := start(t)
	p := open(t, c)
	id := captured(t, c, p)
	both := func() []hypervisor.Problem {
		t.Helper()
		problems, err := p.Check(bounded(t), []hypervisor.VM{vmOf(id)})
		require.NoError(t, err)
		more, err := p.CheckRollback(bounded(t), vmOf(id), "op-1", true)
		require.NoError(t, err)
		return append(problems, more...)
	}
	require.Empty(t, both())
	c.Fault(hypervisortest.RequestFault{Call: "DescribeInstanceTypes", Times: always, Code: "UnauthorizedOperation"})
	problems := both()
	require.Len(t, problems, 2)
	for _, problem := range problems {
		require.Contains(t, problem.Text, "allow ec2:DescribeInstanceTypes")
	}
	c.ClearFaults()
	c.Fault(ec2test.Throttle("DescribeInstanceTypes", always))
	_, err := p.Check(bounded(t), []hypervisor.VM{vmOf(id)})
	require.ErrorContains(t, err, "RequestLimitExceeded")
	_, err = p.CheckRollback(bounded(t), vmOf(id), "op-1", true)
	require.ErrorContains(t, err, "RequestLimitExceeded")
	c.ClearFaults()
	c.Stores["m5.large"] = true
	problems = both()
	require.Len(t, problems, 2)
	for _, problem := range problems {
		require.Contains(t, problem.Text, "has instance store volumes")
	}
}

func TestCheck_ListsThatAreRefused_AreProblems(t *testing.T) {
	for _, action := range []string{"DescribeVolumes", "DescribeSnapshots"} {
		c := start(t)
		p := open(t, c)
		id := c.Instance("m5.large", "/dev/sda1")
		c.Fault(hypervisortest.RequestFault{Call: action, Times: always, Code: "UnauthorizedOperation"})
		problems, err := p.Check(bounded(t), []hypervisor.VM{vmOf(id)})
		require.NoError(t, err)
		require.Len(t, problems, 1)
		require.Contains(t, problems[0].Text, "allow ec2:"+action)
	}
}

func TestChanges_NobodyKnowsOrThrottled_AreUnknownAndRefusalsAreNot(t *testing.T) {
	c := start(t)
	p := open(t, c)
	id := captured(t, c, p)
	stop(t, p, vmOf(id))
	calls := map[string]func(ctx context.Context) error{
		"CreateVolume":   func(ctx context.Context) error { return p.Rollback(ctx, vmOf(id), "op-1") },
		"DeleteSnapshot": func(ctx context.Context) error { return p.Delete(ctx, vmOf(id), "op-1") },
		"StartInstances": func(ctx context.Context) error { return p.Start(ctx, vmOf(id)) },
		"StopInstances":  func(ctx context.Context) error { return p.Stop(ctx, vmOf(id), true) },
	}
	var unknown *hypervisor.UnknownError
	for action, do := range calls {
		for name, f := range map[string]hypervisortest.RequestFault{
			"unheard": {Kind: hypervisortest.Unheard}, "throttled": ec2test.Throttle("", 0), "server error": {Code: "InternalError", Status: 500},
		} {
			f.Call, f.Times = action, always
			c.Fault(f)
			err := do(bounded(t))
			require.ErrorAs(t, err, &unknown, "%s %s", action, name)
			require.ErrorContains(t, err, "core: ")
			require.NotContains(t, err.Error(), "\n")
			c.ClearFaults()
		}
		c.Fault(hypervisortest.RequestFault{Call: action, Times: always, Code: "UnauthorizedOperation"})
		err := do(bounded(t))
		require.ErrorContains(t, err, "UnauthorizedOperation")
		require.False(t, errors.As(err, &unknown), "%s", action)
		c.ClearFaults()
	}
	err := open(t, c).Rollback(bounded(t), vmOf(c.Instance("m5.large", "/dev/sda1")), "op-1")
	require.ErrorContains(t, err, "not stopped")
	require.False(t, errors.As(err, &unknown))
	c.Fault(hypervisortest.RequestFault{Call: "CreateVolume", Times: 1, Code: "VolumeLimitExceeded"})
	require.ErrorContains(t, p.Rollback(bounded(t), vmOf(id), "op-1"), "/dev/sda1: make a volume of ", "what EC2 said does not hide where")
}

func TestTake_OtherVolumesThanPrepared_IsFailedAndDeleted(t *testing.T) {
	for name, by := range map[string]func(c *ec2test.Cloud, id string){
		"one more":    func(c *ec2test.Cloud, id string) { c.Attach(id, "/dev/sdc") },
		"one swapped": func(c *ec2test.Cloud, id string) { c.Attach(id, "/dev/sdb") },
		"one less":    func(c *ec2test.Cloud, id string) { c.Detach(id, "/dev/sdb") },
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t)
			p := open(t, c, func(cfg *Config) { cfg.Settle = time.Nanosecond })
			id := c.Instance("m5.large", "/dev/sda1", "/dev/sdb")
			s := prepare(t, p, vmOf(id), "op-1")
			by(c, id)
			made, err := s.Take(bounded(t))
			require.NoError(t, err)
			require.Equal(t, hypervisor.Failed, made.State)
			found, ok, err := p.Find(bounded(t), vmOf(id), "op-1")
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, hypervisor.Failed, found.State)
			require.NoError(t, p.Delete(bounded(t), vmOf(id), "op-1"))
			require.Empty(t, c.Snapshots())
		})
	}
}

func TestSets_CopiesThatTheSiteMade_AreLeftAlone(t *testing.T) {
	c := start(t)
	p := open(t, c)
	id := captured(t, c, p)
	before, _, err := p.Find(bounded(t), vmOf(id), "op-1")
	require.NoError(t, err)
	copied := c.Copy(c.Snapshots()[0])
	found, ok, err := p.Find(bounded(t), vmOf(id), "op-1")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, before, found)
	stop(t, p, vmOf(id))
	require.NoError(t, p.Rollback(bounded(t), vmOf(id), "op-1"))
	requireRolledBack(t, c, id)
	require.NoError(t, p.Delete(bounded(t), vmOf(id), "op-1"))
	require.Equal(t, []string{copied}, c.Snapshots())
}

func TestTake_EverySending_HasATagOfItsOwn(t *testing.T) {
	c := start(t)
	p := open(t, c)
	s := prepare(t, p, vmOf(c.Instance("m5.large", "/dev/sda1")), "op-1")
	c.Fault(hypervisortest.RequestFault{Call: "CreateSnapshots", Times: 1, Code: "InternalError", Status: 500})
	_, err := s.Take(bounded(t))
	require.Error(t, err)
	_, err = s.Take(bounded(t))
	require.NoError(t, err)
	requests := map[string]bool{}
	for _, call := range c.Calls("CreateSnapshots") {
		for key, values := range call.Form {
			if values[0] == "katoflow:request" {
				requests[call.Form.Get(strings.TrimSuffix(key, "Key")+"Value")] = true
			}
		}
	}
	require.Len(t, requests, 2)
}

func TestView_SetThatLacksSnapshots_GoesByTheCloudsClock(t *testing.T) {
	for name, skew := range map[string]time.Duration{"ahead": 24 * time.Hour, "behind": -24 * time.Hour} {
		for want, settle := range map[hypervisor.State]time.Duration{hypervisor.Pending: limit, hypervisor.Failed: time.Nanosecond} {
			t.Run(name+" "+string(want), func(t *testing.T) {
				c := start(t)
				c.Skew = skew
				p := open(t, c)
				id := captured(t, c, p)
				c.Drop(c.Snapshots()[0])
				found, _, err := open(t, c, func(cfg *Config) { cfg.Settle = settle }).Find(bounded(t), vmOf(id), "op-1")
				require.NoError(t, err)
				require.Equal(t, want, found.State)
			})
		}
	}
}

func TestPrepare_YoungSnapshotOfAVolume_IsWaitedFor(t *testing.T) {
	c := start(t)
	c.Spacing = time.Second / 2
	id := c.Instance("m5.large", "/dev/sda1", "/dev/sdb")
	spaced := func(cfg *Config) { cfg.Spacing = time.Second }
	p := open(t, c, spaced)
	take(t, p, vmOf(id), "op-1")
	take(t, open(t, c, spaced), vmOf(id), "op-2") // somebody else's, of the volume
	c.Drop(c.Snapshots()...)
	take(t, p, vmOf(id), "op-3")

	c.Hidden = always
	take(t, p, vmOf(id), "op-4")
	take(t, p, vmOf(id), "op-5") // which EC2 does not show yet
}

func TestTake_RateOfTheVolume_SaysWhatToDo(t *testing.T) {
	c := start(t)
	c.Spacing = time.Hour
	id := c.Instance("m5.large", "/dev/sda1")
	take(t, open(t, c), vmOf(id), "op-1")
	_, err := prepare(t, open(t, c), vmOf(id), "op-2").Take(bounded(t))
	require.ErrorContains(t, err, "SnapshotCreationPerVolumeRateExceeded")
	require.ErrorContains(t, err, "wait 15 seconds")
	ctx, cancel := context.WithTimeout(bounded(t), 50*time.Millisecond)
	defer cancel()
	_, err = open(t, c, func(cfg *Config) { cfg.Spacing = limit }).Prepare(ctx, vmOf(id), "op-2")
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestDelete_OfPendingSnapshots_IsOverForUsAndCountsForEC2(t *testing.T) {
	c := start(t)
	c.Copying = -1
	id := c.Instance("m5.large", "/dev/sda1")
	p, other := open(t, c), open(t, c)
	for _, name := range []string{"op-1", "op-2", "op-3", "op-4", "op-5"} {
		take(t, p, vmOf(id), name)
		require.NoError(t, p.Delete(bounded(t), vmOf(id), name))
		for _, x := range []*Provider{p, other} {
			_, ok, err := x.Find(bounded(t), vmOf(id), name)
			require.NoError(t, err)
			require.False(t, ok)
			list, err := x.List(bounded(t), vmOf(id), "op-")
			require.NoError(t, err)
			require.Empty(t, list)
		}
	}
	require.Len(t, c.Snapshots(), 5)
	_, err := prepare(t, p, vmOf(id), "op-6").Take(bounded(t))
	require.ErrorContains(t, err, "ConcurrentSnapshotLimitExceeded")
	require.ErrorContains(t, err, "deleted meanwhile count")
	c.Complete(false)
	require.Empty(t, c.Snapshots())
	take(t, p, vmOf(id), "op-6")
}

func TestDelete_OfPendingSnapshotsThatMayNotBeTagged_IsOverForThisProvider(t *testing.T) {
	c := start(t)
	c.Copying = -1
	id := c.Instance("m5.large", "/dev/sda1")
	p := open(t, c)
	take(t, p, vmOf(id), "op-1")
	c.Fault(hypervisortest.RequestFault{Call: "CreateTags", Times: always, Code: "UnauthorizedOperation"})
	require.NoError(t, p.Delete(bounded(t), vmOf(id), "op-1"))
	_, ok, err := p.Find(bounded(t), vmOf(id), "op-1")
	require.NoError(t, err)
	require.False(t, ok)
}

func TestFind_SnapshotsOfAGoodAnswerThatAreShownLate_AreThereAndDeleted(t *testing.T) {
	c := start(t)
	c.Hidden = always
	id := c.Instance("m5.large", "/dev/sda1", "/dev/sdb")
	p := open(t, c, func(cfg *Config) { cfg.Settle = limit })
	made := take(t, p, vmOf(id), "op-1")
	found, ok, err := p.Find(bounded(t), vmOf(id), "op-1")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, made, found)
	list, err := p.List(bounded(t), vmOf(id), "op-")
	require.NoError(t, err)
	require.Equal(t, []hypervisor.Snapshot{made}, list)
	_, ok, err = p.Find(bounded(t), vmOf(c.Instance("m5.large", "/dev/sda1")), "op-1")
	require.NoError(t, err)
	require.False(t, ok)
	require.NoError(t, p.Delete(bounded(t), vmOf(id), "op-1"))
	require.Empty(t, c.Snapshots())
	_, ok, err = p.Find(bounded(t), vmOf(id), "op-1")
	require.NoError(t, err)
	require.False(t, ok)
}

func TestPlan_TwoSnapshotsOfOneDevice_AreNamed(t *testing.T) {
	c := start(t)
	p := open(t, c)
	id := captured(t, c, p)
	i, err := p.instance(bounded(t), vmOf(id))
	require.NoError(t, err)
	sets, err := p.sets(bounded(t), vmOf(id), "op-1")
	require.NoError(t, err)
	_, hindrances, err := p.plan(bounded(t), i, sets[0])
	require.NoError(t, err)
	require.Empty(t, hindrances)
	twice := sets[0].snapshots[0]
	twice.SnapshotId = aws.String("snap-2")
	sets[0].snapshots = append(sets[0].snapshots, twice)
	require.False(t, sets[0].complete())
	_, hindrances, err = p.plan(bounded(t), i, sets[0])
	require.NoError(t, err)
	require.Len(t, hindrances, 1)
	require.Contains(t, hindrances[0], "two snapshots are of the volume at /dev/sda1")
}

func TestOpen_AvailabilityZone_SaysTheRegion(t *testing.T) {
	_, err := Open(Config{Region: "us-gov-west-1b", AccessKey: "x", SecretKey: "y"})
	require.ErrorContains(t, err, "write its region us-gov-west-1")
}

// A volume that lacks the tag with its device was made by something that wrote no katoflow:used either: whether it was in use is unknown.
func TestSpare_VolumeWithoutItsDevice_Stays(t *testing.T) {
	tag := func(key, value string) types.Tag { return types.Tag{Key: &key, Value: &value} }
	v := types.Volume{State: types.VolumeStateAvailable, Tags: []types.Tag{tag(tagSnapshot, "op-1"), tag(tagSource, "snap-1")}}
	require.False(t, spare(v, "op-1", nil))
	v.Tags = append(v.Tags, tag(tagDevice, "/dev/sdb"))
	require.True(t, spare(v, "op-1", nil))
	v.Tags = append(v.Tags, tag(tagUsed, "2026-01-02T03:04:05Z"))
	require.False(t, spare(v, "op-1", nil))
}
