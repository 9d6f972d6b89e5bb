package workload

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"parley/bench/cluster"
	"parley/bench/load"
	"parley/bench/site"
	"parley/client"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// SearchLag is how long it takes from a post's ack until a search finds the message,
// while others post at a steady pace.
type SearchLag struct {
	PerS   int           // posts
	Sample int           // of so many one is searched for
	For    time.Duration // of a run
}

// SearchLagSize is the table's: some 125 samples a run.
func SearchLagSize() SearchLag { return SearchLag{PerS: 200, Sample: 32, For: 20 * time.Second} }

const (
	lagPeople   = 100
	lagChannels = 50
	lagMembers  = 10
	lagWarm     = 3 * time.Second
	lagCompiled = 40 * time.Second
	lagMaxMS    = 2000
	// lagFirst and lagEvery are when a sample is searched for: not so often that the
	// searches are the load.
	lagFirst  = 200 * time.Millisecond
	lagEvery  = 50 * time.Millisecond
	lagGone   = 30 * time.Second // then it is lost
	lagAtOnce = 1000             // posts without an answer; more, and the cell can't keep the pace
)

// Run measures each run's p99.
func (l SearchLag) Run(ctx context.Context, e *Env) (_ []Row, err error) {
	dir, remove, err := e.scratch("search-lag")
	if err != nil {
		return nil, err
	}
	defer remove()
	s, err := e.startSite(ctx, dir, 1, quick)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	people, err := s.Seed(ctx, 0, cluster.Seed{Prefix: "lag", Users: lagPeople, Channels: lagChannels, Members: lagMembers})
	if err != nil {
		return nil, err
	}
	talk, err := newTalkers(s, people)
	if err != nil {
		return nil, err
	}
	defer talk.close()
	row := Row{
		Workload: fmt.Sprintf("search at %d posts/s", l.PerS), Measure: "from ack until found, p99, ms", Targets: mostTargets(lagMaxMS, lagMaxMS)[:1],
	}
	warm := l // the JVMs' compilers; at half the pace, for they are what is slow
	warm.PerS, warm.For = l.PerS/2, max(lagCompiled, l.For)
	e.Say("warming up")
	if _, err := warm.once(ctx, talk); err != nil {
		return nil, err
	}
	var p99, p50, ack []float64
	for run := range e.Runs {
		if err := s.Settle(ctx, nil); err != nil {
			return nil, err
		}
		e.Say(fmt.Sprintf("run %d of %d", run+1, e.Runs))
		got, err := l.once(ctx, talk)
		if err != nil {
			return nil, err
		}
		p99, p50, ack = append(p99, quantile(got.found, 0.99)), append(p50, quantile(got.found, 0.5)), append(ack, quantile(got.acks, 0.99))
		row.Counts = plus(row.Counts, load.Counts{Posts: int64(len(got.acks)), Lost: got.lost})
		row.Notes = append(row.Notes, fmt.Sprintf("run %d: %d posts (%.0f/s), %d searched for", run+1, len(got.acks), float64(len(got.acks))/l.For.Seconds(), len(got.found)))
	}
	row.set(p99, nil)
	row.Notes = append(row.Notes, fmt.Sprintf("p50 %.0f ms; ack p99 %.0f ms; searched for every %s from %s after the ack on, through GET /api/v1/search at the edge", statOf(p50).Median, statOf(ack).Median, lagEvery, lagFirst))
	return []Row{row}, nil
}

// talkers are people with clients, who post in turns.
type talkers struct {
	clients  []*client.Client
	channels []topology.ChannelID
	whose    [][]int // by channel: its members' clients
}

func newTalkers(s *site.Site, people cluster.People) (*talkers, error) {
	t := &talkers{}
	at := map[topology.UserID]int{}
	for i, u := range people.Users {
		c, err := client.New(client.Config{URL: "http://" + s.Edge(), Token: u.Token})
		if err != nil {
			return nil, err
		}
		t.clients = append(t.clients, c)
		at[u.ID] = i
	}
	for _, ch := range people.Channels {
		t.channels = append(t.channels, ch.ID)
		var of []int
		for _, u := range ch.Members {
			of = append(of, at[u])
		}
		t.whose = append(t.whose, of)
	}
	return t, nil
}

func (t *talkers) close() {
	for _, c := range t.clients {
		c.Close()
	}
}

// post is the nth; the channel and its member change with every one.
func (t *talkers) post(n int) (*client.Client, topology.ChannelID) {
	ch := n % len(t.channels)
	of := t.whose[ch]
	return t.clients[of[n/len(t.channels)%len(of)]], t.channels[ch]
}

// lags are a run's, in ms.
type lags struct {
	mu          sync.Mutex
	acks, found []float64
	lost        int64
	err         error
}

func (l SearchLag) once(ctx context.Context, t *talkers) (*lags, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		out   = &lags{}
		work  sync.WaitGroup
		slots = make(chan struct{}, lagAtOnce)
		tick  = time.NewTicker(time.Second / time.Duration(l.PerS))
		total = int((l.For + lagWarm).Seconds() * float64(l.PerS))
		warm  = int(lagWarm.Seconds() * float64(l.PerS))
		begin = time.Now()
		said  = 0
	)
	defer tick.Stop()
	for said < total && ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		// A late tick has the posts of those that were left out.
		for due := int(time.Since(begin).Seconds() * float64(l.PerS)); said < min(due, total); said++ {
			n := said
			slots <- struct{}{}
			work.Go(func() {
				defer func() { <-slots }()
				out.take(l.say(ctx, t, n, n >= warm, out), cancel)
			})
		}
	}
	work.Wait()
	return out, out.err
}

func (o *lags) take(err error, cancel func()) {
	if err == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.err = err
	}
	cancel()
}

// say posts, and searches for some of the posts.
func (l SearchLag) say(ctx context.Context, t *talkers, n int, counts bool, out *lags) error {
	c, ch := t.post(n)
	word := "lag" + strings.ToLower(rand.Text())
	asked := time.Now()
	posted, err := c.Post(ctx, ch, chat.PostRequest{ClientMsgID: word, Text: word + " " + filler})
	if err != nil {
		return err
	}
	acked := time.Now()
	if !counts {
		return nil
	}
	out.mu.Lock()
	out.acks = append(out.acks, ms(acked.Sub(asked)))
	out.mu.Unlock()
	if n%l.Sample != 0 {
		return nil
	}
	found, err := search(ctx, c, word, posted.MessageID, acked)
	out.mu.Lock()
	defer out.mu.Unlock()
	if found {
		out.found = append(out.found, ms(time.Since(acked)))
	} else if err == nil {
		out.lost++
	}
	return err
}

// filler makes a message of the usual size.
const filler = "the quick brown fox jumps over the lazy dog and runs on through the wood to where the others wait for it in the shade of an old oak, " +
	"which has seen many foxes come and go, and dogs, too, most of them asleep; nobody there has ever asked why any of them was in such a hurry"

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// search looks for a message until the index has it. What is found without the index
// does not count.
func search(ctx context.Context, c *client.Client, word string, id topology.MessageID, acked time.Time) (bool, error) {
	t := time.NewTimer(lagFirst)
	defer t.Stop()
	for time.Since(acked) < lagGone {
		select {
		case <-t.C:
		case <-ctx.Done():
			return false, ctx.Err()
		}
		page, err := c.Search(ctx, client.SearchQuery{Text: word})
		switch {
		case err != nil && !problem.Is(err, problem.Unavailable):
			return false, err
		case err == nil && !page.Degraded:
			for _, m := range page.Messages {
				if m.MessageID == id {
					return true, nil
				}
			}
		}
		t.Reset(lagEvery)
	}
	return false, nil
}
