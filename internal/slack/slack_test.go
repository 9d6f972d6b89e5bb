package slack_test

import (
	"archive/zip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/internal/problem"
	"parley/internal/slack"
)

var now = time.Unix(1_700_000_000, 0)

func write(t *testing.T, files map[string]string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "export.zip")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	for name, data := range files {
		w, err := z.Create(name)
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
	return name
}

func good() map[string]string {
	return map[string]string{
		"users.json":    `[{"id":"U1","name":"ann","profile":{"real_name":"Ann"}},` + "\n" + `{"id":"U2","name":"bob"}]`,
		"channels.json": `[{"id":"C1","name":"general","created":1600000000,"members":["U1","U2"],"purpose":{"value":"talk"}}]`,
		"general/2020-09-14.json": `[
{"type":"message","user":"U2","text":"second","ts":"1600000002.000000"},
{"type":"message","user":"U1","text":"first","ts":"1600000001.000100","thread_ts":"1600000001.000100"},
{"type":"message","subtype":"channel_join","user":"U2","text":"joined","ts":"1600000002.500000"}
]`,
		"general/2020-09-15.json": `[
{"type":"message","user":"U2","text":"reply","ts":"1600080000.000000","thread_ts":"1600000001.000100"},
{"type":"message","subtype":"bot_message","bot_id":"B1","username":"Builder","text":"","attachments":[{"fallback":"built"}],"ts":"1600080001.000000","thread_ts":"1500000000.000000"}
]`,
	}
}

// channel is a channels.json whose second line says what is given, the rest is good.
func channel(says string) string {
	return "[{\"id\":\"C0\",\"name\":\"other\",\"created\":1600000000},\n" +
		`{"id":"C1","name":"general","created":1600000000,` + says + `}]`
}

func TestOpen(t *testing.T) {
	e, err := slack.Open(write(t, good()), now)
	if err != nil {
		t.Fatal(err)
	}
	e.Digest = ""
	want := &slack.Export{
		Users: []slack.User{{ID: "U1", Name: "ann", DisplayName: "Ann"}, {ID: "U2", Name: "bob", DisplayName: "bob"}, {ID: "B1", Name: "bot-B1", DisplayName: "Builder"}},
		Channels: []slack.Channel{{
			File: "channels.json", Line: 1, ID: "C1", Name: "general", Topic: "talk", Created: 1_600_000_000_000_000, Members: []string{"U1", "U2"},
			Messages: []slack.Message{
				{User: "U1", TS: 1_600_000_001_000_100, Text: "first", Root: -1},
				{User: "U2", TS: 1_600_000_002_000_000, Text: "second", Root: -1},
				{User: "U2", TS: 1_600_080_000_000_000, Text: "reply", Root: 0},
				{User: "B1", TS: 1_600_080_001_000_000, Text: "built", Root: -1},
			},
		}},
		Skipped: map[string]int{"notices (channel_join)": 1},
		Changed: map[string]int{"replies to messages that are not in the export, made top-level messages": 1},
	}
	if d := cmp.Diff(want, e); d != "" {
		t.Error(d)
	}
}

// TestOpen_EdgesOfTime: the first and the last time that are taken are kept to the
// microsecond.
func TestOpen_EdgesOfTime(t *testing.T) {
	files := good()
	files["general/2020-09-16.json"] = `[{"user":"U1","text":"x","ts":"946684800.000001"},{"user":"U1","text":"x","ts":"1700000300.000000"}]`
	e, err := slack.Open(write(t, files), now)
	if err != nil {
		t.Fatal(err)
	}
	ch := e.Channels[0]
	if first, last := ch.Messages[0].TS, ch.Messages[len(ch.Messages)-1].TS; first != 946_684_800_000_001 || last != 1_700_000_300_000_000 || ch.Created != 946_684_800_000_000 {
		t.Errorf("first %d, last %d, created %d", first, last, ch.Created)
	}
}

func TestOpen_ErrorsNameFileAndLine(t *testing.T) {
	const day = "general/2020-09-15.json"
	for name, c := range map[string]struct{ file, data, want string }{
		"no users":         {"users.json", "", "users.json:1: must be a JSON array"},
		"not an array":     {day, `{"a":1}`, day + ":1: must be a JSON array"},
		"cut off":          {day, "[\n{\"user\":\"U1\",", day + ":2: the file ends in the middle"},
		"broken JSON":      {day, "[\n{\"user\":\"U1\",\n}]", day + ":3: invalid character"},
		"wrong type":       {day, "[\n{\"user\":\"U1\",\"text\":7,\"ts\":\"1600080000.000000\"}]", day + ":2: text: must be a string"},
		"invalid UTF-8":    {day, "[\n\n{\"user\":\"U1\",\"text\":\"a\xff\",\"ts\":\"1600080000.000000\"}]", day + ":3: the line is not valid UTF-8"},
		"half a character": {day, "[\n{\"user\":\"U1\",\"text\":\"\\ud83d\",\"ts\":\"1600080000.000000\"}]", day + ":2: the line has half a surrogate pair"},
		"invalid name":     {"users.json", "[{\"id\":\"U1\",\"name\":\"a\xc3\"}]", "users.json:1: the line is not valid UTF-8"},
		"no author":        {day, `[{"text":"x","ts":"1600080000.000000"}]`, day + ":1: user: is missing"},
		"bad ts":           {day, `[{"user":"U1","text":"x","ts":"1600080000"}]`, day + ":1: ts: "},
		"future":           {day, `[{"user":"U1","text":"x","ts":"1800080000.000000"}]`, day + ":1: ts: 1800080000.000000 is in the future"},
		"near future":      {day, `[{"user":"U1","text":"x","ts":"1700000300.000001"}]`, day + ":1: ts: 1700000300.000001 is in the future"},
		"far future":       {day, `[{"user":"U1","text":"x","ts":"1099511627775.999999"}]`, day + ":1: ts: 1099511627775.999999 is in the future"},
		"farther future":   {day, `[{"user":"U1","text":"x","ts":"9223372036854775807.000000"}]`, day + `:1: ts: "9223372036854775807.000000" must be seconds`},
		"ts of one digit":  {day, `[{"user":"U1","text":"x","ts":"1.0"}]`, day + `:1: ts: "1.0" must be seconds with six decimals`},
		"in 1970":          {day, "[\n{\"user\":\"U1\",\"text\":\"x\",\"ts\":\"1.000000\"}]", day + ":2: ts: 1.000000 is before 2000-01-01"},
		"in 1999":          {day, `[{"user":"U1","text":"x","ts":"946684799.999999"}]`, day + ":1: ts: 946684799.999999 is before 2000-01-01"},
		"before 1970":      {day, `[{"user":"U1","text":"x","ts":"-1.000000"}]`, day + `:1: ts: "-1.000000" must be seconds`},
		"time twice":       {day, `[{"user":"U1","text":"x","ts":"1600000002.000000"}]`, day + ":1: ts: 2020-09-13 12:26:42.000000 is that of general/2020-09-14.json:2, too"},
		"too long":         {day, `[{"user":"U1","text":"` + strings.Repeat("é", 40_001) + `","ts":"1600080000.000000"}]`, day + ":1: text: has 40001 characters"},
		"more than array":  {day, "[]\n[]", day + ":2: something follows the array"},
		"user twice":       {"users.json", "[{\"id\":\"U1\",\"name\":\"ann\"},\n{\"id\":\"U1\",\"name\":\"bob\"}]", "users.json:2: id: user U1 is there twice"},
		"channel's name":   {"channels.json", channel(`"name":"Not Allowed"`), `channels.json:2: name: may hold lower-case letters`},
		"long name":        {"channels.json", channel(`"name":"` + strings.Repeat("é", 81) + `"`), `channels.json:2: name: must have 1 to 80 characters, has 81`},
		"long purpose":     {"channels.json", channel(`"purpose":{"value":"` + strings.Repeat("é", 251) + `"}`), `channels.json:2: topic: must have at most 250 characters, has 251`},
		"NUL in a topic":   {"channels.json", channel(`"topic":{"value":"a\u0000"}`), `channels.json:2: topic: must not have NUL`},
		"NUL in an id":     {"channels.json", channel(`"id":"C\u0000"`), `channels.json:2: id: must not have NUL`},
		"not created":      {"channels.json", channel(`"created":0`), "channels.json:2: created: 0 must be in seconds since 1970, from 2000-01-01 to 2023-11-15"},
		"created in 1999":  {"channels.json", channel(`"created":946684799`), "channels.json:2: created: 946684799 must be"},
		"created too late": {"channels.json", channel(`"created":1700086401`), "channels.json:2: created: 1700086401 must be"},
		"created for ever": {"channels.json", channel(`"created":9223372036854775807`), "channels.json:2: created: 9223372036854775807 must be"},
		"spaces in a name": {"users.json", "[\n{\"id\":\"U1\",\"name\":\" ann\"}]", `users.json:2: user "U1": name: must have 1 to 80 characters and no spaces around`},
		"user's long name": {"users.json", `[{"id":"U1","name":"` + strings.Repeat("é", 81) + `"}]`, `users.json:1: user "U1": name: must have 1 to 80`},
		"NUL in a name":    {"users.json", `[{"id":"U1","name":"a\u0000"}]`, `users.json:1: user "U1": name: must not have NUL`},
		"NUL as shown":     {"users.json", `[{"id":"U1","name":"a","profile":{"real_name":"a\u0000"}}]`, `users.json:1: user "U1": display_name: must not have NUL`},
		"name twice":       {"users.json", "[{\"id\":\"U1\",\"name\":\"ann\"},\n{\"id\":\"U2\",\"name\":\"ann\"}]", `users.json:2: name: "ann" is that of user U1, too`},
		"a bot's long id":  {day, `[{"bot_id":"` + strings.Repeat("B", 77) + `","text":"x","ts":"1600080000.000000"}]`, day + `:1: user "BBB`},
	} {
		t.Run(name, func(t *testing.T) {
			files := good()
			files[c.file] = c.data
			_, err := slack.Open(write(t, files), now)
			if !problem.Is(err, problem.Invalid) || !strings.HasPrefix(problem.Show(err), c.want) {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
		})
	}
	t.Run("no zip", func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "x.zip")
		if err := os.WriteFile(name, []byte("hello"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := slack.Open(name, now); !problem.Is(err, problem.Invalid) {
			t.Errorf("got %v", err)
		}
	})
}
