package inventory

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func problemsOf(t *testing.T, err error) Problems {
	t.Helper()
	var ps Problems
	require.True(t, errors.As(err, &ps), "%v", err)
	return ps
}

const oneNode = "clusters: {a: {nodes: [{name: n, address: 192.0.2.1}]}}\n"

func TestParse_NotText_OneLineWithItsPlace(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"not UTF-8":               {"clusters:\n  a\xff:", "x.yaml:2:4: byte 0xff is not UTF-8: save the file as UTF-8 text"},
		"UTF-16":                  {"\xff\xfec\x00l\x00", "x.yaml:1:1: byte 0xff is not UTF-8: save the file as UTF-8 text"},
		"NUL":                     {"clusters:\n\x00", "x.yaml:2:1: control character U+0000: an inventory is plain text, take it out"},
		"escape":                  {"# ä\x1b[2J", "x.yaml:1:4: control character U+001B: an inventory is plain text, take it out"},
		"carriage return alone":   {"a: b\rc: d", "x.yaml:1:5: control character U+000D: an inventory is plain text, take it out"},
		"C1":                      {"a: \u009b31m", "x.yaml:1:4: control character U+009B: an inventory is plain text, take it out"},
		"nothing":                 {"", "x.yaml: is empty: write clusters: and below it a cluster with its nodes"},
		"larger than allowed":     {strings.Repeat(" ", maxFileSize+1), "x.yaml: larger than 4 MiB: an inventory of 5000 nodes needs less than 1 MiB; is this the right file?"},
		"bidi override in a text": {"clusters: {a: {nodes: [{name: n, address: 192.0.2.1, gate_commands: [\"\u202etrue\"]}]}}", "x.yaml:1:70: clusters.a.nodes[0].gate_commands[0]: contains the character U+202E, which cannot be printed: take it out"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("x.yaml", []byte(tc.text))
			assert.EqualError(t, err, tc.want)
		})
	}
}

func TestParse_ByteOrderMarkAndWindowsLineEnds_AreRead(t *testing.T) {
	_, err := Parse("x.yaml", []byte("\ufeffclusters:\r\n  a:\r\n    nodes:\r\n      - {name: n, address: 192.0.2.1}\r\n"))
	require.NoError(t, err)
}

func TestLoad_FileThatCannotBeRead_OneLine(t *testing.T) {
	dir := t.TempDir()
	_, err := Load(filepath.Join(dir, "none.yaml"))
	assert.EqualError(t, err, filepath.Join(dir, "none.yaml")+": no such file: name the inventory file")
	_, err = Load(dir)
	assert.EqualError(t, err, dir+": is a directory: name the inventory file in it")

	noise := make([]byte, 5<<20)
	rand.New(rand.NewSource(1)).Read(noise)
	path := filepath.Join(dir, "noise.yaml")
	require.NoError(t, os.WriteFile(path, noise, 0o600))
	start := time.Now()
	_, err = Load(path)
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "\n")
	assert.Contains(t, err.Error(), "larger than 4 MiB")
	assert.Less(t, time.Since(start), 30*time.Second)
}

// Each of these once was, or could be, a way to make a parser take minutes or the whole memory.
func TestParse_HostileInput_EndsSoonWithAMessage(t *testing.T) {
	const n = 512 << 10 // with the deadline below it tells linear from quadratic, also with -race on a busy machine
	rep := func(s string) string { return strings.Repeat(s, n/len(s)) }
	bomb := "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c <= 'k'; c++ {
		p := c - 1
		bomb += fmt.Sprintf("%c: &%c [*%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c]\n", c, c, p, p, p, p, p, p, p, p, p, p)
	}
	for name, text := range map[string]string{
		"words":              rep("ab cd\n"),
		"keys":               rep("a: b\n"),
		"different keys":     manyKeys(n),
		"flow keys":          "{" + rep("a: b, ") + "}",
		"list":               rep("- a\n"),
		"brackets":           rep("["),
		"braces":             rep("{a: "),
		"dashes":             rep("- "),
		"question marks":     rep("? "),
		"tags":               rep("! "),
		"documents":          rep("---\n"),
		"open quote":         "\"" + rep("a\n"),
		"nodes as aliases":   "clusters:\n  a: &a {nodes: &n [" + strings.Repeat("{name: n, address: 192.0.2.1}, ", 5000) + "]}\n" + manyAliases(20000),
		"bomb":               bomb,
		"bomb in a cluster":  "clusters:\n  p:\n    nodes: []\n    gates:\n      commands: &a [x, x]\n" + "      times: *a\n",
		"merge of itself":    "clusters: &c\n  <<: *c\n  a: {nodes: []}\n",
		"alias of itself":    "clusters: &c\n  a: *c\n",
		"deep ssh of itself": "clusters:\n  a:\n    ssh: &s\n      <<: [*s, *s, *s, *s]\n    nodes: []\n",
		"wrong nodes":        "clusters: {a: {nodes: [" + strings.Repeat("{nam: n}, ", 5000) + "]}}",
		"too many nodes":     "clusters: {a: {nodes: [" + strings.Repeat("{name: n, address: 192.0.2.1}, ", 5001) + "]}}",
		"too many commands":  "clusters: {a: {gates: {commands: [" + strings.Repeat("x, ", 101) + "]}, nodes: [{name: n, address: 192.0.2.1}]}}",
		"a long name":        "clusters: {" + strings.Repeat("a", 100000) + ": {nodes: [{name: n, address: 192.0.2.1}]}}",
		"a long value":       "clusters: {a: {nodes: [{name: n, address: " + strings.Repeat("a.", 100000) + "}]}}",
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := Parse("x.yaml", []byte(text))
			require.Error(t, err)
			assert.Less(t, time.Since(start), 30*time.Second)
			assert.LessOrEqual(t, len(problemsOf(t, err)), maxProblems+1)
			for _, line := range strings.Split(err.Error(), "\n")[:1] {
				assert.Less(t, len(line), 1000)
			}
		})
	}
}

func manyKeys(size int) string {
	var b strings.Builder
	for i := 0; b.Len() < size-20; i++ {
		fmt.Fprintf(&b, "k%d: b\n", i)
	}
	return b.String()
}

func manyAliases(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "  c%d: *a\n", i)
	}
	return b.String()
}

func manyNodes(n int) []byte {
	var b bytes.Buffer
	b.WriteString("clusters:\n  big:\n    platform: als\n    nodes:\n")
	for i := range n {
		role := "dea"
		if i == 0 {
			role = "primary"
		}
		fmt.Fprintf(&b, "      - name: node-%d\n        address: 10.0.%d.%d\n        roles: [%s, base]\n        ssh: {port: 22, user: stackato}\n", i, i/250, i%250+1, role)
	}
	return b.Bytes()
}

func TestParse_FiveThousandNodes_EndsSoon(t *testing.T) {
	start := time.Now()
	f, err := Parse("big.yaml", manyNodes(maxNodes))
	require.NoError(t, err)
	c, err := f.Cluster("big")
	require.NoError(t, err)
	assert.Len(t, c.Order(nil), maxNodes)
	assert.NotEmpty(t, c.Digest())
	assert.Less(t, time.Since(start), time.Minute)

	_, err = Parse("big.yaml", manyNodes(maxNodes+1))
	assert.EqualError(t, err, "big.yaml:5:7: clusters.big.nodes: holds 5001 entries: at most 5000 are allowed; split the cluster or the list")
}

func TestParse_MoreProblemsThanAnyoneReads_AreCut(t *testing.T) {
	text := "clusters: {a: {nodes: [\n" + strings.Repeat("{name: n, address: '!'},\n", 2000) + "]}}"
	_, err := Parse("x.yaml", []byte(text))
	ps := problemsOf(t, err)
	require.Len(t, ps, maxProblems+1)
	assert.Contains(t, ps[maxProblems].Message, "the rest is not shown")
}

func TestQuote_LongAndHostileText_IsShortAndEscaped(t *testing.T) {
	assert.Equal(t, `"a\x1b[31m\u00fc\n"`, quote("a\x1b[31mü\n"))
	assert.Equal(t, `"`+strings.Repeat("a", 60)+`"...`, quote(strings.Repeat("a", 61)))
	assert.Equal(t, `"`+strings.Repeat(`\u00fc`, 60)+`"...`, quote(strings.Repeat("ü", 70)))
	assert.Equal(t, `"\xff"`, quote("\xff"))
	assert.Equal(t, `"a\x1b.yaml": x`, Problem{File: "a\x1b.yaml", Message: "x"}.Error())
}

func TestDigest_FormAndDefaultsDoNotMatter_ContentDoes(t *testing.T) {
	digest := func(text string) string {
		t.Helper()
		f, err := Parse("x.yaml", []byte(text))
		require.NoError(t, err)
		c, err := f.Cluster("a")
		require.NoError(t, err)
		return c.Digest()
	}
	base := digest(oneNode)
	assert.Regexp(t, `^sha256:[0-9a-f]{64}$`, base)
	for name, same := range map[string]string{
		"layout and comments": "# x\nclusters:\n  a:\n    nodes:\n      - address: \"192.0.2.1\"   # y\n        name: n\n",
		"defaults written":    "clusters: {a: {platform: plain, ssh: {port: 22, user: root, agent: true}, gates: {times: 3, interval: 5000ms}, nodes: [{name: n, address: 192.0.2.1}]}}",
		"another cluster too": oneNode[:len(oneNode)-2] + ", b: {nodes: [{name: n, address: 192.0.2.1}]}}",
		"an alias":            "clusters: {a: {nodes: [&x {name: n, address: 192.0.2.1}]}, b: {nodes: [*x]}}",
	} {
		assert.Equal(t, base, digest(same), name)
	}
	for name, other := range map[string]string{
		"address":    "clusters: {a: {nodes: [{name: n, address: 192.0.2.2}]}}",
		"port":       "clusters: {a: {ssh: {port: 23}, nodes: [{name: n, address: 192.0.2.1}]}}",
		"node order": "clusters: {a: {nodes: [{name: m, address: 192.0.2.2}, {name: n, address: 192.0.2.1}]}}",
		"gate":       "clusters: {a: {gates: {commands: ['true']}, nodes: [{name: n, address: 192.0.2.1}]}}",
	} {
		assert.NotEqual(t, base, digest(other), name)
	}

	// Neither the home, nor the folder, nor the environment is in it.
	t.Setenv("HOME", "/somewhere/else")
	t.Setenv("SSH_AUTH_SOCK", "/tmp/agent")
	assert.Equal(t, base, digest(oneNode))
	f, err := Parse("/other/folder/y.yaml", []byte(strings.Replace(oneNode, "a:", "renamed:", 1)))
	require.NoError(t, err)
	assert.NotEqual(t, base, f.Clusters["renamed"].Digest())
}

func TestCluster_ThroughJSON_IsTheSame(t *testing.T) {
	for _, path := range []string{"testdata/als-defaults.yaml", "testdata/als-export.yaml", "testdata/plain-full.yaml", "../../deploy/examples/inventory.yaml"} {
		f, err := Load(path)
		require.NoError(t, err)
		for name, c := range f.Clusters {
			b, err := json.Marshal(c)
			require.NoError(t, err)
			var again Cluster
			require.NoError(t, json.Unmarshal(b, &again))
			again.Name = name
			assert.Equal(t, c.Digest(), again.Digest())
			assert.Equal(t, names(c.Order(nil)), names(again.Order(nil)))
		}
	}
}

func TestFile_UnknownCluster_NamesThoseThereAre(t *testing.T) {
	f, err := Parse("x.yaml", []byte("clusters: {b: {nodes: [{name: n, address: 192.0.2.1}]}, a: {nodes: [{name: n, address: 192.0.2.1}]}}"))
	require.NoError(t, err)
	_, err = f.Cluster("c\x1b")
	assert.EqualError(t, err, `unknown cluster "c\x1b": clusters in x.yaml are "a", "b"`)
}

func TestDuration_Text_IsAsOneWouldWriteIt(t *testing.T) {
	for text, want := range map[string]string{"600s": "10m", "90s": "1m30s", "24h": "24h", "60m": "1h", "100ms": "100ms", "1h5s": "1h0m5s", "10s": "10s", "10m10s": "10m10s", "20h20m": "20h20m"} {
		d, err := ParseDuration(text)
		require.NoError(t, err)
		assert.Equal(t, want, d.String())
		again, err := ParseDuration(d.String())
		require.NoError(t, err)
		assert.Equal(t, d, again)
	}
	var d Duration
	assert.Error(t, json.Unmarshal([]byte("5"), &d))
	assert.Error(t, json.Unmarshal([]byte(`"5"`), &d))
}

func TestRetention_Text_IsAsOneWouldWriteIt(t *testing.T) {
	for text, want := range map[string]string{"30d": "30d", "720h": "30d", "3650d": "3650d", "36h": "36h", "90m": "1h30m", "1h": "1h"} {
		r, err := ParseRetention(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, r.String())
		again, err := ParseRetention(r.String())
		require.NoError(t, err)
		assert.Equal(t, r, again)
	}
	for _, text := range []string{"", "0d", "0s", "3651d", "87601h", "-1d", "1.5d", "1d12h", "30", "d", "1y", "999999d"} {
		_, err := ParseRetention(text)
		assert.Error(t, err, text)
	}
	var r Retention
	assert.Error(t, json.Unmarshal([]byte("5"), &r))
	assert.Error(t, json.Unmarshal([]byte(`"5"`), &r))
}

func TestExportSettings_SectionLeftOut_DefaultsHold(t *testing.T) {
	f, err := Load("testdata/als-defaults.yaml")
	require.NoError(t, err)
	c := f.Clusters["prod"]
	assert.Nil(t, c.Export, "the digest would not be that of earlier versions")
	e := c.ExportSettings()
	assert.Equal(t, 12*time.Hour, e.Timeout.Std())
	assert.Equal(t, []string{"/var/stackato/services", "/home/stackato/stackato/data"}, e.DataFolders)

	f, err = Load("testdata/als-export.yaml")
	require.NoError(t, err)
	assert.Equal(t, *f.Clusters["own-folders"].Export, f.Clusters["own-folders"].ExportSettings())
	assert.Equal(t, 90*time.Minute, f.Clusters["own-folders"].ExportSettings().Timeout.Std())
}

func TestExportNode_OfNamesAndRoles(t *testing.T) {
	for name, row := range map[string]struct{ text, want, problem string }{
		"the one with the role":   {"platform: als, nodes: [{name: a, address: 192.0.2.1, roles: [primary]}, {name: b, address: 192.0.2.2, roles: [filesystem]}]", "b", ""},
		"the one that is named":   {"platform: als, export: {node: a}, nodes: [{name: a, address: 192.0.2.1, roles: [primary]}, {name: b, address: 192.0.2.2, roles: [filesystem]}]", "a", ""},
		"none":                    {"platform: als, nodes: [{name: a, address: 192.0.2.1, roles: [primary]}]", "", `no node of cluster "c" has the role filesystem: name the node that exports as export.node in the inventory`},
		"several":                 {"platform: als, nodes: [{name: a, address: 192.0.2.1, roles: [primary, filesystem]}, {name: b, address: 192.0.2.2, roles: [filesystem]}]", "", `several nodes of cluster "c" have the role filesystem ("a", "b"): name the one that exports as export.node in the inventory`},
		"a cluster without kato":  {"nodes: [{name: a, address: 192.0.2.1, roles: [filesystem]}]", "", `cluster "c" is not an als cluster: only those have exports`},
		"several, one of them is": {"platform: als, export: {node: b}, nodes: [{name: a, address: 192.0.2.1, roles: [primary, filesystem]}, {name: b, address: 192.0.2.2, roles: [filesystem]}]", "b", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := Parse("x.yaml", []byte("clusters: {c: {"+row.text+"}}"))
			require.NoError(t, err)
			n, err := f.Clusters["c"].ExportNode()
			if row.problem != "" {
				assert.EqualError(t, err, row.problem)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, row.want, n.Name)
		})
	}
}

func FuzzParse(f *testing.F) {
	inputs, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(inputs) == 0 {
		f.Fatal("no seeds", err)
	}
	inputs = append(inputs, "../../deploy/examples/inventory.yaml")
	for _, input := range inputs {
		data, err := os.ReadFile(input)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 64<<10 {
			return
		}
		start := time.Now()
		file, err := Parse("x.yaml", data)
		if took := time.Since(start); took > 10*time.Second {
			t.Fatalf("took %s", took)
		}
		if err == nil {
			for name, c := range file.Clusters {
				if c.Name != name || len(c.Nodes) == 0 || len(c.Order(nil)) != len(c.Nodes) || c.SSH.Port == 0 {
					t.Fatalf("accepted without being complete: %+v", c)
				}
			}
			return
		}
		var ps Problems
		if !errors.As(err, &ps) || len(ps) == 0 {
			t.Fatalf("not problems: %v", err)
		}
		for _, p := range ps {
			if p.Line == 0 && p.Field != "" || p.Message == "" {
				t.Fatalf("without a place: %+v", p)
			}
			if line := p.Error(); strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Fatalf("not printable: %q", line)
			}
		}
	})
}

// A secret written where it does not belong appears in no message, wherever it stands.
func FuzzParse_SecretInClearText_IsNotRepeated(f *testing.F) {
	for _, s := range []string{"hunter2", "*hunter2", "&hunter2", "{hunter2}", "[hunter2]", "!hunter2 x", "| hunter2", "'hunter2", "{file: hunter2, env: hunter2}", "{hunter2: hunter2}", "%hunter2", "{env: 'hunter2 x'}", "? hunter2", "@hunter2", "hunter2: x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 1000 {
			return
		}
		for _, format := range []string{
			"clusters: {a: {ssh: {passphrase: %s}, nodes: [{name: n, address: 192.0.2.1}]}}",
			"clusters:\n  a:\n    nodes: [{name: n, address: 192.0.2.1}]\n    notify:\n      webhook: %s\n",
			"clusters: {a: {platform: als, controller: {url: 'https://api.example.org', user: u, password: %s}, nodes: [{name: n, address: 192.0.2.1, roles: [primary]}]}}",
		} {
			secret := strings.ReplaceAll(s, "hunter2", "")
			if strings.ContainsAny(secret, "\n,}:#") && !strings.Contains(s, "{") {
				return // the text leaves its place and becomes a field of something else
			}
			_, err := Parse("x.yaml", []byte(fmt.Sprintf(format, s)))
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Fatalf("%q is repeated: %v", s, err)
			}
		}
	})
}
