package pebbledb

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"parley/internal/disk"
	"parley/internal/failpoint"
	"parley/internal/problem"
)

// What the disk must have left for new messages. Under a disk that is full all
// writes wait, and posts should have a prompt answer; so they are refused before
// that. Flushing four memtables, a compaction beside them and the log are some
// 200 MiB.
const (
	freeMin = 256 << 20
	// lookEvery bytes written, the disk is asked, and at the first write after
	// lookAfter: others fill it, too. While it is full, at each write.
	lookEvery = 1 << 20
	lookAfter = 100 * time.Millisecond
)

// room watches the space on the disk.
type room struct {
	fs       vfs.FS
	dir      string
	patience *disk.Patience
	since    atomic.Int64 // bytes written since the last look
	looked   atomic.Int64 // when that was, in ns since made
	made     time.Time
	full     atomic.Bool
}

func newRoom(fs vfs.FS, dir string, p *disk.Patience) *room {
	r := &room{fs: fs, dir: dir, patience: p, made: time.Now()}
	r.since.Store(lookEvery) // look at the first write
	return r
}

// take refuses with kind Full n bytes more when the disk is nearly full. What
// makes room, or keeps what there is safe (takeovers, marks), does not ask.
func (r *room) take(n int) error {
	now := int64(time.Since(r.made))
	if r.since.Add(int64(n)) >= lookEvery || now-r.looked.Load() >= int64(lookAfter) || r.full.Load() {
		r.since.Store(0)
		r.looked.Store(now)
		// A file system that can't tell is taken to have room.
		usage, err := r.fs.GetDiskUsage(r.dir)
		r.full.Store(err == nil && usage.AvailBytes < freeMin)
	}
	if r.full.Load() || r.patience.Waits() || failpoint.At(context.Background(), failpoint.DiskRoom, r.dir) != nil {
		return problem.New(problem.Full, "the disk is nearly full: free space, or add some")
	}
	return nil
}
