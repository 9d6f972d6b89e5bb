// Package rebuild makes a workspace's search index again from its messages, while
// it is searched and fed. Every message is put again: the same version takes the
// place of what is there, and a newer one that the feed has put stays. In the end
// what was not put again is swept out: the workspace has it no more.
//
// The work is done in steps that their caller asks for, with a cursor that says how
// far it has come: whoever is killed, here or there, goes on from the last step.
package rebuild

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"time"

	"parley/cell/directory"
	"parley/cell/history"
	"parley/cell/search"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// Directory lists a workspace's channels.
type Directory interface {
	ListChannels(ctx context.Context, p topology.Place, u topology.UserID, admin bool, after string, limit int) ([]directory.Channel, error)
}

// Messages reads history; channel.Servers is it.
type Messages interface {
	Page(ctx context.Context, ch topology.ChannelRef, q history.PageQuery) ([]history.Message, error)
	Thread(ctx context.Context, ch topology.ChannelRef, root topology.MessageID, after topology.Seq, limit int) ([]history.Message, error)
}

const (
	// stepMax is how long a step takes, well below the 10 s that an edge waits.
	stepMax = 2 * time.Second
	// page is how many messages are read and put at a time.
	page = 200
	// sweepPage is how many documents one step takes out.
	sweepPage = 5_000
	// skew is how far the clocks of a cell's processes may be apart: what another one
	// has put during the rebuild must not be taken for older. What is stale and younger
	// than that stays until the next rebuild, and is never shown.
	skew = 10 * time.Minute
)

// Rebuilder rebuilds. It may be used from any goroutine.
type Rebuilder struct {
	directory Directory
	messages  Messages
	index     search.Index
	now       func() time.Time
}

// New makes a Rebuilder. It starts nothing.
func New(d Directory, m Messages, ix search.Index, now func() time.Time) *Rebuilder {
	return &Rebuilder{directory: d, messages: m, index: ix, now: now}
}

// cursor is how far a rebuild has come.
type cursor struct {
	Began    int64        `json:"b"`           // ms
	After    string       `json:"a,omitempty"` // name of the last channel that is done
	Seq      topology.Seq `json:"s,omitempty"` // of the next channel: done up to here
	Sweeping bool         `json:"w,omitempty"`
	Channels int          `json:"c,omitempty"`
	Messages int          `json:"m,omitempty"`
	Removed  int          `json:"r,omitempty"`
}

func (r *Rebuilder) parse(s string) (c cursor, err error) {
	now := r.now().UnixMilli()
	if s == "" {
		return cursor{Began: now}, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || json.Unmarshal(b, &c) != nil || c.Began <= 0 || c.Began > now+skew.Milliseconds() {
		return c, problem.Field("cursor", "is not the cursor of a rebuild's answer")
	}
	return c, nil
}

func (c *cursor) answer(done bool) (chat.RebuildResponse, error) {
	out := chat.RebuildResponse{Done: done, Channels: c.Channels, Messages: c.Messages, Removed: c.Removed}
	if done {
		return out, nil
	}
	b, err := json.Marshal(c)
	if err != nil {
		return out, problem.Wrap(err, problem.Internal, "the cursor can't be encoded")
	}
	out.Cursor = base64.RawURLEncoding.EncodeToString(b)
	return out, nil
}

// Step does some of a rebuild of a workspace: from the start without a cursor, else
// from where the step that gave it ended.
func (r *Rebuilder) Step(ctx context.Context, p topology.Place, from string) (chat.RebuildResponse, error) {
	c, err := r.parse(from)
	if err != nil {
		return chat.RebuildResponse{}, err
	}
	for end := r.now().Add(stepMax); r.now().Before(end) && !c.Sweeping; {
		if err := r.channel(ctx, p, &c, end); err != nil {
			return chat.RebuildResponse{}, err
		}
	}
	if !c.Sweeping {
		return c.answer(false)
	}
	n, err := r.index.Sweep(ctx, p, time.UnixMilli(c.Began).Add(-skew), sweepPage)
	c.Removed += n
	if err != nil {
		return chat.RebuildResponse{}, err
	}
	return c.answer(n < sweepPage)
}

// channel goes on with the next channel.
func (r *Rebuilder) channel(ctx context.Context, p topology.Place, c *cursor, end time.Time) error {
	rows, err := r.directory.ListChannels(ctx, p, "", true, c.After, 1)
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		c.Sweeping = true
		return nil
	}
	ch := topology.ChannelRef{Place: p, Channel: rows[0].ID}
	for r.now().Before(end) {
		ms, err := r.messages.Page(ctx, ch, history.PageQuery{Forward: true, After: c.Seq, Limit: page})
		if err != nil {
			return err
		}
		if len(ms) == 0 {
			c.After, c.Seq, c.Channels = rows[0].Name, 0, c.Channels+1
			return nil
		}
		if err := r.put(ctx, ch, ms, rows[0].Private, c); err != nil {
			return err
		}
		c.Seq = ms[len(ms)-1].Seq
	}
	return nil
}

// put puts messages and their threads.
func (r *Rebuilder) put(ctx context.Context, ch topology.ChannelRef, ms []history.Message, private bool, c *cursor) error {
	if err := r.index.Put(ctx, docsOf(ch, ms, private)); err != nil {
		return err
	}
	c.Messages += len(ms)
	for i := range ms {
		for after := topology.Seq(0); after < topology.Seq(ms[i].ReplyCount); {
			replies, err := r.messages.Thread(ctx, ch, ms[i].ID, after, page)
			if err != nil {
				return err
			}
			if len(replies) == 0 {
				break
			}
			if err := r.index.Put(ctx, docsOf(ch, replies, private)); err != nil {
				return err
			}
			c.Messages += len(replies)
			after = replies[len(replies)-1].Seq
		}
	}
	return nil
}

func docsOf(ch topology.ChannelRef, ms []history.Message, private bool) []search.Doc {
	docs := make([]search.Doc, len(ms))
	for i := range ms {
		docs[i] = search.DocOf(ch, &ms[i].Change, private)
	}
	return docs
}
