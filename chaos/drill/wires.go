package drill

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"parley/chaos/fault"
	"parley/internal/roles"
)

// wire is a way through this process to a node of an engine.
type wire struct{ node, target, listen string }

// wires are the ways to all nodes of a cell's engines, named as tools/engines names
// them.
func (p ports) wires(e roles.Engines) (out []wire) {
	add := func(engine string, addrs ...string) {
		for i, addr := range addrs {
			out = append(out, wire{fmt.Sprintf("%s-%d", engine, i+1), addr, p.TCP()})
		}
	}
	host := func(addr, port string) string {
		u, err := url.Parse(addr)
		if err != nil {
			p.Err = errors.Join(p.Err, err)
			return ""
		}
		if u.Port() == "" {
			return net.JoinHostPort(u.Hostname(), port)
		}
		return u.Host
	}
	add("cassandra", e.Cassandra.Hosts...)
	add("kafka", e.Kafka.Brokers...)
	add("redis", e.Redis.Addrs...)
	add("postgres", host(e.Postgres.URL, "5432"))
	for _, addr := range e.Elasticsearch.Addresses {
		add("elasticsearch", host(addr, "9200"))
	}
	return out
}

// wiresTo are those to an engine, or to one node of it.
func (w *world) wiresTo(what string) (out []*fault.Wire) {
	for node, to := range w.wires {
		if node == what || strings.HasPrefix(node, what+"-") {
			out = append(out, to)
		}
	}
	return out
}

// slowBy is how much later a slow engine answers.
const slowBy = 500 * time.Millisecond

// budget is what a spell may cost: p99 and longest pause.
type budget struct{ p99, max time.Duration }

// faultsOfWires are the drills of slow and broken networks between the target's
// processes and one of its engines, all its nodes at once. An engine that can't be
// heard is one that stands still; for the rest:
//
//   - Behind a slow Cassandra a turn of posts takes three half seconds: it is written, waits
//     until the read of the fence that is under way is over, and for its own; and a post
//     may come when another turn has just begun. That makes 3 s. Behind a slow Postgres a
//     fresh look at a membership takes a few answers.
//   - Resets cost no more than the loss of a node or server that comes back: what was
//     under way is made again on another connection.
func faultsOfWires() (out []Drill) {
	const second = time.Second
	for _, e := range []struct {
		name, title, row        string
		slow, resets, unreached budget
	}{
		{"cassandra", "Cassandra", "9", budget{4 * second, 5 * second}, budget{2 * second, 5 * second}, budget{standFor + 5*second, standFor + 5*second}},
		{"kafka", "Kafka", "11", budget{2 * second, 2 * second}, budget{2 * second, 2 * second}, budget{2 * second, 2 * second}},
		{"redis", "Redis", "7", budget{2 * second, 4 * second}, budget{5 * second, 12 * second}, budget{5 * second, 12 * second}},
		{"postgres", "Postgres", "13", budget{2 * second, 3 * second}, budget{2 * second, 3 * second}, budget{silentDirectory, 6 * second}},
		{"elasticsearch", "Elasticsearch", "12", budget{2 * second, 2 * second}, budget{2 * second, 2 * second}, budget{2 * second, 2 * second}},
	} {
		for _, s := range []struct {
			name, title string
			weather     fault.Weather
			lasts       time.Duration
			budget      budget
		}{
			{"slow", "each answer of %s comes 500 ms later", fault.Weather{Delay: slowBy}, awayFor, e.slow},
			{"resets", "1 %% of the packets between the cell and %s meet a reset", fault.Weather{Reset: 0.01}, awayFor, e.resets},
			{"blackhole", "nothing passes between the cell and %s for 30 s", fault.Weather{Cut: true}, standFor, e.unreached},
		} {
			out = append(out, Drill{
				Name: e.name + "-" + s.name, Title: fmt.Sprintf(s.title, e.title), Row: e.row, P99: s.budget.p99, Max: s.budget.max,
				Do: func(ctx context.Context, w *world) error {
					do := func() error { return w.inWeather(ctx, e.name, s.weather, s.lasts) }
					if e.name == "elasticsearch" {
						return w.searchedMeanwhile(ctx, s.weather.Cut, do)
					}
					return do()
				},
			})
		}
	}
	return out
}

// inWeather lets the wires to an engine have weather for a while.
func (w *world) inWeather(ctx context.Context, engine string, weather fault.Weather, d time.Duration) error {
	wires := w.wiresTo(engine)
	for _, to := range wires {
		to.Set(weather)
	}
	err := w.wait(ctx, w.away(d))
	met := int64(0)
	for _, to := range wires {
		met += to.Set(fault.Weather{})
	}
	if err == nil && met == 0 {
		err = fmt.Errorf("nothing on its way to or from %s met the weather", engine)
	}
	return err
}
