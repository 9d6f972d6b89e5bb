package importer_test

import (
	"archive/zip"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"parley/internal/importer"
	"parley/internal/problem"
	"parley/internal/slack"
)

// TestRun_RefusesBeforeAnythingIsSent: there is nobody to send to here.
func TestRun_RefusesBeforeAnythingIsSent(t *testing.T) {
	for name, c := range map[string]struct{ id, prefix, want string }{
		"prefix":   {"C2", "Old ", `channels.json:2: with --prefix "Old ": name: may hold lower-case letters`},
		"too long": {"C2", strings.Repeat("x", 77), `channels.json:3: with --prefix "xxx`},
		"id":       {"C" + strings.Repeat("0", 63), "", "channels.json:3: id: has 64 bytes, at most 63 are taken"},
	} {
		t.Run(name, func(t *testing.T) {
			im := importer.New(nil, export(t, c.id), c.prefix)
			if _, err := im.Run(t.Context()); !problem.Is(err, problem.Invalid) || !strings.HasPrefix(problem.Show(err), c.want) {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestFits_TakesWhatTheAPITakes(t *testing.T) {
	if err := importer.Fits(export(t, "C"+strings.Repeat("0", 62)), strings.Repeat("x", 76)); err != nil {
		t.Error(err)
	}
}

// export has a channel "a" on line 2 and a channel "long" with the id on line 3.
func export(t *testing.T, id string) *slack.Export {
	t.Helper()
	name := filepath.Join(t.TempDir(), "export.zip")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	for file, data := range map[string]string{
		"users.json":    `[]`,
		"channels.json": fmt.Sprintf("[\n{\"id\":\"C1\",\"name\":\"a\",\"created\":1600000000},\n{\"id\":%q,\"name\":\"long\",\"created\":1600000000}]", id),
	} {
		w, err := z.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	e, err := slack.Open(name, time.Unix(1_700_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	return e
}
