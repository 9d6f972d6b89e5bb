package regions

import (
	"time"

	"parley/internal/token"
	"parley/internal/topology"
)

// Gateway is a live gateway process of a cell.
type Gateway struct {
	ID          topology.GatewayID   `json:"id"`
	Cell        topology.CellID      `json:"cell"`
	LinkAddr    string               `json:"link_addr"` // QUIC links of edges
	APIAddr     string               `json:"api_addr"`  // HTTP/3
	Incarnation topology.Incarnation `json:"incarnation"`
	Draining    bool                 `json:"draining,omitempty"`
}

// Server is a live channel server of a cell.
type Server struct {
	ID          topology.ServerID    `json:"id"`
	Cell        topology.CellID      `json:"cell"`
	Incarnation topology.Incarnation `json:"incarnation"`
	// Addr is where the cell's other processes reach it, TCP; "" = there are none.
	Addr string `json:"addr,omitempty"`
}

// Edge is an edge proxy that clients may connect to.
type Edge struct {
	ID     topology.EdgeID   `json:"id"`
	Region topology.RegionID `json:"region"`
	URL    string            `json:"url"`
}

// Cell is what the control plane says of a cell.
type Cell struct {
	ID     topology.CellID   `json:"id"`
	Region topology.RegionID `json:"region"`
	State  string            `json:"state"` // active, cordoned, …: the control plane's word
	// Gateways are those the control plane's leader last saw registered in the
	// cell's own region: by them the other regions' edges find it.
	Gateways []Gateway `json:"gateways,omitempty"`
}

// Load is a cell's report of how busy it is, or one process's part of it.
type Load struct {
	Cell topology.CellID `json:"cell"`
	// Process names the process whose part it is; "" = the cell is one process.
	Process        string         `json:"process,omitempty"`
	Connections    int            `json:"connections"`
	PostsPerS      float64        `json:"posts_per_s"`
	DeliveriesPerS float64        `json:"deliveries_per_s"`
	BytesPerS      float64        `json:"bytes_per_s"`
	Workspaces     int            `json:"workspaces"`
	Top            []TopWorkspace `json:"top,omitempty"`
	At             time.Time      `json:"at"`
}

// TopWorkspace is one of the busiest workspaces of a cell.
type TopWorkspace struct {
	Workspace   topology.WorkspaceID `json:"workspace"`
	Connections int                  `json:"connections"`
	PostsPerS   float64              `json:"posts_per_s"`
	BytesPerS   float64              `json:"bytes_per_s"`
}

// maxTop bounds Load.Top, so that a report stays a few kilobytes.
const maxTop = 50

// Contents is everything of a table but its routes: small, a few hundred
// entries.
type Contents struct {
	Index    uint64 // the Raft index that the published entries reflect
	Gateways []Gateway
	Servers  []Server
	Live     []Edge // the edges of this region that are registered
	Edges    []Edge // the published edges of all regions
	Keys     []token.Key
	Cells    []Cell
	Loads    []Load
}
