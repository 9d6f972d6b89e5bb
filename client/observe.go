package client

import "parley/internal/topology"

// Observer is told what happens on a stream's sockets, numbered from 1, in order
// and by one goroutine: for those who write histories. It must return quickly.
type Observer interface {
	// Opened says that a socket opened, and whether it will resume.
	Opened(socket uint64, edge string, resume bool)
	// Resumed says with which cursors it resumes.
	Resumed(socket uint64, cursors map[topology.ChannelID]topology.Rev)
	// Came is one event as it came; raw must not be kept or changed.
	Came(socket uint64, raw []byte)
	// Closed says that a socket ended.
	Closed(socket uint64, why error)
	// Failed says that an attempt to open one failed.
	Failed(edge string, why error)
}

// Observe sets the stream's observer; before Run.
func (s *Stream) Observe(o Observer) { s.observer = o }

// silent is the observer of most streams.
type silent struct{}

func (silent) Opened(uint64, string, bool)                         {}
func (silent) Resumed(uint64, map[topology.ChannelID]topology.Rev) {}
func (silent) Came(uint64, []byte)                                 {}
func (silent) Closed(uint64, error)                                {}
func (silent) Failed(string, error)                                {}
