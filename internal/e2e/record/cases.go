package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/katoflow/katoflow/internal/e2e/harness"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/simcluster"
	"github.com/katoflow/katoflow/internal/simcluster/cloudcontroller"
	"github.com/katoflow/katoflow/internal/simcluster/katodouble"
)

// scenario is one way an operation can go, on a cluster of its own: plain nodes a, b and c, or the five nodes of simcluster.DefaultNodes.
type scenario struct {
	name        string
	als         bool
	upgradeTime time.Duration
	inventory   string // more lines for the cluster
	// impatient clusters wait 2 s for gates and nodes instead of 30 s.
	impatient bool
	faults    func(*simcluster.Cluster)
	args      []string // of the command
	// backup is an export by `katoflow backup create` on an ALS cluster with a bucket, instead of a rolling security upgrade.
	backup bool
	// restore is an import by `katoflow backup restore` of an archive that is made before; backup is set, too.
	restore bool
	// rehearse is a rehearsal of such an archive in a second cluster, named by second; fromHost an import of that running cluster. backup is set, too.
	rehearse, fromHost bool
	// earlier: the name of the second cluster comes before the first's.
	earlier bool
	// apps is restart or redeploy: an operation on the apps of an ALS cluster.
	apps string
	// image is an upgrade of the docker base image; again does it after another one. registry and autoscaling are as they say.
	image, again, autoscaling bool
	// patch is install, revert or reinstall: an operation on kato's patches.
	patch string
	// access is grant or revoke: an operation on logins by SSH key.
	access string
	// storage is relocate, enable or disable: a relocation, or quotas.
	storage string
	// release is an upgrade to another release, without anything made before unless backup is set, too.
	release bool
	// snapshot is a set of snapshots of an ALS cluster with a hypervisor; backup is set, too, for its bucket.
	snapshot bool
	// freezes: the nodes have a file system each that is frozen for snapshots.
	freezes bool
	// rollback goes back to a set that is taken before; snapshot is set, too.
	rollback bool
	// window: the operation begins before a maintenance window that opens within 75 s.
	window bool
	// prepare sets faults for what comes after the set was taken.
	prepare func(*simcluster.Cluster)
	// input starts it without the CLI, which would refuse it.
	input  *operation.SecurityUpgradeInput
	script func(*recording)
	// phase in which the operation must be at the end of the script; "" for one that script itself has checked.
	phase string
}

// cases are all of them. Every branch of the workflows that leaves another kind of trace in a history should be in one.
func cases() []scenario {
	fail := func(node, command string, times int) func(*simcluster.Cluster) {
		return func(c *simcluster.Cluster) { c.Node(node).FailCommand(command, times, 1, "E: it is broken") }
	}
	return []scenario{
		{name: "als-maintenance-retire", als: true, args: []string{"--maintenance"}, phase: operation.PhaseDone,
			inventory: "    notify: {command: [\"true\"]}\n"},
		{name: "plain", phase: operation.PhaseDone},
		{name: "window-awaited-maintenance", als: true, window: true, args: []string{"--maintenance", "--nodes", "mysql-1"}, phase: operation.PhaseDone,
			script: func(r *recording) {
				r.until("the window to open", func(p operation.Report) bool { return p.Finished() || strings.Contains(p.Window, "open until") })
			}},
		{name: "window-cancelled", window: true, phase: operation.PhaseCancelled,
			script: func(r *recording) {
				r.until("the window to be waited for", func(p operation.Report) bool {
					return strings.Contains(p.Message, "waiting for the maintenance window")
				})
				r.katoflow("op", "cancel", r.workflow, "--detach")
			}},
		{name: "reboot-never", args: []string{"--reboot", "never"}, phase: operation.PhaseDone},
		{name: "reboot-if-required", args: []string{"--reboot", "if-required", "--nodes", "a,b"}, phase: operation.PhaseDone},
		{name: "parked-retried", faults: fail("b", "unattended-upgrades", 1), phase: operation.PhaseDone,
			inventory: "    notify: {command: [\"false\"], \"on\": [parked]}\n",
			script:    func(r *recording) { r.answer("b", operation.Retry) }},
		{name: "parked", faults: fail("b", "unattended-upgrades", -1), phase: operation.PhaseBlocked,
			script: func(r *recording) { r.question("b") }},
		{name: "skipped-degraded", impatient: true, phase: operation.PhaseFailed,
			faults: func(c *simcluster.Cluster) {
				c.Node("b").FailCommand("unattended-upgrades", 1, 1, "E: it is broken")
			},
			script: func(r *recording) {
				r.question("b")
				r.cluster.Node("b").DegradeSystem(true)
				r.answer("b", operation.Skip)
				r.answer("b", operation.Wait)
				r.answer("b", operation.Degraded)
			}},
		{name: "cluster-gates-degraded", impatient: true, phase: operation.PhaseDone, upgradeTime: 700 * time.Millisecond,
			script: func(r *recording) {
				r.working("b", "unattended-upgrades")
				r.cluster.Node("a").DegradeSystem(true)
				r.answer(operation.ClusterNode, operation.Retry)
				r.answer(operation.ClusterNode, operation.Degraded)
			}},
		{name: "aborted", faults: fail("b", "unattended-upgrades", 1), phase: operation.PhaseAborted,
			script: func(r *recording) { r.answer("b", operation.Abort) }},
		{name: "max-failures", faults: fail("a", "unattended-upgrades", 1), args: []string{"--max-failures", "1"}, phase: operation.PhaseFailed},
		{name: "deadline", faults: fail("b", "unattended-upgrades", 1), args: []string{"--answer-within", "1s", "--on-deadline", "skip"}, phase: operation.PhaseFailed},
		{name: "never-returned-retried", impatient: true, phase: operation.PhaseDone,
			faults: func(c *simcluster.Cluster) { c.Node("b").NeverReturn(true) },
			script: func(r *recording) {
				r.question("b")
				r.cluster.Node("b").NeverReturn(false)
				r.cluster.Node("b").PowerOn()
				r.answer("b", operation.Retry)
			}},
		{name: "repaired", upgradeTime: 700 * time.Millisecond, phase: operation.PhaseDone,
			script: func(r *recording) {
				r.working("b", "unattended-upgrades")
				r.cluster.Node("b").RebootNow()
			}},
		{name: "cancelled-in-mid-upgrade", upgradeTime: 700 * time.Millisecond, phase: operation.PhaseCancelled,
			script: func(r *recording) {
				r.working("b", "unattended-upgrades")
				r.katoflow("op", "cancel", r.workflow, "--detach")
			}},
		{name: "cancelled-while-parked", faults: fail("b", "unattended-upgrades", 1), phase: operation.PhaseCancelled,
			script: func(r *recording) {
				r.question("b")
				r.katoflow("op", "cancel", r.workflow, "--detach")
			}},
		{name: "cancelled-unreachable-left", impatient: true, upgradeTime: time.Second, phase: operation.PhaseCancelled,
			script: func(r *recording) {
				r.working("b", "unattended-upgrades")
				r.cluster.Node("b").PowerOff()
				r.katoflow("op", "cancel", r.workflow, "--detach")
				r.answer("b", operation.Wait)
				r.answer("b", operation.Leave)
			}},
		{name: "apps-restart", als: true, apps: "restart", args: []string{"--all", "--apps-at-once", "2"}, phase: operation.PhaseDone,
			script: func(r *recording) {
				r.ended(r.workflow)
				id := operation.WorkflowID(r.name, operation.KindAppsList, "1")
				r.do(func(ctx context.Context) error {
					run, err := r.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: id, TaskQueue: r.Queue}, operation.WorkflowAppsList, operation.AppsListInput{Cluster: r.name, Instances: true})
					if err != nil {
						return err
					}
					return run.Get(ctx, nil)
				})
				r.keep(operation.KindAppsList, id, "")
			}},
		{name: "apps-redeploy-failed", als: true, apps: "redeploy", args: []string{"--all", "--apps-at-once", "50", "--app-timeout", "2s"}, phase: operation.PhaseFailed,
			faults: func(c *simcluster.Cluster) {
				guids := c.Controller().FillMany(120)
				c.Controller().FailApp(guids[3], cloudcontroller.InstancesCrash, -1)
				c.Controller().FailApp(guids[7], cloudcontroller.AppDeleted, -1)
			},
			script: func(r *recording) { r.ended(r.workflow) }},
		{name: "apps-left-stopped-retried", als: true, apps: "restart", args: []string{"broken/*/*"}, phase: operation.PhaseDone,
			faults: func(c *simcluster.Cluster) {
				c.Controller().FailApp(c.Controller().AddApp("broken", "dev", cloudcontroller.App{Name: "a"}), cloudcontroller.StartRefused, 1)
			},
			script: func(r *recording) { r.answer(operation.ClusterNode, operation.Retry) }},
		{name: "apps-paused-then-cancelled", als: true, apps: "restart", args: []string{"--all", "--apps-at-once", "2"}, phase: operation.PhaseCancelled,
			faults: func(c *simcluster.Cluster) {
				c.Controller().FillMany(30)
				c.Controller().StartTime(300*time.Millisecond, 0)
			},
			script: func(r *recording) {
				r.do(func(context.Context) error {
					return harness.WaitFor(patience, "apps being restarted", func() (bool, error) { return r.cluster.Controller().Count("PUT", "/v2/apps") > 4, nil })
				})
				r.katoflow("op", "pause", r.workflow)
				r.katoflow("op", "cancel", r.workflow, "--detach")
			}},
		{name: "apps-window-awaited", als: true, apps: "restart", window: true, args: []string{"--all"}, phase: operation.PhaseDone,
			script: func(r *recording) {
				r.until("the window to open", func(p operation.Report) bool { return p.Finished() || strings.Contains(p.Window, "open until") })
			}},
		{name: "apps-dry-run", als: true, apps: "redeploy", args: []string{"--all", "--dry-run"}, phase: operation.PhaseDone},
		{name: "apps-refused", als: true, apps: "restart", args: []string{"nobody/*/*"}, phase: operation.PhaseFailed},
		{name: "image", als: true, image: true, phase: operation.PhaseDone},
		{name: "image-again", als: true, image: true, again: true, args: []string{"--batch", "2", "--canary=false"}, phase: operation.PhaseDone},
		{name: "image-rollback", als: true, image: true, again: true, args: []string{"--rollback"}, phase: operation.PhaseDone},
		{name: "image-registry-restart-apps", als: true, image: true, args: []string{"--registry", "registry.example.com:5000/stack-alsek", "--restart-apps"}, phase: operation.PhaseDone},
		{name: "image-autoscaling-left", als: true, image: true, autoscaling: true, phase: operation.PhaseDone,
			script: func(r *recording) { r.answer("cluster", operation.Retry); r.answer("cluster", operation.Skip) }},
		{name: "image-build-failed-retried", als: true, image: true, faults: fail("dea-2", "docker build", 1), phase: operation.PhaseDone,
			script: func(r *recording) { r.answer("dea-2", operation.Retry) }},
		{name: "image-broken-retried", als: true, image: true, faults: func(c *simcluster.Cluster) { c.Node("dea-1").Docker().BreakImages(true) }, phase: operation.PhaseDone,
			script: func(r *recording) {
				r.question("dea-1")
				r.cluster.Node("dea-1").Docker().BreakImages(false)
				r.answer("dea-1", operation.Retry)
			}},
		{name: "image-cancelled-in-the-build", als: true, image: true, faults: func(c *simcluster.Cluster) { c.Node("dea-1").SlowCommand("docker build", 1, 3*time.Second) }, phase: operation.PhaseCancelled,
			script: func(r *recording) {
				r.working("dea-1", "docker")
				r.katoflow("op", "cancel", r.workflow, "--detach")
			}},
		{name: "image-dry-run", als: true, image: true, args: []string{"--dry-run"}, phase: operation.PhaseDone},
		{name: "image-refused", als: true, image: true, faults: func(c *simcluster.Cluster) { c.Node("dea-1").Docker().SetDaemonDown(true) }, phase: operation.PhaseFailed},
		{name: "patch-install", als: true, patch: "install", args: []string{"--batch", "2"}, phase: operation.PhaseDone, faults: patches("dea-2", katodouble.PatchesPatch{Install: allPatches()}), script: (*recording).patchStatus},
		{name: "patch-failed-retried", als: true, patch: "install", args: []string{"dea-memory-usage-reporting", "--no-restart"}, faults: patches("dea-1", katodouble.PatchesPatch{Fault: new(katodouble.PatchSilent), Times: new(1)}), phase: operation.PhaseDone,
			script: func(r *recording) { r.answer("dea-1", operation.Retry) }},
		{name: "patch-rebooted-in-the-middle", als: true, patch: "install", args: []string{"--local", "dea-1"}, faults: patches("dea-1", katodouble.PatchesPatch{Seconds: new(1.0)}), phase: operation.PhaseDone,
			script: func(r *recording) {
				r.working("dea-1", "kato")
				r.cluster.Node("dea-1").RebootNow()
			}},
		{name: "patch-cancelled", als: true, patch: "install", faults: patches("dea-1", katodouble.PatchesPatch{Seconds: new(1.0)}), phase: operation.PhaseCancelled,
			script: func(r *recording) {
				r.working("dea-1", "kato")
				r.katoflow("op", "cancel", r.workflow, "--detach")
			}},
		{name: "patch-revert", als: true, patch: "revert", args: []string{"--all"}, faults: patches("dea-1", katodouble.PatchesPatch{Install: allPatches()}), phase: operation.PhaseDone},
		{name: "patch-dry-run", als: true, patch: "install", args: []string{"--dry-run"}, phase: operation.PhaseDone},
		{name: "patch-refused", als: true, patch: "install", args: []string{"no-such-fix"}, phase: operation.PhaseFailed},
		{name: "access-grant", als: true, access: "grant", phase: operation.PhaseDone, faults: onlyOperator("dea-1"), script: (*recording).accessCheck},
		{name: "access-passwords-off", als: true, access: "grant", args: []string{"--disable-passwords"}, phase: operation.PhaseDone},
		{name: "access-asked-retried", als: true, access: "grant", phase: operation.PhaseDone, faults: func(c *simcluster.Cluster) {
			onlyOperator("dea-1")(c)
			c.Node("dea-1").ReadOnlyHome(true)
		}, script: func(r *recording) {
			r.until("a question", func(report operation.Report) bool { return len(report.Questions) > 0 })
			r.cluster.Node("dea-1").ReadOnlyHome(false)
			r.answer("dea-1", operation.Retry)
		}},
		{name: "access-cancelled-in-a-trial", als: true, access: "grant", args: []string{"--disable-passwords", "--nodes", "dea-1"}, phase: operation.PhaseCancelled,
			faults: func(c *simcluster.Cluster) { c.Node("dea-1").BreakKeyLoginsOnReload(true) }, script: func(r *recording) {
				r.until("a trial", func(operation.Report) bool {
					_, err := r.cluster.Node("dea-1").ReadFile("/etc/ssh/sshd_config.katoflow-trial")
					return err == nil
				})
				r.katoflow("op", "cancel", r.workflow, "--detach")
			}},
		{name: "access-revoke", als: true, access: "revoke", args: []string{"--restore-passwords"}, phase: operation.PhaseDone},
		{name: "access-dry-run", als: true, access: "grant", args: []string{"--disable-passwords", "--dry-run"}, phase: operation.PhaseDone},
		{name: "access-refused", als: true, access: "grant", args: []string{"--disable-passwords"}, phase: operation.PhaseFailed, faults: func(c *simcluster.Cluster) { c.Node("dea-1").SudoPassword(true) }},
		{name: "relocate", als: true, storage: "relocate", args: []string{"--node", "dea-1", "--services", "/mnt/quota/s", "--containers", "/mnt/quota/c", "--maintenance"}, phase: operation.PhaseDone},
		{name: "relocate-failed-retried", als: true, storage: "relocate", args: []string{"--node", "mysql-1", "--services", "/mnt/quota/s", "--keep-source"}, phase: operation.PhaseDone,
			faults: relocations("mysql-1", katodouble.RelocatePatch{Fault: new(katodouble.RelocateHalf), Times: new(1)}), script: func(r *recording) { r.answer("mysql-1", operation.Retry) }},
		{name: "relocate-silent-aborted", als: true, storage: "relocate", args: []string{"--node", "mysql-1", "--services", "/mnt/quota/s"}, phase: operation.PhaseAborted,
			faults: relocations("mysql-1", katodouble.RelocatePatch{Fault: new(katodouble.RelocateSilent), Times: new(1)}), script: func(r *recording) { r.answer("mysql-1", operation.Abort) }},
		{name: "relocate-rebooted-retried", als: true, storage: "relocate", args: []string{"--node", "mysql-1", "--services", "/mnt/quota/s"}, phase: operation.PhaseDone,
			faults: relocations("mysql-1", katodouble.RelocatePatch{Seconds: new(2.0)}), script: func(r *recording) {
				r.relocating()
				r.cluster.Node("mysql-1").RebootNow()
				r.answer("mysql-1", operation.Retry)
			}},
		{name: "relocate-gates-back", als: true, impatient: true, storage: "relocate", args: []string{"--node", "mysql-1", "--services", "/mnt/quota/s"}, phase: operation.PhaseAborted,
			faults: relocations("mysql-1", katodouble.RelocatePatch{Seconds: new(0.5)}), script: func(r *recording) {
				r.relocating()
				r.cluster.Node("filesystem-1").StopRole("filesystem")
				r.question("mysql-1")
				r.cluster.Node("filesystem-1").StartRole("filesystem")
				r.answer("mysql-1", operation.Back)
			}},
		{name: "relocate-cancelled", als: true, storage: "relocate", args: []string{"--node", "mysql-1", "--services", "/mnt/quota/s", "--droplets", "/mnt/quota/d"}, phase: operation.PhaseCancelled,
			faults: relocations("mysql-1", katodouble.RelocatePatch{Seconds: new(1.0)}), script: func(r *recording) {
				r.relocating()
				r.katoflow("op", "cancel", r.workflow, "--detach")
			}},
		{name: "relocate-dry-run", als: true, storage: "relocate", args: []string{"--node", "mysql-1", "--services", "/mnt/quota/s", "--dry-run"}, phase: operation.PhaseDone},
		{name: "relocate-refused", als: true, storage: "relocate", args: []string{"--node", "mysql-1", "--services", "/mnt/plain/s"}, phase: operation.PhaseFailed},
		{name: "release", als: true, release: true, phase: operation.PhaseDone},
		{name: "release-export", als: true, release: true, backup: true, args: []string{"--nodes", "dea-1"}, phase: operation.PhaseDone},
		{name: "release-old-back", als: true, release: true, args: []string{"--nodes", "dea-1"}, phase: operation.PhaseFailed,
			faults: releases("dea-1", katodouble.UpgradePatch{Fault: new(katodouble.UpgradeValidation), Times: new(1)}, true), script: func(r *recording) { r.answer("dea-1", operation.Back) }},
		{name: "release-stale-accepted", als: true, release: true, args: []string{"--nodes", "dea-1,dea-2"}, phase: operation.PhaseDone,
			faults: releases("dea-1", katodouble.UpgradePatch{Fault: new(katodouble.UpgradeStale), Times: new(-1)}, false), script: func(r *recording) { r.answer("dea-1", operation.Accept) }},
		{name: "release-interrupted-resumed", als: true, release: true, args: []string{"--nodes", "dea-1"}, phase: operation.PhaseDone,
			faults: releases("dea-1", katodouble.UpgradePatch{Fault: new(katodouble.UpgradeInterrupted), Times: new(1)}, false)},
		{name: "release-download-skipped", als: true, release: true, args: []string{"--nodes", "dea-1"}, phase: operation.PhaseDone,
			faults: releases("core", katodouble.UpgradePatch{Fault: new(katodouble.UpgradeDownload), Times: new(1)}, false), script: func(r *recording) { r.answer(operation.ClusterNode, operation.Skip) }},
		{name: "release-core-rebooted", als: true, release: true, args: []string{"--nodes", "dea-1"}, phase: operation.PhaseDone,
			faults: releases("dea-1", katodouble.UpgradePatch{Seconds: new(3.0)}, false), script: func(r *recording) {
				r.nodeUpgrade("core")
				_ = r.cluster.Node("dea-1").UpgradeWith(katodouble.UpgradePatch{Seconds: new(0.2)})
				r.cluster.Node("core").RebootNow()
			}},
		{name: "release-cancelled", als: true, release: true, args: []string{"--nodes", "dea-1,dea-2"}, phase: operation.PhaseCancelled,
			faults: releases("dea-1", katodouble.UpgradePatch{Seconds: new(2.0)}, false), script: func(r *recording) {
				r.nodeUpgrade("core")
				r.katoflow("op", "cancel", r.workflow, "--detach")
			}},
		{name: "release-window", als: true, release: true, window: true, args: []string{"--nodes", "dea-1"}, phase: operation.PhaseDone,
			script: func(r *recording) {
				r.until("the window to open", func(p operation.Report) bool { return p.Finished() || strings.Contains(p.Window, "open until") })
			}},
		{name: "release-max-failures", als: true, release: true, args: []string{"--nodes", "dea-1,dea-2", "--max-failures", "0"}, phase: operation.PhaseAborted,
			faults: releases("dea-1", katodouble.UpgradePatch{Fault: new(katodouble.UpgradeFails), Times: new(1)}, false)},
		{name: "release-dry-run", als: true, release: true, args: []string{"--dry-run"}, phase: operation.PhaseDone},
		{name: "release-nothing", als: true, release: true, args: []string{"--to", "1.2.0"}, phase: operation.PhaseDone},
		{name: "release-refused", als: true, release: true, args: []string{"--safety", "export"}, phase: operation.PhaseFailed},
		{name: "quota-enable", als: true, storage: "enable", phase: operation.PhaseDone},
		{name: "quota-no-kernel-skipped", als: true, storage: "enable", args: []string{"--nodes", "mysql-1,dea-1"}, phase: operation.PhaseFailed,
			faults: func(c *simcluster.Cluster) { _ = c.Node("mysql-1").QuotaSupport(false) }, script: func(r *recording) { r.answer("mysql-1", operation.Skip) }},
		{name: "quota-cancelled", als: true, storage: "enable", args: []string{"--nodes", "mysql-1,dea-1"}, phase: operation.PhaseCancelled,
			faults: func(c *simcluster.Cluster) { c.Node("dea-1").SlowCommand("quotacheck", 1, time.Second) }, script: func(r *recording) {
				r.working("dea-1", "quotacheck")
				r.katoflow("op", "cancel", r.workflow, "--detach")
			}},
		{name: "quota-disable", als: true, storage: "disable", args: []string{"--path", "/mnt/quota", "--nodes", "mysql-1"}, phase: operation.PhaseDone},
		{name: "quota-dry-run", als: true, storage: "enable", args: []string{"--dry-run"}, phase: operation.PhaseDone},
		{name: "als-then-image", als: true, args: []string{"--nodes", "dea-1", "--then", "image"}, phase: operation.PhaseDone},
		{name: "snapshot", als: true, backup: true, snapshot: true, phase: operation.PhaseDone,
			script: (*recording).sets},
		{name: "snapshot-void-asked-retried", als: true, backup: true, snapshot: true, args: []string{"--rounds", "2"}, phase: operation.PhaseDone,
			faults: func(c *simcluster.Cluster) { c.Hypervisor().FailSnapshots("dea-1", 2) },
			script: func(r *recording) { r.answer(operation.ClusterNode, operation.Retry) }},
		{name: "snapshot-stop-failed-retried-vms-stopped", als: true, backup: true, snapshot: true, args: []string{"--quiesce", "vms-stopped,roles-stopped"}, phase: operation.PhaseDone,
			faults: fail("dea-1", "kato stop", 1), script: func(r *recording) { r.answer("dea-1", operation.Retry) }},
		{name: "snapshot-cancelled-in-stop", als: true, backup: true, snapshot: true, phase: operation.PhaseCancelled,
			faults: func(c *simcluster.Cluster) { c.Node("dea-1").SlowCommand("kato stop", -1, time.Second) },
			script: func(r *recording) {
				r.working("dea-1", "kato")
				r.katoflow("op", "cancel", r.workflow, "--detach")
			}},
		{name: "snapshot-unusable-aborted", als: true, backup: true, snapshot: true, phase: operation.PhaseAborted,
			faults: func(c *simcluster.Cluster) { c.Hypervisor().BreakSnapshots("dea-1", 1) },
			script: func(r *recording) { r.answer(operation.ClusterNode, operation.Abort) }},
		{name: "snapshot-frozen-void", als: true, backup: true, snapshot: true, freezes: true, args: []string{"--quiesce", "frozen,maintenance"}, phase: operation.PhaseDone,
			faults: func(c *simcluster.Cluster) { c.Node("dea-1").RefuseFreeze("/mnt/data", "Operation not supported") },
			script: func(r *recording) {
				r.until("a void round", func(p operation.Report) bool { return p.Snapshot != nil && len(p.Snapshot.Void) > 0 })
				r.cluster.Node("dea-1").RefuseFreeze("/mnt/data", "")
			}},
		{name: "snapshot-dry-run", als: true, backup: true, snapshot: true, args: []string{"--dry-run"}, phase: operation.PhaseDone},
		{name: "rollback", als: true, backup: true, snapshot: true, rollback: true, phase: operation.PhaseDone},
		{name: "rollback-dry-run", als: true, backup: true, snapshot: true, rollback: true, args: []string{"--dry-run"}, phase: operation.PhaseDone},
		{name: "rollback-retried-void-safety", als: true, backup: true, snapshot: true, rollback: true, phase: operation.PhaseDone,
			prepare: func(c *simcluster.Cluster) {
				c.Hypervisor().FailSnapshots("dea-1", 1)
				c.Hypervisor().FailRollbacks("dea-2", 1)
			},
			script: func(r *recording) { r.answer("dea-2", operation.Retry) }},
		{name: "rollback-undone", als: true, backup: true, snapshot: true, rollback: true, phase: operation.PhaseAborted,
			prepare: func(c *simcluster.Cluster) { c.Hypervisor().FailRollbacks("dea-2", 1) },
			script:  func(r *recording) { r.answer("dea-2", operation.Abort) }},
		{name: "rollback-left-mixed", als: true, backup: true, snapshot: true, rollback: true, args: []string{"--no-safety-snapshots"}, phase: operation.PhaseFailed,
			prepare: func(c *simcluster.Cluster) { c.Hypervisor().FailRollbacks("dea-2", 1) },
			script:  func(r *recording) { r.answer("dea-2", operation.Leave) }},
		{name: "rollback-cancelled-before", als: true, backup: true, snapshot: true, rollback: true, phase: operation.PhaseCancelled,
			prepare: func(c *simcluster.Cluster) { c.Hypervisor().SlowSnapshots("dea-1", 2*time.Second) },
			script: func(r *recording) {
				r.until("its own snapshots", func(p operation.Report) bool { return len(p.Nodes) > 0 && p.Nodes[0].Step == operation.StepSnapshots })
				r.katoflow("op", "cancel", r.workflow, "--detach")
			}},
		{name: "dry-run", als: true, args: []string{"--dry-run"}, phase: operation.PhaseDone},
		{name: "preflight-failed", faults: func(c *simcluster.Cluster) { c.Node("b").FillDisk(true) }, phase: operation.PhaseFailed},
		{name: "bad-input", input: &operation.SecurityUpgradeInput{Nodes: []string{"nobody"}}, phase: operation.PhaseFailed},
		{name: "too-late", input: &operation.SecurityUpgradeInput{Request: operation.Request{StartWithin: operation.Duration(time.Nanosecond)}}, phase: operation.PhaseFailed},
		{name: "lock-queued", upgradeTime: 500 * time.Millisecond, phase: operation.PhaseDone,
			script: func(r *recording) {
				r.working("a", "unattended-upgrades")
				first := r.workflow
				r.refused("upgrade", "security", r.name, "--id", "busy")
				r.keep("busy", operation.WorkflowID(r.name, operation.KindSecurityUpgrade, "busy"), "")
				r.katoflow("upgrade", "security", r.name, "--id", "second", "--wait=5m", "--detach")
				r.workflow = operation.WorkflowID(r.name, operation.KindSecurityUpgrade, "second")
				r.ended(first)
			}},
		{name: "batch-pin-soak-verbs", args: []string{"--batch", "1", "--pin", "--soak", "1s"}, upgradeTime: 300 * time.Millisecond, phase: operation.PhaseDone,
			script: func(r *recording) {
				r.working("a", "unattended-upgrades")
				r.katoflow("op", "pause", r.workflow, "--reason", "lunch")
				r.katoflow("op", "set-batch", r.workflow, "2")
				r.until("the first node", func(p operation.Report) bool { return p.Counts()[operation.NodeDone] == 1 })
				r.katoflow("op", "resume", r.workflow)
			}},
		{name: "batch-no-canary", als: true, args: []string{"--batch", "50%", "--canary=false", "--retire=false"}, phase: operation.PhaseDone},
		{name: "reset-to-the-beginning", upgradeTime: 500 * time.Millisecond, phase: operation.PhaseDone,
			script: func(r *recording) {
				r.working("b", "unattended-upgrades")
				r.reset(func(h *historypb.History) int64 { return workflowTask(h, 0) })
			}},
		{name: "reset-past-the-lock", upgradeTime: 500 * time.Millisecond, phase: operation.PhaseDone,
			script: func(r *recording) {
				r.working("b", "unattended-upgrades")
				r.reset(firstNode)
			}},
		{name: "reset-then-cancelled", upgradeTime: 500 * time.Millisecond, phase: operation.PhaseCancelled,
			script: func(r *recording) {
				r.working("b", "unattended-upgrades")
				r.reset(firstNode)
				r.katoflow("op", "cancel", r.workflow, "--detach")
			}},
		{name: "reset-after-the-end", faults: fail("b", "unattended-upgrades", 1), args: []string{"--max-failures", "0"}, phase: operation.PhaseAborted,
			script: func(r *recording) {
				r.ended(r.workflow)
				r.reset(firstNode)
			}},
		{name: "lock-ended-by-hand", upgradeTime: 500 * time.Millisecond, phase: operation.PhaseDone,
			script: func(r *recording) {
				r.working("b", "unattended-upgrades")
				r.do(func(ctx context.Context) error {
					return r.client.TerminateWorkflow(ctx, operation.LockWorkflowID(r.name), "", "recording")
				})
			}},

		{name: "backup", als: true, backup: true, phase: operation.PhaseDone, inventory: "    notify: {command: [\"true\"]}\n", script: func(r *recording) { r.archives(); r.others() }},
		{name: "backup-one-node-by-the-worker", als: true, backup: true, args: []string{"--only-this-node", "--transfer", "worker", "--exclude", "droplets"}, phase: operation.PhaseDone},
		{name: "backup-to-path", als: true, backup: true, args: []string{"--to-path", "/mnt/backup"}, phase: operation.PhaseDone},
		{name: "backup-dry-run", als: true, backup: true, args: []string{"--dry-run"}, phase: operation.PhaseDone},
		{name: "backup-refused", als: true, backup: true, phase: operation.PhaseFailed, faults: func(c *simcluster.Cluster) { c.Node(exporter).SudoPassword(true) }},
		{name: "backup-failed-retried", als: true, backup: true, phase: operation.PhaseDone, faults: exports(katodouble.ExportFails, 1),
			script: func(r *recording) { r.answer(exporter, operation.Retry) }},
		{name: "backup-not-whole-retried", als: true, backup: true, phase: operation.PhaseDone, faults: exports(katodouble.ExportTruncated, 1),
			script: func(r *recording) { r.answer(exporter, operation.Retry) }},
		{name: "backup-aborted", als: true, backup: true, phase: operation.PhaseAborted, faults: exports(katodouble.ExportNothing, 1),
			script: func(r *recording) { r.answer(exporter, operation.Abort) }},
		{name: "backup-transfer-failed-left", als: true, backup: true, args: []string{"--transfer", "direct"}, phase: operation.PhaseAborted,
			faults: func(c *simcluster.Cluster) { c.Node(exporter).NoOutbound(true) },
			script: func(r *recording) {
				r.answer(exporter, operation.Retry)
				r.answer(exporter, operation.Leave)
			}},
		{name: "backup-paused-then-cancelled", als: true, backup: true, phase: operation.PhaseCancelled,
			faults: func(c *simcluster.Cluster) { _ = c.Node(exporter).ExportTime(time.Second) },
			script: func(r *recording) {
				r.exporting()
				r.katoflow("op", "pause", r.workflow, "--reason", "lunch")
				r.until("the archive to be read", func(p operation.Report) bool { return p.Export != nil && p.Export.SHA256 != "" })
				r.katoflow("op", "cancel", r.workflow, "--detach")
			}},
		{name: "backup-cancelled-in-the-export", als: true, backup: true, phase: operation.PhaseCancelled, faults: exports(katodouble.ExportHangs, 1),
			script: func(r *recording) {
				r.exporting()
				r.katoflow("op", "cancel", r.workflow, "--detach")
			}},
		{name: "backup-reset-after-the-end", als: true, backup: true, phase: operation.PhaseAborted,
			script: func(r *recording) {
				r.ended(r.workflow)
				r.reset(func(h *historypb.History) int64 { return activityTask(h, "Export") })
				r.answer(exporter, operation.Retry) // the export has run, and what it staged is gone
				r.answer(exporter, operation.Abort) // the archive is in the bucket already
			}},
		{name: "restore", als: true, backup: true, restore: true, phase: operation.PhaseDone},
		{name: "restore-dry-run", als: true, backup: true, restore: true, args: []string{"--dry-run"}, phase: operation.PhaseDone},
		{name: "restore-by-the-worker-apps-failed", als: true, backup: true, restore: true, args: []string{"--transfer", "worker", "--no-safety-backup", "--app-timeout", "5s"}, phase: operation.PhaseFailed,
			faults: func(c *simcluster.Cluster) {
				guid := c.Controller().AddApp("broken", "dev", cloudcontroller.App{Name: "a"})
				c.Controller().FailApp(guid, cloudcontroller.StagingFails, -1)
				_ = c.Node(importer).ImportWith(katodouble.ImportPatch{FailApps: []string{"broken/dev/a"}})
			},
			script: func(r *recording) { r.ended(r.workflow) }},
		{name: "restore-failed-retried", als: true, backup: true, restore: true, args: []string{"--no-safety-backup", "--restage", "all"}, phase: operation.PhaseDone, faults: imports(katodouble.ImportFails),
			script: func(r *recording) { r.answer(importer, operation.Retry) }},
		{name: "restore-not-verified-left", als: true, backup: true, restore: true, args: []string{"--no-safety-backup", "--restage", "none"}, phase: operation.PhaseFailed, faults: imports(katodouble.ImportErrorText),
			script: func(r *recording) { r.answer(importer, operation.Leave) }},
		{name: "rehearse", als: true, backup: true, rehearse: true, phase: operation.PhaseDone},
		{name: "restore-from-host", als: true, backup: true, fromHost: true, phase: operation.PhaseDone},
		{name: "restore-from-host-earlier-name", als: true, backup: true, fromHost: true, earlier: true, args: []string{"--no-safety-backup"}, phase: operation.PhaseDone},
		{name: "restore-from-host-failed-retried", als: true, backup: true, fromHost: true, args: []string{"--maintenance", "off", "--no-safety-backup"}, phase: operation.PhaseDone, faults: imports(katodouble.ImportFails),
			script: func(r *recording) {
				r.answer(importer, operation.Retry)
			}},
		{name: "restore-cancelled-in-the-import", als: true, backup: true, restore: true, args: []string{"--no-safety-backup"}, phase: operation.PhaseCancelled,
			faults: func(c *simcluster.Cluster) {
				seconds := 3.0
				_ = c.Node(importer).ImportWith(katodouble.ImportPatch{Seconds: &seconds})
			},
			script: func(r *recording) {
				r.until("the import", func(p operation.Report) bool {
					return len(p.Nodes) == 1 && p.Nodes[0].Step == operation.StepImport && r.cluster.Node(importer).Importing()
				})
				r.katoflow("op", "cancel", r.workflow, "--detach")
			}},
	}
}

// importer is the Core of simcluster.DefaultNodes.
const importer = "core"

// imports go wrong once.
func imports(fault katodouble.ImportFault) func(c *simcluster.Cluster) {
	return func(c *simcluster.Cluster) {
		once := 1
		_ = c.Node(importer).ImportWith(katodouble.ImportPatch{Fault: &fault, Times: &once})
	}
}

// exporter is the node with the role filesystem of simcluster.DefaultNodes.
const exporter = "filesystem-1"

func exports(fault katodouble.ExportFault, times int) func(*simcluster.Cluster) {
	return func(c *simcluster.Cluster) { _ = c.Node(exporter).ExportFault(fault, times, 1) } // nodes of an ALS cluster export
}

// activityTask is the workflow task that schedules the first activity of a name.
func activityTask(h *historypb.History, name string) int64 {
	for _, e := range h.Events {
		if a := e.GetActivityTaskScheduledEventAttributes(); a != nil && a.ActivityType.GetName() == name {
			return a.WorkflowTaskCompletedEventId
		}
	}
	return 0
}

// workflowTask is the id of the nth completed workflow task.
func workflowTask(h *historypb.History, n int) int64 {
	for _, e := range h.Events {
		if e.EventType == enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED {
			if n == 0 {
				return e.EventId
			}
			n--
		}
	}
	return 0
}

// firstNode is the workflow task that starts the first node's child.
func firstNode(h *historypb.History) int64 {
	for _, e := range h.Events {
		if a := e.GetStartChildWorkflowExecutionInitiatedEventAttributes(); a != nil && strings.Contains(a.WorkflowId, "/node/") {
			return a.WorkflowTaskCompletedEventId
		}
	}
	return 0
}

// recording is one scenario being run. After the first failure its methods do nothing.
type recording struct {
	*harness.Site
	scenario
	client    client.Client
	cluster   *simcluster.Cluster
	workflow  string
	err       error
	histories map[string]*historypb.History
}

const patience = 100 * time.Second

// second is the name of the scenario's second cluster.
func (s scenario) second() string {
	if s.earlier {
		return "a-" + s.name
	}
	return s.name + "-2"
}

// numbers make request ids differ.
var numbers atomic.Int64

func (r *recording) run() error {
	r.histories = map[string]*historypb.History{}
	if r.faults != nil {
		r.faults(r.cluster)
	}
	r.workflow = operation.WorkflowID(r.name, operation.KindSecurityUpgrade, "op-1")
	args := append([]string{"upgrade", "security", r.name, "--id", "op-1", "--detach"}, r.args...)
	if r.backup {
		r.workflow = operation.WorkflowID(r.name, operation.KindBackup, "op-1")
		args = append([]string{"backup", "create", r.name, "--id", "op-1", "--detach"}, r.args...)
	}
	if r.restore {
		r.katoflow("backup", "create", r.name, "--id", "before", "--maintenance", "off")
		r.workflow = operation.WorkflowID(r.name, operation.KindRestore, "op-1")
		args = append([]string{"backup", "restore", "before", "--cluster", r.name, "--confirm", r.name, "--id", "op-1", "--detach"}, r.args...)
	}
	if r.rehearse {
		r.katoflow("backup", "create", r.name, "--id", "before", "--maintenance", "off")
		r.workflow = operation.WorkflowID(r.second(), operation.KindRehearse, "op-1")
		args = append([]string{"backup", "rehearse", r.name, "--cluster", r.second(), "--id", "op-1", "--detach"}, r.args...)
	}
	if r.fromHost {
		r.workflow = operation.WorkflowID(r.name, operation.KindRestore, "op-1")
		args = append([]string{"backup", "restore", "--from-host", r.second(), "--cluster", r.name, "--confirm", r.name, "--id", "op-1", "--detach"}, r.args...)
	}
	if r.rollback {
		r.katoflow("snapshot", "create", r.name, "--id", "before")
		r.workflow = operation.WorkflowID(r.name, operation.KindSnapshotRollback, "op-1")
		args = append([]string{"snapshot", "rollback", r.name, "before", "--confirm", r.name, "--id", "op-1", "--detach"}, r.args...)
		if r.prepare != nil {
			r.prepare(r.cluster)
		}
	} else if r.snapshot {
		r.workflow = operation.WorkflowID(r.name, operation.KindSnapshot, "op-1")
		args = append([]string{"snapshot", "create", r.name, "--id", "op-1", "--detach"}, r.args...)
	}
	if r.image {
		if r.again {
			r.katoflow("upgrade", "image", r.name, "--id", "before")
		}
		r.workflow = operation.WorkflowID(r.name, operation.KindImageUpgrade, "op-1")
		args = append([]string{"upgrade", "image", r.name, "--id", "op-1", "--detach"}, r.args...)
	}
	if r.patch != "" {
		r.workflow = operation.WorkflowID(r.name, operation.PatchAction(r.patch).Kind(), "op-1")
		args = append(append([]string{"patch", r.patch, r.name}, r.args...), "--id", "op-1", "--detach")
	}
	if r.access != "" {
		r.workflow = operation.WorkflowID(r.name, operation.AccessAction(r.access).Kind(), "op-1")
		args = append(append([]string{"access", r.access, r.name}, r.args...), "--id", "op-1", "--detach")
	}
	if r.release {
		for _, n := range r.cluster.Nodes() {
			if err := n.UpgradeWith(katodouble.UpgradePatch{Version: new("1.2.0"), Releases: []string{"1.2.0", "1.3.0"}}); err != nil {
				return err
			}
		}
		r.workflow = operation.WorkflowID(r.name, operation.KindReleaseUpgrade, "op-1")
		safety := operation.SafetyNone
		if r.backup {
			safety = operation.SafetyExport
		}
		args = append([]string{"upgrade", "release", r.name, "--to", "1.3.0", "--force", "--safety", string(safety), "--id", "op-1", "--detach"}, r.args...)
	}
	switch r.storage {
	case "":
	case "relocate":
		r.workflow = operation.WorkflowID(r.name, operation.KindRelocate, "op-1")
		args = append(append([]string{"storage", "relocate", r.name, "--confirm", r.name}, r.args...), "--id", "op-1", "--detach")
	default:
		r.workflow = operation.WorkflowID(r.name, operation.QuotaAction(r.storage).Kind(), "op-1")
		args = append(append([]string{"storage", "quota", r.storage, r.name, "--path", "/mnt/plain"}, r.args...), "--id", "op-1", "--detach")
	}
	if r.apps != "" {
		r.workflow = operation.WorkflowID(r.name, "apps-"+r.apps, "op-1")
		args = append([]string{"apps", r.apps, r.name, "--id", "op-1", "--detach"}, r.args...)
	}
	if r.window {
		opens := time.Now().UTC().Add(15 * time.Second).Truncate(time.Minute).Add(time.Minute)
		args = append(args, "--window", opens.Format("15:04-")+opens.Add(2*time.Hour).Format("15:04"))
	}
	if r.input != nil {
		r.do(func(ctx context.Context) error {
			r.input.Cluster, r.input.OperationID = r.name, "op-1"
			_, err := r.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: r.workflow, TaskQueue: r.Queue}, operation.WorkflowSecurityUpgrade, r.input)
			return err
		})
	} else if r.phase == operation.PhaseFailed && r.script == nil && !slices.Contains(args, "--max-failures") && !slices.Contains(args, "--on-deadline") {
		r.refused(args...)
	} else {
		r.katoflow(args...)
	}
	if r.name == "plain" {
		r.others()
	}
	if r.script != nil {
		r.script(r)
	}
	if r.phase != operation.PhaseBlocked {
		r.ended(r.workflow)
	}
	report := r.until("the phase "+r.phase, func(p operation.Report) bool { return p.Phase == r.phase || p.Finished() })
	if r.err == nil && report.Phase != r.phase {
		return fmt.Errorf("it is %s instead of %s: %s", report.Phase, r.phase, report.Message)
	}
	r.keepAll()
	if r.phase == operation.PhaseBlocked {
		r.katoflow("op", "cancel", r.workflow, "--detach")
		r.ended(r.workflow)
	}
	return r.err
}

// others are the workflows that are no operation on nodes.
func (r *recording) others() {
	r.ended(r.workflow)
	for name, start := range map[string]func(ctx context.Context, id string) (client.WorkflowRun, error){
		operation.KindClusterCheck: func(ctx context.Context, id string) (client.WorkflowRun, error) {
			return r.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: id, TaskQueue: r.Queue}, operation.WorkflowClusterCheck, operation.Request{Cluster: r.name})
		},
		operation.KindClusterTrust: func(ctx context.Context, id string) (client.WorkflowRun, error) {
			return r.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: id, TaskQueue: r.Queue}, operation.WorkflowClusterTrust, map[string]string{"cluster": r.name})
		},
		operation.KindClusterStatus: func(ctx context.Context, id string) (client.WorkflowRun, error) {
			return r.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: id, TaskQueue: r.Queue}, operation.WorkflowClusterStatus, operation.StatusInput{Cluster: r.name})
		},
	} {
		id := operation.WorkflowID(r.name, name, "1")
		r.do(func(ctx context.Context) error {
			run, err := start(ctx, id)
			if err != nil {
				return err
			}
			return run.Get(ctx, nil)
		})
		r.keep(name, id, "")
	}
}

// exporting waits until kato exports.
func (r *recording) exporting() {
	r.do(func(context.Context) error {
		return harness.WaitFor(patience, "an export to run", func() (bool, error) { return r.cluster.Node(exporter).Exporting(), nil })
	})
}

// kept is an operation on what another one has left in the bucket.
type kept struct {
	kind, workflow string
	input          any
}

// archives are the operations on what the export has made.
func (r *recording) archives() {
	r.ended(r.workflow)
	who := operation.Request{Cluster: r.name, OperationID: "1"}
	r.each(kept{operation.KindBackupList, operation.WorkflowBackupList, operation.BackupListInput{Cluster: r.name}},
		kept{operation.KindBackupShow, operation.WorkflowBackupShow, operation.BackupShowInput{Cluster: r.name, Archive: operation.LatestArchive}},
		kept{operation.KindBackupVerify, operation.WorkflowBackupVerify, operation.BackupVerifyInput{Request: who}},
		kept{operation.KindBackupPrune, operation.WorkflowBackupPrune, operation.PruneInput{Request: who, Retention: operation.Retention{KeepLast: 1}}},
		kept{operation.KindBackupDelete, operation.WorkflowBackupDelete, operation.BackupDeleteInput{Request: who, Archive: "op-1"}})
}

// sets are the operations on the snapshots that were taken. A second set is taken for the retention to delete the first.
func (r *recording) sets() {
	r.ended(r.workflow)
	who := operation.Request{Cluster: r.name, OperationID: "1"}
	r.each(kept{operation.KindSnapshotList, operation.WorkflowSnapshotList, operation.SnapshotListInput{Cluster: r.name}},
		kept{operation.KindSnapshotShow, operation.WorkflowSnapshotShow, operation.SnapshotShowInput{Cluster: r.name, Set: operation.LatestArchive}},
		kept{operation.KindSnapshotVerify, operation.WorkflowSnapshotVerify, operation.SnapshotSetInput{Request: who, Set: "op-1"}})
	r.katoflow("snapshot", "create", r.name, "--id", "op-2")
	r.each(kept{operation.KindSnapshotPrune, operation.WorkflowSnapshotPrune, operation.PruneInput{Request: who, Retention: operation.Retention{KeepLast: 1}}},
		kept{operation.KindSnapshotDelete, operation.WorkflowSnapshotDelete, operation.SnapshotSetInput{Request: who, Set: "op-2"}})
}

// each runs operations one after the other and keeps their histories.
func (r *recording) each(all ...kept) {
	for _, w := range all {
		id := operation.WorkflowID(r.name, w.kind, "1")
		r.do(func(ctx context.Context) error {
			run, err := r.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: id, TaskQueue: r.Queue}, w.workflow, w.input)
			if err != nil {
				return err
			}
			return run.Get(ctx, nil)
		})
		r.keep(w.kind, id, "")
	}
}

// do runs a step with a bounded time.
func (r *recording) do(step func(ctx context.Context) error) {
	if r.err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r.err = step(ctx)
}

// patches changes what `kato patch` finds and does on a node.
func patches(node string, p katodouble.PatchesPatch) func(*simcluster.Cluster) {
	return func(c *simcluster.Cluster) {
		if err := c.Node(node).PatchWith(p); err != nil {
			panic(err) // a mistake in this file
		}
	}
}

// allPatches are the names of those that the manufacturer has.
func allPatches() (names []string) {
	for _, p := range katodouble.DefaultPatches() {
		names = append(names, p.Name)
	}
	return names
}

// onlyOperator leaves a node the worker's key alone.
func onlyOperator(node string) func(*simcluster.Cluster) {
	return func(c *simcluster.Cluster) {
		n := c.Node(node)
		n.SetAuthorizedKeys(slices.DeleteFunc(n.AuthorizedKeys(), func(line string) bool { return !strings.HasSuffix(line, "operator") })...)
	}
}

// relocating waits for kato relocate.
func (r *recording) relocating() {
	r.until("kato relocate", func(report operation.Report) bool {
		return len(report.Nodes) == 1 && report.Nodes[0].Step == "relocate-services"
	})
	r.do(func(ctx context.Context) error {
		return harness.WaitFor(patience, "kato relocate", func() (bool, error) {
			for _, e := range r.cluster.Node("mysql-1").Commands() {
				if len(e.Argv) > 1 && e.Argv[1] == "relocate" {
					return true, nil
				}
			}
			return false, ctx.Err()
		})
	})
}

// releases changes what kato node upgrade does on a node; old: on all of them it is that of ALS 1.0.
func releases(node string, p katodouble.UpgradePatch, old bool) func(*simcluster.Cluster) {
	return func(c *simcluster.Cluster) {
		err := c.Node(node).UpgradeWith(p)
		for _, n := range c.Nodes() {
			err = errors.Join(err, n.UpgradeWith(katodouble.UpgradePatch{Old: new(old)}))
		}
		if err != nil {
			panic(err) // no such setting
		}
	}
}

// relocations changes what kato relocate does on a node.
func relocations(node string, p katodouble.RelocatePatch) func(*simcluster.Cluster) {
	return func(c *simcluster.Cluster) {
		if err := c.Node(node).RelocateWith(p); err != nil {
			panic(err) // no such setting
		}
	}
}

// accessCheck keeps a look at who reaches whom, too.
func (r *recording) accessCheck() {
	r.ended(r.workflow)
	id := operation.WorkflowID(r.name, operation.KindAccessCheck, "op-1")
	r.do(func(ctx context.Context) error {
		run, err := r.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: id, TaskQueue: r.Queue}, operation.WorkflowAccessCheck, operation.AccessCheckInput{Cluster: r.name})
		if err != nil {
			return err
		}
		return run.Get(ctx, nil)
	})
	r.keep(operation.KindAccessCheck, id, "")
}

// patchStatus keeps a look at the patches, too.
func (r *recording) patchStatus() {
	r.ended(r.workflow)
	id := operation.WorkflowID(r.name, operation.KindPatchStatus, "op-1")
	r.do(func(ctx context.Context) error {
		run, err := r.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: id, TaskQueue: r.Queue}, operation.WorkflowPatchStatus, operation.PatchStatusInput{Cluster: r.name, Fetch: true})
		if err != nil {
			return err
		}
		return run.Get(ctx, nil)
	})
	r.keep(operation.KindPatchStatus, id, "")
}

func (r *recording) katoflow(args ...string) {
	r.do(func(context.Context) error {
		out, err := r.Katoflow(patience, args...)
		if err == nil && out.Code != 0 {
			err = fmt.Errorf("katoflow %s ended with %d: %s", strings.Join(args, " "), out.Code, out.Stderr)
		}
		return err
	})
}

// refused runs a call that must not succeed.
func (r *recording) refused(args ...string) {
	r.do(func(context.Context) error {
		out, err := r.Katoflow(patience, args...)
		if err == nil && out.Code == 0 {
			err = fmt.Errorf("katoflow %s succeeded", strings.Join(args, " "))
		}
		return err
	})
}

func (r *recording) until(what string, condition func(operation.Report) bool) (last operation.Report) {
	r.do(func(ctx context.Context) error {
		return harness.WaitFor(patience, what, func() (bool, error) {
			v, err := r.client.QueryWorkflow(ctx, r.workflow, "", operation.QueryReport)
			if err != nil {
				return false, nil
			}
			last = operation.Report{}
			return v.Get(&last) == nil && condition(last), nil
		})
	})
	return last
}

func (r *recording) question(node string) (q operation.Question) {
	r.until("a question about "+node, func(p operation.Report) bool {
		for _, q = range p.Questions {
			if q.Node == node {
				return true
			}
		}
		return false
	})
	return q
}

// answer the next question about a node that takes the decision.
func (r *recording) answer(node string, d operation.Decision) {
	var q operation.Question
	r.until(fmt.Sprintf("a question about %s that takes %s", node, d), func(p operation.Report) bool {
		for _, q = range p.Questions {
			if q.Node == node && slices.Contains(q.Choices, d) {
				return true
			}
		}
		return false
	})
	r.katoflow("op", "decide", r.workflow, string(d), "--node", q.Node, "--step", q.Step, "--try", fmt.Sprint(q.Try))
	r.until("the answer to be taken", func(p operation.Report) bool {
		return !slices.ContainsFunc(p.Questions, func(o operation.Question) bool { return o.Key() == q.Key() })
	})
}

// working waits until a command runs on a node.
func (r *recording) working(node, program string) {
	r.do(func(context.Context) error {
		return harness.WaitFor(patience, program+" to run on "+node, func() (bool, error) {
			for _, e := range r.cluster.Node(node).Commands() {
				if e.Argv[0] == program && e.End.IsZero() {
					return true, nil
				}
			}
			return false, nil
		})
	})
}

// nodeUpgrade waits until kato upgrades another node from that one.
func (r *recording) nodeUpgrade(node string) {
	r.do(func(context.Context) error {
		return harness.WaitFor(patience, "kato node upgrade", func() (bool, error) {
			for _, e := range r.cluster.Node(node).Commands() {
				if strings.HasPrefix(e.Command(), "kato node upgrade --node ") && e.End.IsZero() {
					return true, nil
				}
			}
			return false, nil
		})
	})
}

// ended waits until a workflow has closed, however.
func (r *recording) ended(workflowID string) {
	r.do(func(ctx context.Context) error {
		var said error
		err := harness.WaitFor(patience, workflowID+" to end", func() (bool, error) {
			d, err := r.client.DescribeWorkflowExecution(ctx, workflowID, "")
			said = err
			return err == nil && d.WorkflowExecutionInfo.Status != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, nil
		})
		if err != nil {
			v, _ := r.client.QueryWorkflow(context.Background(), workflowID, "", operation.QueryReport)
			var report operation.Report
			_ = v.Get(&report)
			err = fmt.Errorf("%w (%v): it is %s: %s %+v", err, said, report.Phase, report.Message, report.Questions)
		}
		return err
	})
}

// reset makes a new run of the operation; what the former one has written is kept too.
func (r *recording) reset(point func(*historypb.History) int64) {
	r.keep("before", r.workflow, "")
	r.do(func(ctx context.Context) error {
		h, err := history(r.client, r.workflow, "")
		if err != nil {
			return err
		}
		_, err = r.client.ResetWorkflowExecution(ctx, &workflowservice.ResetWorkflowExecutionRequest{Namespace: client.DefaultNamespace,
			WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: r.workflow}, Reason: "recording",
			RequestId: fmt.Sprint("reset-", numbers.Add(1)), WorkflowTaskFinishEventId: point(h)})
		return err
	})
}

// keep takes the history of a run, the latest when runID is empty.
func (r *recording) keep(what, workflowID, runID string) *historypb.History {
	var h *historypb.History
	r.do(func(context.Context) (err error) {
		h, err = history(r.client, workflowID, runID)
		return err
	})
	if r.err == nil {
		r.histories[r.name+"."+what] = h
	}
	return h
}

// keepAll takes the operation's history and those of all children that it has started.
func (r *recording) keepAll() {
	h := r.keep("operation", r.workflow, "")
	if h == nil {
		return
	}
	runs := map[string]int{}
	for _, e := range h.Events {
		a := e.GetChildWorkflowExecutionStartedEventAttributes()
		if a == nil {
			continue
		}
		id := a.WorkflowExecution.GetWorkflowId()
		what := "lock"
		if i := strings.LastIndex(id, "/node/"); i >= 0 {
			what = "node-" + id[i+len("/node/"):]
		} else if strings.Contains(id, "/"+operation.KindHold+"/") {
			what = "hold"
		} else if strings.Contains(id, "/"+operation.KindImageUpgrade+"/") {
			r.ended(id)
			what = "then"
		}
		if runs[what]++; runs[what] > 1 {
			what += fmt.Sprintf("-%d", runs[what])
		}
		r.keep(what, id, a.WorkflowExecution.GetRunId())
	}
}
