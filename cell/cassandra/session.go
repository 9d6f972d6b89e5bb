package cassandra

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/gocql/gocql"
	"github.com/prometheus/client_golang/prometheus"

	"parley/internal/credential"
	"parley/internal/detour"
)

const (
	// protocol 4 is the newest that the client speaks; naming it saves a round of
	// asking, and tells what is not Cassandra at once.
	protocol = 4
	// connectMax is how long a node may take to shake hands.
	connectMax = 3 * time.Second
	// reconnectEvery a node that was lost is tried: a cell is whole again within five
	// seconds of its quorum.
	reconnectEvery = time.Second
)

// options are where metrics go, and what the tests change: that is never set outside
// of them.
type options struct {
	metrics prometheus.Registerer // nil = nowhere

	sizes  sizes
	dialer gocql.Dialer
	now    func() time.Time
}

// cluster is the client's config. Its hosts are asked for all others, unless
// only is set: then it speaks to that one.
func (c Config) cluster(o options, log *slog.Logger, only string) (*gocql.ClusterConfig, error) {
	cl := gocql.NewCluster()
	cl.Hosts = c.Hosts
	if only != "" {
		cl.Hosts, cl.DisableInitialHostLookup, cl.NumConns = []string{only}, true, 1
		cl.Events.DisableNodeStatusEvents, cl.Events.DisableTopologyEvents, cl.Events.DisableSchemaEvents = true, true, true
		cl.ReconnectInterval = 0
	} else {
		cl.PoolConfig.HostSelectionPolicy = c.policy() // and anew for each try, see dial
		cl.NumConns = c.Connections
		cl.ReconnectInterval = reconnectEvery
	}
	_, port, _ := net.SplitHostPort(c.Hosts[0]) // of nodes that are found, too: they say no port
	cl.Port, _ = strconv.Atoi(port)             // checked by Validate
	cl.ProtoVersion = protocol
	cl.Timeout, cl.WriteTimeout, cl.ConnectTimeout = c.AttemptTimeout, c.AttemptTimeout, connectMax
	cl.ReconnectionPolicy = &gocql.ConstantReconnectionPolicy{MaxRetries: 1, Interval: reconnectEvery}
	cl.MaxWaitSchemaAgreement = agreementWait
	cl.Consistency, cl.SerialConsistency = gocql.Quorum, gocql.Serial
	cl.DefaultTimestamp = false // a write without its own time is the server's to order: conditional ones
	cl.Dialer = &detour.Dialer{Via: c.Via, Net: net.Dialer{Timeout: connectMax}}
	if o.dialer != nil {
		cl.Dialer = o.dialer
	}
	cl.Logger = stdLogger{log}
	if c.Username != "" {
		secret, err := credential.Secret("password_file", c.PasswordFile)
		if err != nil {
			return nil, err
		}
		cl.Authenticator = gocql.PasswordAuthenticator{Username: c.Username, Password: secret}
	}
	if c.CAFile != "" {
		conf, err := credential.Files{CA: c.CAFile, Cert: c.CertFile, Key: c.KeyFile}.TLS()
		if err != nil {
			return nil, err
		}
		cl.SslOpts = &gocql.SslOptions{Config: conf, EnableHostVerification: true}
	}
	return cl, nil
}

// policy is one session's: the client does not let two share one.
func (c Config) policy() gocql.HostSelectionPolicy { //nolint:ireturn // the client gives and takes no other
	return gocql.TokenAwareHostPolicy(gocql.DCAwareRoundRobinPolicy(c.Datacenter), gocql.ShuffleReplicas())
}

// A node that hangs up may have died as it was asked: it, or another, is asked again.
const (
	dialTries = 3
	dialPause = 500 * time.Millisecond
)

// dial makes a session, or gives up when ctx ends.
func (c Config) dial(ctx context.Context, cl *gocql.ClusterConfig) (*gocql.Session, error) {
	for try := 1; ; try++ {
		if cl.PoolConfig.HostSelectionPolicy != nil {
			cl.PoolConfig.HostSelectionPolicy = c.policy()
		}
		s, err := dialOnce(ctx, cl)
		if err == nil || try == dialTries || !hungUp(err) {
			return s, err
		}
		select {
		case <-time.After(dialPause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// hungUp reports whether a connection was made, and then ended from the other side. The
// client gives some of these errors only as text.
func hungUp(err error) bool {
	return strings.Contains(err.Error(), "EOF") || strings.Contains(err.Error(), "connection reset")
}

// dialOnce makes a session; one that comes after ctx's end is closed.
func dialOnce(ctx context.Context, cl *gocql.ClusterConfig) (*gocql.Session, error) {
	type made struct {
		s   *gocql.Session
		err error
	}
	done := make(chan made, 1)
	go func() { // ends within the client's own timeouts
		s, err := cl.CreateSession()
		done <- made{s, err}
	}()
	select {
	case m := <-done:
		return m.s, m.err
	case <-ctx.Done():
		go func() {
			if m := <-done; m.s != nil {
				m.s.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// stdLogger turns the client's lines into slog records. It tells of every
// connection that breaks: what matters of that shows in calls and metrics.
type stdLogger struct{ log *slog.Logger }

// Print logs at the debug level, as all of them do.
func (l stdLogger) Print(v ...any) { l.line(fmt.Sprint(v...)) }

// Printf is Print with a format.
func (l stdLogger) Printf(format string, v ...any) { l.line(fmt.Sprintf(format, v...)) }

// Println is Print.
func (l stdLogger) Println(v ...any) { l.line(fmt.Sprint(v...)) }

func (l stdLogger) line(s string) { l.log.Debug("cassandra client", "step", strings.TrimSpace(s)) }
