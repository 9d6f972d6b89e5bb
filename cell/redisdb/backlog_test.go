package redisdb

import (
	"errors"
	"log/slog"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"parley/cell/readstate"
	"parley/internal/topology"
)

// TestBacklog_R3_TheHighestIsLast: whatever fails and is tried again, of each key the
// journal's last mark is the highest that was acknowledged, every call is answered
// once, and what was acknowledged without the journal is owed to it.
func TestBacklog_R3_TheHighestIsLast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newBacklogMachine(t)
		t.Repeat(rapid.StateMachineActions(m))
		for len(m.b.order) > 0 {
			m.Append(t)
		}
		m.Check(t)
		for key, seq := range m.put {
			if want := encodeMark(readstate.Mark{Seq: seq}); m.journal[key] != want || m.acked[key] != want {
				t.Fatalf("%s: put was %s, the journal ends with %s, acknowledged was %s", key, want, m.journal[key], m.acked[key])
			}
		}
	})
}

// backlogMachine is a backlog between callers and a journal.
type backlogMachine struct {
	b       backlog
	gen     *generation
	waiting map[*markCall]chan error
	put     map[string]topology.Seq // by key in the journal, as all here
	acked   map[string]string
	journal map[string]string
}

func newBacklogMachine(t *rapid.T) *backlogMachine {
	m := &backlogMachine{
		gen: newGeneration("g"), waiting: map[*markCall]chan error{}, put: map[string]topology.Seq{},
		acked: map[string]string{}, journal: map[string]string{},
	}
	none, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	m.b.init(&readStateStore{d: &DB{metrics: none, log: slog.New(slog.DiscardHandler)}}, pendingLow)
	return m
}

// Put has marks of some keys put, each higher than its key's last.
func (m *backlogMachine) Put(t *rapid.T) {
	var cs []*markCall
	for range rapid.IntRange(1, 5).Draw(t, "marks") {
		key := "k" + strconv.Itoa(rapid.IntRange(0, 3).Draw(t, "key"))
		m.put[key]++
		value, done := encodeMark(readstate.Mark{Seq: m.put[key]}), make(chan error, 1)
		c := &markCall{stored: value, owed: owed{key: key, value: value, gen: m.gen, done: done}}
		m.waiting[c] = done
		cs = append(cs, c)
	}
	m.b.add(cs)
}

// take has the next marks reach the journal.
func (m *backlogMachine) take() []*owed {
	os := m.b.take()
	for _, o := range os {
		m.journal[o.key] = o.value
	}
	return os
}

// Append has the journal take what waits.
func (m *backlogMachine) Append(*rapid.T) {
	for _, o := range m.take() {
		m.b.away = false
		o.answer(nil)
	}
}

// AppendUnsure has the journal take it, and Redis not say that it still has it.
func (m *backlogMachine) AppendUnsure(*rapid.T) { m.b.putBack(m.take()) }

// JournalAway has it not take what waits.
func (m *backlogMachine) JournalAway(*rapid.T) {
	if os := m.b.take(); len(os) > 0 {
		m.b.isAway(os, errors.New("away"))
		m.b.putBack(os)
	}
}

// JournalAwayInDoubt has it take what waits, and not say so.
func (m *backlogMachine) JournalAwayInDoubt(*rapid.T) {
	if os := m.take(); len(os) > 0 {
		m.b.isAway(os, errors.New("no answer"))
		m.b.putBack(os)
	}
}

// Check holds after every step.
func (m *backlogMachine) Check(t *rapid.T) {
	for c, done := range m.waiting {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			delete(m.waiting, c)
			m.acked[c.key] = max(m.acked[c.key], c.stored)
		default:
		}
	}
	owes := map[string]string{}
	for _, o := range m.b.order {
		owes[o.key] = max(owes[o.key], o.value)
	}
	for key, value := range m.acked {
		if m.journal[key] < value && owes[key] < value {
			t.Fatalf("%s: acknowledged was %s, the journal has %q and is owed %q", key, value, m.journal[key], owes[key])
		}
	}
	if n := len(m.b.pending); n != 0 && n != len(m.b.order) {
		t.Fatalf("%d of %d are found by key", n, len(m.b.order))
	}
	if len(m.b.order) == 0 && len(m.waiting) > 0 {
		t.Fatalf("%d calls are forgotten", len(m.waiting))
	}
}
