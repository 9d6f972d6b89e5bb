// Package msglog keeps the channels' logs: the only record of what was posted.
// Store is what a message store driver must do; Log is the protocol on top of
// it, the same for every driver, that makes an acked change stay (DESIGN: write
// at quorum, then read the fence, then show; takeover: raise, read, repair,
// check, serve).
//
// Words: a shard's fence row is (token, owner) and lives in the store. Who raised
// it last may write. Rows of a log carry the write time token<<40 | n, so that
// of two rows at one rev the later owner's wins, whatever the clocks say.
package msglog

import (
	"context"

	"parley/internal/topology"
)

// Fence is a shard's fence row.
type Fence struct {
	Shard topology.Shard
	Token topology.Token
	Owner topology.ServerID
}

// Claim asks for a shard: its fence becomes (From+1, Owner) if it is at From.
type Claim struct {
	Shard topology.Shard
	From  topology.Token
}

// Row is one row of a log as it is stored.
type Row struct {
	Rev  topology.Rev
	Time uint64 // token<<40 | n
	Blob []byte // an encoded change.Change
}

// Time is the write time of the n-th write (from 1) of an owner with the token.
func Time(t topology.Token, n uint64) uint64 { return uint64(t)<<40 | n&(1<<40-1) }

// Write is rows of one channel to be stored; one call may carry many channels
// of one shard.
type Write struct {
	Channel topology.ChannelRef
	Rows    []Row // rising revs, no gaps
}

// Seal repairs a channel's log in a takeover.
type Seal struct {
	Channel topology.ChannelRef
	Rows    []Row        // the tail, to be written again at the new token
	Above   topology.Rev // every row with a higher rev is deleted …
	Time    uint64       // … as of this time: the token's base, Time(token, 0)
}

// Store is a message store. Every method may return an error whose outcome is
// unknown; the caller then repeats the same call or steps down. Kinds that say
// more: Fenced, Invalid, TooLarge, Full and Unsupported mean that this call did
// nothing, so a driver returns them only when it knows. Every call ends soon
// after its ctx. The contract, clause by clause, is run by msglogtest:
//
//  1. Raise moves each claimed fence from From to From+1, or refuses that one
//     claim; all or nothing per claim, in an order that all callers agree on. It
//     returns the fences as they are now, in the order of the claims; a claim was
//     won if its Token is From+1 and its Owner the caller.
//  2. Fences reads the fence rows of some shards, all of them if none is named, with
//     a result not older than the last Raise that returned before it began. Others may
//     be among them; a shard without a row has none that was ever raised.
//  3. Append stores rows durably before it returns nil. It may refuse with kind
//     Fenced when it can see that token is not the shard's present one, but need
//     not: the caller reads the fence afterwards. A row never replaces one with
//     a higher Time at its rev. The rows of one channel in one call become
//     visible in a prefix order or all at once. The rows' times are of the token
//     (another is refused as Invalid), their channels in the shard and each named
//     once.
//  4. Tail returns the rows from a rev on, rising, at most limit, as the last
//     acknowledged writes have left them; sealed rows are not among them.
//  5. Repair carries out seals durably, each all or nothing: afterwards no row
//     above Above with a lower Time than the seal's is ever returned, also when it
//     arrives later. It may refuse with kind Fenced as Append may. Its rows
//     replace none with a higher Time, and the seal deletes none with its own.
//  6. Dirty names every channel of a shard that rows were appended to since it
//     was last cleaned (it may name others, too): what a new owner must look at.
//     Clean takes a channel off that list unless it has rows above upTo; a claim
//     that is no longer the shard's present one (token) changes nothing.
//  7. Oldest returns the rev that a channel's log begins with: 1, unless a driver
//     dropped older rows. It drops only what is history and event, and never the
//     newest row.
type Store interface {
	Raise(ctx context.Context, owner topology.ServerID, claims []Claim) ([]Fence, error)
	Fences(ctx context.Context, of ...topology.Shard) ([]Fence, error)
	Append(ctx context.Context, s topology.Shard, t topology.Token, writes []Write) error
	Tail(ctx context.Context, ch topology.ChannelRef, from topology.Rev, limit int) ([]Row, error)
	Repair(ctx context.Context, s topology.Shard, t topology.Token, seals []Seal) error
	Dirty(ctx context.Context, s topology.Shard) ([]topology.ChannelRef, error)
	Clean(ctx context.Context, s topology.Shard, t topology.Token, ch topology.ChannelRef, upTo topology.Rev) error
	Oldest(ctx context.Context, ch topology.ChannelRef) (topology.Rev, error)
}
