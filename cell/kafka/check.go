package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"parley/internal/problem"
)

// Kafka 3.0 was the first to read a group's positions with version 8: older ones,
// and what only looks like Kafka, are told by it.
const (
	needVersion     = "3.0"
	needOffsetFetch = 8
)

// Check connects to every broker that is named or learned of, and lists all that is
// wrong: addresses, versions, credentials, topics. It changes nothing.
func Check(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	opts, err := cfg.options(log)
	if err != nil {
		return err
	}
	errs, answering := cfg.seeds(ctx, opts)
	if answering == 0 {
		return errors.Join(errs...)
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return problem.Wrap(err, problem.Internal, "kafka: the client can't be made")
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	errs = append(errs, cfg.cluster(ctx, client, admin), checkTopics(ctx, cfg, admin), checkOffsets(ctx, cfg, admin))
	return errors.Join(errs...)
}

// Ready is what Open asks first: as Check, but brokers may be away for which no
// topic waits to be made. It changes nothing.
func Ready(ctx context.Context, cfg Config, log *slog.Logger) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	if err := checkBrokers(ctx, cfg, log); err != nil {
		return err
	}
	opts, err := cfg.options(log)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return problem.Wrap(err, problem.Internal, "kafka: the client can't be made")
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	return errors.Join(checkRoom(ctx, cfg, admin), checkTopics(ctx, cfg, admin), checkOffsets(ctx, cfg, admin))
}

// checkRoom wants as many brokers as a topic needs that is to be made.
func checkRoom(ctx context.Context, cfg Config, admin *kadm.Client) error {
	ctx, cancel := context.WithTimeout(ctx, callMax)
	defer cancel()
	there, err := admin.Metadata(ctx, cfg.changesTopic(), cfg.readStateTopic())
	if err != nil {
		return problem.Wrap(err, problem.Unavailable, "kafka at %s: does not say which topics there are", cfg.addresses())
	}
	for _, t := range there.Topics {
		if errors.Is(t.Err, kerr.UnknownTopicOrPartition) {
			return cfg.fewBrokers(len(there.Brokers))
		}
	}
	return nil
}

// checkBrokers wants one of the named brokers to answer, and warns of the others.
func checkBrokers(ctx context.Context, cfg Config, log *slog.Logger) error {
	opts, err := cfg.options(log)
	if err != nil {
		return err
	}
	errs, answering := cfg.seeds(ctx, opts)
	if answering == 0 {
		return errors.Join(errs...)
	}
	for _, err := range errs {
		log.Warn("a broker is left out for now", "err", err)
	}
	return nil
}

// seeds asks each named broker for its versions, all at a time: each that is silent
// takes its time.
func (c Config) seeds(ctx context.Context, opts []kgo.Opt) (errs []error, answering int) {
	answers := make([]error, len(c.Brokers))
	var all sync.WaitGroup
	for i, addr := range c.Brokers {
		all.Go(func() { answers[i] = c.seed(ctx, addr, opts) })
	}
	all.Wait()
	for _, err := range answers {
		if err == nil {
			answering++
		} else {
			errs = append(errs, err)
		}
	}
	return errs, answering
}

func (c Config) seed(ctx context.Context, addr string, opts []kgo.Opt) error {
	ctx, cancel := context.WithTimeout(ctx, dialMax+answerMax)
	defer cancel()
	client, err := kgo.NewClient(append(slices.Clip(opts), kgo.SeedBrokers(addr), kgo.RequestRetries(0))...)
	if err != nil {
		return problem.Wrap(err, problem.Internal, "kafka: the client can't be made")
	}
	defer client.Close()
	broker := client.SeedBrokers()[0]
	versions, err := versionsRequest().RequestWith(ctx, broker)
	if err == nil {
		err = kerr.ErrorForCode(versions.ErrorCode)
	}
	if err != nil {
		return c.unanswered(addr, err)
	}
	has := kversion.FromApiVersionsResponse(versions)
	if v, ok := has.LookupMaxKeyVersion(kmsg.OffsetFetch.Int16()); !ok || v < needOffsetFetch {
		return problem.New(problem.Unsupported, "kafka at %s: is %s; needs %s or later: upgrade the broker", addr, has.VersionGuess(), needVersion)
	}
	// Signing in is part of connecting, but brokers check rights with the first request.
	if _, err := broker.Request(ctx, kmsg.NewPtrMetadataRequest()); err != nil {
		return c.unanswered(addr, err)
	}
	return nil
}

func versionsRequest() *kmsg.ApiVersionsRequest {
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "parley", "1"
	return req
}

// unanswered says why a broker gave no answer, in words an operator can act on.
func (c Config) unanswered(addr string, err error) error {
	var eof *kgo.ErrFirstReadEOF
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	switch {
	case errors.As(err, &cert):
		return problem.Wrap(err, problem.Precond, "kafka at %s: its certificate is not trusted (%v): mend ca_file, or the broker's certificate", addr, cert.Err)
	case errors.As(err, new(tls.RecordHeaderError)):
		return problem.Wrap(err, problem.Precond, "kafka at %s: does not speak TLS: leave ca_file out, or name the broker's TLS listener", addr)
	case errors.As(err, new(tls.AlertError)), strings.Contains(err.Error(), "remote error: tls:"):
		return problem.Wrap(err, problem.Precond, "kafka at %s: refuses TLS with us (%v): mend cert_file and key_file", addr, err)
	case errors.Is(err, kerr.SaslAuthenticationFailed), errors.Is(err, kerr.UnsupportedSaslMechanism), errors.Is(err, kerr.IllegalSaslState):
		return problem.Wrap(err, problem.Precond, "kafka at %s: refuses the user %q: mend username, password_file (%s) or mechanism (%s)", addr, c.Username, c.PasswordFile, c.Mechanism)
	case errors.As(err, &eof):
		return problem.Wrap(err, problem.Precond, "kafka at %s: hangs up on the first request: it wants TLS (ca_file) or a user (username), or does not want them, or is not Kafka", addr)
	case errors.As(err, &dns):
		return problem.Wrap(err, problem.Unavailable, "kafka at %s: the name is not known: mend brokers", addr)
	case neverSent(err):
		return problem.Wrap(err, problem.Unavailable, "kafka at %s: can't be reached: is the broker up, and the address right?", addr)
	case errors.Is(err, context.DeadlineExceeded):
		return problem.Wrap(err, problem.Unavailable, "kafka at %s: takes the connection and does not answer: it hangs, or is not Kafka", addr)
	default:
		return problem.Wrap(err, problem.Precond, "kafka at %s: does not answer as Kafka does: is the port right, and TLS set on both sides or none?", addr)
	}
}

// cluster looks at the brokers that were learned of: each must be reached by the
// address it advertises, and they must be enough.
func (c Config) cluster(ctx context.Context, client *kgo.Client, admin *kadm.Client) error {
	ctx, cancel := context.WithTimeout(ctx, callMax)
	defer cancel()
	brokers, err := admin.ListBrokers(ctx)
	if err != nil {
		return problem.Wrap(err, problem.Unavailable, "kafka at %s: does not say which brokers there are", c.addresses())
	}
	errs := []error{c.fewBrokers(len(brokers))}
	for _, b := range brokers {
		addr := net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
		if _, err := client.Broker(int(b.NodeID)).Request(ctx, versionsRequest()); err != nil {
			errs = append(errs, problem.Wrap(err, problem.Unavailable,
				"%s (the address that broker %d advertises: if it runs, mend its advertised.listeners)", problem.Show(c.unanswered(addr, err)), b.NodeID))
		}
	}
	return errors.Join(errs...)
}

// fewBrokers is the fault of too few for a topic to be made.
func (c Config) fewBrokers(up int) error {
	if up >= c.Replication {
		return nil
	}
	return problem.New(problem.Precond, "kafka at %s: has %d brokers up, replication: %d needs as many: start the missing ones, or set it lower", c.addresses(), up, c.Replication)
}
