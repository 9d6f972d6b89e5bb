package devcluster

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"parley/internal/problem"
)

// small is a cluster of one region: an edge, six ports of control nodes, two of
// etcd, two of a gateway.
func small(t *testing.T, base int, given bool) Config {
	t.Helper()
	c := Default()
	c.Regions, c.Cells, c.Gateways, c.Data, c.PortBase, c.PortBaseGiven = c.Regions[:1], 1, 1, t.TempDir(), base, given
	return c
}

const smallPorts = 11

// freeBase is the first of n ports that nobody has, TCP or UDP.
func freeBase(t *testing.T, n int) int {
	t.Helper()
	for base := 20_000; base < 60_000; base += n {
		ok := true
		for port := base; ok && port < base+n; port++ {
			addr := net.JoinHostPort(loopback, strconv.Itoa(port))
			ok = free(t.Context(), listener{network: "tcp", addr: addr}) == nil && free(t.Context(), listener{network: "udp", addr: addr}) == nil
		}
		if ok {
			return base
		}
	}
	t.Fatal("no free ports")
	return 0
}

// TestPorts_AnotherBaseHelps: what the error advises works, whichever port it is.
func TestPorts_AnotherBaseHelps(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	for name, c := range map[string]struct {
		network string
		at      int
	}{"edge": {"tcp", 0}, "control": {"tcp", 2}, "raft": {"tcp", 5}, "gateway": {"udp", smallPorts - 1}} {
		t.Run(name, func(t *testing.T) {
			base := freeBase(t, 2*smallPorts)
			addr := net.JoinHostPort(loopback, strconv.Itoa(base+c.at))
			defer occupy(t, c.network, addr)()
			conf := small(t, base, false)
			_, err := newPlan(t.Context(), conf, quiet)
			if !problem.Is(err, problem.Conflict) || !strings.Contains(problem.Show(err), addr) || !strings.Contains(problem.Show(err), "Give --port-base another number") {
				t.Fatalf("got %v", err)
			}
			if _, err := os.Stat(filepath.Join(conf.Data, portsFile)); err == nil {
				t.Error("ports that can't be had are remembered")
			}
			conf.PortBase, conf.PortBaseGiven = base+smallPorts, true
			if _, err := newPlan(t.Context(), conf, quiet); err != nil {
				t.Error(err)
			}
		})
	}
}

func occupy(t *testing.T, network, addr string) (end func()) {
	t.Helper()
	if network == "udp" {
		c, err := new(net.ListenConfig).ListenPacket(t.Context(), network, addr)
		if err != nil {
			t.Fatal(err)
		}
		return func() { _ = c.Close() }
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	return func() { _ = l.Close() }
}

// TestPorts_MoveWhenAsked: a second start has the ports of the first, until another
// base is given. Those that the control plane has stored stay, and are not to be had.
func TestPorts_MoveWhenAsked(t *testing.T) {
	base := freeBase(t, 2*smallPorts)
	conf := small(t, base, false)
	var notes bytes.Buffer
	log := slog.New(slog.NewTextHandler(&notes, nil))
	plan := func(edge, raft, etcd int) {
		t.Helper()
		p, err := newPlan(t.Context(), conf, log)
		if err != nil {
			t.Fatal(err)
		}
		at := func(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }
		if e, r, k := p.regions[0].edges[0].addr, p.control[0].raft, p.regions[0].etcdClient; e != at(edge) || r != at(raft) || k != at(etcd) {
			t.Errorf("edge at %s, Raft at %s, etcd at %s; want %d, %d and %d", e, r, k, edge, raft, etcd)
		}
	}
	plan(base, base+4, base+7)
	conf.PortBase = 8400 // the default, which nobody asked for
	plan(base, base+4, base+7)
	conf.PortBase, conf.PortBaseGiven = base, true
	plan(base, base+4, base+7)
	if notes.Len() > 0 {
		t.Errorf("notes of a move without one: %s", &notes)
	}
	if err := os.Mkdir(filepath.Join(conf.Data, "control-1"), 0o700); err != nil {
		t.Fatal(err)
	}
	conf.PortBase = base + smallPorts
	plan(base+smallPorts, base+4, base+7)
	if !strings.Contains(notes.String(), "moves to the ports of --port-base") {
		t.Errorf("no note of a move: %s", &notes)
	}
	conf.PortBaseGiven = false
	plan(base+smallPorts, base+4, base+7)
	defer occupy(t, "tcp", net.JoinHostPort(loopback, strconv.Itoa(base+4)))()
	if _, err := newPlan(t.Context(), conf, log); !problem.Is(err, problem.Conflict) || !strings.Contains(problem.Show(err), "give another --data") {
		t.Errorf("got %v", err)
	}
}

func TestPorts_TooHigh(t *testing.T) {
	conf := small(t, 65_000, true)
	conf.Regions, conf.Cells, conf.Gateways = Default().Regions, 8, 8
	for range 5 {
		conf.Regions = append(conf.Regions, "r"+conf.Regions[len(conf.Regions)-1])
	}
	if _, err := newPlan(t.Context(), conf, slog.New(slog.DiscardHandler)); !problem.Is(err, problem.Invalid) || !strings.Contains(problem.Show(err), "port-base") {
		t.Errorf("got %v", err)
	}
}
