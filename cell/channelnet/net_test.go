package channelnet_test

import (
	"bytes"
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/cell/change"
	"parley/cell/channel"
	"parley/cell/channelnet"
	"parley/cell/history"
	"parley/internal/pki"
	"parley/internal/problem"
	"parley/internal/topology"
)

func (c *cell) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), waitMax)
	c.tb.Cleanup(cancel)
	return ctx
}

// Every call gives over the network what it gives in the owner's own process, and
// so does every refusal.
func TestNet_OneAnswersAreTheOwners(t *testing.T) {
	c := newCell(t)
	owner, from := c.start("a", "cs-a"), c.start("c")
	ref := from.channels(1)[0]
	big := strings.Repeat("ü", 40_000)
	var root topology.MessageID
	for i, text := range []string{"first <@U1>", big, "third"} {
		m, err := from.cluster.Post(c.ctx(), channel.Post{Channel: ref, Author: "U1", Text: text, Key: string(rune('a' + i))})
		must(t, err)
		if root == "" {
			root = m.ID
		}
	}
	_, err := from.cluster.Post(c.ctx(), channel.Post{Channel: ref, Author: "U1", Text: "reply", Root: root})
	must(t, err)
	for name, ask := range map[string]func(*channel.Cluster) (any, error){
		"repeat": func(s *channel.Cluster) (any, error) {
			return s.Post(c.ctx(), channel.Post{Channel: ref, Author: "U1", Text: "third", Key: "c"})
		},
		"member": func(s *channel.Cluster) (any, error) {
			return s.Member(c.ctx(), channel.Member{Channel: ref, Kind: change.Joined, Author: "U1", Subjects: []topology.UserID{"U2"}, Key: "1"})
		},
		"heads":   func(s *channel.Cluster) (any, error) { return s.Heads(c.ctx(), []topology.ChannelRef{ref, ref}) },
		"changes": func(s *channel.Cluster) (any, error) { return s.Changes(c.ctx(), ref, 1, 100) },
		"page":    func(s *channel.Cluster) (any, error) { return s.Page(c.ctx(), ref, history.PageQuery{Limit: 10}) },
		"forward": func(s *channel.Cluster) (any, error) {
			return s.Page(c.ctx(), ref, history.PageQuery{Limit: 1, Forward: true, After: 1})
		},
		"before": func(s *channel.Cluster) (any, error) {
			return s.Page(c.ctx(), ref, history.PageQuery{Limit: 5, Before: 3})
		},
		"thread": func(s *channel.Cluster) (any, error) { return s.Thread(c.ctx(), ref, root, 0, 10) },
		"get":    func(s *channel.Cluster) (any, error) { return s.Get(c.ctx(), ref, root) },
		"no text": func(s *channel.Cluster) (any, error) {
			return s.Post(c.ctx(), channel.Post{Channel: ref, Author: "U1"})
		},
		"not UTF8": func(s *channel.Cluster) (any, error) {
			return s.Post(c.ctx(), channel.Post{Channel: ref, Author: "U1", Text: "\xff"})
		},
		"no member": func(s *channel.Cluster) (any, error) {
			return s.Post(c.ctx(), channel.Post{Channel: ref, Author: "U9", Text: "x"})
		},
		"other body": func(s *channel.Cluster) (any, error) {
			return s.Post(c.ctx(), channel.Post{Channel: ref, Author: "U1", Text: "x", Key: "c"})
		},
		"no message":    func(s *channel.Cluster) (any, error) { return s.Get(c.ctx(), ref, "nothing") },
		"ahead":         func(s *channel.Cluster) (any, error) { return s.Changes(c.ctx(), ref, 1000, 1) },
		"less than one": func(s *channel.Cluster) (any, error) { return s.Changes(c.ctx(), ref, 0, -1) },
		"not importing": func(s *channel.Cluster) (any, error) {
			return s.Import(c.ctx(), channel.Import{Channel: ref, Messages: []channel.Imported{{Author: "U1", TS: 1, Text: "x"}}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			want, wantErr := ask(owner.cluster)
			got, err := ask(from.cluster)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if problem.KindOf(wantErr) != problem.KindOf(err) || (err == nil) != (wantErr == nil) {
				t.Fatalf("got %v, want %v", err, wantErr)
			}
			if err != nil && cmp.Diff(problem.DocumentOf(wantErr), problem.DocumentOf(err)) != "" {
				t.Errorf("got %v, want %v", err, wantErr)
			}
		})
	}
}

// A post that is under way when its owner falls dead is found again by its key;
// without a key, its outcome is unknown; what only reads goes to the next owner.
func TestNet_OneACutLeavesTheOutcomeOpen(t *testing.T) {
	c := newCell(t)
	owner, from := c.start("a", "cs-a"), c.start("c")
	ref := from.channels(1)[0]
	owner.store.stop(true)
	type result struct {
		m   change.Change
		err error
	}
	post := func(key string) chan result {
		done := make(chan result, 1)
		go func() {
			m, err := from.cluster.Post(c.ctx(), channel.Post{Channel: ref, Author: "U1", Text: "under way", Key: key})
			done <- result{m, err}
		}()
		return done
	}
	keyed, bare := post("key"), post("")
	time.AfterFunc(200*time.Millisecond, owner.relay.reset) // both have left by then, or are repeated: each must hold
	if r := <-bare; r.err != nil {
		wantKind(t, r.err, problem.Unknown)
	}
	owner.store.stop(false)
	r := <-keyed
	must(t, r.err)
	log := from.logOf(ref)
	n := 0
	for _, e := range log {
		if e.ClientMsgID == "key" {
			n++
		}
	}
	if n != 1 || log[r.m.Rev-1].ID != r.m.ID {
		t.Errorf("%d posts under the key; the answer is rev %d", n, r.m.Rev)
	}
}

// Who waits no more gets what is known: nothing was done while the owner had not
// begun; and the owner forgets the request.
func TestNet_OneDeadlinesCross(t *testing.T) {
	c := newCell(t)
	owner, from := c.start("a", "cs-a"), c.start("c")
	ref := from.channels(1)[0]
	owner.store.stop(true)
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := from.cluster.Post(ctx, channel.Post{Channel: ref, Author: "U1", Text: "late", Key: "late"})
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
	if !problem.Is(err, problem.Unknown) && !problem.Is(err, problem.Unavailable) {
		t.Errorf("got %v", err)
	}
	owner.store.stop(false)
	_, err = from.cluster.Post(c.ctx(), channel.Post{Channel: ref, Author: "U1", Text: "late", Key: "late"})
	must(t, err)
}

// A large page on its way holds up no post.
func TestNet_LargeAnswersHoldUpNoPost(t *testing.T) {
	c := newCell(t)
	c.start("a", "cs-a")
	from := c.start("c")
	refs := from.channels(2)
	text := strings.Repeat("\x01", 40_000)
	for range 60 {
		_, err := from.cluster.Post(c.ctx(), channel.Post{Channel: refs[0], Author: "U1", Text: text})
		must(t, err)
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if ms, err := from.cluster.Page(c.ctx(), refs[0], history.PageQuery{Limit: 60}); err != nil || len(ms) != 60 {
					t.Errorf("%d messages, %v", len(ms), err)
					return
				}
			}
		})
	}
	l := from.load(refs[1:], 4)
	l.more(100)
	close(stop)
	readers.Wait()
	l.within("beside large pages", 2*time.Second)
	l.end()
}

func (c *cell) peersOf(t *testing.T, role pki.Role, cell topology.CellID, alter ...func(*channelnet.Peers)) *channel.Cluster {
	t.Helper()
	cluster := channel.NewCluster(channel.ClusterConfig{Cell: cellID})
	peers, err := channelnet.NewPeers(channelnet.PeersConfig{
		Cell: cell, Process: "stranger", Identity: c.identity(role, cell, "stranger"), Log: c.log,
		Static: []string{c.table.Servers(cellID)[0].Addr},
	}, cluster, c.table)
	must(t, err)
	for _, f := range alter {
		f(peers)
	}
	p := &process{c: c, name: "stranger", cluster: cluster, store: &stoppable{}}
	p.run([]part{{run: peers.Run}})
	return cluster
}

func TestNet_FourOnlyTheCellsOwnProcesses(t *testing.T) {
	c := newCell(t)
	c.start("a", "cs-a")
	from := c.start("c")
	ref := from.channels(1)[0]
	post := func(cl *channel.Cluster) error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := cl.Post(ctx, channel.Post{Channel: ref, Author: "U1", Text: "x", Key: "k"})
		return err
	}
	must(t, post(c.peersOf(t, pki.RoleGateway, cellID)))
	wantKind(t, post(c.peersOf(t, pki.RoleGateway, "eu-2")), problem.Unavailable) // never in reach
	wantKind(t, post(c.peersOf(t, pki.RoleEdge, cellID)), problem.Unavailable)
	wantKind(t, post(c.peersOf(t, pki.RoleCell, cellID)), problem.Denied) // has no users to post for
}

func TestNet_FourOnlyTheCellsWorkspaces(t *testing.T) {
	c := newCell(t)
	c.start("a", "cs-a")
	from := c.start("c")
	ref := from.channels(1)[0]
	_, err := from.cluster.Heads(c.ctx(), []topology.ChannelRef{ref})
	must(t, err)
	older := ref
	older.Generation = 0
	for _, ask := range []func() error{
		func() error { _, err := from.cluster.Heads(c.ctx(), []topology.ChannelRef{ref, older}); return err },
		func() error { _, err := from.cluster.Changes(c.ctx(), older, 0, 10); return err },
		func() error { _, err := from.cluster.Page(c.ctx(), older, history.PageQuery{Limit: 1}); return err },
		func() error { _, err := from.cluster.Get(c.ctx(), older, "x"); return err },
		func() error { _, err := from.cluster.Thread(c.ctx(), older, "x", 0, 1); return err },
	} {
		wantKind(t, ask(), problem.Moved)
	}
}

func TestNet_FiveAnotherVersionIsRefusedInWords(t *testing.T) {
	c := newCell(t)
	c.start("a", "cs-a")
	var told lockedBuffer
	c.log = told.logger()
	c.peersOf(t, pki.RoleGateway, cellID, func(p *channelnet.Peers) { p.SetVersion(7) })
	eventually(t, "the log names both versions", func() bool {
		s := told.String()
		return strings.Contains(s, "version 7") && strings.Contains(s, "version 1")
	})
}

// A peer that takes connections and says nothing is not waited for.
func TestNet_ThreeASilentProcessIsOutOfReach(t *testing.T) {
	c := newCell(t)
	a := c.start("a", "cs-a")
	from := c.start("c")
	ref := from.channels(1)[0]
	a.relay.pause(true)
	ctx, cancel := context.WithTimeout(context.Background(), waitMax)
	defer cancel()
	began := time.Now()
	done := make(chan error, 1)
	go func() { // without a key, so that the cut shows
		_, err := from.cluster.Post(ctx, channel.Post{Channel: ref, Author: "U1", Text: "x"})
		done <- err
	}()
	wantKind(t, <-done, problem.Unknown)
	if took := time.Since(began); took > 5*time.Second*patience {
		t.Errorf("it took %s", took)
	}
}

// The port speaks to nobody without a certificate.
func TestServer_StrangersGetNoWord(t *testing.T) {
	c := newCell(t)
	a := c.start("a", "cs-a")
	conn, err := net.Dial("tcp", a.relay.addr)
	must(t, err)
	defer func() { _ = conn.Close() }()
	_, err = conn.Write([]byte("POST /parley.cell.v1.ChannelService/Serve HTTP/1.1\r\nHost: x\r\n\r\n"))
	must(t, err)
	must(t, conn.SetReadDeadline(time.Now().Add(waitMax)))
	var answer bytes.Buffer
	_, _ = answer.ReadFrom(conn)
	if strings.Contains(answer.String(), "200") {
		t.Errorf("it answered %q", answer.String())
	}
}
