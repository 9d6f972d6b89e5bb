package pebbledb_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.uber.org/goleak"

	"parley/cell/msglog"
	"parley/cell/msglog/msglogtest"
	"parley/cell/pebbledb"
)

// stuck counts the failed databases that could not be closed: whether a failure
// finds a write in Pebble's line is up to the scheduler.
var stuck atomic.Int32

func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 && stuck.Load() == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// instance is a database on a file system in memory that forgets what was not
// synced when it crashes.
type instance struct {
	mem    *vfs.MemFS
	db     *pebbledb.DB
	broken atomic.Pointer[error]
	full   atomic.Bool
}

var errDisk = errors.New("the disk takes no more")

func (in *instance) open() error {
	in.broken.Store(nil)
	in.full.Store(false)
	fs := errorfs.Wrap(in.mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if err := in.broken.Load(); err != nil && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return *err
		}
		if in.full.Load() && takesRoom(op.Kind) {
			return syscall.ENOSPC
		}
		return nil
	}))
	db, err := pebbledb.Open(pebbledb.Config{Dir: "db", FS: fs})
	in.db = db
	return err
}

func takesRoom(k errorfs.OpKind) bool {
	switch k {
	case errorfs.OpCreate, errorfs.OpLink, errorfs.OpRename, errorfs.OpReuseForWrite, errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpFilePreallocate:
		return true
	default:
		return false
	}
}

func (in *instance) Store() msglog.Store { return in.db.Log() }

func (in *instance) Break() error {
	in.broken.Store(&errDisk)
	return nil
}

func (in *instance) Crash() error {
	left := in.mem.CrashClone(vfs.CrashCloneCfg{})
	if err := in.db.Close(); err != nil { // of a process that is gone; what it still writes is not in left
		stuck.Add(1)
	}
	in.mem = left
	return in.open()
}

// tear crashes, and a part of what was not synced is left.
func (in *instance) tear(t *testing.T, seed uint64) {
	t.Helper()
	left := in.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(seed, 1))})
	_ = in.db.Close()
	in.mem = left
	if err := in.open(); err != nil {
		t.Fatalf("after a torn crash: %v", err)
	}
}

func barePebble(b *testing.B, fs vfs.FS) (*pebble.DB, func(key, value []byte) error) {
	b.Helper()
	p, err := pebble.Open(b.TempDir(), &pebble.Options{FS: fs, MemTableSize: 16 << 20, FormatMajorVersion: pebble.FormatNewest})
	if err != nil {
		b.Fatal(err)
	}
	return p, func(key, value []byte) error { return p.Set(key, value, pebble.Sync) }
}

func (in *instance) Close() error { return in.db.Close() }

func newInstance() (*instance, error) {
	in := &instance{mem: vfs.NewCrashableMem()}
	return in, in.open()
}

func TestLog(t *testing.T) {
	msglogtest.Run(t, func() (msglogtest.Instance, error) { return newInstance() })
}
