package pebbledb

import (
	"context"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"parley/internal/failpoint"
	"parley/internal/problem"
)

// What the disk must have left for new messages. A disk that runs full under
// Pebble fails the database, and takes reading with it; so posts are refused
// before that. Flushing four memtables, a compaction beside them and the log are
// some 200 MiB.
const (
	freeMin = 256 << 20
	// lookEvery bytes written, the disk is asked; while it is full, at each write.
	lookEvery = 1 << 20
)

// room watches the space on the disk.
type room struct {
	fs    vfs.FS
	dir   string
	since atomic.Int64 // bytes written since the last look
	full  atomic.Bool
}

func newRoom(fs vfs.FS, dir string) *room {
	r := &room{fs: fs, dir: dir}
	r.since.Store(lookEvery) // look at the first write
	return r
}

// take refuses with kind Full n bytes more when the disk is nearly full. What
// makes room, or keeps what there is safe (takeovers, marks), does not ask.
func (r *room) take(n int) error {
	if r.since.Add(int64(n)) >= lookEvery || r.full.Load() {
		r.since.Store(0)
		// A file system that can't tell is taken to have room.
		usage, err := r.fs.GetDiskUsage(r.dir)
		r.full.Store(err == nil && usage.AvailBytes < freeMin)
	}
	if r.full.Load() || failpoint.At(context.Background(), failpoint.DiskRoom, r.dir) != nil {
		return problem.New(problem.Full, "the disk is nearly full: free space, or add some")
	}
	return nil
}
