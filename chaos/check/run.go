// Package check reads the histories of a run and says whether what was promised
// was kept: each check is a function of what clients saw, of how everything stood
// in the end, and of what the channel servers wrote down. A channel is a
// partition, its rev an offset, a session a consumer.
package check

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"parley/chaos/history"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// Line is a record, and where it stands: evidence names it.
type Line struct {
	history.Record
	File  string
	No    int
	Event *event // of a frame
}

func (l *Line) at() string { return fmt.Sprintf("%s:%d", l.File, l.No) }

// event is what checks need of a server event.
type event struct {
	chat.Envelope
	Event    string              `json:"event"`
	UserIDs  []topology.UserID   `json:"user_ids"`
	By       topology.UserID     `json:"by"`
	Hello    []chat.HelloChannel `json:"channels"`
	Message  *chat.Message       `json:"message"`
	LastRead *topology.MessageID `json:"last_read_message_id"`
}

// op is one operation of a client, from its invocation to its end.
type op struct {
	client *person
	begin  *Line
	end    *Line // nil: it never ended
}

func (o *op) ok() bool { return o.end != nil && o.end.Kind == history.OK }

// sure reports whether it is known that nothing was done.
func (o *op) sure() bool { return o.end != nil && o.end.Kind == history.Fail }

// person is one client and its records, in order.
type person struct {
	name      string
	role      string
	workspace topology.WorkspaceID
	user      topology.UserID
	lines     []*Line
	ops       map[uint64]*op
}

// span is a fault, from its beginning to its end, and when all was healed.
type span struct {
	name       string
	begin, end int64 // µs
}

// channel is how a channel stood in the end.
type channel struct {
	head *Line
	msgs []*Line
	byID map[topology.MessageID]*Line
}

// Run is a run's histories, put together.
type Run struct {
	people   map[string]*person
	names    []string // of people, sorted
	posts    []*op
	marks    []*op
	faults   []span
	channels map[topology.ChannelID]*channel
	final    map[markKey]*Line
	appends  []*Line
	placed   []*Line
	healed   int64 // 0 = never said
	// committed is made when it is first asked for.
	committed map[topology.MessageID]int64
	end       int64
}

type markKey struct {
	user    topology.UserID
	channel topology.ChannelID
}

// Load reads the histories of one run. A file holds a client's records in order;
// a client is in one file.
func Load(files ...string) (*Run, error) {
	r := &Run{people: map[string]*person{}, channels: map[topology.ChannelID]*channel{}, final: map[markKey]*Line{}}
	for _, f := range files {
		no := 0
		err := history.Read(f, func(rec history.Record) error {
			no++
			return r.add(&Line{Record: rec, File: f, No: no})
		})
		if err != nil {
			return nil, err
		}
	}
	r.put()
	return r, nil
}

func (r *Run) add(l *Line) error {
	switch l.Kind {
	case history.Final:
		c := r.channel(l.Channel)
		c.msgs = append(c.msgs, l)
		c.byID[l.MessageID] = l
	case history.FinalHead:
		r.channel(l.Channel).head = l
	case history.FinalMark:
		r.final[markKey{l.User, l.Channel}] = l
	case history.Append:
		r.appends = append(r.appends, l)
	case history.Placed:
		r.placed = append(r.placed, l)
	case history.Healed:
		r.healed = l.AtUS
	case history.End:
		r.end = max(r.end, l.AtUS)
	case history.Fault:
		r.fault(l)
	default:
		return r.client(l)
	}
	return nil
}

func (r *Run) channel(id topology.ChannelID) *channel {
	c := r.channels[id]
	if c == nil {
		c = &channel{byID: map[topology.MessageID]*Line{}}
		r.channels[id] = c
	}
	return c
}

func (r *Run) fault(l *Line) {
	if l.State == history.Begin {
		r.faults = append(r.faults, span{name: l.Name, begin: l.AtUS})
		return
	}
	for i := range r.faults {
		if r.faults[i].name == l.Name && r.faults[i].end == 0 {
			r.faults[i].end = l.AtUS
		}
	}
}

func (r *Run) client(l *Line) error {
	if l.Client == "" {
		return fmt.Errorf("client: a record of kind %q must name who wrote it", l.Kind)
	}
	p := r.people[l.Client]
	if p == nil {
		p = &person{name: l.Client, ops: map[uint64]*op{}}
		r.people[l.Client] = p
	}
	switch l.Kind { //nolint:exhaustive // the rest is only kept
	case history.Client:
		p.role, p.workspace, p.user = l.Role, l.Workspace, l.User
	case history.Frame:
		l.Event = new(event)
		if err := json.Unmarshal(l.Raw, l.Event); err != nil {
			return fmt.Errorf("raw: is no server event: %w", err)
		}
	case history.Invoke:
		p.ops[l.Op] = &op{client: p, begin: l}
		if l.Do == history.DoPost {
			r.posts = append(r.posts, p.ops[l.Op])
		}
		if l.Do == history.DoMarkRead {
			r.marks = append(r.marks, p.ops[l.Op])
		}
	case history.OK, history.Fail, history.Unknown:
		o := p.ops[l.Op]
		if o == nil || o.end != nil {
			return fmt.Errorf("op: %d of %s ends without having begun, or twice", l.Op, l.Client)
		}
		o.end = l
	}
	p.lines = append(p.lines, l)
	return nil
}

// put puts what was read into order.
func (r *Run) put() {
	for name := range r.people {
		r.names = append(r.names, name)
	}
	slices.Sort(r.names)
	slices.SortStableFunc(r.appends, func(a, b *Line) int {
		return cmp.Or(cmp.Compare(a.Channel, b.Channel), cmp.Compare(a.Rev, b.Rev), cmp.Compare(a.AtUS, b.AtUS))
	})
	if r.end == 0 {
		for _, p := range r.people {
			r.end = max(r.end, p.lines[len(p.lines)-1].AtUS)
		}
	}
}

// each calls do with every person, in the order of names.
func (r *Run) each(do func(p *person)) {
	for _, n := range r.names {
		do(r.people[n])
	}
}

// frames calls do with every frame of a person, until it is false.
func (p *person) frames(do func(l *Line) bool) {
	for _, l := range p.lines {
		if l.Kind == history.Frame && !do(l) {
			return
		}
	}
}
