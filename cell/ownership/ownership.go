// Package ownership says which channel server should own which shard. It is a
// hint and nothing more: what it gets wrong costs time, never safety, because
// who may write is the shard's fence row in the message store.
package ownership

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"parley/internal/topology"
)

// Owner is who should own a shard among the live servers: the one that weighs
// most for it. All who see the same servers agree without talking, and a server
// that comes or goes moves only its own share. ok is false without servers.
func Owner(s topology.Shard, live []topology.ServerID) (owner topology.ServerID, ok bool) {
	var best uint64
	for _, id := range live {
		w := weight(s, id)
		if !ok || w > best || (w == best && id < owner) {
			owner, best, ok = id, w, true
		}
	}
	return owner, ok
}

// Shares is every server's shards: what Owner says of each shard, by owner.
func Shares(live []topology.ServerID) map[topology.ServerID][]topology.Shard {
	shares := make(map[topology.ServerID][]topology.Shard, len(live))
	for s := range topology.Shard(topology.Shards) {
		if o, ok := Owner(s, live); ok {
			shares[o] = append(shares[o], s)
		}
	}
	return shares
}

// weight mixes server and shard; the same in every process and release, or two
// servers of a rolling upgrade would both want a shard.
func weight(s topology.Shard, id topology.ServerID) uint64 {
	var d xxhash.Digest
	d.Reset()
	_, _ = d.WriteString(string(id)) // a hash's Write never fails
	_, _ = d.Write(binary.BigEndian.AppendUint16(nil, uint16(s)))
	return d.Sum64()
}
