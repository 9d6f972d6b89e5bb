package api_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"parley/cell/api"
	"parley/cell/directory"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// search is an answer of one of the cell's people.
func (c *cell) search(user, q string, more ...string) chat.SearchPage {
	c.t.Helper()
	v := url.Values{"q": {q}}
	for i := 0; i < len(more); i += 2 {
		v.Set(more[i], more[i+1])
	}
	var p chat.SearchPage
	c.as(user, "GET", "/api/v1/search?"+v.Encode(), nil).into(200, &p)
	if p.HasMore != (p.NextCursor != "") || p.Messages == nil {
		c.t.Errorf("%q: %+v", q, p)
	}
	return p
}

func texts(p chat.SearchPage) (out []string) {
	for _, m := range p.Messages {
		out = append(out, m.Text)
	}
	return out
}

// finds waits until a search gives just these texts: the index has two seconds.
func (c *cell) finds(user, q string, want []string, more ...string) chat.SearchPage {
	c.t.Helper()
	return c.findsAt(2*time.Second, func() chat.SearchPage { return c.search(user, q, more...) }, user+" searches "+q, want)
}

func (c *cell) findsAt(within time.Duration, ask func() chat.SearchPage, what string, want []string) chat.SearchPage {
	c.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(within); ; {
		p := ask()
		if slices.Equal(texts(p), want) {
			return p
		}
		select {
		case <-tick.C:
		case <-late:
			c.t.Fatalf("%s: found %q, want %q", what, texts(p), want)
		}
	}
}

func TestSearch_FindsRepliesAndHighlights(t *testing.T) {
	c := newCell(t)
	ch := c.channel("general", false)
	root := c.post(ch.ID, "Ünïcode: the DEPLOY of foo_bar.baz() failed")
	var reply chat.Posted
	c.as("Uann", "POST", "/api/v1/channels/"+string(ch.ID)+"/messages", chat.PostRequest{Text: "日本語 deploy, <@Ubob>", ThreadRoot: &root.MessageID}).into(201, &reply)
	p := c.finds("Ubob", "deploy", []string{"日本語 deploy, <@Ubob>", "Ünïcode: the DEPLOY of foo_bar.baz() failed"})
	m := p.Messages[0]
	if m.MessageID != reply.MessageID || m.ThreadRoot == nil || *m.ThreadRoot != root.MessageID || m.ChannelID != ch.ID || m.UserID != "Uann" || m.Seq != 1 {
		t.Errorf("the reply is %+v", m)
	}
	if !slices.Equal(m.Highlights, []chat.Highlight{{Start: 4, End: 10}}) || !slices.Equal(p.Messages[1].Highlights, []chat.Highlight{{Start: 13, End: 19}}) {
		t.Errorf("highlights %v, %v", m.Highlights, p.Messages[1].Highlights)
	}
	if p.Messages[1].ReplyCount != 1 {
		t.Errorf("the root is %+v", p.Messages[1])
	}
	for _, q := range []string{"unicode", `"foo_bar.baz"`, "baz", "deploy -日本", "from:ann deploy failed", "failed in:general", "in:#general the after:2020"} {
		c.finds("Ubob", q, []string{"Ünïcode: the DEPLOY of foo_bar.baz() failed"})
	}
	for _, q := range []string{"@bob", "@Ubob", "本", "日本語"} {
		c.finds("Ubob", q, []string{"日本語 deploy, <@Ubob>"})
	}
	for _, q := range []string{"from:bob deploy", "deploy before:2020", `"deploy failed"`} {
		c.finds("Ubob", q, nil)
	}
	c.finds("Ubob", "deploy", []string{"Ünïcode: the DEPLOY of foo_bar.baz() failed"}, "before", string(reply.MessageID))
	c.finds("Ubob", "deploy", nil, "before", "2020-01-01")
	c.finds("", "baz", []string{"Ünïcode: the DEPLOY of foo_bar.baz() failed"})
}

func TestSearch_Pages(t *testing.T) {
	c := newCell(t)
	ch, other := c.channel("general", false), c.channel("other", false)
	var want []string
	for i := range 25 {
		text := fmt.Sprintf("needle %d", i)
		c.post([]topology.ChannelID{ch.ID, other.ID}[i%2], text)
		want = append([]string{text}, want...)
	}
	c.finds("Ubob", "needle", want, "limit", "100")
	for _, sort := range []string{"newest", "relevant"} {
		var got []string
		for cursor := ""; ; {
			p := c.search("Ubob", "needle", "limit", "4", "cursor", cursor, "sort", sort)
			got = append(got, texts(p)...)
			if cursor = p.NextCursor; cursor == "" {
				break
			}
			c.post(ch.ID, "a needle that is newer")
		}
		got = slices.DeleteFunc(got, func(s string) bool { return strings.HasSuffix(s, "newer") }) // those of the round before
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q", sort, got)
		}
	}
	first := c.search("Ubob", "needle", "limit", "4")
	for _, more := range [][]string{{"cursor", "garbage"}, {"cursor", first.NextCursor, "sort", "relevant"}} {
		v := url.Values{"q": {"needle"}}
		for i := 0; i < len(more); i += 2 {
			v.Set(more[i], more[i+1])
		}
		c.as("Ubob", "GET", "/api/v1/search?"+v.Encode(), nil).fails(400, problem.Invalid, "cursor")
	}
}

func TestSearch_Refused(t *testing.T) {
	c := newCell(t)
	secret := c.channel("secret", true)
	ask := func(q string) answered { return c.as("Ubob", "GET", "/api/v1/search?"+q, nil) }
	for q, field := range map[string]string{
		"": "q", "q=": "q", "q=-x": "q", "q=%22open": "q", "q=x+from:nobody": "q", "q=x+in:nowhere": "q", "q=x+before:soon": "q",
		"q=x&before=soon": "before", "q=x&limit=0": "limit", "q=x&limit=101": "limit", "q=x&sort=best": "sort", "q=x&cursor=%25": "cursor",
		"q=" + strings.Repeat("x", 501): "q",
	} {
		ask(q).fails(400, problem.Invalid, field)
	}
	ask("q=x&channel_id=Cnone").fails(404, problem.NotFound, "")
	// A private channel does not exist for outsiders, by name, by id, or by both.
	for _, q := range []string{"q=x&channel_id=", "q=x+in:"} {
		none, priv := ask(q+"Cnone"), ask(q+string(secret.ID))
		if want := strings.ReplaceAll(string(none.body), "Cnone", string(secret.ID)); string(priv.body) != want {
			t.Errorf("%s: %s, but without a channel %s", q, priv.body, want)
		}
	}
	if a, b := ask("q=x+in:secret"), ask("q=x+in:nosuch"); strings.ReplaceAll(string(a.body), "secret", "nosuch") != string(b.body) {
		t.Errorf("%s, but without a channel %s", a.body, b.body)
	}
}

// What somebody may not read is not found, not even by who could read it before.
func TestSearch_DoesNotLeak(t *testing.T) {
	c := newCell(t)
	open, secret := c.channel("open", false), c.channel("secret", true)
	c.post(open.ID, "needle in the open")
	c.post(secret.ID, "needle in secret")
	both, one := []string{"needle in secret", "needle in the open"}, []string{"needle in the open"}
	c.finds("Uann", "needle", both)
	c.finds("Uroot", "needle", both)
	c.finds("Ubob", "needle", one)
	members := "/api/v1/channels/" + string(secret.ID) + "/members"
	c.as("Uann", "POST", members, chat.MembersRequest{UserIDs: []topology.UserID{"Ubob"}}).into(200, &chat.MembershipResponse{})
	c.finds("Ubob", "needle", both)
	c.finds("Ubob", "secret in:secret", []string{"needle in secret"})
	c.as("Uann", "DELETE", members+"/Ubob", nil).into(200, &chat.MembershipResponse{})
	for _, sort := range []string{"newest", "relevant"} {
		if p := c.search("Ubob", "needle", "sort", sort); !slices.Equal(texts(p), one) {
			t.Errorf("who was taken out finds %q", texts(p))
		}
	}
	// Another workspace of the cell, with a user of the same id and an admin.
	c.put(directory.Workspace{ID: "W2", Epoch: 3, Generation: 1, State: directory.StateOpen})
	_, err := c.rows.PutUsers(t.Context(), topology.Place{Workspace: "W2", Generation: 1}, []directory.User{{ID: "Uann", Name: "ann"}})
	c.check(err)
	for _, role := range []string{"member", "admin"} {
		var p chat.SearchPage
		c.ask(c.edge, "GET", "/api/v1/search?q=needle", nil, api.HeaderWorkspace, "W2", api.HeaderUser, "Uann", api.HeaderRole, role, api.HeaderEpoch, "3").into(200, &p)
		if len(p.Messages) != 0 {
			t.Errorf("another workspace finds %q", texts(p))
		}
	}
	// The same workspace after a move: the documents of the former generation are
	// nobody's.
	c.put(directory.Workspace{ID: "W1", Epoch: 4, Generation: 2, State: directory.StateOpen})
	_, err = c.rows.PutUsers(t.Context(), topology.Place{Workspace: "W1", Generation: 2}, []directory.User{{ID: "Uann", Name: "ann"}})
	c.check(err)
	c.epoch = "4"
	c.findsAt(patience, func() chat.SearchPage {
		var p chat.SearchPage
		if a := c.as("Uann", "GET", "/api/v1/search?q=needle", nil); a.status == 200 {
			a.into(200, &p)
		} else {
			p.Messages = []chat.FoundMessage{{}} // the cache has the former epoch yet
		}
		return p
	}, "after a move", nil)
}

func TestSearch_DegradedWithoutItsIndex(t *testing.T) {
	c := newCell(t)
	open, own, secret := c.channel("open", false), c.channel("own", true), c.channel("secret", true)
	for _, ch := range []topology.ChannelID{open.ID, own.ID} {
		c.as("Uann", "POST", "/api/v1/channels/"+string(ch)+"/members", chat.MembersRequest{UserIDs: []topology.UserID{"Ubob"}}).into(200, &chat.MembershipResponse{})
	}
	root := c.post(open.ID, "needle one")
	c.post(secret.ID, "needle not for bob")
	c.as("Uann", "POST", "/api/v1/channels/"+string(open.ID)+"/messages", chat.PostRequest{Text: "needle two", ThreadRoot: &root.MessageID}).into(201, &chat.Posted{})
	c.post(own.ID, "needle three")
	c.finds("Ubob", "needle", []string{"needle three", "needle two", "needle one"})
	heal := c.index.cut()
	for i := range 5 {
		began := time.Now()
		p := c.search("Ubob", "needle")
		if took := time.Since(began); took > time.Second || i > 3 && took > 300*time.Millisecond {
			t.Errorf("answer %d took %v", i, took)
		}
		if !p.Degraded || p.CoveredFrom != nil || !slices.Equal(texts(p), []string{"needle three", "needle two", "needle one"}) {
			t.Errorf("%+v", p)
		}
	}
	if p := c.search("Ubob", "needle in:open", "limit", "1"); !slices.Equal(texts(p), []string{"needle two"}) || !p.HasMore {
		t.Errorf("%+v", p)
	}
	for range 250 {
		c.post(open.ID, "hay")
	}
	if p := c.search("Ubob", "needle in:open"); p.CoveredFrom == nil || len(p.Messages) != 0 {
		t.Errorf("%+v", p)
	}
	c.post(open.ID, "needle while it was away")
	heal()
	c.findsAt(patience, func() chat.SearchPage {
		p := c.search("Ubob", "needle away")
		if p.Degraded {
			p.Messages = nil
		}
		return p
	}, "when it is back", []string{"needle while it was away"})
}

func TestSearch_RebuildFindsAllAgain(t *testing.T) {
	c := newCell(t)
	ch := c.channel("general", true)
	var want []string
	for i := range 450 {
		text := fmt.Sprintf("needle %d", i)
		c.post(ch.ID, text)
		if want = append([]string{text}, want...); len(want) > 100 {
			want = want[:100]
		}
	}
	root := c.post(ch.ID, "a root")
	c.as("Uann", "POST", "/api/v1/channels/"+string(ch.ID)+"/messages", chat.PostRequest{Text: "needle reply", ThreadRoot: &root.MessageID}).into(201, &chat.Posted{})
	want = append([]string{"needle reply"}, want[:99]...)
	c.finds("Uann", "needle", want, "limit", "100")
	c.index.forget(place)
	c.finds("Uann", "needle", nil)
	c.as("Uann", "POST", "/api/v1/admin/search/rebuild", chat.RebuildRequest{}).fails(403, problem.Denied, "")
	c.as("Uroot", "POST", "/api/v1/admin/search/rebuild", chat.RebuildRequest{Cursor: "x"}).fails(400, problem.Invalid, "cursor")
	var r chat.RebuildResponse
	for cursor := ""; ; cursor = r.Cursor {
		r = chat.RebuildResponse{}
		c.as("Uroot", "POST", "/api/v1/admin/search/rebuild", chat.RebuildRequest{Cursor: cursor}).into(200, &r)
		if r.Done {
			break
		}
	}
	if r.Channels != 1 || r.Messages != 452 || r.Cursor != "" {
		t.Errorf("%+v", r)
	}
	c.finds("Uann", "needle", want, "limit", "100")
	c.finds("Ubob", "needle", nil)
}

func TestSearch_ImportedMessages(t *testing.T) {
	c := newCell(t)
	var ch chat.AdminChannel
	c.as("Uroot", "POST", "/api/v1/admin/channels", chat.AdminChannelRequest{Name: "old", ImportDigest: "d"}).into(201, &ch)
	base := "/api/v1/admin/channels/" + string(ch.ID) + "/import"
	at := chat.Timestamp(time.Date(2019, 5, 1, 0, 0, 0, 0, time.UTC).UnixMicro())
	c.as("Uroot", "POST", base, chat.ImportRequest{Messages: []chat.ImportMessage{
		{UserID: "Uann", TS: at, Text: "an old needle"}, {UserID: "Ubob", TS: at + 1, Text: "an old needle's reply", RootSeq: 1},
	}}).into(200, &chat.ImportResponse{})
	for _, user := range []string{"Uann", "Uroot"} {
		if p := c.search(user, "needle"); len(p.Messages) != 0 {
			t.Errorf("%s finds %q in a channel that is being imported", user, texts(p))
		}
	}
	c.as("Uroot", "POST", base+"/finish", "{}").into(200, &ch)
	c.finds("Ubob", "needle", []string{"an old needle's reply", "an old needle"})
	c.finds("Ubob", "from:bob after:2019-04-30 before:2019-06", []string{"an old needle's reply"})
}
