package msglog

import (
	"context"

	"parley/cell/change"
	"parley/internal/failpoint"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Commit stores changes and returns nil when they are kept for good: stored, and
// the hold still the shard's owner afterwards. Nothing of them may leave before
// that. The channels must have been recovered under this hold, their changes
// follow on each head, and one Commit or Recover at a time may be under way for a
// channel.
//
// Errors: kind Fenced: a newer owner exists, and the changes are its to keep or
// not. Kinds Invalid, TooLarge, Full and Unsupported: nothing was done, and the
// hold is as before. Kind NotOwner: the hold was lost before; nothing was done.
// Any other, kind Unknown: the outcome is unknown and the hold is lost.
func (h *Hold) Commit(ctx context.Context, batches []Batch) error {
	if len(batches) == 0 {
		return nil
	}
	for _, b := range batches {
		if err := h.checkBatch(b); err != nil {
			return err
		}
	}
	chs := make([]topology.ChannelRef, len(batches))
	for i, b := range batches {
		chs[i] = b.Channel
	}
	time, err := h.enter(chs...)
	if err != nil {
		return err
	}
	defer h.leave(chs...)
	writes := encode(batches, time)
	return h.write(ctx, h.log.opts.noCommitCheck || failpoint.Mutant(failpoint.NoFenceRead), func() error {
		return h.log.store.Append(ctx, h.shard, h.token, writes)
	})
}

func (h *Hold) checkBatch(b Batch) error {
	if err := h.owns(b.Channel); err != nil {
		return err
	}
	if len(b.Changes) == 0 || b.Changes[0].Rev == 0 {
		return problem.New(problem.Invalid, "a batch for channel %s begins with no rev", b.Channel.Channel)
	}
	for i, c := range b.Changes {
		if want := b.Changes[0].Rev + topology.Rev(i); c.Rev != want {
			return problem.New(problem.Invalid, "channel %s: rev %d where rev %d was due", b.Channel.Channel, c.Rev, want)
		}
		if err := c.Check(); err != nil {
			return err
		}
	}
	return nil
}

// encode makes the rows of a commit. All have one time: they are one write.
func encode(batches []Batch, time uint64) []Write {
	writes := make([]Write, len(batches))
	for i, b := range batches {
		rows := make([]Row, len(b.Changes))
		for k, c := range b.Changes {
			rows[k] = Row{Rev: c.Rev, Time: time, Blob: c.Append(make([]byte, 0, sizeGuess(c)))}
		}
		writes[i] = Write{Channel: b.Channel, Rows: rows}
	}
	return writes
}

// sizeGuess is about what a change takes encoded: ids of 27 bytes, and numbers.
func sizeGuess(c change.Change) int {
	return 128 + len(c.Text) + len(c.ClientMsgID) + 28*(len(c.Mentions)+len(c.Subjects))
}

// dense is the part of rows that follows on from without a gap.
func dense(rows []Row, from topology.Rev) []Row {
	for i, r := range rows {
		if r.Rev != from+topology.Rev(i) {
			return rows[:i]
		}
	}
	return rows
}

func decode(rows []Row) ([]change.Change, error) {
	changes := make([]change.Change, len(rows))
	for i, r := range rows {
		c, err := change.Decode(r.Blob)
		if err != nil {
			return nil, err
		}
		if c.Rev != r.Rev {
			return nil, problem.New(problem.Internal, "the log's row at rev %d holds the change of rev %d", r.Rev, c.Rev)
		}
		changes[i] = c
	}
	return changes, nil
}
