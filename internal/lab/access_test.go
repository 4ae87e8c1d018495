package lab

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/katoflow/katoflow/internal/simcluster"
)

// access is what a suite asks of either kind of node.
type access interface {
	SetPassword(password string)
	AuthorizedKeys() []string
	OfferedMethods() []string
	LoginsBy(method string) int
	BreakKeyLoginsOnReload(on bool)
	ReadOnlyHome(on bool)
	SSHDNeverReloads(on bool)
}

var _ = []access{(*Host)(nil), (*simcluster.Node)(nil)}

// logsIn tries to log in by one method.
func logsIn(h *Host, auth ssh.AuthMethod) error {
	c, err := ssh.Dial("tcp", net.JoinHostPort(h.Address(), "22"), &ssh.ClientConfig{User: LoginUser, Auth: []ssh.AuthMethod{auth}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 20 * time.Second})
	if err == nil {
		c.Close()
	}
	return err
}

func TestHost_Access_IsAskedAndBrokenAsOnSimulatedNodes(t *testing.T) {
	l := open(t, "ug")
	c, err := l.Start(t.Context(), ClusterConfig{Platform: "plain", Nodes: []NodeConfig{{Name: "a"}}})
	require.NoError(t, err)
	h := c.Host("a")
	text, err := os.ReadFile(c.ClientKeyPath())
	require.NoError(t, err)
	signer, err := ssh.ParsePrivateKey(text)
	require.NoError(t, err)
	key := ssh.PublicKeys(signer)
	root := func(script string) string {
		t.Helper()
		out, err := h.Exec(t.Context(), script)
		require.NoError(t, err)
		return out
	}
	require.Len(t, h.AuthorizedKeys(), 1)
	require.Contains(t, h.AuthorizedKeys()[0], strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))))
	require.Equal(t, []string{"publickey", "password"}, h.OfferedMethods())
	require.NoError(t, logsIn(h, key))
	require.Equal(t, 1, h.LoginsBy("publickey"))
	require.Error(t, logsIn(h, ssh.Password("sesame")))
	h.SetPassword("sesame")
	require.NoError(t, logsIn(h, ssh.Password("sesame")))
	require.Equal(t, 1, h.LoginsBy("password"))
	h.SetPassword("")
	require.Error(t, logsIn(h, ssh.Password("sesame")))
	require.NoError(t, logsIn(h, key))
	h.SetPassword("sesame")

	// A reload and a restart with a wrong configuration.
	out, err := h.Exec(t.Context(), "echo Nonsense >/etc/ssh/sshd_config.d/n.conf; systemctl reload ssh")
	require.Error(t, err)
	t.Log("reload: ", out)
	require.NoError(t, logsIn(h, key))
	out, err = h.Exec(t.Context(), "systemctl restart ssh")
	require.Error(t, err)
	t.Log("restart: ", out)
	require.Error(t, logsIn(h, key))
	out, _ = h.Exec(t.Context(), "systemctl is-active ssh; echo $?; systemctl reload ssh; echo $?; systemctl reload sshd; echo $?; systemctl cat ssh | head -n 2; service ssh reload; echo $?")
	t.Log("dead: ", out)
	root("rm /etc/ssh/sshd_config.d/n.conf; systemctl reset-failed ssh; systemctl start ssh")

	h.BreakKeyLoginsOnReload(true)
	require.NoError(t, logsIn(h, key))
	root("cp -p /etc/ssh/sshd_config /root/kept; echo 'LoginGraceTime 60' >>/etc/ssh/sshd_config; systemctl reload ssh; sleep 0.5")
	require.Error(t, logsIn(h, key))
	require.NoError(t, logsIn(h, ssh.Password("sesame")))
	require.Equal(t, []string{"publickey", "password"}, h.OfferedMethods())
	root("systemctl reload ssh; sleep 0.5")
	require.Error(t, logsIn(h, key))
	root("mv /root/kept /etc/ssh/sshd_config; systemctl reload ssh; sleep 0.5")
	require.NoError(t, logsIn(h, key))
	h.BreakKeyLoginsOnReload(true)
	root("systemctl restart ssh")
	require.Error(t, logsIn(h, key))
	h.BreakKeyLoginsOnReload(false)
	eventually(t, "keys to be accepted", func() bool { return logsIn(h, key) == nil })

	h.SSHDNeverReloads(true)
	root("echo 'PasswordAuthentication no' >/etc/ssh/sshd_config.d/n.conf; systemctl reload ssh; sleep 0.5")
	require.Equal(t, []string{"publickey", "password"}, h.OfferedMethods())
	h.SSHDNeverReloads(false)
	root("systemctl reload ssh; sleep 0.5")
	require.Equal(t, []string{"publickey"}, h.OfferedMethods())

	h.ReadOnlyHome(true)
	_, err = asUser(t, h, "echo a >>.ssh/authorized_keys")
	require.ErrorContains(t, err, "Read-only file system")
	require.NoError(t, logsIn(h, key))
	h.ReadOnlyHome(false)
	_, err = asUser(t, h, "echo a >>.ssh/authorized_keys")
	require.NoError(t, err)
	require.Len(t, h.AuthorizedKeys(), 2)
	h.SSHDNeverReloads(false)
	h.ReadOnlyHome(false)
}
