package channel

import (
	"context"
	"errors"
	"time"
	"unicode/utf8"

	"parley/cell/change"
	"parley/cell/history"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// Post commits a message, if the shard is this server's.
func (s *Server) Post(ctx context.Context, p Post) (change.Change, error) {
	c, err := s.post(ctx, p)
	s.count(err)
	return c, err
}

// count keeps the refusals by kind.
func (s *Server) count(err error) {
	if err != nil {
		s.metrics.refused.WithLabelValues(string(problem.KindOf(err))).Inc()
	}
}

func (s *Server) post(ctx context.Context, p Post) (change.Change, error) {
	if err := checkText("text", p.Text); err != nil {
		return change.Change{}, err
	}
	if err := checkKey(p.Key); err != nil {
		return change.Change{}, err
	}
	sh, err := s.owned(p.Channel)
	if err != nil {
		return change.Change{}, err
	}
	leaves := sh.rolls.leaves.Load()
	info, err := s.admit(ctx, sh, p)
	if err != nil {
		return change.Change{}, err
	}
	if err := s.keepingUp(); err != nil {
		return change.Change{}, err
	}
	mentions, err := s.mentions(ctx, p)
	if err != nil {
		return change.Change{}, err
	}
	r, err := sh.enter(ctx, p.Channel)
	if err != nil {
		return change.Change{}, err
	}
	defer sh.leave(r)
	w := &posting{Post: p, info: info, leaves: leaves, mentions: mentions, key: keyID{p.Author, p.Key}, hash: history.HashBody(p.Root, p.Text)}
	if w.known, err = r.lookBack(ctx, w.key, s.now()); err != nil {
		return change.Change{}, err
	}
	if w.known.change != nil {
		return w.again(*w.known.change)
	}
	if err := s.quotas.take(p.Channel.Workspace, time.Now()); err != nil {
		return change.Change{}, err
	}
	if p.Root != "" {
		if w.root, err = r.findRoot(ctx, p.Root, info.Number); err != nil {
			return change.Change{}, err
		}
	}
	rep, err := sh.submit(ctx, newRequest(r, 1, len(p.Text), w.number))
	return rep.change, err
}

func checkText(field, text string) error {
	if !utf8.ValidString(text) {
		return problem.Field(field, "must be valid UTF-8")
	}
	if text == "" {
		return problem.Field(field, "must have at least one character")
	}
	if n := utf8.RuneCountInString(text); n > chat.TextRunesMax {
		return problem.Field(field, "has more than 40,000 characters; split the message")
	}
	return nil
}

func checkKey(key string) error {
	if len(key) > chat.ClientMsgIDBytesMax {
		return problem.Field("client_msg_id", "has more than %d bytes", chat.ClientMsgIDBytesMax)
	}
	if !utf8.ValidString(key) {
		return problem.Field("client_msg_id", "must be valid UTF-8")
	}
	for _, c := range key {
		if c < ' ' {
			return problem.Field("client_msg_id", "must not have control characters")
		}
	}
	return nil
}

// admit lets those post who may.
func (s *Server) admit(ctx context.Context, sh *shard, p Post) (Info, error) {
	if err := s.checks.open(ctx, p.Channel.Place); err != nil {
		return Info{}, err
	}
	info, err := s.checks.info(ctx, p.Channel, false)
	if err == nil && info.Importing { // the import may have ended a moment ago
		info, err = s.checks.info(ctx, p.Channel, true)
	}
	if err != nil {
		return Info{}, err
	}
	if err := sh.member(ctx, p.Channel, info, p.Author); err != nil {
		return Info{}, err
	}
	if info.Importing {
		return Info{}, problem.New(problem.Conflict, "the channel is being imported; post when the import is finished")
	}
	return info, nil
}

// lagCaches bounds what the changes that are not derived take in memory: so many
// times Config.CacheBytes, 256 MiB with the defaults.
const lagCaches = 4

// keepingUp refuses work while too much is not derived: memory is finite.
func (s *Server) keepingUp() error {
	if n, bytes := s.lag(); n < int64(s.cfg.LagMax) && bytes < lagCaches*s.cfg.CacheBytes {
		return nil
	}
	return &problem.Error{
		Kind: problem.Unavailable, Msg: "history is behind at the moment; try again", RetryAfter: time.Second,
		Cause: errors.New("derived rows lag"),
	}
}

func (s *Server) mentions(ctx context.Context, p Post) ([]topology.UserID, error) {
	m := findMentions(p.Text)
	var found map[string]topology.UserID
	if len(m.names) > 0 {
		var err error
		if found, err = s.deps.Directory.UsersByName(ctx, p.Channel.Place, m.names); err != nil {
			return nil, err
		}
	}
	return m.resolved(found), nil
}

// posting is a post on its way.
type posting struct {
	Post
	info     Info
	leaves   uint64 // of the shard, when it was let in
	mentions []topology.UserID
	key      keyID
	hash     [16]byte
	known    known
	root     root
}

// known is what the stores said of a key: nothing of revs up to asked.
type known struct {
	asked  topology.Rev
	change *change.Change
}

// root is the top-level message that a reply goes to. count replies were stored
// when revs up to asked were.
type root struct {
	asked topology.Rev
	id    topology.MessageID
	seq   topology.Seq
	count topology.Seq
}

// again answers a repeated post with the first one's change.
func (w *posting) again(c change.Change) (change.Change, error) {
	if (c.Kind != change.Message && c.Kind != change.Reply) || history.HashBody(c.Root, c.Text) != w.hash {
		return change.Change{}, errOtherBody()
	}
	return c, nil
}

func errOtherBody() error {
	return &problem.Error{
		Kind: problem.Conflict, Field: "client_msg_id",
		Msg: "client_msg_id: another message was posted with it; use a new one for another text",
	}
}

// number is the worker's part of a post.
func (w *posting) number(ctx context.Context, d *draft) (reply, bool, error) {
	if w.Key != "" {
		c, pending, err := d.keyed(ctx, w.key, w.known.asked)
		if err != nil {
			return reply{}, false, err
		}
		if c != nil {
			first, err := w.again(*c)
			return reply{change: first}, pending, err
		}
	}
	if err := d.room.sh.stillIn(w.Channel, w.info, w.Author, w.leaves); err != nil {
		return reply{}, false, err
	}
	c := change.Change{Kind: change.Message, Author: w.Author, ClientMsgID: w.Key, Text: w.Text, Mentions: w.mentions}
	var n topology.Seq
	if w.Root != "" {
		var err error
		if n, err = d.replies(ctx, w.root, w.info.Number); err != nil {
			return reply{}, false, err
		}
		c.Kind, c.Root = change.Reply, w.Root
		n++
	}
	return reply{change: d.add(c, 0, w.info.Number, w.root.seq, n)}, true, nil
}

// keyed finds what a key led to: in the draft (pending), in memory, or, if
// memory no longer reaches back to what the caller asked the store about, there.
func (d *draft) keyed(ctx context.Context, k keyID, asked topology.Rev) (c *change.Change, pending bool, err error) {
	if i, ok := d.keys[k]; ok {
		return &d.entries[i].Change, true, nil
	}
	d.room.mu.Lock()
	first, ok := d.room.tail.keyed(k, d.now)
	covered := d.room.tail.from <= asked+1
	d.room.mu.Unlock()
	if ok {
		return &first, false, nil
	}
	if covered {
		return nil, false, nil
	}
	again, err := d.room.lookBack(ctx, k, d.now)
	return again.change, false, err
}

// lookBack looks for a key in memory, then in the store.
func (r *room) lookBack(ctx context.Context, k keyID, now time.Time) (known, error) {
	if k.key == "" {
		return known{}, nil
	}
	r.mu.Lock()
	c, ok := r.tail.keyed(k, now)
	out := known{asked: r.tail.applied}
	all := r.tail.from == 1
	r.mu.Unlock()
	if ok {
		out.change = &c
		return out, nil
	}
	if all {
		out.asked = 0
		return out, nil
	}
	d, ok, err := r.sh.s.deps.History.Deduped(ctx, r.ref, k.author, k.key, now)
	if err != nil || !ok {
		return out, err
	}
	// The log has the change itself: it is kept far longer than the key.
	first, err := r.sh.logAt(ctx, r.ref, d.Rev)
	if err != nil {
		return known{}, err
	}
	out.change = &first
	return out, nil
}

// logAt is the confirmed change of a rev.
func (sh *shard) logAt(ctx context.Context, ref topology.ChannelRef, rev topology.Rev) (change.Change, error) {
	cs, err := sh.hold.Tail(ctx, ref, rev, 1)
	if err != nil {
		return change.Change{}, sh.refuse(err)
	}
	if len(cs) == 0 || cs[0].Rev != rev {
		return change.Change{}, problem.New(problem.Internal, "the channel's log has no rev %d", rev)
	}
	return cs[0], nil
}

// findRoot finds a top-level message of the channel to reply to.
func (r *room) findRoot(ctx context.Context, id topology.MessageID, number uint64) (root, error) {
	bad := problem.Field("thread_root", "must be the message_id of a top-level message of this channel")
	p, err := change.ParseID(id)
	if err != nil || p.ReplyRev != 0 || p.Number != number {
		return root{}, bad
	}
	r.mu.Lock()
	v, asked := r.tail.view(), r.tail.applied
	r.mu.Unlock()
	if p.Seq > v.head.Seq {
		return root{}, bad
	}
	m, ok := v.message(p.Seq)
	if ok {
		asked = m.Rev - 1 // the replies are all above it
	} else if m, err = r.sh.s.deps.History.Get(ctx, r.ref, p.Seq); err != nil {
		if problem.Is(err, problem.NotFound) {
			return root{}, bad
		}
		return root{}, err
	}
	if m.ID != id {
		return root{}, bad
	}
	return root{asked: asked, id: id, seq: p.Seq, count: topology.Seq(m.ReplyCount)}, nil
}

// replies is how many a root has, with the draft's.
func (d *draft) replies(ctx context.Context, t root, number uint64) (topology.Seq, error) {
	if n, ok := d.threads[t.seq]; ok {
		return n, nil
	}
	d.room.mu.Lock()
	th, ok := d.room.tail.threads[t.seq]
	covered := d.room.tail.from <= t.asked+1
	d.room.mu.Unlock()
	switch {
	case ok:
		return th.count, nil
	case covered:
		return t.count, nil
	}
	again, err := d.room.findRoot(ctx, t.id, number)
	return again.count, err
}
