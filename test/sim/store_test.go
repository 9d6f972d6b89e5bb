//go:build failpoints

package sim_test

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"parley/cell/msglog"
	"parley/internal/topology"
)

// weakStore promises what msglog.Store's contract does and nothing more: it never
// refuses a write for its token, so one that is late is stored, late.
type weakStore struct {
	mu     sync.Mutex
	fences map[topology.Shard]msglog.Fence
	logs   map[topology.ChannelRef]*weakLog
	gate   *gate // nil = appends do not wait
}

// appendTakes is how long a write of a disk takes.
const appendTakes = 10 * time.Millisecond

type weakLog struct {
	rows  map[topology.Rev]msglog.Row
	seals []msglog.Seal // as tombstones: Above and Time
	dirty bool
}

func newWeakStore() *weakStore {
	return &weakStore{fences: map[topology.Shard]msglog.Fence{}, logs: map[topology.ChannelRef]*weakLog{}}
}

func (s *weakStore) log(ch topology.ChannelRef) *weakLog {
	l := s.logs[ch]
	if l == nil {
		l = &weakLog{rows: map[topology.Rev]msglog.Row{}}
		s.logs[ch] = l
	}
	return l
}

func (s *weakStore) Raise(_ context.Context, owner topology.ServerID, claims []msglog.Claim) ([]msglog.Fence, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]msglog.Fence, len(claims))
	for i, c := range claims {
		if s.fences[c.Shard].Token == c.From {
			s.fences[c.Shard] = msglog.Fence{Shard: c.Shard, Token: c.From + 1, Owner: owner}
		}
		out[i] = s.fences[c.Shard]
	}
	return out, nil
}

func (s *weakStore) Fences(context.Context, ...topology.Shard) ([]msglog.Fence, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.fences)), nil
}

// gate makes writes late: those of present owners until late is closed, those of
// the next ones, after their first, until held is.
type gate struct {
	old        map[topology.Shard]msglog.Fence
	began      map[topology.Shard]bool
	first      chan struct{} // closed when a next owner has written
	late, held chan struct{}
}

// stall shuts a gate until open is called.
func (s *weakStore) stall() (g *gate, open func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g = &gate{
		old: maps.Clone(s.fences), began: map[topology.Shard]bool{},
		first: make(chan struct{}), late: make(chan struct{}), held: make(chan struct{}),
	}
	s.gate = g
	return g, func() {
		s.mu.Lock()
		s.gate = nil
		s.mu.Unlock()
		close(g.held)
	}
}

// pass waits at the gate and takes a disk's time.
func (s *weakStore) pass(sh topology.Shard, t topology.Token) {
	s.mu.Lock()
	g := s.gate
	var wait chan struct{}
	first := false
	switch {
	case g == nil:
	case t <= g.old[sh].Token:
		wait = g.late
	case g.began[sh]:
		wait = g.held
	default:
		g.began[sh] = true
		first = len(g.began) == 1
	}
	s.mu.Unlock()
	if wait != nil {
		<-wait
	}
	time.Sleep(appendTakes)
	if first {
		defer close(g.first)
	}
}

// owner is who has a channel's shard.
func (s *weakStore) owner(ch topology.ChannelRef) topology.ServerID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fences[ch.Shard()].Owner
}

func (s *weakStore) Append(_ context.Context, sh topology.Shard, t topology.Token, ws []msglog.Write) error {
	s.pass(sh, t)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range ws {
		l := s.log(w.Channel)
		l.put(w.Rows)
		l.dirty = true
	}
	return nil
}

func (l *weakLog) put(rows []msglog.Row) {
	for _, r := range rows {
		if old, ok := l.rows[r.Rev]; !ok || old.Time <= r.Time {
			l.rows[r.Rev] = r
		}
	}
}

// dead reports whether a seal hides a row.
func (l *weakLog) dead(r msglog.Row) bool {
	return slices.ContainsFunc(l.seals, func(s msglog.Seal) bool { return r.Rev > s.Above && r.Time < s.Time })
}

func (s *weakStore) Tail(_ context.Context, ch topology.ChannelRef, from topology.Rev, limit int) ([]msglog.Row, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.log(ch)
	var out []msglog.Row
	for _, rev := range slices.Sorted(maps.Keys(l.rows)) {
		if r := l.rows[rev]; rev >= from && len(out) < limit && !l.dead(r) {
			out = append(out, r)
		}
	}
	return out, nil
}

func (s *weakStore) Repair(_ context.Context, _ topology.Shard, _ topology.Token, seals []msglog.Seal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seal := range seals {
		l := s.log(seal.Channel)
		l.put(seal.Rows)
		l.seals = append(l.seals, msglog.Seal{Above: seal.Above, Time: seal.Time})
	}
	return nil
}

func (s *weakStore) Oldest(context.Context, topology.ChannelRef) (topology.Rev, error) { return 1, nil }

func (s *weakStore) Dirty(_ context.Context, sh topology.Shard) (out []topology.ChannelRef, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ch, l := range s.logs {
		if ch.Shard() == sh && l.dirty {
			out = append(out, ch)
		}
	}
	return out, nil
}

func (s *weakStore) Clean(_ context.Context, sh topology.Shard, t topology.Token, ch topology.ChannelRef, upTo topology.Rev) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.log(ch)
	for rev := range l.rows {
		if rev > upTo {
			return nil
		}
	}
	if s.fences[sh].Token == t {
		l.dirty = false
	}
	return nil
}
