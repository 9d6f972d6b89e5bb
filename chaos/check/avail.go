package check

import (
	"slices"
	"time"

	"parley/chaos/history"
	"parley/internal/topology"
)

// dueMax is after how long what was due counts as missing: a post, a delivery.
const dueMax = 2 * time.Second

// wait is a time in which a client went without something.
type wait struct{ from, to int64 } // µs

// avail: during each fault enough was posted to tell, and no client went without
// for longer than the fault's budget.
func avail(r *Run, o Options, f *finding) {
	for _, s := range r.faults {
		acked := 0
		for _, p := range r.posts {
			if p.ok() && p.client.role != history.RoleControl && p.end.AtUS >= s.begin && p.begin.AtUS <= r.until(s) { // under way in it
				acked++
			}
		}
		f.examined += acked
		if acked < o.MinPosts {
			f.lack("only %d posts were acked during %s; %d are needed to tell", acked, s.name, o.MinPosts)
		}
		b, ok := o.Budgets[s.name]
		if !ok {
			continue
		}
		if p := r.pause(s); p.P99 > b.P99 || p.Max > b.Max {
			f.violate("%s: clients went without for p99 %s, max %s; the budget is %s, %s; the longest: %s", s.name,
				round(p.P99), round(p.Max), b.P99, b.Max, r.longest(s))
		}
	}
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// waits are all times in which a person went without: from a post to its ack, over
// refusals, and from a change's commit to its arrival.
func (r *Run) waits(p *person) (out []wait, why []*Line) {
	refusedSince := int64(0)
	for _, l := range p.lines {
		o := p.ops[l.Op]
		if o == nil || o.begin.Do != history.DoPost || l.Kind == history.Invoke {
			continue
		}
		switch l.Kind { //nolint:exhaustive // others are no end
		case history.OK:
			from := o.begin.AtUS
			if refusedSince > 0 {
				from, refusedSince = min(from, refusedSince), 0
			}
			out, why = append(out, wait{from, l.AtUS}), append(why, l)
		case history.Fail, history.Unknown:
			if refusedSince == 0 {
				refusedSince = o.begin.AtUS
			}
		}
	}
	committed := r.commits()
	p.frames(func(l *Line) bool {
		if m := l.Event.Message; m != nil {
			if at, ok := committed[m.MessageID]; ok {
				out, why = append(out, wait{at, l.AtUS}), append(why, l)
			}
		}
		return true
	})
	return out, why
}

// commits is when each message was confirmed, or, without an append log, acked.
func (r *Run) commits() map[topology.MessageID]int64 {
	if r.committed != nil {
		return r.committed
	}
	r.committed = map[topology.MessageID]int64{}
	for _, o := range r.posts {
		if o.ok() {
			r.committed[o.end.MessageID] = o.end.AtUS
		}
	}
	for _, l := range r.appends {
		if _, known := r.committed[l.MessageID]; l.MessageID != "" && (l.State != history.Recovered || !known) {
			r.committed[l.MessageID] = l.AtUS
		}
	}
	return r.committed
}

// pause is how long the swarm's clients went without, at the longest, of what
// became due in a fault.
func (r *Run) pause(s span) Pause {
	var all []time.Duration
	r.each(func(p *person) {
		if p.role == history.RoleControl || len(p.lines) == 0 {
			return
		}
		ws, _ := r.waits(p)
		if d, found := longestOf(ws, s.begin, r.until(s)); found {
			all = append(all, d)
		}
	})
	if len(all) == 0 {
		return Pause{}
	}
	slices.Sort(all)
	at := func(q float64) time.Duration { return all[min(int(q*float64(len(all))), len(all)-1)] }
	return Pause{P50: at(0.5), P99: at(0.99), Max: all[len(all)-1], Clients: len(all)}
}

func longestOf(ws []wait, begin, end int64) (longest time.Duration, found bool) {
	for _, w := range ws {
		if w.to >= begin && w.from <= end {
			found = true
			longest = max(longest, time.Duration(w.to-w.from)*time.Microsecond)
		}
	}
	return longest, found
}

// longest names the longest wait of a fault.
func (r *Run) longest(s span) string {
	longest, out := time.Duration(0), "nobody waited"
	r.each(func(p *person) {
		if p.role == history.RoleControl {
			return
		}
		ws, why := r.waits(p)
		for i, w := range ws {
			d := time.Duration(w.to-w.from) * time.Microsecond
			if w.to >= s.begin && w.from <= r.until(s) && d > longest {
				what := "an ack"
				if why[i].Kind == history.Frame {
					what = "message " + string(why[i].Event.Message.MessageID)
				}
				longest, out = d, p.name+" waited "+round(d).String()+" for "+what+" ("+why[i].at()+"), "+
					round(time.Duration(w.from-s.begin)*time.Microsecond).String()+" after the fault began"
			}
		}
	})
	return out
}

// good is the share of the swarm's user-seconds in which everything that was due
// came in time.
func (r *Run) good() float64 {
	total, bad := 0.0, 0.0
	r.each(func(p *person) {
		if p.role == history.RoleControl || len(p.lines) == 0 {
			return
		}
		first, last := p.lines[0].AtUS, min(p.lines[len(p.lines)-1].AtUS, r.end)
		total += float64(max(last-first, 0))
		ws, _ := r.waits(p)
		var late []wait
		for _, w := range ws {
			if due := w.from + dueMax.Microseconds(); w.to > due {
				late = append(late, wait{due, w.to})
			}
		}
		slices.SortFunc(late, func(a, b wait) int { return int(a.from - b.from) })
		until := int64(0)
		for _, w := range late {
			from := max(w.from, until)
			if w.to > from {
				bad += float64(w.to - from)
				until = w.to
			}
		}
	})
	if total == 0 {
		return 0
	}
	return 1 - bad/total
}

// live: once everything is healed everybody gets on: posts are acked, events come.
func live(r *Run, o Options, f *finding) {
	if r.healed == 0 {
		f.lack("nothing says when all was healed")
		return
	}
	r.each(func(p *person) {
		if p.role == history.RoleControl || !p.listens() {
			return
		}
		f.examined++
		socket, heard := uint64(0), o.Quiet
		for _, l := range p.lines {
			if l.AtUS > r.end {
				break
			}
			switch l.Kind { //nolint:exhaustive // the rest says nothing of it
			case history.Open:
				socket = l.Socket
			case history.Close:
				socket = 0
			case history.Frame:
				heard = heard || l.AtUS >= r.healed && l.Event.Message != nil
			}
		}
		switch {
		case socket == 0:
			f.violate("%s has no open socket in the end (%s)", p.name, p.lines[len(p.lines)-1].at())
		case !heard:
			f.violate("%s was given no message after all was healed (%s)", p.name, p.lines[len(p.lines)-1].at())
		}
	})
	for _, op := range r.posts {
		if op.begin.AtUS >= r.healed && op.client.role != history.RoleControl {
			f.examined++
			if !op.ok() {
				f.violate("a post of %s after all was healed was not acked (%s)", op.client.name, op.begin.at())
			}
		}
	}
}

// listens reports whether a person ever opened a socket.
func (p *person) listens() bool {
	return slices.ContainsFunc(p.lines, func(l *Line) bool { return l.Kind == history.Open })
}
