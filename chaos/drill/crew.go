package drill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"parley/chaos/history"
	"parley/chaos/swarm"
	"parley/client"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// Sizes of a drill's swarm, and its pace. The control swarm lives in the other
// cell and comes in through its own region's edge.
const (
	users      = 24
	channels   = 12
	membersPer = 16
	controlAll = 6
	postsPerS  = 50
	opMax      = 60 * time.Second
	swarmHome  = "acme"
	controlled = "globex"
	noisyHome  = "initech" // in the swarm's cell
)

// crew is the people of one drill: the swarm, and the history that it writes.
type crew struct {
	*swarm.Swarm
	people []swarm.Person
	rec    *history.Recorder
	seal   history.Sealer
	file   string
	posted int
	mu     sync.Mutex
}

func (w *world) seed(ctx context.Context, workspace, prefix string, users, channels, members int) (swarm.Seeded, error) {
	b, err := w.cli(ctx, "seed", "--workspace", workspace, "--prefix", prefix, "--users", strconv.Itoa(users),
		"--channels", strconv.Itoa(channels), "--members-per-channel", strconv.Itoa(members), "-o", "json")
	if err != nil {
		return swarm.Seeded{}, err
	}
	return swarm.ReadSeeded(b)
}

// muster makes a drill's people and channels, all new.
func (w *world) muster(ctx context.Context, name string) (*crew, error) {
	in, err := w.seed(ctx, swarmHome, name, users, channels, membersPer)
	if err != nil {
		return nil, err
	}
	apart, err := w.seed(ctx, controlled, name, controlAll, 1, controlAll)
	if err != nil {
		return nil, err
	}
	here, there := w.regions[0].edge.url(), w.regions[1].edge.url()
	c := &crew{seal: history.NewSealer(history.DefaultKey), file: filepath.Join(w.cfg.Dir, name+".jsonl")}
	c.people = append(c.people, in.People(history.RoleSwarm, func(i int) []string {
		if i%2 == 0 {
			return []string{here, there}
		}
		return []string{there, here}
	})...)
	c.people = append(c.people, apart.People(history.RoleControl, func(int) []string { return []string{there} })...)
	_ = os.Remove(c.file) // of a former run
	if c.rec, err = history.Create(c.file); err != nil {
		return nil, err
	}
	c.Swarm, err = swarm.New(swarm.Config{
		People: c.people, Script: w.cfg.Script, Speed: w.cfg.Speed, Loop: true, History: c.rec, Seal: c.seal, OpMax: opMax,
	})
	return c, err
}

// client is a client of the swarm's person i.
func (w *world) client(i int) (*client.Client, swarm.Person, error) {
	p := w.swarm.people[i]
	c, err := client.New(client.Config{URL: p.Edges[0], Token: p.Token})
	return c, p, err
}

// privateChannel has a person make a private channel and invite others.
func (w *world) privateChannel(ctx context.Context, by int, with []int) (topology.ChannelID, error) {
	c, p, err := w.client(by)
	if err != nil {
		return "", err
	}
	defer c.Close()
	ch, err := c.CreateChannel(ctx, chat.CreateChannelRequest{Name: fmt.Sprintf("private-%d", time.Now().UnixNano()), Private: true})
	if err != nil {
		return "", fmt.Errorf("%s makes a private channel: %w", p.Name, err)
	}
	var us []topology.UserID
	for _, i := range with {
		us = append(us, w.swarm.people[i].User)
	}
	_, err = c.AddMembers(ctx, ch.ID, us)
	return ch.ID, err
}

func (w *world) remove(ctx context.Context, by int, ch topology.ChannelID, who int) error {
	c, _, err := w.client(by)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.RemoveMember(ctx, ch, w.swarm.people[who].User)
	return err
}

// postInto has a person post n messages into a channel, one after the other, on
// the record.
func (w *world) postInto(ctx context.Context, by int, ch topology.ChannelID, n int) error {
	c, p, err := w.client(by)
	if err != nil {
		return err
	}
	defer c.Close()
	w.swarm.mu.Lock()
	w.swarm.posted++
	name := fmt.Sprintf("%s-aside-%d", p.Name, w.swarm.posted)
	w.swarm.mu.Unlock()
	w.swarm.rec.Add(history.Record{Kind: history.Client, Client: name, Workspace: p.Workspace, User: p.User, Role: p.Role})
	for i := range n {
		rec := history.Record{Client: name, Op: uint64(i + 1), Do: history.DoPost, Channel: ch, ClientMsgID: fmt.Sprintf("%s-%d", name, i)}
		begin := rec
		begin.Kind, begin.Workspace, begin.User = history.Invoke, p.Workspace, p.User
		begin.Text = w.swarm.seal.Seal("aside", history.Origin{Workspace: p.Workspace, Channel: ch, ClientMsgID: rec.ClientMsgID})
		w.swarm.rec.Add(begin)
		posted, err := c.Post(ctx, ch, chat.PostRequest{Text: begin.Text, ClientMsgID: rec.ClientMsgID})
		if err != nil {
			rec.Kind, rec.Why = history.Unknown, err.Error()
			w.swarm.rec.Add(rec)
			return err
		}
		rec.Kind, rec.MessageID, rec.Seq, rec.Rev = history.OK, posted.MessageID, posted.Seq, posted.Rev
		w.swarm.rec.Add(rec)
	}
	return nil
}

// silence ends the talk of the drill under way.
func (w *world) silence() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silenced()
}

// untilGained waits until a person's sockets were told of a channel.
func (w *world) untilGained(ctx context.Context, who int, ch topology.ChannelID, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	c, p, err := w.client(who)
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		if w.swarm.Knows(p.Name, ch) {
			return nil
		}
		if w.wait(ctx, 20*time.Millisecond) != nil {
			return fmt.Errorf("%s was not told of channel %s within %s", p.Name, ch, within)
		}
	}
}

// logInNew has users who were never seen before open sockets at an edge, be told
// hello, and read a page.
func (w *world) logInNew(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	for _, p := range w.swarm.people[:4] { // tokens that this edge may not have seen yet
		c, err := client.New(client.Config{URL: w.publicURL(name), Token: p.Token})
		if err != nil {
			return err
		}
		err = logIn(ctx, c, p.Channels[0])
		c.Close()
		if err != nil {
			return fmt.Errorf("a new user could not log in at %s: %w", name, err)
		}
	}
	return nil
}

// publicURL is where clients reach an edge.
func (w *world) publicURL(name string) string {
	for _, r := range w.regions {
		if string(r.edge.id) == name {
			return r.edge.url()
		}
	}
	return ""
}

func logIn(ctx context.Context, c *client.Client, ch topology.ChannelID) error {
	for {
		socket, err := c.Dial(ctx, false)
		if err == nil {
			_, _, err = socket.Read()
			err = errors.Join(err, socket.Close())
		}
		if err == nil {
			_, err = c.Before(ctx, ch, "", 1)
		}
		if err == nil || ctx.Err() != nil || !problem.Is(err, problem.Unavailable) {
			return err
		}
	}
}
