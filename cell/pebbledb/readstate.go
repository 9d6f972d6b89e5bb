package pebbledb

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"sync"

	"parley/cell/change"
	"parley/cell/readstate"
	"parley/internal/problem"
	"parley/internal/topology"
)

// userLocks is how many users may mark side by side.
const userLocks = 64

// readStateStore keeps marks, synced, and mentions, which are derived and not.
type readStateStore struct {
	db    *DB
	seed  maphash.Seed
	locks [userLocks]sync.Mutex
}

var _ readstate.Store = (*readStateStore)(nil)

// ReadState is the database's read state.
//
//nolint:ireturn // the driver's type is nobody's business
func (d *DB) ReadState() readstate.Store { return d.readState }

func userPrefix(prefix byte, u readstate.User) []byte {
	return appendName(appendPlace([]byte{prefix}, u.Place), u.ID)
}

func checkUser(u readstate.User, ch topology.ChannelID) error {
	if l := len(u.ID); l == 0 || l > nameMax {
		return problem.Field("user", "must have 1 to %d bytes, not %d", nameMax, l)
	}
	return checkRef(topology.ChannelRef{Place: u.Place, Channel: ch})
}

func encodeReadMark(m readstate.Mark) []byte {
	b := binary.AppendUvarint(nil, m.Version)
	b = binary.AppendUvarint(b, uint64(m.Seq))
	return append(b, m.Message...)
}

func decodeReadMark(v []byte) (readstate.Mark, error) {
	f := fields{rest: v}
	m := readstate.Mark{Version: f.uvarint(), Seq: topology.Seq(f.uvarint())}
	m.Message = topology.MessageID(f.rest)
	return m, f.err("read state")
}

// Put implements readstate.Store. Of concurrent calls for one user, a later one
// answers only when the earlier one's mark is on disk, too: reaching the disk
// goes in the order of the applies.
func (s *readStateStore) Put(ctx context.Context, u readstate.User, ch topology.ChannelID, m readstate.Mark) (readstate.Mark, error) {
	if err := s.db.begin(ctx); err != nil {
		return readstate.Mark{}, err
	}
	defer s.db.end()
	if err := checkUser(u, ch); err != nil {
		return readstate.Mark{}, err
	}
	key := appendName(userPrefix(prefixRead, u), ch)
	mu := &s.locks[maphash.Bytes(s.seed, key)%userLocks]
	mu.Lock()
	defer mu.Unlock()
	v, err := s.db.get(key)
	if err != nil {
		return readstate.Mark{}, err
	}
	if v != nil {
		stored, err := decodeReadMark(v)
		if err != nil || !stored.Less(m) {
			return stored, err
		}
	}
	if err := s.db.room.take(len(key)); err != nil {
		return readstate.Mark{}, err
	}
	b := s.db.pebble.NewBatch()
	if err := b.Set(key, encodeReadMark(m), nil); err != nil {
		return readstate.Mark{}, errors.Join(err, b.Close())
	}
	return m, s.db.commit(b, true)
}

// Marks implements readstate.Store.
func (s *readStateStore) Marks(ctx context.Context, u readstate.User) (map[topology.ChannelID]readstate.Mark, error) {
	if err := s.db.begin(ctx); err != nil {
		return nil, err
	}
	defer s.db.end()
	prefix := userPrefix(prefixRead, u)
	out := make(map[topology.ChannelID]readstate.Mark)
	err := s.db.scan(prefix, keyEnd(prefix), func(k, v []byte) (bool, error) {
		name, _, ok := cutName(k[len(prefix):])
		if !ok {
			return false, (&fields{bad: true}).err("read state")
		}
		m, err := decodeReadMark(v)
		out[topology.ChannelID(name)] = m
		return true, err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func mentionPrefix(u readstate.User, ch topology.ChannelID) []byte {
	return appendName(userPrefix(prefixMention, u), ch)
}

// AddMentions implements readstate.Store. It is not synced: whoever adds mentions
// commits its place in the event log afterwards, which takes them with it.
func (s *readStateStore) AddMentions(ctx context.Context, ms []readstate.Mention) error {
	if err := s.db.begin(ctx); err != nil {
		return err
	}
	defer s.db.end()
	b := s.db.pebble.NewBatch()
	for _, m := range ms {
		if err := checkUser(m.User, m.Channel); err != nil {
			return errors.Join(err, b.Close())
		}
		key := appendUint64(appendUint64(mentionPrefix(m.User, m.Channel), m.Seq), m.Rev)
		if err := b.Set(key, []byte(m.Author), nil); err != nil {
			return errors.Join(err, b.Close())
		}
	}
	return s.db.commit(b, false)
}

// Mentions implements readstate.Store.
func (s *readStateStore) Mentions(ctx context.Context, u readstate.User, above map[topology.ChannelID]topology.Seq) (map[topology.ChannelID]uint64, error) {
	if err := s.db.begin(ctx); err != nil {
		return nil, err
	}
	defer s.db.end()
	out := make(map[topology.ChannelID]uint64, len(above))
	for ch, seq := range above {
		seen := make(map[topology.Rev]struct{}) // revs: a change that mentions twice is one
		for _, who := range []topology.UserID{u.ID, change.MentionAll} {
			if err := s.count(readstate.User{Place: u.Place, ID: who}, u.ID, ch, seq, seen); err != nil {
				return nil, err
			}
		}
		if len(seen) > 0 {
			out[ch] = uint64(len(seen))
		}
	}
	return out, nil
}

// count adds the revs of the mentions of one user, or of everybody, to seen.
func (s *readStateStore) count(of readstate.User, reader topology.UserID, ch topology.ChannelID, above topology.Seq, seen map[topology.Rev]struct{}) error {
	if above+1 == 0 || len(seen) >= readstate.MentionsMax {
		return nil
	}
	prefix := mentionPrefix(of, ch)
	return s.db.scan(appendUint64(prefix, above+1), keyEnd(prefix), func(k, v []byte) (bool, error) {
		if topology.UserID(v) != reader {
			seen[topology.Rev(binary.BigEndian.Uint64(k[len(k)-8:]))] = struct{}{}
		}
		return len(seen) < readstate.MentionsMax, nil
	})
}
