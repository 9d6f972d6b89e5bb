package slack_test

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
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
		many = append(many, [2]string{fmt.Sprintf("general/%02d.json", i), "[]"})
	}
	padding := [2]string{"photo.png", strings.Repeat("x", 84<<20)} // so that it is the sum that is too much
	for name, c := range map[string]struct {
		file string
		kind problem.Kind
		want string
	}{
		"file twice":           {archive(t, 0, users, [2]string{"channels.json", "[]"}, users), problem.Invalid, "users.json: is in the ZIP file twice"},
		"file twice, hidden":   {archive(t, 0, users, [2]string{"channels.json", "[]"}, [2]string{"a/../users.json", "[]"}), problem.Invalid, "users.json: is in the ZIP file twice"},
		"a file too large":     {archive(t, 256<<20+1, users), problem.Invalid, "users.json: has 268435457 bytes, at most 268435456 are taken"},
		"too large altogether": {archive(t, 256<<20, append(many, padding)...), problem.TooLarge, "with general/64.json in it, it unpacks to more than 16 GiB"},
		"a bomb":               {archive(t, 65<<20, users), problem.TooLarge, "with users.json in it, it unpacks to 68157440 bytes, at most 67108864 are taken from a ZIP file of 120"},
		"a bomb in pieces":     {archive(t, 1<<20, many...), problem.TooLarge, "with general/64.json in it, it unpacks to 68157440 bytes"},
		"a name that erases":   {archive(t, 256<<20+1, [2]string{"a\x1b[2J.json", "[]"}), problem.Invalid, "a\uFFFD[2J.json: has 268435457 bytes"},
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

// TestOpen_StopsWhereABombGoesOn: an entry that says it is small is unpacked no
// further than it says, whatever it holds.
func TestOpen_StopsWhereABombGoesOn(t *testing.T) {
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	const size = 256 << 20
	if _, err := w.Write(bytes.Repeat([]byte{' '}, size)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	part, err := z.CreateRaw(&zip.FileHeader{
		Name: "users.json", Method: zip.Deflate, CompressedSize64: uint64(packed.Len()), UncompressedSize64: 100,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := part.Write(packed.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "bomb.zip")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = slack.Open(name, now)
	runtime.ReadMemStats(&after)
	if !problem.Is(err, problem.Invalid) || !strings.HasPrefix(problem.Show(err), "users.json: ") {
		t.Errorf("got %v", err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > size/16 {
		t.Errorf("%d bytes were taken for an entry that says it has 100", grown)
	}
}

// TestOpen_OddNames: nothing is ever unpacked to disk, so a name that leads out of
// the archive leads nowhere; what is no day of a channel is left out and counted.
func TestOpen_OddNames(t *testing.T) {
	files := good()
	want, err := slack.Open(write(t, files), now)
	if err != nil {
		t.Fatal(err)
	}
	day := files["general/2020-09-14.json"]
	for name, to := range map[string]string{"users.json": "/users.json", "channels.json": "../../channels.json", "general/2020-09-15.json": "a/../general/./2020-09-15.json"} {
		files[to] = files[name]
		delete(files, name)
	}
	for _, odd := range []string{
		"general/", "general/2020-09-16.json/", "general/deeper/2020-09-16.json", "../general.json", "/etc/2020-09-16.json",
		`general\2020-09-16.json`, `C:\general\2020-09-16.json`, "General/2020-09-16.json", "general /2020-09-16.json", "../etc/passwd",
	} {
		files[odd] = day
		if strings.HasSuffix(odd, "/") {
			files[odd] = ""
		}
	}
	got, err := slack.Open(write(t, files), now)
	if err != nil {
		t.Fatal(err)
	}
	left := 0
	for what, n := range got.Skipped {
		if !strings.HasPrefix(what, "notices") {
			left += n
		}
	}
	if left != 8 { // all but the two folders
		t.Errorf("%d files are left out: %v", left, got.Skipped)
	}
	want.Digest, got.Digest, want.Skipped, got.Skipped = "", "", nil, nil
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
