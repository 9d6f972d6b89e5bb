// Package channelnet is the network between a channel.Cluster and the channel
// servers of the cell's other processes. A Server lets other processes call those
// of this one; Peers keeps a connection to each other process and makes its
// channel servers known to the Cluster.
//
// A connection is HTTP/2 over mutual TLS and carries two streams of messages,
// each of which holds all that waited while the one before it was written: one
// stream for what is small and urgent (posts, heads, pings, and who holds which
// shard), one for what may be large (history, catch-up, imports), so that a page
// never holds up a post.
//
// Invariants, which the tests name:
//
//	N1 A request is answered as the channel server answered it, or with NotOwner
//	   when it has not left this process, or with Unknown when it may have been
//	   done; what only reads gets NotOwner in its place.
//	N2 What is known of who holds what is the peer's word of the present
//	   connection: when that breaks, its channel servers hold nothing.
//	N3 A peer that answers nothing for deadAfter is out of reach, whatever its
//	   kernel acknowledges.
//	N4 Only processes of the same region and cell are let in, each to the calls
//	   of its role, and to the channels of workspaces that the cell has.
//	N5 A peer of another version is refused, with both versions in the message.
package channelnet

import (
	"crypto/tls"
	"time"

	"parley/internal/pki"
	"parley/internal/problem"
)

// Version is the version of the protocol. A peer with another one is refused: a
// cell's processes are replaced within minutes of each other, and those of one
// version take over what the others leave.
const Version = 1

// Limits of a connection.
const (
	// requestBytesMax bounds a message of requests, and so the largest request: an
	// import of 8 MiB, or a channel's creation with 100,000 members.
	requestBytesMax = 16 << 20
	// answerBytesMax bounds a message of answers, and so the largest answer: 201
	// messages of 160 KB make 32 MiB.
	answerBytesMax = 64 << 20
	// slackBytes is what a message has beside the one large thing in it.
	slackBytes = 64 << 10
	// batchBytes is where a message is full, unless one thing alone is larger.
	batchBytes = 1 << 20
	// waitingMax bounds the requests on a stream that wait or are under way, at both
	// ends; what is above is refused as a channel server with a full queue does.
	waitingMax = 16 << 10
	// largeMax bounds the large answers of a stream that are being made or wait to be
	// sent, so that a caller that stands still does not fill the callee's memory.
	largeMax = 64
	// askMax bounds a request whose caller sets no deadline.
	askMax = time.Minute
	// freeMax bounds the wait for an answer to Free, whose loss costs a grace period.
	freeMax = 500 * time.Millisecond
)

// Pace of connections.
const (
	dialMax      = 2 * time.Second
	handshakeMax = 5 * time.Second
	pingEvery    = 500 * time.Millisecond
	deadAfter    = 4 * time.Second // as the slowest link of an edge
	backoffMin   = 20 * time.Millisecond
	backoffMax   = time.Second
	wakeGap      = 25 * time.Millisecond // many who wait for an owner cost few reminders
	stopMax      = 2 * time.Second
)

// inCell is a TLS config that, beside what it checks already, lets only the
// processes of one cell in (N4).
func inCell(tc *tls.Config, self pki.Identity) *tls.Config {
	tc = tc.Clone()
	tc.NextProtos = []string{"h2"}
	before := tc.VerifyConnection
	tc.VerifyConnection = func(cs tls.ConnectionState) error {
		if before != nil {
			if err := before(cs); err != nil {
				return err
			}
		}
		peer, err := pki.PeerIdentity(cs)
		if err != nil {
			return err
		}
		if peer.Cell != self.Cell || peer.Region != self.Region {
			return problem.New(problem.Denied, "the peer %s is of cell %q in region %q; this is cell %q in region %q",
				peer.Name, peer.Cell, peer.Region, self.Cell, self.Region)
		}
		return nil
	}
	return tc
}
