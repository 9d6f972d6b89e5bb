package regions

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"parley/internal/token"
	"parley/internal/topology"
)

// The layout of a region's etcd. Routes sort last, so that a reader without
// interest in them reads the range before.
const (
	prefix         = "/parley/v1/"
	keyMeta        = "meta"
	keyEdges       = "edges-all"
	underCells     = "cells/"
	underKeys      = "keys/"
	underGateways  = "live/gateways/"
	underServers   = "live/servers/"
	underLiveEdges = "live/edges/"
	underLoads     = "live/cells/"
	underLive      = "live/"
	underRoutes    = "routes/"
)

// meta is the value of the key meta. Its text begins with the index in 20
// digits, so that etcd itself can compare two of them in a transaction.
type meta struct {
	Index    uint64 `json:"-"`
	Complete bool   `json:"complete"` // false while the first full write of an index goes on
	Routes   int    `json:"routes"`
	Cells    int    `json:"cells"`
}

const indexDigits = 20

func indexText(index uint64) string { return fmt.Sprintf("%0*d", indexDigits, index) }

func (m meta) text() string {
	b, _ := json.Marshal(m) // two ints and a bool: cannot fail
	return indexText(m.Index) + " " + string(b)
}

func parseMeta(b []byte) (meta, error) {
	if len(b) < indexDigits {
		return meta{}, errors.New("meta shorter than its index")
	}
	index, err := strconv.ParseUint(string(b[:indexDigits]), 10, 64)
	if err != nil {
		return meta{}, err
	}
	m := meta{}
	if err := json.Unmarshal(b[indexDigits:], &m); err != nil {
		return meta{}, err
	}
	m.Index = index
	return m, nil
}

func routeText(r topology.Route) string {
	return strconv.FormatUint(uint64(r.Epoch), 10) + " " + string(r.Cell)
}

func parseRoute(ws string, b []byte) (topology.Route, error) {
	epoch, cell, ok := strings.Cut(string(b), " ")
	if !ok || cell == "" || ws == "" {
		return topology.Route{}, errors.New(`route is not "epoch cell"`)
	}
	n, err := strconv.ParseUint(epoch, 10, 64)
	if err != nil {
		return topology.Route{}, err
	}
	return topology.Route{Workspace: topology.WorkspaceID(ws), Cell: topology.CellID(cell), Epoch: topology.Epoch(n)}, nil
}

// publicKey is a signing key as it is published: never the private half.
type publicKey struct {
	KID       string    `json:"kid"`
	Public    []byte    `json:"public"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

func publicOf(k token.Key) publicKey {
	return publicKey{KID: k.KID, Public: k.Public, NotBefore: k.NotBefore.UTC(), NotAfter: k.NotAfter.UTC()}
}

func (k publicKey) key() (token.Key, error) {
	if k.KID == "" || len(k.Public) != ed25519.PublicKeySize {
		return token.Key{}, errors.New("signing key without kid or of a wrong length")
	}
	return token.Key{KID: k.KID, Public: ed25519.PublicKey(k.Public), NotBefore: k.NotBefore, NotAfter: k.NotAfter}, nil
}

// farewell is what a holder that leaves in order writes before it revokes its
// lease, so that its going is told from its falling silent.
const farewell = `{"left":true}`

func isFarewell(key string, value []byte) bool {
	return strings.HasPrefix(key, underLive) && string(value) == farewell
}

func gatewayKey(g Gateway) string { return underGateways + string(g.Cell) + "/" + string(g.ID) }
func serverKey(s Server) string   { return underServers + string(s.Cell) + "/" + string(s.ID) }

func loadKey(l Load) string {
	if l.Process == "" {
		return underLoads + string(l.Cell)
	}
	return underLoads + string(l.Cell) + "/" + l.Process
}

// parseFact decodes the value of a key (without the prefix) other than a route.
// An unknown key gives nil: a later version may have written it.
func parseFact(key string, b []byte) (any, error) {
	switch {
	case key == keyMeta:
		return parseMeta(b)
	case key == keyEdges:
		return parseJSON[[]Edge](b)
	case strings.HasPrefix(key, underCells):
		return parseJSON[Cell](b)
	case strings.HasPrefix(key, underKeys):
		k, err := parseJSON[publicKey](b)
		if err != nil {
			return nil, err
		}
		return k.(publicKey).key()
	case strings.HasPrefix(key, underGateways):
		return parseJSON[Gateway](b)
	case strings.HasPrefix(key, underServers):
		return parseJSON[Server](b)
	case strings.HasPrefix(key, underLiveEdges):
		return parseJSON[Edge](b)
	case strings.HasPrefix(key, underLoads):
		return parseJSON[Load](b)
	default:
		return nil, nil //nolint:nilnil // documented
	}
}

func parseJSON[T any](b []byte) (any, error) {
	var v T
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, err
	}
	return v, nil
}
