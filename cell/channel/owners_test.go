package channel_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/internal/problem"
	"parley/internal/topology"
)

// load posts to channels from many writers at once and remembers what was acked.
type load struct {
	c     *cell
	refs  []topology.ChannelRef
	stop  chan struct{}
	wg    sync.WaitGroup
	acked atomic.Int64

	mu      sync.Mutex
	posts   map[string]change.Change // acked, by key
	refused map[string]bool          // answered that nothing was done
}

func (c *cell) load(refs []topology.ChannelRef, writers int) *load {
	l := &load{c: c, refs: refs, stop: make(chan struct{}), posts: map[string]change.Change{}, refused: map[string]bool{}}
	for w := range writers {
		l.wg.Go(func() { l.write(w) })
	}
	return l
}

func (l *load) write(w int) {
	for i := 0; ; i++ {
		select {
		case <-l.stop:
			return
		default:
		}
		key := fmt.Sprintf("w%d-%d", w, i)
		m, err := l.post(l.refs[(w+i)%len(l.refs)], key)
		l.mu.Lock()
		if err == nil {
			l.posts[key] = m
			l.acked.Add(1)
		} else {
			l.refused[key] = true
		}
		l.mu.Unlock()
		if err != nil && !problem.Is(err, problem.Unavailable) {
			l.c.t.Errorf("post %s: %v", key, err)
			return
		}
	}
}

// post posts as a client does: while the outcome is unknown it asks again.
func (l *load) post(ref topology.ChannelRef, key string) (change.Change, error) {
	ctx, cancel := context.WithTimeout(context.Background(), waitMax)
	defer cancel()
	unknown := false
	for {
		m, err := l.c.cluster.Post(ctx, channel.Post{Channel: ref, Author: "U1", Text: "text of " + key, Key: key})
		unknown = unknown || problem.Is(err, problem.Unknown)
		if err == nil || !unknown || ctx.Err() != nil {
			return m, err
		}
	}
}

// more waits for n more acks.
func (l *load) more(n int64) {
	l.c.t.Helper()
	from := l.acked.Load()
	eventually(l.c.t, fmt.Sprintf("%d more posts are acked", n), func() bool { return l.acked.Load() >= from+n })
}

// end stops the writers and checks invariants 1, 2, 3 and 6: every acked post is
// in its channel's log where its ack says, once, and nothing else is; followers
// saw only what is there.
func (l *load) end(heard *listener) {
	l.c.t.Helper()
	close(l.stop)
	l.wg.Wait()
	found := map[string]change.Change{}
	for _, ref := range l.refs {
		log := l.c.logOf(ref)
		for _, e := range log {
			if e.ClientMsgID == "" || e.Kind != change.Message {
				continue
			}
			if l.refused[e.ClientMsgID] {
				l.c.t.Errorf("%s was refused, but is in the log", e.ClientMsgID)
			}
			if _, twice := found[e.ClientMsgID]; twice {
				l.c.t.Errorf("%s is in the log twice", e.ClientMsgID)
			}
			found[e.ClientMsgID] = e.Change
		}
		for _, ev := range heard.of(ref.Channel) {
			if ev.From > topology.Rev(len(log)) || string(log[ev.From-1].Payload) != string(ev.Payload) {
				l.c.t.Errorf("%s: rev %d was shown with another content than the log's", ref.Channel, ev.From)
			}
		}
	}
	for key, m := range l.posts {
		if diff := cmp.Diff(m, found[key]); diff != "" {
			l.c.t.Errorf("acked %s, but the log: %s", key, diff)
		}
	}
	if len(found) != len(l.posts) {
		l.c.t.Errorf("%d posts acked, %d in the log", len(l.posts), len(found))
	}
}

func (c *cell) channels(n int) []topology.ChannelRef {
	refs := make([]topology.ChannelRef, n)
	for i := range refs {
		refs[i] = c.channel(i+1, "U1")
	}
	return refs
}

func owned(s *running, refs []topology.ChannelRef) int {
	hs, err := s.Heads(context.Background(), refs)
	if err != nil {
		return -1
	}
	n := 0
	for _, h := range hs {
		if h.Owned {
			n++
		}
	}
	return n
}

func TestOwners_ShareTheShardsAndKeepTheOrder(t *testing.T) {
	c := newCell(t)
	a := c.start("cs-1")
	refs := c.channels(24)
	heard := c.follow(refs...)
	l := c.load(refs, 16)
	l.more(50)
	b := c.start("cs-2")
	eventually(t, "both have channels", func() bool {
		x, y := owned(a, refs), owned(b, refs)
		return x > 0 && y > 0 && x+y == len(refs)
	})
	l.more(200)
	l.end(heard)
}

func TestOwners_OneKilledUnderLoad(t *testing.T) {
	c := newCell(t)
	c.start("cs-1")
	b := c.start("cs-2")
	refs := c.channels(24)
	eventually(t, "the second has channels", func() bool { return owned(b, refs) > 0 })
	heard := c.follow(refs...)
	l := c.load(refs, 16)
	for i := range 3 {
		l.more(100)
		b.kill()
		l.more(100)
		b = c.start(topology.ServerID(fmt.Sprintf("cs-2-%d", i)))
	}
	l.more(100)
	l.end(heard)
	for _, ref := range refs {
		c.derived(ref)
	}
}

// Two servers each believe that they are the only one, and take the shards from
// each other again and again, on a store that fails all the time: that costs
// time, and nothing else.
func TestOwners_FiveHintsAreOnlyHints(t *testing.T) {
	c := newCell(t)
	flaky := &flakyLog{Store: c.log}
	alone := func(id topology.ServerID) *running {
		return c.start(id, func(cfg *channel.Config, d *channel.Deps) {
			cfg.OwnershipEvery = 50 * time.Millisecond
			d.Log = flaky
			d.Live = func() []topology.ServerID { return []topology.ServerID{id} }
		})
	}
	alone("cs-1")
	refs := c.channels(12)
	heard := c.follow(refs...)
	l := c.load(refs, 8)
	l.more(50)
	alone("cs-2")
	l.more(300)
	flaky.calm.Store(true)
	l.end(heard)
	for _, ref := range refs {
		c.derived(ref)
		wantRevs(t, c.emitted(ref), int(c.head(ref).Rev))
	}
}

func TestOwners_DrainHandsOver(t *testing.T) {
	c := newCell(t)
	a := c.start("cs-1")
	refs := c.channels(24)
	c.start("cs-2")
	eventually(t, "the first is not alone", func() bool { n := owned(a, refs); return n > 0 && n < len(refs) })
	heard := c.follow(refs...)
	l := c.load(refs, 8)
	l.more(100)
	if err := a.Drain(c.ctx()); err != nil {
		t.Fatal(err)
	}
	l.more(100)
	if n := owned(a, refs); n != 0 {
		t.Errorf("the drained server still has %d channels", n)
	}
	a.kill()
	l.more(100)
	l.end(heard)
}

func TestOwners_DrainOfTheLastEnds(t *testing.T) {
	c := newCell(t)
	a := c.start("cs-1")
	ref := c.channel(1, "U1")
	if err := a.Drain(c.ctx()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := c.cluster.Post(ctx, channel.Post{Channel: ref, Author: "U1", Text: "x"})
	wantKind(t, err, problem.Unavailable)
}

func TestOwners_RestartKeepsAll(t *testing.T) {
	c := newCell(t)
	a := c.start("cs-1")
	ref := c.channel(1, "U1")
	c.history.down.Store(true) // so that the log is all there is
	root := c.post(ref, "U1", "first", "k1")
	rep := c.reply(ref, root.ID, "reply")
	before := c.logOf(ref)
	a.kill()
	c.start("cs-1")
	if diff := cmp.Diff(before, c.logOf(ref)); diff != "" {
		t.Errorf("after the restart: %s", diff)
	}
	if again := c.post(ref, "U1", "first", "k1"); again.ID != root.ID {
		t.Errorf("the repeated post became %s, not %s", again.ID, root.ID)
	}
	if next := c.reply(ref, root.ID, "next"); next.Seq != rep.Seq+1 {
		t.Errorf("the next reply is number %d", next.Seq)
	}
	c.history.down.Store(false)
	c.derived(ref)
}

// The old owner hangs in its write while another takes its shards: what it
// wrote counts only if the new owner found it, and it shows nothing itself.
func TestOwners_FivePausedOwnerIsFenced(t *testing.T) {
	c := newCell(t)
	slow := &slowLog{Store: c.log}
	live := atomic.Pointer[[]topology.ServerID]{}
	live.Store(&[]topology.ServerID{"old"})
	hint := func(d *channel.Deps) { d.Live = func() []topology.ServerID { return *live.Load() } }
	old := c.start("old", func(_ *channel.Config, d *channel.Deps) { d.Log = slow; d.Peers = nil; hint(d) })
	c.cluster.Add(old.Server)
	ref := c.channel(1, "U1")
	heard := c.follow(ref)
	c.post(ref, "U1", "before", "k0")

	came := slow.appends.close()
	direct := make(chan error, 1)
	go func() {
		_, err := old.Post(context.Background(), channel.Post{Channel: ref, Author: "U1", Text: "late", Key: "late"})
		direct <- err
	}()
	<-came
	live.Store(&[]topology.ServerID{"new"})
	fresh := c.start("new", func(_ *channel.Config, d *channel.Deps) { hint(d) })
	eventually(t, "the new owner has the channel", func() bool { return owned(fresh, []topology.ChannelRef{ref}) == 1 })
	during, err := fresh.Post(c.ctx(), channel.Post{Channel: ref, Author: "U1", Text: "during", Key: "k1"})
	if err != nil {
		t.Fatal(err)
	}
	slow.appends.open()
	if err := <-direct; !problem.Is(err, problem.Unknown) && !problem.Is(err, problem.NotOwner) {
		t.Errorf("the fenced owner answered %v", err)
	}
	if during.Rev != 3 {
		t.Errorf("the new owner's first rev is %d", during.Rev)
	}
	// The retry finds out what became of it: nothing, here.
	again := c.post(ref, "U1", "late", "late")
	if again.Rev != 4 {
		t.Errorf("the retry is rev %d", again.Rev)
	}
	log := c.logOf(ref)
	eventually(t, "all is shown", func() bool { return len(heard.of(ref.Channel)) == 3 })
	for _, e := range heard.of(ref.Channel) {
		if string(e.Payload) != string(log[e.From-1].Payload) {
			t.Errorf("rev %d was shown as %s", e.From, e.Payload)
		}
	}
}

// The old owner's write arrives, but its answer does not: the new owner finds
// the post, and the retry gets it.
func TestOwners_SixRetryAcrossOwnersGivesTheSame(t *testing.T) {
	c := newCell(t)
	a := c.start("cs-1")
	ref := c.channel(1, "U1")
	c.history.down.Store(true)
	want := c.post(ref, "U1", "x", "key")
	root := c.post(ref, "U1", "y", "root")
	a.kill()
	c.start("cs-2")
	if got := c.post(ref, "U1", "x", "key"); got.ID != want.ID {
		t.Errorf("the retry became %s, not %s", got.ID, want.ID)
	}
	_, err := c.cluster.Post(c.ctx(), channel.Post{Channel: ref, Author: "U1", Text: "z", Key: "key"})
	wantKind(t, err, problem.Conflict)
	if r := c.reply(ref, root.ID, "r"); r.Seq != 1 {
		t.Errorf("the first reply is number %d", r.Seq)
	}
	c.history.down.Store(false)
	c.derived(ref)
	if got := c.post(ref, "U1", "x", "key"); got.ID != want.ID {
		t.Errorf("the retry became %s, not %s", got.ID, want.ID)
	}
}

// Nobody tells the old owner anything, and it writes nothing: its readers make
// it look.
func TestOwners_ReadersDoNotTrustADeposedOwner(t *testing.T) {
	c := newCell(t)
	counted := &countedLog{Store: c.log}
	live := func(id topology.ServerID) func(*channel.Config, *channel.Deps) {
		return func(cfg *channel.Config, d *channel.Deps) {
			cfg.OwnershipEvery = 5 * time.Second // so that only readers look
			d.Live = func() []topology.ServerID { return []topology.ServerID{id} }
			d.Peers = nil
		}
	}
	old := c.start("old", live("old"), func(_ *channel.Config, d *channel.Deps) { d.Log = counted })
	ref := topology.ChannelRef{Place: place, Channel: "C1"}
	c.dir.put(ref, channel.Info{Number: 1}, "U1")
	if _, err := old.Member(c.ctx(), channel.Member{Channel: ref, Kind: change.Created, Author: "U1"}); err != nil {
		t.Fatal(err)
	}
	looks := counted.fences.Load()
	began := time.Now()
	c.start("new", live("new"))
	eventually(t, "the old owner finds out", func() bool { return owned(old, []topology.ChannelRef{ref}) == 0 })
	if took := time.Since(began); took > 3*time.Second || counted.fences.Load() == looks {
		t.Errorf("it took %v and %d looks", took, counted.fences.Load()-looks)
	}
}

// A write is done but its answer is lost until the server gives up: the server
// steps down, and the retry finds the post.
func TestOwners_SixLostAnswerIsFoundAgain(t *testing.T) {
	c := newCell(t)
	lossy := &lossyLog{Store: c.log}
	a := c.start("cs-1", func(cfg *channel.Config, d *channel.Deps) { cfg.CommitMax, d.Log = time.Second, lossy })
	ref := c.channel(1, "U1")
	lossy.lossy.Store(true)
	_, err := a.Post(c.ctx(), channel.Post{Channel: ref, Author: "U1", Text: "x"})
	wantKind(t, err, problem.Unknown)
	done := make(chan change.Change, 1)
	go func() {
		m, err := c.cluster.Post(context.Background(), channel.Post{Channel: ref, Author: "U1", Text: "y", Key: "key"})
		if err != nil {
			t.Error(err)
		}
		done <- m
	}()
	eventually(t, "the second post is written", func() bool { return len(c.logOf(ref)) == 3 })
	lossy.lossy.Store(false)
	m := <-done
	log := c.logOf(ref)
	if m.Rev != 3 || len(log) != 3 || log[1].Text != "x" || log[2].ID != m.ID {
		t.Errorf("the retry gave %+v; the log has %d changes", m, len(log))
	}
}

func TestCluster_WaitsForAnOwner(t *testing.T) {
	c := newCell(t)
	ref := topology.ChannelRef{Place: place, Channel: "C1"}
	c.dir.put(ref, channel.Info{Number: 1}, "U1")
	done := make(chan error, 1)
	ctx := c.ctx()
	go func() {
		_, err := c.cluster.Member(ctx, channel.Member{Channel: ref, Kind: change.Created, Author: "U1", Key: "create"})
		done <- err
	}()
	c.start("cs-1")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := channel.NewCluster(channel.ClusterConfig{}).Heads(short, []topology.ChannelRef{ref})
	wantKind(t, err, problem.Unavailable)
}
