package agree

import (
	"context"

	"parley/cell/change"
	"parley/cell/history"
	"parley/internal/topology"
)

// channel compares one channel.
func (c *comparison) channel(ctx context.Context, ref topology.ChannelRef, m mentioned) error {
	c.report.Channels++
	l := &logged{ref: ref, replies: map[topology.Seq][]digest{}, report: &c.report, mentions: m.of(ref.Channel)}
	if err := c.readLog(ctx, l); err != nil {
		return err
	}
	l.mentions.top = l.top
	mark, err := c.History.Mark(ctx, ref)
	if err != nil {
		return err
	}
	if mark.Applied != l.head {
		c.report.add(InHistory, ref.Channel, "it has the changes up to rev %d, the log up to %d", mark.Applied, l.head)
	}
	if mark.Emitted > l.head { // it may lag
		c.report.add(InEvents, ref.Channel, "events are marked as emitted up to rev %d, the log ends at %d", mark.Emitted, l.head)
	}
	if r := c.events[ref]; l.head > 0 && r.at() != l.head && !c.mayBeGone(ref, l) {
		c.report.add(InEvents, ref.Channel, "its last event is of rev %d, the log ends at %d", r.at(), l.head)
	}
	if err := c.comparePages(ctx, l); err != nil {
		return err
	}
	if err := c.compareThreads(ctx, l); err != nil {
		return err
	}
	return c.compareIndex(ctx, l)
}

// digest is a message in few bytes: its body, author, key, id and time.
type digest struct {
	body [16]byte
	ts   int64
	id   topology.MessageID
}

func digestOf(ch *change.Change) digest {
	body := history.HashBody(ch.Root, string(ch.Author)+"\x00"+ch.ClientMsgID+"\x00"+ch.Text)
	return digest{body, ch.TS, ch.ID}
}

// logged is what a channel's log says.
type logged struct {
	ref      topology.ChannelRef
	report   *Report
	first    topology.Rev // the oldest that is kept; 0 = none
	head     topology.Rev
	last     int64        // when the last change was made, in µs
	before   topology.Seq // top-level messages older than the log
	top      []digest     // the message of seq before+1+i
	replies  map[topology.Seq][]digest
	mentions *counted
}

// readLog reads the channel's log from where it begins: revs and seqs are without
// gaps.
func (c *comparison) readLog(ctx context.Context, l *logged) error {
	from, err := c.Log.Oldest(ctx, l.ref)
	if err != nil {
		return err
	}
	for ; ; from = l.head + 1 {
		rows, err := c.Log.Tail(ctx, l.ref, from, page)
		if err != nil || len(rows) == 0 {
			return err
		}
		for _, row := range rows {
			ch, err := change.Decode(row.Blob)
			if err != nil {
				l.report.add(InLog, l.ref.Channel, "rev %d can't be read: %v", row.Rev, err)
				l.head = row.Rev
				continue
			}
			l.take(row.Rev, &ch)
		}
	}
}

func (l *logged) take(rev topology.Rev, ch *change.Change) {
	switch {
	case l.first == 0:
		l.first = rev
		l.before = ch.HeadSeq
		if ch.Kind == change.Message {
			l.before--
		}
		l.mentions.before = l.before
	case rev != l.head+1:
		l.report.add(InLog, l.ref.Channel, "rev %d follows rev %d", rev, l.head)
	}
	if ch.Rev != rev {
		l.report.add(InLog, l.ref.Channel, "the row of rev %d holds rev %d", rev, ch.Rev)
	}
	l.head, l.last = rev, ch.TS
	l.report.Changes++
	switch ch.Kind {
	case change.Message:
		l.report.Messages++
		if want := l.headSeq() + 1; ch.Seq != want {
			l.report.add(InLog, l.ref.Channel, "rev %d has seq %d where %d is next", rev, ch.Seq, want)
		}
		l.top = append(l.top, digestOf(ch))
		l.mentions.add(ch, ch.Seq)
	case change.Reply:
		l.report.Replies++
		root, err := change.ParseID(ch.Root)
		if err != nil {
			l.report.add(InLog, l.ref.Channel, "rev %d replies to %q, which is no message", rev, ch.Root)
			return
		}
		l.replies[root.Seq] = append(l.replies[root.Seq], digestOf(ch))
		l.mentions.add(ch, root.Seq)
	case change.Created, change.Joined, change.Left: // no message
	}
}

func (l *logged) headSeq() topology.Seq { return l.before + topology.Seq(len(l.top)) }

// comparePages compares the top-level messages, page by page.
func (c *comparison) comparePages(ctx context.Context, l *logged) error {
	at := l.before
	for {
		ms, err := c.History.Page(ctx, l.ref, history.PageQuery{Forward: true, After: at, Limit: page})
		if err != nil {
			return err
		}
		if len(ms) == 0 {
			break
		}
		for i := range ms {
			m := &ms[i]
			if m.Seq != at+1 {
				c.report.add(InHistory, l.ref.Channel, "seq %d follows seq %d", m.Seq, at)
			}
			at = m.Seq
			l.compare(m)
		}
	}
	if at != l.headSeq() {
		c.report.add(InHistory, l.ref.Channel, "its last message is seq %d, the log's %d", at, l.headSeq())
	}
	return nil
}

func (l *logged) compare(m *history.Message) {
	if m.Seq <= l.before || m.Seq > l.headSeq() {
		l.report.add(InHistory, l.ref.Channel, "the log has no message of seq %d", m.Seq)
		return
	}
	if digestOf(&m.Change) != l.top[m.Seq-l.before-1] {
		l.report.add(InHistory, l.ref.Channel, "the message of seq %d is another than in the log", m.Seq)
	}
	if n := uint64(len(l.replies[m.Seq])); l.before == 0 && m.ReplyCount != n {
		l.report.add(InHistory, l.ref.Channel, "the thread of seq %d counts %d replies, the log has %d", m.Seq, m.ReplyCount, n)
	}
}

// compareThreads compares the replies. Those older than the log are not compared.
func (c *comparison) compareThreads(ctx context.Context, l *logged) error {
	for root, want := range l.replies {
		id := topology.MessageID("")
		if root > l.before && root <= l.headSeq() {
			id = l.top[root-l.before-1].id
		}
		got, err := c.thread(ctx, l.ref, root)
		if err != nil {
			return err
		}
		if older := len(got) - len(want); older < 0 || (l.before == 0 && older > 0) {
			c.report.add(InHistory, l.ref.Channel, "the thread of %s (seq %d) has %d replies, the log %d", id, root, len(got), len(want))
			continue
		}
		for i, older := 0, len(got)-len(want); i < len(want); i++ {
			if got[older+i] != want[i] {
				c.report.add(InHistory, l.ref.Channel, "reply %d of the thread of seq %d is another than in the log", older+i+1, root)
			}
		}
	}
	return nil
}

// thread reads a thread, page by page.
func (c *comparison) thread(ctx context.Context, ref topology.ChannelRef, root topology.Seq) (all []digest, err error) {
	for after := topology.Seq(0); ; {
		ms, err := c.History.Thread(ctx, ref, root, after, page)
		if err != nil || len(ms) == 0 {
			return all, err
		}
		for i := range ms {
			all = append(all, digestOf(&ms[i].Change))
			after = ms[i].Seq
		}
	}
}
