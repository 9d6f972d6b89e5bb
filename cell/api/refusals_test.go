package api_test

import (
	"net/http"
	"strings"
	"testing"

	"parley/cell/api"
	"parley/cell/change"
	"parley/cell/directory"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

func TestPost_Idempotency(t *testing.T) {
	c := newCell(t)
	messages := "/api/v1/channels/" + string(c.channel("general", false).ID) + "/messages"
	post := func(body string, key ...string) chat.Posted {
		t.Helper()
		var p chat.Posted
		c.as("Uann", "POST", messages, body, key...).into(201, &p)
		return p
	}
	first := post(`{"text":"x","client_msg_id":"k","thread_root":null}`)
	for _, again := range []chat.Posted{
		post(`{"text":"x","client_msg_id":"k"}`), post(`{"text":"x"}`, "Idempotency-Key", "k"), post(`{"text":"x","client_msg_id":"k"}`, "Idempotency-Key", "k"),
	} {
		if again != first {
			t.Errorf("%+v, then %+v", first, again)
		}
	}
	c.as("Uann", "POST", messages, `{"text":"y"}`, "Idempotency-Key", "k").fails(409, problem.Conflict, "client_msg_id")
	c.as("Uann", "POST", messages, `{"text":"x","client_msg_id":"k"}`, "Idempotency-Key", "other").fails(400, problem.Invalid, "client_msg_id")
	c.as("Uann", "POST", messages, `{"text":"x"}`, "Idempotency-Key", strings.Repeat("k", 129)).fails(400, problem.Invalid, "client_msg_id")
	if other := post(`{"text":"x"}`); other.MessageID == first.MessageID {
		t.Error("without a key, a post is a new one")
	}
}

func TestPost_Refuses(t *testing.T) {
	c := newCell(t)
	messages := "/api/v1/channels/" + string(c.channel("general", false).ID) + "/messages"
	for name, r := range map[string]struct {
		body   string
		status int
		kind   problem.Kind
		field  string
	}{
		"no body":          {"", 400, problem.Invalid, ""},
		"no JSON":          {"text=x", 400, problem.Invalid, ""},
		"cut JSON":         {`{"text":"x"`, 400, problem.Invalid, ""},
		"an array":         {`[]`, 400, problem.Invalid, ""},
		"null":             {`null`, 400, problem.Invalid, ""},
		"no text":          {`{}`, 400, problem.Invalid, "text"},
		"empty text":       {`{"text":""}`, 400, problem.Invalid, "text"},
		"text is a number": {`{"text":1}`, 400, problem.Invalid, "text"},
		"text is null":     {`{"text":null}`, 400, problem.Invalid, "text"},
		"too long":         {`{"text":"` + strings.Repeat("é", chat.TextRunesMax+1) + `"}`, 400, problem.Invalid, "text"},
		"invalid UTF-8":    {"{\"text\":\"a\xff\"}", 400, problem.Invalid, ""},
		"half a surrogate": {`{"text":"a\ud800"}`, 400, problem.Invalid, ""},
		"the other half":   {`{"text":"\udc00\ud800 "}`, 400, problem.Invalid, ""},
		"unknown root":     {`{"text":"x","thread_root":"01H"}`, 400, problem.Invalid, "thread_root"},
		"control in key":   {`{"text":"x","client_msg_id":"a\u001fb"}`, 400, problem.Invalid, "client_msg_id"},
		"unknown field":    {`{"text":"x","txt":"y"}`, 400, problem.Invalid, "txt"},
		"too large":        {`{"text":"` + strings.Repeat(" ", chat.BodyBytesMax) + `"}`, 413, problem.TooLarge, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := c.as("Uann", "POST", messages, r.body)
			a.t = t
			a.fails(r.status, r.kind, r.field)
		})
	}
	for _, ok := range []string{
		`{"text":"` + strings.Repeat("😀", chat.TextRunesMax) + `"}`,
		`{"text":"` + strings.Repeat(`\ud83d\ude00`, chat.TextRunesMax) + `"}`,
		`{"text":"a \\ud800 and \"\\\\\" \ufffd"}`,
	} {
		c.as("Uann", "POST", messages, ok, "Content-Type", "application/x-www-form-urlencoded").into(201, &chat.Posted{})
	}
	var p chat.MessagePage
	c.as("Uann", "GET", messages+"?limit=1", nil).into(200, &p)
	if want := `a \ud800 and "\\" ` + "\ufffd"; p.Messages[0].Text != want {
		t.Errorf("%q came back as %q", want, p.Messages[0].Text)
	}
}

func TestQueries_Refuse(t *testing.T) {
	c := newCell(t)
	ch, other := c.channel("general", false), c.channel("other", false)
	m, theirs := c.post(ch.ID, "x"), c.post(other.ID, "x")
	base := "/api/v1/channels/" + string(ch.ID)
	for path, field := range map[string]string{
		"/messages?limit=0": "limit", "/messages?limit=201": "limit", "/messages?limit=x": "limit", "/messages?limit=-1": "limit",
		"/members?limit=1001": "limit", "/messages/" + string(m.MessageID) + "/replies?limit=201": "limit",
		"/messages?before=1&after=2": "after", "/messages?before=" + string(m.MessageID) + "&after=0": "after",
		"/messages?before=x": "before", "/messages?after=x": "after", "/messages?before=0": "before",
		"/messages?before=" + string(theirs.MessageID): "before", "/messages?after=" + string(theirs.MessageID): "after",
	} {
		c.as("Uann", "GET", base+path, nil).fails(400, problem.Invalid, field)
	}
	for _, path := range []string{"/api/v1/channels?limit=201", "/api/v1/users?limit=1001", "/api/v1/users?limit=0"} {
		c.as("Uann", "GET", path, nil).fails(400, problem.Invalid, "limit")
	}
	c.as("Uann", "GET", base+"/messages/"+string(theirs.MessageID), nil).fails(404, problem.NotFound, "")
	c.as("Uann", "GET", base+"/messages/%00%ff", nil).fails(404, problem.NotFound, "")
	c.as("Uann", "GET", "/api/v1/channels/%00%ff", nil).fails(404, problem.NotFound, "")
}

// TestCursors_FromTheFuture: a cursor of what is not there yet is refused with what
// is wrong about it, not taken for the end; one that names what came since works.
func TestCursors_FromTheFuture(t *testing.T) {
	c := newCell(t)
	ch := c.channel("general", false)
	base := "/api/v1/channels/" + string(ch.ID)
	m := c.post(ch.ID, "first")
	at, err := change.ParseID(m.MessageID)
	if err != nil {
		t.Fatal(err)
	}
	later := func(seq topology.Seq, rev topology.Rev) string {
		return string(change.NewID(at.MS, at.Number, seq, rev))
	}
	for _, field := range []string{"before", "after"} {
		for _, seq := range []topology.Seq{2, 1 << 30} {
			d := c.as("Uann", "GET", base+"/messages?"+field+"="+later(seq, 0), nil).fails(400, problem.Invalid, field)
			if !strings.Contains(d.Detail, "does not have yet") {
				t.Errorf("%s seq %d: %s", field, seq, d.Detail)
			}
		}
	}
	c.as("Uann", "GET", base+"/messages/"+string(m.MessageID)+"/replies?after="+later(1, 1000), nil).fails(400, problem.Invalid, "after")
	next := c.post(ch.ID, "second")
	for field, want := range map[string]string{"before": "first", "after": ""} {
		var p chat.MessagePage
		c.as("Uann", "GET", base+"/messages?"+field+"="+string(next.MessageID), nil).into(200, &p)
		if got := len(p.Messages); (want == "") != (got == 0) || p.HasMore || (got > 0 && p.Messages[0].Text != want) {
			t.Errorf("%s the newest: %+v", field, p)
		}
	}
}

// TestLimits_FarTooHigh: a limit is never cut in silence, and never followed.
func TestLimits_FarTooHigh(t *testing.T) {
	c := newCell(t)
	ch := c.channel("general", false)
	m := c.post(ch.ID, "x")
	base := "/api/v1/channels/" + string(ch.ID)
	for _, path := range []string{
		base + "/messages", base + "/members", base + "/messages/" + string(m.MessageID) + "/replies", "/api/v1/channels", "/api/v1/users", "/api/v1/search?q=x",
	} {
		sep := "?"
		if strings.Contains(path, "?") {
			sep = "&"
		}
		for _, limit := range []string{"1000000", "9223372036854775808"} {
			c.as("Uann", "GET", path+sep+"limit="+limit, nil).fails(400, problem.Invalid, "limit")
		}
	}
}

func TestPaths_UnknownOnesAreProblems(t *testing.T) {
	c := newCell(t)
	for _, path := range []string{"/api/v1/", "/api/v1/nothing", "/api/v1/channels/C1/nothing", "/api/v1/messages", "/api/v1/users/me/too"} {
		c.as("Uann", "GET", path, nil).fails(404, problem.NotFound, "")
		c.as("Uann", "POST", path, "{}").fails(404, problem.NotFound, "")
	}
	for _, path := range []string{"/", "/nothing", "/api/v2/channels", "/internal/v1/nothing"} {
		c.ask(c.edge, "GET", path, nil).fails(404, problem.NotFound, "")
	}
	for _, r := range []struct{ method, path, allow string }{
		{"PUT", "/api/v1/channels", "GET, HEAD, POST"},
		{"DELETE", "/api/v1/channels/C1/messages", "GET, HEAD, POST"},
		{"GET", "/api/v1/channels/C1/mark_read", "POST"},
		{"PATCH", "/api/v1/users/me", "GET, HEAD"},
		{"GET", "/api/v1/channels/C1/members/U1", "DELETE"},
		{"POST", "/internal/v1/workspaces", "GET, HEAD"},
		{"DELETE", "/internal/v1/workspaces/W1", "PUT"},
	} {
		a := c.as("Uann", r.method, r.path, nil)
		a.fails(405, problem.Method, "")
		if got := a.header.Get("Allow"); got != r.allow {
			t.Errorf("%s %s: Allow %q, want %q", r.method, r.path, got, r.allow)
		}
	}
}

func TestIdentity_Refuses(t *testing.T) {
	c := newCell(t)
	path := "/api/v1/users/me"
	headers := func(ws, user, role, epoch string) []string {
		return []string{api.HeaderWorkspace, ws, api.HeaderUser, user, api.HeaderRole, role, api.HeaderEpoch, epoch}
	}
	for _, r := range []struct {
		name    string
		headers []string
		status  int
		kind    problem.Kind
		field   string
		epoch   string
	}{
		{"older epoch", headers("W1", "Uann", "member", "2"), 421, problem.Moved, "", "3"},
		{"newer epoch", headers("W1", "Uann", "member", "4"), 421, problem.Moved, "", "3"},
		{"unknown workspace", headers("W9", "Uann", "member", "3"), 421, problem.Moved, "", "0"},
		{"no workspace", headers("", "Uann", "member", "3"), 421, problem.Moved, "", "0"},
		{"epoch is no number", headers("W1", "Uann", "member", "x"), 400, problem.Invalid, api.HeaderEpoch, ""},
		{"user of nowhere", headers("W1", "Unobody", "member", "3"), 401, problem.Unauthentic, "", "3"},
		{"no user", headers("W1", "", "member", "3"), 401, problem.Unauthentic, "", "3"},
		{"no user, unknown role", headers("W1", "", "owner", "3"), 401, problem.Unauthentic, "", "3"},
	} {
		a := c.ask(c.edge, "GET", path, nil, r.headers...)
		a.what = r.name
		a.fails(r.status, r.kind, r.field)
		if got := a.header.Get(api.HeaderEpoch); got != r.epoch {
			t.Errorf("%s: epoch %q, want %q", r.name, got, r.epoch)
		}
	}
	// Only edges speak for users; only the control plane opens workspaces.
	c.ask(c.control, "GET", path, nil, headers("W1", "Uann", "member", "3")...).fails(403, problem.Denied, "")
	c.ask(c.edge, "PUT", "/internal/v1/workspaces/W2", api.WorkspaceOrder{Epoch: 1, State: "open"}).fails(403, problem.Denied, "")
	for _, s := range []directory.State{directory.StateFenced, directory.StateCopy} {
		c.put(directory.Workspace{ID: "W1", Epoch: 3, Generation: 1, State: s})
		eventually(t, "the cell looks", func() bool {
			a := c.as("Uann", "GET", path, nil)
			return a.status == http.StatusMisdirectedRequest && a.header.Get(api.HeaderEpoch) == "3"
		})
	}
	// Without a certificate, nothing is answered at all.
	tr, _ := c.edge.Transport.(*http.Transport)
	tr = tr.Clone()
	tr.TLSClientConfig.Certificates = nil
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url+path, nil)
	c.check(err)
	if resp, err := tr.RoundTrip(req); err == nil {
		_ = resp.Body.Close()
		t.Errorf("a peer without a certificate gets %d", resp.StatusCode)
	}
}

func TestInternal_Workspaces(t *testing.T) {
	c := newCell(t)
	order := func(id string, body any) answered {
		return c.ask(c.control, "PUT", "/internal/v1/workspaces/"+id, body)
	}
	w2 := api.WorkspaceOrder{Epoch: 1, Generation: 1, Slug: "two", Name: "Two", State: "open"}
	for range 2 {
		if a := order("W2", w2); a.status != http.StatusNoContent {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	if w, err := c.rows.Workspace(t.Context(), "W2"); err != nil || !w.Open() || w.Slug != "two" {
		t.Errorf("%+v, %v", w, err)
	}
	order("W1", api.WorkspaceOrder{Epoch: 2, Generation: 1, State: "open"}).fails(409, problem.Conflict, "")
	order("W3", api.WorkspaceOrder{Generation: 1, State: "open"}).fails(400, problem.Invalid, "epoch")
	order("W3", api.WorkspaceOrder{Epoch: 1, State: "fenced"}).fails(400, problem.Invalid, "state")
	order("W3", `{"epoch":1,"state":"open","colour":"red"}`).fails(400, problem.Invalid, "")
	order("W3", `nothing`).fails(400, problem.Invalid, "")
	order("W3", `{"epoch":1,"state":"open"} and more`).fails(400, problem.Invalid, "")
	c.put(directory.Workspace{ID: "W0", Epoch: 1, Generation: 1, State: directory.StateCopy})
	type route struct {
		Workspace topology.WorkspaceID `json:"workspace"`
		Epoch     topology.Epoch       `json:"epoch"`
		Cell      topology.CellID      `json:"cell"`
	}
	for _, client := range []*http.Client{c.edge, c.control} {
		var rows []route
		c.ask(client, "GET", "/internal/v1/workspaces", nil).into(200, &rows)
		if len(rows) != 2 || rows[0] != (route{"W1", 3, "eu-1"}) || rows[1] != (route{"W2", 1, "eu-1"}) {
			t.Errorf("routes %+v", rows)
		}
		c.ask(client, "GET", "/internal/v1/workspaces?limit=1&after=W1", nil).into(200, &rows)
		if len(rows) != 1 || rows[0].Workspace != "W2" {
			t.Errorf("a page: %+v", rows)
		}
		for _, limit := range []string{"0", "1001", "x", "-1"} {
			c.ask(client, "GET", "/internal/v1/workspaces?limit="+limit, nil).fails(400, problem.Invalid, "limit")
		}
	}
}
