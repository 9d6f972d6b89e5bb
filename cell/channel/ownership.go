package channel

import (
	"context"
	"time"

	"parley/cell/msglog"
	"parley/cell/ownership"
	"parley/internal/failpoint"
	"parley/internal/topology"
)

const (
	// wakeGap is the least time between two looks at the fence rows, so that many
	// who wait for an owner cost one read.
	wakeGap = 5 * time.Millisecond
	// lookMax bounds one look, with the taking that follows.
	lookMax = 10 * time.Second
)

// follow compares what the server holds with what it should hold, until ctx ends.
func (s *Server) follow(ctx context.Context, ready func()) {
	tick := time.NewTicker(s.cfg.OwnershipEvery)
	defer tick.Stop()
	wanted := map[topology.Shard]time.Time{} // of a live holder, since when
	for {
		if err := s.look(ctx, wanted); err == nil {
			if ready != nil {
				ready()
				ready = nil
			}
		} else if ctx.Err() == nil {
			s.log.Warn("shard ownership not compared; trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.wake:
			if !pause(ctx, wakeGap) {
				return
			}
		}
	}
}

// pause waits; false when ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// look is one comparison: leave what others took, hand over what others should
// own, take what is this server's.
func (s *Server) look(ctx context.Context, wanted map[topology.Shard]time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, lookMax)
	defer cancel()
	if err := failpoint.At(ctx, failpoint.ChannelLook, string(s.cfg.ID)); err != nil {
		return err
	}
	fences, err := s.readFences(ctx)
	if err != nil {
		return err
	}
	alive, candidates := s.census(ctx)
	take, give := s.compare(fences, alive, candidates, wanted)
	err = s.take(ctx, take)
	s.handOver(ctx, give)
	s.metrics.held.Set(float64(s.holds()))
	return err
}

// readFences reads all fence rows, leaves the shards that others have taken,
// and notes of all others that they were this server's when it began.
func (s *Server) readFences(ctx context.Context) (map[topology.Shard]msglog.Fence, error) {
	began := time.Now()
	rows, err := s.fences.Fences(ctx)
	if err != nil {
		return nil, err
	}
	fences := make(map[topology.Shard]msglog.Fence, len(rows))
	for _, f := range rows {
		fences[f.Shard] = f
	}
	for i := range s.held {
		sh := s.held[i].Load()
		if sh == nil {
			continue
		}
		switch f := fences[sh.id]; {
		case f.Token > sh.token:
			sh.close("taken over")
		case f.Token == sh.token:
			sh.confirmed(began)
		}
	}
	return fences, nil
}

// census says who is there: alive are those who may hold shards, candidates
// those who should. The registry's word counts, except for peers known not to
// answer; without it, those who answer.
func (s *Server) census(ctx context.Context) (alive map[topology.ServerID]bool, candidates []topology.ServerID) {
	alive = map[topology.ServerID]bool{}
	var status map[topology.ServerID]pinged
	if c := s.peers.Load(); c != nil {
		status = c.ping(ctx)
	} else {
		st, err := s.Ping(ctx)
		status = map[topology.ServerID]pinged{s.cfg.ID: {Status: st, ok: err == nil}}
	}
	consider := func(id topology.ServerID) {
		p, known := status[id]
		if known && !p.ok {
			return
		}
		alive[id] = true
		if !p.Draining {
			candidates = append(candidates, id)
		}
	}
	if s.deps.Live != nil {
		for _, id := range s.deps.Live() {
			consider(id)
		}
	}
	if len(alive) == 0 {
		for id := range status {
			consider(id)
		}
	}
	return alive, candidates
}

// compare decides what to take and what to give to whom.
func (s *Server) compare(fences map[topology.Shard]msglog.Fence, alive map[topology.ServerID]bool, candidates []topology.ServerID,
	wanted map[topology.Shard]time.Time,
) (take []topology.Shard, give map[topology.ServerID][]*shard) {
	give = map[topology.ServerID][]*shard{}
	now := time.Now()
	for id := range topology.Shard(topology.Shards) {
		should, ok := ownership.Owner(id, candidates)
		sh := s.held[id].Load()
		mine := ok && should == s.cfg.ID
		switch {
		case sh != nil && !mine && (ok || s.isDraining()):
			give[should] = append(give[should], sh)
		case sh == nil && mine && s.free(fences[id], alive, wanted, now):
			take = append(take, id)
			continue
		}
		if sh != nil || !mine {
			delete(wanted, id)
		}
	}
	return take, give
}

// free reports whether this server may take a shard that it should own: nobody
// lives who holds it, the holder has left it, or had its time to.
func (s *Server) free(f msglog.Fence, alive map[topology.ServerID]bool, wanted map[topology.Shard]time.Time, now time.Time) bool {
	if f.Owner == "" || f.Owner == s.cfg.ID || !alive[f.Owner] {
		return true
	}
	s.mu.Lock()
	freed, ok := s.freed[f.Shard]
	s.mu.Unlock()
	if ok && freed >= f.Token {
		return true
	}
	since, ok := wanted[f.Shard]
	if !ok {
		since = now
		wanted[f.Shard] = now
	}
	return now.Sub(since) >= s.cfg.HandoverGrace
}

func (s *Server) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// take raises the tokens of shards, all at once, and begins to serve those that
// it won.
func (s *Server) take(ctx context.Context, ids []topology.Shard) error {
	l := s.running()
	if len(ids) == 0 || l == nil {
		return nil
	}
	began := time.Now()
	holds, err := s.fences.Take(ctx, ids)
	if err != nil {
		return err
	}
	s.metrics.takeover.Observe(time.Since(began).Seconds())
	// A workspace that was closed here meanwhile is seen by whoever took its
	// shard after it raised the token: what was known before does not count.
	s.checks.forgetAll()
	s.mu.Lock()
	for _, id := range ids {
		delete(s.freed, id)
	}
	s.mu.Unlock()
	c := s.peers.Load()
	for _, h := range holds {
		sh := newShard(s, l, h, began)
		if !l.spawn(sh.work) { // Run is ending
			h.Drop()
			continue
		}
		s.held[sh.id].Store(sh)
		if c != nil {
			c.taken(sh.id, sh.token, s.cfg.ID)
		}
		l.spawn(sh.derive)
		l.spawn(sh.emit)
		l.spawn(sh.recoverDirty)
		if l.ctx.Err() != nil { // Run is ending and may have passed this one by
			sh.close("stopped")
		}
	}
	if len(holds) > 0 {
		s.log.Info("took shards", "count", len(holds), "dur", time.Since(began))
		s.beacon()
		s.moved.fire()
	}
	return nil
}

// handOver stops writing to shards and tells those who should own them. The
// commit under way is finished; what waits is sent to the new owner.
func (s *Server) handOver(ctx context.Context, give map[topology.ServerID][]*shard) {
	ctx, cancel := context.WithTimeout(ctx, max(s.cfg.HandoverGrace, time.Second))
	defer cancel()
	for _, shards := range give {
		for _, sh := range shards {
			sh.stopTaking()
		}
	}
	c := s.peers.Load()
	for to, shards := range give {
		freed := make(map[topology.Shard]topology.Token, len(shards))
		for _, sh := range shards {
			if sh.untilQuiet(ctx) {
				freed[sh.id] = sh.token
			}
			sh.close("handed over")
		}
		s.log.Info("handed shards over", "count", len(freed), "to", to)
		if c != nil && to != "" {
			c.free(ctx, to, freed)
		}
	}
	if len(give) > 0 {
		s.moved.fire()
	}
}
