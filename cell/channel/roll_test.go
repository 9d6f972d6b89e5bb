package channel_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/internal/problem"
	"parley/internal/topology"
)

// leavable is a directory that can go away. It tells of the lists that it is asked for.
type leavable struct {
	channel.Directory

	away  atomic.Bool
	asked chan topology.ChannelRef
}

func (d *leavable) gone() error {
	if d.away.Load() {
		return &problem.Error{Kind: problem.Unavailable, Msg: "the directory is away", RetryAfter: time.Second}
	}
	return nil
}

func (d *leavable) IsMember(ctx context.Context, ref topology.ChannelRef, u topology.UserID) (bool, error) {
	if err := d.gone(); err != nil {
		return false, err
	}
	return d.Directory.IsMember(ctx, ref, u)
}

func (d *leavable) Members(ctx context.Context, ref topology.ChannelRef, most int) ([]topology.UserID, bool, error) {
	select {
	case d.asked <- ref:
	default: // nobody looks
	}
	if err := d.gone(); err != nil {
		return nil, false, err
	}
	return d.Directory.Members(ctx, ref, most)
}

// leavableCell is a cell of one server, and of two channels with U1 and U2 in them.
func leavableCell(t *testing.T) (*cell, *leavable, [2]topology.ChannelRef) {
	t.Helper()
	c := newCell(t)
	d := &leavable{Directory: c.dir, asked: make(chan topology.ChannelRef, 64)}
	c.start("cs-1", func(_ *channel.Config, deps *channel.Deps) { deps.Directory = d })
	return c, d, [2]topology.ChannelRef{c.channel(1, "U1", "U2"), c.channel(2, "U1", "U2")}
}

// loaded waits until the first channel's roll is there: rolls come one after the other,
// so it is when the second's is asked for.
func (d *leavable) loaded(c *cell, refs [2]topology.ChannelRef) {
	c.t.Helper()
	d.await(c, refs[0])
	if _, err := c.cluster.Heads(c.ctx(), refs[1:]); err != nil {
		c.t.Fatal(err)
	}
	d.await(c, refs[1])
}

func (d *leavable) await(c *cell, ref topology.ChannelRef) {
	c.t.Helper()
	late := time.After(waitMax)
	for {
		select {
		case got := <-d.asked:
			if got == ref {
				return
			}
		case <-late:
			c.t.Fatalf("nobody asked who is in channel %s", ref.Channel)
		}
	}
}

func (c *cell) move(ref topology.ChannelRef, kind change.Kind, u topology.UserID, key string) change.Change {
	c.t.Helper()
	m, err := c.cluster.Member(c.ctx(), channel.Member{Channel: ref, Kind: kind, Author: "U1", Subjects: []topology.UserID{u}, Key: key})
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

func TestRoll_WhoNeverPostedPostsWhileTheDirectoryIsAway(t *testing.T) {
	for name, begin := range map[string]func(*cell, topology.ChannelRef){
		"another has posted": func(c *cell, ref topology.ChannelRef) { c.post(ref, "U1", "hello", "") },
		"a socket follows, no more": func(c *cell, ref topology.ChannelRef) {
			if _, err := c.cluster.Heads(c.ctx(), []topology.ChannelRef{ref}); err != nil {
				c.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, d, refs := leavableCell(t)
			begin(c, refs[0])
			d.loaded(c, refs)
			d.away.Store(true)
			c.post(refs[0], "U2", "I am here, too", "")
			_, err := c.cluster.Post(shortly(t), channel.Post{Channel: refs[0], Author: "U3", Text: "and I", Key: "k"})
			if err == nil {
				t.Error("a stranger has posted")
			}
			c.move(refs[0], change.Left, "U2", "left")
			_, err = c.cluster.Post(c.ctx(), channel.Post{Channel: refs[0], Author: "U2", Text: "still here"})
			wantKind(t, err, problem.Denied)
			c.move(refs[0], change.Joined, "U2", "joined")
			c.post(refs[0], "U2", "back again", "")
		})
	}
}

func shortly(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// The directory's memory still has who was taken out a moment before it went away.
func TestRoll_TheLogCountsMoreThanAnOldAnswer(t *testing.T) {
	c, d, refs := leavableCell(t)
	c.post(refs[0], "U1", "hello", "")
	d.loaded(c, refs)
	c.move(refs[0], change.Left, "U2", "left") // the double still says that U2 is in
	_, err := c.cluster.Post(c.ctx(), channel.Post{Channel: refs[0], Author: "U2", Text: "still here"})
	wantKind(t, err, problem.Denied)
}

// Posts and removals at once: whoever is taken out has no post above that.
func TestRoll_NobodyPostsAboveTheirRemoval(t *testing.T) {
	c, d, refs := leavableCell(t)
	c.post(refs[0], "U1", "hello", "")
	d.loaded(c, refs)
	ctx := c.ctx()
	for range 30 {
		done, under := make(chan error, 4), make(chan struct{}, 1)
		for range cap(done) {
			go func() {
				for {
					_, err := c.cluster.Post(ctx, channel.Post{Channel: refs[0], Author: "U2", Text: "again"})
					if err != nil {
						done <- err
						return
					}
					select {
					case under <- struct{}{}:
					default: // they are known to be under way
					}
				}
			}()
		}
		<-under
		c.dir.remove(refs[0], "U2")
		left := c.move(refs[0], change.Left, "U2", "")
		for range cap(done) {
			if err := <-done; !problem.Is(err, problem.Denied) {
				t.Fatal(errors.Join(errors.New("a post was refused otherwise"), err))
			}
		}
		for _, e := range c.logOf(refs[0]) {
			if e.Rev > left.Rev && e.Author == "U2" {
				t.Fatalf("U2 left at rev %d and posted at %d", left.Rev, e.Rev)
			}
		}
		c.dir.put(refs[0], channel.Info{Number: 1}, "U2")
		c.move(refs[0], change.Joined, "U2", "")
	}
}
