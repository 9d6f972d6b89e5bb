package command_test

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"parley/bench/command"
	"parley/bench/workload"
	"parley/internal/problem"
)

func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	root := &cobra.Command{Use: "parley", SilenceUsage: true, SilenceErrors: true}
	root.PersistentFlags().StringP("output", "o", "table", "")
	root.AddCommand(command.Command())
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(io.Discard)
	root.SetArgs(append([]string{"bench"}, args...))
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestCommand_ListsItsWorkloads(t *testing.T) {
	out, err := run(t, "--help")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"fanout", "typical", "idle", "link", "bytes", "routes", "report"} {
		if !strings.Contains(out, "\n  "+want) {
			t.Errorf("%q is not in:\n%s", want, out)
		}
	}
	if strings.Contains(out, "\n  hub") {
		t.Error("the floor hub is no command for people")
	}
}

func TestCommand_PrintsATableOrJSON(t *testing.T) {
	short := []string{"link", "--rates", "1000", "--runs", "1", "--for", "100ms", "--warm", "0s"}
	out, err := run(t, short...)
	if err != nil || !strings.HasPrefix(out, "WORKLOAD") || !strings.Contains(out, "the hop, 1000 messages/s") {
		t.Errorf("%v:\n%s", err, out)
	}
	out, err = run(t, append(short, "-o", "json")...)
	var rows []workload.Row
	if err != nil || json.Unmarshal([]byte(out), &rows) != nil || len(rows) != 2 || rows[0].Floor == nil {
		t.Errorf("%v:\n%s", err, out)
	}
	out, err = run(t, append(short, "-o", "json", "--floor=false")...)
	rows = nil
	if err != nil || json.Unmarshal([]byte(out), &rows) != nil || len(rows) != 2 || rows[0].Floor != nil {
		t.Errorf("without a floor: %v:\n%s", err, out)
	}
}

func TestCommand_RefusesNonsense(t *testing.T) {
	for _, args := range [][]string{
		{"link", "--runs", "0"},
		{"fanout", "--for", "1ms"},
		{"fanout", "--sockets", "0"},
		{"report", "--only", "nothing"},
		{"hub", "--listen", "somewhere"},
	} {
		if _, err := run(t, args...); !problem.Is(err, problem.Invalid) {
			t.Errorf("%v: %v, want kind invalid", args, err)
		}
	}
}
