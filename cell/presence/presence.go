// Package presence keeps who is there. Gateways know which sockets live, so a
// person's heartbeat costs no write: each gateway holds one lease over all of its
// users and writes only what changes, in batches.
package presence

import (
	"context"
	"encoding/json"
	"time"

	"parley/internal/problem"
	"parley/internal/topology"
)

// Status is how present a user is; of a user at several gateways the highest
// counts.
type Status uint8

// The statuses, rising.
const (
	Offline Status = 0
	Away    Status = 1 // connected, but idle
	Online  Status = 2
)

// Unknown is what a gateway says while the store is away. It is never stored.
const Unknown Status = 255

// String is the status as clients get it.
func (s Status) String() string {
	switch s {
	case Online:
		return "online"
	case Away:
		return "away"
	case Unknown:
		return "unknown"
	default:
		return "offline"
	}
}

// LeaseTTL is how long a gateway that fell silent counts.
const LeaseTTL = 30 * time.Second

// Change is a user's new status at a gateway.
type Change struct {
	topology.Place
	User   topology.UserID
	Status Status
}

// Store keeps statuses. The contract is run by presencetest:
//
//  1. Set stores changes at a gateway and renews its lease; Offline takes a user
//     out. Without changes it only renews. It tells whether the lease was still
//     there: if not, the gateway starts with nobody but these changes.
//  2. Read returns the highest status of each user over all gateways whose lease
//     has not ended; users nobody has are Offline.
//  3. A lease ends LeaseTTL after the last Set; Leave ends it at once. A gateway
//     whose lease ended starts with nobody.
//  4. A user of one place is nobody in another.
//  5. Present returns who is not Offline in a place, as Read would; of more than
//     limit it returns any limit.
type Store interface {
	Set(ctx context.Context, g topology.GatewayID, cs []Change) (kept bool, err error)
	Leave(ctx context.Context, g topology.GatewayID) error
	Read(ctx context.Context, p topology.Place, us []topology.UserID) (map[topology.UserID]Status, error)
	Present(ctx context.Context, p topology.Place, limit int) (map[topology.UserID]Status, error)
}

// Encode is changes as they are published on router.PresenceTopic.
func Encode(cs []Change) []byte {
	b, err := json.Marshal(cs)
	if err != nil { // plain strings and numbers always encode
		return nil
	}
	return b
}

// Decode reads changes.
func Decode(b []byte) ([]Change, error) {
	var cs []Change
	if err := json.Unmarshal(b, &cs); err != nil {
		return nil, problem.Wrap(err, problem.Invalid, "the presence on the router can't be decoded")
	}
	return cs, nil
}
