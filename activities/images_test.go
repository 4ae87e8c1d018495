package activities

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/katoflow/katoflow/internal/docker"
	"github.com/katoflow/katoflow/internal/inventory"
	"github.com/katoflow/katoflow/internal/operation"
)

const (
	anImage     = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	aContainer  = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
	anAppGUID   = "0a1b2c3d-0000-4000-8000-00000000002a"
	aDockerStub = `#!/bin/sh
case $1 in
--version) echo 'Docker version 20.10.24+dfsg1, build 297e128' ;;
info) printf 'Client:\n Debug Mode: false\nServer:\n Docker Root Dir: /\n Debug Mode: false\n' ;;
images) printf 'REPOSITORY TAG IMAGE ID CREATED SIZE\nstackato/stack-alsek latest ` + anImage + ` 2 days ago 1GB\nstackato/stack-alsek upgrade-2026-09-19 ` + anImage + ` 2 days ago 1GB\n' ;;
history) printf 'aaa\n<missing>\n' ;;
ps) echo ` + aContainer + ` ;;
exec) printf '{"STACKATO_APP_NAME":"web","VCAP_APPLICATION":"{\\"application_id\\":\\"` + anAppGUID + `\\",\\"application_name\\":\\"web\\"}","VCAP_SERVICES":"{\\"password\\":\\"hunter2\\"}"}\n' ;;
inspect)
	case $2 in
	stackato/stack-alsek:latest) printf '[\n    {\n        "Id": "` + anImage + `",\n        "Created": "2026-01-02T03:04:05Z",\n        "RootFS": {\n            "Layers": ["sha256:1", "sha256:2"]\n        }\n    }\n]\n' ;;
	` + aContainer + `) printf '[\n    {\n        "Id": "` + aContainer + `",\n        "Image": "` + anImage + `",\n        "Config": {\n            "Image": "stackato/stack-alsek",\n            "Env": ["SECRET=hunter2"]\n        }\n    }\n]\n' ;;
	*) echo '[]'; echo "Error: No such object: $2" >&2; exit 1 ;;
	esac
	;;
esac
`
)

// The scripts are run by this machine's shells, with a docker that prints what the real one does.
func TestImageScripts_EveryShell_TellWhatDockerHas(t *testing.T) {
	home, path := t.TempDir(), packageTools(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "docker"), []byte(aDockerStub), 0o700))
	path = dir + string(os.PathListSeparator) + path
	for _, shell := range shellsToTry(t) {
		run := func(t *testing.T, text string, args ...string) (answer, string) {
			cmd := exec.Command(shell[0], append(append(slices.Clone(shell[1:]), "-c", text, "sh"), args...)...)
			cmd.Env = append(os.Environ(), "HOME="+home, "PATH="+path)
			out, err := cmd.Output()
			require.NoError(t, err)
			a := parseAnswer(out)
			require.True(t, a.complete, "%s", out)
			return a, string(out)
		}
		t.Run(shell[0], func(t *testing.T) {
			a, _ := run(t, imagesScript, "0", "1", "stackato/stack-alsek:latest", "stackato/stack-alsek:none", "stackato/stack-alsek:none")
			s := imageStateOf(a, 3)
			require.Equal(t, "upgrade-2026-09-19", imageState{images: []docker.Image{{}, s.images[0], {}}, tags: s.tags}.upgrade("stackato/stack-alsek"))
			require.Empty(t, s.problem)
			require.Equal(t, "20.10.24+dfsg1", s.version.Text)
			require.Equal(t, anImage, s.images[0].ID)
			require.Equal(t, 2, s.layers(0))
			require.Empty(t, s.images[1].ID)
			require.NotNil(t, s.space)
			pending, _ := parsePending(s.pending)
			require.NotEmpty(t, pending)

			a, out := run(t, imageContainersScript, "0")
			require.Equal(t, []docker.Container{{ID: aContainer, ImageID: anImage, ImageName: "stackato/stack-alsek"}}, docker.ParseContainers(a.sections["containers"]))
			require.NotContains(t, out, "hunter2")

			a, out = run(t, imageAppsScript, "0", aContainer)
			require.Equal(t, []string{aContainer + " " + anAppGUID + " web"}, a.values["app"])
			require.NotContains(t, out, "hunter2", "the environment of an app has secrets")

			text := (site{cluster: &inventory.Cluster{}}).dockerfile("stackato/stack-alsek:kato-patched")
			a, _ = run(t, imagePlaceScript, "upgrade-2026-09-19", text)
			folder := a.value("folder")
			require.Equal(t, home+"/upgrade-alsek/upgrade-2026-09-19", folder)
			placed, err := os.ReadFile(folder + "/Dockerfile")
			require.NoError(t, err)
			require.Equal(t, text, string(placed))
			files, err := os.ReadDir(folder)
			require.NoError(t, err)
			require.Len(t, files, 1, "a build sends the whole folder to the daemon")
			a, _ = run(t, imagePlaceScript, "upgrade-2026-09-19", "")
			require.Equal(t, folder, a.value("folder"))

			for _, text := range []string{imageListScript, imageTemplateScript} {
				run(t, text, "5", "echo")
			}
		})
	}
}

func TestImageState_OfANodeWithoutDocker_SaysSo(t *testing.T) {
	for out, want := range map[string]string{
		"@katoflow no-docker 1\n@katoflow end\n": "docker is not installed",
		"@katoflow version Docker version 1.0.1, build x\n@katoflow section info\nsudo: a password is required\n@katoflow section\n@katoflow info-exit 1\n@katoflow end\n":        "katoflow-images",
		"@katoflow version Docker version 1.0.1, build x\n@katoflow section info\nCannot connect to the Docker daemon\n@katoflow section\n@katoflow info-exit 1\n@katoflow end\n": "does not answer",
		"@katoflow version \n@katoflow end\n": "version of docker is not known",
	} {
		require.Contains(t, imageStateOf(parseAnswer([]byte(out)), 1).problem, want)
	}
}

func TestDockerfile_IsThePagesOne_WithAnswersAndTheProxyForItsCommandsAlone(t *testing.T) {
	s := site{cluster: &inventory.Cluster{}}
	require.Equal(t, `FROM stackato/stack-alsek:kato-patched
RUN DEBIAN_FRONTEND=noninteractive apt-get update
RUN DEBIAN_FRONTEND=noninteractive unattended-upgrades -d
RUN apt-get clean && DEBIAN_FRONTEND=noninteractive apt-get -y autoremove
`, s.dockerfile("stackato/stack-alsek:kato-patched"))
	s.cluster.Proxy = inventory.Proxy{HTTP: "http://proxy.example.org:3128", NoProxy: "a,b"}
	text := s.dockerfile("x:y")
	require.Contains(t, text, "RUN DEBIAN_FRONTEND=noninteractive http_proxy=http://proxy.example.org:3128 no_proxy=a,b apt-get update")
	require.NotContains(t, text, "ENV", "apps must not get it")
}

func TestJudgeImages_WhatStandsInTheWay(t *testing.T) {
	in := ImagesPreflightInput{Operation: operation.ImageSettings{}.Or(operation.ImageSettings{})}
	have := func(change func(*imageState)) imageState {
		s := imageState{images: make([]docker.Image, 3), histories: make([][]string, 3), space: &fileSystem{mount: "/var/lib/docker", free: 10 << 20}}
		for i := range s.images {
			s.images[i] = docker.Image{ID: anImage, Layers: make([]string, 12)}
		}
		change(&s)
		return s
	}
	for name, c := range map[string]struct {
		state           imageState
		rollback        bool
		problem, warned string
	}{
		"all well":     {state: have(func(*imageState) {})},
		"no base":      {state: have(func(s *imageState) { s.images[0] = docker.Image{} }), problem: "there is no image stackato/stack-alsek:kato-patched to build on: write the right name as images.repository or images.base_tag in the inventory; kato gives apps helion/stack-alsek"},
		"no latest":    {state: have(func(s *imageState) { s.images[1] = docker.Image{} }), warned: "nothing can be rolled back to"},
		"many layers":  {state: have(func(s *imageState) { s.images[0].Layers = make([]string, 123) }), problem: "has 123 layers, and docker mounts 125 at most"},
		"no space":     {state: have(func(s *imageState) { s.space.free = 500 << 10 }), problem: "500 MB free in /var/lib/docker"},
		"little space": {state: have(func(s *imageState) { s.space.free = 2 << 20 }), warned: "only 2048 MB free in /var/lib/docker"},
		"VM behind": {state: have(func(s *imageState) {
			s.pending = "Inst libssl3 [1] (2 Debian-Security:12/stable-security [amd64])\n"
		}), warned: "the VM itself is not up to date, 1 security packages are pending"},
		"docker away":       {state: imageState{problem: "the docker daemon does not answer"}, problem: "the docker daemon does not answer"},
		"rollback, full":    {state: have(func(s *imageState) { s.space.free = 0 }), rollback: true},
		"rollback, no base": {state: have(func(s *imageState) { s.images[0] = docker.Image{} }), rollback: true},
	} {
		in.Rollback = c.rollback
		problems, warnings := judgeImages(c.state, in, []string{"helion/stack-alsek"})
		check := func(what string, got []string, want string) {
			if want == "" {
				require.Empty(t, got, "%s: %s", name, what)
				return
			}
			require.Len(t, got, 1, "%s: %s", name, what)
			require.Contains(t, strings.Join(got, "\n"), want, name)
		}
		check("problems", problems, c.problem)
		check("warnings", warnings, c.warned)
	}
}
