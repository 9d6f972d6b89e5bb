package gateway

import (
	"context"
	"slices"
	"sync"
	"time"

	"parley/cell/presence"
	"parley/cell/router"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
)

// presenceState is what this gateway has written of its users, and what is to be
// written and told.
type presenceState struct {
	mu      sync.Mutex
	written map[userKey]presence.Status
	touched map[userKey]time.Time // since when, for the grace
	heard   map[userKey]struct{}  // of any gateway, to be told to sessions
	topics  map[topology.WorkspaceID]int
	arrived []*session // to be told who is there
	store   storeHealth
}

// Bounds and pace of presence. It is the first thing to give way under load.
const (
	presenceEvery   = time.Second
	presenceRenew   = presence.LeaseTTL / 10 // as soon a store that was emptied is found out
	presenceBatch   = 1_000                  // changes in one write
	presenceHeard   = 10_000                 // users that wait to be told of; more are dropped
	presenceTold    = 200                    // users that are told of in one turn
	presenceReaders = 1_000                  // sessions that are told of one user
	presenceArrived = 1_000                  // sessions that wait to be told who is there; more learn by changes
	// presenceCrowd is up to how many sessions a channel makes its people know of
	// each other: n people who come tell n² times, and nobody looks at a list of
	// hundreds. In a crowd a client asks for whom it shows.
	presenceCrowd = 200
)

func (p *presenceState) init() {
	p.written = map[userKey]presence.Status{}
	p.touched = map[userKey]time.Time{}
	p.heard = map[userKey]struct{}{}
	p.topics = map[topology.WorkspaceID]int{}
}

// touchPresence looks at a user's presence soon.
func (g *Gateway) touchPresence(key userKey) {
	p := &g.presence
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.touched[key]; !ok {
		p.touched[key] = g.deps.Now()
	}
}

// statusOf is what the user's sessions here say.
func (g *Gateway) statusOf(key userKey) presence.Status {
	u := g.user(key)
	if u == nil {
		return presence.Offline
	}
	status := presence.Offline
	for _, s := range u.all() {
		s.mu.Lock()
		if s.idle {
			status = max(status, presence.Away)
		} else {
			status = presence.Online
		}
		s.mu.Unlock()
	}
	return status
}

// keepPresence writes changes in batches and renews the lease.
func (g *Gateway) keepPresence(ctx context.Context) {
	t := time.NewTicker(presenceEvery)
	defer t.Stop()
	renewed := g.deps.Now()
	for {
		now := g.deps.Now()
		if g.writeChanged(ctx, now, now.Sub(renewed) >= presenceRenew) {
			renewed = now
		}
		g.weighPresence(ctx, now)
		g.tellPresence(ctx)
		g.tellArrived(ctx)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// writeChanged writes what has changed; all, if the lease has ended, and with it
// what was written. It tells whether the lease was renewed.
func (g *Gateway) writeChanged(ctx context.Context, now time.Time, due bool) (renewed bool) {
	cs := g.changedPresence(now)
	for whole := false; len(cs) > 0 || due; due = false {
		before := g.presence.isWritten()
		part := cs[:min(len(cs), presenceBatch)]
		kept, err := g.writePresence(ctx, part)
		if err != nil {
			if ctx.Err() == nil {
				g.log.Warn("presence not written; trying again", "err", err)
			}
			for _, c := range cs {
				g.touchPresence(userKey{c.Place, c.User})
			}
			return renewed
		}
		renewed, cs = true, cs[len(part):]
		if !kept && before && !whole {
			whole, cs = true, g.wholePresence()
		}
	}
	return renewed
}

func (p *presenceState) isWritten() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.written) > 0
}

// wholePresence is every user here.
func (g *Gateway) wholePresence() []presence.Change {
	var keys []userKey
	g.mu.Lock()
	for _, us := range g.users {
		for _, u := range us {
			keys = append(keys, u.key)
		}
	}
	g.mu.Unlock()
	out := make([]presence.Change, len(keys))
	for i, key := range keys {
		out[i] = presence.Change{Place: key.Place, User: key.id, Status: g.statusOf(key)}
	}
	return out
}

// changedPresence takes the users whose status is another than the one written. A
// user without sessions is given some time to come back.
func (g *Gateway) changedPresence(now time.Time) []presence.Change {
	p := &g.presence
	p.mu.Lock()
	touched := p.touched
	p.touched = map[userKey]time.Time{}
	p.mu.Unlock()
	var out []presence.Change
	for key, since := range touched {
		status := g.statusOf(key)
		p.mu.Lock()
		was := p.written[key]
		switch {
		case status == presence.Offline && was != presence.Offline && now.Sub(since) < g.cfg.OfflineGrace:
			if _, again := p.touched[key]; !again {
				p.touched[key] = since
			}
		case status != was:
			out = append(out, presence.Change{Place: key.Place, User: key.id, Status: status})
		}
		p.mu.Unlock()
	}
	return out
}

func (g *Gateway) writePresence(ctx context.Context, cs []presence.Change) (kept bool, err error) {
	ask, cancel := context.WithTimeout(ctx, g.cfg.RequestMax)
	defer cancel()
	kept, err = g.deps.Presence.Set(ask, g.cfg.ID, cs)
	g.presence.answered(ctx, g.deps.Now(), err)
	if err != nil {
		return false, err
	}
	byWorkspace := map[topology.WorkspaceID][]presence.Change{}
	followed := map[topology.WorkspaceID]bool{} // true: somebody of it is here now
	p := &g.presence
	p.mu.Lock()
	for _, c := range cs {
		if p.note(userKey{c.Place, c.User}, c.Status) {
			followed[c.Workspace] = p.topics[c.Workspace] > 0
		}
		byWorkspace[c.Workspace] = append(byWorkspace[c.Workspace], c)
	}
	p.mu.Unlock()
	for ws, is := range followed { // without the lock: the router may be slow
		if is {
			g.bus.Follow(router.PresenceTopic(ws))
		} else {
			g.bus.Unfollow(router.PresenceTopic(ws))
		}
	}
	for ws, cs := range byWorkspace {
		g.deps.Bus.Publish(router.PresenceTopic(ws), presence.Encode(cs))
	}
	return kept, nil
}

// note takes what was written and tells whether the first of a workspace came, or
// the last went. The caller holds the lock.
func (p *presenceState) note(key userKey, now presence.Status) bool {
	was := p.written[key]
	if now == presence.Offline {
		delete(p.written, key)
	} else {
		p.written[key] = now
	}
	switch {
	case was == presence.Offline && now != presence.Offline:
		p.topics[key.Workspace]++
		return p.topics[key.Workspace] == 1
	case was != presence.Offline && now == presence.Offline:
		if p.topics[key.Workspace]--; p.topics[key.Workspace] == 0 {
			delete(p.topics, key.Workspace)
			return true
		}
	}
	return false
}

// hearPresence notes users to be told of.
func (g *Gateway) hearPresence(payload []byte) error {
	cs, err := presence.Decode(payload)
	if err != nil {
		return err
	}
	p := &g.presence
	for _, c := range cs {
		p.hear(userKey{c.Place, c.User})
	}
	return nil
}

func (p *presenceState) hear(key userKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.heard) < presenceHeard {
		p.heard[key] = struct{}{}
	}
}

// tellPresence tells the sessions of people who share a channel with a user about
// the user's status, as it is over all gateways.
func (g *Gateway) tellPresence(ctx context.Context) {
	p := &g.presence
	byPlace := map[topology.Place][]topology.UserID{}
	n := 0
	p.mu.Lock()
	for key := range p.heard {
		if n++; n > presenceTold {
			break
		}
		delete(p.heard, key)
		byPlace[key.Place] = append(byPlace[key.Place], key.id)
	}
	p.mu.Unlock()
	for place, us := range byPlace {
		ask, cancel := context.WithTimeout(ctx, g.cfg.RequestMax)
		statuses, err := g.deps.Presence.Read(ask, place, us)
		p.answered(ctx, g.deps.Now(), err)
		for _, u := range us {
			switch {
			case statuses == nil:
				p.hear(userKey{place, u}) // another time
			case err == nil:
				err = g.tellOne(ask, userKey{place, u}, statuses[u])
			}
		}
		cancel()
		if err != nil && ctx.Err() == nil {
			g.log.Warn("presence not told", "workspace", string(place.Workspace), "err", err)
		}
	}
	if len(byPlace) > 0 {
		g.flush()
	}
}

func (g *Gateway) tellOne(ctx context.Context, key userKey, status presence.Status) error {
	members, err := g.deps.Directory.ChannelsOf(ctx, key.Place, key.id)
	if err != nil {
		return err
	}
	payload := chat.Encode(chat.PresenceEvent{Type: chat.TypePresence, UserID: key.id, Status: status.String()})
	var told []*session
	seen := map[*session]bool{}
	for _, m := range members {
		f := g.roll.find(topology.ChannelRef{Place: key.Place, Channel: m.Channel})
		if f == nil || len(told) >= presenceReaders {
			continue
		}
		present := f.sessions()
		if len(present) > presenceCrowd {
			continue
		}
		for _, s := range present {
			if !seen[s] && s.open.User != key.id {
				seen[s] = true
				told = append(told, s)
			}
		}
	}
	told = slices.Clip(told[:min(len(told), presenceReaders)])
	for _, s := range told {
		s.send(frame.SessionFrame{Payload: payload})
	}
	return nil
}
