//go:build engines

package kafka_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"parley/cell/eventlog"
	"parley/cell/kafka"
	"parley/cell/worker"
	"parley/internal/problem"
	"parley/internal/topology"
)

// The test's binary is a member of a group, as a process that can be killed, when
// this variable names it; the next ones say where it works.
const (
	memberVariable  = "PARLEY_TEST_KAFKA_MEMBER"
	prefixVariable  = "PARLEY_TEST_KAFKA_PREFIX"
	effectsVariable = "PARLEY_TEST_KAFKA_EFFECTS"
)

const testGroup = "effects"

// beMember handles events by a line each in the file of effects, until SIGTERM.
func beMember(name string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	cfg := newConfig(strings.Split(os.Getenv(addressVariable), ","))
	cfg.Prefix = os.Getenv(prefixVariable)
	db, err := kafka.Open(ctx, cfg, nil, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	effects, err := os.OpenFile(os.Getenv(effectsVariable), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = effects.Close() }() // what was written is there
	w, err := worker.New(worker.Config{Group: testGroup}, worker.Deps{
		Events: db.Events(),
		Handle: func(_ context.Context, es []eventlog.Event) error {
			var lines bytes.Buffer
			for _, e := range es {
				fmt.Fprintf(&lines, "%s %s %d\n", name, e.Channel.Channel, e.Rev)
			}
			_, err := effects.Write(lines.Bytes()) // one call: nobody's lines stand within
			return err
		},
	})
	if err != nil {
		return err
	}
	return w.Run(ctx, func() {})
}

// crew is a group of processes at work.
type crew struct {
	t       *testing.T
	cfg     kafka.Config
	db      *kafka.DB
	effects string
	fed     topology.Rev // of every channel
}

func newCrew(t *testing.T) *crew {
	t.Helper()
	c := &crew{t: t, cfg: newPrefix(t), effects: filepath.Join(t.TempDir(), "effects")}
	c.db = open(t, c.cfg)
	if err := os.WriteFile(c.effects, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// hire starts a member; end sends it a signal and waits for its end.
func (c *crew) hire(name string) (end func(os.Signal)) {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), memberVariable+"="+name, prefixVariable+"="+c.cfg.Prefix, effectsVariable+"="+c.effects)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	ended := false
	end = func(s os.Signal) {
		if ended {
			return
		}
		ended = true
		_ = cmd.Process.Signal(s)
		if err := cmd.Wait(); err != nil && s == syscall.SIGTERM {
			c.t.Errorf("member %s: %v", name, err)
		}
	}
	c.t.Cleanup(func() { end(syscall.SIGKILL) })
	return end
}

func channelOf(p topology.Shard) topology.ChannelRef {
	return topology.ChannelRef{Place: topology.Place{Workspace: "W1", Generation: 1}, Channel: topology.ChannelID(fmt.Sprintf("C%d", p))}
}

// feed appends n events of a channel to every partition.
func (c *crew) feed(n int) {
	c.t.Helper()
	for p := range topology.Shard(topology.Shards) {
		es := make([]eventlog.Event, n)
		for i := range es {
			es[i] = eventlog.Event{Channel: channelOf(p), Rev: c.fed + topology.Rev(i+1), Kind: 1}
		}
		if err := c.db.Events().Append(c.t.Context(), p, es); err != nil {
			c.t.Fatal(err)
		}
	}
	c.fed += topology.Rev(n)
}

// done looks at the effects: who had how many channels' newest events, how often
// something was done again, and whether all is done. It fails on an effect that
// came before its forerunner.
func (c *crew) done() (by map[string]int, again int, all bool) {
	c.t.Helper()
	f, err := os.Open(c.effects)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	last, who := map[string]topology.Rev{}, map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var name, ch string
		var rev topology.Rev
		if _, err := fmt.Sscanf(lines.Text(), "%s %s %d", &name, &ch, &rev); err != nil {
			c.t.Fatalf("%q: %v", lines.Text(), err)
		}
		switch {
		case rev > last[ch]+1:
			c.t.Fatalf("%s: rev %d follows %d", ch, rev, last[ch])
		case rev <= last[ch]:
			again++
			continue
		}
		last[ch], who[ch] = rev, name
	}
	by = map[string]int{}
	full := 0
	for ch, rev := range last {
		if rev == c.fed {
			full++
			by[who[ch]]++
		}
	}
	return by, again, full == topology.Shards
}

// until feeds a little and waits until it is all done by those who are named, each
// with a fair share.
func (c *crew) until(what string, names ...string) {
	c.t.Helper()
	late := time.After(time.Minute)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		c.feed(5)
		deadline := time.Now().Add(2 * time.Second)
		for time.Now().Before(deadline) {
			by, _, all := c.done()
			fair := len(by) == len(names)
			for _, n := range names {
				fair = fair && by[n] >= topology.Shards/len(names)-1
			}
			if all && fair {
				return
			}
			select {
			case <-tick.C:
			case <-late:
				c.t.Fatalf("waited in vain until %s; newest events were handled by %v, all: %v", what, by, all)
			}
		}
	}
}

// TestKafka_WorkersShareAGroup has members come, leave and die under load: every
// event is handled, in order per channel, and only what the dead had not committed
// is handled again.
func TestKafka_WorkersShareAGroup(t *testing.T) {
	c := newCrew(t)
	c.feed(50)
	ann := c.hire("ann")
	c.until("ann does all", "ann")
	bob := c.hire("bob")
	c.until("bob does half", "ann", "bob")
	ann(syscall.SIGTERM)
	c.until("bob does all", "bob")
	c.hire("carl")
	c.until("carl does half", "bob", "carl")
	if _, again, _ := c.done(); again != 0 {
		t.Errorf("%d events were handled again though nobody died", again)
	}
	bob(syscall.SIGKILL)
	began := time.Now()
	c.until("carl does all", "carl")
	_, again, _ := c.done()
	t.Logf("%d events of %d were handled again after a kill; carl had all after %v", again, int(c.fed)*topology.Shards, time.Since(began).Round(time.Millisecond))
	if again > int(c.fed)*topology.Shards/2 {
		t.Errorf("%d events were handled again", again)
	}
}

// told is a member that says what it is told.
type told struct {
	gained chan []topology.Shard
	lost   chan []topology.Shard
}

func (m told) Gain(ps []topology.Shard) {
	if len(ps) > 0 {
		m.gained <- ps
	}
}
func (told) Release([]topology.Shard) {}
func (m told) Lose(ps []topology.Shard) {
	if len(ps) > 0 {
		m.lost <- ps
	}
}

// TestKafka_OnlyMembersCommit: while a group has a member, others can't store
// positions for it, and the member none of what it does not have.
func TestKafka_OnlyMembersCommit(t *testing.T) {
	cfg := newPrefix(t)
	db, other := open(t, cfg), open(t, cfg)
	l, ok := db.Events().(eventlog.Assigner)
	if !ok {
		t.Fatal("the log is no Assigner")
	}
	m := told{make(chan []topology.Shard, 4), make(chan []topology.Shard, 4)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Assign(ctx, "g", m) }()
	if ps := <-m.gained; len(ps) != topology.Shards {
		t.Fatalf("gained %d partitions", len(ps))
	}
	if err := db.Events().Commit(t.Context(), "g", 3, 5); err != nil {
		t.Fatal(err)
	}
	if err := other.Events().Commit(t.Context(), "g", 3, 1); !problem.Is(err, problem.Fenced) {
		t.Errorf("Commit of a stranger = %v, want kind fenced", err)
	}
	if err := l.Assign(ctx, "g", m); err == nil {
		t.Error("one process is a member twice")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Assign = %v", err)
	}
	if at, err := other.Events().Committed(t.Context(), "g", 3); err != nil || at != 5 {
		t.Errorf("committed = %d, %v; want 5", at, err)
	}
}
