package channel

import (
	"context"
	"time"

	"parley/cell/router"
	"parley/internal/failpoint"
)

const (
	// beaconHeads bounds the heads in one beacon; what does not fit goes with the
	// next one.
	beaconHeads = 4096
	// payloadHeads is how many heads go into one message of the bus: some 100
	// bytes each, so that no router's limit is met.
	payloadHeads = 1024
)

// beaconLoop sends beacons and tidies up, until ctx ends.
func (s *Server) beaconLoop(ctx context.Context) {
	tick := time.NewTicker(s.cfg.BeaconEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.tidy:
			s.evict()
			continue
		case <-tick.C:
		}
		if failpoint.At(ctx, failpoint.ChannelBeacon, string(s.cfg.ID)) != nil {
			continue
		}
		s.beacon()
		s.evict()
	}
}

// tidyLoop takes idle channels off the lists of those to recover, and marks what is in
// the event log, until ctx ends. It waits for the stores, so it is no part of the
// beacons' loop: those go out also when a store does not answer.
func (s *Server) tidyLoop(ctx context.Context) {
	tick := time.NewTicker(s.cfg.BeaconEvery)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n%markBeacons == 0 {
			s.markEmitted(ctx)
		}
		for i := range s.held {
			if sh := s.held[i].Load(); sh != nil {
				sh.clean(ctx)
			}
		}
	}
}

// beacon tells of every shard that the server holds, changed or not.
func (s *Server) beacon() {
	s.telling.Lock() // numbers go out in order
	defer s.telling.Unlock()
	var out []router.Beacon
	heads := 0
	send := func() {
		if len(out) > 0 && !failpoint.Drop(failpoint.ChannelBeacon, string(s.cfg.ID)) {
			s.deps.Bus.Publish(router.BeaconTopic, router.EncodeBeacons(out))
		}
		out, heads = nil, 0
	}
	for i := range s.held {
		sh := s.held[i].Load()
		if sh == nil {
			continue
		}
		b := sh.nextBeacon()
		if heads += len(b.Changed); heads > payloadHeads {
			send()
			heads = len(b.Changed)
		}
		out = append(out, b)
	}
	send()
}

// nextBeacon is the shard's next beacon.
func (sh *shard) nextBeacon() router.Beacon {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.beacons++
	b := router.Beacon{Shard: sh.id, Token: sh.token, Owner: sh.s.cfg.ID, Number: sh.beacons}
	for ref, h := range sh.changed {
		if len(b.Changed) == beaconHeads {
			break
		}
		b.Changed = append(b.Changed, router.Head{Channel: ref, Rev: h.Rev, Seq: h.Seq})
		delete(sh.changed, ref)
	}
	return b
}
