package operation

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCheckPublicKey_OnlyWholeKeysWithoutOptions(t *testing.T) {
	const (
		ed = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIImpZrPP8pfGG039fwTyH9Rhnfu1S8HUET2ompwBBsYi"
		ec = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBLMMJEX7K6kprtZ33dhgwgsHVfyO0FkGPFHT/qmhC08EG7+OEFn0h/EOMnO7wrmf694scFC1MZgDmlcBgHvmeMw="
	)
	for _, line := range []string{ed, ed + " a comment with blanks", ec, ec + " stackato@core"} {
		require.NoError(t, CheckPublicKey(line), line)
	}
	for _, line := range []string{"", "ssh-ed25519", ed[:70], ec[:72], ec[:len(ec)-4], "ssh-rsa" + ed[11:], `from="10.0.0.1" ` + ed, ed + "\n" + ec, ed + " a\x00b", "-----BEGIN OPENSSH PRIVATE KEY-----", ed + "AAAA"} {
		require.Error(t, CheckPublicKey(line), line)
	}
	require.Equal(t, "AAAAC3NzaC1lZDI1NTE5AAAAIImpZrPP8pfGG039fwTyH9Rhnfu1S8HUET2ompwBBsYi", KeyOf(ed+" x"))
	require.Equal(t, "stackato@core", CommentOf(ec+" stackato@core"))
	require.Equal(t, "ssh-ed25519 ...1S8HUET2ompwBBsYi"[:15], CommentOf(ed)[:15])
}
