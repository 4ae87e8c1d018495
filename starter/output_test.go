package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/katoflow/katoflow/internal/operation"
)

func hostileReport() operation.Report {
	return operation.Report{
		OperationID: "o1", Cluster: "yes", Phase: "null", Batch: "25%", Slots: 3, DryRun: true, StartedAt: "2026-11-22T12:00:00Z",
		Message:  "\x1b[2J\u009b31m\u202e\U000e0041 tab\there\nnext: line # no comment 'x' \"y\"",
		Warnings: []string{"", "- item", "0x10", "1e3", "~", "{a: b}", "trailing ", "é ü 漢字 😀", "multi\nline\n"},
		Nodes:    []operation.NodeReport{},
	}
}

func TestOutput_HostileText_RoundTripsWithoutControlCharacters(t *testing.T) {
	want := hostileReport()
	for name, write := range map[string]func(any) ([]byte, error){"json": toJSON, "yaml": toYAML} {
		t.Run(name, func(t *testing.T) {
			out, err := write(want)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range string(out) {
				if r != '\n' && !unicode.IsPrint(r) {
					t.Errorf("%U is in %s", r, out)
				}
			}
			data := out
			if name == "yaml" {
				var any any
				if err := yaml.Unmarshal(out, &any); err != nil {
					t.Fatalf("%v in\n%s", err, out)
				}
				if data, err = json.Marshal(any); err != nil {
					t.Fatal(err)
				}
			}
			var got operation.Report
			if err := json.Unmarshal(data, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s\nof\n%s", diff, out)
			}
		})
	}
}

func TestOutput_YAML_KeepsTheOrderOfTheFields(t *testing.T) {
	out, err := toYAML(hostileReport())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(out, []byte("operationId: o1\nworkflowId: \"\"\n")) || !strings.Contains(string(out), "nodes: []\n") {
		t.Errorf("got\n%s", out)
	}
}
