// Package placement decides which cell a workspace should live in. It is pure:
// the same state and request always give the same decision, with its reasons.
//
// Hard rules, each in a file of its own, say which cells are allowed: region,
// residency, pin, cordon, capacity with headroom, anti-affinity. Among those the
// score decides: load on several dimensions, and spread. A cell's verdict depends
// on that cell and the request alone, so that it can be shown and trusted without
// the rest.
package placement

import (
	"cmp"
	"hash/fnv"
	"slices"
	"strings"

	"parley/internal/topology"
)

// CellState says whether a cell takes workspaces.
type CellState string

// The states. Any other word is treated as one that takes nothing.
const (
	Active   CellState = "active"
	Cordoned CellState = "cordoned" // keeps what it has, takes nothing new
	Draining CellState = "draining" // gives away what it has
)

// DefaultHeadroom is the share of each capacity that placement leaves free.
const DefaultHeadroom = 0.2

// State is all that a decision looks at besides the request.
type State struct {
	Cells []Cell // each id once, in any order
	// Headroom is the share of each capacity to leave free, 0 … 1. 0 means
	// DefaultHeadroom; a negative one means none.
	Headroom float64
}

// Capacity is what a cell was built for; a dimension of 0 has no limit.
type Capacity struct {
	Workspaces  int
	Connections int
	PostsPerS   float64
}

// Load is what a cell carries, or what a workspace is expected to add.
type Load struct {
	Connections int
	PostsPerS   float64
}

// Cell is one candidate.
type Cell struct {
	ID     topology.CellID
	Region topology.RegionID
	State  CellState
	// Silent says that the cell has not reported of late. It may still be
	// healthy: a silent cell is allowed, but every other is better.
	Silent     bool
	Capacity   Capacity
	Load       Load
	Workspaces int      // placed there, by the control plane's own count
	Groups     []string // anti-affinity groups of the workspaces there
}

// Request is a workspace that looks for a cell.
type Request struct {
	Workspace    topology.WorkspaceID
	HomeRegion   topology.RegionID   // "" = any
	Residency    []topology.RegionID // regions its data may be in; empty = all
	Pin          topology.CellID     // only this cell; "" = any
	AntiAffinity string              // never in a cell with another of this group; "" = none
	Expected     Load                // what it will add
}

// Verdict is what one cell means for the request.
type Verdict struct {
	Cell    topology.CellID
	OK      bool
	Reasons []string // why not, all of them; empty if OK
	Score   float64  // higher is better; 0 if not OK
}

// Decision is the chosen cell, "" if none is allowed, and the verdicts on all
// cells, in the order of their ids.
type Decision struct {
	Cell     topology.CellID
	Verdicts []Verdict
}

// Why explains the decision to an operator, a line a cell.
func (d Decision) Why() string {
	var b strings.Builder
	for _, v := range d.Verdicts {
		b.WriteString(string(v.Cell))
		switch {
		case !v.OK:
			b.WriteString(": no, " + strings.Join(v.Reasons, "; "))
		case v.Cell == d.Cell:
			b.WriteString(": chosen, score " + number(v.Score))
		default:
			b.WriteString(": possible, score " + number(v.Score))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// rule gives the reasons why a cell is not allowed; none = allowed.
type rule func(s State, r Request, c Cell) []string

// rules is the chain of hard rules, in the order in which reasons are shown.
func rules() []rule {
	return []rule{region, residency, pin, cordon, capacity, antiAffinity}
}

// Decide picks the allowed cell of the highest score. Equal scores are broken by
// a hash of workspace and cell, so that ties spread, and then by id.
func Decide(s State, r Request) Decision {
	d := Decision{Verdicts: make([]Verdict, 0, len(s.Cells))}
	chain := rules()
	for _, c := range s.Cells {
		d.Verdicts = append(d.Verdicts, judge(chain, s, r, c))
	}
	slices.SortFunc(d.Verdicts, func(a, b Verdict) int { return cmp.Compare(a.Cell, b.Cell) })
	best := -1
	for i, v := range d.Verdicts {
		if v.OK && (best < 0 || better(r, v, d.Verdicts[best])) {
			best = i
		}
	}
	if best >= 0 {
		d.Cell = d.Verdicts[best].Cell
	}
	return d
}

func judge(chain []rule, s State, r Request, c Cell) Verdict {
	v := Verdict{Cell: c.ID}
	for _, allowed := range chain {
		v.Reasons = append(v.Reasons, allowed(s, r, c)...)
	}
	if v.OK = len(v.Reasons) == 0; v.OK {
		v.Score = score(r, c)
	}
	return v
}

// better reports whether a beats b, which comes before it by id.
func better(r Request, a, b Verdict) bool {
	if a.Score != b.Score {
		return a.Score > b.Score
	}
	return tie(r.Workspace, a.Cell) > tie(r.Workspace, b.Cell)
}

func tie(ws topology.WorkspaceID, c topology.CellID) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(ws)) // a hash's Write never fails
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(c))
	return h.Sum64()
}
