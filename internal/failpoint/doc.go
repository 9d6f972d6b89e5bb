// Package failpoint lets a drill break our own processes at named places. It does
// so only in builds with the tag failpoints; in all others every function here is
// empty and costs nothing.
//
// A place has a name ("channel.commit") and says whose it is (a server's or a
// gateway's id), so that one of several in a process can be broken. What a place
// is to do is set through Handler.
package failpoint

import "errors"

// ErrCrash ends the context of a part that is to fall dead where it stands:
// sockets are cut, nothing is released, nothing is flushed.
var ErrCrash = errors.New("crashed by a drill")

// Names of places.
const (
	ChannelCommit  = "channel.commit"  // before the store is asked to commit
	ChannelConfirm = "channel.confirm" // after the write, before the fence rows are read
	ChannelShow    = "channel.show"    // after the confirmation, before anything leaves
	ChannelPublish = "channel.publish" // one event of one change: it may be dropped
	ChannelBeacon  = "channel.beacon"  // one beacon: it may be dropped
	ChannelPing    = "channel.ping"    // the answer to a ping
	ChannelLook    = "channel.look"    // before a server compares what it holds
	RosterNotice   = "roster.notice"   // the notice to a user whose channels changed: it may be dropped
	RaftAppend     = "raft.append"     // before Raft's log is written
	DiskRoom       = "disk.room"       // an error says that the disk is full
	LeaseRenew     = "lease.renew"     // a simulated part renews its lease
)

// Names of mutants: steps that a simulation leaves out, to see that it would
// notice.
const (
	NoFenceRead  = "mutant.no-fence-read"  // a commit is not confirmed by the fence rows
	NoSeal       = "mutant.no-seal"        // a takeover does not seal what is above the tail
	PublishEarly = "mutant.publish-early"  // changes are published before they are committed
	ResumeAhead  = "mutant.resume-ahead"   // an edge resumes a session one rev too far
	NoBeacon     = "mutant.no-beacon"      // gateways do not look at beacons
	TrustOldLink = "mutant.trust-old-link" // an edge takes a session's events from any link
)

// Order says what a place is to do.
type Order struct {
	Name string `json:"name"`
	Of   string `json:"of,omitempty"` // "" = of all
	// Do is block (until the order is taken back), delay, error, drop, crash (the
	// whole process, by SIGKILL), mutate, or for a clock shift or freeze.
	Do    string `json:"do"`
	For   string `json:"for,omitempty"`   // of delay and shift: a duration, also negative
	Count int    `json:"count,omitempty"` // how often; 0 = until it is taken back
}

// Everywhere is the Name of an Order for all places of a part: a pause of it.
const Everywhere = "*"

// ClockName is the Name of an Order about a part's clock.
const ClockName = "clock"
