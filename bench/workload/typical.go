package workload

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"parley/bench/cluster"
	"parley/bench/load"
	"parley/internal/problem"
)

// Typical is many channels of which each has a few members online, every message
// on disk before it is acked or shown.
type Typical struct {
	Channels int
	Members  int // of each channel
	Online   int // of them
	Sockets  int
}

// TypicalSize is the table's.
func TypicalSize() Typical { return Typical{Channels: 1000, Members: 50, Online: 10, Sockets: 2000} }

// typicalP99Max is what people still take for at once.
const typicalP99Max = 200 * time.Millisecond

// Run measures posts a second at the most posts in flight that keep the p99 of
// delivery below its bound.
func (t Typical) Run(ctx context.Context, e *Env) ([]Row, error) {
	if t.Channels < 1 || t.Online < 1 || t.Online > t.Members || t.Sockets < t.Online || t.Sockets*t.Members%t.Online != 0 {
		return nil, problem.Field("sockets", "must be at least the members online per channel, and divide evenly")
	}
	dir, remove, err := e.scratch("typical")
	if err != nil {
		return nil, err
	}
	defer remove()
	sides, end, err := e.sides(
		func() (*side, error) { return t.parley(ctx, e, dir) },
		func() (*side, error) { return e.hubSide(ctx, dir, true, t.follows()) },
	)
	if err != nil {
		return nil, err
	}
	defer end()
	best, runs, err := t.measure(ctx, e, sides)
	if err != nil {
		return nil, err
	}
	r := Row{
		Workload: fmt.Sprintf("typical: %d channels × %d online of %d, %d sockets, durable", t.Channels, t.Online, t.Members, t.Sockets),
		Measure:  "posts/s, p99 < 200 ms", Against: "raw durable hub",
	}
	if t == TypicalSize() {
		r.Targets = ratioTargets(0.25, 0.5)
	}
	r.compare(runs, func(m measured) float64 { return m.PostsPerS })
	r.details(runs)
	r.Notes = append(r.Notes, t.honest(sides, best, runs))
	r.Profile, err = e.profile(ctx, sides[0], load.Plan{InFlight: best[sides[0]], Warm: e.Warm / 2}, filepath.Join(dir, "typical.pprof"))
	return []Row{r}, err
}

// measure searches each side's best, and measures it in turns with the others'.
func (t Typical) measure(ctx context.Context, e *Env, sides []*side) (best map[*side]int, runs [][]measured, err error) {
	best = map[*side]int{}
	for _, s := range sides {
		if best[s], err = t.search(ctx, e, s, without(sides, s)); err != nil {
			return nil, nil, err
		}
	}
	plan := func(s *side) load.Plan { return load.Plan{InFlight: best[s], Warm: e.Warm, For: e.For} }
	runs, err = e.interleave(ctx, sides, plan, func(s *side, m measured) bool {
		if m.Delivery.P99 < typicalP99Max {
			return true
		}
		best[s] = max(best[s]*2/3, 1) // the search was lucky
		return false
	})
	return best, runs, err
}

// honest says what was in flight, and in how many runs the bound was broken.
func (t Typical) honest(sides []*side, best map[*side]int, runs [][]measured) string {
	var said []string
	for i, side := range sides {
		over := 0
		for _, m := range runs[i] {
			if m.Delivery.P99 >= typicalP99Max {
				over++
			}
		}
		said = append(said, fmt.Sprintf("%s: %d posts in flight in the last run, p99 of delivery over 200 ms in %d of %d runs", side.name, best[side], over, len(runs[i])))
	}
	return strings.Join(said, "; ")
}

// parley makes Members ÷ Online times as many people as sockets, each in as many
// channels, and every so-manieth comes online: each channel has Online of them.
func (t Typical) parley(ctx context.Context, e *Env, dir string) (*side, error) {
	users := t.Sockets * t.Members / t.Online
	every := t.Members / t.Online
	seed := cluster.Seed{Prefix: "typical", Users: users, Channels: t.Channels, Members: t.Members}
	return e.parleySide(ctx, dir, seed, 1, func(user int) bool { return user%every == 0 })
}

// follows is the same for the floor: channel c has the Online sockets from
// c × Online on.
func (t Typical) follows() [][]int {
	follows := make([][]int, t.Sockets)
	for ch := range t.Channels {
		for n := range t.Online {
			at := (ch*t.Online + n) % t.Sockets
			follows[at] = append(follows[at], ch)
		}
	}
	return slices.DeleteFunc(follows, func(chs []int) bool { return len(chs) == 0 })
}

// Bounds of the search: doubling, from a quiet hour to more than any server takes.
const (
	inFlightLeast = 16
	inFlightMost  = 8192
	searchWarm    = 500 * time.Millisecond
	searchFor     = 1500 * time.Millisecond
	// searchP99Max leaves room: what is found must hold in the longer runs, too.
	searchP99Max = 140 * time.Millisecond
)

// search finds the posts in flight that give the most posts a second well below
// the bound of latency.
func (t Typical) search(ctx context.Context, e *Env, s *side, others []*side) (best int, err error) {
	most := 0.0
	best = inFlightLeast
	for n := inFlightLeast; n <= inFlightMost; n *= 2 {
		e.Say(fmt.Sprintf("%s: searching, %d in flight", s.name, n))
		plan := load.Plan{InFlight: n, Warm: searchWarm, For: searchFor}
		m, err := s.measure(ctx, plan, others)
		if err == nil && m.Delivery.P99 >= searchP99Max { // once may be the machine's fault
			m, err = s.measure(ctx, plan, others)
		}
		if err != nil {
			return 0, err
		}
		if m.Delivery.P99 >= searchP99Max {
			break
		}
		if m.PostsPerS > most {
			most, best = m.PostsPerS, n
		}
	}
	return best, nil
}
