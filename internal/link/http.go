package link

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"parley/internal/network"
)

// ErrNotSent marks a request that no byte of reached the peer: it may be sent
// elsewhere whatever it is.
var ErrNotSent = errors.New("the request was not sent")

// Requests sends HTTP/3 requests over pooled connections, apart from links, so
// that history and files never take the window of live frames.
type Requests struct{ transport *http3.Transport }

// dialMax bounds the QUIC handshake of a request's connection.
const dialMax = 3 * time.Second

// NewRequests makes a pool for peers that tc accepts.
func NewRequests(tc *tls.Config, via network.Network) *Requests {
	cfg := &quic.Config{
		HandshakeIdleTimeout: dialMax,
		MaxIdleTimeout:       idleMax,
		KeepAlivePeriod:      idleMax / 3, // keeps connections warm and finds dead ones
		Allow0RTT:            false,       // 0-RTT can be replayed
	}
	return &Requests{transport: &http3.Transport{
		TLSClientConfig: tc, QUICConfig: cfg, MaxResponseHeaderBytes: 64 << 10,
		DisableCompression: true, // whether to compress is between client and cell
		Dial: func(ctx context.Context, addr string, tc *tls.Config, cfg *quic.Config) (*quic.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialMax)
			defer cancel()
			c, err := dialAlone(ctx, via, addr, tc, cfg)
			if err != nil {
				return nil, errors.Join(ErrNotSent, mapError(err))
			}
			return c, nil
		},
	}}
}

// dialAlone makes a connection with a socket of its own, which ends with it.
func dialAlone(ctx context.Context, via network.Network, addr string, tc *tls.Config, cfg *quic.Config) (*quic.Conn, error) {
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, err
	}
	socket, err := via.UDP(nil)
	if err != nil {
		return nil, err
	}
	transport := &quic.Transport{Conn: socket}
	release := func() {
		_ = transport.Close() // on the way out: nothing depends on it
		_ = socket.Close()
	}
	c, err := transport.Dial(ctx, to, tc, cfg)
	if err != nil {
		release()
		return nil, err
	}
	context.AfterFunc(c.Context(), release)
	return c, nil
}

// RoundTrip sends one request; see http.RoundTripper.
func (r *Requests) RoundTrip(q *http.Request) (*http.Response, error) {
	return r.transport.RoundTrip(q)
}

// Close ends all connections; requests under way fail.
func (r *Requests) Close() error { return r.transport.Close() }
