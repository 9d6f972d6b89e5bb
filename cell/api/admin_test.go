package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	late := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

const admin = "/api/v1/admin"

func TestAdmin_RefusesMembers(t *testing.T) {
	c := newCell(t)
	for _, r := range []struct {
		method, path string
		body         any
	}{
		{"POST", "/users", chat.PutUsersRequest{Users: []chat.NewUser{{Name: "x"}}}},
		{"POST", "/channels", chat.AdminChannelRequest{Name: "x"}},
		{"GET", "/channels?name=x", nil},
		{"POST", "/channels/C1/import", chat.ImportRequest{Messages: []chat.ImportMessage{}}},
		{"POST", "/channels/C1/import/finish", nil},
	} {
		c.as("Uann", r.method, admin+r.path, r.body).fails(403, problem.Denied, "")
	}
	if us, err := c.rows.Users(t.Context(), place, "", 10); err != nil || len(us) != 4 {
		t.Errorf("%v, %v", us, err)
	}
}

func TestAdmin_Users(t *testing.T) {
	c := newCell(t)
	var first, second chat.PutUsersResponse
	in := chat.PutUsersRequest{Users: []chat.NewUser{{Name: "dan", DisplayName: "Dan", Admin: true}, {Name: "ann"}, {Name: "dan"}}}
	c.as("", "POST", admin+"/users", in).into(200, &first)
	c.as("Uroot", "POST", admin+"/users", in).into(200, &second)
	if !slices.Equal(first.Users, second.Users) || len(first.Users) != 3 || first.Users[1].ID != "Uann" || first.Users[0] != first.Users[2] {
		t.Errorf("first %+v, then %+v", first, second)
	}
	for name, us := range map[string][]chat.NewUser{
		"nobody": {}, "too many": make([]chat.NewUser, chat.BulkMax+1), "no name": {{Name: ""}}, "spaces": {{Name: " x"}},
		"long name": {{Name: strings.Repeat("é", 81)}}, "long display name": {{Name: "x", DisplayName: strings.Repeat("é", 81)}},
	} {
		a := c.as("", "POST", admin+"/users", chat.PutUsersRequest{Users: us})
		a.what = name
		a.fails(400, problem.Invalid, "users")
	}
	c.as("", "POST", admin+"/users", `{"users":[{"name":"ok"},{}]}`).fails(400, problem.Invalid, "users[1].name")
}

func TestAdmin_Channels(t *testing.T) {
	c := newCell(t)
	var ch chat.AdminChannel
	c.as("", "POST", admin+"/channels", chat.AdminChannelRequest{Name: "x", Topic: "t", Private: true, Members: []topology.UserID{"Uann", "Ubob"}}).into(201, &ch)
	if ch.MemberCount != 2 || ch.IsMember || ch.Importing || !ch.Private {
		t.Errorf("%+v", ch)
	}
	var found chat.AdminChannel
	c.as("", "GET", admin+"/channels?name=x", nil).into(200, &found)
	if found != ch {
		t.Errorf("%+v, found %+v", ch, found)
	}
	c.as("", "GET", admin+"/channels?name=y", nil).fails(404, problem.NotFound, "")
	c.as("", "GET", admin+"/channels", nil).fails(400, problem.Invalid, "name")
	ts := chat.Timestamp(1)
	for name, r := range map[string]struct {
		in    chat.AdminChannelRequest
		field string
	}{
		"bad name":          {chat.AdminChannelRequest{Name: "X"}, "name"},
		"too many members":  {chat.AdminChannelRequest{Name: "z", Members: make([]topology.UserID, chat.BulkMax+1)}, "members"},
		"unknown member":    {chat.AdminChannelRequest{Name: "z", Members: []topology.UserID{"Unobody"}}, "members"},
		"import of members": {chat.AdminChannelRequest{Name: "z", ImportDigest: "d", Members: []topology.UserID{"Uann"}}, "members"},
		"long digest":       {chat.AdminChannelRequest{Name: "z", ImportDigest: strings.Repeat("d", 129)}, "import_digest"},
		"a time, no import": {chat.AdminChannelRequest{Name: "z", CreatedTS: &ts}, "created_ts"},
	} {
		a := c.as("", "POST", admin+"/channels", r.in)
		a.what = name
		a.fails(400, problem.Invalid, r.field)
	}
	c.as("", "POST", admin+"/channels", chat.AdminChannelRequest{Name: "x"}).fails(409, problem.Conflict, "")
}

func TestAdmin_Import(t *testing.T) {
	c := newCell(t)
	ts := chat.Timestamp(1_600_000_000_000_000)
	begin := chat.AdminChannelRequest{Name: "old", ImportDigest: "abc", CreatedTS: &ts}
	var ch, again chat.AdminChannel
	c.as("", "POST", admin+"/channels", begin).into(201, &ch)
	if !ch.Importing || ch.ImportDigest != "abc" || ch.CreatedTS != ts || ch.Imported != 0 {
		t.Errorf("%+v", ch)
	}
	batch := func(from uint64, times ...int) chat.ImportRequest {
		r := chat.ImportRequest{From: from, Messages: []chat.ImportMessage{}}
		for _, at := range times {
			r.Messages = append(r.Messages, chat.ImportMessage{UserID: "Uann", TS: ts + chat.Timestamp(at), Text: fmt.Sprintf("at %d", at)})
		}
		return r
	}
	path := admin + "/channels/" + string(ch.ID) + "/import"
	var n chat.ImportResponse
	in := batch(0, 1, 2, 3)
	in.Messages[2].RootSeq = 1
	c.as("", "POST", path, in).into(200, &n)
	if n.Imported != 3 {
		t.Errorf("%+v", n)
	}
	c.as("", "POST", path, in).fails(409, problem.Conflict, "from")
	c.as("", "POST", path, batch(3, 3)).fails(400, problem.Invalid, "messages[0].ts")
	c.as("", "POST", path, batch(3, 5, 4)).fails(400, problem.Invalid, "messages[1].ts")
	c.as("", "POST", path, batch(3)).fails(400, problem.Invalid, "messages")
	c.as("", "POST", path, batch(3, make([]int, chat.ImportBatchMax+1)...)).fails(400, problem.Invalid, "messages")
	c.as("", "POST", path, `{"from":3,"messages":[{"user_id":"Uann","ts":"yesterday","text":"x"}]}`).fails(400, problem.Invalid, "messages[0].ts")
	c.as("", "POST", path, `{"from":3,"messages":[{"user_id":"Uann","text":"x"}]}`).fails(400, problem.Invalid, "messages[0].ts")
	c.as("", "POST", admin+"/channels", begin).into(201, &again)
	if again.ID != ch.ID || again.Imported != 3 {
		t.Errorf("found again as %+v", again)
	}
	other := begin
	other.ImportDigest = "another file"
	c.as("", "POST", admin+"/channels", other).fails(409, problem.Conflict, "")
	// Nobody sees it meanwhile, and nobody is in it.
	c.as("Uann", "GET", "/api/v1/channels/"+string(ch.ID), nil).fails(404, problem.NotFound, "")
	c.as("Uann", "GET", "/api/v1/channels/"+string(ch.ID)+"/messages", nil).fails(404, problem.NotFound, "")
	c.as("Uann", "POST", "/api/v1/channels/"+string(ch.ID)+"/join", nil).fails(404, problem.NotFound, "")
	c.as("Uroot", "POST", "/api/v1/channels/"+string(ch.ID)+"/join", nil).fails(409, problem.Conflict, "")
	for range 2 {
		c.as("", "POST", path+"/finish", nil).into(200, &again)
		if again.Importing || again.ID != ch.ID {
			t.Errorf("finished as %+v", again)
		}
	}
	c.as("", "POST", path, batch(3, 9)).fails(409, problem.Conflict, "")
	c.as("", "POST", admin+"/channels/Cnone/import/finish", nil).fails(404, problem.NotFound, "")
	c.as("", "POST", admin+"/channels/Cnone/import", batch(0, 1)).fails(404, problem.NotFound, "")
	c.as("Uann", "POST", "/api/v1/channels/"+string(ch.ID)+"/join", nil).into(200, &chat.MembershipResponse{})
	var p chat.MessagePage
	c.as("Uann", "GET", "/api/v1/channels/"+string(ch.ID)+"/messages", nil).into(200, &p)
	if len(p.Messages) != 2 || p.Messages[1].ReplyCount != 1 || p.Messages[0].TS != ts+2 {
		t.Errorf("imported %+v", p)
	}
	var u chat.UnreadResponse
	c.as("Uann", "GET", "/api/v1/unread", nil).into(200, &u)
	if u.Channels[0].UnreadCount != 0 {
		t.Errorf("what was imported is unread: %+v", u)
	}
	if m := c.post(ch.ID, "new"); m.Seq != 3 {
		t.Errorf("the next post is %+v", m)
	}
}

// openAPI is the part of the document that is looked at.
type openAPI struct {
	Paths      map[string]map[string]json.RawMessage `json:"paths"`
	Components struct {
		Schemas map[string]struct {
			Required   []string                   `json:"required"`
			Properties map[string]json.RawMessage `json:"properties"`
		} `json:"schemas"`
	} `json:"components"`
}

func TestOpenAPI(t *testing.T) {
	c := newCell(t)
	a := c.ask(c.edge, "GET", "/api/v1/openapi.json", nil)
	if a.status != http.StatusOK || !json.Valid(a.body) || strings.Contains(string(a.body), "$schema") {
		t.Fatalf("%d %.300s", a.status, a.body)
	}
	var doc openAPI
	c.check(json.Unmarshal(a.body, &doc))
	for _, o := range documented(t) {
		method, path, _ := strings.Cut(o, " ")
		if doc.Paths[path][strings.ToLower(method)] == nil {
			t.Errorf("docs/protocol.md names %s, the document does not", o)
		}
	}
	if doc.Paths[admin+"/users"]["post"] == nil || doc.Paths[admin+"/channels/{channel_id}/import/finish"]["post"] == nil {
		t.Error("the admin's paths are missing")
	}
	for schema, required := range map[string][]string{
		"PostRequest": {"text"}, "CreateChannelRequest": {"name"}, "MarkReadRequest": {"last_read_message_id"}, "MembersRequest": {"user_ids"},
		"PutUsersRequest": {"users"}, "NewUser": {"name"}, "AdminChannelRequest": {"name"}, "ImportRequest": {"from", "messages"},
		"ImportMessage": {"text", "ts", "user_id"}, "Posted": {"message_id", "rev", "seq", "ts"}, "MessagePage": {"has_more", "messages"},
		"Message":   {"channel_id", "client_msg_id", "last_reply_ts", "message_id", "reply_count", "seq", "text", "thread_root", "ts", "user_id"},
		"ReadState": {"channel_id", "last_read_message_id", "mention_count", "unread_count"}, "Document": {"kind", "status", "title", "type"},
	} {
		got := slices.Sorted(slices.Values(doc.Components.Schemas[schema].Required))
		if !slices.Equal(got, required) {
			t.Errorf("%s requires %v, want %v", schema, got, required)
		}
	}
	// What may be null says so; times are strings.
	for _, p := range []struct{ schema, property, want string }{
		{"Message", "thread_root", "null"},
		{"Message", "last_reply_ts", "null"},
		{"ReadState", "last_read_message_id", "null"},
		{"PostRequest", "thread_root", "null"},
		{"Message", "ts", "string"},
		{"Message", "last_reply_ts", "string"},
		{"ImportMessage", "ts", "string"},
	} {
		if got := string(doc.Components.Schemas[p.schema].Properties[p.property]); !strings.Contains(got, `"`+p.want+`"`) {
			t.Errorf("%s.%s is %s, want %s", p.schema, p.property, got, p.want)
		}
	}
}

// documented is every request of the table in docs/protocol.md, as "GET /path".
func documented(t *testing.T) (out []string) {
	t.Helper()
	b, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	table, _, _ := strings.Cut(string(b), "\n### Limits")
	quoted := regexp.MustCompile("`((?:GET|POST|DELETE|PUT)[A-Z, ]*) ([^`?]+)")
	last := ""
	for line := range strings.SplitSeq(table, "\n") {
		first, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		for _, m := range quoted.FindAllStringSubmatch(first, -1) {
			path := strings.ReplaceAll(m[2], "/{id}", "/{channel_id}")
			if rest, ok := strings.CutPrefix(path, "…"); ok {
				path = "/api/v1/channels/{channel_id}" + rest
			}
			last = path
			for method := range strings.SplitSeq(m[1], ", ") {
				out = append(out, strings.TrimSpace(method)+" "+path)
			}
		}
	}
	if len(out) < 18 || last == "" {
		t.Fatalf("only %d requests were found: %v", len(out), out)
	}
	return out
}
