package gateway

import (
	"context"
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
	heard   []presence.Change     // of any gateway, to be told to sessions
	topics  map[topology.WorkspaceID]int
}

// Bounds and pace of presence. It is the first thing to give way under load.
const (
	presenceEvery   = time.Second
	presenceRenew   = 10 * time.Second
	presenceHeard   = 10_000 // changes that wait to be told; more are dropped
	presenceReaders = 2_000  // sessions that are told one user's change
)

func (p *presenceState) init() {
	p.written = map[userKey]presence.Status{}
	p.touched = map[userKey]time.Time{}
	p.topics = map[topology.WorkspaceID]int{}
}

// touchPresence looks at a user's presence soon.
func (g *Gateway) touchPresence(key userKey) {
	p := &g.presence
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.touched[key]; !ok && key.id != "" {
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
	renewed := time.Time{}
	for {
		now := g.deps.Now()
		cs := g.changedPresence(now)
		if len(cs) > 0 || now.Sub(renewed) >= presenceRenew {
			if err := g.writePresence(ctx, cs); err != nil && ctx.Err() == nil {
				g.log.Warn("presence not written; trying again", "err", err)
				for _, c := range cs {
					g.touchPresence(userKey{c.Place, c.User})
				}
			} else {
				renewed = now
			}
		}
		g.tellPresence(ctx)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
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
			p.touched[key] = since
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

// hearPresence notes changes to be told.
func (g *Gateway) hearPresence(payload []byte) error {
	cs, err := presence.Decode(payload)
	if err != nil {
		return err
	}
	p := &g.presence
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = append(p.heard, cs[:min(len(cs), max(0, presenceHeard-len(p.heard)))]...)
	return nil
}

// tellPresence tells the sessions of people who share a channel with a user about
// the user's status, as it is over all gateways.
func (g *Gateway) tellPresence(ctx context.Context) {
	p := &g.presence
	p.mu.Lock()
	heard := p.heard
	p.heard = nil
	p.mu.Unlock()
	seen := map[userKey]bool{}
	for _, c := range heard {
		key := userKey{c.Place, c.User}
		if seen[key] {
			continue
		}
		seen[key] = true
		if err := g.tellOne(ctx, key); err != nil && ctx.Err() == nil {
			g.log.Warn("a presence could not be told", "user", string(c.User), "err", err)
		}
	}
	if len(heard) > 0 {
		g.flush()
	}
}

func (g *Gateway) tellOne(ctx context.Context, key userKey) error {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.RequestMax)
	defer cancel()
	status, err := g.deps.Presence.Read(ctx, key.Place, []topology.UserID{key.id})
	if err != nil {
		return err
	}
	members, err := g.deps.Directory.ChannelsOf(ctx, key.Place, key.id)
	if err != nil {
		return err
	}
	payload := chat.Encode(chat.PresenceEvent{Type: chat.TypePresence, UserID: key.id, Status: status[key.id].String()})
	told := map[*session]bool{}
	for _, m := range members {
		f := g.follower(m.Channel)
		if f == nil {
			continue
		}
		for _, s := range f.sessions() {
			if len(told) >= presenceReaders {
				return nil
			}
			if !told[s] && s.open.User != key.id {
				told[s] = true
				s.send(frame.SessionFrame{Payload: payload})
			}
		}
	}
	return nil
}

func (f *follower) sessions() []*session {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*session
	for _, gr := range f.groups {
		for s := range gr.sessions {
			out = append(out, s)
		}
	}
	return out
}
