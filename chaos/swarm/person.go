package swarm

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"parley/chaos/history"
	"parley/client"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// person is one user at work: a stream that is kept open and read, and a queue of
// lines that are posted one after the other.
type person struct {
	Person
	s      *Swarm
	stream *client.Stream
	https  []*client.Client
	queue  chan task
	home   bool // posts over its socket; else over HTTP

	mu   sync.Mutex
	op   uint64
	last map[topology.ChannelID]topology.MessageID // to be marked read
	// gained are the channels that it was told of since it connected.
	gained map[topology.ChannelID]bool
}

type task struct {
	line int
	Line
}

// queueMax bounds what a person has still to say; more is left unsaid.
const queueMax = 64

func newPerson(s *Swarm, p Person, index int) (*person, error) {
	out := &person{Person: p, s: s, queue: make(chan task, queueMax), last: map[topology.ChannelID]topology.MessageID{}, gained: map[topology.ChannelID]bool{}, home: index%4 != 3}
	for _, u := range p.Edges {
		c, err := client.New(client.Config{URL: u, Token: p.Token, TLS: s.cfg.TLS, Dial: s.cfg.Dial})
		if err != nil {
			return nil, err
		}
		out.https = append(out.https, c)
	}
	var err error
	out.stream, err = client.NewStream(out.https, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	out.stream.Observe(observer{out})
	return out, nil
}

func (p *person) add(r history.Record) {
	r.Client = p.Name
	p.s.cfg.History.Add(r)
}

// run keeps the person at work until ctx ends.
func (p *person) run(ctx, talk context.Context) {
	p.add(history.Record{Kind: history.Client, Workspace: p.Workspace, User: p.User, Role: p.Role})
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { _ = p.stream.Run(ctx) }) // its end is ctx's, or in the history
	all.Go(func() {
		for e := range p.stream.Events() {
			p.saw(e)
		}
	})
	all.Go(func() { p.markNowAndThen(ctx, talk) })
	for {
		select {
		case t := <-p.queue:
			p.post(ctx, t)
		case <-talk.Done():
			return
		}
	}
}

func (p *person) next() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.op++
	return p.op
}

// post says one line. One that is under way when the talk ends is carried on.
func (p *person) post(ctx context.Context, t task) {
	ch := p.Channels[t.Channel%len(p.Channels)]
	req := chat.PostRequest{ClientMsgID: p.s.key(p.Name)}
	if t.Root >= 0 {
		root, ok := p.s.rootOf(t.Root, ch)
		if ok {
			req.ThreadRoot = &root
		}
	}
	origin := history.Origin{Workspace: p.Workspace, Channel: ch, ClientMsgID: req.ClientMsgID}
	req.Text = p.s.cfg.Seal.Seal(t.Text, origin)
	op := p.next()
	rec := history.Record{Op: op, Do: history.DoPost, Channel: ch, ClientMsgID: req.ClientMsgID}
	begin := rec
	begin.Kind, begin.Text, begin.Workspace, begin.User = history.Invoke, req.Text, p.Workspace, p.User
	if req.ThreadRoot != nil {
		begin.Root = *req.ThreadRoot
	}
	p.add(begin)
	ctx, cancel := context.WithTimeout(ctx, p.s.cfg.OpMax)
	defer cancel()
	p.s.busy.Add(1)
	defer p.s.busy.Add(-1)
	began := time.Now()
	posted, err := p.send(ctx, ch, req)
	p.s.took(p.Role, time.Since(began), err)
	if err == nil {
		rec.Kind, rec.MessageID, rec.Seq, rec.Rev = history.OK, posted.MessageID, posted.Seq, posted.Rev
		p.s.said(t.line, ch, posted.MessageID, req.ThreadRoot == nil)
	} else {
		rec.Kind, rec.Why, rec.Status = history.Unknown, err.Error(), problem.KindOf(err).Status()
		if notDone(err) {
			rec.Kind = history.Fail
		}
	}
	p.add(rec)
}

// send posts over the socket, or over HTTP at one edge after the other.
func (p *person) send(ctx context.Context, ch topology.ChannelID, req chat.PostRequest) (posted chat.Posted, err error) {
	if p.home {
		return p.stream.Post(ctx, ch, req)
	}
	unknown := false
	for try := 0; ; try++ {
		if posted, err = p.https[try%len(p.https)].Post(ctx, ch, req); err == nil {
			return posted, nil
		}
		unknown = unknown || !notDone(err)
		if k := problem.KindOf(err); ctx.Err() != nil || (k != problem.Unavailable && k != problem.Unknown && k != problem.Exhausted) {
			break
		}
	}
	if unknown && !problem.Is(err, problem.Conflict) {
		err = problem.Wrap(err, problem.Unknown, "the post's outcome is unknown")
	}
	return posted, err
}

// notDone reports whether an error is a refusal: nothing was done.
func notDone(err error) bool {
	switch problem.KindOf(err) {
	case problem.Unknown, problem.Internal:
		return false
	default:
		return true
	}
}

// saw notes the newest top-level message of each channel, to be marked read, and
// the channels gained.
func (p *person) saw(e client.Event) {
	switch {
	case e.Type == chat.TypeMessage:
		if id, top := messageOf(e.Raw); top {
			p.mu.Lock()
			p.last[e.ChannelID] = id
			p.mu.Unlock()
		}
	case e.Type == chat.TypeChannel && e.URev != 0:
		p.mu.Lock()
		p.gained[e.ChannelID] = true
		p.mu.Unlock()
	}
}

// markEvery is how often a person marks what it has seen as read.
const markEvery = 3 * time.Second

// markNowAndThen marks until the talk ends; a mark under way then is carried on.
func (p *person) markNowAndThen(ctx, talk context.Context) {
	t := time.NewTicker(markEvery)
	defer t.Stop()
	for {
		select {
		case <-talk.Done():
			return
		case <-t.C:
		}
		p.mu.Lock()
		var ch topology.ChannelID
		var id topology.MessageID
		for ch, id = range p.last {
			break
		}
		delete(p.last, ch)
		p.mu.Unlock()
		if ch != "" {
			p.mark(ctx, ch, id)
		}
	}
}

func (p *person) mark(ctx context.Context, ch topology.ChannelID, id topology.MessageID) {
	rec := history.Record{Op: p.next(), Do: history.DoMarkRead, Channel: ch, MessageID: id}
	begin := rec
	begin.Kind, begin.Workspace, begin.User = history.Invoke, p.Workspace, p.User
	p.add(begin)
	ctx, cancel := context.WithTimeout(ctx, p.s.cfg.OpMax)
	defer cancel()
	state, err := p.https[0].MarkRead(ctx, ch, id)
	switch {
	case err == nil:
		rec.Kind = history.OK
		if state.LastReadMessageID != nil {
			rec.MessageID = *state.LastReadMessageID
		}
	case notDone(err):
		rec.Kind, rec.Why = history.Fail, err.Error()
	default:
		rec.Kind, rec.Why = history.Unknown, err.Error()
	}
	p.add(rec)
}

func (p *person) close() {
	for _, c := range p.https {
		c.Close()
	}
}

// observer writes down what happens on a person's sockets.
type observer struct{ p *person }

func (o observer) Opened(n uint64, edge string, resume bool) {
	o.p.s.open.Add(1)
	o.p.add(history.Record{Kind: history.Open, Socket: n, Edge: edge, Resumed: resume})
}

func (o observer) Resumed(n uint64, cursors map[topology.ChannelID]topology.Rev) {
	o.p.add(history.Record{Kind: history.Resume, Socket: n, Cursors: cursors})
}

func (o observer) Came(n uint64, raw []byte) {
	o.p.s.frames.Add(1)
	o.p.add(history.Record{Kind: history.Frame, Socket: n, Raw: raw})
}

func (o observer) Closed(n uint64, why error) {
	o.p.s.open.Add(-1)
	o.p.add(history.Record{Kind: history.Close, Socket: n, Why: text(why)})
}

func (o observer) Failed(edge string, why error) {
	o.p.add(history.Record{Kind: history.Down, Edge: edge, Why: text(why)})
}

func text(err error) string {
	if err == nil {
		return "ended"
	}
	return err.Error()
}
