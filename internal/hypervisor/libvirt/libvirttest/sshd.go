package libvirttest

import (
	"os"
	"testing"

	"github.com/katoflow/katoflow/internal/hypervisor/hypervisortest"
)

// ServeSSH starts an sshd that logs in to the machine of the domains, with this package's virsh first in the PATH. It skips the test where there is no sshd, unless Required.
func (v *Libvirt) ServeSSH(t testing.TB) hypervisortest.SSHD {
	t.Helper()
	if _, err := os.Stat(hypervisortest.SSHDPath); err != nil {
		lacks(t, "sshd", "openssh-server")
	}
	return hypervisortest.ServeSSH(t, v.Bin)
}
