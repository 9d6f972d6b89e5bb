package link

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"

	"github.com/quic-go/quic-go"

	"parley/internal/network"
	"parley/internal/pki"
	"parley/internal/wire/frame"
)

// DialConfig is what an edge needs to reach a gateway.
type DialConfig struct {
	Addr     string      // host:port, UDP
	TLS      *tls.Config // pki.Bundle.Client(pki.RoleGateway)
	Hello    frame.Hello // Version is filled in
	Handler  Handler
	Log      *slog.Logger
	ResetKey *ResetKey // nil: peers find out a restart of this node by pings
	Liveness Liveness
	Net      network.Network
}

// Dial makes a link: QUIC handshake, lanes, Hello, Welcome. ctx bounds it, and
// so does a limit of ten seconds.
func Dial(ctx context.Context, cfg DialConfig) (*Conn, frame.Welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeMax)
	defer cancel()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	addr, err := net.ResolveUDPAddr("udp", cfg.Addr)
	if err != nil {
		return nil, frame.Welcome{}, &Error{Kind: ErrDead, Detail: "address " + cfg.Addr, Cause: err}
	}
	socket, err := cfg.Net.UDP(nil)
	if err != nil {
		return nil, frame.Welcome{}, &Error{Kind: ErrDead, Detail: "no UDP socket", Cause: err}
	}
	transport := &quic.Transport{Conn: socket, StatelessResetKey: resetKey(cfg.ResetKey)}
	release := func() {
		_ = transport.Close() // on the way out: nothing depends on it
		_ = socket.Close()
	}
	c, welcome, err := dialOn(ctx, transport, addr, cfg)
	if err != nil {
		release()
		return nil, frame.Welcome{}, mapError(err)
	}
	c.release = release
	c.start(cfg.Handler)
	return c, welcome, nil
}

func dialOn(ctx context.Context, tr *quic.Transport, addr net.Addr, cfg DialConfig) (*Conn, frame.Welcome, error) {
	q, err := tr.Dial(ctx, addr, withALPN(cfg.TLS), quicConfig())
	if err != nil {
		return nil, frame.Welcome{}, err
	}
	peer, err := pki.PeerIdentity(q.ConnectionState().TLS)
	if err != nil {
		err = &Error{Kind: ErrRefused, Detail: "the gateway's certificate", Cause: err}
		_ = q.CloseWithError(codeOf(err), "certificate without an identity")
		return nil, frame.Welcome{}, err
	}
	c := newConn(q, peer, cfg.Liveness, cfg.Log)
	stop := context.AfterFunc(ctx, func() { c.Close(&Error{Kind: ErrDead, Detail: "no Welcome in time", Cause: ctx.Err()}) })
	defer stop()
	welcome, err := c.greet(ctx, cfg.Hello)
	if err != nil {
		c.fail(err)
		return nil, frame.Welcome{}, c.err
	}
	return c, welcome, nil
}

// greet opens the lanes and exchanges Hello and Welcome.
func (c *Conn) greet(ctx context.Context, hello frame.Hello) (frame.Welcome, error) {
	hello.Version = frame.Version
	for i := range c.lanes {
		s, err := c.quic.OpenStreamSync(ctx)
		if err != nil {
			return frame.Welcome{}, err
		}
		c.lanes[i].stream = s
		first := []byte{byte(i)}
		if i == frame.Control {
			s.SetPriority(0, true) // pings and resumes go before bulk
			if first, err = frame.Append(first, hello); err != nil {
				return frame.Welcome{}, err
			}
		}
		if _, err := s.Write(first); err != nil {
			return frame.Welcome{}, err
		}
	}
	f, err := c.readFirst()
	if err != nil {
		return frame.Welcome{}, err
	}
	w, ok := f.(frame.Welcome)
	if !ok {
		return frame.Welcome{}, errorf(ErrProtocol, "the gateway's first frame is %s, not Welcome", frame.Name(f))
	}
	if w.Version != frame.Version {
		return frame.Welcome{}, errorf(ErrVersion, "the gateway speaks link version %d, this edge %d", w.Version, frame.Version)
	}
	return w, nil
}

// readFirst reads the control lane's first frame and keeps what came behind it.
//
//nolint:ireturn // Frame is a closed sum type
func (c *Conn) readFirst() (frame.Frame, error) {
	var (
		s   = c.lanes[frame.Control].stream
		buf = make([]byte, 0, readBytes)
	)
	for len(buf) < cap(buf) {
		n, err := s.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		size, bad := frame.Size(buf)
		if bad != nil {
			return nil, errorf(ErrProtocol, "the first frame: %v", bad)
		}
		if size > 0 && size <= len(buf) {
			return c.first(buf, size)
		}
		if errors.Is(err, io.EOF) {
			return nil, errorf(ErrProtocol, "the control lane ended before its first frame")
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, errorf(ErrProtocol, "the first frame is longer than %d bytes", readBytes)
}

//nolint:ireturn // Frame is a closed sum type
func (c *Conn) first(buf []byte, size int) (frame.Frame, error) {
	fs, _, err := frame.Decode(nil, buf[:size])
	if err != nil {
		return nil, errorf(ErrProtocol, "the first frame: %v", err)
	}
	c.lanes[frame.Control].early = buf[size:]
	return fs[0], nil
}
