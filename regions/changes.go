package regions

import (
	"crypto/ed25519"
	"encoding/json"

	clientv3 "go.etcd.io/etcd/client/v3"

	"parley/internal/problem"
	"parley/internal/token"
	"parley/internal/topology"
)

// Change is one published entry to put or delete.
type Change struct {
	key    string // without the prefix
	value  string
	delete bool
	err    error
}

// PutRoute publishes a workspace's route.
func PutRoute(r topology.Route) Change {
	c := Change{key: underRoutes + string(r.Workspace), value: routeText(r)}
	c.err = checkIDs("workspace", string(r.Workspace), "cell", string(r.Cell))
	return c
}

// DeleteRoute withdraws a workspace's route.
func DeleteRoute(ws topology.WorkspaceID) Change {
	return Change{key: underRoutes + string(ws), delete: true, err: checkIDs("workspace", string(ws))}
}

// PutCell publishes a cell.
func PutCell(c Cell) Change {
	ch := putJSON(underCells+string(c.ID), c)
	ch.err = checkIDs("cell", string(c.ID))
	return ch
}

// DeleteCell withdraws a cell.
func DeleteCell(id topology.CellID) Change {
	return Change{key: underCells + string(id), delete: true, err: checkIDs("cell", string(id))}
}

// PutKey publishes the public half of a signing key.
func PutKey(k token.Key) Change {
	ch := putJSON(underKeys+k.KID, publicOf(k))
	if ch.err = checkIDs("kid", k.KID); ch.err == nil && len(k.Public) != ed25519.PublicKeySize {
		ch.err = problem.Field("public", "has %d bytes, an Ed25519 public key has %d", len(k.Public), ed25519.PublicKeySize)
	}
	return ch
}

// DeleteKey withdraws a signing key.
func DeleteKey(kid string) Change {
	return Change{key: underKeys + kid, delete: true, err: checkIDs("kid", kid)}
}

// PutEdges publishes the list of the edges of all regions.
func PutEdges(es []Edge) Change {
	if es == nil {
		es = []Edge{}
	}
	return putJSON(keyEdges, es)
}

func putJSON(key string, v any) Change {
	b, err := json.Marshal(v)
	if err != nil {
		return Change{err: problem.Wrap(err, problem.Invalid, "the entry %s cannot be encoded", key)}
	}
	return Change{key: key, value: string(b)}
}

func (c Change) op() clientv3.Op {
	if c.delete {
		return clientv3.OpDelete(prefix + c.key)
	}
	return clientv3.OpPut(prefix+c.key, c.value)
}
