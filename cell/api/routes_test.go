package api_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

func TestMessages_PostPageThread(t *testing.T) {
	c := newCell(t)
	ch := c.channel("general", false)
	base := "/api/v1/channels/" + string(ch.ID)
	var posted []chat.Posted
	for i := range 5 {
		posted = append(posted, c.post(ch.ID, fmt.Sprintf("message %d <&> é", i+1)))
	}
	if posted[0].Seq != 1 || posted[0].Rev != 2 || posted[4].Seq != 5 {
		t.Errorf("posted %+v", posted)
	}
	ids := func(query string, more bool) (out []topology.Seq) {
		t.Helper()
		var p chat.MessagePage
		c.as("Ubob", "GET", base+"/messages"+query, nil).into(200, &p)
		for _, m := range p.Messages {
			out = append(out, m.Seq)
		}
		if p.HasMore != more || p.Messages == nil {
			t.Errorf("%q: has_more %v of %v", query, p.HasMore, out)
		}
		return out
	}
	third := string(posted[2].MessageID)
	for query, w := range map[string]struct {
		seqs []topology.Seq
		more bool
	}{
		"":                                       {[]topology.Seq{5, 4, 3, 2, 1}, false},
		"?limit=2":                               {[]topology.Seq{5, 4}, true},
		"?limit=5":                               {[]topology.Seq{5, 4, 3, 2, 1}, false},
		"?before=" + third:                       {[]topology.Seq{2, 1}, false},
		"?limit=1&before=" + third:               {[]topology.Seq{2}, true},
		"?after=" + third:                        {[]topology.Seq{4, 5}, false},
		"?after=0&limit=3":                       {[]topology.Seq{1, 2, 3}, true},
		"?before=" + string(posted[0].MessageID): {nil, false},
		"?after=" + string(posted[4].MessageID):  {nil, false},
	} {
		if got := ids(query, w.more); !slices.Equal(got, w.seqs) {
			t.Errorf("%q: %v, want %v", query, got, w.seqs)
		}
	}
	var m chat.Message
	a := c.as("Ubob", "GET", base+"/messages/"+third, nil).into(200, &m)
	if m.Text != "message 3 <&> é" || m.UserID != "Uann" || m.ChannelID != ch.ID || m.ThreadRoot != nil || m.TS != posted[2].TS {
		t.Errorf("%s", a.body)
	}
	testThread(t, c, base, posted[2].MessageID)
}

func testThread(t *testing.T, c *cell, base string, root topology.MessageID) {
	t.Helper()
	var replies []chat.Posted
	for i := range 7 {
		var p chat.Posted
		c.as("Uann", "POST", base+"/messages", chat.PostRequest{Text: fmt.Sprintf("reply %d", i+1), ThreadRoot: &root}).into(201, &p)
		replies = append(replies, p)
	}
	for i, r := range append([]chat.Posted{{}}, replies...) {
		var p chat.MessagePage
		c.as("Ubob", "GET", fmt.Sprintf("%s/messages/%s/replies?limit=3&after=%s", base, root, r.MessageID), nil).into(200, &p)
		if n := min(3, 7-i); len(p.Messages) != n || p.HasMore != (7-i > 3) {
			t.Fatalf("after reply %d: %+v", i, p)
		}
		for j, m := range p.Messages {
			if m.MessageID != replies[i+j].MessageID || m.ThreadRoot == nil || *m.ThreadRoot != root || int(m.Seq) != i+j+1 {
				t.Errorf("after reply %d: %+v", i, m)
			}
		}
	}
	var m chat.Message
	c.as("Ubob", "GET", base+"/messages/"+string(root), nil).into(200, &m)
	if m.ReplyCount != 7 || m.LastReplyTS == nil || *m.LastReplyTS != replies[6].TS {
		t.Errorf("the root is %+v", m)
	}
	reply := string(replies[0].MessageID)
	c.as("Uann", "GET", base+"/messages/"+reply, nil).fails(404, problem.NotFound, "")
	c.as("Uann", "GET", base+"/messages/"+reply+"/replies", nil).fails(404, problem.NotFound, "")
	other := c.post(topology.ChannelID(base[len("/api/v1/channels/"):]), "another").MessageID
	for _, after := range []string{"x", string(root), string(other)} {
		c.as("Uann", "GET", base+"/messages/"+string(root)+"/replies?after="+after, nil).fails(400, problem.Invalid, "after")
	}
	c.as("Uann", "GET", base+"/messages/"+string(other)+"/replies?after="+reply, nil).fails(400, problem.Invalid, "after")
	c.as("Uann", "POST", base+"/messages", map[string]any{"text": "x", "thread_root": reply}).fails(400, problem.Invalid, "thread_root")
	for _, query := range []string{"before=" + reply, "after=" + reply} {
		c.as("Uann", "GET", base+"/messages?"+query, nil).fails(400, problem.Invalid, query[:len(query)-len(reply)-1])
	}
}

func TestReads_MarkAndCount(t *testing.T) {
	c := newCell(t)
	ch := c.channel("general", false)
	base := "/api/v1/channels/" + string(ch.ID)
	c.as("Uann", "POST", base+"/members", chat.MembersRequest{UserIDs: []topology.UserID{"Ubob"}}).into(200, &chat.MembershipResponse{})
	first, second := c.post(ch.ID, "one"), c.post(ch.ID, "two @bob")
	var u chat.UnreadResponse
	c.as("Ubob", "GET", "/api/v1/unread", nil).into(200, &u)
	if len(u.Channels) != 1 || u.Channels[0].UnreadCount != 2 || u.Channels[0].LastReadMessageID != nil {
		t.Errorf("unread %+v", u)
	}
	mark := func(id topology.MessageID) (s chat.ReadState) {
		t.Helper()
		c.as("Ubob", "POST", base+"/mark_read", chat.MarkReadRequest{LastReadMessageID: id}).into(200, &s)
		return s
	}
	if s := mark(first.MessageID); s.UnreadCount != 1 || *s.LastReadMessageID != first.MessageID {
		t.Errorf("after one: %+v", s)
	}
	if s := mark(second.MessageID); s.UnreadCount != 0 {
		t.Errorf("after two: %+v", s)
	}
	if s := mark(first.MessageID); s.UnreadCount != 0 || *s.LastReadMessageID != second.MessageID {
		t.Errorf("a mark went back: %+v", s)
	}
	c.as("Ubob", "POST", base+"/mark_read", chat.MarkReadRequest{LastReadMessageID: "x"}).fails(400, problem.Invalid, "last_read_message_id")
	c.as("Ubob", "POST", base+"/mark_read", "{}").fails(400, problem.Invalid, "last_read_message_id")
	c.as("Ucid", "POST", base+"/mark_read", chat.MarkReadRequest{LastReadMessageID: first.MessageID}).fails(403, problem.Denied, "")
	c.as("", "POST", base+"/mark_read", chat.MarkReadRequest{LastReadMessageID: first.MessageID}).fails(403, problem.Denied, "")
	c.as("Ucid", "GET", "/api/v1/unread", nil).into(200, &u)
	if u.Channels == nil || len(u.Channels) != 0 {
		t.Errorf("unread of a user without channels: %+v", u)
	}
}

func TestChannels_CreateListGet(t *testing.T) {
	c := newCell(t)
	ch := c.channel("b-ück.1_#+", false)
	if !ch.IsMember || ch.MemberCount != 1 || ch.CreatedBy != "Uann" || ch.CreatedTS == 0 || ch.Private {
		t.Errorf("created %+v", ch)
	}
	c.channel("a", true)
	c.channel("c", false)
	list := func(user string, limit int) (names []string) {
		t.Helper()
		after := ""
		for {
			var p chat.ChannelPage
			c.as(user, "GET", fmt.Sprintf("/api/v1/channels?limit=%d&after=%s", limit, url.QueryEscape(after)), nil).into(200, &p)
			if p.Channels == nil || len(p.Channels) > limit {
				t.Fatalf("page %+v", p)
			}
			for _, row := range p.Channels {
				names = append(names, row.Name)
			}
			if after = p.Next; after == "" {
				return names
			}
		}
	}
	for user, w := range map[string][]string{
		"Uann": {"a", ch.Name, "c"}, "Ubob": {ch.Name, "c"}, "Uroot": {"a", ch.Name, "c"}, "": {"a", ch.Name, "c"},
	} {
		for _, limit := range []int{1, 2, 3, 200} {
			if got := list(user, limit); !slices.Equal(got, w) {
				t.Errorf("%q sees %v, want %v", user, got, w)
			}
		}
	}
	var got chat.Channel
	c.as("Ubob", "GET", "/api/v1/channels/"+string(ch.ID), nil).into(200, &got)
	ch.IsMember = false
	if got != ch {
		t.Errorf("got %+v, want %+v", got, ch)
	}
	c.as("Ubob", "POST", "/api/v1/channels", chat.CreateChannelRequest{Name: "c"}).fails(409, problem.Conflict, "")
	c.as("", "POST", "/api/v1/channels", chat.CreateChannelRequest{Name: "tool"}).fails(403, problem.Denied, "")
	long := make([]byte, 81)
	for i := range long {
		long[i] = 'x'
	}
	for _, name := range []string{"", string(long), "Upper", "with space", "tab\t", "\ufffd", "a/b"} {
		c.as("Ubob", "POST", "/api/v1/channels", chat.CreateChannelRequest{Name: name}).fails(400, problem.Invalid, "name")
	}
	topic := make([]byte, 251)
	for i := range topic {
		topic[i] = 't'
	}
	c.as("Ubob", "POST", "/api/v1/channels", chat.CreateChannelRequest{Name: "d", Topic: string(topic)}).fails(400, problem.Invalid, "topic")
}

func TestMembers_JoinLeaveAddRemove(t *testing.T) {
	c := newCell(t)
	ch := c.channel("general", false)
	base := "/api/v1/channels/" + string(ch.ID)
	rev := func(user, method, path string, body any) topology.Rev {
		t.Helper()
		var m chat.MembershipResponse
		c.as(user, method, base+path, body).into(200, &m)
		return m.Rev
	}
	two := chat.MembersRequest{UserIDs: []topology.UserID{"Ucid", "Ubob"}}
	for i, step := range []struct {
		user, method, path string
		body               any
		rev                topology.Rev
	}{
		{"Ubob", "POST", "/join", nil, 2},
		{"Ubob", "POST", "/join", "{}", 0},
		{"Ubob", "POST", "/members", two, 3},
		{"Ucid", "POST", "/leave", nil, 4},
		{"Ucid", "POST", "/leave", nil, 0},
		{"Ubob", "DELETE", "/members/Uann", nil, 5},
		{"Ubob", "DELETE", "/members/Ubob", nil, 6},
		{"Uroot", "POST", "/members", two, 7},
		{"", "DELETE", "/members/Ucid", nil, 8},
	} {
		if got := rev(step.user, step.method, step.path, step.body); got != step.rev {
			t.Errorf("step %d: rev %d, want %d", i, got, step.rev)
		}
	}
	var p chat.MemberPage
	c.as("Uann", "GET", base+"/members", nil).into(200, &p)
	if !slices.Equal(p.UserIDs, []topology.UserID{"Ubob"}) || p.Next != "" {
		t.Errorf("members %+v", p)
	}
	rev("Uroot", "POST", "/members", chat.MembersRequest{UserIDs: []topology.UserID{"Uann", "Ucid"}})
	var all []topology.UserID
	for after := "?limit=1"; after != ""; {
		var p chat.MemberPage
		c.as("Uann", "GET", base+"/members"+after, nil).into(200, &p)
		all = append(all, p.UserIDs...)
		if after = ""; p.Next != "" {
			after = "?limit=1&after=" + p.Next
		}
	}
	if !slices.Equal(all, []topology.UserID{"Uann", "Ubob", "Ucid"}) {
		t.Errorf("paged %v", all)
	}
	rev("Ucid", "POST", "/leave", nil)
	c.as("Ucid", "POST", base+"/members", two).fails(403, problem.Denied, "")
	c.as("Ucid", "DELETE", base+"/members/Ubob", nil).fails(403, problem.Denied, "")
	c.as("Ucid", "POST", base+"/messages", chat.PostRequest{Text: "x"}).fails(403, problem.Denied, "")
	c.as("", "POST", base+"/join", nil).fails(403, problem.Denied, "")
	c.as("", "POST", base+"/leave", nil).fails(403, problem.Denied, "")
	c.as("Uann", "POST", base+"/members", chat.MembersRequest{UserIDs: []topology.UserID{"Unobody"}}).fails(400, problem.Invalid, "user_ids")
	c.as("Uann", "POST", base+"/members", chat.MembersRequest{UserIDs: []topology.UserID{}}).fails(400, problem.Invalid, "user_ids")
	c.as("Uann", "POST", base+"/members", chat.MembersRequest{UserIDs: make([]topology.UserID, chat.BulkMax+1)}).fails(400, problem.Invalid, "user_ids")
}

func TestUsers_MeAndList(t *testing.T) {
	c := newCell(t)
	var u chat.User
	c.as("Uann", "GET", "/api/v1/users/me", nil).into(200, &u)
	if want := (chat.User{ID: "Uann", WorkspaceID: "W1", Name: "ann", DisplayName: "Ann"}); u != want {
		t.Errorf("me %+v", u)
	}
	c.as("", "GET", "/api/v1/users/me", nil).fails(404, problem.NotFound, "")
	var all []topology.UserID
	for after := ""; ; {
		var p chat.UserPage
		c.as("Ubob", "GET", "/api/v1/users?limit=3&after="+after, nil).into(200, &p)
		for _, u := range p.Users {
			all = append(all, u.ID)
		}
		if after = p.Next; after == "" {
			break
		}
	}
	if !slices.Equal(all, []topology.UserID{"Uann", "Ubob", "Ucid", "Uroot"}) {
		t.Errorf("users %v", all)
	}
}

// A private channel does not exist for those who are not in it: every route says
// of it what it says of one that does not exist.
func TestPrivateChannel_DoesNotExistForOutsiders(t *testing.T) {
	c := newCell(t)
	ch := c.channel("secret", true)
	m := c.post(ch.ID, "psst")
	var reply chat.Posted
	c.as("Uann", "POST", "/api/v1/channels/"+string(ch.ID)+"/messages", chat.PostRequest{Text: "r", ThreadRoot: &m.MessageID}).into(201, &reply)
	routes := func(id topology.ChannelID, user string) (out []answered) {
		base := "/api/v1/channels/" + string(id)
		for _, r := range []struct {
			method, path string
			body         any
		}{
			{"GET", "", nil},
			{"GET", "/messages", nil},
			{"GET", "/messages?before=" + string(m.MessageID), nil},
			{"GET", "/messages?after=garbage", nil},
			{"GET", "/messages/" + string(m.MessageID), nil},
			{"GET", "/messages/" + string(m.MessageID) + "/replies", nil},
			{"GET", "/messages/" + string(m.MessageID) + "/replies?after=" + string(reply.MessageID), nil},
			{"POST", "/messages", chat.PostRequest{Text: "x"}},
			{"POST", "/messages", chat.PostRequest{Text: "x", ThreadRoot: &m.MessageID}},
			{"POST", "/mark_read", chat.MarkReadRequest{LastReadMessageID: m.MessageID}},
			{"POST", "/join", nil},
			{"POST", "/leave", nil},
			{"GET", "/members", nil},
			{"POST", "/members", chat.MembersRequest{UserIDs: []topology.UserID{"Ubob"}}},
			{"DELETE", "/members/Uann", nil},
			{"DELETE", "/members/Ubob", nil},
		} {
			out = append(out, c.as(user, r.method, base+r.path, r.body))
		}
		return out
	}
	none := routes("Cnone", "Ubob")
	for i, a := range routes(ch.ID, "Ubob") {
		a.fails(404, problem.NotFound, "")
		if string(a.body) != string(none[i].body) {
			t.Errorf("%s: %s, but without a channel %s", a.what, a.body, none[i].body)
		}
	}
	var page chat.ChannelPage
	c.as("Ubob", "GET", "/api/v1/channels", nil).into(200, &page)
	if len(page.Channels) != 0 {
		t.Errorf("an outsider lists %+v", page)
	}
	// Who is taken out is outside at once.
	c.as("Uann", "POST", "/api/v1/channels/"+string(ch.ID)+"/members", chat.MembersRequest{UserIDs: []topology.UserID{"Ubob"}}).into(200, &chat.MembershipResponse{})
	c.as("Ubob", "GET", "/api/v1/channels/"+string(ch.ID)+"/messages", nil).into(200, &chat.MessagePage{})
	c.as("Uann", "DELETE", "/api/v1/channels/"+string(ch.ID)+"/members/Ubob", nil).into(200, &chat.MembershipResponse{})
	for _, a := range routes(ch.ID, "Ubob") {
		a.fails(404, problem.NotFound, "")
	}
	for _, a := range routes(ch.ID, "Uroot")[:7] {
		if a.status == http.StatusNotFound {
			t.Errorf("an admin gets %s: %d %s", a.what, a.status, a.body)
		}
	}
}
