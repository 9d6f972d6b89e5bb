package slack_test

import (
	"archive/zip"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/internal/problem"
	"parley/internal/slack"
)

// TestOpen_TellsWhatItChanges: what can't be as it stands is not refused for it,
// and nothing is changed or left out in silence.
func TestOpen_TellsWhatItChanges(t *testing.T) {
	files := good()
	files["channels.json"] = `[{"id":"C1","name":"general","created":1600000000,"members":["U2","U1","U2","UGONE"]}]`
	files["general/2020-09-15.json"] = `[
{"user":"U2","text":"reply","ts":"1600080000.000000","thread_ts":"1600000001.000100"},
{"user":"U2","text":"reply to it","ts":"1600080001.000000","thread_ts":"1600080000.000000"},
{"user":"U2","text":"too early","ts":"1600080002.000000","thread_ts":"1600080003.000000"},
{"user":"USLACKBOT","text":"reply to nothing","ts":"1600080003.000000","thread_ts":"1600080002.500000"},
{"user":"UEXT","username":"` + strings.Repeat("Eve", 30) + `","text":"hello","ts":"1600080004.000000"},
{"user":"USLACKBOT","text":"again","ts":"1600080005.000000"}
]`
	for _, name := range []string{"old/2020-09-14.json", "old/2020-09-15.json", "general/notes.txt", "general/deep/2020-09-14.json", "integration_logs.json", "dms.json", "D1/2020-09-14.json"} {
		files[name] = `[]`
	}
	e, err := slack.Open(write(t, files), now)
	if err != nil {
		t.Fatal(err)
	}
	var roots []string
	for _, m := range e.Channels[0].Messages {
		roots = append(roots, fmt.Sprint(m.User, " ", m.Text, " ", m.Root))
	}
	got := []any{roots, e.Users[2:], e.Channels[0].Members, e.Skipped, e.Changed}
	want := []any{
		[]string{
			"U1 first -1", "U2 second -1", "U2 reply 0", "U2 reply to it 0", "U2 too early -1", "USLACKBOT reply to nothing -1", "UEXT hello -1", "USLACKBOT again -1",
		},
		[]slack.User{
			{ID: "UGONE", Name: "UGONE", DisplayName: "UGONE"},
			{ID: "USLACKBOT", Name: "USLACKBOT", DisplayName: "USLACKBOT"},
			{ID: "UEXT", Name: "UEXT", DisplayName: strings.Repeat("Eve", 30)[:80]},
		},
		[]string{"U1", "U2", "UGONE"},
		map[string]int{
			"notices (channel_join)": 1, "files of direct messages (dms.json)": 1,
			"files beside channels.json that are not of channels":                               1,
			`files in the folder "old" that are not messages of a channel in channels.json`:     2,
			`files in the folder "D1" that are not messages of a channel in channels.json`:      1,
			`files in the folder "general" that are not messages of a channel in channels.json`: 2,
		},
		map[string]int{
			"replies to messages that are not in the export, made top-level messages":   1,
			"replies to messages that are later than they are, made top-level messages": 1,
			"replies to a reply, put into the thread of that reply":                     1,
			"people who are not in users.json, named by their ids":                      3,
			"members named twice in one channel, who are members once":                  1,
			"display names cut to 80 characters":                                        1,
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestOpen_ManyFolders(t *testing.T) {
	files := good()
	for i := range 100 {
		files[fmt.Sprintf("old%d/2020-09-14.json", i)] = `[]`
	}
	e, err := slack.Open(write(t, files), now)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for what, n := range e.Skipped {
		if strings.Contains(what, "folder") {
			sum += n
		}
	}
	if sum != 100 || len(e.Skipped) > 30 {
		t.Errorf("%d files in %d lines", sum, len(e.Skipped))
	}
}

// archive writes a ZIP file of files in their order; lie, if it is not 0, is the
// size that each is said to have.
func archive(t *testing.T, lie uint64, files ...[2]string) string {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, f := range files {
		h := &zip.FileHeader{Name: f[0], CompressedSize64: uint64(len(f[1])), UncompressedSize64: uint64(len(f[1]))}
		if lie > 0 {
			h.UncompressedSize64 = lie
		}
		w, err := z.CreateRaw(h)
		if err == nil {
			_, err = w.Write([]byte(f[1]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "export.zip")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestOpen_RefusesArchives(t *testing.T) {
	users := [2]string{"users.json", "[]"}
	var many [][2]string
	for i := range 65 {
		many = append(many, [2]string{fmt.Sprintf("general/%d.json", i), "[]"})
	}
	for name, c := range map[string]struct {
		file string
		kind problem.Kind
		want string
	}{
		"file twice":           {archive(t, 0, users, [2]string{"channels.json", "[]"}, users), problem.Invalid, "users.json: is in the ZIP file twice"},
		"file twice, hidden":   {archive(t, 0, users, [2]string{"channels.json", "[]"}, [2]string{"a/../users.json", "[]"}), problem.Invalid, "users.json: is in the ZIP file twice"},
		"a file too large":     {archive(t, 256<<20+1, users), problem.Invalid, "users.json: has 268435457 bytes, at most 268435456 are taken"},
		"too large altogether": {archive(t, 256<<20, many...), problem.TooLarge, "unpacks to more than 16 GiB"},
		"more than it says":    {archive(t, 1, users), problem.Invalid, "users.json: "},
		"less than it says":    {archive(t, 3, users), problem.Invalid, "users.json: can't be unpacked"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := slack.Open(c.file, now); !problem.Is(err, c.kind) || !strings.Contains(problem.Show(err), c.want) {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
		})
	}
}
