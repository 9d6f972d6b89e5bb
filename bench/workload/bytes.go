package workload

import (
	"context"
	"fmt"
	"math"
	"time"

	"parley/bench/capture"
	"parley/bench/cluster"
	"parley/bench/load"
	"parley/internal/problem"
)

// Bytes is what one post to a large channel costs on the links.
type Bytes struct {
	Members int
}

// BytesSize is the table's.
func BytesSize() Bytes { return Bytes{Members: 10_000} }

const (
	bytesEdges = 2
	// bytesSettle is longer than presence waits to be told.
	bytesSettle = 35 * time.Second
	bytesIdle   = 5 * time.Second
	bytesFor    = 5 * time.Second
	// Twice the body and 200 bytes.
	bytesTarget = 2*load.BodyBytes + 200
)

// Run counts the UDP bytes from the gateways to the edges with one post in
// flight at a time, less what the idle links carry, per post and link.
func (b Bytes) Run(ctx context.Context, e *Env) ([]Row, error) {
	if b.Members < bytesEdges || b.Members > 50_000 {
		return nil, problem.Field("members", "must be 2 to 50,000")
	}
	dir, remove, err := e.scratch("bytes")
	if err != nil {
		return nil, err
	}
	defer remove()
	s, err := e.parleySide(ctx, dir, cluster.Seed{Prefix: "bytes", Users: b.Members, Channels: 1, Members: b.Members}, bytesEdges, nil)
	if err != nil {
		return nil, err
	}
	defer s.close()
	ports, err := s.parley.LinkPorts()
	if err != nil {
		return nil, err
	}
	tap, err := capture.Open(ports)
	if err != nil {
		return nil, err
	}
	defer tap.Close()
	r := Row{
		Workload: fmt.Sprintf("one post to %d members at %d edges", b.Members, bytesEdges), Measure: "UDP bytes on the busiest link",
		Targets: mostTargets(bytesTarget, bytesTarget),
	}
	// Joins, and the presence of all who came, go out first.
	e.Say("waiting for the links to calm down")
	if err := s.load.Stay(ctx, bytesSettle); err != nil {
		return nil, err
	}
	var figures []float64
	links := 0
	for run := range e.Runs {
		e.Say(fmt.Sprintf("run %d of %d", run+1, e.Runs))
		idle := tap.Count()
		if err := s.load.Stay(ctx, bytesIdle); err != nil {
			return nil, err
		}
		before := tap.Count()
		start := time.Now()
		m, err := s.measure(ctx, load.Plan{InFlight: 1, For: bytesFor}, nil)
		if err != nil {
			return nil, err
		}
		busy, took := tap.Count(), time.Since(start)
		r.Counts = plus(r.Counts, m.Counts)
		if m.Posts == 0 {
			return nil, problem.New(problem.Unavailable, "no post got through")
		}
		most := math.Inf(-1)
		for l := range busy {
			quiet := float64(before[l]-idle[l]) * took.Seconds() / bytesIdle.Seconds()
			most = max(most, (float64(busy[l]-before[l])-quiet)/float64(m.Posts))
		}
		if links = len(busy); links < bytesEdges {
			return nil, problem.New(problem.Internal, "packets of %d links were seen; each edge has one at least", links)
		}
		figures = append(figures, most)
	}
	r.set(figures, nil)
	r.Notes = append(r.Notes, fmt.Sprintf("%d links; body %d bytes. Everything from gateway to edge is in it: headers of QUIC, acknowledgements, the ack of the post.", links, load.BodyBytes))
	return []Row{r}, nil
}
