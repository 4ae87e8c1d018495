// Package libvirt is the provider of snapshots of libvirt's QEMU domains, by virsh on their host over SSH. The host needs virsh and, for the look at its free space, df; the login user
// needs the right to manage domains (group libvirt).
//
// A snapshot is made inside the qcow2 images of all of a domain's disks and is listed by virsh snapshot-list as one of a domain that was shut off, since that is what its disks look like:
//
//   - Of a domain that runs: one QMP transaction of blockdev-snapshot-internal-sync takes the disks at one moment, without its memory, which libvirt itself has no call for. Then it is entered
//     into libvirt's list (snapshot-create --redefine). A call that ended between the two left it in the images alone: it is entered by whoever looks for it next while the domain runs.
//   - Of a domain that is off: virsh snapshot-create.
//
// Going back is virsh snapshot-revert, which also puts the domain's definition back. Proved on libvirt 9.0 with QEMU 7.2.
package libvirt

import (
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/katoflow/katoflow/internal/hypervisor"
	"github.com/katoflow/katoflow/internal/hypervisor/overssh"
	"github.com/katoflow/katoflow/internal/remote"
)

// DefaultURI is that of a host's own domains.
const DefaultURI = "qemu:///system"

// minFree is the space that a file system with images must have, in bytes: a snapshot costs little itself, and then whatever is written anew.
const minFree = 1 << 30

// Provider runs virsh. Its fields are not changed afterwards.
type Provider struct {
	// Hosts that have the domains.
	overssh.Hosts
	// URI that virsh connects to; "" = DefaultURI.
	URI string
}

var _ hypervisor.Provider = (*Provider)(nil)

func (p *Provider) uri() string { return cmp.Or(p.URI, DefaultURI) }

// command is one of virsh, in English.
func (p *Provider) command(args ...string) remote.Command {
	return remote.Command{Argv: append([]string{"env", "LC_ALL=C", "virsh", "--connect", p.uri()}, args...)}
}

// ask runs a command of virsh that only reads. A domain that is not there is a *NotFoundError.
func (p *Provider) ask(ctx context.Context, vm hypervisor.VM, args ...string) ([]byte, error) {
	result, err := p.Run(ctx, vm, "virsh "+args[0], p.command(args...), p.Within())
	if err == nil && result.ExitCode != 0 && strings.Contains(string(result.Stderr), "failed to get domain") {
		return nil, &hypervisor.NotFoundError{Node: vm.Node, What: "domain " + vm.ID}
	}
	if err := overssh.Well("virsh "+args[0], vm, result, err); err != nil {
		return nil, err
	}
	return result.Stdout, nil
}

// of is the option that names the domain. VM ids never begin with a dash.
func of(vm hypervisor.VM) string { return "--domain=" + vm.ID }

func (p *Provider) domain(ctx context.Context, vm hypervisor.VM) (domain, error) {
	out, err := p.ask(ctx, vm, "dumpxml", of(vm))
	if err != nil {
		return domain{}, err
	}
	d, err := readDomain(out)
	if err != nil {
		return domain{}, fmt.Errorf("%s: %w", vm.Node, err)
	}
	return d, nil
}

func (p *Provider) blocks(ctx context.Context, vm hypervisor.VM) (blocks, error) {
	out, err := p.ask(ctx, vm, "qemu-monitor-command", of(vm), "--cmd", `{"execute":"query-block"}`)
	if err != nil {
		return blocks{}, err
	}
	b, err := readBlocks(out)
	if err != nil {
		return blocks{}, fmt.Errorf("%s: %w", vm.Node, err)
	}
	return b, nil
}

// Check asks for every domain: that it is there, and kept by libvirt; that its disks are qcow2 images and have space; and that neither libvirt nor QEMU is at work on them.
func (p *Provider) Check(ctx context.Context, vms []hypervisor.VM) ([]hypervisor.Problem, error) {
	return overssh.CheckEach(ctx, vms, func(vm hypervisor.VM) []string { return p.problems(ctx, vm) })
}

func (p *Provider) problems(ctx context.Context, vm hypervisor.VM) (problems []string) {
	info, err := p.ask(ctx, vm, "dominfo", of(vm))
	if missing := (*hypervisor.NotFoundError)(nil); errors.As(err, &missing) {
		return []string{fmt.Sprintf("libvirt has no domain %s: correct vm in the inventory", vm.ID)}
	}
	if err != nil {
		return []string{err.Error()}
	}
	said := infoOf(info)
	if said["Persistent"] == "no" {
		problems = append(problems, "its domain is transient and would be gone when it is shut down: virsh define it")
	}
	if said["Managed save"] == "yes" {
		problems = append(problems, "its memory is saved (virsh managedsave), without which its disks are of no moment: start it, or virsh managedsave-remove")
	}
	d, err := p.domain(ctx, vm)
	if err != nil {
		return append(problems, err.Error())
	}
	problems = append(problems, d.hindrances()...)
	if power, err := p.Power(ctx, vm); err != nil {
		problems = append(problems, err.Error())
	} else if power != hypervisor.Off {
		problems = append(problems, p.work(ctx, vm)...)
	}
	return append(problems, p.space(ctx, vm, d)...)
}

// infoOf reads the lines "Name: value" of dominfo and domjobinfo.
func infoOf(out []byte) map[string]string {
	said := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			said[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return said
}

// work is what libvirt or QEMU does with a domain that runs.
func (p *Provider) work(ctx context.Context, vm hypervisor.VM) (problems []string) {
	job, err := p.ask(ctx, vm, "domjobinfo", of(vm))
	if err != nil {
		return []string{err.Error()}
	}
	if kind := infoOf(job)["Job type"]; kind != "" && kind != "None" {
		problems = append(problems, "libvirt is at work on its domain (virsh domjobinfo): wait for its end")
	}
	out, err := p.ask(ctx, vm, "qemu-monitor-command", of(vm), "--cmd", `{"execute":"query-block-jobs"}`)
	if err != nil {
		return append(problems, err.Error())
	}
	var jobs struct {
		Return []struct {
			Type string `json:"type"`
		} `json:"return"`
		Error *qmpError `json:"error"`
	}
	if err := answer(out, &jobs, func() *qmpError { return jobs.Error }); err != nil {
		return append(problems, err.Error())
	}
	for _, j := range jobs.Return {
		problems = append(problems, fmt.Sprintf("QEMU is at work on its disks (%s): wait for its end, or virsh blockjob --abort", remote.Escape(j.Type)))
	}
	return problems
}

// space looks at the file systems of the images, where the login user may.
func (p *Provider) space(ctx context.Context, vm hypervisor.VM, d domain) (problems []string) {
	argv := []string{"env", "LC_ALL=C", "df", "-P", "-k", "--"}
	for _, k := range d.written() {
		if k.Source.File != "" {
			argv = append(argv, k.Source.File)
		}
	}
	if len(argv) == 6 {
		return nil
	}
	result, err := p.Run(ctx, vm, "df", remote.Command{Argv: argv}, p.Within())
	if err != nil {
		return []string{err.Error()}
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(result.Stdout)) {
		words := strings.Fields(line)
		if len(words) < 6 || seen[words[5]] {
			continue
		}
		seen[words[5]] = true
		if free, err := strconv.ParseInt(words[3], 10, 64); err == nil && free<<10 < minFree {
			problems = append(problems, fmt.Sprintf("%s on %s, where its images are, has %d MiB free: a snapshot needs at least %d", remote.Escape(words[5]), vm.Host, free>>10, minFree>>20))
		}
	}
	return problems
}

// enter is the part of scripts that enters a snapshot which the images have into libvirt's list, with the domain as it is defined now. It needs uri, vm, before, after and created.
const enter = `{
	printf '%s<state>shutoff</state><creationTime>%s</creationTime>%s' "$before" "$created" "$after"
	virsh --connect "$uri" dumpxml --inactive --security-info "--domain=$vm" &&
	printf '</domainsnapshot>'
} | virsh --connect "$uri" snapshot-create "--domain=$vm" /dev/stdin --redefine >/dev/null`

// arguments are the first of every script: the URI, the domain, and the snapshot's description up to its time and after it.
const arguments = "export LC_ALL=C\nuri=$1 vm=$2 before=$3 after=$4\n"

// take takes a snapshot of a domain. Further arguments: its name, and QMP's transaction, or nothing where the domain is off. It prints its time as libvirt keeps it. Exit code 4: it is taken, and is
// not in libvirt's list.
const take = arguments + `name=$5 transaction=$6
if [ -n "$transaction" ]; then
	created=$(date +%s)
	said=$(virsh --connect "$uri" qemu-monitor-command "--domain=$vm" --cmd "$transaction") || exit 1
	case $said in
	*'"return"'*) ;;
	*) printf '%s\n' "$said"; exit 1 ;;
	esac
	` + enter + ` || exit 4
else
	printf '%s%s</domainsnapshot>' "$before" "$after" | virsh --connect "$uri" snapshot-create "--domain=$vm" /dev/stdin --atomic >/dev/null || exit 1
	created=$(virsh --connect "$uri" snapshot-dumpxml "--domain=$vm" "--snapshotname=$name" | sed -n 's/^ *<creationTime>\([0-9]*\)<.*/\1/p') || exit 4
fi
printf 'created=%s\n' "$created"
`

// exitTaken is take's exit code for a snapshot that is not in libvirt's list, or was not found there.
const exitTaken = 4

// complete is the script of enter alone. Further argument: the time.
const complete = arguments + "created=$5\n" + enter + "\n"

// scripted are the words that run a script with its arguments.
func (p *Provider) scripted(script string, vm hypervisor.VM, name string, disks []disk, more ...string) []string {
	before, after := description(name, disks)
	return append([]string{"sh", "-c", script, "sh", p.uri(), vm.ID, before, after}, more...)
}

// shot is a snapshot that only needs to be sent, over a session that is open.
type shot struct {
	p       *Provider
	vm      hypervisor.VM
	name    string
	disks   []disk
	words   []string
	session *overssh.Session
}

// Prepare reads the domain's disks, and what QEMU calls them where it runs, and opens the session to its host, so that Take only sends a line.
func (p *Provider) Prepare(ctx context.Context, vm hypervisor.VM, name string) (hypervisor.Shot, error) {
	d, err := p.domain(ctx, vm)
	if err != nil {
		return nil, err
	}
	if hindrances := d.hindrances(); len(hindrances) > 0 {
		return nil, fmt.Errorf("%s: %s", vm.Node, hindrances[0])
	}
	power, err := p.Power(ctx, vm)
	if err != nil {
		return nil, err
	}
	disks, request := d.written(), ""
	if power != hypervisor.Off {
		b, err := p.blocks(ctx, vm)
		if err != nil {
			return nil, err
		}
		nodes, err := b.nodes(disks)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", vm.Node, err)
		}
		if request, err = transaction(nodes, name); err != nil {
			return nil, err
		}
	}
	session, err := p.Session(ctx, vm)
	if err != nil {
		return nil, err
	}
	words := p.scripted(take, vm, name, disks, name, request)
	return &shot{p: p, vm: vm, name: name, disks: disks, words: words, session: session}, nil
}

// Take runs the script. Where its end is not known, so is whether it was carried out.
func (s *shot) Take(ctx context.Context) (hypervisor.Snapshot, error) {
	code, said, err := s.session.Run(ctx, s.words)
	switch {
	case errors.Is(err, overssh.ErrUnknown):
		return hypervisor.Snapshot{}, &hypervisor.UnknownError{Node: s.vm.Node, Err: err}
	case err != nil:
		return hypervisor.Snapshot{}, fmt.Errorf("%s: %w", s.vm.Node, err)
	case code == exitTaken:
		return hypervisor.Snapshot{}, &hypervisor.UnknownError{Node: s.vm.Node, Err: fmt.Errorf("it was taken, and libvirt did not enter it into its list: %s", remote.Escape(said))}
	case code != 0:
		// One of that name is refused by QEMU and by libvirt.
		if have, there, err := s.p.Find(ctx, s.vm, s.name); err == nil && there {
			return have, nil
		}
		return hypervisor.Snapshot{}, fmt.Errorf("%s: libvirt took no snapshot (exit code %d): %s", s.vm.Node, code, remote.Escape(said))
	}
	created, err := strconv.ParseInt(strings.TrimPrefix(said, "created="), 10, 64)
	if err != nil {
		return hypervisor.Snapshot{}, &hypervisor.UnknownError{Node: s.vm.Node, Err: fmt.Errorf("virsh printed %q, and no time", remote.Escape(said))}
	}
	return snapshot(s.name, targets(s.disks), created), nil
}

// Close has nothing to give back: the session is the provider's.
func (s *shot) Close() error { return nil }

func targets(disks []disk) []string {
	var out []string
	for _, k := range disks {
		out = append(out, k.Target.Dev)
	}
	return out
}

// snapshot is one that is whole. Its id has the time, so that one made later under the same name is another.
func snapshot(name string, disks []string, created int64) hypervisor.Snapshot {
	return hypervisor.Snapshot{Name: name, ID: fmt.Sprintf("%d:%s", created, strings.Join(disks, ",")), State: hypervisor.Ready, Created: time.Unix(created, 0)}
}

// listed returns the names in libvirt's list.
func (p *Provider) listed(ctx context.Context, vm hypervisor.VM) ([]string, error) {
	out, err := p.ask(ctx, vm, "snapshot-list", of(vm), "--name")
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' || r == '\r' }), nil
}

// read reads one of libvirt's list.
func (p *Provider) read(ctx context.Context, vm hypervisor.VM, name string) (hypervisor.Snapshot, error) {
	out, err := p.ask(ctx, vm, "snapshot-dumpxml", of(vm), "--snapshotname="+name)
	if err != nil {
		return hypervisor.Snapshot{}, err
	}
	var said struct {
		Created int64 `xml:"creationTime"`
		Disks   []struct {
			Name string `xml:"name,attr"`
			Kind string `xml:"snapshot,attr"`
		} `xml:"disks>disk"`
	}
	if err := xml.Unmarshal(out, &said); err != nil {
		return hypervisor.Snapshot{}, fmt.Errorf("%s: virsh snapshot-dumpxml printed no description of a snapshot: %w", vm.Node, err)
	}
	var inside []string
	for _, k := range said.Disks {
		if k.Kind == "internal" {
			inside = append(inside, k.Name)
		}
	}
	return snapshot(name, inside, said.Created), nil
}

// unlisted returns the snapshots that all images of a domain have and libvirt's list has not, with their times; none of a domain that does not run.
func (p *Provider) unlisted(ctx context.Context, vm hypervisor.VM, listed []string) (map[string]int64, []disk, error) {
	power, err := p.Power(ctx, vm)
	if err != nil || power == hypervisor.Off {
		return nil, nil, err
	}
	d, err := p.domain(ctx, vm)
	if err != nil {
		return nil, nil, err
	}
	b, err := p.blocks(ctx, vm)
	if err != nil {
		return nil, nil, err
	}
	disks := d.written()
	have := b.common(disks)
	maps.DeleteFunc(have, func(name string, _ int64) bool { return slices.Contains(listed, name) })
	return have, disks, nil
}

// complete enters a snapshot that the images have into libvirt's list. Done again it does the same again.
func (p *Provider) complete(ctx context.Context, vm hypervisor.VM, name string, disks []disk, created int64) error {
	result, err := p.Run(ctx, vm, "virsh snapshot-create", remote.Command{Argv: p.scripted(complete, vm, name, disks, strconv.FormatInt(created, 10))}, p.Within())
	if err != nil {
		return unknown(vm, err)
	}
	return overssh.Well("virsh snapshot-create", vm, result, nil)
}

// Find looks into libvirt's list, and then into the images of a domain that runs: what an interrupted Take left there is entered into the list.
func (p *Provider) Find(ctx context.Context, vm hypervisor.VM, name string) (hypervisor.Snapshot, bool, error) {
	names, err := p.listed(ctx, vm)
	if err != nil {
		return hypervisor.Snapshot{}, false, err
	}
	if !slices.Contains(names, name) {
		have, disks, err := p.unlisted(ctx, vm, names)
		if err != nil {
			return hypervisor.Snapshot{}, false, err
		}
		created, there := have[name]
		if !there {
			return hypervisor.Snapshot{}, false, nil
		}
		if err := p.complete(ctx, vm, name, disks, created); err != nil {
			return hypervisor.Snapshot{}, false, err
		}
	}
	found, err := p.read(ctx, vm, name)
	return found, err == nil, err
}

// List has those of libvirt's list, and what interrupted calls left in the images of a domain that runs.
func (p *Provider) List(ctx context.Context, vm hypervisor.VM, prefix string) ([]hypervisor.Snapshot, error) {
	names, err := p.listed(ctx, vm)
	if err != nil {
		return nil, err
	}
	have, disks, err := p.unlisted(ctx, vm, names)
	if err != nil {
		return nil, err
	}
	var out []hypervisor.Snapshot
	for _, name := range names {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		one, err := p.read(ctx, vm, name)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	for name, created := range have {
		if strings.HasPrefix(name, prefix) {
			out = append(out, snapshot(name, targets(disks), created))
		}
	}
	slices.SortFunc(out, func(a, b hypervisor.Snapshot) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name))
	})
	return out, nil
}

// Delete takes one out of the images and the list. Of a domain that is off nobody can say what its images have: there libvirt is made to delete it from each that has it.
func (p *Provider) Delete(ctx context.Context, vm hypervisor.VM, name string) error {
	names, err := p.listed(ctx, vm)
	if err != nil {
		return err
	}
	if !slices.Contains(names, name) {
		have, disks, err := p.unlisted(ctx, vm, names)
		if err != nil {
			return err
		}
		created, there := have[name]
		if disks == nil { // it is off
			d, err := p.domain(ctx, vm)
			if err != nil {
				return err
			}
			disks, created, there = d.written(), time.Now().Unix(), true
		}
		if !there {
			return nil
		}
		if err := p.complete(ctx, vm, name, disks, created); err != nil {
			return err
		}
	}
	return p.change(ctx, vm, p.Within(), "snapshot-delete", of(vm), "--snapshotname="+name)
}

// Rollback puts disks and definition back, and forgets a saved memory, which would be of another moment.
func (p *Provider) Rollback(ctx context.Context, vm hypervisor.VM, name string) error {
	power, err := p.Power(ctx, vm)
	if err != nil {
		return err
	}
	if power != hypervisor.Off {
		return fmt.Errorf("%s: its VM is %s: only one that is off is put back", vm.Node, power)
	}
	names, err := p.listed(ctx, vm)
	if err != nil {
		return err
	}
	if !slices.Contains(names, name) {
		return &hypervisor.NotFoundError{Node: vm.Node, What: "snapshot " + name}
	}
	if err := p.change(ctx, vm, p.Within(), "managedsave-remove", of(vm)); err != nil {
		return err
	}
	return p.change(ctx, vm, 0, "snapshot-revert", of(vm), "--snapshotname="+name)
}

// Power asks libvirt for the domain's state.
func (p *Provider) Power(ctx context.Context, vm hypervisor.VM) (hypervisor.Power, error) {
	out, err := p.ask(ctx, vm, "domstate", of(vm))
	if err != nil {
		return "", err
	}
	switch strings.TrimSpace(string(out)) {
	case "running", "idle":
		return hypervisor.On, nil
	case "shut off":
		return hypervisor.Off, nil
	}
	return hypervisor.Other, nil
}

// Start switches a domain on that is off.
func (p *Provider) Start(ctx context.Context, vm hypervisor.VM) error {
	return p.turn(ctx, vm, func(power hypervisor.Power) bool { return power != hypervisor.Off }, "start")
}

// Stop asks the guest to shut down (ACPI, or its agent), or takes the domain's power away.
func (p *Provider) Stop(ctx context.Context, vm hypervisor.VM, hard bool) error {
	verb := "shutdown"
	if hard {
		verb = "destroy"
	}
	return p.turn(ctx, vm, func(power hypervisor.Power) bool { return power == hypervisor.Off }, verb)
}

// turn runs a command unless the domain is as it is to be, before or after it.
func (p *Provider) turn(ctx context.Context, vm hypervisor.VM, is func(hypervisor.Power) bool, verb string) error {
	power, err := p.Power(ctx, vm)
	if err != nil || is(power) {
		return err
	}
	if err = p.change(ctx, vm, p.Within(), verb, of(vm)); err == nil {
		return nil
	}
	if power, also := p.Power(ctx, vm); also == nil && is(power) {
		return nil
	}
	return err
}

// change runs a command of virsh that changes something and may be repeated.
func (p *Provider) change(ctx context.Context, vm hypervisor.VM, within time.Duration, args ...string) error {
	result, err := p.Run(ctx, vm, "virsh "+args[0], p.command(args...), within)
	if err != nil {
		return unknown(vm, err)
	}
	return overssh.Well("virsh "+args[0], vm, result, nil)
}

func unknown(vm hypervisor.VM, err error) error {
	return &hypervisor.UnknownError{Node: vm.Node, Err: err}
}
