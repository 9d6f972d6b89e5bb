//go:build e2e

package e2e_test

import (
	"archive/zip"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// eventually waits for what is made after the fact, such as the mention index.
func eventually(t *testing.T, want string, get func() string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		got := get()
		if got == want {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("got %s, want %s", got, want)
		case <-tick.C:
		}
	}
}

func checkOperators(t *testing.T, d *dev) {
	t.Helper()
	for args, want := range map[string]string{
		"region list":     "us",
		"cell list":       "eu-2",
		"workspace list":  "globex",
		"raft list-peers": "control-3",
		"audit":           "workspace",
	} {
		if out := d.must(t, nil, strings.Fields(args)...); !strings.Contains(out, want) {
			t.Errorf("parley %s says nothing of %s:\n%s", args, want, out)
		}
		var doc any
		d.must(t, &doc, append(strings.Fields(args), "-o", "json")...)
	}
	d.must(t, nil, "workspace", "create", "--slug", "initech", "--name", "Initech", "--region", "us", "--dry-run")
	if out := d.must(t, nil, "workspace", "list"); strings.Contains(out, "initech") {
		t.Error("a dry run made a workspace")
	}
	d.must(t, nil, "workspace", "create", "--slug", "initech", "--name", "Initech", "--region", "us")
	eventually(t, "active in us", func() string {
		out := d.must(t, nil, "workspace", "show", "initech")
		if strings.Contains(out, "active") && strings.Contains(out, "us-") {
			return "active in us"
		}
		return out
	})
	if out := d.must(t, nil, "workspace", "why", "initech"); !strings.Contains(out, "eu-1") || !strings.Contains(out, "us-1") {
		t.Errorf("why does not tell every cell's verdict:\n%s", out)
	}
	d.must(t, nil, "raft", "transfer-leader")
	eventually(t, "3 peers", func() string {
		if out, err := d.run(t, "raft", "list-peers"); err == nil && strings.Count(out, "control-") >= 3 {
			return "3 peers"
		}
		return "no leader"
	})
	if _, err := d.run(t, "workspace", "show", "nobody"); err == nil {
		t.Error("showing a workspace that is not there succeeds")
	}
}

func checkSeed(t *testing.T, d *dev) {
	t.Helper()
	var seeded struct {
		Users []struct {
			ID    topology.UserID `json:"id"`
			Token string          `json:"token"`
		} `json:"users"`
		Channels []struct {
			ID      topology.ChannelID `json:"id"`
			Members []topology.UserID  `json:"members"`
		} `json:"channels"`
	}
	d.must(t, &seeded, "seed", "--workspace", "globex", "--users", "30", "--channels", "4", "--members-per-channel", "12", "-o", "json")
	if len(seeded.Users) != 30 || len(seeded.Channels) != 4 {
		t.Fatalf("%d users, %d channels", len(seeded.Users), len(seeded.Channels))
	}
	tokens := map[topology.UserID]string{}
	for _, u := range seeded.Users {
		tokens[u.ID] = u.Token
	}
	for _, ch := range seeded.Channels {
		if len(ch.Members) != 12 {
			t.Errorf("channel %s has %d members", ch.ID, len(ch.Members))
		}
		if _, err := d.with(t, tokens[ch.Members[0]], 0).Post(step(t), ch.ID, chat.PostRequest{Text: "hello"}); err != nil {
			t.Error(err)
		}
	}
}

// makeExport writes a Slack export with threads, odd texts and many days.
func makeExport(t *testing.T, messages int) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "export.zip")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	put := func(name string, v any) {
		w, err := z.Create(name)
		if err == nil {
			err = json.NewEncoder(w).Encode(v)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	r := rand.New(rand.NewPCG(1, 1))
	type object map[string]any
	var users []object
	var ids []string
	for i := range 1500 {
		id := fmt.Sprintf("U%05d", i)
		ids = append(ids, id)
		users = append(users, object{"id": id, "name": fmt.Sprintf("person %d|", i)})
	}
	put("users.json", users)
	var channels []object
	for c := range 5 {
		channel := fmt.Sprintf("history-%d", c)
		channels = append(channels, object{"id": fmt.Sprintf("C%d", c), "name": channel, "created": 1_500_000_000, "members": ids[:1100+c]})
		var roots []string
		days := map[string][]object{}
		for i := range messages / 5 {
			at := time.Unix(1_400_000_000+int64(i)*977, int64(r.IntN(1000))*1000).UTC()
			ts := fmt.Sprintf("%d.%06d", at.Unix(), at.Nanosecond()/1000)
			m := object{"type": "message", "user": ids[r.IntN(len(ids))], "text": fmt.Sprintf("  %d \"quoted\" ünïcode <&> \u2028 %s", i, strings.Repeat("x", r.IntN(200))), "ts": ts}
			if r.IntN(10) == 0 && len(roots) > 0 {
				m["thread_ts"] = roots[r.IntN(len(roots))]
			} else {
				roots = append(roots, ts)
			}
			day := at.Format("2006-01-02")
			days[day] = append(days[day], m)
		}
		for day, ms := range days {
			put(channel+"/"+day+".json", ms)
		}
	}
	put("channels.json", channels)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return name
}

// checkImport kills an import again and again, ends it, and compares.
func checkImport(t *testing.T, d *dev) {
	t.Helper()
	file := makeExport(t, 20_000)
	for n := range 3 {
		ctx, cancel := context.WithTimeout(step(t), time.Duration(n+1)*700*time.Millisecond)
		err := d.command(ctx, t, "import", "slack", file, "--workspace", "globex").Run() // killed by -9 when ctx ends
		cancel()
		t.Logf("import %d ended with %v", n, err)
	}
	if out, err := d.run(t, "import", "slack", file, "--workspace", "globex"); err != nil || !strings.Contains(out, "history-4") {
		t.Fatalf("%v\n%s", err, out)
	}
	d.must(t, nil, "import", "check", file, "--workspace", "globex")
	if out, err := d.run(t, "import", "check", makeExport(t, 19_000), "--workspace", "globex"); err == nil || !strings.Contains(out+err.Error(), "channel history-") {
		t.Errorf("a check against another file: %v\n%s", err, out)
	}
	bad := filepath.Join(t.TempDir(), "bad.zip")
	if err := os.WriteFile(bad, []byte("PK"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.run(t, "import", "slack", bad, "--workspace", "globex"); err == nil {
		t.Error("a broken file is imported")
	}
}

// checkKill posts from both regions, kills -9 in the middle, and wants every
// acked message back, once.
func checkKill(t *testing.T, d *dev, dir string) {
	t.Helper()
	ch := d.info.Workspaces[0].Channels[0].ID
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	acked := map[topology.MessageID]string{}
	enough := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 6 {
		c := d.as(t, 0, w%5, w%2)
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				text := fmt.Sprintf("before the kill %d.%d", w, i)
				p, err := c.Post(ctx, ch, chat.PostRequest{Text: text})
				if err != nil {
					continue
				}
				mu.Lock()
				if acked[p.MessageID] = text; len(acked) == 200 {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	select {
	case <-enough:
	case <-time.After(stepMax):
		t.Fatal("posts are too slow")
	}
	d.kill()
	cancel()
	wg.Wait()
	d = start(t, dir)
	found := map[topology.MessageID]int{}
	texts := map[string]int{}
	for i, m := range history(t, d.as(t, 0, 1, 1), ch) {
		if m.Seq != topology.Seq(i+1) {
			t.Fatalf("message %d has seq %d", i+1, m.Seq)
		}
		found[m.MessageID]++
		texts[m.Text]++
		if want, ok := acked[m.MessageID]; ok && want != m.Text {
			t.Errorf("message %s was %q and is %q", m.MessageID, want, m.Text)
		}
	}
	for id, text := range acked {
		if found[id] != 1 || texts[text] != 1 {
			t.Errorf("acked %s %q: there %d times, its text %d times", id, text, found[id], texts[text])
		}
	}
	d.stop(t)
}
