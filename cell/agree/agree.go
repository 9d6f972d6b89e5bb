// Package agree compares what a cell's stores say of each other: the channels' logs
// are the truth, and history, the event log, the search index and the read state
// must say the same. It reads only, and expects that nobody writes meanwhile.
package agree

import (
	"context"
	"fmt"
	"time"

	"parley/cell/directory"
	"parley/cell/eventlog"
	"parley/cell/history"
	"parley/cell/msglog"
	"parley/cell/readstate"
	"parley/cell/search"
	"parley/internal/topology"
)

// Directory is what is asked of the cell's directory.
type Directory interface {
	Workspaces(ctx context.Context, after topology.WorkspaceID, limit int) ([]directory.Workspace, error)
	ListChannels(ctx context.Context, p topology.Place, u topology.UserID, admin bool, after string, limit int) ([]directory.Channel, error)
	Users(ctx context.Context, p topology.Place, after topology.UserID, limit int) ([]directory.User, error)
	ChannelsOf(ctx context.Context, p topology.Place, u topology.UserID) ([]directory.Membership, error)
}

// Stores are what is compared.
type Stores struct {
	Directory Directory
	Log       msglog.Store
	History   history.Store
	Events    eventlog.Log
	Marks     readstate.Store
	Index     search.Index
}

// Names of the stores in a Difference.
const (
	InLog       = "message log"
	InHistory   = "history"
	InEvents    = "event log"
	InReadState = "read state"
	InIndex     = "search index"
)

// Difference is one thing that two stores do not agree on.
type Difference struct {
	Store   string             `json:"store"` // the one that is wrong, as the message log has it
	Channel topology.ChannelID `json:"channel,omitempty"`
	What    string             `json:"what"`
}

// Counts is how much was compared.
type Counts struct {
	Workspaces int    `json:"workspaces"`
	Channels   int    `json:"channels"`
	Changes    uint64 `json:"changes"`
	Messages   uint64 `json:"messages"`
	Replies    uint64 `json:"replies"`
	Events     uint64 `json:"events"`
	Documents  uint64 `json:"documents"`
	Users      int    `json:"users"`
	Marks      int    `json:"marks"`
	Mentions   uint64 `json:"mentions"`
}

// Report is what was found. Differences holds the first DifferencesMax of Differ.
type Report struct {
	Counts
	Differ      uint64       `json:"differ"`
	Differences []Difference `json:"differences"`
}

// DifferencesMax bounds those that are told: one cause makes thousands.
const DifferencesMax = 100

func (r *Report) add(store string, ch topology.ChannelID, format string, args ...any) {
	r.Differ++
	if len(r.Differences) < DifferencesMax {
		r.Differences = append(r.Differences, Difference{store, ch, fmt.Sprintf(format, args...)})
	}
}

// comparison is one run. It holds some 40 bytes for each message of one channel,
// and one counter for each mentioned user of a workspace and channel.
type comparison struct {
	Stores
	report Report
	events map[topology.ChannelRef]*reach
	// expired are partitions whose first events retention took.
	expired [topology.Shards]bool
	began   time.Time
	// progress is told after each channel.
	progress func(Counts)
}

// page is how many rows are asked for at once.
const page = 500

// Compare compares everything in the cell. progress may be nil.
func Compare(ctx context.Context, s Stores, progress func(Counts)) (Report, error) {
	if progress == nil {
		progress = func(Counts) {}
	}
	c := &comparison{Stores: s, events: map[topology.ChannelRef]*reach{}, progress: progress, report: Report{Differences: []Difference{}}, began: time.Now()}
	if err := c.readEvents(ctx); err != nil {
		return c.report, err
	}
	var after topology.WorkspaceID
	for {
		rows, err := c.Directory.Workspaces(ctx, after, page)
		if err != nil || len(rows) == 0 {
			return c.report, err
		}
		for _, w := range rows {
			if err := c.workspace(ctx, w.Place()); err != nil {
				return c.report, err
			}
			after = w.ID
		}
	}
}

func (c *comparison) workspace(ctx context.Context, p topology.Place) error {
	c.report.Workspaces++
	m := mentioned{}
	for after := ""; ; {
		chs, err := c.Directory.ListChannels(ctx, p, "", true, after, page)
		if err != nil {
			return err
		}
		if len(chs) == 0 {
			return c.readStates(ctx, p, m)
		}
		for _, ch := range chs {
			if err := c.channel(ctx, topology.ChannelRef{Place: p, Channel: ch.ID}, m); err != nil {
				return err
			}
			c.progress(c.report.Counts)
			after = ch.Name
		}
	}
}
