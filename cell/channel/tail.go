package channel

import (
	"maps"
	"slices"
	"time"

	"parley/cell/change"
	"parley/cell/history"
	"parley/internal/topology"
)

// tailKeep and tailKeepBytes bound what an open channel keeps in memory of what
// is derived already: two pages of history, unless the messages are long.
const (
	tailKeep      = 128
	tailKeepBytes = 256 << 10
	// entryBytes is what an entry costs besides its texts: two structs, map cells.
	entryBytes = 512
)

// entry is a confirmed change in memory, with its client event if it was made.
type entry struct {
	change.Change
	payload []byte
}

func (e *entry) bytes() int {
	return entryBytes + len(e.Text) + len(e.payload) + 32*(len(e.Subjects)+len(e.Mentions))
}

// author and key of a post that is safe to repeat.
type keyID struct {
	author topology.UserID
	key    string
}

// thread is what the tail adds to a top-level message.
type thread struct {
	count  topology.Seq // replies are numbered without gaps: the last number is the count
	lastTS int64
	last   topology.Rev
}

// tail is the newest confirmed changes of a channel. Invariants: entries are
// the revs from … head.Rev without gaps, from <= applied+1 (so what is older
// than from is in the history store, unless that lost its last writes); keys and
// threads have all of the entries and nothing else. The entries themselves are never
// written again, so a view may keep them.
type tail struct {
	head    Head
	from    topology.Rev
	entries []entry
	applied topology.Rev
	keys    map[keyID]topology.Rev
	threads map[topology.Seq]thread
	bytes   int
}

func newTail(m history.Mark) *tail {
	return &tail{
		head: Head{Rev: m.Applied, Seq: m.Seq, TS: m.TS}, from: m.Applied + 1,
		applied: m.Applied,
		keys:    map[keyID]topology.Rev{}, threads: map[topology.Seq]thread{},
	}
}

// add puts the next confirmed change in.
func (t *tail) add(e entry) {
	t.entries = append(t.entries, e)
	t.head = Head{Rev: e.Rev, Seq: e.HeadSeq, TS: e.TS}
	t.bytes += e.bytes()
	if e.ClientMsgID != "" {
		t.keys[keyID{e.Author, e.ClientMsgID}] = e.Rev
	}
	if e.Kind == change.Reply {
		t.threads[rootSeq(e.Root)] = thread{count: e.Seq, lastTS: e.TS, last: e.Rev}
	}
}

// at is the entry of a rev, nil if it is not in memory.
func (t *tail) at(rev topology.Rev) *entry {
	if rev < t.from || rev > t.head.Rev {
		return nil
	}
	return &t.entries[rev-t.from]
}

// weight is about what the entries above a rev, up to another, take in memory.
func (t *tail) weight(above, to topology.Rev) int64 {
	n := 0
	for rev := max(above+1, t.from); rev <= to && rev <= t.head.Rev; rev++ {
		n += t.at(rev).bytes()
	}
	return int64(n)
}

// keyed is the change that a key led to, if it is in memory and in the window.
func (t *tail) keyed(k keyID, now time.Time) (change.Change, bool) {
	e := t.at(t.keys[k])
	if e == nil || e.TS <= now.Add(-history.Window).UnixMicro() {
		return change.Change{}, false
	}
	return e.Change, true
}

// trim forgets what is derived and beyond the bounds.
func (t *tail) trim() {
	n := 0
	for left := len(t.entries); n < len(t.entries) && t.entries[n].Rev <= t.applied; n, left = n+1, left-1 {
		if left <= tailKeep && t.bytes <= tailKeepBytes {
			break
		}
		t.forget(&t.entries[n])
	}
	t.from += topology.Rev(n)
	t.entries = t.entries[n:]
	if n > 0 && len(t.entries) == 0 {
		t.entries = nil
	}
}

func (t *tail) forget(e *entry) {
	t.bytes -= e.bytes()
	if k := (keyID{e.Author, e.ClientMsgID}); e.ClientMsgID != "" && t.keys[k] == e.Rev {
		delete(t.keys, k)
	}
	if e.Kind != change.Reply {
		return
	}
	if root := rootSeq(e.Root); t.threads[root].last == e.Rev {
		delete(t.threads, root)
	}
}

// rootSeq is the seq in a top-level message's id, 0 for any other text.
func rootSeq(id topology.MessageID) topology.Seq {
	p, err := change.ParseID(id)
	if err != nil || p.ReplyRev != 0 {
		return 0
	}
	return p.Seq
}

// view is what readers see of a channel at one moment: the newest changes from
// memory, all older ones from the history store.
type view struct {
	head    Head
	from    topology.Rev
	entries []entry
	threads map[topology.Seq]thread
}

func (t *tail) view() view {
	v := view{head: t.head, from: t.from, entries: slices.Clip(t.entries)}
	if len(t.threads) > 0 {
		v.threads = maps.Clone(t.threads)
	}
	return v
}

// firstSeq is the seq of the first top-level message in memory: everything
// below is in the history store.
func (v *view) firstSeq() topology.Seq {
	for i := range v.entries {
		if v.entries[i].Kind == change.Message {
			return v.entries[i].Seq
		}
	}
	return v.head.Seq + 1
}

// messages are the top-level messages in memory, rising.
func (v *view) messages() []history.Message {
	ms := make([]history.Message, 0, len(v.entries))
	for i := range v.entries {
		if v.entries[i].Kind == change.Message {
			ms = append(ms, v.withThread(history.Message{Change: v.entries[i].Change}))
		}
	}
	return ms
}

// withThread adds the replies in memory to a top-level message. The store may
// be ahead of the view: the higher count wins.
func (v *view) withThread(m history.Message) history.Message {
	if th, ok := v.threads[m.Seq]; ok && uint64(th.count) > m.ReplyCount {
		m.ReplyCount, m.LastReplyTS = uint64(th.count), th.lastTS
	}
	return m
}

// replies are the replies to a message in memory, rising.
func (v *view) replies(root topology.MessageID) []history.Message {
	if v.threads[rootSeq(root)].count == 0 {
		return nil
	}
	var ms []history.Message
	for i := range v.entries {
		if v.entries[i].Kind == change.Reply && v.entries[i].Root == root {
			ms = append(ms, history.Message{Change: v.entries[i].Change})
		}
	}
	return ms
}

// message finds a top-level message in memory.
func (v *view) message(seq topology.Seq) (history.Message, bool) {
	if seq < v.firstSeq() || seq > v.head.Seq {
		return history.Message{}, false
	}
	// HeadSeq rises with every entry: the first to reach seq is its message.
	i, _ := slices.BinarySearchFunc(v.entries, seq, func(e entry, s topology.Seq) int {
		if e.HeadSeq < s {
			return -1
		}
		return 1
	})
	if i == len(v.entries) || v.entries[i].Kind != change.Message {
		return history.Message{}, false
	}
	return v.withThread(history.Message{Change: v.entries[i].Change}), true
}
