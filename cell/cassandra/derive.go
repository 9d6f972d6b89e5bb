package cassandra

import (
	"encoding/binary"
	"slices"

	"parley/cell/change"
	"parley/cell/history"
	"parley/internal/problem"
	"parley/internal/topology"
)

const (
	messageInsert = `INSERT INTO message (workspace, generation, channel, bucket, seq, body) VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?`
	threadUpdate  = `UPDATE message USING TIMESTAMP ? SET thread = ? WHERE workspace = ? AND generation = ? AND channel = ? AND bucket = ? AND seq = ?`
	replyInsert   = `INSERT INTO reply (workspace, generation, channel, root, bucket, seq, body) VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?`
	dedupeInsert  = `INSERT INTO dedupe (workspace, generation, channel, slot, author, key, value) VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?`
)

// derivation collects the rows of one batch of changes.
type derivation struct {
	db       *DB
	ch       topology.ChannelRef
	messages []row
	at       map[topology.Seq]int   // of messages
	replies  map[threadBucket][]row // by partition
	dedupe   map[int][]row          // by slot
}

// row is one row's statements: they are never parted.
type row struct {
	bucket int64
	stmts  []stmt
}

type threadBucket struct {
	root   topology.Seq
	bucket int64
}

func (d *DB) historyBucket(seq topology.Seq) int64 { return number(uint64(seq) / d.sizes.history) }

// add derives one change.
func (d *derivation) add(c *change.Change) error {
	if d.at == nil {
		d.at, d.replies, d.dedupe = map[topology.Seq]int{}, map[threadBucket][]row{}, map[int][]row{}
	}
	if c.ClientMsgID != "" {
		d.addKey(c)
	}
	switch c.Kind { //nolint:exhaustive // other kinds leave no message row
	case change.Message:
		body := c.Append(nil)
		r := d.message(c.Seq)
		args := partition(d.ch, r.bucket, number(c.Seq), body, number(c.Rev))
		r.stmts = append(r.stmts, stmt{messageInsert, args, len(body)})
	case change.Reply:
		return d.addReply(c)
	}
	return nil
}

// message is the row of a top-level message.
func (d *derivation) message(seq topology.Seq) *row {
	i, ok := d.at[seq]
	if !ok {
		i = len(d.messages)
		d.at[seq] = i
		d.messages = append(d.messages, row{bucket: d.db.historyBucket(seq)})
	}
	return &d.messages[i]
}

func (d *derivation) addReply(c *change.Change) error {
	root, err := change.ParseID(c.Root)
	if err != nil || root.Seq == 0 {
		return problem.New(problem.Internal, "rev %d replies to %q, which is no top-level message", c.Rev, c.Root)
	}
	at := threadBucket{root.Seq, d.db.historyBucket(c.Seq)}
	body := c.Append(nil)
	args := partition(d.ch, number(root.Seq), at.bucket, number(c.Seq), body, number(c.Rev))
	d.replies[at] = append(d.replies[at], row{at.bucket, []stmt{{replyInsert, args, len(body)}}})

	facts := binary.AppendUvarint(nil, uint64(c.Seq))
	facts = binary.AppendVarint(facts, c.TS)
	r := d.message(root.Seq)
	args = append([]any{number(c.Rev), facts}, partition(d.ch, r.bucket, number(root.Seq))...)
	s := stmt{threadUpdate, args, len(facts)}
	if n := len(r.stmts); n > 0 && r.stmts[n-1].cql == threadUpdate { // only the last counts
		r.stmts[n-1] = s
	} else {
		r.stmts = append(r.stmts, s)
	}
	return nil
}

func (d *derivation) addKey(c *change.Change) {
	hash := history.HashBody(c.Root, c.Text)
	v := binary.AppendVarint(nil, c.TS)
	v = append(v, byte(c.Kind))
	v = binary.AppendUvarint(v, uint64(c.Seq))
	v = binary.AppendUvarint(v, uint64(c.Rev))
	v = append(v, hash[:]...)
	v = append(v, c.ID...)
	slot := dedupeSlot(c.Author, c.ClientMsgID)
	args := partition(d.ch, slot, string(c.Author), []byte(c.ClientMsgID), v, number(c.Rev))
	d.dedupe[slot] = append(d.dedupe[slot], row{0, []stmt{{dedupeInsert, args, len(v)}}})
}

// parts are writes that may go side by side, each a list to be done in order: the
// message rows by rising bucket, every other partition's by itself.
func (d *derivation) parts() [][]mutation {
	var parts [][]mutation
	if ms := inOrder(d.messages); len(ms) > 0 {
		parts = append(parts, ms)
	}
	for _, rows := range d.replies {
		parts = append(parts, cut(rows))
	}
	for _, rows := range d.dedupe {
		parts = append(parts, cut(rows))
	}
	return parts
}

// inOrder cuts message rows into writes by rising bucket.
func inOrder(rows []row) []mutation {
	buckets := make(map[int64][]row)
	var order []int64
	for _, r := range rows {
		if buckets[r.bucket] == nil {
			order = append(order, r.bucket)
		}
		buckets[r.bucket] = append(buckets[r.bucket], r)
	}
	slices.Sort(order)
	var ms []mutation
	for _, b := range order {
		ms = append(ms, cut(buckets[b])...)
	}
	return ms
}

// cut makes writes of the rows of one partition.
func cut(rows []row) []mutation {
	var (
		ms    []mutation
		bytes int
	)
	for i, r := range rows {
		size := 0
		for _, s := range r.stmts {
			size += s.bytes
		}
		if i == 0 || bytes+size > batchBytesMax {
			ms, bytes = append(ms, nil), 0
		}
		bytes += size
		ms[len(ms)-1] = append(ms[len(ms)-1], r.stmts...)
	}
	return ms
}
