// Package quic is the floor of the link: one stream of a raw quic-go connection
// over loopback, whose other end writes back what it reads. No frames, no lanes.
package quic

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"

	"github.com/quic-go/quic-go"

	"parley/internal/problem"
)

const (
	alpn        = "parley-floor"
	readBytes   = 32 << 10
	streamBytes = 256 << 10
	connBytes   = 16 << 20
)

// Echo is a connection to an echo.
type Echo struct {
	conn    *quic.Conn
	stream  *quic.Stream
	release []func()
	work    sync.WaitGroup
	joined  []byte
}

// config has the windows of the links.
func config() *quic.Config {
	return &quic.Config{
		InitialStreamReceiveWindow: streamBytes, MaxStreamReceiveWindow: streamBytes,
		InitialConnectionReceiveWindow: connBytes, MaxConnectionReceiveWindow: connBytes,
	}
}

// Dial makes an echo and a connection to it. Messages have a fixed size; back
// gets each as it returns, and must not keep it.
func Dial(ctx context.Context, server, client *tls.Config, size int, back func([]byte)) (_ *Echo, err error) {
	e := &Echo{}
	defer func() {
		if err != nil {
			e.Close()
			err = problem.Wrap(err, problem.Unavailable, "the raw echo can't be set up")
		}
	}()
	there, err := e.transport()
	if err != nil {
		return nil, err
	}
	listener, err := there.Listen(named(server), config())
	if err != nil {
		return nil, err
	}
	e.release = append(e.release, func() { _ = listener.Close() })
	e.work.Go(func() { serve(ctx, listener) })
	here, err := e.transport()
	if err != nil {
		return nil, err
	}
	if e.conn, err = here.Dial(ctx, there.Conn.LocalAddr(), named(client), config()); err != nil {
		return nil, err
	}
	if e.stream, err = e.conn.OpenStreamSync(ctx); err != nil {
		return nil, err
	}
	e.work.Go(func() {
		b := make([]byte, size)
		for {
			if _, err := io.ReadFull(e.stream, b); err != nil {
				return // Close ends it so
			}
			back(b)
		}
	})
	return e, nil
}

func (e *Echo) transport() (*quic.Transport, error) {
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	t := &quic.Transport{Conn: socket}
	e.release = append(e.release, func() { _ = t.Close() }, func() { _ = socket.Close() })
	return t, nil
}

func named(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.NextProtos = []string{alpn}
	c.MinVersion = tls.VersionTLS13
	return c
}

func serve(ctx context.Context, l *quic.Listener) {
	c, err := l.Accept(ctx)
	if err != nil {
		return // the dialler says why
	}
	s, err := c.AcceptStream(ctx)
	if err != nil {
		return // as above
	}
	b := make([]byte, readBytes)
	for {
		n, err := s.Read(b)
		if n > 0 {
			if _, err := s.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return // Close ends it so
		}
	}
}

// Send writes messages in one go.
func (e *Echo) Send(messages [][]byte) error {
	e.joined = e.joined[:0]
	for _, m := range messages {
		e.joined = append(e.joined, m...)
	}
	_, err := e.stream.Write(e.joined)
	return err
}

// Close ends the connection and its other end, and waits for both.
func (e *Echo) Close() {
	if e.conn != nil {
		_ = e.conn.CloseWithError(0, "") // nothing depends on it any more
	}
	for _, release := range e.release {
		release()
	}
	e.work.Wait()
}
