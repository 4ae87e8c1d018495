package workflows

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"

	"github.com/katoflow/katoflow/activities"
	"github.com/katoflow/katoflow/internal/operation"
)

const accessKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIImpZrPP8pfGG039fwTyH9Rhnfu1S8HUET2ompwBBsYi stackato@core"

// accessWorld is a world of nodes that are logged in to.
type accessWorld struct {
	*world
	f *fake
	// granted have the key, off take no passwords.
	granted, off map[string]bool
	// strangers refuse the worker's key.
	strangers []string
	// reverted trials, by node; noSudo do not let a shell be run.
	reverted map[string]int
	noSudo   []string
	first    []activities.FirstContactInput
}

func newAccessWorld(t *testing.T) *accessWorld {
	w := &accessWorld{world: newWorld(t, alsPlan()), granted: map[string]bool{}, off: map[string]bool{}, reverted: map[string]int{}}
	w.f = w.fake
	for name, fn := range map[string]any{"CoreKey": w.CoreKey, "ChangeKeys": w.ChangeKeys, "ProveLogins": w.ProveLogins, "ChangePasswords": w.ChangePasswords, "FirstContact": w.FirstContact,
		"PasswordsReady": w.PasswordsReady, "PlanAccess": w.PlanAccess} {
		w.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name})
	}
	return w
}

func (w *accessWorld) CoreKey(ctx context.Context, in activities.NodeInput) (activities.CoreKeyResult, error) {
	return activities.CoreKeyResult{PublicKey: accessKey, Made: !in.Settle}, w.f.step(ctx, "CoreKey", in)
}

func (w *accessWorld) ChangeKeys(ctx context.Context, in activities.AccessNodeInput) (activities.KeysResult, error) {
	err := w.f.step(ctx, "ChangeKeys", in.NodeInput)
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	out := activities.KeysResult{JobResult: activities.JobResult{Started: true, Notes: []string{"key added"}}, HostKeys: []string{"ssh-ed25519 AAAA" + strings.Repeat("B", 50)}}
	if err == nil && !in.Settle {
		w.granted[in.Node.Name] = in.Change.Action == operation.AccessGrant
		if in.Change.PublicKey != accessKey {
			w.t.Errorf("the key is %q", in.Change.PublicKey)
		}
	}
	return out, err
}

func (w *accessWorld) ProveLogins(ctx context.Context, in activities.AccessNodeInput) (activities.JobResult, error) {
	if len(in.HostKeys) == 0 {
		w.t.Error("the host keys did not come along")
	}
	return activities.JobResult{Started: true, Notes: []string{"login proved"}}, w.f.step(ctx, "ProveLogins", in.NodeInput)
}

func (w *accessWorld) ChangePasswords(ctx context.Context, in activities.AccessNodeInput) (activities.PasswordsResult, error) {
	err := w.f.step(ctx, "ChangePasswords", in.NodeInput)
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	out := activities.PasswordsResult{JobResult: activities.JobResult{Started: true}}
	if err == nil && !in.Settle {
		if out.Reverted = w.reverted[in.Node.Name] > 0; out.Reverted {
			w.reverted[in.Node.Name]--
			return out, nil
		}
		w.off[in.Node.Name] = in.Change.DisablePasswords
	}
	return out, err
}

func (w *accessWorld) FirstContact(ctx context.Context, in activities.FirstContactInput) (activities.FirstContactResult, error) {
	err := w.f.call(ctx, "FirstContact", "")
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	w.first = append(w.first, in)
	return activities.FirstContactResult{Introduced: w.strangers}, err
}

func (w *accessWorld) PasswordsReady(ctx context.Context, in activities.AccessLookInput) (out activities.PasswordsReadyResult, err error) {
	for _, n := range in.Nodes {
		if slices.Contains(w.noSudo, n) {
			out.Problems = append(out.Problems, n+": sudo does not")
		}
	}
	return out, w.f.call(ctx, "PasswordsReady", "")
}

func (w *accessWorld) PlanAccess(ctx context.Context, in activities.PlanAccessInput) (activities.PlanCommandsResult, error) {
	var out activities.PlanCommandsResult
	for _, n := range in.Nodes {
		out.Plans = append(out.Plans, operation.CommandPlan{Nodes: []string{n.Name}, Commands: []operation.PlannedCommand{{Step: "keys", Command: "key of " + in.Change.From}}})
	}
	return out, w.f.call(ctx, "PlanAccess", "")
}

func (w *accessWorld) access(changes ...func(*operation.AccessInput)) (operation.Report, error) {
	w.t.Helper()
	in := operation.AccessInput{Request: operation.Request{OperationID: "op-1", Cluster: "prod"}, Action: operation.AccessGrant}
	for _, c := range changes {
		c(&in)
	}
	w.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: operation.WorkflowID("prod", in.Action.Kind(), "op-1"), TaskQueue: "test"})
	w.ExecuteWorkflow(Access, in)
	require.True(w.t, w.IsWorkflowCompleted(), "the operation ended; calls: %v", w.fake.calls)
	return reportOf(w.t, w.world)
}

func withoutPasswords(in *operation.AccessInput) { in.DisablePasswords = true }

var allNodes = []string{"dea-1", "dea-2", "core", "mysql-1", "fs-1"}

func TestAccess_Grant_AllNodesSideBySideAndNoPasswordsTouched(t *testing.T) {
	w := newAccessWorld(t)
	report, err := w.access()
	require.NoError(t, err)
	require.Equal(t, "core reaches 5 nodes by key", report.Message)
	for _, n := range allNodes {
		require.True(t, w.granted[n], n)
		require.Equal(t, 1, w.f.count("ProveLogins "+n), n)
		require.Equal(t, []string{"key added", "login proved"}, node(t, report, n).Notes)
		require.Empty(t, node(t, report, n).HostKeys, "nothing for people")
	}
	require.Empty(t, w.off)
	require.Zero(t, w.f.count("PasswordsReady"))
	require.Contains(t, report.Warnings, "a key was made on core (RSA, 4096 bits, without a passphrase)")
}

func TestAccess_DisablePasswords_OnlyAfterAllLoginsAndOneNodeAfterTheOther(t *testing.T) {
	w := newAccessWorld(t)
	for _, n := range allNodes {
		w.f.during["ChangePasswords "+n] = func(context.Context) {
			for _, other := range allNodes {
				require.Equal(t, 1, w.f.count("ProveLogins "+other), "passwords go last")
			}
		}
	}
	report, err := w.access(withoutPasswords)
	require.NoError(t, err)
	require.Equal(t, "core reaches 5 nodes by key, password logins are off on 5", report.Message)
	for i, n := range allNodes {
		require.True(t, w.off[n], n)
		if i > 0 {
			require.Less(t, w.f.place("ChangePasswords "+allNodes[i-1]), w.f.place("ChangePasswords "+n))
		}
	}
	require.Equal(t, []string{"key added", "login proved"}, node(t, report, "fs-1").Notes)
}

func TestAccess_ANodeThatHasNotProved_KeepsAllPasswords(t *testing.T) {
	w := newAccessWorld(t)
	w.f.script["ProveLogins dea-2"] = []error{fail(operation.ErrVerify, "a login does not work")}
	w.answer(operation.Skip)
	report, err := w.access(withoutPasswords)
	require.Error(t, err)
	require.Empty(t, w.off)
	require.Contains(t, report.Warnings, "password logins were left as they are everywhere, because 1 node has not proved its logins by key")
	require.Equal(t, operation.NodeSkipped, node(t, report, "dea-2").Status)
	require.Equal(t, operation.NodeDone, node(t, report, "core").Status)
}

func TestAccess_NobodyConfirmedATrial_IsTriedAgainAsTheNextTry(t *testing.T) {
	w := newAccessWorld(t)
	w.reverted["dea-1"] = 2
	report, err := w.access(withoutPasswords)
	require.NoError(t, err)
	require.Equal(t, 1, w.f.count("ChangePasswords dea-1 try=3"))
	require.True(t, w.off["dea-1"])
	require.Contains(t, node(t, report, "dea-1").Notes, "nobody confirmed the change in time, so that the node took it back: tried again")

	w = newAccessWorld(t)
	w.reverted["dea-1"] = 3
	w.answer(operation.Abort)
	_, err = w.access(withoutPasswords)
	require.Error(t, err)
	require.Zero(t, w.f.count("ChangePasswords dea-1 try=4"), "not for ever")
	require.Empty(t, w.off)
}

func TestAccess_Cancelled_BetweenTheNodes_TheOthersKeepTheirPasswords(t *testing.T) {
	w := newAccessWorld(t)
	w.f.during["ChangePasswords dea-1"] = func(context.Context) {
		w.CancelWorkflow()
		time.Sleep(10 * time.Millisecond)
	}
	report, err := w.access(withoutPasswords)
	require.Error(t, err)
	require.Equal(t, operation.PhaseCancelled, report.Phase)
	require.NotContains(t, w.off, "core")
	require.Contains(t, node(t, report, "fs-1").Notes, "its password logins are as they were")
	require.Contains(t, node(t, report, "fs-1").Notes, "login proved")
}

func TestAccess_CoreKeyCannotBeRead_IsAsked(t *testing.T) {
	w := newAccessWorld(t)
	w.f.script["CoreKey core"] = []error{fail(operation.ErrRemoteExit, "it has a passphrase")}
	w.answer(operation.Retry)
	_, err := w.access()
	require.NoError(t, err)
	require.Equal(t, 1, w.f.count("CoreKey core try=2"))
}

func TestAccess_FirstContact_BeforeThePreflightAndInADryRunNothingIsAsked(t *testing.T) {
	w := newAccessWorld(t)
	w.strangers = []string{"dea-1", "mysql-1"}
	password := func(in *operation.AccessInput) { in.Password = operation.SecretRef{Env: "FIRST"} }
	report, err := w.access(password)
	require.NoError(t, err)
	require.Less(t, w.f.place("FirstContact"), w.f.place("Preflight"))
	require.Contains(t, report.Warnings, "2 nodes got the worker's key, by password (dea-1, mysql-1)")
	require.Equal(t, operation.SecretRef{Env: "FIRST"}, w.first[0].Password)
	require.False(t, w.first[0].DryRun)

	w = newAccessWorld(t)
	w.strangers = []string{"dea-1", "mysql-1"}
	report, err = w.access(password, func(in *operation.AccessInput) { in.DryRun = true })
	require.NoError(t, err)
	require.True(t, w.first[0].DryRun)
	require.Empty(t, w.f.mutated())
	require.Len(t, report.Commands, 5)
	require.Contains(t, report.Warnings, "2 nodes would get the worker's key: the password is right there (dea-1, mysql-1)")
}

func TestAccess_SudoLacks_NothingIsTouched(t *testing.T) {
	w := newAccessWorld(t)
	w.noSudo = []string{"dea-1", "core"}
	_, err := w.access(withoutPasswords)
	require.Equal(t, operation.ErrPreflight, typeOf(err))
	require.Empty(t, w.granted)
}

func TestAccess_Revoke_PasswordsFirstThenKeys(t *testing.T) {
	w := newAccessWorld(t)
	report, err := w.access(func(in *operation.AccessInput) { in.Action, in.RestorePasswords = operation.AccessRevoke, true })
	require.NoError(t, err)
	require.Equal(t, "the key of core is out of authorized_keys on 5 nodes", report.Message)
	for _, n := range allNodes {
		require.Less(t, w.f.place("ChangePasswords "+n), w.f.place("ChangeKeys "+n))
		require.Less(t, w.f.place("ChangeKeys "+n), w.f.place("ProveLogins "+n))
		require.False(t, w.granted[n])
	}
	require.NotContains(t, strings.Join(report.Warnings, " "), "was made", "a revocation makes no key")

	w = newAccessWorld(t)
	report, err = w.access(func(in *operation.AccessInput) {
		in.Action, in.RestorePasswords, in.KeepKeys = operation.AccessRevoke, true, true
	})
	require.NoError(t, err)
	require.Equal(t, "password logins put back on 5 nodes", report.Message)
	require.Zero(t, w.f.count("ChangeKeys dea-1"))
	require.Zero(t, w.f.count("CoreKey core"))
}

func TestAccess_PlainCluster_NeedsFrom(t *testing.T) {
	w := newAccessWorld(t)
	w.f.plan.Core = ""
	_, err := w.access()
	require.Equal(t, operation.ErrPreflight, typeOf(err))
	require.ErrorContains(t, err, "1 problem")
	require.Empty(t, w.granted)
}

func TestAccess_BadInput_NamesAll(t *testing.T) {
	for _, c := range []struct {
		change func(*operation.AccessInput)
		wrong  string
	}{
		{func(in *operation.AccessInput) { in.PublicKey = "-----BEGIN OPENSSH PRIVATE KEY-----" }, "private key"},
		{func(in *operation.AccessInput) { in.PublicKey = `command="sh" ` + accessKey }, "is not one line of TYPE KEY"},
		{func(in *operation.AccessInput) { in.PublicKey = accessKey + "\n" + accessKey }, "is not one line of TYPE KEY"},
		{func(in *operation.AccessInput) { in.RestorePasswords = true }, "belong to a revocation"},
		{func(in *operation.AccessInput) { in.Action, in.KeepKeys = operation.AccessRevoke, true }, "nothing is left to do"},
		{func(in *operation.AccessInput) { in.Password = operation.SecretRef{Env: "A", File: "b"} }, "not in both"},
		{func(in *operation.AccessInput) { in.Port = 70000 }, "port 70000"},
		{func(in *operation.AccessInput) { in.DisablePasswords, in.PublicKey = true, accessKey }, "grant that one first"},
	} {
		w := newAccessWorld(t)
		_, err := w.access(c.change)
		require.Equal(t, operation.ErrBadInput, typeOf(err))
		require.ErrorContains(t, err, c.wrong)
	}
}
