// Package router is the cell's pub-sub between channel servers and gateways. It
// may lose messages: revs, numbered beacons and Lost show where, and the gateway
// repairs from the log.
//
// Topics: "channel:{id}" (Event), "channel:{id}:typing" and "user:{id}" (small
// notices), "beacons" (Beacon; every gateway follows it), "presence:{workspace}".
package router

import (
	"parley/internal/topology"
)

// Bus is a cell's router. The contract is run by routertest:
//
//  1. Publish hands a message to every attachment that follows the topic, in the
//     order of publishing per topic and publisher. It never blocks on a slow
//     receiver: what does not fit into an attachment's bounded queue is dropped,
//     and Lost is called on it before anything published later is delivered.
//     Between processes it may also be dropped on its way out: then only revs and
//     beacons show it. A receiver that was cut off gets Lost when it is so, and
//     again when it no longer is, before anything later.
//  2. Follow takes effect before it returns: what is published afterwards is
//     delivered (or reported lost). Following twice is once; Unfollow ends it. It
//     may wait for a server, for a second at most; without one it returns, and
//     Lost is called when it has taken effect.
//  3. Deliver and Lost of one receiver are never called concurrently.
//  4. After Close returns, neither is called.
//  5. The payload is shared: nobody writes to it.
type Bus interface {
	Publish(topic string, payload []byte)
	Attach(r Receiver) Attachment
}

// Receiver takes what its attachment follows. Its methods return quickly.
type Receiver interface {
	// Deliver hands over messages that queued, in order.
	Deliver(ms []Message)
	// Lost says that messages may be missing, of any topic followed.
	Lost()
}

// Message is one published message.
type Message struct {
	Topic   string
	Payload []byte
}

// Attachment is a receiver's place on the bus.
type Attachment interface {
	Follow(topic string)
	Unfollow(topic string)
	Close()
}

// Event is what a channel server publishes on "channel:{id}" for confirmed
// changes From … To of one channel (one change each today). Payload is the
// client's event, encoded once.
type Event struct {
	Channel  topology.ChannelRef
	Token    topology.Token
	From, To topology.Rev
	Joined   []topology.UserID
	Left     []topology.UserID
	Payload  []byte
}

// Beacon is what a channel server publishes on "beacons" every second for each
// of its shards, changed or not. A gateway that misses a Number of a (shard,
// token), or sees a higher token, asks for the heads of what it follows there; a
// lower token is ignored.
type Beacon struct {
	Shard   topology.Shard
	Token   topology.Token
	Owner   topology.ServerID
	Number  uint64 // 1, 2, 3 … in this token
	Changed []Head // channels changed since the last beacon, confirmed heads
}

// Head is a channel's confirmed head.
type Head struct {
	Channel topology.ChannelRef
	Rev     topology.Rev
	Seq     topology.Seq
}

// BeaconTopic is where beacons go; a payload holds any number of them.
const BeaconTopic = "beacons"

// ChannelTopic carries a channel's events.
func ChannelTopic(ch topology.ChannelID) string { return "channel:" + string(ch) }

// TypingTopic carries a channel's typing notices: the payload is the user id.
func TypingTopic(ch topology.ChannelID) string { return "channel:" + string(ch) + ":typing" }

// UserTopic carries notices about a user: an encoded Notice.
func UserTopic(u topology.UserID) string { return "user:" + string(u) }

// PresenceTopic carries a workspace's presence changes.
func PresenceTopic(ws topology.WorkspaceID) string { return "presence:" + string(ws) }
