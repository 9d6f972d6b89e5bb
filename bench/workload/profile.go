package workload

import (
	"bufio"
	"bytes"
	"context"
	"os/exec"
	"strings"
	"time"

	"parley/internal/problem"
)

// rule puts a sample under a name if any function of its stack has the text.
type rule struct{ text, what string }

// rules are tried in order: what is told apart first stands first.
func rules() []rule {
	return []rule{
		{"runtime.gcBgMarkWorker", "garbage collection"},
		{"runtime.gcAssistAlloc", "garbage collection"},
		{"runtime.bgsweep", "garbage collection"},
		{"runtime.bgscavenge", "garbage collection"},
		{"edge.(*queue).tryWrite", "edge: writing to the client sockets"},
		{"edge.(*queue).write", "edge: writing to the client sockets"},
		{"edge.(*direct)", "edge: writing to the client sockets"},
		{"edge.(*session).take", "edge: client frames"},
		{"websocket.(*Conn).", "edge: reading the client sockets"},
		{"edge.(*intake)", "edge: reading the client sockets"},
		{"edge.(*session).turn", "edge: client frames"},
		{"edge.(*session).waitOn", "edge: client frames"},
		{"edge.(*session).read", "edge: client frames"},
		{"edge.(*pollLoop)", "edge: reading the client sockets"},
		{"edge.(*wire)", "edge: frames from the links (decode, groups, queues)"},
		{"link.(*Conn).readLane", "link: reading lanes"},
		{"link.(*Conn).writeLane", "link: writing lanes"},
		{"quic-go", "QUIC: packets, crypto, acknowledgements"},
		{"modernc.org/sqlite", "directory (SQLite)"},
		{"database/sql", "directory (SQLite)"},
		{"parley/cell/worker", "workers (event log to mentions)"},
		{"pebble", "message store (Pebble)"},
		{"parley/cell/channel", "channel server"},
		{"parley/cell/gateway", "gateway"},
		{"parley/cell", "cell, the rest"},
		{"parley/edge", "edge, the rest"},
		{"hashicorp/raft", "control plane"},
		{"go.etcd.io", "etcd"},
		{"runtime.schedule", "the Go scheduler (looking for work, sleeping, waking)"},
		{"runtime.mcall", "the Go scheduler (looking for work, sleeping, waking)"},
		{"runtime.mstart", "the Go scheduler (looking for work, sleeping, waking)"},
	}
}

const toolMax = time.Minute

// shares sorts a CPU profile's samples by what the program was doing. It needs
// the go tool; without it there is no profile.
func shares(ctx context.Context, file string) ([]Share, error) {
	ctx, cancel := context.WithTimeout(ctx, toolMax)
	defer cancel()
	out, err := exec.CommandContext(ctx, "go", "tool", "pprof", "-traces", file).Output() //nolint:gosec // a file of ours
	if err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "go tool pprof can't read the profile")
	}
	return sharesOf(out), nil
}

// sharesOf reads what `go tool pprof -traces` prints: a line of dashes, then a
// stack, whose first line begins with the time spent in it.
func sharesOf(traces []byte) []Share {
	var (
		sum   = map[string]time.Duration{}
		total time.Duration
		spent time.Duration
		stack strings.Builder
	)
	flush := func() {
		if spent > 0 {
			sum[nameOf(stack.String())] += spent
			total += spent
		}
		spent = 0
		stack.Reset()
	}
	lines := bufio.NewScanner(bytes.NewReader(traces))
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "---") {
			flush()
			continue
		}
		fields := strings.Fields(line)
		if len(fields) > 1 && spent == 0 && stack.Len() == 0 {
			if d, err := time.ParseDuration(strings.TrimSuffix(fields[0], "mins")); err == nil {
				spent = d
				fields = fields[1:]
			}
		}
		if spent > 0 {
			stack.WriteString(strings.Join(fields, " ") + "\n")
		}
	}
	flush()
	var out []Share
	for what, d := range sum {
		out = append(out, Share{What: what, Percent: 100 * float64(d) / float64(total)})
	}
	sortShares(out)
	return out
}

func nameOf(stack string) string {
	for _, r := range rules() {
		if strings.Contains(stack, r.text) {
			return r.what
		}
	}
	return "the rest"
}
