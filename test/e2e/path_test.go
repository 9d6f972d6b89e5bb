//go:build e2e

package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"parley/client"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// TestWholePath walks the product from its first start to its third.
func TestWholePath(t *testing.T) {
	dir := t.TempDir()
	d := start(t, dir)
	t.Run("dev.json", func(t *testing.T) { checkInfo(t, d) })
	t.Run("two regions talk", func(t *testing.T) { checkTalk(t, d) })
	t.Run("resume is exact", func(t *testing.T) { checkResume(t, d) })
	t.Run("sockets", func(t *testing.T) { checkSocket(t, d) })
	t.Run("ways to connect", func(t *testing.T) { checkConnect(t, d) })
	t.Run("a retry is safe", func(t *testing.T) { checkRetry(t, d) })
	t.Run("threads", func(t *testing.T) { checkThreads(t, d) })
	t.Run("search", func(t *testing.T) { checkSearch(t, d) })
	t.Run("unread and mentions", func(t *testing.T) { checkUnread(t, d) })
	t.Run("walls", func(t *testing.T) { checkWalls(t, d) })
	t.Run("a private channel ends for who is removed", func(t *testing.T) { checkRemoval(t, d) })
	t.Run("errors are problem documents", func(t *testing.T) { checkErrors(t, d) })
	t.Run("operators", func(t *testing.T) { checkOperators(t, d) })
	t.Run("seed", func(t *testing.T) { checkSeed(t, d) })
	t.Run("import", func(t *testing.T) { checkImport(t, d) })

	talk := openTalk(t, d)
	t.Run("chat in two terminals", func(t *testing.T) { checkChat(t, d, talk) })

	general := d.info.Workspaces[0].Channels[0].ID
	before := history(t, d.as(t, 0, 0, 0), general)
	d.stop(t)
	t.Run("chat without a cluster", func(t *testing.T) { talk.checkAway(t) })
	d = start(t, dir)
	t.Run("chat comes back", func(t *testing.T) { talk.checkBack(t) })
	t.Run("chat is left", func(t *testing.T) { talk.checkLeave(t) })
	t.Run("a second start finds everything", func(t *testing.T) {
		if diff := cmp.Diff(before, history(t, d.as(t, 0, 0, 1), general)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("acked is kept over kill -9", func(t *testing.T) { checkKill(t, d, dir) })
}

func checkInfo(t *testing.T, d *dev) {
	t.Helper()
	if len(d.info.Edges) != 2 || len(d.info.Control) != 3 || d.info.OperatorToken == "" || len(d.info.Workspaces) != 2 {
		t.Fatalf("dev.json has %d edges, %d control nodes, %d workspaces", len(d.info.Edges), len(d.info.Control), len(d.info.Workspaces))
	}
	for i, want := range []struct{ slug, region string }{{"acme", "eu"}, {"globex", "us"}} {
		ws := d.info.Workspaces[i]
		if ws.Slug != want.slug || !strings.HasPrefix(ws.Cell, want.region+"-") || len(ws.Users) < 5 || len(ws.Channels) < 2 {
			t.Errorf("workspace %s is in %s with %d users and %d channels", ws.Slug, ws.Cell, len(ws.Users), len(ws.Channels))
		}
		for u, user := range ws.Users {
			me, err := d.as(t, i, u, i).Me(step(t))
			if err != nil {
				t.Fatal(err)
			}
			if me.ID != user.ID || me.Name != user.Name {
				t.Errorf("%s is %+v", user.Name, me)
			}
			ch, err := d.as(t, i, u, 1-i).Channel(step(t), ws.Channels[0].ID)
			if err != nil {
				t.Fatal(err)
			}
			if !ch.IsMember || ch.MemberCount < 5 {
				t.Errorf("%s in #%s: member %t of %d", user.Name, ch.Name, ch.IsMember, ch.MemberCount)
			}
		}
	}
	edges, err := d.as(t, 0, 0, 0).Edges(step(t))
	if err != nil || len(edges) != 2 {
		t.Errorf("the API lists %v, %v", edges, err)
	}
}

// listen runs a stream until it has seen want, and returns the message events.
func listen(ctx context.Context, t *testing.T, cs []*client.Client, ch topology.ChannelID, n int) (ready <-chan struct{}, got func() []chat.MessageEvent) {
	t.Helper()
	s, err := client.NewStream(cs, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	hello, all := make(chan struct{}), make(chan []chat.MessageEvent, 1)
	ctx, cancel := context.WithCancel(ctx)
	go func() { _ = s.Run(ctx) }()
	go func() {
		var es []chat.MessageEvent
		for e := range s.Events() {
			switch e.Type {
			case chat.TypeHello:
				close(hello)
			case chat.TypeMessage:
				var m chat.MessageEvent
				if json.Unmarshal(e.Raw, &m) == nil && m.ChannelID == ch {
					es = append(es, m)
				}
			}
			if len(es) == n {
				break
			}
		}
		all <- es
		cancel()
		for range s.Events() { // let Run end
		}
	}()
	return hello, func() []chat.MessageEvent {
		select {
		case es := <-all:
			return es
		case <-ctx.Done():
			select {
			case es := <-all:
				return es
			default:
				t.Fatal("not all events came")
				return nil
			}
		}
	}
}

func checkTalk(t *testing.T, d *dev) {
	t.Helper()
	const each = 100
	ctx, general := step(t), d.info.Workspaces[0].Channels[0].ID
	ready0, events0 := listen(ctx, t, []*client.Client{d.as(t, 0, 0, 0)}, general, 2*each)
	ready1, events1 := listen(ctx, t, []*client.Client{d.as(t, 0, 1, 1)}, general, 2*each)
	<-ready0
	<-ready1
	var wg sync.WaitGroup
	for edge := range 2 {
		c := d.as(t, 0, edge, edge)
		for n := range 4 {
			wg.Go(func() {
				for i := range each / 4 {
					if _, err := c.Post(ctx, general, chat.PostRequest{Text: fmt.Sprintf("from edge %d, %d.%d", edge, n, i)}); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	a, b := events0(), events1()
	if diff := cmp.Diff(a, b); diff != "" {
		t.Fatalf("the two regions saw different things: %s", diff)
	}
	for i, e := range a {
		if i > 0 && (e.Rev != a[i-1].Rev+1 || e.Message.Seq != a[i-1].Message.Seq+1 || e.Message.TS <= a[i-1].Message.TS || e.Message.MessageID <= a[i-1].Message.MessageID) {
			t.Fatalf("event %d: %+v follows %+v", i, e, a[i-1])
		}
	}
	h := history(t, d.as(t, 0, 2, 0), general)
	h = h[len(h)-len(a):]
	for i := range a {
		if diff := cmp.Diff(a[i].Message, h[i]); diff != "" {
			t.Fatalf("history and live differ: %s", diff)
		}
	}
}

// checkResume breaks off again and again under load and counts every rev.
func checkResume(t *testing.T, d *dev) {
	t.Helper()
	const posts, breaks = 300, 25
	ctx, general := step(t), d.info.Workspaces[0].Channels[0].ID
	reader := []*client.Client{d.as(t, 0, 3, 1), d.as(t, 0, 3, 0)}
	s, err := reader[0].Dial(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	raw, _, err := s.Read()
	if err != nil {
		t.Fatal(err)
	}
	var hello chat.Hello
	if err := json.Unmarshal(raw, &hello); err != nil {
		t.Fatal(err)
	}
	cursors := map[topology.ChannelID]topology.Rev{chat.UserCursor: topology.Rev(hello.URev)}
	for _, c := range hello.Channels {
		cursors[c.ID] = c.Rev
	}
	first := cursors[general]
	done := make(chan error, 1)
	go func() {
		c := d.as(t, 0, 4, 0)
		for i := range posts {
			if _, err := c.Post(ctx, general, chat.PostRequest{Text: fmt.Sprintf("during resume %d", i)}); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for n := 0; cursors[general] < first+posts; n++ {
		quota := 10 + n%7
		if n >= breaks {
			quota = posts
		}
		for i := 0; i < quota && cursors[general] < first+posts; i++ {
			_, e, err := s.Read()
			if err != nil {
				t.Fatal(err)
			}
			if e.ChannelID != general || (e.Type != chat.TypeMessage && e.Type != chat.TypeResumed) {
				continue
			}
			if e.Type == chat.TypeResumed {
				if e.Rev != cursors[general] {
					t.Fatalf("resumed at rev %d, but the last was %d", e.Rev, cursors[general])
				}
				continue
			}
			if e.Rev != cursors[general]+1 {
				t.Fatalf("rev %d follows %d (socket %d)", e.Rev, cursors[general], n)
			}
			cursors[general] = e.Rev
		}
		_ = s.Close()
		if s, err = reader[n%2].Dial(ctx, true); err != nil {
			t.Fatal(err)
		}
		if err := s.Resume(cursors); err != nil {
			t.Fatal(err)
		}
	}
	_ = s.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func checkRetry(t *testing.T, d *dev) {
	t.Helper()
	ctx, general := step(t), d.info.Workspaces[0].Channels[0].ID
	a, b := d.as(t, 0, 0, 0), d.as(t, 0, 0, 1)
	p := chat.PostRequest{Text: "once", ClientMsgID: "key-1"}
	first, err := a.Post(ctx, general, p)
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.Post(ctx, general, p)
	if err != nil || first != again {
		t.Errorf("the repeat gave %+v, %v; first %+v", again, err, first)
	}
	p.Text = "another"
	if _, err := b.Post(ctx, general, p); !problem.Is(err, problem.Conflict) {
		t.Errorf("another body under the key gave %v", err)
	}
	p.Text = "once"
	other, err := d.as(t, 0, 1, 0).Post(ctx, general, p)
	if err != nil || other.MessageID == first.MessageID {
		t.Errorf("another author's key gave %+v, %v", other, err)
	}
}

func checkThreads(t *testing.T, d *dev) {
	t.Helper()
	ctx, general := step(t), d.info.Workspaces[0].Channels[0].ID
	c := d.as(t, 0, 0, 0)
	root, err := c.Post(ctx, general, chat.PostRequest{Text: "root"})
	if err != nil {
		t.Fatal(err)
	}
	var last chat.Posted
	for i := range 7 {
		if last, err = c.Post(ctx, general, chat.PostRequest{Text: fmt.Sprint("reply ", i), ThreadRoot: &root.MessageID}); err != nil {
			t.Fatal(err)
		}
		if last.Seq != topology.Seq(i+1) || last.Rev != root.Rev+topology.Rev(i+1) {
			t.Errorf("reply %d: %+v", i, last)
		}
	}
	var got []string
	for after := topology.MessageID(""); ; {
		page, err := c.Replies(ctx, general, root.MessageID, after, 3)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range page.Messages {
			got = append(got, m.Text)
			after = m.MessageID
		}
		if !page.HasMore {
			break
		}
	}
	if diff := cmp.Diff([]string{"reply 0", "reply 1", "reply 2", "reply 3", "reply 4", "reply 5", "reply 6"}, got); diff != "" {
		t.Error(diff)
	}
	page, err := c.Before(ctx, general, "", 1)
	if err != nil {
		t.Fatal(err)
	}
	m := page.Messages[0]
	if m.MessageID != root.MessageID || m.ReplyCount != 7 || m.LastReplyTS == nil || *m.LastReplyTS != last.TS {
		t.Errorf("the root reads %+v", m)
	}
	if _, err := c.Post(ctx, general, chat.PostRequest{Text: "nested", ThreadRoot: &last.MessageID}); !problem.Is(err, problem.Invalid) {
		t.Errorf("a reply to a reply gave %v", err)
	}
}

func checkUnread(t *testing.T, d *dev) {
	t.Helper()
	ctx, ws := step(t), d.info.Workspaces[0]
	general := ws.Channels[0].ID
	me, other := d.as(t, 0, 1, 1), d.as(t, 0, 0, 0)
	head, err := other.Post(ctx, general, chat.PostRequest{Text: "read up to here"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := me.MarkRead(ctx, general, head.MessageID); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "for <@" + string(ws.Users[1].ID) + ">", "for @channel", "for @" + ws.Users[1].Name} {
		if _, err := other.Post(ctx, general, chat.PostRequest{Text: text}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "4 unread, 3 mentions", func() string {
		u, err := me.Unread(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range u.Channels {
			if c.ChannelID == general {
				return fmt.Sprintf("%d unread, %d mentions", c.UnreadCount, c.MentionCount)
			}
		}
		return "no such channel"
	})
	if _, err := me.MarkRead(ctx, general, "01JUNK"); !problem.Is(err, problem.Invalid) {
		t.Errorf("marking junk gave %v", err)
	}
	s, err := me.MarkRead(ctx, general, head.MessageID)
	if err != nil || s.UnreadCount != 4 {
		t.Errorf("marking again gave %+v, %v", s, err)
	}
}

func checkWalls(t *testing.T, d *dev) {
	t.Helper()
	ctx := step(t)
	acme, globex := d.info.Workspaces[0].Channels[0].ID, d.info.Workspaces[1].Channels[0].ID
	c := d.as(t, 0, 0, 0)
	for name, err := range map[string]error{
		"reading another workspace's channel": second(c.Before(ctx, globex, "", 10)),
		"posting there":                       second(c.Post(ctx, globex, chat.PostRequest{Text: "x"})),
		"seeing it":                           second(c.Channel(ctx, globex)),
	} {
		if !problem.Is(err, problem.NotFound) {
			t.Errorf("%s gave %v", name, err)
		}
	}
	private, err := c.CreateChannel(ctx, chat.CreateChannelRequest{Name: "secret", Private: true})
	if err != nil {
		t.Fatal(err)
	}
	out := d.as(t, 0, 2, 1)
	for name, err := range map[string]error{
		"reading a private channel": second(out.Before(ctx, private.ID, "", 10)),
		"posting there":             second(out.Post(ctx, private.ID, chat.PostRequest{Text: "x"})),
		"seeing it":                 second(out.Channel(ctx, private.ID)),
		"joining it":                second(out.Join(ctx, private.ID)),
	} {
		if !problem.Is(err, problem.NotFound) {
			t.Errorf("%s gave %v", name, err)
		}
	}
	list, err := out.Channels(ctx, "", chat.PageMax)
	if err != nil {
		t.Fatal(err)
	}
	for _, ch := range list.Channels {
		if ch.ID == private.ID {
			t.Error("a private channel is listed to an outsider")
		}
	}
	if _, err := d.with(t, "junk", 0).Before(ctx, acme, "", 1); !problem.Is(err, problem.Unauthentic) {
		t.Errorf("a junk token gave %v", err)
	}
	if _, err := d.with(t, "junk", 0).Dial(ctx, false); !problem.Is(err, problem.Unauthentic) {
		t.Errorf("a junk token at the socket gave %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func checkRemoval(t *testing.T, d *dev) {
	t.Helper()
	ctx, ws := step(t), d.info.Workspaces[0]
	owner, guest := d.as(t, 0, 0, 0), d.as(t, 0, 2, 1)
	ch, err := owner.CreateChannel(ctx, chat.CreateChannelRequest{Name: "for-a-while", Private: true})
	if err != nil {
		t.Fatal(err)
	}
	s, err := guest.Dial(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if _, _, err := s.Read(); err != nil {
		t.Fatal(err)
	}
	if _, err := owner.AddMembers(ctx, ch.ID, []topology.UserID{ws.Users[2].ID}); err != nil {
		t.Fatal(err)
	}
	if _, err := owner.Post(ctx, ch.ID, chat.PostRequest{Text: "welcome"}); err != nil {
		t.Fatal(err)
	}
	saw := func(until func(chat.Envelope) bool) (texts []string) {
		for {
			raw, e, err := s.Read()
			if err != nil {
				t.Fatal(err)
			}
			var m chat.MessageEvent
			if e.ChannelID == ch.ID && e.Type == chat.TypeMessage && json.Unmarshal(raw, &m) == nil {
				texts = append(texts, m.Message.Text)
			}
			if until(e) {
				return texts
			}
		}
	}
	if diff := cmp.Diff([]string{"welcome"}, saw(func(e chat.Envelope) bool { return e.ChannelID == ch.ID && e.Type == chat.TypeMessage })); diff != "" {
		t.Error(diff)
	}
	if _, err := owner.RemoveMember(ctx, ch.ID, ws.Users[2].ID); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if _, err := owner.Post(ctx, ch.ID, chat.PostRequest{Text: "behind your back"}); err != nil {
			t.Fatal(err)
		}
	}
	marker, err := owner.Post(ctx, ws.Channels[0].ID, chat.PostRequest{Text: "marker"})
	if err != nil {
		t.Fatal(err)
	}
	if after := saw(func(e chat.Envelope) bool { return e.ChannelID == ws.Channels[0].ID && e.Rev == marker.Rev }); len(after) > 0 {
		t.Errorf("after the removal came %q", after)
	}
	if _, err := guest.Before(ctx, ch.ID, "", 1); !problem.Is(err, problem.NotFound) {
		t.Errorf("reading after the removal gave %v", err)
	}
}

func checkErrors(t *testing.T, d *dev) {
	t.Helper()
	general := d.info.Workspaces[0].Channels[0].ID
	send := func(method, path, body string) (int, problem.Document, string) {
		req, err := http.NewRequestWithContext(step(t), method, d.info.Edges[0].URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+d.info.Workspaces[0].Users[0].Token)
		req.Header.Set("Content-Type", "application/json")
		res, err := (&http.Client{Timeout: stepMax}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		var doc problem.Document
		if res.StatusCode >= 400 && json.Unmarshal(b, &doc) != nil {
			t.Errorf("%s %s: no JSON: %s", method, path, b)
		}
		return res.StatusCode, doc, res.Header.Get("Content-Type")
	}
	messages := "/api/v1/channels/" + string(general) + "/messages"
	for name, c := range map[string]struct {
		method, path, body string
		status             int
	}{
		"no text":         {"POST", messages, `{"text":""}`, 400},
		"no JSON":         {"POST", messages, `{`, 400},
		"a form":          {"POST", messages, `text=hello`, 400},
		"text is missing": {"POST", messages, `{}`, 400},
		"wrong type":      {"POST", messages, `{"text":7}`, 400},
		"too long":        {"POST", messages, `{"text":"` + strings.Repeat("x", 40_001) + `"}`, 400},
		"too large":       {"POST", messages, `{"text":"` + strings.Repeat("x", 600<<10) + `"}`, 413},
		"no such channel": {"GET", "/api/v1/channels/C0/messages", "", 404},
		"no such path":    {"GET", "/api/v1/nothing", "", 404},
		"limit":           {"GET", messages + "?limit=201", "", 400},
		"limit no number": {"GET", messages + "?limit=x", "", 400},
		"bad cursor":      {"GET", messages + "?before=junk", "", 400},
		"two cursors":     {"GET", messages + "?before=a&after=b", "", 400},
	} {
		t.Run(name, func(t *testing.T) {
			status, doc, kind := send(c.method, c.path, c.body)
			if status != c.status || doc.Status != c.status || doc.Kind == "" || doc.Detail == "" || !strings.HasPrefix(kind, "application/problem+json") {
				t.Errorf("got %d %s %+v", status, kind, doc)
			}
		})
	}
	if status, _, _ := send("GET", "/api/v1/openapi.json", ""); status != 200 {
		t.Errorf("openapi.json: %d", status)
	}
}
