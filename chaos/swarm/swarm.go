// Package swarm is many people at once: each holds a socket through the edges
// that it prefers, posts lines of a script, reads, marks as read, reconnects as a
// good client does, and has everything written down.
package swarm

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"parley/chaos/history"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// Person is one member of the swarm.
type Person struct {
	Name      string // unique in the run
	Role      string // history.RoleSwarm or RoleControl
	Workspace topology.WorkspaceID
	User      topology.UserID
	Token     string
	Edges     []string             // URLs, in order of preference
	Channels  []topology.ChannelID // in which it talks
}

// Config is a swarm's.
type Config struct {
	People []Person
	Script Script
	Speed  float64 // how many times faster than the script
	Loop   bool    // begin anew at the script's end
	// FlatOut hands a line out as soon as its speaker has room for it, whatever its
	// time: nothing is left unsaid, and the answers set the pace.
	FlatOut bool
	History *history.Recorder
	Seal    history.Sealer
	TLS     *tls.Config
	Dial    func(ctx context.Context, network, addr string) (net.Conn, error) // nil: the operating system's
	// OpMax bounds one operation with all its repeats: 1 s to 5 min. What is not
	// known by then is written down as unknown.
	OpMax time.Duration
}

// Swarm is a swarm at work. New, then Run once.
type Swarm struct {
	cfg    Config
	people []*person
	open   atomic.Int64
	frames atomic.Int64
	busy   atomic.Int64
	// recited is set when every line was handed out.
	recited atomic.Bool
	keys    atomic.Uint64
	run     int64

	mu       sync.Mutex
	posts    map[string]*tally // by role
	lines    map[int]spoken    // by line: what may be replied to
	unsaid   int
	scripted int
}

type spoken struct {
	channel topology.ChannelID
	id      topology.MessageID
}

// tally is the posts of one role.
type tally struct {
	ok, failed, unknown int64
	took                *hdrhistogram.Histogram // µs
}

// New checks its arguments and connects to nothing.
func New(cfg Config) (*Swarm, error) {
	switch {
	case len(cfg.People) == 0:
		return nil, problem.Field("people", "there are none")
	case len(cfg.Script) == 0:
		return nil, problem.Field("script", "is empty")
	case cfg.Speed <= 0:
		return nil, problem.Field("speed", "must be above 0")
	case cfg.OpMax < time.Second || cfg.OpMax > 5*time.Minute:
		return nil, problem.Field("op_max", "must be 1 s to 5 min")
	}
	s := &Swarm{cfg: cfg, posts: map[string]*tally{}, lines: map[int]spoken{}, run: time.Now().UnixMilli()}
	for i, p := range cfg.People {
		if len(p.Channels) == 0 {
			return nil, problem.Field("people", "%s has no channel to talk in", p.Name)
		}
		made, err := newPerson(s, p, i)
		if err != nil {
			return nil, err
		}
		s.people = append(s.people, made)
	}
	return s, nil
}

// Run connects everybody and has them talk until talk ends; they listen until
// ctx ends.
func (s *Swarm) Run(ctx, talk context.Context) {
	var all sync.WaitGroup
	for _, p := range s.people {
		all.Go(func() { p.run(ctx, talk) })
	}
	s.recite(talk)
	all.Wait()
	for _, p := range s.people {
		p.close()
	}
}

// recite hands the lines out, each in its time. Who is behind leaves lines unsaid:
// what is measured must not depend on how slow the answers are.
func (s *Swarm) recite(ctx context.Context) {
	began := time.Now()
	defer s.recited.Store(true)
	for round := 0; ; round++ {
		for i, l := range s.cfg.Script {
			due := began.Add(time.Duration(float64(l.At) / s.cfg.Speed))
			if wait := time.Until(due); !s.cfg.FlatOut && wait > 0 && !pause(ctx, wait) {
				return
			}
			if ctx.Err() != nil {
				return
			}
			s.hand(ctx, s.people[l.Author%len(s.people)], task{line: round*len(s.cfg.Script) + i, Line: l})
		}
		if !s.cfg.Loop {
			return
		}
		began = time.Now()
	}
}

// hand gives a person a line, if there is room for it; flat out it waits for that.
func (s *Swarm) hand(ctx context.Context, p *person, t task) {
	select {
	case p.queue <- t:
		s.count(1, 0)
		return
	default:
	}
	if !s.cfg.FlatOut {
		s.count(1, 1)
		return
	}
	select {
	case p.queue <- t:
		s.count(1, 0)
	case <-ctx.Done():
	}
}

func (s *Swarm) count(scripted, unsaid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scripted += scripted
	s.unsaid += unsaid
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// key is a client_msg_id that no other message of any run has.
func (s *Swarm) key(name string) string {
	return fmt.Sprintf("%s-%d-%d", name, s.run, s.keys.Add(1))
}

// linesMax bounds what is remembered to be replied to.
const linesMax = 100_000

// said remembers a top-level message.
func (s *Swarm) said(line int, ch topology.ChannelID, id topology.MessageID, top bool) {
	if !top {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lines) >= linesMax {
		clear(s.lines)
	}
	s.lines[line%len(s.cfg.Script)] = spoken{ch, id}
}

// rootOf is the message that a line became, if it was said in the channel.
func (s *Swarm) rootOf(line int, ch topology.ChannelID) (topology.MessageID, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.lines[line]
	return at.id, ok && at.channel == ch
}

// took notes how a post went.
func (s *Swarm) took(role string, d time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.posts[role]
	if t == nil {
		t = &tally{took: hdrhistogram.New(1, int64(10*time.Minute/time.Microsecond), 3)}
		s.posts[role] = t
	}
	switch {
	case err == nil:
		t.ok++
		_ = t.took.RecordValue(min(d.Microseconds(), t.took.HighestTrackableValue())) // in range
	case notDone(err):
		t.failed++
	default:
		t.unknown++
	}
}

// Recited reports whether every line was handed out, and taken up by its speaker.
func (s *Swarm) Recited() bool {
	return s.recited.Load() && !slices.ContainsFunc(s.people, func(p *person) bool { return len(p.queue) > 0 })
}

// Idle reports whether nobody has a post under way.
func (s *Swarm) Idle() bool { return s.busy.Load() == 0 }

// Knows reports whether a person was told of a channel since it connected.
func (s *Swarm) Knows(name string, ch topology.ChannelID) bool {
	for _, p := range s.people {
		if p.Name == name {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.gained[ch]
		}
	}
	return false
}

// Progress is how a swarm fares.
type Progress struct {
	Open     int64 `json:"open"`
	Frames   int64 `json:"frames"`
	OK       int64 `json:"ok"`
	Failed   int64 `json:"failed"`
	Unknown  int64 `json:"unknown"`
	Scripted int   `json:"scripted"`
	Unsaid   int   `json:"unsaid"` // lines whose speaker was still busy
	P50US    int64 `json:"p50_us"`
	P99US    int64 `json:"p99_us"`
	MaxUS    int64 `json:"max_us"`
}

// Progress tells of the posts of a role ("" = all; the latencies are a role's).
func (s *Swarm) Progress(role string) Progress {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := Progress{Open: s.open.Load(), Frames: s.frames.Load(), Scripted: s.scripted, Unsaid: s.unsaid}
	for r, t := range s.posts {
		if role != "" && r != role {
			continue
		}
		out.OK += t.ok
		out.Failed += t.failed
		out.Unknown += t.unknown
		out.P50US = max(out.P50US, t.took.ValueAtQuantile(50))
		out.P99US = max(out.P99US, t.took.ValueAtQuantile(99))
		out.MaxUS = max(out.MaxUS, t.took.Max())
	}
	return out
}

// messageOf reads a message event's id, and whether it is top-level.
func messageOf(raw []byte) (topology.MessageID, bool) {
	var m chat.MessageEvent
	if json.Unmarshal(raw, &m) != nil {
		return "", false
	}
	return m.Message.MessageID, m.Message.ThreadRoot == nil
}
