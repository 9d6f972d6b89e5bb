package cassandra

import (
	"context"
	"errors"
	"sync"

	"github.com/gocql/gocql"

	"parley/cell/msglog"
	"parley/internal/problem"
	"parley/internal/topology"
)

const (
	dirtyInsert = `INSERT INTO dirty (cell, shard, workspace, generation, channel, rev, time) VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?`
	dirtyRead   = `SELECT workspace, generation, channel FROM dirty WHERE cell = ? AND shard = ?`
	dirtyGet    = `SELECT rev, time FROM dirty WHERE cell = ? AND shard = ? AND workspace = ? AND generation = ? AND channel = ?`
	dirtyDelete = `DELETE FROM dirty USING TIMESTAMP ? WHERE cell = ? AND shard = ? AND workspace = ? AND generation = ? AND channel = ?`
	logAbove    = `SELECT rev FROM log WHERE workspace = ? AND generation = ? AND channel = ? AND bucket = ? AND rev > ? LIMIT 1`
)

// listedMax bounds the channels of a shard that are remembered: 64k of a cell, in
// some 10 MiB.
const listedMax = 512

// marks remembers which channels of a shard this process has put on the list, so
// that a busy channel is put there once and not with every write. A row on the
// list carries the time of the write that put it there, and Clean deletes as of
// that time: what any later write puts there outlives it, whichever reaches a
// replica first.
type marks struct {
	mu    sync.Mutex
	known map[topology.ChannelRef]*listing
}

type listing struct {
	token topology.Token // the owner's that put it there; 0 = not on the list
	busy  int            // writes under way that rely on it
}

// enter says whether the channel is on the list under the token, and keeps it
// there until leave.
func (m *marks) enter(ch topology.ChannelRef, t topology.Token) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.known[ch]
	if k == nil {
		if m.known == nil {
			m.known = make(map[topology.ChannelRef]*listing)
		}
		for old, o := range m.known { // any that is idle makes room
			if len(m.known) < listedMax {
				break
			}
			if o.busy == 0 {
				delete(m.known, old)
			}
		}
		k = &listing{}
		m.known[ch] = k
	}
	k.busy++
	return k.token == t
}

func (m *marks) listed(ch topology.ChannelRef, t topology.Token) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known[ch].token = t // there while it is busy
}

func (m *marks) leave(ch topology.ChannelRef) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known[ch].busy--
}

// forget makes the next write put the channel on the list again. It refuses while
// a write is under way.
func (m *marks) forget(ch topology.ChannelRef) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.known[ch]
	if k != nil && k.busy > 0 {
		return false
	}
	delete(m.known, ch)
	return true
}

// listed does a write of rows while their channel is on the list (invariant 4).
func (l *logStore) listed(ctx context.Context, s topology.Shard, t topology.Token, ch topology.ChannelRef, rows []msglog.Row, do func() error) error {
	m := &l.marks[s]
	there := m.enter(ch, t)
	defer m.leave(ch)
	if !there {
		last := rows[len(rows)-1]
		args := append([]any{l.db.cell, int(s)}, partition(ch, number(last.Rev), number(last.Time), number(last.Time))...)
		if err := l.db.put(ctx, mutation{{cql: dirtyInsert, args: args}}); err != nil {
			return err
		}
		m.listed(ch, t)
	}
	return do()
}

// Dirty names the channels of a shard that were written to (clause 6).
func (l *logStore) Dirty(ctx context.Context, s topology.Shard) ([]topology.ChannelRef, error) {
	if err := l.db.begin(ctx); err != nil {
		return nil, err
	}
	defer l.db.end()
	rows := l.db.get(ctx, dirtyRead, l.db.cell, int(s)).Iter()
	var (
		refs       []topology.ChannelRef
		ws, ch     string
		generation int64
	)
	for rows.Scan(&ws, &generation, &ch) {
		refs = append(refs, topology.ChannelRef{
			Place:   topology.Place{Workspace: topology.WorkspaceID(ws), Generation: topology.Generation(generation)}, //nolint:gosec // bits, see partition
			Channel: topology.ChannelID(ch),
		})
	}
	return refs, readError(rows.Close())
}

// Clean takes a channel off the list of Dirty (clause 6). An owner that was cut
// off between its look at the fence and its deletion does no harm: a later owner's
// write has put the channel there at a later time, or there was none.
func (l *logStore) Clean(ctx context.Context, s topology.Shard, t topology.Token, ch topology.ChannelRef, upTo topology.Rev) error {
	if err := checkChannels(s, []topology.ChannelRef{ch}); err != nil {
		return err
	}
	if err := l.db.begin(ctx); err != nil {
		return err
	}
	defer l.db.end()
	if !l.marks[s].forget(ch) {
		return nil
	}
	f, err := l.fence(ctx, s)
	if err != nil {
		return err
	}
	if f.Token != t {
		return problem.New(problem.Fenced, "shard %d is at token %d, not %d", s, f.Token, t)
	}
	key := append([]any{l.db.cell, int(s)}, partition(ch)...)
	var rev, time int64
	err = l.db.get(ctx, dirtyGet, key...).Scan(&rev, &time)
	if errors.Is(err, gocql.ErrNotFound) || err == nil && rev > number(upTo) {
		return nil
	}
	if err != nil {
		return readError(err)
	}
	if above, err := l.above(ctx, ch, upTo); above || err != nil {
		return err
	}
	return l.db.put(ctx, mutation{{cql: dirtyDelete, args: append([]any{time}, key...)}})
}

// above says whether the log goes on after a rev.
func (l *logStore) above(ctx context.Context, ch topology.ChannelRef, upTo topology.Rev) (bool, error) {
	if upTo == ^topology.Rev(0) {
		return false, nil
	}
	var rev int64
	err := l.db.get(ctx, logAbove, partition(ch, l.db.logBucket(upTo+1), number(upTo))...).Scan(&rev)
	if errors.Is(err, gocql.ErrNotFound) {
		return false, nil
	}
	return err == nil, readError(err)
}
