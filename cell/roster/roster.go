// Package roster changes who is in which channel: in the directory first, with an
// outbox entry in the same transaction, then in the channel's log at its rev. A
// call answers when both are done; what a crash leaves in the outbox is carried
// on by Run.
package roster

import (
	"context"
	"log/slog"
	"time"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/directory"
	"parley/cell/router"
	"parley/internal/topology"
)

// Directory is what this package asks of the directory.
type Directory interface {
	CreateChannel(ctx context.Context, p topology.Place, ch directory.Channel, members []topology.UserID) (directory.Channel, directory.Entry, error)
	AddMembers(ctx context.Context, p topology.Place, ch topology.ChannelID, us []topology.UserID, by topology.UserID, now time.Time) (directory.Entry, error)
	RemoveMember(ctx context.Context, p topology.Place, ch topology.ChannelID, u, by topology.UserID, now time.Time) (directory.Entry, error)
	OutboxPending(ctx context.Context, limit int) ([]directory.Entry, error)
	OutboxDone(ctx context.Context, id uint64, rev topology.Rev, seq topology.Seq) error
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
}

// Roster changes memberships.
type Roster struct {
	cfg      Config
	dir      Directory
	channels Members
	bus      router.Bus
	now      func() time.Time
	log      *slog.Logger
}

// New makes a Roster.
func New(cfg Config, d Directory, m Members, b router.Bus, now func() time.Time, log *slog.Logger) *Roster {
	if cfg.Every <= 0 {
		cfg.Every = 5 * time.Second
	}
	return &Roster{cfg: cfg, dir: d, channels: m, bus: b, now: now, log: log}
}

// Create makes a channel with its first members.
func (r *Roster) Create(ctx context.Context, p topology.Place, ch directory.Channel, members []topology.UserID) (directory.Channel, error) {
	row, e, err := r.dir.CreateChannel(ctx, p, ch, members)
	if err != nil {
		return directory.Channel{}, err
	}
	_, err = r.carryOut(ctx, e)
	return row, err
}

// Add makes users members; those who are already stay as they are. The rev is
// that of the change in the channel's log, 0 when all were members.
func (r *Roster) Add(ctx context.Context, p topology.Place, ch topology.ChannelID, us []topology.UserID, by topology.UserID) (topology.Rev, error) {
	e, err := r.dir.AddMembers(ctx, p, ch, us, by, r.now())
	if err != nil {
		return 0, err
	}
	return r.carryOut(ctx, e)
}

// Remove takes a user out: when it returns, nothing after the rev reaches the
// user. The rev is 0 when the user was no member.
func (r *Roster) Remove(ctx context.Context, p topology.Place, ch topology.ChannelID, u, by topology.UserID) (topology.Rev, error) {
	e, err := r.dir.RemoveMember(ctx, p, ch, u, by, r.now())
	if err != nil {
		return 0, err
	}
	return r.carryOut(ctx, e)
}

// carryOut puts an outbox entry into the channel's log and tells the users. Each
// step is safe to repeat.
func (r *Roster) carryOut(ctx context.Context, e directory.Entry) (topology.Rev, error) {
	if e.ID == 0 {
		return 0, nil
	}
	done, err := r.channels.Member(ctx, channel.Member{
		Channel: topology.ChannelRef{Place: e.Place, Channel: e.Channel}, Kind: e.Kind, Author: e.Author,
		Subjects: e.Subjects, Key: e.Key(),
	})
	if err != nil {
		return 0, err
	}
	if err := r.dir.OutboxDone(ctx, e.ID, done.Rev, done.HeadSeq); err != nil {
		return 0, err
	}
	notice := router.Notice{Kind: router.NoticeURev, Channel: e.Channel}.Encode()
	for _, u := range e.Subjects {
		r.bus.Publish(router.UserTopic(u), notice)
	}
	return done.Rev, nil
}

// outboxBatch bounds what one look at the outbox takes.
const outboxBatch = 100

// Run carries out what calls that died have left in the outbox, until ctx ends.
// An entry younger than Config.Every is its own call's business.
func (r *Roster) Run(ctx context.Context, ready func()) error {
	ready()
	tick := time.NewTicker(r.cfg.Every)
	defer tick.Stop()
	for {
		if err := r.sweep(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("outbox not carried out; trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (r *Roster) sweep(ctx context.Context) error {
	es, err := r.dir.OutboxPending(ctx, outboxBatch)
	if err != nil {
		return err
	}
	var first error
	for _, e := range es {
		if r.now().Sub(e.At) < r.cfg.Every {
			continue
		}
		step, cancel := context.WithTimeout(ctx, r.cfg.Every)
		if _, err := r.carryOut(step, e); err != nil && first == nil {
			first = err
		}
		cancel()
	}
	return first
}
