package simcluster

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

const (
	repository = DefaultImageRepository
	registryAt = "registry.example.com:5000/stack-alsek"
	upgrade    = "FROM " + repository + ":kato-patched\nRUN DEBIAN_FRONTEND=noninteractive apt-get update\nRUN DEBIAN_FRONTEND=noninteractive unattended-upgrades -d\n" +
		"RUN apt-get clean && DEBIAN_FRONTEND=noninteractive apt-get -y autoremove\n"
)

// dockerNode starts a cluster and returns a DEA of it, with a connection.
func dockerNode(t testing.TB, cfg Config) (*Node, *ssh.Client) {
	t.Helper()
	n := startCluster(t, cfg).Node("dea-1")
	return n, dial(t, n)
}

// dockerfile writes one into the folder ~/up of a node.
func dockerfile(t testing.TB, n *Node, text string) {
	t.Helper()
	require.NoError(t, n.WriteFile("/home/stackato/up/Dockerfile", []byte(text)))
}

const buildUpgrade = "sudo -n docker build --no-cache=true --rm=true -t " + repository + ":upgrade-2014-09-19 /home/stackato/up"

// setState starts or stops an app as a user does.
func setState(t testing.TB, c *Cluster, guid, state string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	send := func(method, path, kind, body string, change func(*http.Request)) map[string]any {
		r, err := http.NewRequest(method, c.ControllerURL()+path, strings.NewReader(body))
		require.NoError(t, err)
		r.Header.Set("Content-Type", kind)
		change(r)
		answer, err := client.Do(r)
		require.NoError(t, err)
		defer answer.Body.Close()
		require.Less(t, answer.StatusCode, 300)
		out := map[string]any{}
		require.NoError(t, json.NewDecoder(answer.Body).Decode(&out))
		return out
	}
	form := url.Values{"grant_type": {"password"}, "username": {c.Controller().User()}, "password": {c.Controller().Password()}}
	token := send("POST", "/uaa/oauth/token", "application/x-www-form-urlencoded", form.Encode(), func(r *http.Request) { r.SetBasicAuth("cf", "") })["access_token"]
	send("PUT", "/v2/apps/"+guid, "application/json", `{"state":"`+state+`"}`, func(r *http.Request) { r.Header.Set("Authorization", fmt.Sprint("bearer ", token)) })
}

// runKato runs kato as people do, in a login shell.
func runKato(t testing.TB, c *ssh.Client, command string, stdin ...string) result {
	t.Helper()
	return run(t, c, "bash -lc 'kato "+command+"'", stdin...)
}

func restart(t testing.TB, c *Cluster, guid string) {
	t.Helper()
	setState(t, c, guid, "STOPPED")
	setState(t, c, guid, "STARTED")
}

// instancesOf are the containers of an app on all DEAs.
func instancesOf(c *Cluster, guid string) (out []Container) {
	for _, n := range c.Nodes() {
		if d := n.Docker(); d != nil {
			for _, i := range d.Containers() {
				if i.AppGUID == guid {
					out = append(out, i)
				}
			}
		}
	}
	return out
}

// inspected is `docker inspect`, with the fields in lower case.
func inspected(t testing.TB, c *ssh.Client, ref string) map[string]any {
	t.Helper()
	var all []map[string]any
	r := run(t, c, "sudo -n docker inspect "+ref)
	require.Equal(t, 0, r.exit, r.err)
	require.NoError(t, json.Unmarshal([]byte(r.out), &all), r.out)
	require.Len(t, all, 1)
	out := map[string]any{}
	for key, value := range all[0] {
		out[strings.ToLower(key)] = value
	}
	return out
}

func TestDocker_WhereAndForWhomItIs(t *testing.T) {
	n, c := dockerNode(t, Config{})
	require.Equal(t, "Docker version 20.10.24, build 297e128\n", run(t, c, "docker --version").out)
	require.Equal(t, "/usr/bin/docker build --rm\n", run(t, c, "sudo -n -l docker build --rm").out)
	core := dial(t, n.cluster.Node("core"))
	require.Nil(t, n.cluster.Node("core").Docker())
	require.Equal(t, 1, run(t, core, "sudo -n -l docker").exit)
	require.Equal(t, 127, run(t, core, "docker --version").exit)
	require.Equal(t, 1, run(t, core, "command -v docker >/dev/null && echo yes").exit)
	plain := startCluster(t, Config{Platform: "plain", Network: 1, Nodes: []NodeConfig{{Name: "a", Roles: []string{"dea"}}}}).Node("a")
	require.Nil(t, plain.Docker())

	r := run(t, c, "docker images")
	require.Equal(t, 1, r.exit)
	require.Contains(t, r.err, "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: ")
	r = run(t, c, "docker info")
	require.Equal(t, 1, r.exit)
	require.Contains(t, r.out, "Server:\n")
	require.Contains(t, r.err, "ERROR: Got permission denied")
	require.Equal(t, 126, run(t, c, "docker run --rm "+repository+" true").exit)

	n.Docker().SetDaemonDown(true)
	r = run(t, c, "sudo -n docker images")
	require.Equal(t, result{"", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?\n", 1}, r)
	require.Equal(t, 0, run(t, c, "docker --version").exit)
	n.Heal()
	require.Equal(t, 0, run(t, c, "sudo -n docker images").exit)

	n.FailCommand("sudo docker", -1, 1, "sudo: a password is required")
	require.Equal(t, result{"", "sudo: a password is required\n", 1}, run(t, c, "sudo -n docker images"))
	require.Equal(t, 1, run(t, c, "sudo -n -l docker images").exit)
	require.Equal(t, 0, run(t, c, "sudo -n true").exit)
}

func TestDocker_AccessOfOldVersions_IsToldAsTheyDo(t *testing.T) {
	n, c := dockerNode(t, Config{DockerVersion: "1.0.1"})
	require.Regexp(t, `^Docker version 1\.0\.1, build [0-9a-f]{7}\n$`, run(t, c, "docker --version").out)
	r := run(t, c, "docker info")
	require.Equal(t, 1, r.exit)
	require.Regexp(t, `^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d Get http:///var/run/docker.sock/v1.12/info: dial unix /var/run/docker.sock: permission denied\n$`, r.err)
	n.Docker().SetDaemonDown(true)
	require.Contains(t, run(t, c, "sudo -n docker info").err, "Cannot connect to the Docker daemon. Is 'docker -d' running on this host?")
}

func TestDocker_Info_NamesItsFolder(t *testing.T) {
	_, c := dockerNode(t, Config{})
	require.Contains(t, run(t, c, "sudo -n docker info").out, "\n Docker Root Dir: /var/lib/docker\n")
	require.Equal(t, 0, run(t, c, "df -P -k /var/lib/docker").exit)
	require.Contains(t, run(t, c, "sudo -n docker version").out, "Server:\n")
	_, old := dockerNode(t, Config{DockerVersion: "1.3.3", Network: 1})
	require.Contains(t, run(t, old, "sudo -n docker info").out, "Storage Driver: aufs\n Root Dir: /var/lib/docker/aufs\n")
	require.Equal(t, 1, run(t, old, "df -P -k /var/lib/docker/aufs").exit, "only root may enter it")
	_, between := dockerNode(t, Config{DockerVersion: "1.12.6", Network: 2})
	require.Contains(t, run(t, between, "sudo -n docker info").out, "\nDocker Root Dir: /var/lib/docker\n")
}

func TestDocker_Images_ListNames(t *testing.T) {
	n, c := dockerNode(t, Config{})
	ids := n.Docker().Images()
	require.Equal(t, []string{repository + ":kato-patched", repository + ":latest"}, slices.Sorted(maps.Keys(ids)))
	id := ids[repository+":latest"]
	require.Equal(t, id, ids[repository+":kato-patched"])
	require.Regexp(t, "^sha256:[0-9a-f]{64}$", id)
	out := run(t, c, "sudo -n docker images").out
	require.Regexp(t, `^REPOSITORY +TAG +IMAGE ID +CREATED +SIZE\n`+repository+` +kato-patched +`+id[7:19]+` +3 months ago +\S+MB\n`, out)
	require.Equal(t, id+"\n"+id+"\n", run(t, c, "sudo -n docker images -q --no-trunc "+repository).out)
	require.Equal(t, id[7:19]+"\n", run(t, c, "sudo -n docker images -q "+repository+":latest").out)
	require.Empty(t, run(t, c, "sudo -n docker images -q nothing").out)
	require.Equal(t, id, n.cluster.Node("dea-2").Docker().Images()[repository+":latest"], "the same everywhere")
	require.Equal(t, "3.0.13-1~deb12u1", n.Docker().ImagePackages(repository)["openssl"])
	require.Equal(t, []string{"bash", "libssl3", "openssl"}, n.Docker().PendingIn(id))

	o, old := dockerNode(t, Config{DockerVersion: "1.9.1", Network: 1, ImageRepository: "helion/stack-alsek", ImagePending: []Package{}})
	require.Regexp(t, "^[0-9a-f]{64}$", o.Docker().Images()["helion/stack-alsek:latest"])
	require.Contains(t, run(t, old, "sudo -n docker images").out, "VIRTUAL SIZE\n")
	require.Empty(t, o.Docker().PendingIn("helion/stack-alsek"))
	require.Equal(t, "[\n  \"helion/stack-alsek\"\n]\n", runKato(t, old, "config get fence docker/images --json").out)
	require.Equal(t, "helion/stack-alsek", o.Docker().Containers()[0].ImageName)
}

func TestDocker_Inspect_OfTheGenerations(t *testing.T) {
	for i, tc := range []struct {
		version, begins string
		layers, names   bool
		id              string // the field
	}{
		{"20.10.24", "[\n    {\n        \"Id\": \"sha256:", true, true, "Id"},
		{"1.11.2", "[\n    {\n        \"Id\": \"sha256:", true, true, "Id"},
		{"1.9.1", "[\n{\n    \"Id\": \"", false, true, "Id"},
		{"1.6.2", "[\n{\n    \"Id\": \"", false, false, "Id"},
		{"1.5.0", "[\n{\n    \"Architecture\": \"amd64\",\n    \"Author\": \"", false, false, "Id"},
		{"1.0.1", "[{\n    \"Architecture\": \"amd64\",\n    \"Author\": \"", false, false, "Id"},
		{"0.7.6", "[{\n    \"id\": \"", false, false, "id"},
	} {
		t.Run(tc.version, func(t *testing.T) {
			n, c := dockerNode(t, Config{DockerVersion: tc.version, Network: i})
			id := n.Docker().Images()[repository+":latest"]
			out := run(t, c, "sudo -n docker inspect "+repository+":latest").out
			require.True(t, strings.HasPrefix(out, tc.begins), out)
			require.Contains(t, out, fmt.Sprintf("%q: %q", tc.id, id))
			image := inspected(t, c, repository)
			created, err := time.Parse(time.RFC3339Nano, fmt.Sprint(image["created"]))
			require.NoError(t, err)
			require.Equal(t, 90, int(time.Since(created).Hours()/24))
			require.Equal(t, tc.layers, image["rootfs"] != nil)
			require.Equal(t, tc.names, image["repodigests"] != nil)
			if tc.layers {
				require.Len(t, image["rootfs"].(map[string]any)["Layers"], 12)
			}
			history := strings.Fields(run(t, c, "sudo -n docker history -q --no-trunc "+repository).out)
			require.Len(t, history, 12)
			require.Equal(t, id, history[0])
			require.Equal(t, strings.HasPrefix(id, "sha256:"), history[1] == "<missing>")

			d := n.Docker().Containers()[0]
			container := inspected(t, c, d.ID[:12])
			require.Equal(t, d.ID, container["id"])
			require.Equal(t, id, container["image"])
			require.Equal(t, repository, container["config"].(map[string]any)["Image"])
			require.Equal(t, true, container["state"].(map[string]any)["Running"])
			require.NotEmpty(t, container["name"])
			require.Equal(t, d.ID, inspected(t, c, strings.TrimPrefix(fmt.Sprint(container["name"]), "/"))["id"])
			out = run(t, c, "sudo -n docker inspect "+d.ID).out
			first := strings.Index(out, `"Image": "`+repository) < strings.Index(strings.ToUpper(out), `"ID": "`)
			require.Equal(t, tc.version == "1.5.0" || tc.version == "1.0.1", first, "in the order of the alphabet, Config comes before Id")
			require.NotContains(t, out, ContainerSecret)

			r := run(t, c, "sudo -n docker inspect nothing "+repository)
			require.Equal(t, 1, r.exit)
			require.Contains(t, r.out, id)
			what := "image or container"
			if tc.version == "20.10.24" {
				what = "object"
			}
			require.Equal(t, "Error: No such "+what+": nothing\n", r.err)
			require.Equal(t, "[]\n", run(t, c, "sudo -n docker inspect nothing").out)
			require.Equal(t, 1, run(t, c, "sudo -n docker history nothing").exit)
		})
	}
}

func TestDocker_Build_UpgradesTheImageAndNotTheNode(t *testing.T) {
	n, c := dockerNode(t, Config{})
	dockerfile(t, n, upgrade)
	base := n.Docker().Images()[repository+":latest"]
	r := run(t, c, buildUpgrade)
	require.Equal(t, 0, r.exit, r.out+r.err)
	built := n.Docker().Images()[repository+":upgrade-2014-09-19"]
	for _, line := range []string{"Step 1/4 : FROM " + repository + ":kato-patched\n ---> " + base[7:19] + "\nStep 2/4 : RUN DEBIAN", " ---> Running in ", "Removing intermediate container ", "Reading package lists...\n",
		"Unpacking openssl (3.0.14-1~deb12u2) over (3.0.13-1~deb12u1) ...\n", "All upgrades installed\n", "Successfully built " + built[7:19] + "\nSuccessfully tagged " + repository + ":upgrade-2014-09-19\n"} {
		require.Contains(t, r.out, line)
	}
	require.NotEqual(t, base, built)
	require.Equal(t, base, n.Docker().Images()[repository+":latest"])
	require.Equal(t, 1, n.Docker().Builds())
	require.Empty(t, n.Docker().PendingIn(built))
	require.Equal(t, "3.0.14-1~deb12u2", n.Docker().ImagePackages(built)["openssl"])
	require.Equal(t, "3.0.13-1~deb12u1", n.Docker().ImagePackages(base)["openssl"])
	require.Equal(t, "3.0.13-1~deb12u1", n.Packages()["openssl"])
	require.Equal(t, 4, n.PendingCount())
	require.False(t, n.RebootRequired())
	require.Len(t, n.Commands(), 1, "only docker build was run on the node")
	require.Equal(t, strings.TrimPrefix(buildUpgrade, "sudo -n "), n.Commands()[0].Command())

	layers := inspected(t, c, built)["rootfs"].(map[string]any)["Layers"].([]any)
	require.Len(t, layers, 15)
	require.Equal(t, inspected(t, c, base)["rootfs"].(map[string]any)["Layers"], layers[:12])
	history := strings.Fields(run(t, c, "sudo -n docker history -q --no-trunc "+built).out)
	require.Equal(t, []string{built, base, "<missing>"}, []string{history[0], history[3], history[4]})
	require.Contains(t, run(t, c, "sudo -n docker history "+built).out, "/bin/sh -c DEBIAN_FRONTEND=noninteractive ...")

	again := run(t, c, "sudo -n docker build -t "+repository+":upgrade-2014-09-20 /home/stackato/up")
	require.Equal(t, 3, strings.Count(again.out, " ---> Using cache\n"))
	require.Equal(t, built, n.Docker().Images()[repository+":upgrade-2014-09-20"])
	require.Equal(t, 0, run(t, c, buildUpgrade).exit)
	require.NotEqual(t, built, n.Docker().Images()[repository+":upgrade-2014-09-19"], "without the cache it is another one")

	n.Docker().PublishImageUpdate(Package{Name: "bash", Old: "5.2.15-2+b8", New: "5.2.15-2+b9"})
	require.Equal(t, []string{"bash"}, n.Docker().PendingIn(built))
	require.Equal(t, []string{"bash", "libssl3", "openssl"}, n.Docker().PendingIn(base))
	require.Equal(t, 0, run(t, c, buildUpgrade).exit)
	require.Equal(t, "5.2.15-2+b9", n.Docker().ImagePackages(repository + ":upgrade-2014-09-19")["bash"])

	n.RebootNow()
	eventually(t, "second boot", func() bool { return n.Boots() == 2 })
	require.Equal(t, built, n.Docker().Images()[repository+":upgrade-2014-09-20"], "images survive")
	require.Equal(t, 0, run(t, reconnect(t, n), "sudo -n docker history "+built).exit)
}

func TestDocker_BuildOfOldVersions_PrintsAsTheyDo(t *testing.T) {
	n, c := dockerNode(t, Config{DockerVersion: "1.0.1"})
	dockerfile(t, n, upgrade)
	r := run(t, c, "sudo -n docker build --no-cache=true -rm -t "+repository+":u /home/stackato/up")
	require.Equal(t, 0, r.exit, r.out+r.err)
	require.Contains(t, r.out, "\nStep 0 : FROM ")
	require.Contains(t, r.out, "\nStep 3 : RUN apt-get clean")
	require.NotContains(t, r.out, "Successfully tagged")
	require.Equal(t, "Warning: '-rm' is deprecated, it will be replaced by '--rm' soon. See usage.\n", r.err)
	id := n.Docker().Images()[repository+":u"]
	require.Equal(t, id, strings.Fields(run(t, c, "sudo -n docker history -q --no-trunc "+repository+":u").out)[0])
	require.Contains(t, run(t, c, "sudo -n docker history -q --no-trunc "+id).out, n.Docker().Images()[repository+":latest"])
	require.Empty(t, n.Docker().PendingIn(id))
}

func TestDocker_BuildFails_NothingIsTagged(t *testing.T) {
	n, c := dockerNode(t, Config{})
	dockerfile(t, n, upgrade)
	before := n.Docker().Images()
	fails := func(exit int, command string, parts ...string) {
		t.Helper()
		r := run(t, c, command)
		require.Equal(t, exit, r.exit, r.out+r.err)
		for _, part := range parts {
			require.Contains(t, r.out+r.err, part)
		}
		require.Equal(t, before, n.Docker().Images())
		require.Zero(t, n.Docker().Builds())
	}
	n.FailCommand("apt-get update", 1, 100, "E: Hash Sum mismatch")
	fails(100, buildUpgrade, "E: Hash Sum mismatch\n", "The command '/bin/sh -c DEBIAN_FRONTEND=noninteractive apt-get update' returned a non-zero code: 100\n")
	n.NoOutbound(true)
	fails(100, buildUpgrade, "E: Some index files failed to download.")
	n.NoOutbound(false)
	n.FillDisk(true)
	fails(1, buildUpgrade, "Error response from daemon: mkdir /var/lib/docker/tmp/docker-builder", ": no space left on device\n")
	n.FillDisk(false)
	dockerfile(t, n, "FROM "+repository+"\nRUN apt-get update\nRUN apt-get clean && apt-get autoremove\n")
	fails(1, buildUpgrade, "Do you want to continue? [Y/n] Abort.\n", "returned a non-zero code: 1\n")
	dockerfile(t, n, "FROM "+repository+"\nRUN docker ps\n")
	fails(127, buildUpgrade, "docker: not found")
	dockerfile(t, n, "FROM nothing:at-all\n")
	fails(1, buildUpgrade, "Step 1/1 : FROM nothing:at-all\npull access denied for nothing, repository does not exist")
	dockerfile(t, n, "FROM "+repository+"\nCOPY a b\n")
	fails(1, buildUpgrade, "Error response from daemon: dockerfile parse error line 2: unknown instruction: COPY")
	fails(1, "sudo -n docker build -t x /tmp", "unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat /tmp/Dockerfile: no such file or directory")
	fails(1, "sudo -n docker build -t x /nowhere", `unable to prepare context: path "/nowhere" not found`)
	fails(125, "sudo -n docker build -t X/y /home/stackato/up", "invalid reference format")
}

func TestDocker_BuildWithAPackageThatFails_IsAudited(t *testing.T) {
	n, c := dockerNode(t, Config{ImagePending: []Package{{Name: "tzdata", Old: "1", New: "2", PostinstFails: 1}}})
	dockerfile(t, n, upgrade)
	require.Equal(t, 1, run(t, c, buildUpgrade).exit)
	dockerfile(t, n, "FROM "+repository+"\nRUN unattended-upgrades -d || true\n")
	require.Equal(t, 0, run(t, c, buildUpgrade).exit)
	r := run(t, c, "sudo -n docker run --rm=true "+repository+":upgrade-2014-09-19 dpkg --audit")
	require.Equal(t, 1, r.exit)
	require.Contains(t, r.out, " tzdata ")
	require.Empty(t, run(t, c, "sudo -n dpkg --audit").out)
}

// slowBuild starts a build that waits in its second step until HealCommands, and returns the id of its client's process.
func slowBuild(t testing.TB, n *Node, c *ssh.Client) (client string, ended chan result) {
	t.Helper()
	dockerfile(t, n, upgrade)
	n.SlowCommand("apt-get update", 1, time.Hour)
	ended = make(chan result, 1)
	go func() { ended <- run(t, c, buildUpgrade) }()
	eventually(t, "the build runs", func() bool { return slices.Contains(n.Processes(), "apt-get update") })
	client = strings.Fields(run(t, c, "pgrep -f '^docker build'").out)[0]
	return client, ended
}

func TestDocker_BuildThatTakesItsTime_TakesItInItsSteps(t *testing.T) {
	n, c := dockerNode(t, Config{ImageBuildTime: 3 * time.Hour})
	dockerfile(t, n, upgrade)
	ended := make(chan result, 1)
	go func() { ended <- run(t, c, buildUpgrade) }()
	eventually(t, "the first step waits", func() bool {
		return slices.Contains(n.Processes(), "/bin/sh -c DEBIAN_FRONTEND=noninteractive apt-get update")
	})
	require.Zero(t, n.Docker().Builds())
	n.PowerOff()
	require.Equal(t, -1, (<-ended).exit)
	require.Len(t, n.Docker().Images(), 2)
}

func TestDocker_BuildWhoseClientIsKilled_EndsSince112(t *testing.T) {
	n, c := dockerNode(t, Config{})
	client, ended := slowBuild(t, n, c)
	require.Equal(t, 0, run(t, c, "sudo -n kill -9 "+client).exit)
	<-ended
	eventually(t, "its step ends", func() bool { return !slices.Contains(n.Processes(), "apt-get update") })
	n.HealCommands()
	require.Zero(t, n.Docker().Builds())
	require.NotContains(t, n.Docker().Images(), repository+":upgrade-2014-09-19")
}

func TestDocker_BuildWhoseClientIsKilled_GoesOnBefore112(t *testing.T) {
	n, c := dockerNode(t, Config{DockerVersion: "1.10.3"})
	client, ended := slowBuild(t, n, c)
	require.Equal(t, 0, run(t, c, "sudo -n kill -9 "+client).exit)
	<-ended
	require.NotContains(t, n.Docker().Images(), repository+":upgrade-2014-09-19")
	n.HealCommands()
	eventually(t, "the daemon has built it", func() bool { return n.Docker().Builds() == 1 })
	require.Contains(t, n.Docker().Images(), repository+":upgrade-2014-09-19")
}

func TestDocker_BuildInterrupted_LeavesNothing(t *testing.T) {
	t.Run("by a reboot", func(t *testing.T) {
		n, c := dockerNode(t, Config{DockerVersion: "1.3.3"})
		_, ended := slowBuild(t, n, c)
		n.RebootNow()
		require.Equal(t, -1, (<-ended).exit)
		eventually(t, "second boot", func() bool { return n.Boots() == 2 && n.Running() })
		n.HealCommands()
		require.NotContains(t, n.Docker().Images(), repository+":upgrade-2014-09-19")
		require.Zero(t, n.Docker().Builds())
	})
	t.Run("by the end of the daemon", func(t *testing.T) {
		n, c := dockerNode(t, Config{Network: 1})
		_, ended := slowBuild(t, n, c)
		n.Docker().SetDaemonDown(true)
		r := <-ended
		require.Equal(t, 1, r.exit)
		require.Equal(t, "unexpected EOF\n", r.err)
		require.NotContains(t, n.Docker().Images(), repository+":upgrade-2014-09-19")
	})
}

func TestDocker_Tag_OfTheGenerations(t *testing.T) {
	for i, tc := range []struct {
		version       string
		plain, forced int // exit codes
		plainText     string
		forcedText    string
	}{
		{"20.10.24", 0, 125, "", "unknown shorthand flag: 'f' in -f\nSee 'docker tag --help'.\n"},
		{"1.12.6", 0, 125, "", "unknown shorthand flag: 'f' in -f\n"},
		{"1.10.3", 0, 0, "", "Warning: '-f' is deprecated, it will be removed soon. See usage.\n"},
		{"1.9.1", 1, 0, "Error response from daemon: Conflict: Tag latest is already set to image ", ""},
		{"1.0.1", 1, 0, ", if you want to replace it, please use -f option\n", ""},
	} {
		t.Run(tc.version, func(t *testing.T) {
			n, c := dockerNode(t, Config{DockerVersion: tc.version, Network: i})
			dockerfile(t, n, upgrade)
			require.Equal(t, 0, run(t, c, buildUpgrade).exit)
			before, id := n.Docker().Images()[repository+":latest"], n.Docker().Images()[repository+":upgrade-2014-09-19"]
			r := run(t, c, "sudo -n docker tag "+repository+":upgrade-2014-09-19 "+repository+":latest")
			require.Equal(t, tc.plain, r.exit, r.err)
			require.Contains(t, r.err, tc.plainText)
			require.Equal(t, map[int]string{0: id, 1: before}[tc.plain], n.Docker().Images()[repository+":latest"])
			r = run(t, c, "sudo -n docker tag -f "+strings.TrimPrefix(id, "sha256:")[:12]+" "+repository)
			require.Equal(t, tc.forced, r.exit, r.err)
			require.Contains(t, r.err, tc.forcedText)
			require.Equal(t, id, n.Docker().Images()[repository+":latest"])
			r = run(t, c, "sudo -n docker tag "+id+" "+registryAt+":new")
			require.Equal(t, 0, r.exit, r.err)
			require.Equal(t, id, n.Docker().Images()[registryAt+":new"])
			require.Equal(t, 1, run(t, c, "sudo -n docker tag nothing "+repository+":x").exit)
			n.FillDisk(true)
			require.Contains(t, run(t, c, "sudo -n docker tag "+id+" "+repository+":full").err, "no space left on device")
			require.NotContains(t, n.Docker().Images(), repository+":full")
		})
	}
}

func TestDocker_Run_SeesThePackagesOfTheImage(t *testing.T) {
	n, c := dockerNode(t, Config{})
	dockerfile(t, n, upgrade)
	require.Equal(t, 0, run(t, c, buildUpgrade).exit)
	look := `sh -c 'echo "@s audit"; dpkg --audit; LC_ALL=C apt-get -s -o Debug::NoLocking=true dist-upgrade | grep -E "^(Inst|E:) "; dpkg-query -W -f "\${Version}\n" openssl; cat /var/lib/dpkg/status | grep "Version: 3.0" | sort -u; echo end'`
	r := run(t, c, "sudo -n docker run --rm=true --net=host "+repository+" "+look)
	require.Equal(t, 0, r.exit, r.err)
	require.Equal(t, "@s audit\nInst bash [5.2.15-2+b7] (5.2.15-2+b8 Debian-Security:12/stable-security [amd64])\nInst libssl3 [3.0.13-1~deb12u1] (3.0.14-1~deb12u2 Debian-Security:12/stable-security [amd64])\n"+
		"Inst openssl [3.0.13-1~deb12u1] (3.0.14-1~deb12u2 Debian-Security:12/stable-security [amd64])\n3.0.13-1~deb12u1\nVersion: 3.0.13-1~deb12u1\nend\n", r.out)
	r = run(t, c, "sudo -n docker run --rm --network host "+n.Docker().Images()[repository+":upgrade-2014-09-19"]+" "+look)
	require.Equal(t, "@s audit\n3.0.14-1~deb12u2\nVersion: 3.0.14-1~deb12u2\nend\n", r.out)
	require.Equal(t, result{"", "", 7}, run(t, c, "sudo -n docker run --rm "+repository+" sh -c 'exit 7'"))
	require.Equal(t, 127, run(t, c, "sudo -n docker run --rm "+repository+" nothing").exit)
	r = run(t, c, "sudo -n docker run --rm "+repository+" sh -c 'unattended-upgrades -d; dpkg-query -W openssl'")
	require.Contains(t, r.out, "openssl\t3.0.14-1~deb12u2\n")
	require.Equal(t, []string{"bash", "libssl3", "openssl"}, n.Docker().PendingIn(repository), "what a container does is gone with it")
	require.Equal(t, 4, n.PendingCount())
	r = run(t, c, "sudo -n docker run --rm nothing true")
	require.Equal(t, 125, r.exit)
	require.Contains(t, r.err, "Unable to find image 'nothing:latest' locally\ndocker: Error response from daemon: pull access denied for nothing")

	n.Docker().BreakImages(true)
	require.Equal(t, 0, run(t, c, buildUpgrade).exit)
	r = run(t, c, "sudo -n docker run --rm "+repository+":upgrade-2014-09-19 "+look)
	require.Equal(t, 127, r.exit)
	require.Regexp(t, `^docker: Error response from daemon: .*exec: "sh": executable file not found in \$PATH: unknown\.\n$`, r.err)
	require.Equal(t, 0, run(t, c, "sudo -n docker run --rm "+repository+" true").exit)
}

func TestDocker_Containers_AreTheInstancesOfApps(t *testing.T) {
	n, c := dockerNode(t, Config{BootTime: -1})
	all, other := n.cluster, n.cluster.Node("dea-2")
	require.Len(t, n.Docker().Containers(), 4, "eight instances on two DEAs")
	require.Len(t, other.Docker().Containers(), 4)
	wiki := all.Controller().AppGUID("intranet", "production", "wiki")
	before := instancesOf(all, wiki)
	require.Len(t, before, 1)
	require.Equal(t, Container{ID: before[0].ID, ImageID: n.Docker().Images()[repository+":latest"], ImageName: repository, AppGUID: wiki, AppName: "wiki"}, before[0])

	// A tag that moves changes no container, but those that are made afterwards.
	for _, d := range []*Node{n, other} {
		dockerfile(t, d, upgrade)
		s := dial(t, d)
		require.Equal(t, 0, run(t, s, buildUpgrade).exit)
		require.Equal(t, 0, run(t, s, "sudo -n docker tag "+repository+":upgrade-2014-09-19 "+repository+":latest").exit)
	}
	require.Equal(t, before, instancesOf(all, wiki))
	restart(t, all, wiki)
	after := instancesOf(all, wiki)
	require.Len(t, after, 1)
	require.NotEqual(t, before[0].ID, after[0].ID)
	require.NotEqual(t, before[0].ImageID, after[0].ImageID)
	require.Equal(t, repository, after[0].ImageName)
	newIDs := []string{n.Docker().Images()[repository+":latest"], other.Docker().Images()[repository+":latest"]}
	require.Contains(t, newIDs, after[0].ImageID)

	setState(t, all, wiki, "STOPPED")
	require.Empty(t, instancesOf(all, wiki))
	storefront := all.Controller().AppGUID("shop", "production", "storefront")
	require.Len(t, instancesOf(all, storefront), 3)

	// What was started before kato's list changed keeps its name.
	require.Equal(t, 0, run(t, c, "sudo -n docker tag "+repository+":latest "+registryAt+":latest").exit)
	setState(t, all, wiki, "STARTED")
	require.Equal(t, 0, runKato(t, c, "config set fence docker/images --json", `["`+registryAt+`","`+repository+`"]`).exit)
	require.Equal(t, repository, instancesOf(all, wiki)[0].ImageName)
	restart(t, all, storefront)
	for _, i := range n.Docker().Containers() {
		if i.AppGUID == storefront {
			require.Equal(t, registryAt, i.ImageName)
		}
	}
	for _, i := range other.Docker().Containers() {
		require.Equal(t, repository, i.ImageName, "it has no other image")
	}

	out := run(t, c, "sudo -n docker ps --no-trunc -q").out
	require.Len(t, strings.Fields(out), len(n.Docker().Containers()))
	require.Contains(t, out, n.Docker().Containers()[0].ID+"\n")

	// A DEA that goes loses its containers to those that are up; they stay there when it returns.
	n.PowerOff()
	require.Empty(t, n.Docker().Containers())
	require.Len(t, other.Docker().Containers(), 8)
	other.PowerOff()
	require.Empty(t, other.Docker().Containers())
	other.PowerOn()
	require.Len(t, other.Docker().Containers(), 8)
	for _, i := range other.Docker().Containers() {
		require.Equal(t, other.Docker().Images()[repository+":latest"], i.ImageID)
	}
	n.PowerOn()
	require.Empty(t, n.Docker().Containers())
	restart(t, all, storefront)
	require.NotEmpty(t, n.Docker().Containers())
	require.Equal(t, 0, runKato(t, dial(t, other), "node retire").exit)
	require.Empty(t, other.Docker().Containers())
	require.Len(t, n.Docker().Containers(), 8)
}

func TestDocker_ManyApps_AllHaveContainers(t *testing.T) {
	n, c := dockerNode(t, Config{})
	n.cluster.Controller().Empty()
	guids := n.cluster.Controller().FillMany(1000)
	require.Len(t, strings.Fields(run(t, c, "sudo -n docker ps -q").out), 1000, "half of 2000 instances, but for one")
	n.cluster.Controller().BreakApp(guids[1], "instances-crash")
	require.Empty(t, instancesOf(n.cluster, guids[1]))
	n.cluster.Controller().HealApp(guids[1])
	require.Len(t, instancesOf(n.cluster, guids[1]), 2)
	n.cluster.Controller().Remove(guids[1])
	require.Empty(t, instancesOf(n.cluster, guids[1]))
}

func TestDocker_PsAndExec_TellOfApps(t *testing.T) {
	n, c := dockerNode(t, Config{})
	d := n.Docker().Containers()[0]
	require.Regexp(t, `(?m)^CONTAINER ID +IMAGE +COMMAND +CREATED +STATUS +PORTS +NAMES$`, run(t, c, "sudo -n docker ps -a").out)
	require.Regexp(t, `(?m)^`+d.ID[:12]+` +`+repository+` +"/sbin/init" `, run(t, c, "sudo -n docker ps").out)
	dockerfile(t, n, upgrade)
	require.Equal(t, 0, run(t, c, buildUpgrade+" && sudo -n docker tag "+repository+":upgrade-2014-09-19 "+repository+":latest").exit)
	require.Regexp(t, `(?m)^`+d.ID[:12]+` +`+d.ImageID[7:19]+` `, run(t, c, "sudo -n docker ps").out, "its image has another name now")

	r := run(t, c, "sudo -n docker exec "+d.ID+" cat /home/stackato/etc/droplet.env.json")
	require.Equal(t, 0, r.exit, r.err)
	require.Equal(t, 1, strings.Count(r.out, "\n"))
	var environment, application map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.out), &environment))
	require.Equal(t, d.AppName, environment["STACKATO_APP_NAME"])
	require.NoError(t, json.Unmarshal([]byte(environment["VCAP_APPLICATION"].(string)), &application))
	require.Equal(t, d.AppGUID, application["application_id"])
	require.Contains(t, environment["VCAP_SERVICES"], ContainerSecret)
	require.Equal(t, 1, run(t, c, "sudo -n docker exec "+d.ID[:12]+" cat /etc/shadow").exit)
	require.Equal(t, 126, run(t, c, "sudo -n docker exec "+d.ID[:12]+" reboot").exit)
	require.Equal(t, result{"", "Error: No such container: nothing\n", 1}, run(t, c, "sudo -n docker exec nothing cat x"))

	_, old := dockerNode(t, Config{DockerVersion: "1.2.0", Network: 1})
	r = run(t, old, "sudo -n docker exec "+d.ID+" cat /home/stackato/etc/droplet.env.json")
	require.Equal(t, 0, r.exit, "it says how it is used")
	require.Contains(t, r.out, "Error: Command not found: exec\nUsage: docker ")
	o, third := dockerNode(t, Config{DockerVersion: "1.3.3", Network: 2})
	require.Contains(t, run(t, third, "sudo -n docker exec "+o.Docker().Containers()[0].ID+" cat /home/stackato/etc/droplet.env.json").out, "application_id")
}

func TestDocker_Registry_CarriesImagesFromNodeToNode(t *testing.T) {
	for i, tc := range []struct {
		version                string
		digest, recorded, same bool
	}{{"20.10.24", true, true, true}, {"1.10.3", true, false, true}, {"1.9.1", true, false, false}, {"1.6.2", true, false, true}, {"1.0.1", false, false, true}} {
		t.Run(tc.version, func(t *testing.T) {
			n, c := dockerNode(t, Config{DockerVersion: tc.version, Network: i})
			other := n.cluster.Node("dea-2")
			second := dial(t, other)
			dockerfile(t, n, upgrade)
			require.Equal(t, 0, run(t, c, buildUpgrade).exit)
			id := n.Docker().Images()[repository+":upgrade-2014-09-19"]
			require.Equal(t, 0, run(t, c, "sudo -n docker tag "+id+" "+registryAt+":u").exit)
			require.Equal(t, 1, run(t, second, "sudo -n docker pull "+registryAt+":u").exit, "it is not there yet")
			n.cluster.SetRegistryDown(true)
			r := run(t, c, "sudo -n docker push "+registryAt+":u")
			require.Equal(t, 1, r.exit)
			require.Contains(t, r.err, "connection refused")
			n.cluster.SetRegistryDown(false)
			require.Empty(t, n.cluster.RegistryImages())
			r = run(t, c, "sudo -n docker push "+registryAt+":u")
			require.Equal(t, 0, r.exit, r.err)
			require.Equal(t, map[string]string{registryAt + ":u": id}, n.cluster.RegistryImages())
			name := registryAt + ":u"
			if tc.digest {
				_, digest, found := strings.Cut(r.out, "igest: ")
				require.True(t, found, r.out)
				name = registryAt + "@" + strings.Fields(digest)[0]
				digests, _ := inspected(t, c, id)["repodigests"].([]any)
				require.Equal(t, tc.recorded, slices.Contains(digests, any(name)))
			}
			r = run(t, second, "sudo -n docker pull "+name)
			require.Equal(t, 0, r.exit, r.err)
			require.Contains(t, r.out, "Status: Downloaded newer image for "+name+"\n")
			pulled := fmt.Sprint(inspected(t, second, name)["id"])
			require.Equal(t, tc.same, pulled == id)
			require.Empty(t, other.Docker().PendingIn(pulled))
			require.Contains(t, run(t, second, "sudo -n docker pull "+name).out, "Status: Image is up to date for "+name+"\n")
			require.Equal(t, 0, run(t, second, "sudo -n docker tag "+name+" "+registryAt+":latest").exit)
			require.Equal(t, pulled, other.Docker().Images()[registryAt+":latest"])
			require.Len(t, strings.Fields(run(t, second, "sudo -n docker history -q "+name).out), 15)
		})
	}
}

func TestDocker_Registry_RefusesWhatIsNotThere(t *testing.T) {
	n, c := dockerNode(t, Config{})
	r := run(t, c, "sudo -n docker pull "+registryAt+":nothing")
	require.Equal(t, 1, r.exit)
	require.Equal(t, "Error response from daemon: manifest for "+registryAt+":nothing not found: manifest unknown: manifest unknown\n", r.err)
	require.Contains(t, run(t, c, "sudo -n docker push "+registryAt+":nothing").err, "An image does not exist locally with the tag: "+registryAt)
	require.Contains(t, run(t, c, "sudo -n docker push "+repository).err, "denied: requested access to the resource is denied")
	require.Contains(t, run(t, c, "sudo -n docker pull "+repository+":other").err, "pull access denied for "+repository)
	n.NoOutbound(true)
	require.Contains(t, run(t, c, "sudo -n docker pull "+registryAt+":x").err, "connect: connection refused")
	_, old := dockerNode(t, Config{DockerVersion: "1.0.1", Network: 1})
	r = run(t, old, "sudo -n docker pull "+registryAt+"@sha256:"+strings.Repeat("a", 64))
	require.Equal(t, 1, r.exit)
	require.Contains(t, r.err, "Invalid repository name")
}

func TestDocker_Rmi_KeepsWhatIsUsed(t *testing.T) {
	n, c := dockerNode(t, Config{})
	id := n.Docker().Images()[repository+":latest"]
	require.Equal(t, 0, run(t, c, "sudo -n docker rmi "+repository+":kato-patched").exit)
	r := run(t, c, "sudo -n docker rmi "+repository+":latest")
	require.Equal(t, 1, r.exit)
	require.Contains(t, r.err, "conflict: unable to remove repository reference")
	require.Equal(t, id, n.Docker().Images()[repository+":latest"])
	require.Contains(t, run(t, c, "sudo -n docker rmi "+id).err, "image is being used by running container")
	dockerfile(t, n, strings.ReplaceAll(upgrade, ":kato-patched", ""))
	require.Equal(t, 0, run(t, c, buildUpgrade).exit)
	built := n.Docker().Images()[repository+":upgrade-2014-09-19"]
	r = run(t, c, "sudo -n docker rmi nothing "+repository+":upgrade-2014-09-19")
	require.Equal(t, 1, r.exit)
	require.Equal(t, "Error: No such image: nothing\n", r.err)
	require.Equal(t, "Untagged: "+repository+":upgrade-2014-09-19\nDeleted: "+built+"\n", r.out)
	require.Nil(t, n.Docker().ImagePackages(built))
	n.Docker().Remove(repository + ":latest")
	require.Empty(t, n.Docker().Images())
	require.Equal(t, id, n.Docker().Containers()[0].ImageID, "who runs goes on")
	o, old := dockerNode(t, Config{DockerVersion: "1.3.3", Network: 1})
	r = run(t, old, "sudo -n docker rmi "+o.Docker().Images()[repository+":latest"])
	require.Equal(t, 1, r.exit)
	require.Contains(t, r.err, "Conflict, cannot delete")
}

func TestDocker_WrongUse_IsRefusedAsTheGenerationDoes(t *testing.T) {
	_, c := dockerNode(t, Config{})
	for command, want := range map[string]struct {
		exit int
		text string
	}{
		"docker frobnicate":              {1, "docker: 'frobnicate' is not a docker command.\nSee 'docker --help'\n"},
		"docker --frobnicate":            {125, "unknown flag: --frobnicate\n"},
		"docker build -rm /tmp":          {125, "unknown shorthand flag: 'r' in -rm\nSee 'docker build --help'.\n"},
		"docker build --squash /tmp":     {125, "unknown flag: --squash\nSee 'docker build --help'.\n"},
		"docker build":                   {1, "\"docker build\" requires exactly 1 argument.\nSee 'docker build --help'.\n"},
		"docker build /tmp -t":           {125, "flag needs an argument: -t\n"},
		"docker build --rm=maybe /tmp":   {125, "invalid argument"},
		"docker inspect":                 {1, "\"docker inspect\" requires at least 1 argument.\n"},
		"docker tag a":                   {1, "\"docker tag\" requires exactly 2 arguments.\n"},
		"docker images a b":              {1, "\"docker images\" requires at most 1 argument.\n"},
		"docker ps x":                    {1, "\"docker ps\" accepts no arguments.\n"},
		"docker tag a B:c":               {1, "Error parsing reference: \"B:c\" is not a valid repository/tag: invalid reference format\n"},
		"docker run --privileged x true": {125, "unknown flag: --privileged\n"},
	} {
		r := run(t, c, "sudo -n "+command)
		require.Equal(t, want.exit, r.exit, command)
		require.Contains(t, r.err, want.text, command)
	}
	for version, exit := range map[string]int{"1.5.0": 2, "1.9.1": 125} {
		_, old := dockerNode(t, Config{DockerVersion: version, Network: exit})
		r := run(t, old, "sudo -n docker build --squash /tmp")
		require.Equal(t, exit, r.exit)
		require.Equal(t, "flag provided but not defined: --squash\nSee 'docker build --help'.\n", r.err)
	}
	_, err := Start(Config{DockerVersion: "new"})
	require.ErrorContains(t, err, `docker version "new"`)
}

func TestDocker_Faults_CanBeInjectedByName(t *testing.T) {
	n, c := dockerNode(t, Config{})
	require.NoError(t, n.Inject("docker-down"))
	require.Equal(t, 1, run(t, c, "sudo -n docker info").exit)
	require.NoError(t, n.Inject("docker-down", "off"))
	require.NoError(t, n.Inject("break-images", "on"))
	require.NoError(t, n.Inject("add-image-package", "git", "1:2.39.2-1.1", "1:2.39.5-0"))
	require.Contains(t, n.Docker().PendingIn(repository), "git")
	require.NoError(t, n.Inject("registry-down"))
	require.ErrorContains(t, n.cluster.Node("core").Inject("docker-down"), "has no docker")
	n.FailCommand("docker tag", 1, 1, "Error response from daemon: out of order")
	require.Equal(t, 1, run(t, c, "sudo -n docker tag "+repository+" x:y").exit)
	require.Equal(t, 0, run(t, c, "sudo -n docker tag "+repository+" x:y").exit)
	require.True(t, n.Commands()[0].Failed)
}

func TestDocker_Rollback_PutsImagesBack(t *testing.T) {
	n, c := dockerNode(t, Config{Hypervisor: &HypervisorConfig{Disks: true}, BootTime: -1})
	before := n.Docker().Images()
	host := dial(t, n.cluster.Hypervisor().Host())
	require.Equal(t, 0, run(t, host, "vmctl take vm-dea-1 s").exit)
	dockerfile(t, n, upgrade)
	require.Equal(t, 0, run(t, c, buildUpgrade).exit)
	n.Docker().PublishImageUpdate(Package{Name: "git", New: "1:2.39.5-0"})
	n.PowerOff()
	require.Equal(t, 0, run(t, host, "vmctl rollback vm-dea-1 s").exit)
	n.PowerOn()
	require.Equal(t, before, n.Docker().Images())
	require.Equal(t, []string{"bash", "libssl3", "openssl"}, n.Docker().PendingIn(repository))
}

func TestAutoscaling_IsConfiguredWhereItIsOn(t *testing.T) {
	nodes := append(DefaultNodes(), NodeConfig{Name: "core-2", Roles: []string{"base", "controller"}})
	c := startCluster(t, Config{Nodes: nodes, Autoscaling: true})
	core := dial(t, c.Node("core"))
	require.Equal(t, "true\n", runKato(t, core, "config get cloud_controller_ng autoscaling/enabled").out)
	require.Equal(t, "true\n", runKato(t, core, "config get health_manager autoscaling/enabled").out)
	show := "grep -E '^[[:space:]]*(template|template_id)[[:space:]]*:' /s/etc/autoscaling/autoscaling.yaml"
	first := run(t, core, show).out
	require.Equal(t, "    template_id: "+firstTemplate+"\n", first)
	require.Contains(t, run(t, core, "cat /s/etc/autoscaling/autoscaling.yaml").out, "enabled_plugins:\n  - OpenStack\n")
	second := dial(t, c.Node("core-2"))
	require.Equal(t, first, run(t, second, show).out)
	require.Contains(t, run(t, second, "cat /s/etc/autoscaling/autoscaling.yaml").out, "enabled_plugins: []\n", "on one controller only")
	require.NoError(t, c.SetAutoscalingTemplate("new-1"))
	require.NoError(t, c.Node("core-2").SetAutoscalingTemplate("new-2"))
	require.Equal(t, "    template_id: new-1\n", run(t, core, show).out)
	require.Equal(t, "    template_id: new-2\n", run(t, second, show).out)
	require.Error(t, c.Node("dea-1").SetAutoscalingTemplate("x"))

	without := startCluster(t, Config{Network: 1})
	require.Error(t, without.SetAutoscalingTemplate("x"))
	require.Equal(t, 2, run(t, dial(t, without.Node("core")), "cat /s/etc/autoscaling/autoscaling.yaml 2>/dev/null || exit 2").exit)
}
