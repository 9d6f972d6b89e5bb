package edge

import (
	"crypto/tls"
	"errors"
	"time"

	"parley/internal/link"
	"parley/internal/network"
	"parley/internal/problem"
	"parley/internal/token"
	"parley/internal/topology"
)

// CellSeed is a cell that an edge with no table and no etcd asks for its open
// workspaces. LinkAddrs and APIAddrs name the same gateways in the same order.
type CellSeed struct {
	Cell      topology.CellID
	APIAddrs  []string // host:port, UDP: HTTP/3
	LinkAddrs []string // host:port, UDP: links
}

// Config is an edge's settings. Zero fields take the defaults in brackets.
type Config struct {
	ID          topology.EdgeID
	Region      topology.RegionID
	Incarnation topology.Incarnation
	Listen      string      // host:port for clients, TCP; port 0 takes any
	PlainHTTP   bool        // behind a load balancer that terminates TLS, or for benchmarks
	TLS         *tls.Config // certificate for clients; needed unless PlainHTTP
	PublicURL   string      // how clients reach this edge: for the log and the registry
	Origins     []string    // allowed for browsers: CORS and sockets [none but the edge's own]
	ResetKey    *link.ResetKey
	Liveness    link.Liveness // how soon a silent gateway counts as dead
	Net         network.Network

	ColdCells []CellSeed
	ColdKeys  []token.Key   // public keys that count beside the table's
	ColdEvery time.Duration // pause between two questions to ColdCells [2 s]

	SocketsMax     int           // 1 … 1,000,000; each costs some 6 KB, 15 below TLS [50,000]
	QueueBytesMax  int           // what may wait for one socket; less cuts slow ones sooner [2 MiB]
	QueueFramesMax int           // the same in frames [4,096]
	Heartbeat      time.Duration // the client's pace, as the gateway's hello says it; silence of 3 of them ends a socket [10 s]
	WriteMax       time.Duration // one write to a socket; a stuck one is cut after it [15 s]
	HoldMax        time.Duration // a post waits this long for its answer [10 s]
	HoldPostsMax   int           // unanswered posts of one socket; more are refused [256]
	HomelessMax    time.Duration // a session without a gateway is kept this long [60 s]
	RehomePerS     int           // sessions opened per gateway and second; more makes a storm [5,000]
	FramesPerS     float64       // client frames per socket and second, sustained [50]
	FramesBurst    int           // and in a burst [200]
	DrainSpread    time.Duration // over which Drain asks sockets to leave [20 s]
	RequestMax     time.Duration // one HTTP request, all tries together [10 s]
}

func orElse[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (c Config) withDefaults() Config {
	orElse(&c.ColdEvery, 2*time.Second)
	orElse(&c.SocketsMax, 50_000)
	orElse(&c.QueueBytesMax, 2<<20)
	orElse(&c.QueueFramesMax, 4096)
	orElse(&c.Heartbeat, 10*time.Second)
	orElse(&c.WriteMax, 15*time.Second)
	orElse(&c.HoldMax, 10*time.Second)
	orElse(&c.HoldPostsMax, 256)
	orElse(&c.HomelessMax, time.Minute)
	orElse(&c.RehomePerS, 5000)
	orElse(&c.FramesPerS, 50)
	orElse(&c.FramesBurst, 200)
	orElse(&c.DrainSpread, 20*time.Second)
	orElse(&c.RequestMax, 10*time.Second)
	return c
}

func (c Config) validate(d Deps) error {
	var faults []error
	check := func(ok bool, field, fault string) {
		if !ok {
			faults = append(faults, problem.Field(field, "%s", fault))
		}
	}
	check(c.ID != "", "id", "is empty")
	check(c.Region != "", "region", "is empty")
	check(c.Listen != "", "listen", "is empty; give host:port")
	check(c.PlainHTTP || c.TLS != nil, "tls", "is missing; give a certificate or choose plain HTTP")
	check(d.Routes != nil, "routes", "are missing")
	check(d.Identity != nil, "identity", "is missing; links and requests to cells are mutual TLS")
	check(c.SocketsMax > 0 && c.SocketsMax <= 1_000_000, "sockets_max", "must be 1 to 1,000,000")
	check(c.QueueBytesMax >= 64<<10, "queue_bytes_max", "must be at least 64 KiB")
	check(c.QueueFramesMax >= 16, "queue_frames_max", "must be at least 16")
	check(c.HoldPostsMax > 0, "hold_posts_max", "must be above 0")
	check(c.RehomePerS > 0, "rehome_per_s", "must be above 0")
	check(c.FramesPerS > 0 && c.FramesBurst > 0, "frames_per_s", "must be above 0")
	for _, s := range c.ColdCells {
		check(s.Cell != "" && len(s.APIAddrs) > 0 && len(s.APIAddrs) == len(s.LinkAddrs), "cold_cells",
			"each needs a cell and as many api_addrs as link_addrs, at least one")
	}
	return errors.Join(faults...)
}
