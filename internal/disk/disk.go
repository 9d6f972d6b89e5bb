// Package disk is about disks that run full: how much room is left, and how to
// outlast it when there is none.
package disk

import (
	"errors"
	"log/slog"
	"sync"
	"syscall"
	"time"
)

// IsFull reports whether err says that a disk, or somebody's share of it, is full.
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// Free is how many bytes can still be written to the disk that dir is on.
func Free(dir string) (uint64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil //nolint:gosec // a block's size is above 0
}

// lookEvery is how often who waits for room tries again.
const lookEvery = 250 * time.Millisecond

// Patience makes writes wait while the disk is full, for engines that can't go on
// after one has failed. Whoever frees space ends the wait; nobody has to restart
// anything. It tells the log when the first write begins to wait, and when the last
// has been done.
type Patience struct {
	log *slog.Logger

	mu      sync.Mutex
	waiting int
	end     chan struct{} // closed by End
	ended   bool
}

// NewPatience makes one; log should say whose disk it is.
func NewPatience(log *slog.Logger) *Patience {
	return &Patience{log: log, end: make(chan struct{})}
}

// Do repeats a write for as long as it fails for want of room. After End such a
// failure is returned.
func (p *Patience) Do(write func() error) error {
	err := write()
	if !IsFull(err) || !p.enter(err) {
		return err
	}
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if err = write(); !IsFull(err) {
				if p.leave() {
					p.log.Warn("the disk has room again: what waited goes on")
				}
				return err
			}
		case <-p.end:
			if p.leave() {
				p.log.Warn("the disk is still full; what waited is given up")
			}
			return err
		}
	}
}

// Waits reports whether a write waits now.
func (p *Patience) Waits() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting > 0
}

// End lets writes fail from now on, so that who stops does not wait for room. It
// may be called again.
func (p *Patience) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		p.ended = true
		close(p.end)
	}
}

func (p *Patience) enter(err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	if p.waiting++; p.waiting == 1 {
		p.log.Error("the disk is full: writes wait until space is freed", "err", err)
	}
	return true
}

// leave reports whether nobody waits any more.
func (p *Patience) leave() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting--
	return p.waiting == 0
}
