// Package link carries frames between an edge and a gateway: one QUIC
// connection with a control lane and frame.Lanes channel lanes, each an ordered
// stream of its own, so that a lane that waits never holds up another.
//
// What a lane's writer finds pending goes out in one stream write, and what a
// lane's reader finds readable is handed over in one call: that joining is
// where the throughput comes from. Every quic-go type stays in this package.
//
// Invariants, which the tests name:
//
//	I1 Frames of one lane arrive in the order of their Sends, each once, or the
//	   link is closed.
//	I2 Send and Flush never block; a lane whose peer doesn't read closes the
//	   link when LaneBytesMax are pending.
//	I3 A stalled lane delays no other lane.
//	I4 Closed is called once, after the last Frames has returned.
//	I5 A peer that stops answering closes the link within DeadAfter, even if its
//	   kernel or its QUIC stack still acknowledges packets.
package link

import (
	"crypto/tls"
	"time"

	"github.com/quic-go/quic-go"

	"parley/internal/wire/frame"
)

// ALPN names the protocol in the TLS handshake. A peer with another name is
// refused there; frame.Version is checked in the Hello after it.
const ALPN = "parley-link/1"

// Limits of a link.
const (
	// LaneBytesMax bounds what waits to be written on one lane. At a burst of
	// 100 MB/s it covers a stall of 80 ms; a peer that is further behind is
	// better served by catch-up.
	LaneBytesMax = 8 << 20
	// streamWindowBytes and connWindowBytes: the connection's window holds all
	// lanes' windows (17 × 256 KiB = 4.25 MiB) and much head room, else stalled
	// lanes would use it up and wedge the healthy ones.
	streamWindowBytes = 256 << 10
	connWindowBytes   = 16 << 20
	// idleMax ends a link on which no packet arrives.
	idleMax = 6 * time.Second
	// handshakeMax bounds connecting, up to the Welcome.
	handshakeMax = 10 * time.Second
	// lingerMax is how long a dialled link's socket outlives it.
	lingerMax = 200 * time.Millisecond
	// PingEvery is the pace of application pings on the control lane.
	PingEvery = 250 * time.Millisecond
	// DeadAfter is how long a peer may owe every answer to a ping, beside
	// answerTimes the slowest answer of late: a link across an ocean, or to a host
	// under load, is given what it needs, up to deadMost.
	DeadAfter   = time.Second
	answerTimes = 4
	deadMost    = 4 * time.Second
	// readBytes is a lane's read buffer. It grows for a frame that is larger.
	readBytes = 32 << 10
	// keepBytesMax is the largest buffer that a lane keeps for its next use.
	keepBytesMax = 256 << 10
	lanes        = frame.Lanes + 1
)

// Handler receives what a link brings. Its methods are called from the link's
// own goroutines.
type Handler interface {
	// Frames gets all frames that were readable at once on a lane, in order. It
	// is called by one goroutine per lane, so lanes run at the same time. It must
	// not block: a lane's reader waits for it. fs is used again after it returns;
	// the frames and their payloads may be kept. Pings and pongs never get here.
	Frames(c *Conn, lane int, fs []frame.Frame)
	// Closed tells once that the link has ended and why; no Frames follows.
	Closed(c *Conn, err error)
}

// ResetKey lets a restarted node tell its peers at once that their old links
// are gone. It must be secret, and the same over a node's restarts.
type ResetKey [32]byte

// Liveness is how a link finds out that its peer is gone; zero fields take the
// defaults. Shorter values find a death sooner and mistake a loaded host for one.
type Liveness struct {
	PingEvery time.Duration // default PingEvery; 50 ms … 10 s
	DeadAfter time.Duration // default DeadAfter; must exceed PingEvery
}

func (l Liveness) withDefaults() Liveness {
	if l.PingEvery <= 0 {
		l.PingEvery = PingEvery
	}
	if l.DeadAfter <= l.PingEvery {
		l.DeadAfter = max(DeadAfter, 2*l.PingEvery)
	}
	return l
}

func quicConfig() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           handshakeMax / 2,
		MaxIdleTimeout:                 idleMax,
		KeepAlivePeriod:                idleMax / 3,
		InitialStreamReceiveWindow:     streamWindowBytes,
		MaxStreamReceiveWindow:         streamWindowBytes,
		InitialConnectionReceiveWindow: connWindowBytes,
		MaxConnectionReceiveWindow:     connWindowBytes,
		MaxIncomingStreams:             lanes,
		MaxIncomingUniStreams:          -1,
		Allow0RTT:                      false, // 0-RTT can be replayed
	}
}

// withALPN is a copy of a role's TLS configuration for links.
func withALPN(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.NextProtos = []string{ALPN}
	c.MinVersion = tls.VersionTLS13
	return c
}

func resetKey(k *ResetKey) *quic.StatelessResetKey {
	if k == nil {
		return nil
	}
	q := quic.StatelessResetKey(*k)
	return &q
}
