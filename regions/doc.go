// Package regions is a region's registry: what edges and cells know of where
// things are. Each region has an etcd of its own. The control plane's leader
// writes routes, cells, signing keys and the list of edges into it (Publisher);
// gateways, channel servers, edges and cells register themselves there under
// leases; everybody else follows it with a Registry, which keeps all of it in
// memory and the last good copy on disk.
//
// Nothing on the data path waits for etcd. A registry that cannot reach it goes
// on with what it last knew, leased entries included: silence is not death. Nor
// does it forget the gateways and channel servers of a cell whose leases all
// ended without a farewell: the cell may be cut off from etcd only.
// Routes only say where to ask; a cell itself knows whether a workspace is its
// own.
//
// # Keys
//
// Under /parley/v1/:
//
//	meta                          Raft index that the published entries reflect
//	routes/{workspace}            "epoch cell"
//	cells/{cell}                  JSON Cell
//	keys/{kid}                    JSON public signing key
//	edges-all                     JSON list of the edges of all regions
//	live/gateways/{cell}/{id}     JSON Gateway, leased
//	live/servers/{cell}/{id}      JSON Server, leased
//	live/edges/{id}               JSON Edge, leased
//	live/cells/{cell}             JSON Load, leased
//	live/cells/{cell}/{process}   JSON Load of one of the cell's processes, leased
//
// # Size
//
// One route is a key of 45 bytes and a value of about 8 in etcd, some 200 bytes
// on its disk with the index: 0.2 GB for a million, a tenth of etcd's default
// quota. In memory a route is a 16-byte id (the ULID, unpacked from its 27
// characters) and 16 bytes of epoch, cell index and marks; Go's map adds a
// control byte a slot and is between 44 and 88 % full, which gives 38 to 75 bytes
// a route, and with the allocator's rounding up to 85: 84 MB were measured for a
// million, without pointers for the garbage collector to follow. The disk copy
// takes 19 bytes a route: 19 MB. Loading reads 5,000 keys a page, about 0.5 MB,
// one page in memory at a time.
package regions
