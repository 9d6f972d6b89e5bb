package cli

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// gcPercent is how much garbage a server lets grow beside what lives, in percent
	// of it. Most of what lives belongs to sockets that say nothing: Go's default of
	// 100 would have each cost its own size again.
	gcPercent = 50
	// trimEvery is how often a server that is quiet gives back what it holds beyond
	// what lives, if that is more than a tenth.
	trimEvery = 5 * time.Second
)

// thrifty sets the garbage collector for a server, unless $GOGC does, until ctx ends.
func thrifty(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(gcPercent)
	go func() {
		t := time.NewTicker(trimEvery)
		defer t.Stop()
		last := readHeap()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			now := readHeap()
			if now.quietSince(last) && now.wasteful() {
				debug.FreeOSMemory() // collects first
				now = readHeap()
			}
			last = now
		}
	}()
}

// heap is the Go heap at a moment, in bytes.
type heap struct {
	allocated uint64 // since the start
	lived     uint64 // at the last collection
	held      uint64 // of the system: what lives, garbage, and what is free but not given back
}

func readHeap() heap {
	s := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(s)
	return heap{allocated: s[0].Value.Uint64(), lived: s[1].Value.Uint64(), held: s[2].Value.Uint64() + s[3].Value.Uint64()}
}

// quietSince reports whether so little was allocated since an earlier moment that a
// collection of its own is no burden.
func (h heap) quietSince(before heap) bool { return h.allocated-before.allocated < h.lived/4 }

func (h heap) wasteful() bool { return h.held > h.lived+h.lived/10 }
