package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"parley/internal/disk"
)

var errFull = fmt.Errorf("write: %w", syscall.ENOSPC)

// Writes that meet a full disk wait, and the log hears of it once.
func TestPatience_WaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		p := disk.NewPatience(slog.New(slog.NewTextHandler(&log, nil)))
		began := time.Now()
		write := func() error {
			if time.Since(began) < time.Hour {
				return errFull
			}
			return nil
		}
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				if err := p.Do(write); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if !p.Waits() {
			t.Error("nobody waits on a full disk")
		}
		all.Wait()
		if p.Waits() || time.Since(began) > time.Hour+time.Second {
			t.Errorf("waits %t, after %s", p.Waits(), time.Since(began))
		}
		if n := strings.Count(log.String(), "\n"); n != 2 {
			t.Errorf("the log has %d lines, want one of the beginning and one of the end:\n%s", n, &log)
		}
	})
}

func TestPatience_EndsAndPassesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := disk.NewPatience(slog.New(slog.DiscardHandler))
		other := errors.New("the disk is on fire")
		if err := p.Do(func() error { return other }); !errors.Is(err, other) {
			t.Errorf("another error: %v", err)
		}
		got := make(chan error)
		go func() { got <- p.Do(func() error { return errFull }) }()
		synctest.Wait()
		p.End()
		p.End()
		if err := <-got; !disk.IsFull(err) {
			t.Errorf("at the end: %v", err)
		}
		if err := p.Do(func() error { return errFull }); !disk.IsFull(err) {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestFree(t *testing.T) {
	if n, err := disk.Free(t.TempDir()); err != nil || n == 0 {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := disk.Free("/does/not/exist"); err == nil {
		t.Error("a directory that is not there has room")
	}
}
