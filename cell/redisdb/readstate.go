package redisdb

import (
	"context"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/cell/change"
	"parley/cell/readstate"
	"parley/internal/problem"
	"parley/internal/topology"
)

const (
	// readBuckets is how many hash tags read state has: a node has enough of them
	// to be even, and a batch of marks enough per bucket to be one command.
	readBuckets = 64
	// gateMax is how long a call waits for read state that is being filled.
	gateMax = 2 * time.Second
	// rowsMax is how many rows one command has at most.
	rowsMax = 500
	// everybodyRows is how many mentions of everybody a channel keeps, the newest:
	// some may be the reader's own, which do not count. Of a user's own rows,
	// MentionsMax are enough.
	everybodyRows = 4 * readstate.MentionsMax
)

// readStateStore keeps marks in one hash per user, and mentions in a sorted set per
// user and per channel (those of everybody). It is as durable as its journal:
//
// Invariants: R1 an answer comes from a generation that has all of the journal as of
// its filling (gate.go); R2 a mark is acknowledged when it is in the journal and, after
// that, its generation still was; or, while the journal is away, when it is in
// Redis, and kept here until the journal has it (backlog.go); R3 of one process and
// key the journal's last entry is the highest acknowledged.
type readStateStore struct {
	d       *DB
	journal readstate.Journal
	process string
	buckets bucketed
	gates   gates
	lanes   lanes
	answers answers
	backlog backlog
}

var _ readstate.Store = (*readStateStore)(nil)

func newReadState(d *DB, deps Deps) *readStateStore {
	s := &readStateStore{d: d, journal: deps.Journal, process: deps.Name, buckets: newBuckets(d.access.KeyPrefix+":r", readBuckets)}
	s.gates.init(s)
	s.lanes.init(s)
	s.backlog.init(s, d.access.PendingMax)
	return s
}

func (s *readStateStore) start() {
	s.d.work.Go(func() { s.gates.keep(s.d.ctx) })
	s.d.work.Go(func() { s.backlog.run(s.d.ctx) })
}

// keys of a user or channel.
func (s *readStateStore) key(bucket int, kind, owner string) string {
	return s.buckets.tags[bucket] + kind + owner
}

// script runs the script of a generation in a bucket.
func (s *readStateStore) script(ctx context.Context, to redis.Cmdable, bucket int, g *generation, gate, op string, keys []string, args []any) *redis.Cmd {
	return to.EvalSha(ctx, g.sha, append([]string{s.gates.key(bucket)}, keys...), append([]any{gate + g.name, op}, args...)...)
}

// call runs one operation in a bucket, in its present generation.
func (s *readStateStore) call(ctx context.Context, bucket int, op string, keys []string, args []any) (*redis.Cmd, error) {
	for {
		g, err := s.gates.await(ctx, bucket)
		if err != nil {
			return nil, err
		}
		cmd := s.script(ctx, s.d.client, bucket, g, gateOpen, op, keys, args)
		if err := cmd.Err(); !isLost(err) {
			return cmd, err
		}
		s.gates.lost(bucket, g)
	}
}

// Marks implements readstate.Store.
func (s *readStateStore) Marks(ctx context.Context, u readstate.User) (map[topology.ChannelID]readstate.Mark, error) {
	if err := hasEnded(ctx); err != nil {
		return nil, err
	}
	name := owner(u.Place, string(u.ID))
	bucket := s.buckets.of(name)
	cmd, err := s.call(ctx, bucket, opMarks, []string{s.key(bucket, "m:", name)}, nil)
	if err != nil {
		return nil, kindOf(err, away)
	}
	kv, err := cmd.StringSlice()
	if err != nil {
		return nil, away(err)
	}
	out := make(map[topology.ChannelID]readstate.Mark, len(kv)/2)
	for i := 0; i+1 < len(kv); i += 2 {
		if out[topology.ChannelID(kv[i])], err = decodeMark(kv[i+1]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// kindOf keeps an error that has its kind already.
func kindOf(err error, else_ func(error) error) error {
	if problem.KindOf(err) != problem.Internal {
		return err
	}
	return else_(err)
}

// rows is what one command adds to a bucket.
type rows struct {
	keys []string
	args []any
}

// mentionRow puts a mention among the rows of its bucket.
func (s *readStateStore) mentionRow(to map[int]*rows, m readstate.Mention) int {
	kind, of, prefix, keep := "n:", string(m.User.ID), rowPrefix(m.Channel), readstate.MentionsMax
	if m.User.ID == change.MentionAll {
		kind, of, prefix, keep = "e:", string(m.Channel), "", everybodyRows
	}
	name := owner(m.User.Place, of)
	bucket := s.buckets.of(name)
	r := to[bucket]
	if r == nil {
		r = &rows{}
		to[bucket] = r
	}
	r.keys = append(r.keys, s.key(bucket, kind, name))
	r.args = append(r.args, row(prefix, m.Seq, m.Rev, m.Author), len(prefix), keep)
	return bucket
}

// AddMentions implements readstate.Store. Whoever adds mentions does it again after
// an error, so nothing is kept for a journal that is away.
func (s *readStateStore) AddMentions(ctx context.Context, ms []readstate.Mention) error {
	if err := hasEnded(ctx); err != nil {
		return err
	}
	for part := range slices.Chunk(ms, rowsMax) {
		if err := s.addMentions(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

func (s *readStateStore) addMentions(ctx context.Context, ms []readstate.Mention) error {
	byBucket := map[int]*rows{}
	entries := make([]readstate.Entry, 0, len(ms))
	for _, m := range ms {
		if err := checkNames(m.User, m.Channel); err != nil {
			return err
		}
		if m.User.ID != m.Author { // one's own never counts
			s.mentionRow(byBucket, m)
			entries = append(entries, mentionEntry(m))
		}
	}
	used := map[int]*generation{}
	for bucket, r := range byBucket {
		g, err := s.gates.await(ctx, bucket)
		if err != nil {
			return err
		}
		cmd := s.script(ctx, s.d.client, bucket, g, gateOpen, opAdd, r.keys, r.args)
		if isLost(cmd.Err()) {
			s.gates.lost(bucket, g)
		}
		if cmd.Err() != nil {
			return wrote(cmd.Err())
		}
		used[bucket] = g
	}
	if len(entries) == 0 {
		return nil
	}
	if err := s.journal.Append(ctx, entries); err != nil {
		return kindOf(err, func(err error) error {
			return later(problem.Wrap(err, problem.Unknown, "the journal of read state has not answered"))
		})
	}
	for bucket, g := range used { // R2
		cmd := s.script(ctx, s.d.client, bucket, g, gateOpen, opCheck, nil, nil)
		if cmd.Err() != nil {
			return wrote(cmd.Err())
		}
	}
	return nil
}

// Mentions implements readstate.Store.
func (s *readStateStore) Mentions(ctx context.Context, u readstate.User, above map[topology.ChannelID]topology.Seq) (map[topology.ChannelID]uint64, error) {
	if err := hasEnded(ctx); err != nil {
		return nil, err
	}
	seen := map[topology.ChannelID]map[topology.Rev]struct{}{}
	asked := map[int]*rows{}
	chans := map[int][]topology.ChannelID{}
	ask := func(kind, name, prefix string, ch topology.ChannelID, from topology.Seq) {
		bucket := s.buckets.of(name)
		r := asked[bucket]
		if r == nil {
			r = &rows{args: []any{string(u.ID), readstate.MentionsMax}}
			asked[bucket] = r
		}
		r.keys = append(r.keys, s.key(bucket, kind, name))
		r.args = append(r.args, string(appendNumber([]byte(prefix), uint64(from))), len(prefix))
		chans[bucket] = append(chans[bucket], ch)
	}
	for _, ch := range slices.Sorted(maps.Keys(above)) {
		if seq := above[ch]; seq+1 != 0 && len(ch) <= nameMax {
			seen[ch] = map[topology.Rev]struct{}{} // revs: a change that mentions twice is one
			ask("n:", owner(u.Place, string(u.ID)), rowPrefix(ch), ch, seq+1)
			ask("e:", owner(u.Place, string(ch)), "", ch, seq+1)
		}
	}
	for bucket, r := range asked {
		revs, err := s.revs(ctx, bucket, r)
		if err != nil {
			return nil, err
		}
		for i, ch := range chans[bucket] {
			for raw := []byte(revs[i]); len(raw) >= 8; raw = raw[8:] {
				seen[ch][topology.Rev(binary.BigEndian.Uint64(raw))] = struct{}{}
			}
		}
	}
	out := make(map[topology.ChannelID]uint64, len(seen))
	for ch, revs := range seen {
		if len(revs) > 0 {
			out[ch] = min(uint64(len(revs)), readstate.MentionsMax)
		}
	}
	return out, nil
}

// revs asks a bucket for what counts: for each row set the revs, in one text.
func (s *readStateStore) revs(ctx context.Context, bucket int, r *rows) ([]string, error) {
	cmd, err := s.call(ctx, bucket, opCount, r.keys, r.args)
	if err != nil {
		return nil, kindOf(err, away)
	}
	revs, err := cmd.StringSlice()
	if err != nil {
		return nil, away(err)
	}
	if len(revs) != len(r.keys) {
		return nil, errUnreadable()
	}
	return revs, nil
}
