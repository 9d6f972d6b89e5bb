// Package roster changes who is in which channel: in the directory first, with an
// outbox entry in the same transaction, then in the channel's log at its rev. A
// call answers when both are done; what a crash leaves in the outbox is carried
// on by Run.
//
// Invariants:
//
//	R1 The changes of a channel's log are in the order of the directory's: an entry
//	   is carried out only when every older one of its channel is, and by one
//	   goroutine of the process at a time. Another process may be at the same
//	   entries: it, too, begins with the oldest that is pending, and what is pending
//	   no more is in the log. Both may hand in the same entry; the log takes it once,
//	   by its key, for far longer than a call may take.
//	R2 A call that succeeds leaves nothing of what it found pending in its channel,
//	   also when it changed nothing itself: it may be the repeat of one that died.
//	R3 A channel that refuses its entries holds up no other channel.
package roster

import (
	"context"
	"log/slog"
	"math"
	"time"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/directory"
	"parley/cell/router"
	"parley/internal/failpoint"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Directory is what this package asks of the directory.
type Directory interface {
	CreateChannel(ctx context.Context, p topology.Place, ch directory.Channel, members []topology.UserID) (directory.Channel, directory.Entry, error)
	AddMembers(ctx context.Context, p topology.Place, ch topology.ChannelID, us []topology.UserID, by topology.UserID, now time.Time) (directory.Entry, error)
	RemoveMember(ctx context.Context, p topology.Place, ch topology.ChannelID, u, by topology.UserID, now time.Time) (directory.Entry, error)
	OutboxPending(ctx context.Context, after uint64, limit int) ([]directory.Entry, error)
	OutboxOf(ctx context.Context, p topology.Place, ch topology.ChannelID, upTo uint64, limit int) ([]directory.Entry, error)
	OutboxDone(ctx context.Context, e directory.Entry, rev topology.Rev, seq topology.Seq) error
	Lease(ctx context.Context, name, holder string, now time.Time, length time.Duration) (bool, error)
}

// Members commits a change of membership to a channel's log; the same key is
// done once.
type Members interface {
	Member(ctx context.Context, m channel.Member) (change.Change, error)
}

// Config is a Roster's.
type Config struct {
	// Every is how often Run looks for entries that a crash left: long against a
	// call's own few milliseconds, short against a person's patience.
	Every time.Duration
	// Name tells the process from others on the same directory: one of them carries
	// out what was left, as long as it lives. Empty if there are no others.
	Name string
}

// Roster changes memberships.
type Roster struct {
	cfg      Config
	dir      Directory
	channels Members
	bus      router.Bus
	now      func() time.Time
	log      *slog.Logger
	turns    turns
	refused  map[topology.ChannelRef]refusal // the sweep's alone
}

// New makes a Roster.
func New(cfg Config, d Directory, m Members, b router.Bus, now func() time.Time, log *slog.Logger) *Roster {
	if cfg.Every <= 0 {
		cfg.Every = 5 * time.Second
	}
	return &Roster{cfg: cfg, dir: d, channels: m, bus: b, now: now, log: log, refused: map[topology.ChannelRef]refusal{}}
}

// Create makes a channel with its first members.
func (r *Roster) Create(ctx context.Context, p topology.Place, ch directory.Channel, members []topology.UserID) (directory.Channel, error) {
	row, e, err := r.dir.CreateChannel(ctx, p, ch, members)
	if err != nil {
		return directory.Channel{}, err
	}
	_, err = r.finish(ctx, p, ch.ID, e)
	return row, err
}

// Add makes users members; those who are already stay as they are. The rev is
// that of the change in the channel's log, 0 when all were members.
func (r *Roster) Add(ctx context.Context, p topology.Place, ch topology.ChannelID, us []topology.UserID, by topology.UserID) (topology.Rev, error) {
	e, err := r.dir.AddMembers(ctx, p, ch, us, by, r.now())
	if err != nil {
		return 0, err
	}
	return r.finish(ctx, p, ch, e)
}

// Remove takes a user out: when it returns, nothing after the rev reaches the
// user. The rev is 0 when the user was no member.
func (r *Roster) Remove(ctx context.Context, p topology.Place, ch topology.ChannelID, u, by topology.UserID) (topology.Rev, error) {
	e, err := r.dir.RemoveMember(ctx, p, ch, u, by, r.now())
	if err != nil {
		return 0, err
	}
	return r.finish(ctx, p, ch, e)
}

// finish carries out what the directory has, for the call that changed it: the
// rev is that of the call's own entry, 0 without one.
func (r *Roster) finish(ctx context.Context, p topology.Place, ch topology.ChannelID, e directory.Entry) (topology.Rev, error) {
	upTo := e.ID
	if upTo == 0 {
		upTo = math.MaxInt64 // R2
	}
	ref := topology.ChannelRef{Place: p, Channel: ch}
	last, err := r.carryOut(ctx, ref, upTo)
	if err == nil && e.ID != 0 && last.entry != e.ID {
		last.rev, err = r.carriedOut(ctx, ref, e)
	}
	switch {
	case problem.Is(err, problem.Unavailable):
		// The directory has the change, so it will be made: "not done" would be wrong.
		return 0, problem.Wrap(err, problem.Unknown, "the change of members is under way, but not yet in the channel; try again")
	case err != nil || e.ID == 0:
		return 0, err
	}
	return last.rev, nil
}

// carriedOut is the rev of an entry that another call has carried out with its own: the
// log gives it back. Others' changes of the channel go on before or after, not meanwhile.
func (r *Roster) carriedOut(ctx context.Context, ref topology.ChannelRef, e directory.Entry) (topology.Rev, error) {
	leave, err := r.turns.take(ctx, ref)
	if err != nil {
		return 0, err
	}
	defer leave()
	done, err := r.channels.Member(ctx, member(e))
	return done.Rev, err
}

// carried is an entry that is done, and the rev of its change.
type carried struct {
	entry uint64
	rev   topology.Rev
}

// carryOut carries out a channel's pending entries up to one, in their order
// (R1), and returns the last of them.
func (r *Roster) carryOut(ctx context.Context, ref topology.ChannelRef, upTo uint64) (last carried, err error) {
	leave, err := r.turns.take(ctx, ref)
	if err != nil {
		return carried{}, err
	}
	defer leave()
	for {
		es, err := r.dir.OutboxOf(ctx, ref.Place, ref.Channel, upTo, outboxBatch)
		if err != nil {
			return last, err
		}
		for _, e := range es {
			rev, err := r.carryOutOne(ctx, e)
			if err != nil {
				return last, err
			}
			last = carried{e.ID, rev}
		}
		if len(es) < outboxBatch {
			return last, nil
		}
	}
}

// carryOutOne puts an outbox entry into the channel's log and tells the users.
// Each step is safe to repeat.
func (r *Roster) carryOutOne(ctx context.Context, e directory.Entry) (topology.Rev, error) {
	done, err := r.channels.Member(ctx, member(e))
	if err != nil {
		return 0, err
	}
	if err := r.dir.OutboxDone(ctx, e, done.Rev, done.HeadSeq); err != nil {
		return 0, err
	}
	notice := router.Notice{Kind: router.NoticeURev, Channel: e.Channel}.Encode()
	for _, u := range e.Subjects {
		if failpoint.Drop(failpoint.RosterNotice, string(u)) {
			continue
		}
		r.bus.Publish(router.UserTopic(u), notice)
	}
	return done.Rev, nil
}

func member(e directory.Entry) channel.Member {
	return channel.Member{
		Channel: topology.ChannelRef{Place: e.Place, Channel: e.Channel}, Kind: e.Kind, Author: e.Author,
		Subjects: e.Subjects, Key: e.Key(),
	}
}
