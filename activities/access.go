package activities

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
	"github.com/katoflow/katoflow/internal/remote"
)

// PublicKeys tells the keys that the worker logs in with; *remote.Pool does.
type PublicKeys interface {
	PublicKeys(ctx context.Context, h remote.Host) ([]string, error)
}

// Access does what concerns logins by SSH between the nodes ("Passwordless SSH Authentication" of the source page; kato.md §3.2, §3.6, §5). Its fields are set by the worker and not changed afterwards.
//
// Every method may be attempted any number of times, as those of Nodes.
type Access struct {
	Nodes *Nodes
	Keys  PublicKeys
	// trial is how long a node waits for the word that logins still work, before it takes its passwords back; 0 = trialTime.
	trial time.Duration
}

const (
	trialTime = 45 * time.Second
	// keysWithin bounds a job that changes a user's keys, passwordsWithin one that changes the server's configuration beside its trial.
	keysWithin      = 5 * time.Minute
	passwordsWithin = 2 * time.Minute
)

var (
	pairScript      = script("ssh_pair", "ssh_pair_job")
	keysScript      = script("ssh_pair", "ssh_keys")
	knowScript      = plainScript("ssh_know")
	loginScript     = script("ssh_pair", "ssh_login")
	accessScript    = script("ssh_pair", "ssh_status")
	passwordsScript = script("ssh_pair", "ssh_passwords")
)

// AccessNodeInput is the input of a step on one node.
type AccessNodeInput struct {
	NodeInput
	// Change is what is asked for; its Request is not looked at. From and PublicKey are never empty.
	Change operation.AccessInput `json:"change"`
	// Given: the key is not that of From, but was given.
	Given bool `json:"given,omitempty"`
	// HostKeys are those that the node has told of itself, as TYPE KEY.
	HostKeys []string `json:"hostKeys,omitempty"`
}

func (in AccessNodeInput) port() int { return sshPort(in.Change.Port) }

func sshPort(port int) int {
	if port == 0 {
		return 22
	}
	return port
}

// The jobs of it, each in one place.

func (s site) coreKeyJob(op Operation, t target, try int) remote.JobSpec {
	return remote.JobSpec{ID: jobID(op, t.node.Name, operation.StepCoreKey, try), Lease: lease(op), Argv: []string{"sh", "-c", pairScript, "sh", "1"}}
}

func (s site) keysJob(op Operation, t target, try int, change operation.AccessInput, guarded []string) remote.JobSpec {
	action, own := "add", "make"
	switch {
	case change.Action == operation.AccessRevoke && change.OwnKeys:
		action, own = "remove", "with"
	case change.Action == operation.AccessRevoke:
		action, own = "remove", "without"
	case change.NoOwnKeys:
		own = "without"
	}
	return remote.JobSpec{ID: jobID(op, t.node.Name, operation.StepKeys, try), Lease: lease(op), Argv: []string{"sh", "-c", keysScript, "sh", action, own, strings.Join(guarded, " "), change.PublicKey}}
}

// confirmation is the file on a node that says that its trial is over, well: root's, so that nobody else confirms it.
func confirmation(id remote.JobID) string { return "/run/katoflow-" + remote.EncodeID(id.Dir()) }

func (x *Access) trialTime() time.Duration {
	if x.trial > 0 {
		return x.trial
	}
	return trialTime
}

func (x *Access) passwordsJob(ctx context.Context, op Operation, t target, try int, change operation.AccessInput) (remote.JobSpec, error) {
	address, err := nodeID(ctx, t)
	if err != nil {
		return remote.JobSpec{}, err
	}
	action := "off"
	if change.RestorePasswords {
		action = "on"
	}
	spec := asRoot(op, t, operation.StepPasswords, try)
	spec.Argv = []string{"sh", "-c", passwordsScript, "sh", action, confirmation(spec.ID), strconv.Itoa(max(int(x.trialTime()/time.Second), 1)), t.host.User, address, strconv.Itoa(sshPort(change.Port))}
	return spec, nil
}

// CoreKeyResult is the key of the node that reaches the others.
type CoreKeyResult struct {
	// PublicKey is its line of authorized_keys.
	PublicKey string `json:"publicKey"`
	Made      bool   `json:"made,omitempty"`
}

// CoreKey reads the public key of a node's login user: of the first of id_rsa, id_ecdsa and id_ed25519 that is there. Where there is none it is made (job `core-key`: ssh-keygen, RSA of 4096 bits without a
// passphrase), unless Settle is set. A key that is there is never written over.
//
// Errors: RemoteExit when there is none that can be used; Unreachable, and what package remote tells of a node.
func (x *Access) CoreKey(ctx context.Context, in NodeInput) (CoreKeyResult, error) {
	a := begin(ctx, "the key of "+in.Node.Name)
	defer a.finish()
	s, t, err := x.Nodes.where(in.Operation, in.Node.Name)
	if err != nil {
		return CoreKeyResult{}, err
	}
	var said answer
	if in.Settle {
		err = a.persist(t.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) (err error) {
			said, err = ask(ctx, x.Nodes.Connections, t.host, accessScript, "", "0")
			return err
		})
	} else {
		said, _, err = x.Nodes.told(a, t, in, x.Nodes.job(in, t, s.coreKeyJob(in.Operation, t, in.JobTry), keysWithin))
	}
	out := CoreKeyResult{PublicKey: said.value("public"), Made: said.value("made") != ""}
	if why := said.value("no-key"); out.PublicKey == "" && why != "" {
		return out, fail(operation.ErrRemoteExit, t.host.Name, "%s has no key: %s", t.host.User, remote.Escape(why))
	}
	if err != nil {
		return out, err
	}
	if err := operation.CheckPublicKey(out.PublicKey); err != nil {
		return out, fail(operation.ErrVerify, t.host.Name, "its key cannot be used: %s", remote.Escape(err.Error()))
	}
	return out, nil
}

// KeysResult is what became of a node's authorized_keys.
type KeysResult struct {
	JobResult
	// HostKeys of the node, as TYPE KEY.
	HostKeys []string `json:"hostKeys,omitempty"`
}

// ChangeKeys adds the key that is granted to authorized_keys of the node's login user, or takes it away (job `keys`); its own key as well, which is made where it is missing. A line that is there is not added
// again, and the mode and the owner of the file stay. The worker's own key is never taken away.
//
// Errors: RemoteExit when the file cannot be written, with what to look at; BadInput for the worker's own key; Unreachable, Lost, and what package remote tells of a node.
func (x *Access) ChangeKeys(ctx context.Context, in AccessNodeInput) (KeysResult, error) {
	a := begin(ctx, "keys")
	defer a.finish()
	s, t, err := x.Nodes.where(in.Operation, in.Node.Name)
	if err != nil {
		return KeysResult{}, err
	}
	var guarded []string
	if in.Change.Action == operation.AccessRevoke {
		mine, err := x.Keys.PublicKeys(a.ctx, t.host)
		if err != nil {
			return KeysResult{}, nodeError(err)
		}
		for _, line := range mine {
			guarded = append(guarded, operation.KeyOf(line))
		}
		if slices.Contains(guarded, operation.KeyOf(in.Change.PublicKey)) {
			return KeysResult{}, fail(operation.ErrBadInput, t.host.Name, "this is the key with which katoflow itself logs in: it stays")
		}
	}
	said, result, err := x.Nodes.told(a, t, in.NodeInput, x.Nodes.job(in.NodeInput, t, s.keysJob(in.Operation, t, in.JobTry, in.Change, guarded), keysWithin))
	out := KeysResult{JobResult: result, HostKeys: said.values["host-key"]}
	out.HostKeys = slices.DeleteFunc(out.HostKeys[:min(len(out.HostKeys), 10)], func(line string) bool { return operation.CheckPublicKey(line) != nil })
	for _, kind := range []struct{ key, what string }{{"added", "added"}, {"removed", "taken away"}, {"there", "was there"}, {"gone", "was not there"}, {"guarded", "stays: the node reaches itself with it, or katoflow the node"}} {
		for _, line := range said.values[kind.key] {
			which := "key of " + in.Change.From
			if operation.KeyOf(line) != operation.KeyOf(in.Change.PublicKey) {
				which = "its own key"
			} else if comment := operation.CommentOf(line); comment != "" {
				which = "key " + remote.Escape(comment)
			}
			out.Notes = append(out.Notes, which+" "+kind.what)
		}
	}
	if said.value("made") != "" {
		out.Notes = append(out.Notes, "its own key was made")
	}
	if loose := said.values["loose"]; len(loose) > 0 && in.Change.Action == operation.AccessGrant {
		out.Notes = append(out.Notes, "others may write "+remote.Escape(strings.Join(loose, ", "))+": an SSH server refuses the keys then, take that right away (chmod go-w)")
	}
	out.Notes = notes(out.Notes...)
	return out, err
}

// login is one try to log in from one node to another.
type loginTry struct {
	in bool
	// why it failed, in ssh's words; unknown when the host key is not known there.
	why     string
	unknown bool
	// ways that the server offers, nil when that was not asked or not told.
	ways []string
}

// tryLogin logs in as the user of to by key, as kato does it, and with the first key of from alone, and asks which ways there are. The error is of package remote.
func (x *Access) tryLogin(ctx context.Context, from, to target, port int, login, ways, alone bool) (loginTry, error) {
	address, err := nodeID(ctx, to)
	if err != nil {
		return loginTry{}, err
	}
	said, err := ask(ctx, x.Nodes.Connections, from.host, loginScript, to.host.User, address, strconv.Itoa(port), flag(login), flag(ways), flag(alone))
	if err != nil {
		return loginTry{}, err
	}
	text := said.sections["login"]
	in := said.exit("login-exit") == 0 && strings.Contains(text, "katoflow-is-in") && (!alone || said.exit("alone-exit") == 0)
	out := loginTry{in: in, ways: offered(said.sections["ways"])}
	if login && !out.in {
		out.unknown = strings.Contains(text, "host key is known for")
		out.why = orNothing(tellingSSH(text))
		if alone && said.exit("login-exit") == 0 {
			out.why = "another key gets in, and the one that was granted does not (has it a passphrase?): " + out.why
		}
	}
	return out, nil
}

// tellingSSH is the line of ssh's words that says most.
func tellingSSH(text string) string {
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(text, "\r", "")), "\n")
	for _, line := range lines {
		if strings.Contains(line, "REMOTE HOST IDENTIFICATION HAS CHANGED") {
			return "its host key has changed: see why, and remove the old one there with ssh-keygen -R"
		}
	}
	return remote.Escape(lines[len(lines)-1])
}

// offered reads the ways from "user@host: Permission denied (publickey,password)."; nil when it is not there.
func offered(text string) []string {
	_, rest, found := strings.Cut(text, "Permission denied (")
	list, _, ended := strings.Cut(rest, ")")
	if !found || !ended {
		return nil
	}
	var ways []string
	for way := range strings.SplitSeq(list, ",") {
		ways = append(ways, oneLine(strings.TrimSpace(way), 40))
	}
	return ways[:min(len(ways), 10)]
}

// loginAgain is how often a login that fails is tried, a pause between: a server that was just reloaded may be away for a moment.
const loginAgain = 3

// proveLogin tries a login that is wanted, and tells the host key where it is not known. The error is the activity's.
func (x *Access) proveLogin(a *attempt, s site, from, to target, in AccessNodeInput) error {
	told := false
	for try := 1; ; try++ {
		var got loginTry
		err := a.persist(from.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) (err error) {
			got, err = x.tryLogin(ctx, from, to, in.port(), true, false, true)
			return err
		})
		switch {
		case err != nil || got.in:
			return err
		case got.unknown && !told && len(in.HostKeys) > 0:
			if err := x.tellHostKey(a, s, from, to, in); err != nil {
				return err
			}
			told, try = true, 0
		case try >= loginAgain:
			return fail(operation.ErrVerify, to.node.Name, "a login from %s does not work: %s", from.node.Name, got.why)
		case !a.pause(firstPause * time.Duration(try)):
			return ended(a.ctx)
		}
	}
}

// tellHostKey adds the host keys of one node to known_hosts of another (job `know-host`).
func (x *Access) tellHostKey(a *attempt, s site, from, to target, in AccessNodeInput) error {
	address, err := nodeID(a.ctx, to)
	if err != nil {
		return err
	}
	name := address
	if in.port() != 22 {
		name = fmt.Sprintf("[%s]:%d", address, in.port())
	}
	node := in.NodeInput
	node.Node.Name = from.node.Name
	spec := remote.JobSpec{ID: jobID(in.Operation, from.node.Name, operation.JobKnowHost+"-"+to.node.Name, in.JobTry), Lease: lease(in.Operation),
		Argv: append([]string{"sh", "-c", knowScript, "sh", name}, in.HostKeys...)}
	_, _, err = x.Nodes.told(a, from, node, x.Nodes.job(node, from, spec, keysWithin))
	return err
}

// ProveLogins tries the logins that a grant is for: from the node that reaches the others, and from the node to itself. Where ssh does not know the host key there, it is told (job `know-host`), as the node has
// said it itself over a connection whose host key the worker has verified. After a revocation it sees to it that the key is refused.
//
// Errors: Verify with ssh's words when a login does not work, or works still; Unreachable, and what package remote tells of a node.
func (x *Access) ProveLogins(ctx context.Context, in AccessNodeInput) (JobResult, error) {
	a := begin(ctx, "logins")
	defer a.finish()
	s, t, err := x.Nodes.where(in.Operation, in.Node.Name)
	if err != nil {
		return JobResult{}, err
	}
	from, err := s.target(in.Change.From)
	if err != nil {
		return JobResult{}, err
	}
	if in.Change.Action == operation.AccessRevoke {
		return x.refused(a, from, t, in)
	}
	out := JobResult{Started: true}
	theirs, err := x.isKeyOf(a, from, in)
	switch {
	case err != nil:
		return out, err
	case theirs:
		if err := x.proveLogin(a, s, from, t, in); err != nil {
			return out, err
		}
		out.Notes = append(out.Notes, "login from "+from.node.Name+" proved")
	case !in.Given:
		return out, fail(operation.ErrVerify, from.node.Name, "its key is another one than at the beginning of the operation: start it anew")
	default:
		out.Notes = append(out.Notes, "a login with the key was not tried: its private half is not on "+from.node.Name)
	}
	if in.Change.NoOwnKeys || from.node == t.node {
		return out, nil
	}
	if err := x.proveLogin(a, s, t, t, in); err != nil {
		return out, err
	}
	out.Notes = append(out.Notes, "login to itself proved")
	return out, nil
}

// isKeyOf says whether the key that is granted or revoked is the one that a node logs in with.
func (x *Access) isKeyOf(a *attempt, from target, in AccessNodeInput) (is bool, err error) {
	err = a.persist(from.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) error {
		said, err := ask(ctx, x.Nodes.Connections, from.host, accessScript, "", "0")
		is = operation.KeyOf(said.value("public")) == operation.KeyOf(in.Change.PublicKey)
		return err
	})
	return is, err
}

// refused sees to it that a key that was taken away does not lead to the node any more.
func (x *Access) refused(a *attempt, from, to target, in AccessNodeInput) (JobResult, error) {
	out := JobResult{Started: true}
	theirs, err := x.isKeyOf(a, from, in)
	switch {
	case err != nil:
		return out, err
	case from.node == to.node && !in.Change.OwnKeys:
		return out, nil
	case !theirs:
		out.Notes = []string{"that it is refused was not tried: its private half is not on " + from.node.Name}
		return out, nil
	}
	var got loginTry
	err = a.persist(from.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) (err error) {
		got, err = x.tryLogin(ctx, from, to, in.port(), true, false, false)
		return err
	})
	switch {
	case err != nil:
		return out, err
	case got.in:
		return out, fail(operation.ErrVerify, to.node.Name, "%s still gets in: another file of keys, or another key of it, leads there (AuthorizedKeysFile, a certificate, an agent)", from.node.Name)
	}
	out.Notes = notes("login from " + from.node.Name + " is refused: " + got.why)
	return out, nil
}

// PasswordsReadyResult is what stands in the way of switching password logins.
type PasswordsReadyResult struct {
	// Warnings are one line each, with the node before it.
	Warnings []string `json:"warnings,omitempty"`
	// Problems are one line each, with the node before it.
	Problems []string `json:"problems,omitempty"`
}

// PasswordsReady asks nodes, side by side, whether their password logins can be switched: sudo has to run a shell; and what is to be thought of. It changes nothing. A node that does not answer is none of its problems: the preflight tells of
// it.
func (x *Access) PasswordsReady(ctx context.Context, in AccessLookInput) (PasswordsReadyResult, error) {
	a := begin(ctx, "sudo")
	defer a.finish()
	s, err := x.Nodes.Source.site(in.Cluster)
	if err != nil {
		return PasswordsReadyResult{}, err
	}
	targets, err := s.targets(in.Nodes)
	if err != nil {
		return PasswordsReadyResult{}, err
	}
	saids, errs := make([]answer, len(targets)), make([]error, len(targets))
	each(len(targets), func(i int) {
		saids[i], errs[i] = ask(a.ctx, x.Nodes.Connections, targets[i].host, accessScript, "", flag(targets[i].host.User != "root"))
	})
	if a.ctx.Err() != nil {
		return PasswordsReadyResult{}, ended(a.ctx)
	}
	var out PasswordsReadyResult
	for i, name := range in.Nodes {
		if errs[i] != nil {
			continue
		}
		if saids[i].value("switched-off") != "" && !in.Switch {
			out.Warnings = append(out.Warnings, name+": katoflow has switched its password logins off, and they stay so: see that another key than this one leads there (--restore-passwords takes it back)")
		}
		if saids[i].value("needs-passwords") != "" && in.Switch {
			out.Warnings = append(out.Warnings, name+": its sshd_config asks some users for a password beside a key (AuthenticationMethods): they get in no more without passwords")
		}
		if in.Switch && saids[i].value("sudo") == "" {
			out.Problems = append(out.Problems, fmt.Sprintf("%s: sudo does not let %s run a shell without a password, which switching password logins needs: install deploy/sudoers/katoflow-shell there", name, targets[i].host.User))
		}
	}
	return out, nil
}

// PasswordsResult is what became of a node's password logins.
type PasswordsResult struct {
	JobResult
	// Reverted: nobody confirmed in time, and nothing was found amiss. Password logins are as they were, and it can be tried again.
	Reverted bool `json:"reverted,omitempty"`
}

// ChangePasswords switches a node's password logins off, or back on (job `passwords`, as root). Switching off is a trial: the server runs with the new configuration, the old one lies on the disk, and the
// job takes it back unless it is told within its time that a new connection of the worker, a login from the node that reaches the others, and the node's own one work. What the server offers afterwards is
// asked from there.
//
// Errors: RemoteExit when sshd refuses the configuration, or offers passwords still; Verify when a login does not work, after the trial was taken back; Unreachable, Lost, and what package remote tells of a
// node.
func (x *Access) ChangePasswords(ctx context.Context, in AccessNodeInput) (PasswordsResult, error) {
	a := begin(ctx, "passwords")
	defer a.finish()
	s, t, err := x.Nodes.where(in.Operation, in.Node.Name)
	if err != nil {
		return PasswordsResult{}, err
	}
	from, err := s.target(in.Change.From)
	if err != nil {
		return PasswordsResult{}, err
	}
	spec, err := x.passwordsJob(a.ctx, in.Operation, t, in.JobTry, in.Change)
	if err != nil {
		return PasswordsResult{}, err
	}
	job := x.Nodes.job(in.NodeInput, t, spec, x.trialTime()+passwordsWithin)
	// The trial is watched beside the job, which ends by its answer.
	watching, stop := context.WithCancel(a.ctx)
	var wrong error
	var watcher sync.WaitGroup
	switch {
	case in.Settle: // it may not be broken off, but it need not be waited for
		watcher.Go(func() { _ = x.answerTrial(watching, t, confirmation(spec.ID)+".not") })
	case in.Change.DisablePasswords:
		watcher.Go(func() { wrong = x.judge(watching, s, from, t, spec, in) })
	}
	var said answer
	var result JobResult
	for began := a.since("trial"); ; {
		said, result, err = x.Nodes.told(a, t, in.NodeInput, job)
		// A worker that comes to it in the middle of a trial that shuts it out waits for the trial's end.
		if err == nil || failureOf(err).Type != operation.ErrSSHAuth || in.Change.RestorePasswords || time.Since(began) > x.trialTime()+passwordsWithin || !a.pause(longestPause) {
			break
		}
	}
	stop()
	watcher.Wait()
	out := PasswordsResult{JobResult: result}
	switch {
	case said.value("reverted") != "" && wrong != nil:
		f := failureOf(wrong)
		return out, failJob(operation.ErrVerify, t.host.Name, spec.ID.Dir(), "", "without passwords a new login does not work, so that they are back: %s", withoutNode(f.Message, t.host.Name))
	case said.value("reverted") != "":
		out.Reverted, out.Started = true, true
		return out, nil
	case err != nil || !result.Started || result.Interrupted || in.Settle:
		return out, err
	}
	ways, err := x.waysOf(a, from, t, in)
	if err != nil {
		return out, err
	}
	asks := operation.OffersPasswords(ways)
	changed := said.value("changed") != ""
	switch {
	case ways == nil:
		return out, fail(operation.ErrVerify, t.host.Name, "which logins its server offers was not learned from %s", from.node.Name)
	case in.Change.DisablePasswords && asks:
		return out, fail(operation.ErrVerify, t.host.Name, "its server still offers %s to %s: look for a Match block in its sshd_config", strings.Join(ways, ", "), from.node.Name)
	case in.Change.DisablePasswords && changed:
		out.Notes = append(out.Notes, "password logins are off")
	case in.Change.DisablePasswords:
		out.Notes = append(out.Notes, "password logins were off already")
	case changed && !asks:
		out.Notes = append(out.Notes, "katoflow's lines are gone from its sshd_config, and its own configuration does not allow passwords either")
	case changed:
		out.Notes = append(out.Notes, "password logins are back")
	default:
		out.Notes = append(out.Notes, "katoflow had not switched its password logins off")
	}
	return out, nil
}

// waysOf asks from one node which logins another one offers.
func (x *Access) waysOf(a *attempt, from, to target, in AccessNodeInput) (ways []string, err error) {
	for try := 1; try <= loginAgain; try++ {
		err = a.persist(from.host.Name, in.UnreachableAfter.D(), "", func(ctx context.Context) error {
			got, err := x.tryLogin(ctx, from, to, in.port(), false, true, false)
			ways = got.ways
			return err
		})
		if err != nil || ways != nil && (!in.Change.DisablePasswords || !operation.OffersPasswords(ways)) {
			return ways, err
		}
		if !a.pause(firstPause) {
			return nil, ended(a.ctx)
		}
	}
	return ways, nil
}

// judge waits for the trial to begin, tries the logins, and confirms it when they work. It returns what was wrong last; nil also when there was nothing to judge. A login that works at last may be one that works
// because the trial is over.
func (x *Access) judge(ctx context.Context, s site, from, t target, spec remote.JobSpec, in AccessNodeInput) error {
	var wrong error
	for {
		if sleep(ctx, firstPause) != nil {
			return wrong
		}
		out, err := x.Nodes.Jobs.Output(ctx, t.host, spec.ID, 64<<10)
		if err != nil { // not there yet, or not reached; a login that is refused is what the trial is to find out
			if remote.IsKind(err, remote.KindAuth) {
				wrong = err
			}
			continue
		}
		if parseAnswer(out).value("trial") != "" {
			break
		}
	}
	for {
		err := x.worksWithout(ctx, s, from, t, in)
		if err == nil {
			break
		}
		if ctx.Err() == nil || wrong == nil {
			wrong = err
		}
		if sleep(ctx, firstPause) != nil {
			return wrong
		}
	}
	if err := x.answerTrial(ctx, t, confirmation(spec.ID)); err != nil {
		return err
	}
	return wrong
}

// answerTrial makes the file that a trial waits for, until that is done or the trial is over.
func (x *Access) answerTrial(ctx context.Context, t target, file string) error {
	for {
		_, err := x.Nodes.Connections.Run(ctx, t.host, remote.Command{Argv: confirmCommand(t, file)})
		if err == nil {
			return nil
		}
		if sleep(ctx, firstPause) != nil {
			return err
		}
	}
}

func confirmCommand(t target, file string) []string {
	argv := []string{"sh", "-c", `touch "$1"`, "sh", file}
	if t.host.User != "root" {
		argv = append([]string{"sudo", "-n"}, argv...)
	}
	return argv
}

// worksWithout tries every login that there must be, each on a new connection.
func (x *Access) worksWithout(ctx context.Context, s site, from, t target, in AccessNodeInput) error {
	anew := t.host
	anew.Apart = in.Operation.ID
	_, err := x.Nodes.Connections.Run(ctx, anew, remote.Command{Argv: []string{"true"}})
	x.Nodes.Connections.Forget(anew)
	if err != nil {
		return err
	}
	ways := []target{from, t}
	if in.Change.NoOwnKeys || from.node == t.node {
		ways = ways[:1]
	}
	for _, way := range ways {
		got, err := x.tryLogin(ctx, way, t, in.port(), true, false, true)
		if err != nil {
			return err
		}
		if !got.in {
			return fail(operation.ErrVerify, t.node.Name, "a login from %s does not work: %s", way.node.Name, got.why)
		}
	}
	return nil
}

// FirstContactInput asks for nodes to be reached with a password.
type FirstContactInput struct {
	Operation Operation           `json:"operation"`
	Nodes     []string            `json:"nodes"`
	Password  operation.SecretRef `json:"password"`
	// DryRun tries the password and changes nothing.
	DryRun bool `json:"dryRun,omitempty"`
}

// FirstContactResult is which nodes were reached.
type FirstContactResult struct {
	// Introduced are the nodes that knew the worker's key not before; in a dry run they still do not.
	Introduced []string `json:"introduced,omitempty"`
	// Problems are one line each, with the node before it.
	Problems []string `json:"problems,omitempty"`
}

// FirstContact puts the worker's own key onto the nodes that refuse it, as ssh-copy-id does: it logs in there with a password, once, as the answer to one question of keyboard-interactive or as it is, adds the
// line to authorized_keys, and logs in by key. Nodes that take the key are left alone, and so are those that are not reached at all: the preflight tells of them. The password is read by the worker where it is
// kept, at the moment of use.
//
// Errors: BadInput when the password cannot be read.
func (x *Access) FirstContact(ctx context.Context, in FirstContactInput) (FirstContactResult, error) {
	a := begin(ctx, "first contact")
	defer a.finish()
	s, err := x.Nodes.Source.site(in.Operation.Cluster)
	if err != nil {
		return FirstContactResult{}, err
	}
	targets, err := s.targets(in.Nodes)
	if err != nil {
		return FirstContactResult{}, err
	}
	secret, err := inventory.Secret{Env: in.Password.Env, File: in.Password.File}.Resolve(s.file, s.env)
	if err != nil {
		return FirstContactResult{}, operation.NewError(operation.Failure{Type: operation.ErrBadInput, Message: oneLine("the password: "+err.Error(), maxMessage)})
	}
	introduced, errs := make([]bool, len(targets)), make([]error, len(targets))
	each(len(targets), func(i int) {
		introduced[i], errs[i] = x.introduce(a.ctx, targets[i], secret, in.DryRun)
	})
	if a.ctx.Err() != nil {
		return FirstContactResult{}, ended(a.ctx)
	}
	var out FirstContactResult
	for i, name := range in.Nodes {
		if introduced[i] {
			out.Introduced = append(out.Introduced, name)
		}
		if errs[i] != nil {
			out.Problems = append(out.Problems, oneLine(name+": "+withoutNode(failureOf(errs[i]).Message, targets[i].host.Name), 500))
		}
	}
	return out, nil
}

// introduce is the first contact with one node.
func (x *Access) introduce(ctx context.Context, t target, password []byte, dry bool) (introduced bool, err error) {
	_, err = x.Nodes.Connections.Run(ctx, t.host, remote.Command{Argv: []string{"true"}})
	if !remote.IsKind(err, remote.KindAuth) {
		return false, nil
	}
	lines, err := x.Keys.PublicKeys(ctx, t.host)
	if err != nil {
		return false, err
	}
	host := t.host
	host.Password = func() ([]byte, error) { return password, nil }
	defer x.Nodes.Connections.Forget(host)
	if dry {
		_, err = x.Nodes.Connections.Run(ctx, host, remote.Command{Argv: []string{"true"}})
		return err == nil, err
	}
	ran, err := x.Nodes.Connections.Run(ctx, host, remote.Command{Script: keysScript, Args: []string{"add", "without", "", lines[0]}, AnyExit: true})
	if err != nil {
		return false, err
	}
	said := parseAnswer(ran.Stdout)
	if why := said.value("failed"); why != "" || !said.complete {
		return false, fail(operation.ErrRemoteExit, t.host.Name, "the worker's key cannot be added: %s", remote.Escape(orNothing(why)))
	}
	if _, err := x.Nodes.Connections.Run(ctx, t.host, remote.Command{Argv: []string{"true"}}); err != nil {
		hint := ""
		if loose := said.values["loose"]; len(loose) > 0 {
			hint = "; others may write " + remote.Escape(strings.Join(loose, ", ")) + ", which its server does not take: chmod go-w"
		}
		return false, fail(operation.ErrSSHAuth, t.host.Name, "the worker's key is in authorized_keys now, and is refused all the same%s", hint)
	}
	return true, nil
}

// AccessLookInput names the nodes whose access is asked about.
type AccessLookInput struct {
	Cluster string   `json:"cluster"`
	Nodes   []string `json:"nodes"`
	From    string   `json:"from"`
	Port    int      `json:"port,omitempty"`
	// Switch: password logins are to be switched.
	Switch bool `json:"switch,omitempty"`
}

// LookAtAccess tries, from one node, the logins to all nodes, and each node's own, and tells what stands in the way. It changes nothing: a host key that is not known is a login that does not work.
// A node that does not say is in the result; the error says that the inventory has changed.
func (x *Access) LookAtAccess(ctx context.Context, in AccessLookInput) (operation.AccessStatus, error) {
	a := begin(ctx, "access")
	defer a.finish()
	out := operation.AccessStatus{Cluster: in.Cluster, From: in.From, Nodes: []operation.AccessNode{}}
	s, err := x.Nodes.Source.site(in.Cluster)
	if err != nil {
		return out, err
	}
	targets, err := s.targets(in.Nodes)
	if err != nil {
		return out, err
	}
	from, err := s.target(in.From)
	if err != nil {
		return out, err
	}
	key := ""
	core, err := ask(a.ctx, x.Nodes.Connections, from.host, accessScript, "", "0")
	if err != nil {
		out.Problems = append(out.Problems, oneLine(in.From+": "+withoutNode(failureOf(err).Message, from.host.Name), 500))
	} else if line := core.value("public"); line != "" {
		key = operation.KeyOf(line)
		out.Key = remote.Escape(operation.CommentOf(line))
	}
	rows, errs := make([]operation.AccessNode, len(targets)), make([]error, len(targets))
	each(len(targets), func(i int) {
		rows[i], errs[i] = x.lookAt(a.ctx, from, targets[i], key, sshPort(in.Port))
	})
	if a.ctx.Err() != nil {
		return out, ended(a.ctx)
	}
	for i, name := range in.Nodes {
		if errs[i] != nil {
			out.Problems = append(out.Problems, oneLine(name+": "+withoutNode(failureOf(errs[i]).Message, targets[i].host.Name), 500))
		}
	}
	out.Nodes = rows
	return out, nil
}

// lookAt is LookAtAccess of one node.
func (x *Access) lookAt(ctx context.Context, from, t target, key string, port int) (operation.AccessNode, error) {
	row := operation.AccessNode{Name: t.node.Name, FromLogin: "not tried", OwnLogin: "not tried"}
	said, err := ask(ctx, x.Nodes.Connections, t.host, accessScript, key, flag(t.host.User != "root"))
	if err != nil {
		return row, err
	}
	row.Granted, row.Sudo = said.value("granted") != "", said.value("sudo") != ""
	for _, loose := range said.values["loose"] {
		row.Loose = append(row.Loose, oneLine(loose, 200))
	}
	word := func(got loginTry, err error) string {
		switch {
		case err != nil:
			return oneLine(failureOf(err).Message, 200)
		case got.in:
			return operation.LoginOK
		}
		return oneLine(got.why, 200)
	}
	own, err := x.tryLogin(ctx, t, t, port, true, true, false)
	row.OwnLogin, row.Methods = word(own, err), own.ways
	if from.node == t.node {
		row.FromLogin = row.OwnLogin
		return row, nil
	}
	theirs, err := x.tryLogin(ctx, from, t, port, true, true, false)
	row.FromLogin = word(theirs, err)
	if theirs.ways != nil {
		row.Methods = theirs.ways // as others see it
	}
	return row, nil
}

// PlanAccessInput asks for the commands of a dry run.
type PlanAccessInput struct {
	Operation Operation               `json:"operation"`
	Nodes     []operation.PlannedNode `json:"nodes"`
	Change    operation.AccessInput   `json:"change"`
}

// PlanAccess tells what a dry run shows. It reaches no node. The scripts are told by what they do: their texts are long.
func (x *Access) PlanAccess(ctx context.Context, in PlanAccessInput) (PlanCommandsResult, error) {
	a := begin(ctx, "commands of the plan")
	defer a.finish()
	s, err := x.Nodes.Source.site(in.Operation.Cluster)
	if err != nil {
		return PlanCommandsResult{}, err
	}
	var out PlanCommandsResult
	key := "the key of " + in.Change.From
	if in.Change.PublicKey != "" {
		key = remote.Quote([]string{in.Change.PublicKey})
	}
	for _, planned := range in.Nodes {
		t, err := s.target(planned.Name)
		if err != nil {
			return PlanCommandsResult{}, err
		}
		address, err := nodeID(a.ctx, t)
		if err != nil {
			return PlanCommandsResult{}, err
		}
		var commands []operation.PlannedCommand
		command := func(step, text, note string) {
			commands = append(commands, operation.PlannedCommand{Step: step, Command: text, Note: note})
		}
		passwords := func() {
			if in.Change.Passwords() {
				what := "PasswordAuthentication no, ChallengeResponseAuthentication no: at the head of /etc/ssh/sshd_config"
				note := "sshd -t, reload; taken back by itself unless new logins work"
				if in.Change.RestorePasswords {
					what, note = "katoflow's lines out of /etc/ssh/sshd_config", "sshd -t, reload"
				}
				command(operation.StepPasswords, what, note)
			}
		}
		login := remote.Quote([]string{"ssh", "-p", strconv.Itoa(sshPort(in.Change.Port)), t.host.User + "@" + address})
		if in.Change.Action == operation.AccessRevoke {
			passwords()
			if !in.Change.KeepKeys {
				command(operation.StepKeys, key+": out of ~/.ssh/authorized_keys", "")
				command(operation.StepLogins, login, "on "+in.Change.From+": must be refused")
			}
		} else {
			command(operation.StepKeys, key+": into ~/.ssh/authorized_keys", "once; mode and owner stay")
			if !in.Change.NoOwnKeys {
				command(operation.StepKeys, "its own key: into ~/.ssh/authorized_keys", "made with ssh-keygen where it is missing")
			}
			command(operation.StepLogins, login, "on "+in.Change.From+", and on the node itself")
			passwords()
		}
		out.add(planned.Name, commands)
	}
	return out, nil
}
