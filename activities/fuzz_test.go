package activities

import (
	"strings"
	"testing"

	"github.com/katoflow/katoflow/internal/remote"
)

func words(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if n != "" && !packageName.MatchString(n) && !packageVersion.MatchString(n) {
			t.Errorf("%q got out", n)
		}
	}
}

func printable(t *testing.T, s string) {
	t.Helper()
	if s != remote.Escape(s) {
		t.Errorf("%q is not printable", s)
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add([]byte("x\n@katoflow a b\n@katoflow section s\ntext@katoflow end\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		a := parseAnswer(out)
		if a.complete && !strings.Contains(string(out), answerMark+"end") && !strings.Contains(string(out), "end") {
			t.Error("complete without an end")
		}
		a.exit("a")
		a.value("a")
	})
}

func FuzzParsePending(f *testing.F) {
	f.Add(inst)
	f.Fuzz(func(t *testing.T, text string) {
		pending, trouble := parsePending(text)
		for _, p := range pending {
			words(t, p.name)
		}
		printable(t, trouble)
		words(t, securityNames(pending)...)
	})
}

func FuzzParseAudit(f *testing.F) {
	f.Add(unfinishedPackages)
	f.Fuzz(func(t *testing.T, text string) { words(t, parseUnfinished(text)...) })
}

func FuzzParsePolicy(f *testing.F) {
	f.Add(policy)
	f.Fuzz(func(t *testing.T, text string) {
		for name, c := range parsePolicy(text) {
			words(t, name, c.installed, c.candidate)
		}
	})
}

func FuzzParsePackages(f *testing.F) {
	f.Add("installed a 1\n", "installed a 2\n")
	f.Fuzz(func(t *testing.T, before, now string) {
		for _, c := range changesOf(parsePackages(before), parsePackages(now)) {
			words(t, c.Name, c.From, c.To)
			if c.From == c.To {
				t.Errorf("%v is no change", c)
			}
		}
	})
}

func FuzzParseTranscript(f *testing.F) {
	f.Add("Unpacking a (2) over (1) ...\nSetting up a (2) ...\n")
	f.Add("Lock could not be acquired\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, c := range parseTranscript(text).changes {
			words(t, c.Name, c.From, c.To)
		}
		if n := parseRefresh(text); n < 0 || n > len(text) {
			t.Error(n)
		}
	})
}

func FuzzParseLocks(f *testing.F) {
	f.Add("/var/lib/dpkg/lock 2049 08:01:5 7 apt-get")
	f.Fuzz(func(t *testing.T, line string) {
		for _, h := range parseLocks(strings.Split(line, "\n")) {
			printable(t, h.String())
		}
	})
}

func FuzzParseSystem(f *testing.F) {
	f.Add("degraded\n● a.service loaded failed failed X\n", "/dev/vda1 100 50 40 50% /\n")
	f.Fuzz(func(t *testing.T, system, space string) {
		for _, c := range parseSystem(system) {
			printable(t, c)
		}
		for _, fs := range parseSpace(space) {
			printable(t, fs.mount)
			if fs.free < 0 {
				t.Error(fs.free)
			}
		}
	})
}

func FuzzInitAge(f *testing.F) {
	f.Add("1 (a) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 5 1 2", "12.3 4", "100", true)
	f.Fuzz(func(t *testing.T, stat, uptime, hz string, container bool) {
		if age, ok := initAge(stat, uptime, hz, container); ok && !(age >= 0) {
			t.Errorf("%v", age)
		}
	})
}

func FuzzDefaultKernel(f *testing.F) {
	f.Add(grub, "saved_entry=1>1\n", "vmlinuz-6.1.0-9-amd64\n")
	f.Add("set default=0\nsubmenu 'a' {\n", "", "")
	f.Fuzz(func(t *testing.T, config, environment, files string) {
		printable(t, defaultKernel(config, environment))
		printable(t, newestKernel(files))
	})
}

func FuzzParseRecord(f *testing.F) {
	f.Add(`{"operation":"a","token":1,"found":"on"}`)
	f.Fuzz(func(t *testing.T, text string) {
		if r, ok := parseRecord(text); ok && r.Found != "on" && r.Found != "off" {
			t.Errorf("%v", r)
		}
		printable(t, refusal(text))
	})
}
