//nolint:thelper,gosec // clauses are tests, whose lines should be told; the numbers are small
package eventlogtest

import (
	"context"
	"testing"

	"pgregory.net/rapid"

	"parley/cell/eventlog"
	"parley/internal/topology"
)

func wantEnd(t tb, l eventlog.Log, p topology.Shard, want eventlog.Position) {
	t.Helper()
	got, err := l.End(context.Background(), p)
	if err != nil {
		t.Fatalf("End(%d): %v", p, err)
	}
	if got != want {
		t.Fatalf("End(%d) = %d, want %d", p, got, want)
	}
}

func endIsTheNewest(t *testing.T, in Instance) {
	wantEnd(t, in.Log(), 5, 0)
	add(t, in.Log(), 5, events(0, 7))
	add(t, in.Log(), 6, events(0, 1))
	wantEnd(t, in.Log(), 5, 7)
	add(t, in.Log(), 5, nil)
	wantEnd(t, in.Log(), 5, 7)
	add(t, in.Log(), 5, events(7, 2))
	wantEnd(t, in.Log(), 5, 9)
	commit(t, in.Log(), "g", 5, 9)
	crash(t, in)
	wantEnd(t, in.Log(), 5, 9)
}

// runModel appends, reads, commits and crashes at random, and compares with
// slices.
func runModel(t *testing.T, h Harness) {
	t.Helper()
	rapid.Check(t, func(rt *rapid.T) {
		in, err := h()
		if err != nil {
			rt.Fatalf("open: %v", err)
		}
		defer func() {
			if err := in.Close(); err != nil {
				rt.Errorf("close: %v", err)
			}
		}()
		m := &machine{
			in: in, events: map[topology.Shard][]eventlog.Event{},
			committed: map[groupPartition]eventlog.Position{}, durable: map[topology.Shard]int{},
		}
		rt.Repeat(map[string]func(*rapid.T){
			"":       m.check,
			"append": m.append,
			"read":   m.read,
			"commit": m.commit,
			"crash":  m.crash,
		})
	})
}

type groupPartition struct {
	group     string
	partition topology.Shard
}

type machine struct {
	in        Instance
	events    map[topology.Shard][]eventlog.Event
	committed map[groupPartition]eventlog.Position
	durable   map[topology.Shard]int // events that no crash may lose
	next      int
}

func drawPartition(t *rapid.T) topology.Shard {
	return rapid.SampledFrom([]topology.Shard{0, 1, topology.Shards - 1}).Draw(t, "partition")
}

func (m *machine) append(t *rapid.T) {
	p, n := drawPartition(t), rapid.IntRange(0, 20).Draw(t, "events")
	es := events(m.next, n)
	m.next += n
	add(t, m.in.Log(), p, es)
	m.events[p] = append(m.events[p], es...)
}

func (m *machine) read(t *rapid.T) {
	p := drawPartition(t)
	wantAll(t, m.in.Log(), p, rapid.IntRange(1, 30).Draw(t, "limit"), m.events[p])
}

// commit commits a position that there is, lower ones than before among them.
func (m *machine) commit(t *rapid.T) {
	p := drawPartition(t)
	g := groupPartition{rapid.SampledFrom([]string{"a", "ab"}).Draw(t, "group"), p}
	at := rapid.IntRange(0, len(m.events[p])).Draw(t, "position")
	commit(t, m.in.Log(), g.group, p, eventlog.Position(at))
	m.committed[g] = eventlog.Position(at)
	m.durable[p] = max(m.durable[p], at)
}

func (m *machine) crash(t *rapid.T) {
	crash(t, m.in)
	for p, es := range m.events {
		_, last := read(t, m.in.Log(), p, 0, limit)
		if int(last) < m.durable[p] || int(last) > len(es) {
			t.Fatalf("%d of %d events of partition %d are left, %d were committed above", last, len(es), p, m.durable[p])
		}
		m.events[p] = es[:last]
	}
}

func (m *machine) check(t *rapid.T) {
	for p, es := range m.events {
		wantEnd(t, m.in.Log(), p, eventlog.Position(len(es)))
	}
	for g, at := range m.committed {
		wantCommitted(t, m.in.Log(), g.group, g.partition, at)
	}
}
