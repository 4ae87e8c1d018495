package operation

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"regexp"
	"strings"
)

// Names of the workflows of SSH access, as registered, and their kinds.
const (
	WorkflowAccess      = "Access"
	WorkflowAccessNode  = "AccessNode"
	WorkflowAccessCheck = "AccessCheck"

	KindAccessGrant  = "access-grant"
	KindAccessRevoke = "access-revoke"
	KindAccessCheck  = "access-check"
)

// Steps of one node, in order, beside probe. They stand in reports, decisions and job names.
const (
	StepKeys      = "keys"      // lines of authorized_keys are added or taken away
	StepLogins    = "logins"    // logins with the keys are tried
	StepPasswords = "passwords" // password logins are switched off or back on

	// StepCoreKey is before the first node: the key of the node that reaches the others is read, and made where there is none.
	StepCoreKey = "core-key"

	// JobKnowHost tells a node another one's host key.
	JobKnowHost = "know-host"
)

// AccessAction is what is done to SSH access.
type AccessAction string

// Actions, as the commands are called.
const (
	AccessGrant  AccessAction = "grant"
	AccessRevoke AccessAction = "revoke"
)

// Kind of an operation that does it; "" for no action.
func (a AccessAction) Kind() string {
	switch a {
	case AccessGrant:
		return KindAccessGrant
	case AccessRevoke:
		return KindAccessRevoke
	}
	return ""
}

// SecretRef says where the worker finds a secret: in one of its environment variables, or in a file that only its user can read. The secret itself is in no input.
type SecretRef struct {
	Env  string `json:"env,omitempty"`
	File string `json:"file,omitempty"`
}

// Given says that there is one.
func (r SecretRef) Given() bool { return r.Env != "" || r.File != "" }

// AccessInput asks for SSH access between the nodes to be granted or revoked. Zero values are the defaults.
type AccessInput struct {
	Request
	Action AccessAction `json:"action"`
	// From is the node that reaches the others; "" = the Core.
	From string `json:"from,omitempty"`
	// PublicKey is the line of authorized_keys that is granted or revoked; "" = the key of From.
	PublicKey string `json:"publicKey,omitempty"`
	// NoOwnKeys leaves out that each node gets a key with which it reaches itself (kato.md §3.6).
	NoOwnKeys bool `json:"noOwnKeys,omitempty"`
	// OwnKeys revokes those, too.
	OwnKeys bool `json:"ownKeys,omitempty"`
	// KeepKeys revokes no key: only password logins are put back.
	KeepKeys bool `json:"keepKeys,omitempty"`
	// DisablePasswords switches password logins off, when every node has proved logins by key. RestorePasswords, of a revocation, takes that back.
	DisablePasswords bool `json:"disablePasswords,omitempty"`
	RestorePasswords bool `json:"restorePasswords,omitempty"`
	// Password is that of the login user, for nodes that do not know the worker's key yet.
	Password SecretRef `json:"password,omitzero"`
	// Port of the nodes' SSH servers as they reach each other (default 22, which kato uses).
	Port int `json:"port,omitempty"`
	// Nodes limits the operation to these; empty = all.
	Nodes []string `json:"nodes,omitempty"`
	// Batch is a count or percentage of nodes at once (default "1"), of those whose password logins are switched.
	Batch string `json:"batch,omitempty"`
	// NoCanary lets the first batch be a whole one; otherwise the first node goes alone and is followed by the soak.
	NoCanary bool     `json:"noCanary,omitempty"`
	Soak     Duration `json:"soak,omitempty"`
	// MaxFailures: nil asks about every failed node; otherwise so many nodes are skipped without asking and one more aborts.
	MaxFailures *int `json:"maxFailures,omitempty"`
	// Window: no node is begun outside of it.
	Window WindowInput `json:"window,omitzero"`
}

// Passwords says that password logins are switched.
func (in AccessInput) Passwords() bool { return in.DisablePasswords || in.RestorePasswords }

// Check lists what is wrong with it, one line each.
func (in AccessInput) Check() []string {
	var problems []string
	note := func(wrong bool, text string) {
		if wrong {
			problems = append(problems, text)
		}
	}
	note(in.Cluster == "", "cluster is missing: name one of the inventory")
	note(in.Action.Kind() == "", "action: choose grant or revoke")
	if in.PublicKey != "" {
		if err := CheckPublicKey(in.PublicKey); err != nil {
			problems = append(problems, err.Error())
		}
	}
	note(in.Action == AccessGrant && (in.OwnKeys || in.KeepKeys || in.RestorePasswords), "own-keys, keep-keys and restore-passwords belong to a revocation")
	note(in.Action == AccessRevoke && (in.DisablePasswords || in.Password.Given()), "disable-passwords and a password belong to a grant")
	note(in.DisablePasswords && in.PublicKey != "", "disable-passwords goes with the key of the node that reaches the others, whose logins can be proved, and not with a public key: grant that one first")
	note(in.KeepKeys && in.OwnKeys, "keep-keys and own-keys: choose one")
	note(in.KeepKeys && in.PublicKey != "", "keep-keys and a public key: choose one")
	note(in.KeepKeys && !in.RestorePasswords, "keep-keys without restore-passwords: nothing is left to do")
	note(in.Password.Env != "" && in.Password.File != "", "the password is in an environment variable or in a file, not in both")
	note(in.Port < 0 || in.Port > 65535, fmt.Sprintf("port %d is not between 1 and 65535", in.Port))
	note(in.Soak < 0, "soak is negative")
	note(in.MaxFailures != nil && *in.MaxFailures < 0, "max-failures is negative: 0 aborts at the first failed node")
	return append(problems, in.Window.Check(UnitNode)...)
}

// publicKeyLine is a type and a key in base64, with or without a comment. Options before it are refused: they would decide what the key may do.
var publicKeyLine = regexp.MustCompile(`^(ssh-rsa|ssh-ed25519|ecdsa-sha2-nistp(256|384|521)|sk-ssh-ed25519@openssh\.com|sk-ecdsa-sha2-nistp256@openssh\.com) AAAA[A-Za-z0-9+/]{40,}={0,3}( [^\x00-\x1f\x7f]*)?$`)

// CheckPublicKey says what is wrong with a line that is to stand in authorized_keys.
func CheckPublicKey(line string) error {
	switch {
	case strings.Contains(line, "PRIVATE KEY"):
		return fmt.Errorf("this is a private key: give the public one, whose file ends with .pub")
	case len(line) > 10_000 || !publicKeyLine.MatchString(line) || !wholeKey(line):
		return fmt.Errorf("public key %q is not one line of TYPE KEY [COMMENT], as ssh-keygen writes it into a file that ends with .pub", Shorten(line, 60))
	}
	return nil
}

// wholeKey says whether the key is of the type before it, and nothing of it is missing: it consists of texts with their lengths, the first of which is the type (RFC 4253, section 6.6).
func wholeKey(line string) bool {
	fields := strings.Fields(line)
	key, err := base64.StdEncoding.DecodeString(fields[1])
	texts := 0
	for err == nil && len(key) >= 4 {
		n := binary.BigEndian.Uint32(key)
		if uint64(n) > uint64(len(key)-4) || texts == 0 && string(key[4:4+n]) != fields[0] {
			return false
		}
		key = key[4+n:]
		texts++
	}
	return err == nil && len(key) == 0 && texts > 1
}

// KeyOf is the key of such a line in base64, without type and comment; "" for none.
func KeyOf(line string) string {
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return ""
	}
	return fields[1]
}

// CommentOf names the key of such a line for people.
func CommentOf(line string) string {
	fields := strings.Fields(line)
	switch {
	case len(fields) > 2:
		return Shorten(strings.Join(fields[2:], " "), 60)
	case len(fields) == 2:
		return fields[0] + " ..." + fields[1][max(0, len(fields[1])-12):]
	}
	return ""
}

// AccessCheckInput asks who reaches whom.
type AccessCheckInput struct {
	Cluster string `json:"cluster"`
	// InventoryDigest, if set, must be that of the worker's inventory.
	InventoryDigest string `json:"inventoryDigest,omitempty"`
	// From and Port are those of AccessInput.
	From string `json:"from,omitempty"`
	Port int    `json:"port,omitempty"`
}

// AccessStatus is who reaches whom.
type AccessStatus struct {
	Cluster string `json:"cluster"`
	// From is the node whose logins were tried, Key the name of its key, "" when it has none.
	From string `json:"from"`
	Key  string `json:"key,omitempty"`
	// At is when it was asked, UTC, RFC 3339.
	At    string       `json:"at"`
	Nodes []AccessNode `json:"nodes"`
	// Problems are nodes that did not say, one line each, with the node before it.
	Problems []string `json:"problems,omitempty"`
}

// AccessNode is the access to one node.
type AccessNode struct {
	Name string `json:"name"`
	// Granted: the key of From is in authorized_keys. FromLogin and OwnLogin are "ok", or why a login from there, or from the node to itself, fails.
	Granted   bool   `json:"granted"`
	FromLogin string `json:"fromLogin"`
	OwnLogin  string `json:"ownLogin"`
	// Methods are the ways to log in that its server offers; empty when they were not learned.
	Methods []string `json:"methods,omitempty"`
	// Loose are the files whose modes an SSH server refuses, as writable by others.
	Loose []string `json:"loose,omitempty"`
	// Sudo: sudo runs everything without a password, as kato node upgrade needs it (kato.md §5).
	Sudo bool `json:"sudo"`
}

// LoginOK is what a login that was proved reads as.
const LoginOK = "ok"

// OffersPasswords says whether one of the methods asks for a password.
func OffersPasswords(methods []string) bool {
	for _, m := range methods {
		if m == "password" || m == "keyboard-interactive" {
			return true
		}
	}
	return false
}
