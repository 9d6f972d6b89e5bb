package cassandra

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gocql/gocql"

	"parley/internal/problem"
)

// clockSkewMax is how far a node's clock may be from ours: less than what a
// conditional write waits for. Nodes with NTP are within milliseconds.
const clockSkewMax = 5 * time.Second

// majorMin is the first Cassandra with the compaction that the tables ask for.
const majorMin = 5

// Check connects to every host of the config and says all that is wrong, in words
// an operator can act on. It changes nothing: what Open would make is no fault (see
// Inspect).
func Check(ctx context.Context, cfg Config) error {
	_, err := Inspect(ctx, cfg)
	return err
}

// Inspect is Check, and says besides what Open would make and what deserves a
// look.
func Inspect(ctx context.Context, cfg Config) (notes []string, err error) {
	f := look(ctx, cfg, options{}, slog.New(slog.DiscardHandler))
	return f.notes, errors.Join(append(f.away, f.faults...)...)
}

// Ready is what Open asks first: as Check, but a node that is away is no reason not
// to start while another answers.
func Ready(ctx context.Context, cfg Config) error {
	_, err := inspect(ctx, cfg, options{}, slog.New(slog.DiscardHandler))
	return err
}

// inspect is Ready, and says besides what deserves a look.
func inspect(ctx context.Context, cfg Config, o options, log *slog.Logger) (notes []string, err error) {
	f := look(ctx, cfg, o, log)
	if !f.reached {
		return nil, errors.Join(append(f.away, f.faults...)...)
	}
	for _, away := range f.away {
		f.notes = append(f.notes, away.Error())
	}
	return f.notes, errors.Join(f.faults...)
}

// findings are what a look at the cluster has brought up.
type findings struct {
	mu      sync.Mutex
	reached bool     // a node answered
	away    []error  // what doesn't answer
	faults  []error  // what must be mended
	notes   []string // what an operator should know
}

func (f *findings) fault(format string, args ...any) {
	f.add(problem.New(problem.Invalid, "Cassandra: "+format, args...))
}

func (f *findings) add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, err)
}

// missing notes what is away now, and may be there when it is needed.
func (f *findings) missing(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.away = append(f.away, err)
}

func (f *findings) note(s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.notes = append(f.notes, s)
}

func look(ctx context.Context, cfg Config, o options, log *slog.Logger) *findings {
	f := &findings{}
	if err := cfg.Validate(); err != nil {
		f.faults = []error{err}
		return f
	}
	sessions := make([]*gocql.Session, len(cfg.Hosts))
	var wg sync.WaitGroup
	for i, host := range cfg.Hosts {
		wg.Go(func() { sessions[i] = f.host(ctx, cfg, o, log, host) })
	}
	wg.Wait()
	asked := false
	for _, s := range sessions {
		if s == nil {
			continue
		}
		if !asked {
			f.cluster(ctx, cfg, s)
			asked = true
		}
		s.Close()
	}
	return f
}

// host looks at one node. It gives a session with it, or nil.
func (f *findings) host(ctx context.Context, cfg Config, o options, log *slog.Logger, host string) *gocql.Session {
	cl, err := cfg.cluster(o, log, host)
	if err != nil {
		f.add(err)
		return nil
	}
	s, err := cfg.reach(ctx, cl, host)
	if err != nil {
		if problem.Is(err, problem.Unavailable) {
			f.missing(err)
		} else {
			f.add(err)
		}
		return nil
	}
	f.mu.Lock()
	f.reached = true
	f.mu.Unlock()
	f.version(ctx, s, host)
	f.clock(ctx, s, host)
	f.settings(ctx, s, cfg, host)
	return s
}

// reach opens a session with one node, or says why there is none.
func (c Config) reach(ctx context.Context, cl *gocql.ClusterConfig, host string) (*gocql.Session, error) {
	asked, err := cl.Dialer.DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "Cassandra: nothing answers at %s: is the node up, and its native_transport_port open?", host)
	}
	_ = asked.Close() // it has said what it was asked
	s, err := c.dial(ctx, cl)
	if err == nil {
		return s, nil
	}
	text := err.Error()
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(text, p) {
				return true
			}
		}
		return false
	}
	switch {
	case has("authentication required"):
		return nil, problem.Wrap(err, problem.Invalid, "Cassandra: %s asks for a login: set username and password_file", host)
	case has("password are incorrect", "username and/or password", "ad credentials"):
		return nil, problem.Wrap(err, problem.Invalid, "Cassandra: %s does not take the username with the password in password_file", host)
	case has("x509:", "tls:"):
		return nil, problem.Wrap(err, problem.Invalid, "Cassandra: no TLS with %s: does ca_file sign the node's certificate, and does the node offer TLS?", host)
	case has("unsupported protocol response version", "unsupported response version", "protocol version"):
		return nil, problem.Wrap(err, problem.Invalid, "Cassandra: what answers at %s is not Cassandra's native protocol: check the port", host)
	case hungUp(err):
		return nil, problem.Wrap(err, problem.Invalid,
			"Cassandra: %s hangs up on the native protocol: check the port, and set ca_file if the node asks for TLS", host)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), has("timeout", "no response"):
		return nil, problem.Wrap(err, problem.Unavailable, "Cassandra: %s takes connections and does not answer: is the node hung, or is it no Cassandra?", host)
	default:
		return nil, problem.Wrap(err, problem.Unavailable, "Cassandra: no session with %s: %s", host, text)
	}
}

func (f *findings) version(ctx context.Context, s *gocql.Session, host string) {
	var release string
	err := s.Query(`SELECT release_version FROM system.local`).WithContext(ctx).Consistency(gocql.One).Scan(&release)
	if err != nil {
		f.fault("%s does not say its version: %s", host, err.Error())
		return
	}
	if major(release) < majorMin {
		f.fault("%s runs version %s; %d.0 or later is needed", host, release, majorMin)
	}
}

func major(release string) int {
	head, _, _ := strings.Cut(release, ".")
	n, err := strconv.Atoi(head)
	if err != nil {
		return 0
	}
	return n
}

// clock compares a node's clock with ours, as far as the answer's way allows.
func (f *findings) clock(ctx context.Context, s *gocql.Session, host string) {
	var id gocql.UUID
	before := time.Now()
	if err := s.Query(`SELECT now() FROM system.local`).WithContext(ctx).Consistency(gocql.One).Scan(&id); err != nil {
		f.fault("%s does not say its time: %s", host, err.Error())
		return
	}
	way := time.Since(before)
	skew := id.Time().Sub(before.Add(way / 2))
	if skew.Abs() > clockSkewMax+way/2 {
		f.fault("the clock of %s is %v from this machine's: set both by NTP", host, skew.Round(time.Millisecond))
	}
}
