package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"parley/cell/api"
	"parley/cell/channel"
	"parley/cell/directory"
	"parley/cell/finder"
	"parley/cell/pebbledb"
	"parley/cell/roster"
	"parley/cell/router"
	"parley/cell/search"
	"parley/cell/search/blevedb"
	"parley/cell/search/rebuild"
	"parley/cell/unread"
	"parley/cell/worker"
	"parley/internal/pki"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// cell is a cell's API over its real parts, reached as an edge reaches it.
type cell struct {
	t       *testing.T
	rows    *directory.Directory
	url     string
	edge    *http.Client
	control *http.Client
	epoch   string
	index   *index
}

// index is the cell's search index, which can be away.
type index struct {
	*blevedb.DB
	t    *testing.T
	away atomic.Bool
}

func (i *index) cut() (heal func()) {
	i.away.Store(true)
	return func() { i.away.Store(false) }
}

// forget loses all of a place.
func (i *index) forget(p topology.Place) {
	i.t.Helper()
	if _, err := i.Sweep(i.t.Context(), p, time.Now().Add(time.Minute), 1_000_000); err != nil {
		i.t.Fatal(err)
	}
}

// Find hangs while the index is away, and Put fails.
func (i *index) Find(ctx context.Context, q search.Query) ([]search.Hit, error) {
	if i.away.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return i.DB.Find(ctx, q)
}

func (i *index) Put(ctx context.Context, docs []search.Doc) error {
	if i.away.Load() {
		return problem.New(problem.Unavailable, "away")
	}
	return i.DB.Put(ctx, docs)
}

var place = topology.Place{Workspace: "W1", Generation: 1}

// newCell serves workspace W1 at epoch 3, with ann, bob, cid and an admin, root.
func newCell(t *testing.T) *cell {
	t.Helper()
	c := &cell{t: t, epoch: "3"}
	log := slog.New(slog.DiscardHandler)
	db, err := pebbledb.Open(pebbledb.Config{Dir: filepath.Join(t.TempDir(), "store")})
	c.check(err)
	t.Cleanup(func() { c.check(db.Close()) })
	c.rows, err = directory.Open(t.Context(), filepath.Join(t.TempDir(), "directory.db"), time.Now, log)
	c.check(err)
	t.Cleanup(func() { c.check(c.rows.Close()) })
	bus := router.NewLocal(router.LocalConfig{})
	servers := channel.NewCluster(channel.ClusterConfig{Cell: "eu-1"})
	cached := directory.NewCache(c.rows, directory.CacheConfig{TTL: time.Millisecond})
	cfg := channel.Default()
	cfg.ID, cfg.Cell = "eu-1-cs-1", "eu-1"
	cfg.OwnershipEvery, cfg.CheckTTL = 20*time.Millisecond, 0
	s, err := channel.New(cfg, channel.Deps{
		Log: db.Log(), History: db.History(), Events: db.Events(), Bus: bus, Directory: directory.ForChannels(c.rows), Peers: servers, Logger: log,
	})
	c.check(err)
	c.run(s.Run)
	found, err := blevedb.Open(blevedb.Config{Dir: filepath.Join(t.TempDir(), "search")})
	c.check(err)
	t.Cleanup(func() { c.check(found.Close()) })
	c.index = &index{DB: found, t: t}
	indexer, err := worker.NewSearch(db.Events(), worker.FromLog(db.Log()), cached, c.index, log)
	c.check(err)
	c.run(indexer.Run)
	c.serve(api.Handler(api.Deps{
		Cell: "eu-1", Directory: cached, Rooms: cached, Roster: roster.New(roster.Config{}, cached, servers, bus, time.Now, log),
		Channels: servers, Unread: unread.New(cached, servers, db.ReadState(), bus), Marks: db.ReadState(), Now: time.Now, Log: log,
		Search:  finder.New(finder.Config{}, finder.Deps{Index: c.index, Directory: cached, Messages: servers, Now: time.Now, Log: log}),
		Rebuild: rebuild.New(cached, servers, c.index, time.Now),
	}))
	c.put(directory.Workspace{ID: "W1", Epoch: 3, Generation: 1, State: directory.StateOpen})
	_, err = c.rows.PutUsers(t.Context(), place, []directory.User{
		{ID: "Uann", Name: "ann", DisplayName: "Ann"}, {ID: "Ubob", Name: "bob"}, {ID: "Ucid", Name: "cid"}, {ID: "Uroot", Name: "root", Admin: true},
	})
	c.check(err)
	return c
}

func (c *cell) check(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cell) put(w directory.Workspace) {
	c.t.Helper()
	c.check(c.rows.PutWorkspace(c.t.Context(), w))
}

// run starts a part and ends it with the test.
func (c *cell) run(part func(context.Context, func()) error) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- part(ctx, func() { close(ready) }) }()
	c.t.Cleanup(func() {
		cancel()
		c.check(<-ended)
	})
	select {
	case <-ready:
	case <-time.After(patience):
		c.t.Fatal("a part does not get ready")
	}
}

// serve offers the handler over TLS to peers of our own authority.
func (c *cell) serve(h http.Handler) {
	c.t.Helper()
	authority, err := pki.OpenAuthority(filepath.Join(c.t.TempDir(), "ca"))
	c.check(err)
	issue := func(r pki.Role) *pki.Bundle {
		b, err := authority.Issue(pki.Identity{Region: "eu", Cell: "eu-1", Role: r, Name: "one"}, nil)
		c.check(err)
		return b
	}
	srv := httptest.NewUnstartedServer(h)
	srv.TLS = issue(pki.RoleGateway).Server(pki.RoleEdge, pki.RoleControl)
	srv.StartTLS()
	c.t.Cleanup(srv.Close)
	client := func(r pki.Role) *http.Client {
		tr := &http.Transport{TLSClientConfig: issue(r).Client(pki.RoleGateway)}
		c.t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr, Timeout: patience}
	}
	c.url, c.edge, c.control = srv.URL, client(pki.RoleEdge), client(pki.RoleControl)
}

// answered is an answer, read to its end.
type answered struct {
	t      *testing.T
	what   string
	status int
	header http.Header
	body   []byte
}

// as asks like the edge does for a user; "Uroot" and "" have an admin's token.
func (c *cell) as(user, method, path string, body any, headers ...string) answered {
	c.t.Helper()
	role := "member"
	if user == "Uroot" || user == "" {
		role = "admin"
	}
	return c.ask(c.edge, method, path, body, append([]string{
		api.HeaderWorkspace, "W1", api.HeaderUser, user, api.HeaderRole, role, api.HeaderEpoch, c.epoch,
	}, headers...)...)
}

func (c *cell) ask(client *http.Client, method, path string, body any, headers ...string) answered {
	c.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	default:
		j, err := json.Marshal(b)
		c.check(err)
		r = bytes.NewReader(j)
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, r)
	c.check(err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := client.Do(req)
	c.check(err)
	defer func() { _ = resp.Body.Close() }() // it is read to its end
	b, err := io.ReadAll(resp.Body)
	c.check(err)
	return answered{c.t, method + " " + path, resp.StatusCode, resp.Header, b}
}

// into wants a status and decodes the body.
func (a answered) into(status int, v any) answered {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("%s: %d %s, want %d", a.what, a.status, a.body, status)
	}
	if got := a.header.Get("Content-Type"); got != "application/json" {
		a.t.Errorf("%s: Content-Type %q", a.what, got)
	}
	if strings.Contains(string(a.body), "$schema") {
		a.t.Errorf("%s: %s has a $schema", a.what, a.body)
	}
	d := json.NewDecoder(bytes.NewReader(a.body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		a.t.Fatalf("%s: %s: %v", a.what, a.body, err)
	}
	return a
}

// fails wants a problem document.
func (a answered) fails(status int, kind problem.Kind, field string) problem.Document {
	a.t.Helper()
	var d problem.Document
	if err := json.Unmarshal(a.body, &d); err != nil {
		a.t.Fatalf("%s: %d %s is no problem document: %v", a.what, a.status, a.body, err)
	}
	if a.status != status || d.Status != status || d.Kind != kind || d.Field != field {
		a.t.Errorf("%s: %d %s; want %d %s, field %q", a.what, a.status, a.body, status, kind, field)
	}
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		a.t.Errorf("%s: Content-Type %q", a.what, got)
	}
	if d.Detail == "" || d.Type != "urn:parley:problem:"+string(kind) || d.Title == "" {
		a.t.Errorf("%s: %s lacks something", a.what, a.body)
	}
	return d
}

// channel makes a channel of ann's.
func (c *cell) channel(name string, private bool) chat.Channel {
	c.t.Helper()
	var ch chat.Channel
	c.as("Uann", "POST", "/api/v1/channels", chat.CreateChannelRequest{Name: name, Private: private}).into(201, &ch)
	return ch
}

// post posts as ann.
func (c *cell) post(ch topology.ChannelID, text string) chat.Posted {
	c.t.Helper()
	var p chat.Posted
	c.as("Uann", "POST", "/api/v1/channels/"+string(ch)+"/messages", chat.PostRequest{Text: text}).into(201, &p)
	return p
}
