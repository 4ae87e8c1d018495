package docker

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseVersion_OfAllGenerations(t *testing.T) {
	for out, want := range map[string]Version{
		"Docker version 1.0.1, build 990021a":                {1, 0, "1.0.1"},
		"Docker version 20.10.24+dfsg1, build 297e128":       {20, 10, "20.10.24+dfsg1"},
		"Docker version 17.05.0-ce, build 89658be":           {17, 5, "17.05.0-ce"},
		"Warning: x\nDocker version 1.13.1, build 092cba372": {1, 13, "1.13.1"},
	} {
		got, err := ParseVersion(out)
		require.NoError(t, err, out)
		require.Equal(t, want, got)
	}
	for _, out := range []string{"", "docker: not found", "Docker version x"} {
		_, err := ParseVersion(out)
		require.Error(t, err, out)
	}
}

func TestTag_OverAnExistingName_IsForcedOnlyWhereThatIsNeeded(t *testing.T) {
	require.Equal(t, []string{"docker", "tag", "-f", "abc", "r:latest"}, Tag(Version{1, 9, "1.9.1"}, "abc", "r:latest"))
	for _, v := range []Version{{1, 10, "1.10.0"}, {1, 12, "1.12.6"}, {20, 10, "20.10.24"}, {}} {
		require.Equal(t, []string{"docker", "tag", "abc", "r:latest"}, Tag(v, "abc", "r:latest"), v.Text)
	}
}

func TestVersion_WhatItCan(t *testing.T) {
	require.False(t, Version{1, 5, "1.5.0"}.HasDigests())
	require.True(t, Version{1, 6, "1.6.0"}.HasDigests())
	require.False(t, Version{1, 2, "1.2.0"}.HasExec())
	require.True(t, Version{1, 3, "1.3.0"}.HasExec())
	require.True(t, Version{}.HasExec())
}

func TestNames_AreChecked(t *testing.T) {
	for _, name := range []string{"stackato/stack-alsek", "helion/stack-alsek", "stackato/stack/alsek", "a"} {
		require.NoError(t, CheckRepository(name), name)
	}
	for _, name := range []string{"", "A/b", "a:b", "a b", "-a", "a/", "/a", "a;b", strings.Repeat("a", 201), "$(x)"} {
		require.Error(t, CheckRepository(name), name)
	}
	for _, name := range []string{"registry.example.com/a", "10.0.0.1:5000/a/b", "localhost/x", "localhost:5000/x"} {
		require.NoError(t, CheckRegistry(name), name)
	}
	for _, name := range []string{"", "stackato/stack-alsek", "host.example.com", "a.b:x/c", "a.b/C", "a.b/c:d", "a.b/c d"} {
		require.Error(t, CheckRegistry(name), name)
	}
	require.NoError(t, CheckTag("kato-patched"))
	for _, tag := range []string{"", "-a", "a/b", "a b", strings.Repeat("a", 129)} {
		require.Error(t, CheckTag(tag), tag)
	}
}

func TestSplitTag_KeepsAPortWithItsHost(t *testing.T) {
	for ref, want := range map[string][2]string{
		"a/b":                  {"a/b", ""},
		"a/b:c":                {"a/b", "c"},
		"h.x:5000/b":           {"h.x:5000/b", ""},
		"h.x:5000/b:c":         {"h.x:5000/b", "c"},
		"h.x:5000/b@sha256:12": {"h.x:5000/b", "sha256:12"},
	} {
		repository, tag := SplitTag(ref)
		require.Equal(t, want, [2]string{repository, tag}, ref)
	}
}

const (
	hexA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	hexB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	hexC = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
)

func TestParseImage_OfNewAndOldVersions(t *testing.T) {
	now, err := ParseImage(`[
    {
        "Id": "sha256:` + hexA + `",
        "RepoTags": ["r:latest"],
        "RepoDigests": ["h.x:5000/r@sha256:` + hexB + `", "other@sha256:` + hexC + `"],
        "Created": "2026-01-02T03:04:05.123456789Z",
        "Size": 1234,
        "RootFS": {"Type": "layers", "Layers": ["sha256:1", "sha256:2"]}
    }
]`)
	require.NoError(t, err)
	require.Equal(t, Image{ID: "sha256:" + hexA, Layers: []string{"sha256:1", "sha256:2"}, Digests: []string{"h.x:5000/r@sha256:" + hexB, "other@sha256:" + hexC},
		Created: time.Date(2026, 1, 2, 3, 4, 5, 123456789, time.UTC), Size: 1234}, now)
	require.Equal(t, "sha256:"+hexB, now.DigestIn("h.x:5000/r"))
	require.Empty(t, now.DigestIn("r"))

	old, err := ParseImage(`[{
    "id": "` + hexA + `",
    "parent": "` + hexB + `",
    "created": "2014-09-19T10:00:00.5Z",
    "Size": 12
}]`)
	require.NoError(t, err)
	require.Equal(t, hexA, old.ID)
	require.Equal(t, 2014, old.Created.Year())
	require.Nil(t, old.Layers)

	for _, out := range []string{"", "[]", "Error: No such object: x", `[{"Id": "x"}]`, `[{"Id": "` + hexA + `"},{"Id": "` + hexB + `"}]`} {
		_, err := ParseImage(out)
		require.Error(t, err, out)
	}
}

func TestBuiltOn_ByLayersOrByHistory(t *testing.T) {
	base := Image{Layers: []string{"1", "2"}}
	require.True(t, BuiltOn(Image{Layers: []string{"1", "2", "3"}}, base, nil, nil))
	require.True(t, BuiltOn(base, base, nil, nil))
	require.False(t, BuiltOn(Image{Layers: []string{"1", "9", "3"}}, base, nil, nil))
	require.False(t, BuiltOn(Image{Layers: []string{"1"}}, base, nil, nil))
	require.True(t, BuiltOn(Image{}, Image{}, []string{"c", "b", "a"}, []string{"b", "a"}))
	require.False(t, BuiltOn(Image{}, Image{}, []string{"c", "x", "a"}, []string{"b", "a"}))
	require.False(t, BuiltOn(Image{}, Image{}, nil, nil), "nothing is known")
}

func TestParseRoot_OfNewAndOldVersions(t *testing.T) {
	require.Equal(t, "/var/lib/docker", ParseRoot("Storage Driver: overlay2\n Docker Root Dir: /var/lib/docker\n Debug Mode: false\n"))
	require.Equal(t, "/var/lib/docker/aufs", ParseRoot("Containers: 2\nStorage Driver: aufs\n Root Dir: /var/lib/docker/aufs\n Dirs: 8\n"))
	require.Empty(t, ParseRoot("Containers: 2\n"))
}

func TestParseImages_NamesByID(t *testing.T) {
	require.Equal(t, map[string][]string{"sha256:" + hexA: {"r/i:latest", "r/i:upgrade-2026-09-19"}, hexB: {"h.x:5000/i:1"}}, ParseImages(
		"REPOSITORY   TAG   IMAGE ID   CREATED   SIZE\nr/i   latest   sha256:"+hexA+"   2 days ago   1GB\nr/i   upgrade-2026-09-19   sha256:"+hexA+"   2 days ago   1GB\n"+
			"<none>   <none>   sha256:"+hexC+"   2 days ago   1GB\nh.x:5000/i   1   "+hexB+"   2 days ago   1GB\n"))
	require.Empty(t, ParseImages(""))
}

func TestDaemonProblem_NamesWhatToDo(t *testing.T) {
	require.Empty(t, DaemonProblem("Containers: 2\n", 0))
	require.Contains(t, DaemonProblem("sudo: a password is required", 1), "deploy/sudoers/katoflow-images")
	require.Contains(t, DaemonProblem("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?", 1), "daemon does not answer")
	require.Contains(t, DaemonProblem("", 127), "127")
}

func TestParseContainers_TheTwoOrdersOfFields(t *testing.T) {
	text := "container " + hexA + "\n" +
		`        "Image": "sha256:` + hexB + `",` + "\n" + `            "Image": "stackato/stack-alsek",` + "\n" + // as it is since 1.6
		"container " + hexC + "\n" +
		`            "Image": "other:1"` + "\n" + `        "Image": "` + hexB + `",` + "\n" + // by the alphabet, before
		"container " + hexB + "\n" // gone meanwhile
	require.Equal(t, []Container{{hexA, "sha256:" + hexB, "stackato/stack-alsek"}, {hexC, hexB, "other:1"}, {hexB, "", ""}}, ParseContainers(text))
	require.Empty(t, ParseContainers(""))
	require.Empty(t, ParseContainers(`"Image": "x"`))
	require.Empty(t, ParseContainers("container x; rm -rf /\n"))
}

func TestParseDigest_OfNewAndOldVersions(t *testing.T) {
	require.Equal(t, "sha256:"+hexA, ParseDigest("The push refers to...\nupgrade-2026-09-19: digest: sha256:"+hexA+" size: 3033\n"))
	require.Equal(t, "sha256:"+hexA, ParseDigest("Digest: sha256:"+hexA+"\n"))
	require.Empty(t, ParseDigest("Pushing tag for rev [x]\n"))
}

func FuzzParse(f *testing.F) {
	f.Add(`[{"Id": "` + hexA + `", "Created": "x"}]`)
	f.Add("Docker version 1.0.1, build x")
	f.Add("container " + hexA + "\n \"Image\": \"x\"")
	f.Fuzz(func(t *testing.T, out string) {
		_, _ = ParseImage(out)
		_, _ = ParseVersion(out)
		for _, c := range ParseContainers(out) {
			require.True(t, idForm.MatchString(c.ID))
		}
		ParseRoot(out)
		ParseDigest(out)
		DaemonProblem(out, 1)
		repository, _ := SplitTag(out)
		require.LessOrEqual(t, len(repository), len(out))
	})
}
