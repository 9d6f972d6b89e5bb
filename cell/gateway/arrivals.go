package gateway

import (
	"context"
	"time"

	"parley/cell/presence"
	"parley/internal/topology"
	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
)

// storeHealth is whether presence can be known. It is the presence state's, under
// its lock.
type storeHealth struct {
	failing time.Time // since when the store fails; zero: its last answer was good
	failed  time.Time // when it failed last
	away    bool      // sessions were told that nothing is known
	back    []topology.Place
}

const (
	// presenceDoubt is for how long the store must fail before sessions are told: a
	// fail-over is no reason.
	presenceDoubt = 5 * time.Second
	// presenceSettle is for how long it must work again before it is believed: it may
	// have been emptied, and all gateways write what is theirs within presenceRenew.
	presenceSettle = presenceRenew + 2*time.Second
	// presenceBack is how many places are told in one turn when it is back.
	presenceBack = 10
)

// answered notes how the store answered.
func (p *presenceState) answered(ctx context.Context, now time.Time, err error) {
	if err != nil && ctx.Err() != nil {
		return // that was us
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil:
		p.store.failing = time.Time{}
	case p.store.failing.IsZero():
		p.store.failing, p.store.failed = now, now
	default:
		p.store.failed = now
	}
}

// weighPresence tells sessions when presence can't be known for a while, and, place
// by place, when it can be again: everybody is offline then, but for those who are
// told after that.
func (g *Gateway) weighPresence(ctx context.Context, now time.Time) {
	h := &g.presence.store
	byPlace := map[topology.Place][]*session{}
	gather := func() {
		for _, s := range g.allSessions() {
			byPlace[s.place] = append(byPlace[s.place], s)
		}
	}
	g.presence.mu.Lock()
	goes := !h.away && !h.failing.IsZero() && now.Sub(h.failing) >= presenceDoubt
	comes := h.away && h.failing.IsZero() && now.Sub(h.failed) >= presenceSettle
	h.away = (h.away || goes) && !comes
	back := h.back[:min(len(h.back), presenceBack)]
	if h.back = h.back[len(back):]; goes {
		back, h.back = nil, nil
	}
	g.presence.mu.Unlock()
	switch {
	case goes:
		g.log.Warn("presence is unknown: its store is away")
		tellEverybody(g.allSessions(), presence.Unknown)
		g.flush()
	case comes:
		g.log.Info("presence is known again")
		gather()
		g.presence.mu.Lock()
		for place := range byPlace {
			h.back = append(h.back, place)
		}
		g.presence.mu.Unlock()
	case len(back) > 0:
		gather()
		for _, place := range back {
			g.tellBack(ctx, place, byPlace[place])
		}
		g.flush()
	}
}

func (g *Gateway) tellBack(ctx context.Context, place topology.Place, ss []*session) {
	ask, cancel := context.WithTimeout(ctx, g.cfg.RequestMax)
	defer cancel()
	tellEverybody(ss, presence.Offline)
	if err := g.tellWhoIsThere(ask, place, ss); err != nil && ctx.Err() == nil {
		g.log.Warn("presence not told; trying again", "workspace", string(place.Workspace), "err", err)
		g.presence.mu.Lock()
		g.presence.store.back = append(g.presence.store.back, place)
		g.presence.mu.Unlock()
	}
}

// tellEverybody tells sessions one status of everybody.
func tellEverybody(ss []*session, status presence.Status) {
	payload := chat.Encode(chat.PresenceEvent{Type: chat.TypePresence, Status: status.String()})
	for _, s := range ss {
		s.send(frame.SessionFrame{Payload: payload})
	}
}

// allSessions is the live sessions of all users.
func (g *Gateway) allSessions() []*session {
	g.mu.Lock()
	var users []*user
	for _, us := range g.users {
		users = append(users, us...)
	}
	g.mu.Unlock()
	var out []*session
	for _, u := range users {
		for _, s := range u.all() {
			if s.isLive() {
				out = append(out, s)
			}
		}
	}
	return out
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
	arrived, away := p.arrived, p.store.away
	p.arrived = nil
	p.mu.Unlock()
	if away { // they are told who is there with all others, when it is known again
		tellEverybody(arrived, presence.Unknown)
		g.flush()
		return
	}
	byPlace := map[topology.Place][]*session{}
	for _, s := range arrived {
		byPlace[s.place] = append(byPlace[s.place], s)
	}
	for place, ss := range byPlace {
		ask, cancel := context.WithTimeout(ctx, g.cfg.RequestMax)
		if err := g.tellWhoIsThere(ask, place, ss); err != nil && ctx.Err() == nil {
			g.log.Warn("presence not told at opening; trying again", "workspace", string(place.Workspace), "err", err)
			for _, s := range ss {
				p.arrive(s)
			}
		}
		cancel()
	}
	if len(byPlace) > 0 {
		g.flush()
	}
}

func (g *Gateway) tellWhoIsThere(ctx context.Context, place topology.Place, ss []*session) error {
	statuses, err := g.deps.Presence.Present(ctx, place, presenceCrowd+1)
	g.presence.answered(ctx, g.deps.Now(), err)
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
