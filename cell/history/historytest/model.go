package historytest

import (
	"slices"

	"parley/cell/change"
	"parley/cell/history"
	"parley/internal/topology"
)

// channelLog writes a channel's log the way a channel server would: dense revs and
// seqs, rising times.
type channelLog struct {
	ref     topology.ChannelRef
	number  uint64
	changes []change.Change
	seq     topology.Seq
	ts      int64
	replies map[topology.MessageID]topology.Seq
}

// startTS is when the tests' channels begin, µs: 2026-01-01.
const startTS = int64(1767225600) * 1_000_000

// stepTS is how far apart two changes of a test's channel are, µs: a minute, so
// that a hundred changes reach over hours.
const stepTS = int64(60) * 1_000_000

func newLog(ref topology.ChannelRef, number uint64) *channelLog {
	return &channelLog{ref: ref, number: number, ts: startTS, replies: map[topology.MessageID]topology.Seq{}}
}

// add appends a change, numbered, timed and named, and returns it.
func (l *channelLog) add(c change.Change) change.Change {
	l.ts += stepTS
	c.TS = l.ts
	c.Rev = topology.Rev(len(l.changes) + 1)
	c.Confirmed = c.Rev - 1
	switch c.Kind { //nolint:exhaustive // the others have no number of their own
	case change.Message:
		l.seq++
		c.Seq = l.seq
		c.ID = change.NewID(c.TS/1000, l.number, c.Seq, 0)
	case change.Reply:
		l.replies[c.Root]++
		c.Seq = l.replies[c.Root]
		c.ID = change.NewID(c.TS/1000, l.number, 0, c.Rev)
	}
	c.HeadSeq = l.seq
	l.changes = append(l.changes, c)
	return c
}

func (l *channelLog) message(author topology.UserID, text, key string) change.Change {
	return l.add(change.Change{Kind: change.Message, Author: author, Text: text, ClientMsgID: key})
}

func (l *channelLog) reply(root topology.MessageID, author topology.UserID, text, key string) change.Change {
	return l.add(change.Change{Kind: change.Reply, Root: root, Author: author, Text: text, ClientMsgID: key})
}

func (l *channelLog) joined(user topology.UserID, key string) {
	l.add(change.Change{Kind: change.Joined, Author: user, Subjects: []topology.UserID{user}, ClientMsgID: key})
}

// batch is the changes with revs from … to.
func (l *channelLog) batch(from, to topology.Rev) history.Batch {
	return history.Batch{Channel: l.ref, Changes: slices.Clone(l.changes[from-1 : to])}
}

// all is the whole log as one batch.
func (l *channelLog) all() history.Batch { return l.batch(1, topology.Rev(len(l.changes))) }

// view is what a naive reader derives from the first changes of a log: the model
// that a driver is compared with.
type view struct {
	mark     history.Mark
	messages []history.Message // by seq
	threads  map[topology.Seq][]history.Message
	keys     map[dedupeKey]history.Deduped
}

type dedupeKey struct {
	author topology.UserID
	key    string
}

func derive(changes []change.Change) view {
	v := view{threads: map[topology.Seq][]history.Message{}, keys: map[dedupeKey]history.Deduped{}}
	for _, c := range changes {
		v.mark.Applied, v.mark.TS = c.Rev, c.TS
		switch c.Kind { //nolint:exhaustive // the others leave no message
		case change.Message:
			v.messages = append(v.messages, history.Message{Change: c})
			v.mark.Seq = c.Seq
		case change.Reply:
			for i := range v.messages {
				if v.messages[i].ID == c.Root {
					v.messages[i].ReplyCount++
					v.messages[i].LastReplyTS = c.TS
					v.threads[v.messages[i].Seq] = append(v.threads[v.messages[i].Seq], history.Message{Change: c})
				}
			}
		}
		if c.ClientMsgID != "" {
			v.keys[dedupeKey{c.Author, c.ClientMsgID}] = history.Deduped{
				Kind: c.Kind, ID: c.ID, TS: c.TS, Seq: c.Seq, Rev: c.Rev, Hash: history.HashBody(c.Root, c.Text),
			}
		}
	}
	return v
}

// page answers a query from the model.
func (v view) page(q history.PageQuery) []history.Message {
	var out []history.Message
	for _, m := range v.messages {
		switch {
		case q.Forward && m.Seq > q.After, !q.Forward && (q.Before == 0 || m.Seq < q.Before):
			out = append(out, m)
		}
	}
	if !q.Forward {
		slices.Reverse(out)
	}
	return out[:min(len(out), max(0, q.Limit))]
}

// thread answers Thread from the model.
func (v view) thread(root, after topology.Seq, limit int) []history.Message {
	var out []history.Message
	for _, m := range v.threads[root] {
		if m.Seq > after {
			out = append(out, m)
		}
	}
	return out[:min(len(out), max(0, limit))]
}
