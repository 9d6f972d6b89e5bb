package redisdb

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/cell/readstate"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Bounds of marks under way.
const (
	putMax      = 5 * time.Second // a Put whose caller sets no earlier end
	laneMax     = 64 << 10        // marks that wait for one server
	laneAtOnce  = 2048            // marks in one round trip
	unlimitedBy = "too many marks are under way; try again"
)

// markCall is a Put under way.
type markCall struct {
	bucket  int
	key     string // the user's hash
	channel string
	value   string // what is put, then what is stored
	journal string // its key there
	gen     *generation
	done    chan error // holds one; errGenerationOver: nothing was done
}

var errGenerationOver = problem.New(problem.Unavailable, "read state is being filled again")

// Put implements readstate.Store. Concurrent calls go to Redis and to the journal
// together.
func (s *readStateStore) Put(ctx context.Context, u readstate.User, ch topology.ChannelID, m readstate.Mark) (readstate.Mark, error) {
	if err := hasEnded(ctx); err != nil {
		return readstate.Mark{}, err
	}
	if err := checkNames(u, ch); err != nil {
		return readstate.Mark{}, err
	}
	name := owner(u.Place, string(u.ID))
	bucket := s.buckets.of(name)
	c := &markCall{
		bucket: bucket, key: s.key(bucket, "m:", name), channel: string(ch), value: encodeMark(m),
		journal: markKey(u, ch, s.process), done: make(chan error, 1),
	}
	t := time.NewTimer(putMax)
	defer t.Stop()
	for {
		if _, err := s.gates.await(ctx, bucket); err != nil {
			return readstate.Mark{}, err
		}
		if !s.lanes.push(c) {
			return readstate.Mark{}, later(problem.New(problem.Unavailable, unlimitedBy))
		}
		select {
		case err := <-c.done:
			if err == errGenerationOver { //nolint:errorlint // it is this one, unwrapped
				continue
			}
			if err != nil {
				return readstate.Mark{}, err
			}
			return decodeMark(c.value)
		case <-ctx.Done():
			return readstate.Mark{}, later(problem.Wrap(ctx.Err(), problem.Unknown, "the mark took too long: it may be stored"))
		case <-t.C:
			return readstate.Mark{}, later(problem.New(problem.Unknown, "the mark took too long: it may be stored"))
		}
	}
}

// lanes take marks to the servers, one round trip at a time each: what comes
// meanwhile goes together with the next. A server that hangs holds up its own
// lane only.
type lanes struct {
	s  *readStateStore
	mu sync.Mutex
	by map[string]*lane // by address
}

type lane struct {
	lanes *lanes
	mu    sync.Mutex
	queue []*markCall
	busy  bool
}

func (l *lanes) init(s *readStateStore) { l.s, l.by = s, map[string]*lane{} }

// of is the lane of a bucket's server. That it is the right one only saves time.
func (l *lanes) of(bucket int) *lane {
	addr := l.s.d.layout.Load().node(l.s.buckets.slots[bucket])
	l.mu.Lock()
	defer l.mu.Unlock()
	to := l.by[addr]
	if to == nil {
		to = &lane{lanes: l}
		l.by[addr] = to
	}
	return to
}

func (l *lanes) push(c *markCall) bool {
	to := l.of(c.bucket)
	to.mu.Lock()
	defer to.mu.Unlock()
	if len(to.queue) >= laneMax {
		return false
	}
	to.queue = append(to.queue, c)
	if !to.busy {
		to.busy = true
		l.s.d.work.Go(to.run)
	}
	return true
}

func (l *lane) run() {
	for {
		l.mu.Lock()
		n := min(len(l.queue), laneAtOnce)
		if n == 0 {
			l.busy, l.queue = false, nil
			l.mu.Unlock()
			return
		}
		calls := l.queue[:n:n]
		l.queue = l.queue[n:]
		l.mu.Unlock()
		l.lanes.s.apply(l.lanes.s.d.ctx, calls)
	}
}

// apply puts marks, those of a bucket in one command, and hands them on to the
// backlog in their order.
func (s *readStateStore) apply(ctx context.Context, calls []*markCall) {
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	byBucket := map[int][]*markCall{}
	for _, c := range calls {
		byBucket[c.bucket] = append(byBucket[c.bucket], c)
	}
	p := s.d.client.Pipeline()
	cmds := map[int]*redis.Cmd{}
	for bucket, cs := range byBucket {
		gen, _ := s.gates.present(bucket)
		if gen == nil {
			continue
		}
		keys, args := make([]string, len(cs)), make([]any, 0, 2*len(cs))
		for i, c := range cs {
			keys[i], c.gen = c.key, gen
			args = append(args, c.channel, c.value)
		}
		cmds[bucket] = s.script(ctx, p, bucket, gen, gateOpen, opPut, keys, args)
	}
	_, _ = p.Exec(ctx) // each has its error
	for bucket, cs := range byBucket {
		s.applied(bucket, cs, cmds[bucket])
	}
}

func (s *readStateStore) applied(bucket int, cs []*markCall, cmd *redis.Cmd) {
	fail := func(err error) {
		for _, c := range cs {
			c.done <- err
		}
	}
	if cmd == nil {
		fail(errGenerationOver)
		return
	}
	stored, err := cmd.StringSlice()
	switch {
	case isLost(err):
		s.gates.lost(bucket, cs[0].gen)
		fail(errGenerationOver)
	case err != nil:
		fail(wrote(err))
	case len(stored) != len(cs):
		fail(errUnreadable())
	default:
		for i, c := range cs {
			c.value = stored[i]
		}
		s.backlog.add(cs)
	}
}
