package activities

import (
	"context"
	"slices"
	"sort"
	"strings"

	"github.com/katoflow/katoflow/internal/kato"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// The commands that change nodes, each in one place: the steps run them, and a dry run shows the same.

// rebootCommand is there on every Debian and Ubuntu, whatever its init (systemd, upstart, sysvinit), has one path for sudoers, and is the same on each
// attempt, so that the job's identity never meets another command. Under systemd it is systemctl reboot.
const rebootCommand = "/sbin/reboot"

func jobID(op Operation, node, step string, try int) remote.JobID {
	return remote.JobID{Operation: op.ID, Node: node, Step: step, Try: max(try, 1)}
}

// asRoot is a job that needs root: by sudo, unless the login user is root.
func asRoot(op Operation, t target, step string, try int, argv ...string) remote.JobSpec {
	return remote.JobSpec{ID: jobID(op, t.node.Name, step, try), Lease: lease(op), Argv: argv, Sudo: t.host.User != "root"}
}

// proxy is exported to what fetches packages; the source page exports the same two variables.
func (s site) proxy() map[string]string {
	env := map[string]string{}
	for name, value := range map[string]string{"http_proxy": s.cluster.Proxy.HTTP, "https_proxy": s.cluster.Proxy.HTTPS, "no_proxy": s.cluster.Proxy.NoProxy} {
		if value != "" {
			env[name] = value
		}
	}
	return env
}

// dpkgEnvironment keeps packages from asking, and needrestart from restarting services under us: the reboot follows.
func (s site) dpkgEnvironment() map[string]string {
	env := s.proxy()
	env["DEBIAN_FRONTEND"] = "noninteractive"
	env["NEEDRESTART_SUSPEND"] = "1"
	return env
}

func (s site) refreshJob(op Operation, t target, try int) remote.JobSpec {
	spec := asRoot(op, t, operation.StepRefresh, try, "apt-get", "update")
	spec.Env, spec.Interruptible = s.proxy(), true
	return spec
}

func (s site) upgradeJob(op Operation, t target, try int) remote.JobSpec {
	spec := asRoot(op, t, operation.StepUpgrade, try, "unattended-upgrades", "-d")
	spec.Env = s.dpkgEnvironment()
	return spec
}

func (s site) repairJob(op Operation, t target, try int) remote.JobSpec {
	spec := asRoot(op, t, operation.StepRepair, try, "dpkg", "--configure", "-a")
	spec.Env = s.dpkgEnvironment()
	return spec
}

func (s site) rebootJob(op Operation, t target, try int) remote.JobSpec {
	return asRoot(op, t, operation.StepReboot, try, rebootCommand)
}

func (s site) kato() kato.CLI { return kato.CLI{Path: s.cluster.Kato.Path} }

// retireJob runs on the Core and is named after the node that is retired.
func (s site) retireJob(op Operation, node, nodeID string, try int) remote.JobSpec {
	return remote.JobSpec{ID: jobID(op, node, operation.StepRetire, try), Lease: lease(op), Argv: s.kato().Retire(nodeID), Login: true, Interruptible: true}
}

func (s site) maintenanceJob(op Operation, step string, on bool, try int) remote.JobSpec {
	return remote.JobSpec{ID: jobID(op, operation.ClusterNode, step, try), Lease: lease(op), Argv: s.kato().SetMaintenance(on), Login: true, Interruptible: true}
}

// show is the command of a job as it is run.
func show(spec remote.JobSpec) string {
	var argv []string
	names := make([]string, 0, len(spec.Env))
	for name := range spec.Env {
		names = append(names, name)
	}
	sort.Strings(names)
	switch {
	case spec.Sudo:
		argv = append(argv, "sudo", "-n")
	case len(names) > 0:
		argv = append(argv, "env")
	}
	for _, name := range names {
		argv = append(argv, name+"="+spec.Env[name])
	}
	return remote.Escape(remote.Quote(append(argv, spec.Argv...)))
}

// add puts a node to those that have the same commands.
func (r *PlanCommandsResult) add(name string, commands []operation.PlannedCommand) {
	for i := range r.Plans {
		if slices.Equal(r.Plans[i].Commands, commands) {
			r.Plans[i].Nodes = append(r.Plans[i].Nodes, name)
			return
		}
	}
	r.Plans = append(r.Plans, operation.CommandPlan{Nodes: []string{name}, Commands: commands})
}

// maintenancePlan is how a dry run shows maintenance mode.
func (s site) maintenancePlan(op Operation) ([]operation.PlannedCommand, error) {
	core, err := s.core()
	if err != nil {
		return nil, err
	}
	return []operation.PlannedCommand{
		{Step: operation.StepMaintenanceOn, Command: show(s.maintenanceJob(op, operation.StepMaintenanceOn, true, 1)),
			Note: "on " + core.node.Name + ", before the first node, unless it is on"},
		{Step: operation.StepMaintenanceOff, Command: show(s.maintenanceJob(op, operation.StepMaintenanceOff, false, 1)),
			Note: "on " + core.node.Name + ", after the last node, unless it was on before"},
	}, nil
}

// PlanCommands returns the commands of a dry run, made by the same code as those of a real one, for the nodes that have them in common. It reaches no
// node.
func (n *Nodes) PlanCommands(ctx context.Context, in PlanCommandsInput) (PlanCommandsResult, error) {
	a := begin(ctx, "commands of the plan")
	defer a.finish()
	s, err := n.Source.site(in.Operation.Cluster)
	if err != nil {
		return PlanCommandsResult{}, err
	}
	var out PlanCommandsResult
	add := out.add
	if in.Maintenance && s.als() {
		commands, err := s.maintenancePlan(in.Operation)
		if err != nil {
			return PlanCommandsResult{}, err
		}
		add(operation.ClusterNode, commands)
	}
	for _, planned := range in.Nodes {
		t, err := s.target(planned.Name)
		if err != nil {
			return PlanCommandsResult{}, err
		}
		var commands []operation.PlannedCommand
		command := func(step string, spec remote.JobSpec, notes ...string) {
			commands = append(commands, operation.PlannedCommand{Step: step, Command: show(spec), Note: strings.Join(notes, "; ")})
		}
		if in.Retire && s.als() && planned.HasRole("dea") {
			core, err := s.core()
			if err != nil {
				return PlanCommandsResult{}, err
			}
			id, err := nodeID(a.ctx, t)
			if err != nil {
				return PlanCommandsResult{}, err
			}
			command(operation.StepRetire, s.retireJob(in.Operation, planned.Name, id, 1), "on "+core.node.Name)
		}
		command(operation.StepRefresh, s.refreshJob(in.Operation, t, 1))
		upgrade := ""
		if in.Pin {
			upgrade = "only when the candidates are the canary's versions"
		}
		command(operation.StepUpgrade, s.upgradeJob(in.Operation, t, 1), notes(upgrade)...)
		command(operation.StepRepair, s.repairJob(in.Operation, t, 1), "only when dpkg was interrupted; the upgrade follows again")
		switch in.Reboot {
		case operation.RebootNever:
		case operation.RebootIfRequired:
			command(operation.StepReboot, s.rebootJob(in.Operation, t, 1), "only when what was installed requires it")
		default:
			command(operation.StepReboot, s.rebootJob(in.Operation, t, 1))
		}
		add(planned.Name, commands)
	}
	return out, nil
}
