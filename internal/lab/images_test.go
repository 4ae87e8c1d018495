package lab

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// overSSH runs a command on the host as the login user, as katoflow does.
func overSSH(t *testing.T, h *Host, command string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ssh", "-n", "-i", h.c.ClientKeyPath(), "-o", "UserKnownHostsFile="+h.c.KnownHostsPath(), "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
		LoginUser+"@"+h.Address(), command).CombinedOutput()
	require.NoError(t, err, "%s: %s", command, out)
	return string(out)
}

func TestHost_Images_AreUpgradedPushedAndPulled(t *testing.T) {
	l := open(t, "ue")
	rule, err := os.ReadFile(filepath.Join("..", "..", "deploy", "sudoers", "katoflow-images"))
	require.NoError(t, err)
	began := time.Now()
	c, err := l.Start(t.Context(), ClusterConfig{Platform: "plain", Images: true, Registry: true, Sudoers: map[string][]byte{"katoflow-images": rule},
		Nodes: []NodeConfig{{Name: "a", Roles: []string{"dea"}}, {Name: "b", Roles: []string{"dea"}}}})
	require.NoError(t, err)
	took := func(what string) {
		t.Logf("%s: %.1f s", what, time.Since(began).Seconds())
		began = time.Now()
	}
	took("two hosts with images")
	a, b := c.Host("a"), c.Host("b")
	app, err := b.RunAppContainer(t.Context(), "shop", "0f5a1d7e-0000-4000-8000-000000000001")
	require.NoError(t, err)
	took("app container")

	// A host that boots meanwhile finds the same daemon again.
	require.NoError(t, b.RebootNow())
	overSSH(t, a, `mkdir -p ~/upgrade-alsek && printf 'FROM %s\nRUN apt-get update\nRUN unattended-upgrades -d\nRUN apt-get clean && apt-get -y autoremove\n' `+BaseImage+`:kato-patched >~/upgrade-alsek/Dockerfile`)
	transcript := overSSH(t, a, `sudo -n docker build --no-cache=true --rm=true -t `+BaseImage+`:upgrade-2014-09-19 ~/upgrade-alsek`)
	took("build")
	require.Contains(t, transcript, "configuring for 3 s")
	require.Equal(t, BaseImage+":kato-patched\n"+BaseImage+":latest\n"+BaseImage+":upgrade-2014-09-19\n", overSSH(t, a, `sudo -n docker images --format '{{.Repository}}:{{.Tag}}' | sort`))
	const ask = ` dpkg-query -W -f '${Package} ${Version} ${Status}\n' 'katoflow-lab-*'`
	require.Equal(t, `katoflow-lab-broken 1.0 hold ok installed
katoflow-lab-quick 2.0 install ok installed
katoflow-lab-reboot 2.0 install ok installed
katoflow-lab-slow 2.0 install ok installed
katoflow-lab-ssh 2.0 install ok installed
`, overSSH(t, a, `sudo -n docker run --rm `+BaseImage+`:upgrade-2014-09-19 sh -c "`+strings.ReplaceAll(ask, "$", `\$`)+`"`))
	out, err := a.Docker(t.Context(), "run", "--rm", BaseImage+":latest", "sh", "-c", ask)
	require.NoError(t, err)
	require.NotContains(t, string(out), " 2.0 ", "the base image is as it was")
	ran, err := a.Commands()
	require.NoError(t, err)
	var lines []string
	for _, e := range ran {
		require.Zero(t, e.ExitCode, e.Command())
		lines = append(lines, strings.Join(e.Argv[:2], " "))
	}
	require.Equal(t, []string{"docker build", "docker run"}, lines)
	took("two looks into images")

	free := overSSH(t, a, `df -P -k "$(sudo -n docker info 2>/dev/null | sed -n 's/^ *Docker Root Dir: //p')" | tail -n 1`)
	require.Len(t, strings.Fields(free), 6, free)
	name := c.Registry() + "/" + BaseImage
	require.NoError(t, a.FailCommand("docker push", 1, 9, "the registry is on fire"))
	require.Contains(t, overSSH(t, a, `sudo -n docker push x || true`), "the registry is on fire")
	overSSH(t, a, `sudo -n docker tag `+BaseImage+`:upgrade-2014-09-19 `+name+`:upgrade-2014-09-19`)
	overSSH(t, a, `sudo -n docker push `+name+`:upgrade-2014-09-19`)
	took("push")
	out, err = a.Docker(t.Context(), "inspect", "--format", "{{.Id}} {{index .RepoDigests 0}}", name+":upgrade-2014-09-19")
	require.NoError(t, err)
	id, digest, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	require.Contains(t, digest, name+"@sha256:")

	eventually(t, "the second boot", func() bool { return b.Boots() == 2 })
	require.NoError(t, b.WaitUp(t.Context(), time.Minute))
	overSSH(t, b, `sudo -n docker pull `+digest)
	took("pull")
	require.Equal(t, id+"\n", overSSH(t, b, `sudo -n docker inspect --format '{{.Id}}' `+digest))
	overSSH(t, b, `sudo -n docker tag `+digest+` `+BaseImage+`:latest`)
	again, err := b.RunAppContainer(t.Context(), "cart", "0f5a1d7e-0000-4000-8000-000000000002")
	require.NoError(t, err)
	for container, want := range map[string][2]string{app: {"shop", "0f5a1d7e-0000-4000-8000-000000000001"}, again: {"cart", "0f5a1d7e-0000-4000-8000-000000000002"}} {
		var environment, application map[string]string
		require.NoError(t, json.Unmarshal([]byte(overSSH(t, b, `sudo -n docker exec `+container+` cat /home/stackato/etc/droplet.env.json`)), &environment))
		require.NoError(t, json.Unmarshal([]byte(environment["VCAP_APPLICATION"]), &application))
		require.Equal(t, want, [2]string{environment["STACKATO_APP_NAME"], application["application_id"]})
	}
	out, err = b.Docker(t.Context(), "inspect", "--format", "{{.Image}}", app, again)
	require.NoError(t, err)
	before, after, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	require.Equal(t, id, after)
	require.NotEqual(t, id, before, "what runs stays on its image")
	took("the rest")
	require.NoError(t, c.Close())
	took("close")
}
