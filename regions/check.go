package regions

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"parley/internal/problem"
)

// versionLeast is the oldest etcd that speaks what the client library does.
const versionLeast = "3.4"

// Check asks each endpoint of a region's etcd what it is, and changes nothing. It
// tells those that don't answer from what must be mended: what is no etcd, or one
// that can't be used with this certificate.
func Check(ctx context.Context, endpoints []string, conf *tls.Config) (away, faults []error) {
	errs := make([]error, len(endpoints))
	var all sync.WaitGroup
	for i, e := range endpoints {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, 2*callTimeout)
			defer cancel()
			errs[i] = checkEndpoint(ctx, e, conf)
		})
	}
	all.Wait()
	for _, err := range errs {
		switch {
		case err == nil:
		case problem.Is(err, problem.Unavailable):
			away = append(away, err)
		default:
			faults = append(faults, err)
		}
	}
	return away, faults
}

func checkEndpoint(ctx context.Context, endpoint string, conf *tls.Config) error {
	if err := shake(ctx, endpoint, conf); err != nil {
		return err
	}
	client, err := dial([]string{endpoint}, conf)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }() // it has said what it was asked
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	said, err := client.Status(ctx, endpoint)
	switch {
	case err == nil:
	case status.Code(err) == codes.Unimplemented:
		return problem.Wrap(err, problem.Invalid, "etcd at %s: what answers is not etcd; name its client port", endpoint)
	default:
		return problem.Wrap(err, problem.Unavailable, "etcd at %s: does not say how it is; has its cluster a quorum?", endpoint)
	}
	if older(said.Version, versionLeast) {
		return problem.New(problem.Unsupported, "etcd at %s: is version %s; %s or later is needed", endpoint, said.Version, versionLeast)
	}
	if said.Leader == 0 {
		return problem.New(problem.Unavailable, "etcd at %s: its cluster has no leader; start the other members", endpoint)
	}
	for _, alarm := range said.Errors {
		if strings.Contains(alarm, "NOSPACE") {
			return problem.New(problem.Full, "etcd at %s: is full and takes no writes; compact and defragment it, then etcdctl alarm disarm", endpoint)
		}
	}
	return nil
}

// shake connects as the client does, which itself would try again without a word.
func shake(ctx context.Context, endpoint string, conf *tls.Config) error {
	addr := endpoint
	if _, rest, ok := strings.Cut(endpoint, "://"); ok {
		addr = rest
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return problem.Wrap(err, problem.Unavailable, "etcd at %s: can't be reached; start it, or mend the address", endpoint)
	}
	defer func() { _ = c.Close() }() // it has said what it was asked
	if conf == nil {
		return greet(ctx, c, endpoint)
	}
	conf = conf.Clone()
	conf.NextProtos = []string{"h2"}
	if conf.ServerName == "" {
		conf.ServerName, _, _ = net.SplitHostPort(addr)
	}
	secure := tls.Client(c, conf)
	err = secure.HandshakeContext(ctx)
	var ours *problem.Error
	switch {
	case err == nil:
		return greet(ctx, secure, endpoint)
	case errors.As(err, new(tls.RecordHeaderError)):
		return problem.Wrap(err, problem.Invalid, "etcd at %s: what answers speaks no TLS; name etcd's client port, and run it with --cert-file and --client-cert-auth", endpoint)
	case errors.As(err, &ours):
		return problem.Wrap(err, problem.Unauthentic, "etcd at %s: %s; give it one by `parley pki issue --role etcd`, from the same authority", endpoint, ours.Msg)
	case ctx.Err() != nil:
		return problem.Wrap(err, problem.Unavailable, "etcd at %s: takes the connection and does not answer; does it hang, or is it something else?", endpoint)
	default:
		return problem.Wrap(err, problem.Invalid, "etcd at %s: no TLS with it (%v); is it etcd's client port, and does that speak TLS?", endpoint, err)
	}
}

// greet begins HTTP/2, as etcd speaks it. A server judges our certificate only after
// the handshake, and says so in place of its own beginning.
func greet(ctx context.Context, c net.Conn, endpoint string) error {
	if until, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(until); err != nil {
			return problem.Wrap(err, problem.Internal, "etcd at %s: the connection takes no deadline", endpoint)
		}
	}
	const preface, settings = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 4
	frame := [9]byte{3: settings} // an empty one
	_, err := c.Write(append([]byte(preface), frame[:]...))
	if err == nil {
		_, err = io.ReadFull(c, frame[:])
	}
	switch {
	case err == nil && frame[3] == settings:
		return nil
	case err == nil:
		return problem.New(problem.Invalid, "etcd at %s: what answers is not etcd; name its client port", endpoint)
	case strings.Contains(err.Error(), "remote error: tls:"):
		return problem.Wrap(err, problem.Unauthentic, "etcd at %s: refuses this role's certificate (%v); its --trusted-ca-file must be the ca.pem of cert_dir", endpoint, err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return problem.Wrap(err, problem.Unavailable, "etcd at %s: takes the connection and does not answer; does it hang, or is it something else?", endpoint)
	default:
		return problem.Wrap(err, problem.Invalid, "etcd at %s: hangs up; is it etcd's client port, and does it want a certificate?", endpoint)
	}
}

// older compares two versions by their first two numbers. What is no version is old.
func older(version, least string) bool {
	var major, minor, majorLeast, minorLeast int
	_, err := fmt.Sscanf(version, "%d.%d", &major, &minor)
	_, errLeast := fmt.Sscanf(least, "%d.%d", &majorLeast, &minorLeast)
	return errors.Join(err, errLeast) != nil || major < majorLeast || major == majorLeast && minor < minorLeast
}
