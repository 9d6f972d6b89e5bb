//go:build failpoints

package sim_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"parley/cell/directory"
	"parley/chaos/check"
	"parley/chaos/history"
	"parley/chaos/swarm"
	"parley/internal/failpoint"
	"parley/internal/token"
	"parley/internal/topology"
)

// scenario is one run in simulated time.
type scenario struct {
	seed    uint64
	lasts   time.Duration
	mutants []string
	faults  []fault
	gap     time.Duration // between two faults, at most
	speed   float64       // of the talk
	rooms   int
}

const (
	people   = 8
	talkGap  = 400 * time.Millisecond // between two lines
	quietFor = 90 * time.Second       // at the end: longer than any repair takes
)

// firstRoom is a channel of every scenario.
var firstRoom = topology.ChannelRef{Place: acme, Channel: "C1"}

// run plays a scenario and checks what people saw.
func (sc scenario) run(t *testing.T) (report check.Report) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		file := filepath.Join(t.TempDir(), "history.jsonl")
		rec, err := history.Create(file)
		must(t, err)
		for _, m := range sc.mutants {
			undo, err := failpoint.Set(failpoint.Order{Name: m, Do: "mutate"})
			must(t, err)
			defer undo()
		}
		w := newWorld(t, sc.seed, rec)
		s := w.swarm(sc, rec)
		ctx, cancel := context.WithCancel(context.Background())
		talk, hush := context.WithCancel(ctx)
		gone := make(chan struct{})
		go func() { defer close(gone); s.Run(ctx, talk) }()
		time.Sleep(5 * time.Second)
		rec.Add(history.Record{Kind: history.Fault, Name: "all", State: history.Begin})
		rnd := rand.New(rand.NewPCG(sc.seed, 2))
		for time.Since(began) < sc.lasts {
			f := sc.faults[rnd.IntN(len(sc.faults))]
			w.log.Info("a fault begins", "part", f.name)
			f.do(w, rnd)
			time.Sleep(time.Duration(rnd.Int64N(int64(sc.gap))))
		}
		w.lastWords(hush)
		rec.Add(history.Record{Kind: history.Fault, Name: "all", State: history.Ended})
		rec.Add(history.Record{Kind: history.Healed})
		time.Sleep(quietFor)
		rec.Add(history.Record{Kind: history.End})
		end, stop := context.WithTimeout(ctx, stateMax)
		err = s.Conclude(end)
		stop()
		cancel()
		<-gone
		w.stopAll()
		must(t, errors.Join(err, rec.Close()))
		h, err := check.Load(file)
		must(t, err)
		report = h.Check(check.Options{
			Key: history.DefaultKey, Quiet: true, MinPosts: 100,
			Only: []string{"kept", "order", "stream", "published", "owner", "retry", "readstate", "leak", "live"},
		})
	})
	return report
}

// lastWords ends the talk while every publish is lost: what was said last is
// found by beacons, or not at all.
func (w *world) lastWords(hush func()) {
	undo, err := failpoint.Set(failpoint.Order{Name: failpoint.ChannelPublish, Do: "drop"})
	must(w.t, err)
	time.Sleep(5 * time.Second)
	hush()
	time.Sleep(5 * time.Second)
	undo()
}

// swarm seeds people and channels, and has them talk.
func (w *world) swarm(sc scenario, rec *history.Recorder) *swarm.Swarm {
	ctx := context.Background()
	var users []directory.User
	var ids []topology.UserID
	for i := range people {
		ids = append(ids, topology.UserID(fmt.Sprintf("U%d", i+1)))
		users = append(users, directory.User{ID: ids[i], Name: fmt.Sprintf("user%d", i+1)})
	}
	_, err := w.cached.PutUsers(ctx, acme, users)
	must(w.t, err)
	var channels []topology.ChannelID
	for i := range sc.rooms {
		id := topology.ChannelID(fmt.Sprintf("C%d", i+1))
		_, err := w.roster.Create(ctx, acme, directory.Channel{ID: id, Name: fmt.Sprintf("room%d", i+1), CreatedBy: ids[0], CreatedTS: 1}, ids)
		must(w.t, err)
		channels = append(channels, id)
	}
	cfg := swarm.Config{Speed: sc.speed, Loop: true, History: rec, Seal: history.NewSealer(history.DefaultKey), OpMax: time.Minute, Dial: w.people().DialContext}
	for i, id := range ids {
		now := time.Now()
		signed, err := token.Sign(w.key, token.Claims{User: id, Workspace: acme.Workspace, Role: token.RoleMember, Expires: now.Add(12 * time.Hour)}, now)
		must(w.t, err)
		cfg.People = append(cfg.People, swarm.Person{
			Name: users[i].Name, Role: history.RoleSwarm, Workspace: acme.Workspace, User: id, Token: signed,
			Edges: []string{edgeURL(i % edges), edgeURL((i + 1) % edges)}, Channels: channels,
		})
	}
	rnd := rand.New(rand.NewPCG(sc.seed, 3))
	for i := range 1000 {
		l := swarm.Line{At: time.Duration(i) * talkGap, Author: rnd.IntN(people), Channel: rnd.IntN(sc.rooms), Text: fmt.Sprintf("line %d", i), Root: -1}
		if rnd.IntN(8) == 0 && i > 0 {
			l.Root = rnd.IntN(i)
		}
		cfg.Script = append(cfg.Script, l)
	}
	s, err := swarm.New(cfg)
	must(w.t, err)
	return s
}

// verdict is a report in a line a check.
func verdict(r check.Report) string {
	var out []string
	for _, c := range r.Checks {
		b, _ := json.Marshal(c)
		out = append(out, string(b))
	}
	return strings.Join(out, "\n")
}

// TestCell_KeepsItsPromisesForHours breaks everything that can break, for simulated
// hours.
func TestCell_KeepsItsPromisesForHours(t *testing.T) {
	for seed := range uint64(seeds(t, 2)) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			r := scenario{seed: seed, lasts: hour(t), faults: allFaults(), gap: 20 * time.Second, speed: 1, rooms: 4}.run(t)
			if r.Verdict() != check.OK {
				t.Errorf("seed %d:\n%s", seed, verdict(r))
			}
		})
	}
}

// TestCell_LateWritesAreDead has owners change twice under a write that is late,
// in one busy channel.
func TestCell_LateWritesAreDead(t *testing.T) {
	for seed := range uint64(seeds(t, 1)) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			r := scenario{seed: seed, lasts: hour(t) / 4, faults: ghosts(), gap: 5 * time.Second, speed: 5, rooms: 1}.run(t)
			if r.Verdict() != check.OK {
				t.Errorf("seed %d:\n%s", seed, verdict(r))
			}
		})
	}
}

// TestCell_EachStepIsNeeded leaves out one step of the protocol at a time: the
// same people, under faults that step is for, notice.
func TestCell_EachStepIsNeeded(t *testing.T) {
	for _, m := range []struct {
		mutant string
		faults []fault
		lasts  time.Duration
		rooms  int
	}{
		{failpoint.NoFenceRead, takeovers(), 10 * time.Minute, 4},
		{failpoint.NoSeal, ghosts(), 5 * time.Minute, 1},
		{failpoint.PublishEarly, takeovers(), 10 * time.Minute, 4},
		{failpoint.ResumeAhead, moves(), time.Minute, 4},
		{failpoint.NoBeacon, moves(), 5 * time.Minute, 4},
		{failpoint.TrustOldLink, moves(), 5 * time.Minute, 4},
	} {
		t.Run(m.mutant, func(t *testing.T) {
			const tries = 6
			for seed := range uint64(tries) {
				r := scenario{seed: seed, lasts: m.lasts, mutants: []string{m.mutant}, faults: m.faults, gap: 5 * time.Second, speed: 5, rooms: m.rooms}.run(t)
				if r.Verdict() == check.Violated {
					t.Logf("seed %d:\n%s", seed, verdict(r))
					return
				}
			}
			t.Errorf("nobody noticed in %d runs that %s", tries, m.mutant)
		})
	}
}
