package msglog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"parley/cell/change"
	"parley/internal/problem"
	"parley/internal/topology"
)

// The model: owners run the real Log on a simulated store with three replicas,
// quorum writes and quorum reads, in which a write that was sent reaches any
// replica at any later time, twice, or never, and answers get lost. A seed decides
// everything; nothing has a clock. After every step what was shown to anybody
// must be found by every quorum read. The protocol must hold over all seeds, and
// each variant that leaves one step out must break within them.

const (
	modelOwners = 3
	modelPosts  = 5   // messages that clients want to post, at whichever owner
	modelSteps  = 300 // of a schedule
	modelSeeds  = 20_000
)

var (
	modelChannel = topology.ChannelRef{Place: topology.Place{Workspace: "W1", Generation: 1}, Channel: "C1"}
	errTimeout   = problem.New(problem.Unknown, "no answer")
	errStopped   = errors.New("the schedule has ended")
)

type mutant struct {
	name            string
	opts            options
	tailBeforeRaise bool // reads the tail, then raises the fence
	noRaise         bool // serves without having raised the fence
	publishEarly    bool // shows what has its quorum, before the fence read
	earlyFenceRead  bool // the fence read of a write begins before the write ends
	oldTimes        bool // the tail is written again at its old times
	noDedupe        bool // the new owner forgets the ids in the tail
}

func TestModel_ProtocolHolds(t *testing.T) {
	shown := 0
	for seed := range uint64(modelSeeds) {
		m := run(mutant{}, seed)
		if m.broken != "" {
			t.Fatalf("seed %d: %s\n%s", seed, m.broken, story(mutant{}, seed))
		}
		shown += len(m.shown)
	}
	if shown < modelSeeds*2 { // a model in which nothing happens holds, too
		t.Fatalf("%d schedules showed %d messages in all: too few to mean anything", modelSeeds, shown)
	}
}

func TestModel_EachStepIsNeeded(t *testing.T) {
	for _, mu := range []mutant{
		{name: "I1 tail read before the raise", tailBeforeRaise: true},
		{name: "I1 fence not raised", noRaise: true},
		{name: "I2 tail not rewritten", opts: options{noRewrite: true}},
		{name: "I2 tail rewritten at its old times", oldTimes: true},
		{name: "I2 no seal", opts: options{noSeal: true}},
		{name: "I3 no fence read before serving", opts: options{noTakeoverCheck: true}},
		{name: "I3 no fence read before the ack", opts: options{noCommitCheck: true}},
		{name: "I3 published before the fence read", publishEarly: true},
		{name: "I3 fence read begun before the write ended", earlyFenceRead: true},
		{name: "I4 other content after an unknown outcome", opts: options{keepUnknown: true}},
		{name: "ids of the tail forgotten", noDedupe: true},
	} {
		t.Run(mu.name, func(t *testing.T) {
			for seed := range uint64(modelSeeds) {
				if m := run(mu, seed); m.broken != "" {
					t.Logf("seed %d: %s", seed, m.broken)
					return
				}
			}
			t.Fatalf("held over %d schedules: the checker does not see what this step is for", modelSeeds)
		})
	}
}

// model is one schedule.
type model struct {
	mutant
	rng      *rand.Rand
	fence    Fence
	replicas [3]replica
	net      []parcel
	stopped  bool
	calm     bool // the end: no loss, no delay

	shown   map[topology.Rev]string // what somebody was shown
	applied []string                // the history: confirmed by whoever applied it
	changed bool                    // since the last check
	broken  string
	telling bool
	log     []string

	// The weather of this schedule, in percent.
	lossPct, timeoutPct, deliverPct int
	slow                            int // a replica that hears little
}

type replica struct {
	rows  map[topology.Rev]Row
	seals map[tombstone]struct{}
}

// tombstone kills what lies above it and is no younger.
type tombstone struct {
	above topology.Rev
	time  uint64
}

// parcel is a write on its way to one replica, or to the fence (to = -1).
type parcel struct {
	to    int
	label func() string
	do    func()
}

func (p parcel) where() string {
	if p.to < 0 {
		return "arrives"
	}
	return fmt.Sprintf("reaches replica %d", p.to)
}

func run(mu mutant, seed uint64) *model { return play(mu, seed, false) }

// story tells a schedule step by step.
func story(mu mutant, seed uint64) string {
	var b strings.Builder
	for i, l := range play(mu, seed, true).log {
		fmt.Fprintf(&b, "%4d. %s\n", i+1, l)
	}
	return b.String()
}

func play(mu mutant, seed uint64, telling bool) *model {
	m := &model{telling: telling, mutant: mu, rng: rand.New(rand.NewPCG(seed, 3)), shown: make(map[topology.Rev]string)}
	for i := range m.replicas {
		m.replicas[i] = replica{rows: make(map[topology.Rev]Row), seals: make(map[tombstone]struct{})}
	}
	m.lossPct, m.timeoutPct = m.rng.IntN(4)*8, m.rng.IntN(3)*8
	m.deliverPct, m.slow = 20+m.rng.IntN(3)*25, m.rng.IntN(4)
	m.schedule()
	if m.broken == "" {
		m.finish()
	}
	return m
}

// schedule lets the owners and the network take turns.
func (m *model) schedule() {
	var owners []func() (struct{}, bool)
	for i := range modelOwners {
		next, stop := iter.Pull(func(yield func(struct{}) bool) { m.owner(i, yield) })
		owners = append(owners, next)
		defer func() {
			m.stopped = true
			stop()
		}()
	}
	live := owners[:1] // the others come later
	for range modelSteps {
		if len(live) < len(owners) && m.rng.IntN(12) == 0 {
			live = owners[:len(live)+1]
		}
		if len(m.net) > 0 && m.rng.IntN(100) < m.deliverPct {
			m.deliver()
		} else {
			live[m.rng.IntN(len(live))]()
		}
		if m.check(); m.broken != "" {
			return
		}
	}
}

// deliver hands over one parcel, perhaps to come again.
func (m *model) deliver() {
	i := m.rng.IntN(len(m.net))
	p := m.net[i]
	if p.to == m.slow && m.rng.IntN(5) != 0 {
		return
	}
	if m.rng.IntN(20) != 0 {
		m.net = slices.Delete(m.net, i, i+1)
	}
	m.do(p)
}

func (m *model) do(p parcel) {
	if m.telling {
		m.note("%s %s", p.label(), p.where())
	}
	p.do()
	m.changed = true
}

// finish: two healthy owners come, one before and one after all that is still on
// its way has arrived. Both must find what was shown, and the same log.
func (m *model) finish() {
	m.calm = true
	var views [2][]string
	for i := range views {
		m.mutant = mutant{}
		next, stop := iter.Pull(func(yield func(struct{}) bool) {
			views[i], _ = m.takeOver(m.newLog(modelOwners+i, yield), modelOwners+i, yield)
		})
		for ok := true; ok; _, ok = next() {
			m.check()
		}
		stop()
		if i == 0 {
			for len(m.net) > 0 {
				p := m.net[0]
				m.net = m.net[1:]
				m.do(p)
				m.check()
			}
		}
	}
	if m.broken == "" && !slices.Equal(views[0], views[1]) {
		m.fail("late writes changed the log from %v to %v", views[0], views[1])
	}
}

// owner is a channel server: it takes over, serves, posts; when it loses its
// hold it may try again.
func (m *model) owner(i int, yield func(struct{}) bool) {
	l := m.newLog(i, yield)
	for range 2 {
		view, h := m.takeOver(l, i, yield)
		for h != nil && h.Err() == nil && !m.stopped {
			batch := m.pick(view)
			if len(batch) == 0 {
				return
			}
			var cs []change.Change
			for k, text := range batch {
				cs = append(cs, change.Change{Rev: topology.Rev(len(view) + k + 1), Kind: change.Message, Text: text})
			}
			if h.Commit(context.Background(), []Batch{{Channel: modelChannel, Changes: cs}}) == nil {
				view = append(view, batch...)
				m.show(i, view)
				m.apply(view)
			}
			if m.rng.IntN(5) == 0 && h.Err() == nil { // the channel is closed and opened again
				view = m.recover(h, i)
			}
		}
	}
}

func (m *model) takeOver(l *Log, i int, yield func(struct{}) bool) ([]string, *Hold) {
	ctx := context.Background()
	if m.tailBeforeRaise {
		rows, err := l.store.Tail(ctx, modelChannel, 1, tailPage)
		if err != nil {
			return nil, nil
		}
		once := true
		l.opts.tail = func(_ topology.ChannelRef, from topology.Rev) ([]Row, bool) {
			defer func() { once = false }()
			return dense(rows[min(int(from)-1, len(rows)):], from), once
		}
	}
	holds, err := l.Take(ctx, []topology.Shard{modelChannel.Shard()})
	if err != nil || len(holds) == 0 {
		return nil, nil
	}
	return m.recover(holds[0], i), holds[0]
}

// recover takes the channel over and serves it; a history that was applied since
// the tail was read does no harm: from is read first.
func (m *model) recover(h *Hold, i int) []string {
	view := slices.Clone(m.applied)
	cs, err := h.Recover(context.Background(), modelChannel, topology.Rev(len(view)+1))
	if err != nil {
		h.Drop()
		return nil
	}
	for _, c := range cs {
		view = append(view, c.Text)
	}
	m.show(i, view)
	return view
}

// pick is what clients post next: one or two messages that are not in the log.
func (m *model) pick(view []string) []string {
	var batch []string
	for _, k := range m.rng.Perm(modelPosts)[:1+m.rng.IntN(2)] {
		text := fmt.Sprint("m", k)
		if !slices.Contains(view, text) || m.noDedupe && m.rng.IntN(4) == 0 {
			batch = append(batch, text)
		}
	}
	if len(batch) == 0 && len(view) < modelPosts {
		return m.pick(view)
	}
	return batch
}

// show is what leaves the server: its log.
func (m *model) show(i int, view []string) {
	m.note("owner %d shows %v", i, view)
	for k, text := range view {
		m.showAt(i, topology.Rev(k+1), text)
		if slices.Contains(view[:k], text) {
			m.fail("owner %d has %s twice: %v", i, text, view)
		}
	}
}

func (m *model) showAt(i int, rev topology.Rev, text string) {
	if was, ok := m.shown[rev]; ok && was != text {
		m.fail("owner %d shows %s at rev %d, where %s was shown", i, text, rev, was)
	}
	m.shown[rev] = text
	m.changed = true
}

func (m *model) apply(view []string) {
	if m.rng.IntN(3) == 0 && len(view) > len(m.applied) {
		m.applied = slices.Clone(view)
	}
}

// check reads what was shown from every pair of replicas.
func (m *model) check() {
	if !m.changed {
		return
	}
	m.changed = false
	for a := range m.replicas {
		for b := range a {
			for rev, text := range m.shown {
				row, ok := merged(m.replicas[a], m.replicas[b], rev)
				if got := decodeText(row); !ok || got != text {
					m.fail("rev %d was shown as %s, replicas %d and %d now say %q", rev, text, b, a, got)
					return
				}
			}
		}
	}
}

func decodeText(r Row) string {
	c, err := change.Decode(r.Blob)
	if err != nil {
		return ""
	}
	return c.Text
}

func (m *model) fail(format string, args ...any) {
	if m.broken == "" {
		m.broken = fmt.Sprintf(format, args...)
		m.note("BROKEN: %s", m.broken)
	}
}

func (m *model) note(format string, args ...any) {
	if m.telling {
		m.log = append(m.log, fmt.Sprintf(format, args...))
	}
}

// put and sealAt are a replica's merge: the higher time wins; a seal kills rows
// of its time and before, also those that come later. Of two rows at one time the
// greater blob wins, as in Cassandra.
func (r replica) put(row Row) {
	if was, ok := r.rows[row.Rev]; !ok || row.Time > was.Time || row.Time == was.Time && slices.Compare(row.Blob, was.Blob) > 0 {
		r.rows[row.Rev] = row
	}
}

func (r replica) sealAt(s Seal) { r.seals[tombstone{s.Above, s.Time}] = struct{}{} }

// merged is a row as a quorum read of two replicas gives it.
func merged(a, b replica, rev topology.Rev) (Row, bool) {
	row, ok := a.rows[rev]
	if other, has := b.rows[rev]; has && (!ok || other.Time > row.Time || other.Time == row.Time && slices.Compare(other.Blob, row.Blob) > 0) {
		row, ok = other, true
	}
	for _, r := range []replica{a, b} {
		for s := range r.seals {
			if rev > s.above && row.Time <= s.time {
				return Row{}, false
			}
		}
	}
	return row, ok
}

func (r replica) copy() replica {
	return replica{rows: maps.Clone(r.rows), seals: maps.Clone(r.seals)}
}

func (m *model) newLog(i int, yield func(struct{}) bool) *Log {
	s := &modelStore{m: m, owner: i, yield: yield}
	o := m.opts
	o.wait = func(context.Context, time.Duration) error {
		if m.stopped || !s.calmly() && m.rng.IntN(6) == 0 {
			return errStopped // as if the caller's patience had ended
		}
		return nil
	}
	return newLog(s, topology.ServerID(fmt.Sprint("o", i)), o)
}
