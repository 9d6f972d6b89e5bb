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
}

// Bounds and pace of presence. It is the first thing to give way under load.
const (
	presenceEvery   = time.Second
	presenceRenew   = presence.LeaseTTL / 3
	presenceBatch   = 1_000  // changes in one write
	presenceHeard   = 10_000 // users that wait to be told of; more are dropped
	presenceTold    = 200    // users that are told of in one turn
	presenceReaders = 1_000  // sessions that are told of one user
	presenceArrived = 1_000  // sessions that wait to be told who is there; more learn by changes
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
		cs := g.changedPresence(now)
		if now.Sub(renewed) >= presence.LeaseTTL { // it has ended, and with it what was written
			cs = g.wholePresence()
		}
		for len(cs) > 0 || now.Sub(renewed) >= presenceRenew {
			part := cs[:min(len(cs), presenceBatch)]
			if err := g.writePresence(ctx, part); err != nil {
				if ctx.Err() == nil {
					g.log.Warn("presence not written; trying again", "err", err)
				}
				for _, c := range cs {
					g.touchPresence(userKey{c.Place, c.User})
				}
				break
			}
			renewed, cs = now, cs[len(part):]
		}
		g.tellPresence(ctx)
		g.tellArrived(ctx)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
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

func (g *Gateway) writePresence(ctx context.Context, cs []presence.Change) error {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.RequestMax)
	defer cancel()
	if err := g.deps.Presence.Set(ctx, g.cfg.ID, cs); err != nil {
		return err
	}
	byWorkspace := map[topology.WorkspaceID][]presence.Change{}
	p := &g.presence
	p.mu.Lock()
	for _, c := range cs {
		g.followPresence(userKey{c.Place, c.User}, c.Status)
		byWorkspace[c.Workspace] = append(byWorkspace[c.Workspace], c)
	}
	p.mu.Unlock()
	for ws, cs := range byWorkspace {
		g.deps.Bus.Publish(router.PresenceTopic(ws), presence.Encode(cs))
	}
	return nil
}

// followPresence notes what was written, and hears a workspace's changes while
// somebody of it is here. The caller holds the lock.
func (g *Gateway) followPresence(key userKey, now presence.Status) {
	p := &g.presence
	was := p.written[key]
	if now == presence.Offline {
		delete(p.written, key)
	} else {
		p.written[key] = now
	}
	switch {
	case was == presence.Offline && now != presence.Offline:
		if p.topics[key.Workspace]++; p.topics[key.Workspace] == 1 {
			g.bus.Follow(router.PresenceTopic(key.Workspace))
		}
	case was != presence.Offline && now == presence.Offline:
		if p.topics[key.Workspace]--; p.topics[key.Workspace] == 0 {
			delete(p.topics, key.Workspace)
			g.bus.Unfollow(router.PresenceTopic(key.Workspace))
		}
	}
}

// hearPresence notes users to be told of.
func (g *Gateway) hearPresence(payload []byte) error {
	cs, err := presence.Decode(payload)
	if err != nil {
		return err
	}
	p := &g.presence
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range cs {
		if len(p.heard) < presenceHeard {
			p.heard[userKey{c.Place, c.User}] = struct{}{}
		}
	}
	return nil
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
		for _, u := range us {
			if err == nil {
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

// arrive notes a session that is to be told who is there, once this gateway hears
// of changes: what comes between is in one or the other.
func (p *presenceState) arrive(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.arrived) < presenceArrived {
		p.arrived = append(p.arrived, s)
	}
}

// tellArrived tells those who came who of their channels is there, unless the
// workspace is a crowd.
func (g *Gateway) tellArrived(ctx context.Context) {
	p := &g.presence
	p.mu.Lock()
	arrived := p.arrived
	p.arrived = nil
	p.mu.Unlock()
	byPlace := map[topology.Place][]*session{}
	for _, s := range arrived {
		byPlace[s.place] = append(byPlace[s.place], s)
	}
	for place, ss := range byPlace {
		ask, cancel := context.WithTimeout(ctx, g.cfg.RequestMax)
		if err := g.tellWhoIsThere(ask, place, ss); err != nil && ctx.Err() == nil {
			g.log.Warn("presence not told at opening", "workspace", string(place.Workspace), "err", err)
		}
		cancel()
	}
	if len(byPlace) > 0 {
		g.flush()
	}
}

func (g *Gateway) tellWhoIsThere(ctx context.Context, place topology.Place, ss []*session) error {
	statuses, err := g.deps.Presence.Present(ctx, place, presenceCrowd+1)
	if err != nil || len(statuses) > presenceCrowd {
		return err
	}
	payloads := map[topology.UserID][]byte{}
	in := map[topology.ChannelID][]topology.UserID{}
	for u, status := range statuses {
		ms, err := g.deps.Directory.ChannelsOf(ctx, place, u)
		if err != nil {
			return err
		}
		for _, m := range ms {
			in[m.Channel] = append(in[m.Channel], u)
		}
		payloads[u] = chat.Encode(chat.PresenceEvent{Type: chat.TypePresence, UserID: u, Status: status.String()})
	}
	for _, s := range ss {
		told := map[topology.UserID]bool{s.open.User: true}
		for _, ch := range s.channels() {
			for _, u := range in[ch] {
				if !told[u] {
					told[u] = true
					s.send(frame.SessionFrame{Payload: payloads[u]})
				}
			}
		}
	}
	return nil
}
