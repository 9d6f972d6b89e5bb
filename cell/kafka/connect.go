package kafka

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"parley/internal/credential"
	"parley/internal/detour"
	"parley/internal/problem"
)

const (
	// dialMax and answerMax bound one try to reach a broker: a healthy one answers in
	// milliseconds, one on a busy disk within a second or two.
	dialMax   = 2 * time.Second
	answerMax = 3 * time.Second
	// callMax bounds one call with its repeats, for all but appends.
	callMax = 8 * time.Second
	// tries is how often the client library repeats a request by itself.
	tries = 8
	// Pauses between tries begin at retryMin and double up to retryMax.
	retryMin = 20 * time.Millisecond
	retryMax = 500 * time.Millisecond
	// metadataMax is how old the client library's knowledge of leaders may grow.
	metadataMax = 30 * time.Second
)

// options are what every client of this package has in common.
func (c Config) options(log *slog.Logger) ([]kgo.Opt, error) {
	dialer := &detour.Dialer{Via: c.Via, Net: net.Dialer{Timeout: dialMax}}
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID("parley"),
		kgo.DialTimeout(dialMax),
		kgo.RequestTimeoutOverhead(answerMax),
		kgo.RetryTimeout(callMax),
		kgo.RequestRetries(tries),
		kgo.MetadataMaxAge(metadataMax),
		kgo.MetadataMinAge(100 * time.Millisecond),
		kgo.RetryBackoffFn(backoff),
		kgo.WithLogger(clientLog{log}),
	}
	if c.Username != "" {
		password, err := credential.Secret("password_file", c.PasswordFile)
		if err != nil {
			return nil, err
		}
		auth := scram.Auth{User: c.Username, Pass: password}
		mechanism := auth.AsSha512Mechanism()
		if c.Mechanism == mechanism256 {
			mechanism = auth.AsSha256Mechanism()
		}
		opts = append(opts, kgo.SASL(mechanism))
	}
	if c.CAFile != "" {
		var err error
		if dialer.TLS, err = (credential.Files{CA: c.CAFile, Cert: c.CertFile, Key: c.KeyFile}).TLS(); err != nil {
			return nil, err
		}
	}
	return append(opts, kgo.Dialer(dialer.DialContext)), nil
}

func backoff(n int) time.Duration {
	return min(retryMin<<min(n, 10), retryMax)
}

// pause waits for d, or until ctx ends; then it is false.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// repeat calls until it succeeds, fails for good, or ctx ends.
func repeat(ctx context.Context, call func() error) error {
	for n := 0; ; n++ {
		err := call()
		if err == nil || !kerr.IsRetriable(err) || !pause(ctx, backoff(n)) {
			return err
		}
	}
}

// away is the error of a call whose work was surely not done.
func away(cause error, what string) error {
	return &problem.Error{Kind: problem.Unavailable, Msg: "the event log " + what + "; try again", RetryAfter: time.Second, Cause: cause}
}

// neverSent reports whether an error says that a request did not reach a broker.
func neverSent(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// refused is an error of a broker that trying again does not mend.
func refused(err error, what string) error {
	return problem.Wrap(err, problem.Internal, "the event log refuses %s", what)
}

// stale reports whether an error of a broker says that this side's knowledge of who
// leads a partition is old.
func stale(err error) bool {
	for _, e := range []*kerr.Error{
		kerr.NotLeaderForPartition, kerr.LeaderNotAvailable, kerr.UnknownTopicOrPartition, kerr.UnknownTopicID,
		kerr.InconsistentTopicID, kerr.BrokerNotAvailable, kerr.ReplicaNotAvailable, kerr.UnknownLeaderEpoch, kerr.FencedLeaderEpoch,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// clientLog passes on what the client library finds worth a warning. It repeats
// itself while brokers are away, so that is for who debugs.
type clientLog struct{ log *slog.Logger }

// Level implements kgo.Logger.
func (clientLog) Level() kgo.LogLevel { return kgo.LogLevelWarn }

// Log implements kgo.Logger.
func (l clientLog) Log(_ kgo.LogLevel, msg string, keyvals ...any) {
	l.log.Debug("kafka client", "step", msg, "detail", slog.GroupValue(slog.Group("", keyvals...)))
}
