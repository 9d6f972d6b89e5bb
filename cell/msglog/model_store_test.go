package msglog

import (
	"context"
	"fmt"
	"slices"

	"parley/internal/problem"
	"parley/internal/topology"
)

// modelStore is one owner's view of the model's store. Each call lets the
// schedule go on at least once before it does anything.
type modelStore struct {
	m     *model
	owner int
	yield func(struct{}) bool

	before Fence                   // earlyFenceRead: the fence when the last write began
	old    map[topology.Rev]uint64 // oldTimes: the times of the tail as it was read
}

func (s *modelStore) tell(label func() string, what string) {
	if s.m.telling {
		s.m.note("%s %s", label(), what)
	}
}

func (s *modelStore) calmly() bool { return s.m.calm }

// turn lets the others go on; an error if the schedule has ended, or the call is
// lost on its way.
func (s *modelStore) turn() error {
	if s.m.stopped || !s.yield(struct{}{}) {
		return errStopped
	}
	return nil
}

func (s *modelStore) lost() bool { return !s.m.calm && s.m.rng.IntN(100) < s.m.timeoutPct }

func (s *modelStore) Raise(_ context.Context, owner topology.ServerID, claims []Claim) ([]Fence, error) {
	if err := s.turn(); err != nil {
		return nil, err
	}
	m := s.m
	from := claims[0].From
	raise := func() {
		if m.fence.Token == from && !m.noRaise {
			m.fence = Fence{Shard: claims[0].Shard, Token: from + 1, Owner: owner}
			m.note("owner %d raises the fence to %d", s.owner, from+1)
		}
	}
	if s.lost() {
		m.net = append(m.net, parcel{to: -1, label: func() string { return fmt.Sprintf("a claim of owner %d", s.owner) }, do: raise})
		return nil, errTimeout
	}
	raise()
	if s.lost() {
		return nil, errTimeout
	}
	if m.noRaise {
		if m.fence.Token == 0 {
			m.fence = Fence{Shard: claims[0].Shard, Token: 1, Owner: owner}
		}
		return []Fence{{Shard: claims[0].Shard, Token: from + 1, Owner: owner}}, nil
	}
	return []Fence{m.fence}, nil
}

func (s *modelStore) Fences(context.Context, ...topology.Shard) ([]Fence, error) {
	if err := s.turn(); err != nil {
		return nil, err
	}
	m := s.m
	f := m.fence
	if m.noRaise { // everybody finds itself the owner
		f = Fence{Shard: modelChannel.Shard(), Token: f.Token, Owner: topology.ServerID(fmt.Sprint("o", s.owner))}
		if s.before.Token != 0 {
			f = s.before
		}
	}
	if m.earlyFenceRead && s.before.Token != 0 {
		f = s.before
	}
	if err := s.turn(); err != nil {
		return nil, err
	}
	if s.lost() {
		return nil, errTimeout
	}
	m.note("owner %d reads the fence: token %d of %s", s.owner, f.Token, f.Owner)
	return []Fence{f}, nil
}

func (s *modelStore) Append(_ context.Context, _ topology.Shard, t topology.Token, ws []Write) error {
	rows := ws[0].Rows
	if err := s.send(t, func() string {
		return fmt.Sprintf("append of owner %d, token %d, revs %d to %d", s.owner, t, rows[0].Rev, rows[len(rows)-1].Rev)
	}, rows, nil); err != nil {
		return err
	}
	if s.m.publishEarly {
		for _, r := range rows {
			s.m.showAt(s.owner, r.Rev, decodeText(r))
		}
	}
	return nil
}

func (s *modelStore) Repair(_ context.Context, _ topology.Shard, t topology.Token, seals []Seal) error {
	seal := seals[0]
	rows := slices.Clone(seal.Rows)
	for i := range rows {
		if at, ok := s.old[rows[i].Rev]; ok && s.m.oldTimes {
			rows[i].Time = at
		}
	}
	return s.send(t, func() string {
		return fmt.Sprintf("repair of owner %d, token %d, head %d", s.owner, t, seal.Above)
	}, rows, &seal)
}

// send puts a write on its way to all replicas and waits for two of them.
func (s *modelStore) send(t topology.Token, label func() string, rows []Row, seal *Seal) error {
	if err := s.turn(); err != nil {
		return err
	}
	m := s.m
	s.before = m.fence
	if m.noRaise {
		s.before = Fence{Shard: modelChannel.Shard(), Token: t, Owner: topology.ServerID(fmt.Sprint("o", s.owner))}
	}
	var has [3]bool
	for i := range m.replicas {
		do := func() {
			for _, r := range rows {
				m.replicas[i].put(r)
			}
			if seal != nil {
				m.replicas[i].sealAt(*seal)
			}
			has[i] = true
		}
		switch {
		case m.calm:
			do()
			m.changed = true
		case m.rng.IntN(100) >= m.lossPct:
			m.net = append(m.net, parcel{to: i, label: label, do: do})
		}
	}
	for {
		if err := s.turn(); err != nil {
			return err
		}
		got := 0
		for _, h := range has {
			if h {
				got++
			}
		}
		switch {
		case got >= 2 && s.lost():
			return errTimeout
		case got >= 2:
			s.tell(label, "has its quorum")
			return nil
		case m.rng.IntN(100) < 2+m.timeoutPct/2:
			s.tell(label, "times out")
			return errTimeout
		}
	}
}

// Tail reads two replicas, one after the other.
func (s *modelStore) Tail(_ context.Context, _ topology.ChannelRef, from topology.Rev, limit int) ([]Row, error) {
	if err := s.turn(); err != nil {
		return nil, err
	}
	m := s.m
	a := m.rng.IntN(3)
	b := (a + 1 + m.rng.IntN(2)) % 3
	first := m.replicas[a].copy()
	if err := s.turn(); err != nil {
		return nil, err
	}
	if s.lost() {
		return nil, errTimeout
	}
	var revs []topology.Rev
	for _, r := range []replica{first, m.replicas[b]} {
		for rev := range r.rows {
			revs = append(revs, rev)
		}
	}
	slices.Sort(revs)
	var rows []Row
	s.old = make(map[topology.Rev]uint64)
	for _, rev := range slices.Compact(revs) {
		if row, ok := merged(first, m.replicas[b], rev); ok && rev >= from && len(rows) < limit {
			rows = append(rows, row)
			s.old[rev] = row.Time
		}
	}
	m.note("owner %d reads the tail from rev %d of replicas %d, %d: %d rows", s.owner, from, a, b, len(rows))
	return rows, nil
}

func (s *modelStore) Oldest(context.Context, topology.ChannelRef) (topology.Rev, error) {
	return 1, nil
}

func (s *modelStore) Dirty(context.Context, topology.Shard) ([]topology.ChannelRef, error) {
	return nil, problem.New(problem.Unsupported, "not in the model")
}

func (s *modelStore) Clean(context.Context, topology.Shard, topology.Token, topology.ChannelRef, topology.Rev) error {
	return problem.New(problem.Unsupported, "not in the model")
}
