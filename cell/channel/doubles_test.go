package channel_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"parley/cell/channel"
	"parley/cell/eventlog"
	"parley/cell/history"
	"parley/cell/msglog"
	"parley/cell/router"
	"parley/internal/problem"
	"parley/internal/topology"
)

// people is a cell's directory, as far as a channel server sees it.
type people struct {
	mu       sync.Mutex
	closed   map[topology.Place]bool
	channels map[topology.ChannelRef]channel.Info
	members  map[topology.ChannelRef]map[topology.UserID]bool
	users    map[string]topology.UserID
}

func newPeople() *people {
	return &people{
		closed: map[topology.Place]bool{}, channels: map[topology.ChannelRef]channel.Info{},
		members: map[topology.ChannelRef]map[topology.UserID]bool{}, users: map[string]topology.UserID{},
	}
}

func (d *people) put(ref topology.ChannelRef, i channel.Info, us ...topology.UserID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.channels[ref] = i
	if d.members[ref] == nil {
		d.members[ref] = map[topology.UserID]bool{}
	}
	for _, u := range us {
		d.members[ref][u] = true
	}
}

func (d *people) remove(ref topology.ChannelRef, u topology.UserID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.members[ref], u)
}

func (d *people) Open(_ context.Context, p topology.Place) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.closed[p], nil
}

func (d *people) ChannelInfo(_ context.Context, ref topology.ChannelRef) (channel.Info, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i, ok := d.channels[ref]
	if !ok {
		return channel.Info{}, problem.New(problem.NotFound, "no such channel")
	}
	return i, nil
}

func (d *people) IsMember(_ context.Context, ref topology.ChannelRef, u topology.UserID) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.members[ref][u], nil
}

func (d *people) Members(_ context.Context, ref topology.ChannelRef, most int) ([]topology.UserID, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	us := slices.Collect(maps.Keys(d.members[ref]))
	return us, len(us) <= most, nil
}

func (d *people) UsersByName(_ context.Context, _ topology.Place, names []string) (map[string]topology.UserID, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[string]topology.UserID{}
	for _, n := range names {
		if u, ok := d.users[n]; ok {
			out[n] = u
		}
	}
	return out, nil
}

// gate holds back what passes until it is opened.
type gate struct {
	mu   sync.Mutex
	shut chan struct{}
	came chan struct{} // closed when somebody waits
}

// close makes the next ones wait; came is closed when the first does.
func (g *gate) close() (came <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut, g.came = make(chan struct{}), make(chan struct{})
	return g.came
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil {
		close(g.shut)
		g.shut = nil
	}
}

// except lets those pass that come during do; who waits goes on waiting.
func (g *gate) except(do func()) {
	g.mu.Lock()
	shut := g.shut
	g.shut = nil
	g.mu.Unlock()
	do()
	g.mu.Lock()
	g.shut = shut
	g.mu.Unlock()
}

func (g *gate) pass() {
	g.mu.Lock()
	shut, came := g.shut, g.came
	if shut != nil && came != nil {
		close(came)
		g.came = nil
	}
	g.mu.Unlock()
	if shut != nil {
		<-shut
	}
}

// slowLog is a message store whose appends can be held back.
type slowLog struct {
	msglog.Store
	appends gate
}

func (l *slowLog) Append(ctx context.Context, s topology.Shard, t topology.Token, w []msglog.Write) error {
	l.appends.pass()
	return l.Store.Append(ctx, s, t, w)
}

// countedLog counts the reads of fence rows.
type countedLog struct {
	msglog.Store
	fences atomic.Int64
}

func (l *countedLog) Fences(ctx context.Context, of ...topology.Shard) ([]msglog.Fence, error) {
	defer l.fences.Add(1)
	return l.Store.Fences(ctx, of...)
}

// lossyLog is a message store that does what it is asked and loses the answer.
type lossyLog struct {
	msglog.Store
	lossy atomic.Bool
}

func (l *lossyLog) Append(ctx context.Context, s topology.Shard, t topology.Token, w []msglog.Write) error {
	err := l.Store.Append(ctx, s, t, w)
	if err == nil && l.lossy.Load() {
		return problem.New(problem.Unavailable, "the answer was lost")
	}
	return err
}

// flakyLog is a message store of which many a call fails, before it did anything
// or after it did all.
type flakyLog struct {
	msglog.Store
	calls atomic.Int64
	calm  atomic.Bool
}

func (l *flakyLog) call(do func() error) error {
	n := l.calls.Add(1)
	if l.calm.Load() {
		return do()
	}
	if n%7 == 0 {
		return problem.New(problem.Unavailable, "not done")
	}
	if err := do(); err != nil {
		return err
	}
	if n%11 == 0 {
		return problem.New(problem.Unavailable, "done, but you don't know")
	}
	return nil
}

func (l *flakyLog) Raise(ctx context.Context, o topology.ServerID, cs []msglog.Claim) (fs []msglog.Fence, err error) {
	err = l.call(func() (err error) { fs, err = l.Store.Raise(ctx, o, cs); return err })
	return fs, err
}

func (l *flakyLog) Fences(ctx context.Context, of ...topology.Shard) (fs []msglog.Fence, err error) {
	err = l.call(func() (err error) { fs, err = l.Store.Fences(ctx, of...); return err })
	return fs, err
}

func (l *flakyLog) Append(ctx context.Context, s topology.Shard, t topology.Token, w []msglog.Write) error {
	return l.call(func() error { return l.Store.Append(ctx, s, t, w) })
}

func (l *flakyLog) Repair(ctx context.Context, s topology.Shard, t topology.Token, seals []msglog.Seal) error {
	return l.call(func() error { return l.Store.Repair(ctx, s, t, seals) })
}

func (l *flakyLog) Tail(ctx context.Context, ch topology.ChannelRef, from topology.Rev, n int) (rs []msglog.Row, err error) {
	err = l.call(func() (err error) { rs, err = l.Store.Tail(ctx, ch, from, n); return err })
	return rs, err
}

func (l *flakyLog) Dirty(ctx context.Context, s topology.Shard) (chs []topology.ChannelRef, err error) {
	err = l.call(func() (err error) { chs, err = l.Store.Dirty(ctx, s); return err })
	return chs, err
}

// heldHistory is a history store whose Apply can be made to fail, and whose
// answers can be held back.
type heldHistory struct {
	history.Store
	down    atomic.Bool
	deduped gate // behind a look for a key
	pages   gate // before a page is read
}

func (h *heldHistory) Deduped(ctx context.Context, ch topology.ChannelRef, u topology.UserID, key string, now time.Time) (history.Deduped, bool, error) {
	d, ok, err := h.Store.Deduped(ctx, ch, u, key, now)
	if key == "gated" {
		h.deduped.pass()
	}
	return d, ok, err
}

func (h *heldHistory) Page(ctx context.Context, ch topology.ChannelRef, q history.PageQuery) ([]history.Message, error) {
	h.pages.pass()
	return h.Store.Page(ctx, ch, q)
}

func (h *heldHistory) Apply(ctx context.Context, bs []history.Batch) error {
	if h.down.Load() {
		return problem.New(problem.Unavailable, "down")
	}
	return h.Store.Apply(ctx, bs)
}

// heldEvents is an event log whose Append can be made to fail.
type heldEvents struct {
	eventlog.Log
	down atomic.Bool
}

func (e *heldEvents) Append(ctx context.Context, p topology.Shard, es []eventlog.Event) error {
	if e.down.Load() {
		return problem.New(problem.Unavailable, "down")
	}
	return e.Log.Append(ctx, p, es)
}

// listener records what a gateway would get.
type listener struct {
	mu      sync.Mutex
	events  map[topology.ChannelID][]router.Event
	beacons []router.Beacon
	bad     error
}

func (l *listener) Deliver(ms []router.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range ms {
		if m.Topic == router.BeaconTopic {
			bs, err := router.DecodeBeacons(m.Payload)
			if err != nil {
				l.bad = err
			}
			l.beacons = append(l.beacons, bs...)
			continue
		}
		e, err := router.DecodeEvent(m.Payload)
		if err != nil {
			l.bad = err
		}
		ch := topology.ChannelID(strings.TrimPrefix(m.Topic, "channel:"))
		l.events[ch] = append(l.events[ch], e)
	}
}

func (l *listener) Lost() {}

func (l *listener) of(ch topology.ChannelID) []router.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events[ch])
}

func (l *listener) told() []router.Beacon {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.beacons)
}

// clock is the tests' time of messages.
type clock struct{ us atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.us.Store(1_767_225_600_000_000) // 2026-01-01
	return c
}

func (c *clock) now() time.Time { return time.UnixMicro(c.us.Load()) }

func (c *clock) add(d time.Duration) { c.us.Add(d.Microseconds()) }
