package archive

import (
	"crypto/ed25519"
	"encoding/pem"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

func sshKey(t *testing.T) (public string, private []byte) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	sshPub, err := ssh.NewPublicKey(pub)
	require.NoError(t, err)
	block, err := ssh.MarshalPrivateKey(key, "")
	require.NoError(t, err)
	return string(ssh.MarshalAuthorizedKey(sshPub)), pem.EncodeToMemory(block)
}

func sshPublic(t *testing.T) string {
	public, _ := sshKey(t)
	return public
}

func TestArchive_EncryptedToAnSSHKey_IsReadWithThePrivateKey(t *testing.T) {
	b := newBucket(t, false)
	s := b.open(t)
	public, private := sshKey(t)
	source := newMemory(1, 6*mib)
	ref := Ref{"prod", "ssh"}
	m := keep(t, s, Upload{Ref: ref, Source: source, PartSize: 5 * mib, Recipients: []string{public[:len(public)-1] + " somebody@somewhere"}})
	require.NotContains(t, m.Recipients[0], "somebody", "comments name people and machines")
	ids, err := ParseIdentities(private)
	require.NoError(t, err)
	requireExport(t, s, ref, OpenOptions{Identities: ids}, source.data)
}

func TestParseIdentities_OfAnything_NeverPrintsIt(t *testing.T) {
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	ids, err := ParseIdentities([]byte("# created: now\n" + identity.String() + "\n"))
	require.NoError(t, err)
	require.Len(t, ids, 1)
	for _, text := range []string{"", "hunter2", identity.String()[:40], "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n-----END OPENSSH PRIVATE KEY-----\n"} {
		_, err := ParseIdentities([]byte(text))
		require.True(t, IsKind(err, KindBadInput), "%v", err)
		require.NotContains(t, err.Error(), "hunter2")
		require.NotContains(t, err.Error(), "SECRET")
	}
}
