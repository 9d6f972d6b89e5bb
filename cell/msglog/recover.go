package msglog

import (
	"context"

	"parley/cell/change"
	"parley/internal/failpoint"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Recover takes over one channel, at its first use under this hold: it reads the
// tail of its log from rev from on, makes that the channel's log under this
// token, and returns it. from is the first rev whose change is not known to be
// confirmed, such as a history's Mark.Applied + 1. The channel's head is the last
// change returned, or from-1. Errors are those of Commit; one in reading the tail
// leaves the hold as it was.
//
// Why the tail may contain what nobody was told is kept: its writer may have
// been cut off between its write and its answer. It is kept from here on, and a
// client that asks again finds it by its client_msg_id.
//
// Why a gap ends the tail: writes to a channel are one at a time, each confirmed
// before the next begins, so above a gap there is nothing confirmed.
//
// Why Recover may be repeated, after an error or after its channel was closed:
// under one hold it finds what the last one left, and what was committed since.
// All above was sealed as of the token's base, so nothing older comes up again;
// and a write of this hold whose outcome is unknown has ended the hold. So it
// writes the same content at the same revs, at a later time of the same token,
// and deletes nothing: the hold's own rows are younger than the base.
func (h *Hold) Recover(ctx context.Context, ch topology.ChannelRef, from topology.Rev) ([]change.Change, error) {
	if err := h.owns(ch); err != nil {
		return nil, err
	}
	if from == 0 {
		return nil, problem.New(problem.Invalid, "revs begin at 1")
	}
	time, err := h.enter(ch)
	if err != nil {
		return nil, err
	}
	defer h.leave(ch)
	rows, err := h.readTail(ctx, ch, from)
	if err != nil {
		return nil, err
	}
	changes, err := decode(rows) // before anything is written: what can't be read is not ours to rewrite
	if err != nil {
		return nil, err
	}
	head := from - 1 + topology.Rev(len(rows))
	for i := range rows {
		rows[i].Time = time
	}
	seal := Seal{Channel: ch, Rows: rows, Above: head, Time: Time(h.token, 0)}
	if h.log.opts.noRewrite {
		seal.Rows = nil
	}
	if h.log.opts.noSeal || failpoint.Mutant(failpoint.NoSeal) {
		seal.Above = ^topology.Rev(0)
	}
	err = h.write(ctx, h.log.opts.noTakeoverCheck, func() error {
		return h.log.store.Repair(ctx, h.shard, h.token, []Seal{seal})
	})
	if err != nil {
		return nil, err
	}
	return changes, nil
}

// readTail reads all rows from a rev on, up to the first gap.
func (h *Hold) readTail(ctx context.Context, ch topology.ChannelRef, from topology.Rev) ([]Row, error) {
	if h.log.opts.tail != nil {
		if rows, ok := h.log.opts.tail(ch, from); ok {
			return rows, nil
		}
	}
	var rows []Row
	for {
		next := from + topology.Rev(len(rows))
		var page []Row
		err := h.log.repeat(ctx, func() (err error) {
			page, err = h.log.store.Tail(ctx, ch, next, tailPage)
			return err
		})
		if err != nil {
			return nil, err
		}
		whole := dense(page, next)
		rows = append(rows, whole...)
		if len(page) < tailPage || len(whole) < len(page) {
			return rows, nil
		}
		if len(rows) > tailMax {
			return nil, problem.New(problem.Internal, "channel %s has over %d changes that are not applied", ch.Channel, tailMax)
		}
	}
}
