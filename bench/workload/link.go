package workload

import (
	"context"
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	floor "parley/bench/floor/quic"
	"parley/internal/pki"
	"parley/internal/problem"
)

// Link is one message's way to the other end of a QUIC connection and back, over
// internal/link and over a raw stream beside it.
type Link struct {
	Rates []int // messages a second
}

// LinkSize is the table's.
func LinkSize() Link { return Link{Rates: []int{1000, 10_000}} }

const (
	linkBytes     = 300
	linkTick      = time.Millisecond
	linkDrain     = 2 * time.Second
	linkLatencyUs = 10_000_000
)

// echo is a connection whose other end sends everything back.
type echo interface {
	// Send puts messages on their way in one go; each begins with its time.
	Send(messages [][]byte) error
	Close()
}

// Run measures half the time there and back.
func (l Link) Run(ctx context.Context, e *Env) ([]Row, error) {
	for _, r := range l.Rates {
		if r < 1 || r > 1_000_000 {
			return nil, problem.Field("rate", "must be 1 to 1,000,000 messages a second")
		}
	}
	dir, remove, err := e.scratch("link")
	if err != nil {
		return nil, err
	}
	defer remove()
	ca, err := pki.OpenAuthority(dir)
	if err != nil {
		return nil, err
	}
	w := &wire{}
	sides := []struct {
		name string
		dial func() (echo, error)
	}{
		{"link", func() (echo, error) { return dialLink(ctx, ca, w.back) }},
		{"raw quic-go", func() (echo, error) { return dialRaw(ctx, ca, w.back) }},
	}
	if !e.Floor {
		sides = sides[:1]
	}
	var rows []Row
	for _, rate := range l.Rates {
		p50, p99 := make([][]float64, 2), make([][]float64, 2)
		lost := int64(0)
		for run := range e.Runs {
			for i, s := range sides {
				e.Say(fmt.Sprintf("run %d of %d: %s at %d/s", run+1, e.Runs, s.name, rate))
				h, missing, err := w.measure(ctx, s.dial, rate, e)
				if err != nil {
					return nil, err
				}
				p50[i], p99[i] = append(p50[i], half(h, 50)), append(p99[i], half(h, 99))
				lost += missing
			}
		}
		for _, of := range []struct {
			name        string
			figures     [][]float64
			first, goal float64
		}{{"p50", p50, 2, 1.4}, {"p99", p99, 2, 1.5}} {
			r := Row{
				Workload: fmt.Sprintf("the hop, %d messages/s", rate), Measure: "one way " + of.name + ", µs", Against: "raw quic-go stream",
				Targets: mostTargets(of.first, of.goal),
			}
			r.set(of.figures[0], of.figures[1])
			r.Counts.Lost = lost
			rows = append(rows, r)
		}
	}
	return rows, nil
}

func half(h *hdrhistogram.Histogram, q float64) float64 {
	return float64(h.ValueAtPercentile(q)) / 2000
}

func dialRaw(ctx context.Context, ca *pki.Authority, back func([]byte)) (echo, error) { //nolint:ireturn // one of two
	server, client, err := identities(ca)
	if err != nil {
		return nil, err
	}
	return floor.Dial(ctx, server.Server(pki.RoleEdge), client.Client(pki.RoleGateway), linkBytes, back)
}

func identities(ca *pki.Authority) (gateway, edge *pki.Bundle, err error) {
	hosts := []string{"127.0.0.1"}
	if gateway, err = ca.Issue(pki.Identity{Region: "eu", Role: pki.RoleGateway, Name: "gw-1"}, hosts); err != nil {
		return nil, nil, err
	}
	edge, err = ca.Issue(pki.Identity{Region: "eu", Role: pki.RoleEdge, Name: "edge-1"}, hosts)
	return gateway, edge, err
}
