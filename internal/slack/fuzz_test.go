package slack_test

import (
	"archive/zip"
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"parley/internal/importer"
	"parley/internal/problem"
	"parley/internal/slack"
	"parley/internal/wire/chat"
)

// FuzzOpen: whatever a channel's file holds, it is read or refused with its name,
// and what was read keeps the promises of Export.
func FuzzOpen(f *testing.F) {
	f.Add([]byte(`[{"user":"U1","text":"x","ts":"1600080000.000000"}]`))
	f.Add([]byte(`[{"user":"U2","text":"x","ts":"1600080000.000000","thread_ts":"1600000001.000100"},`))
	f.Add([]byte(`[[[[`))
	f.Add([]byte(`[{"user":"U1","text":"x","ts":"946684800.000000"},{"user":"U1","text":"x","ts":"1.000000"}]`))
	fuzzFile(f, "general/2020-09-16.json")
}

// FuzzUsers is FuzzOpen for the list of people.
func FuzzUsers(f *testing.F) {
	f.Add([]byte(`[{"id":"U1","name":"ann","profile":{"real_name":"Ann","display_name":" "}},{"id":"U2","name":"bob"}]`))
	f.Add([]byte(`[{"id":"U1","name":"ann"},{"id":"U1","name":"bob"}]`))
	f.Add([]byte(`[{"id":"B1","name":"bot-B1"},{"id":"U\u0000","name":"\u001b[2J"}]`))
	f.Add([]byte(`[{"id":"U1","name":"USLACKBOT","profile":null},null]`))
	fuzzFile(f, "users.json")
}

// FuzzChannels is FuzzOpen for the list of channels.
func FuzzChannels(f *testing.F) {
	f.Add([]byte(good()["channels.json"]))
	f.Add([]byte(channel(`"created":1600000000,"members":["U1","U1","UGONE"],"topic":{"value":"x"}`)))
	f.Add([]byte(`[{"id":"C1","name":"..","created":1600000000},{"id":"C2","name":"general","created":-1}]`))
	f.Add([]byte(`[{"id":"C1","name":"general","created":9223372036854775807,"members":null}]`))
	fuzzFile(f, "channels.json")
}

// fuzzFile puts anything in the place of one file of a good export.
func fuzzFile(f *testing.F, file string) {
	f.Helper()
	f.Fuzz(func(t *testing.T, data []byte) {
		files := good()
		files[file] = string(data)
		e, err := slack.Open(write(t, files), now)
		if err != nil {
			if !problem.Is(err, problem.Invalid) {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		keepsPromises(t, e)
	})
}

// FuzzArchive: whatever a file holds, it is read or refused as a ZIP file.
func FuzzArchive(f *testing.F) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, data := range good() {
		for _, h := range []*zip.FileHeader{{Name: name, Method: zip.Deflate}, {Name: "odd/../../" + name + "/", Method: zip.Store}} {
			w, err := z.CreateHeader(h)
			if err == nil && h.Method == zip.Deflate {
				_, err = w.Write([]byte(data))
			}
			if err != nil {
				f.Fatal(err)
			}
		}
	}
	if err := z.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:b.Len()/2])
	f.Add(bytes.ReplaceAll(b.Bytes(), []byte("users.json"), []byte("chann.json")))
	f.Add([]byte("PK\x05\x06" + string(make([]byte, 18))))
	f.Fuzz(func(t *testing.T, data []byte) {
		name := filepath.Join(t.TempDir(), "export.zip")
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		e, err := slack.Open(name, now)
		if err != nil {
			if !problem.Is(err, problem.Invalid) && !problem.Is(err, problem.TooLarge) {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		keepsPromises(t, e)
	})
}

// keepsPromises holds an export against what it says of itself, and against the
// rules of the API that it is to be sent to.
func keepsPromises(t *testing.T, e *slack.Export) {
	t.Helper()
	people, names := map[string]bool{}, map[string]bool{}
	for _, u := range e.Users {
		if err := (chat.NewUser{Name: u.Name, DisplayName: u.DisplayName}).Check(); err != nil || people[u.ID] || names[u.Name] || u.ID == "" {
			t.Fatalf("user %+v: %v", u, err)
		}
		people[u.ID], names[u.Name] = true, true
	}
	earliest, latest := chat.Timestamp(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()), chat.Timestamp(now.Add(24*time.Hour).UnixMicro())
	channels := map[string]bool{}
	for i := range e.Channels {
		ch := &e.Channels[i]
		if channels[ch.Name] || ch.Created < earliest-1 || ch.Created > latest {
			t.Fatalf("channel %q of %s", ch.Name, ch.Created)
		}
		channels[ch.Name] = true
		for _, m := range ch.Members {
			if !people[m] {
				t.Fatalf("channel %q has the member %q, who is nobody", ch.Name, m)
			}
		}
		for i, m := range ch.Messages {
			after := ch.Created
			if i > 0 {
				after = ch.Messages[i-1].TS
			}
			if m.TS <= after || m.TS < earliest || m.TS > latest || m.Text == "" || !people[m.User] {
				t.Fatalf("message %d of channel %q is %+v", i, ch.Name, m)
			}
			if m.Root >= i || m.Root < -1 || (m.Root >= 0 && ch.Messages[m.Root].Root >= 0) {
				t.Fatalf("message %d of channel %q is a reply to %d", i, ch.Name, m.Root)
			}
		}
	}
	if err := importer.Fits(e, ""); err != nil && !problem.Is(err, problem.Invalid) {
		t.Fatal(err)
	}
}
