package check

import (
	"regexp"
	"slices"
	"time"

	"parley/chaos/history"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// owner: at most one channel server writes a channel under a token, tokens do not
// go back, a rev is one change, and nothing was acked that was not confirmed.
func owner(r *Run, _ Options, f *finding) {
	type term struct {
		channel topology.ChannelID
		token   topology.Token
	}
	servers := map[term]*Line{}
	confirmed := map[topology.ChannelID]map[topology.Rev]*Line{}
	var last *Line
	for _, l := range r.appends { // by channel and rev
		f.examined++
		t := term{l.Channel, l.Token}
		if old := servers[t]; old != nil && old.By != l.By {
			f.violate("%s and %s wrote channel %s under the token %d (%s, %s)", old.By, l.By, l.Channel, l.Token, old.at(), l.at())
		}
		servers[t] = l
		if confirmed[l.Channel] == nil {
			confirmed[l.Channel] = map[topology.Rev]*Line{}
		}
		if old := confirmed[l.Channel][l.Rev]; old != nil && old.MessageID != l.MessageID {
			f.violate("rev %d of channel %s was confirmed as %s (%s) and as %s (%s)", l.Rev, l.Channel, old.MessageID, old.at(), l.MessageID, l.at())
		}
		confirmed[l.Channel][l.Rev] = l
		if l.State == history.Recovered { // written under an older token
			continue
		}
		if last != nil && last.Channel == l.Channel && l.Token < last.Token {
			f.violate("rev %d of channel %s has token %d (%s), rev %d before it %d (%s)", l.Rev, l.Channel, l.Token, l.at(), last.Rev, last.Token, last.at())
		}
		last = l
	}
	if len(r.appends) == 0 {
		return
	}
	for _, o := range r.posts {
		if !o.ok() || confirmed[o.begin.Channel] == nil {
			continue
		}
		f.examined++
		if l := confirmed[o.begin.Channel][o.end.Rev]; l == nil || l.MessageID != o.end.MessageID {
			f.violate("message %s was acked at rev %d (%s), and no channel server has confirmed that", o.end.MessageID, o.end.Rev, o.end.at())
		}
	}
}

// registry: placements' epochs only rise, and a workspace is written by the cell
// that has it.
func registry(r *Run, _ Options, f *finding) {
	epochs := map[topology.WorkspaceID]*Line{}
	for _, l := range r.placed {
		f.examined++
		old := epochs[l.Workspace]
		if old != nil && (l.Epoch < old.Epoch || l.Epoch == old.Epoch && l.Cell != old.Cell) {
			f.violate("workspace %s went from cell %s epoch %d (%s) to cell %s epoch %d (%s)", l.Workspace, old.Cell, old.Epoch, old.at(), l.Cell, l.Epoch, l.at())
		}
		epochs[l.Workspace] = l
	}
	type reign struct {
		workspace topology.WorkspaceID
		epoch     topology.Epoch
	}
	cells := map[reign]*Line{}
	for _, l := range r.appends {
		f.examined++
		k := reign{l.Workspace, l.Epoch}
		if old := cells[k]; old != nil && old.Cell != l.Cell {
			f.violate("workspace %s was written by cell %s (%s) and by cell %s (%s) at one epoch", l.Workspace, old.Cell, old.at(), l.Cell, l.at())
		}
		cells[k] = l
	}
}

// sealed finds every seal in a client's bytes, wherever it stands.
var sealed = regexp.MustCompile(`⟦(\S+) (\S+) (\S+) ([0-9a-f]+)⟧`)

// leak: every byte that a client got is one that it may have: of its workspace,
// and of a private channel only up to the rev at which it left.
func leak(r *Run, o Options, f *finding) {
	seal := history.NewSealer(o.Key)
	members := membership(r)
	r.each(func(p *person) {
		p.frames(func(l *Line) bool {
			for _, m := range sealed.FindAllSubmatch(l.Raw, -1) {
				f.examined++
				if ws := topology.WorkspaceID(m[1]); ws != p.workspace {
					f.violate("%s of workspace %s got bytes of workspace %s (%s)", p.name, p.workspace, ws, l.at())
				}
				if ch := topology.ChannelID(m[2]); ch != l.Event.ChannelID {
					f.violate("%s got bytes of channel %s in an event of channel %s (%s)", p.name, ch, l.Event.ChannelID, l.at())
				}
			}
			if m := l.Event.Message; m != nil {
				if _, _, ok := seal.Unseal(m.Text); !ok && sealed.MatchString(m.Text) {
					f.violate("%s got message %s with a seal that is not its own (%s)", p.name, m.MessageID, l.at())
				}
			}
			if !members.may(p.user, l.Event.ChannelID, l.Event.Rev) {
				f.violate("%s got rev %d of private channel %s (%s), in which it was no member then", p.name, l.Event.Rev, l.Event.ChannelID, l.at())
			}
			return true
		})
	})
}

// joins are who was in which private channel, from which rev to which.
type joins map[topology.ChannelID]map[topology.UserID][]stay

type stay struct{ from, to topology.Rev } // to 0 = to the end

// membership is what the private channels' own events and their final members say.
func membership(r *Run) joins {
	out := joins{}
	for id, c := range r.channels {
		if c.head != nil && c.head.Private {
			out[id] = map[topology.UserID][]stay{}
		}
	}
	seen := map[topology.ChannelID]map[topology.Rev]*event{}
	r.each(func(p *person) {
		p.frames(func(l *Line) bool {
			if e := l.Event; e.Type == chat.TypeChannel && e.Rev != 0 && out[e.ChannelID] != nil {
				if seen[e.ChannelID] == nil {
					seen[e.ChannelID] = map[topology.Rev]*event{}
				}
				seen[e.ChannelID][e.Rev] = e
			}
			return true
		})
	})
	for ch, users := range out {
		for _, rev := range sortedKeys(seen[ch]) {
			e := seen[ch][rev]
			for _, u := range e.UserIDs {
				if e.Event == chat.MemberLeft {
					if n := len(users[u]); n > 0 {
						users[u][n-1].to = rev
					} else {
						users[u] = []stay{{1, rev}} // it was in before anybody here looked
					}
				} else {
					users[u] = append(users[u], stay{from: rev})
				}
			}
		}
		for _, u := range r.channels[ch].head.Members {
			if len(users[u]) == 0 {
				users[u] = []stay{{from: 1}}
			}
		}
	}
	return out
}

func (j joins) may(u topology.UserID, ch topology.ChannelID, rev topology.Rev) bool {
	users, private := j[ch]
	if !private || rev == 0 {
		return true
	}
	return slices.ContainsFunc(users[u], func(s stay) bool { return rev >= s.from && (s.to == 0 || rev <= s.to) })
}

// walls: the control swarm, in another cell, felt nothing.
func walls(r *Run, o Options, f *finding) {
	r.each(func(p *person) {
		if p.role != history.RoleControl {
			return
		}
		for _, l := range p.lines {
			if l.AtUS > r.end {
				break
			}
			f.examined++
			switch l.Kind { //nolint:exhaustive // the rest is well
			case history.Fail, history.Unknown, history.Close, history.Down:
				f.violate("%s of the control swarm had a %s (%s): %s", p.name, l.Kind, l.at(), l.Why)
			case history.OK:
				if took := time.Duration(l.AtUS-p.ops[l.Op].begin.AtUS) * time.Microsecond; took > o.ControlMax {
					f.violate("an operation of %s of the control swarm took %s (%s)", p.name, took, l.at())
				}
			}
		}
	})
}
