package check

import (
	"cmp"
	"math"
	"slices"

	"parley/chaos/history"
	"parley/internal/topology"
)

type idem struct {
	channel topology.ChannelID
	user    topology.UserID
	key     string
}

// kept: what was acked is in the final history, once, as it was said; what was
// refused is not; what is unknown is there at most once.
func kept(r *Run, _ Options, f *finding) {
	finals := map[idem][]*Line{}
	for _, c := range r.channels {
		for _, m := range c.msgs {
			k := idem{m.Channel, m.User, m.ClientMsgID}
			finals[k] = append(finals[k], m)
		}
	}
	acked := 0
	repeated := map[idem]bool{}
	for _, o := range r.posts {
		k := idem{o.begin.Channel, o.client.user, o.begin.ClientMsgID}
		if o.ok() && repeated[k] {
			continue // that it gave the same message back is retry's
		}
		repeated[k] = repeated[k] || o.ok()
		f.examined++
		got := finals[k]
		c := r.channels[o.begin.Channel]
		switch {
		case c == nil || c.head == nil:
			f.lack("the final state of channel %s is missing (%s)", o.begin.Channel, o.begin.at())
		case len(got) > 1:
			f.violate("client_msg_id %q is in channel %s %d times: %s (%s) and %s (%s)", o.begin.ClientMsgID, o.begin.Channel, len(got),
				got[0].MessageID, got[0].at(), got[1].MessageID, got[1].at())
		case o.sure() && len(got) > 0:
			f.violate("a post that was refused (%s: %s) is in history as %s (%s)", o.end.at(), o.end.Why, got[0].MessageID, got[0].at())
		case !o.ok():
		case len(got) == 0:
			f.violate("acked message %s of channel %s (%s) is not in history", o.end.MessageID, o.begin.Channel, o.end.at())
		case got[0].MessageID != o.end.MessageID || got[0].Text != o.begin.Text || got[0].Seq != o.end.Seq:
			f.violate("acked message %s seq %d (%s) is in history as %s seq %d (%s), or with another text", o.end.MessageID, o.end.Seq, o.end.at(),
				got[0].MessageID, got[0].Seq, got[0].at())
		}
		if o.ok() {
			acked++
		}
	}
	if acked == 0 {
		f.lack("no post was acked")
	}
}

// order: one order, the same in every view, without gaps, and true to real time.
func order(r *Run, _ Options, f *finding) {
	for _, id := range sortedKeys(r.channels) {
		c := r.channels[id]
		finalOrder(c, f)
		viewsAgree(r, id, c, f)
	}
	realTime(r, f)
}

// finalOrder: seqs are dense and ids rise, in the channel and in each thread.
func finalOrder(c *channel, f *finding) {
	last := map[topology.MessageID]*Line{} // by root; "" = the channel
	for _, m := range c.msgs {
		f.examined++
		before := last[m.Root]
		want := topology.Seq(1)
		if before != nil {
			want = before.Seq + 1
		}
		if m.Seq != want {
			f.violate("history of channel %s goes to seq %d (%s) where %d is next", m.Channel, m.Seq, m.at(), want)
		}
		if before != nil && m.MessageID <= before.MessageID {
			f.violate("id %s (%s) does not rise after %s (%s)", m.MessageID, m.at(), before.MessageID, before.at())
		}
		last[m.Root] = m
	}
}

// viewsAgree: a rev is the same message in every ack and frame, with the same seq
// and text.
func viewsAgree(r *Run, id topology.ChannelID, c *channel, f *finding) {
	byRev := map[topology.Rev]*Line{}
	revOf := map[topology.MessageID]topology.Rev{}
	see := func(l *Line, rev topology.Rev, m topology.MessageID, seq topology.Seq) {
		f.examined++
		if old, ok := revOf[m]; ok && old != rev {
			f.violate("message %s is at rev %d and, in %s, at rev %d", m, old, l.at(), rev)
		}
		revOf[m] = rev
		if old := byRev[rev]; old != nil && idOf(old) != m {
			f.violate("rev %d of channel %s is %s in %s and %s in %s", rev, id, idOf(old), old.at(), m, l.at())
		}
		byRev[rev] = l
		if final := c.byID[m]; final != nil && final.Seq != seq {
			f.violate("message %s has seq %d in %s and %d in history (%s)", m, seq, l.at(), final.Seq, final.at())
		}
	}
	for _, o := range r.posts {
		if o.ok() && o.begin.Channel == id {
			see(o.end, o.end.Rev, o.end.MessageID, o.end.Seq)
		}
	}
	r.each(func(p *person) {
		p.frames(func(l *Line) bool {
			if m := l.Event.Message; m != nil && l.Event.ChannelID == id {
				see(l, l.Event.Rev, m.MessageID, m.Seq)
			}
			return true
		})
	})
}

func idOf(l *Line) topology.MessageID {
	if l.Event != nil && l.Event.Message != nil {
		return l.Event.Message.MessageID
	}
	return l.MessageID
}

// realTime: what was acked before another was invoked comes before it.
func realTime(r *Run, f *finding) {
	byChannel := map[topology.ChannelID][]*op{}
	for _, o := range r.posts {
		if o.ok() {
			byChannel[o.begin.Channel] = append(byChannel[o.begin.Channel], o)
		}
	}
	for _, ops := range byChannel {
		slices.SortFunc(ops, func(a, b *op) int { return cmp.Compare(b.end.Rev, a.end.Rev) })
		soonest, at := int64(math.MaxInt64), (*op)(nil)
		for _, o := range ops { // from the highest rev down
			f.examined++
			if o.begin.AtUS > soonest && at.end.Rev > o.end.Rev {
				f.violate("message %s (rev %d, %s) was acked before %s (rev %d, %s) was posted, and comes after it",
					at.end.MessageID, at.end.Rev, at.end.at(), o.end.MessageID, o.end.Rev, o.begin.at())
			}
			if o.end.AtUS < soonest {
				soonest, at = o.end.AtUS, o
			}
		}
	}
}

// published: nobody was shown what history does not have.
func published(r *Run, _ Options, f *finding) {
	r.each(func(p *person) {
		p.frames(func(l *Line) bool {
			m := l.Event.Message
			if m == nil {
				return true
			}
			f.examined++
			c := r.channels[l.Event.ChannelID]
			if c == nil || c.head == nil {
				f.lack("the final state of channel %s is missing (%s)", l.Event.ChannelID, l.at())
				return true
			}
			final := c.byID[m.MessageID]
			switch {
			case final == nil:
				f.violate("%s was shown message %s (%s), which history does not have", p.name, m.MessageID, l.at())
			case final.Text != m.Text || final.User != m.UserID:
				f.violate("%s was shown message %s (%s) with another text or author than history's (%s)", p.name, m.MessageID, l.at(), final.at())
			case l.Event.Rev > c.head.Rev:
				f.violate("%s was shown rev %d (%s), beyond the final head %d (%s)", p.name, l.Event.Rev, l.at(), c.head.Rev, c.head.at())
			}
			return true
		})
	})
}

// retry: a key repeated by the same author in the same channel gives the same
// message back.
func retry(r *Run, _ Options, f *finding) {
	first := map[idem]*op{}
	for _, o := range r.posts {
		if !o.ok() {
			continue
		}
		f.examined++
		k := idem{o.begin.Channel, o.client.user, o.begin.ClientMsgID}
		old := first[k]
		if old != nil && old.end.MessageID != o.end.MessageID {
			f.violate("client_msg_id %q gave %s (%s) and, repeated, %s (%s)", k.key, old.end.MessageID, old.end.at(), o.end.MessageID, o.end.at())
		}
		first[k] = o
	}
}

// readstate: marks only rise, and the last one is kept.
func readstate(r *Run, _ Options, f *finding) {
	highest := map[markKey]*Line{}
	r.each(func(p *person) {
		seen := map[topology.ChannelID]topology.MessageID{}
		for _, l := range p.lines {
			ch, id := markIn(p, l)
			if ch == "" {
				continue
			}
			f.examined++
			if l.Kind == history.OK {
				if old := highest[markKey{p.user, ch}]; old == nil || old.MessageID < id {
					highest[markKey{p.user, ch}] = l
				}
			}
			if l.Kind == history.Frame {
				if id < seen[ch] {
					f.violate("the mark of %s in channel %s went back from %s to %s (%s)", p.name, ch, seen[ch], id, l.at())
				}
				seen[ch] = id
			}
		}
	})
	for k, l := range highest {
		final := r.final[k]
		if final == nil || final.MessageID < l.MessageID {
			f.violate("%s's mark in channel %s was acked at %s (%s) and is not there in the end", k.user, k.channel, l.MessageID, l.at())
		}
	}
}

// markIn is the mark that a line tells of.
func markIn(p *person, l *Line) (topology.ChannelID, topology.MessageID) {
	switch {
	case l.Kind == history.Frame && l.Event.LastRead != nil:
		return l.Event.ChannelID, *l.Event.LastRead
	case l.Kind == history.OK && p.ops[l.Op] != nil && p.ops[l.Op].begin.Do == history.DoMarkRead && l.MessageID != "":
		return l.Channel, l.MessageID
	default:
		return "", ""
	}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	out := make([]K, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
