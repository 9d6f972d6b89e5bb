package channel

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parley/cell/change"
	"parley/cell/eventlog"
	"parley/cell/history"
	"parley/cell/msglog"
	"parley/cell/router"
	"parley/internal/topology"
)

// Config is a channel server's settings. Default has them all but the ids.
type Config struct {
	ID   topology.ServerID
	Cell topology.CellID

	// OwnershipEvery is how often the server compares what it holds with what it
	// should hold: 50 ms to 5 s. Less costs a read of the fence rows per turn,
	// more is added to every takeover.
	OwnershipEvery time.Duration
	// HandoverGrace is how long a live holder may take to hand a shard over
	// before the one who should own it takes it: 0 to 10 s. Too little and a
	// rebalance cuts commits short, too much and a stuck holder blocks its shards.
	HandoverGrace time.Duration
	// QueueMax bounds what waits in one shard: 16 to 65,536 requests. Less refuses
	// bursts, more makes the last one wait too long.
	QueueMax int
	// BatchMax bounds the changes of one commit: 1 to 4,096. Less costs syncs,
	// more makes the first of a batch wait for the encoding of the last.
	BatchMax int
	// LagMax bounds the confirmed changes of this server that history lacks yet (what
	// only the event log lacks waits in the message log and holds up nobody):
	// above it posts are refused. 1,024 to 1,000,000; each costs its size in memory,
	// and beyond four times CacheBytes posts are refused, too.
	LagMax int
	// CacheBytes bounds the memory of open channels that nobody waits for; what
	// is not derived yet comes on top. 1 MiB upwards.
	CacheBytes int64
	// ChannelsMax bounds the channels that are open without need: 64 upwards.
	ChannelsMax int
	// CheckTTL is how old an answer of the directory may be: 0 to 2 s, DESIGN's
	// bound. Less costs a query per post.
	CheckTTL time.Duration
	// CommitMax bounds one commit, with all its repeats: 1 to 60 s. Afterwards
	// the server steps down from the shard.
	CommitMax time.Duration
	// BeaconEvery is how often every shard's head changes are told: 1 ms to 5 s.
	// Less costs messages, more is how long the loss of a live event goes unseen.
	BeaconEvery time.Duration
	// PostsPerS and PostsBurst bound the posts of one workspace at this server: 0, no
	// limit, to 1,000,000 a second, sustained, and 1 to 10,000,000 at once. What is
	// above is refused with kind Exhausted. Repeats of posts that are there are free.
	PostsPerS  float64
	PostsBurst int
}

// Default is a config that suits a cell of any size, without ids.
func Default() Config {
	return Config{
		OwnershipEvery: 500 * time.Millisecond, HandoverGrace: 2 * time.Second,
		QueueMax: 4096, BatchMax: 1024, LagMax: 64 << 10,
		CacheBytes: 64 << 20, ChannelsMax: 8192,
		CheckTTL: 2 * time.Second, CommitMax: 10 * time.Second, BeaconEvery: time.Second,
	}
}

// Validate lists every fault at once.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, fault string) {
		if !ok {
			errs = append(errs, errors.New("channel server: "+fault))
		}
	}
	check(c.ID != "", "id: is missing")
	check(c.OwnershipEvery >= time.Millisecond && c.OwnershipEvery <= 5*time.Second, "ownership_every: 1 ms to 5 s")
	check(c.HandoverGrace >= 0 && c.HandoverGrace <= 10*time.Second, "handover_grace: 0 to 10 s")
	check(c.QueueMax >= 16 && c.QueueMax <= 1<<16, "queue_max: 16 to 65536")
	check(c.BatchMax >= 1 && c.BatchMax <= 4096, "batch_max: 1 to 4096")
	check(c.LagMax >= 1024 && c.LagMax <= 1_000_000, "lag_max: 1024 to 1000000")
	check(c.CacheBytes >= 1<<20, "cache_bytes: at least 1 MiB")
	check(c.ChannelsMax >= 64, "channels_max: at least 64")
	check(c.CheckTTL >= 0 && c.CheckTTL <= 2*time.Second, "check_ttl: 0 to 2 s")
	check(c.CommitMax >= time.Second && c.CommitMax <= time.Minute, "commit_max: 1 s to 1 min")
	check(c.BeaconEvery >= time.Millisecond && c.BeaconEvery <= 5*time.Second, "beacon_every: 1 ms to 5 s")
	check(c.PostsPerS >= 0 && c.PostsPerS <= 1_000_000, "posts_per_s: 0 to 1000000")
	check(c.PostsPerS == 0 || c.PostsBurst >= 1 && c.PostsBurst <= 10_000_000, "posts_burst: 1 to 10000000")
	return errors.Join(errs...)
}

// Deps is what a channel server works on.
type Deps struct {
	Log       msglog.Store
	History   history.Store
	Events    eventlog.Log
	Bus       router.Bus
	Directory Directory
	// Peers are the cell's channel servers, this one among them: whom to ask
	// whether it lives, and to tell that a shard is free. Nil = alone.
	Peers *Cluster
	// Live names the live channel servers of the cell, from the region's registry.
	// A hint. Nil, or an empty answer: those of Peers that answer a ping.
	Live func() []topology.ServerID
	// Now is the clock of message times; nil = time.Now.
	Now    func() time.Time
	Logger *slog.Logger
	// Metrics takes the server's metrics; nil = nowhere.
	Metrics prometheus.Registerer
	// Tap is told of all changes that were confirmed, before anything of them
	// leaves; nil = nobody is. Drills write their append log with it. Recovered
	// ones were found in a takeover: an older owner wrote them.
	Tap func(ch topology.ChannelRef, t topology.Token, cs []change.Change, recovered bool)
}

// validate lists what is missing.
func (d Deps) validate() error {
	var errs []error
	check := func(ok bool, name string) {
		if !ok {
			errs = append(errs, errors.New("channel server: needs "+name))
		}
	}
	check(d.Log != nil, "a message log")
	check(d.History != nil, "a history store")
	check(d.Events != nil, "an event log")
	check(d.Bus != nil, "a router")
	check(d.Directory != nil, "a directory")
	check(d.Logger != nil, "a logger")
	return errors.Join(errs...)
}

// Directory is what a channel server asks the cell's directory. Answers are kept
// for Config.CheckTTL, so an implementation should not keep them, too.
type Directory interface {
	// Open reports whether the place's workspace row is open at its generation.
	Open(ctx context.Context, p topology.Place) (bool, error)
	// ChannelInfo is the channel's row; kind NotFound without one.
	ChannelInfo(ctx context.Context, ch topology.ChannelRef) (Info, error)
	// IsMember reports whether the user is a member of the channel.
	IsMember(ctx context.Context, ch topology.ChannelRef, u topology.UserID) (bool, error)
	// Members are all members of the channel; all is false, and the list of no use, if
	// they are more than most. It asks the directory itself: a list from memory may lack
	// what the channel's log has already.
	Members(ctx context.Context, ch topology.ChannelRef, most int) (us []topology.UserID, all bool, err error)
	// UsersByName finds users of the workspace by name, and by id; who is not found is left out.
	UsersByName(ctx context.Context, p topology.Place, names []string) (map[string]topology.UserID, error)
}

// Info is what a channel server needs of a channel's row.
type Info struct {
	Number    uint64 // 40 bits, unique in the workspace
	Importing bool
	Private   bool
}
