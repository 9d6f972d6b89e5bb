package check_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"parley/chaos/history"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

const (
	key   = "test"
	here  = topology.WorkspaceID("W1")
	there = topology.WorkspaceID("W2")
)

// good makes a history in which every promise was kept: clients that post, read,
// lose their sockets and resume, a private channel that somebody leaves, a
// takeover, a fault, a control swarm in another cell.
type good struct {
	rnd      *rand.Rand
	at       int64
	out      []history.Record
	seal     history.Sealer
	channels []*room
	people   []*client
	ids      int
}

type room struct {
	id        topology.ChannelID
	workspace topology.WorkspaceID
	private   bool
	members   map[*client]bool
	events    []any // by rev - 1
	finals    []history.Record
	seq       topology.Seq
	token     topology.Token
	server    topology.ServerID
	cell      topology.CellID
}

type client struct {
	name    string
	user    topology.UserID
	home    topology.WorkspaceID
	role    string
	op      uint64
	socket  uint64
	online  bool
	cursors map[topology.ChannelID]topology.Rev
	mark    map[topology.ChannelID]topology.MessageID
}

func newGood(seed uint64) *good {
	g := &good{rnd: rand.New(rand.NewPCG(seed, 7)), at: 1_000_000_000, seal: history.NewSealer(key)}
	for i := range 5 {
		g.people = append(g.people, &client{name: fmt.Sprintf("p%d", i), user: topology.UserID(fmt.Sprintf("U%d", i)), home: here, role: history.RoleSwarm})
	}
	g.people = append(g.people, &client{name: "apart", user: "U9", home: there, role: history.RoleControl})
	for i, id := range []topology.ChannelID{"C1", "C2", "P1", "X1"} {
		r := &room{id: id, workspace: here, private: id == "P1", members: map[*client]bool{}, token: 1, server: "cs-1", cell: "eu-1"}
		if i == 3 {
			r.workspace, r.cell = there, "us-1"
		}
		g.channels = append(g.channels, r)
		for n, c := range g.people {
			if c.home == r.workspace && (!r.private || n < 4) {
				r.members[c] = true
			}
		}
	}
	return g
}

func (g *good) add(r history.Record) {
	g.at += 100 + g.rnd.Int64N(900)
	r.AtUS = g.at
	g.out = append(g.out, r)
}

func (g *good) frame(c *client, event any) {
	b, err := json.Marshal(event)
	if err != nil {
		panic(err) // a test's own types
	}
	g.add(history.Record{Kind: history.Frame, Client: c.name, Socket: c.socket, Raw: b})
}

func (g *good) rooms(c *client) (out []*room) {
	for _, r := range g.channels {
		if r.members[c] {
			out = append(out, r)
		}
	}
	return out
}

func (g *good) connect(c *client) {
	c.socket++
	c.online = true
	again := c.cursors != nil
	g.add(history.Record{Kind: history.Open, Client: c.name, Socket: c.socket, Edge: "e", Resumed: again})
	hello := chat.Hello{Type: chat.TypeHello, URev: 1}
	for _, r := range g.rooms(c) {
		hello.Channels = append(hello.Channels, chat.HelloChannel{ID: r.id, Rev: topology.Rev(len(r.events))})
	}
	if !again {
		c.cursors, c.mark = map[topology.ChannelID]topology.Rev{}, map[topology.ChannelID]topology.MessageID{}
		for _, h := range hello.Channels {
			c.cursors[h.ID] = h.Rev
		}
		g.frame(c, hello)
		return
	}
	cursors := maps.Clone(c.cursors)
	g.add(history.Record{Kind: history.Resume, Client: c.name, Socket: c.socket, Cursors: cursors})
	g.frame(c, hello)
	for _, r := range g.rooms(c) {
		for int(c.cursors[r.id]) < len(r.events) {
			g.frame(c, r.events[c.cursors[r.id]])
			c.cursors[r.id]++
		}
		g.frame(c, chat.ResumedEvent{Type: chat.TypeResumed, ChannelID: r.id, Rev: c.cursors[r.id]})
	}
}

func (g *good) cut(c *client) {
	c.online = false
	g.add(history.Record{Kind: history.Close, Client: c.name, Socket: c.socket, Why: "broke"})
}

// tell gives a channel's newest event to its members that are there.
func (g *good) tell(r *room, event any, gone *client) {
	r.events = append(r.events, event)
	for _, c := range g.people {
		if (r.members[c] || c == gone) && c.online {
			g.frame(c, event)
			c.cursors[r.id] = topology.Rev(len(r.events))
		}
	}
}

// post is a post with its outcome. Without an outcome nobody on record posted it.
func (g *good) post(c *client, r *room, outcome history.Kind) {
	g.ids++
	ck := fmt.Sprintf("k%d", g.ids)
	text := fmt.Sprintf("text %d", g.ids)
	if g.ids%2 == 0 {
		text = g.seal.Seal(text, history.Origin{Workspace: r.workspace, Channel: r.id, ClientMsgID: ck})
	}
	op := history.Record{Client: c.name, Do: history.DoPost, Channel: r.id, ClientMsgID: ck}
	if outcome != "" {
		c.op++
		op.Op = c.op
		begin := op
		begin.Kind, begin.Text, begin.Workspace, begin.User = history.Invoke, text, c.home, c.user
		g.add(begin)
	}
	if outcome == history.Fail || outcome == history.Unknown && g.rnd.IntN(2) == 0 {
		op.Kind = outcome
		g.add(op)
		return
	}
	r.seq++
	m := chat.Message{
		MessageID: topology.MessageID(fmt.Sprintf("M%06d", g.ids)), ChannelID: r.id, Seq: r.seq, UserID: c.user, Text: text, ClientMsgID: ck,
	}
	rev := topology.Rev(len(r.events) + 1)
	g.add(history.Record{
		Kind: history.Append, Workspace: r.workspace, Cell: r.cell, Channel: r.id, Rev: rev, Token: r.token, By: r.server, MessageID: m.MessageID,
	})
	r.finals = append(r.finals, history.Record{
		Kind: history.Final, Workspace: r.workspace, Channel: r.id, MessageID: m.MessageID, Seq: m.Seq, User: c.user, Text: text, ClientMsgID: ck,
	})
	g.tell(r, chat.MessageEvent{Type: chat.TypeMessage, ChannelID: r.id, Rev: rev, Message: m}, nil)
	if outcome != "" {
		op.Kind, op.MessageID, op.Seq, op.Rev = outcome, m.MessageID, m.Seq, rev
		g.add(op)
	}
}

func (g *good) markRead(c *client, r *room) {
	if len(r.finals) == 0 {
		return
	}
	id := r.finals[len(r.finals)-1].MessageID
	c.op++
	op := history.Record{Client: c.name, Op: c.op, Do: history.DoMarkRead, Channel: r.id, MessageID: id}
	begin := op
	begin.Kind = history.Invoke
	g.add(begin)
	op.Kind = history.OK
	g.add(op)
	c.mark[r.id] = id
	g.frame(c, map[string]any{"type": chat.TypeReadState, "channel_id": r.id, "last_read_message_id": id})
}

// talk is n things that people do.
func (g *good) talk(n int) {
	for range n {
		c := g.people[g.rnd.IntN(len(g.people))]
		rooms := g.rooms(c)
		r := rooms[g.rnd.IntN(len(rooms))]
		switch what := g.rnd.IntN(20); {
		case what == 0 && c.role == history.RoleSwarm && c.online:
			g.cut(c)
		case !c.online:
			g.connect(c)
		case what == 1 && c.role == history.RoleSwarm:
			g.post(c, r, history.Unknown)
		case what == 2 && c.role == history.RoleSwarm:
			g.post(c, r, history.Fail)
		case what == 3:
			g.post(c, r, "")
		case what == 4:
			g.markRead(c, r)
		default:
			g.post(c, r, history.OK)
		}
	}
}

// leave takes the last member out of the private channel.
func (g *good) leave() {
	r, who := g.channels[2], g.people[3]
	if !who.online {
		g.connect(who)
	}
	delete(r.members, who)
	lost := chat.ChannelEvent{Type: chat.TypeChannel, Event: chat.ChannelLost, ChannelID: r.id, URev: 2}
	first := g.rnd.IntN(2) == 0 // the user's list and the channel are two streams
	if first {
		g.frame(who, lost)
	}
	g.tell(r, chat.ChannelEvent{
		Type: chat.TypeChannel, Event: chat.MemberLeft, ChannelID: r.id, Rev: topology.Rev(len(r.events) + 1), UserIDs: []topology.UserID{who.user},
	}, who)
	if !first {
		g.frame(who, lost)
	}
	delete(who.cursors, r.id)
}

// make is the whole history.
func (g *good) make() []history.Record {
	for _, c := range g.people {
		g.add(history.Record{Kind: history.Client, Client: c.name, Workspace: c.home, User: c.user, Role: c.role})
		g.connect(c)
	}
	g.add(history.Record{Kind: history.Placed, Workspace: here, Cell: "eu-1", Epoch: 1})
	g.add(history.Record{Kind: history.Placed, Workspace: there, Cell: "us-1", Epoch: 1})
	g.talk(60)
	g.leave()
	g.add(history.Record{Kind: history.Fault, Name: "f", State: history.Begin})
	g.talk(60)
	for _, r := range g.channels {
		r.token, r.server = 2, "cs-2"
	}
	g.talk(60)
	g.add(history.Record{Kind: history.Fault, Name: "f", State: history.Ended})
	for _, c := range g.people {
		if !c.online {
			g.connect(c)
		}
	}
	g.add(history.Record{Kind: history.Healed})
	for _, r := range g.channels {
		for _, c := range g.people {
			if r.members[c] {
				g.post(c, r, history.OK)
			}
		}
	}
	g.at += 20_000_000
	g.add(history.Record{Kind: history.End})
	for _, c := range g.people {
		g.cut(c)
	}
	g.conclude()
	return g.out
}

func (g *good) conclude() {
	for _, r := range g.channels {
		for _, f := range r.finals {
			g.add(f)
		}
		head := history.Record{Kind: history.FinalHead, Workspace: r.workspace, Channel: r.id, Rev: topology.Rev(len(r.events)), Seq: r.seq, Private: r.private}
		for c := range r.members {
			head.Members = append(head.Members, c.user)
		}
		slices.Sort(head.Members)
		g.add(head)
	}
	for _, c := range g.people {
		for ch, id := range c.mark {
			g.add(history.Record{Kind: history.FinalMark, Workspace: c.home, User: c.user, Channel: ch, MessageID: id})
		}
	}
}

func write(t *testing.T, rs []history.Record) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "history.jsonl")
	rec, err := history.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rs {
		rec.Add(r)
	}
	if err := rec.Close(); err != nil {
		t.Fatal(err)
	}
	return file
}
