package directory_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"parley/cell/directory"
	"parley/cell/directory/directorytest"
	"parley/internal/problem"
	"parley/internal/topology"
)

// onDisk is a directory on SQLite whose files can be taken away from under it.
type onDisk struct {
	dir     string
	crashes int
	now     func() time.Time
	d       *directory.Directory
}

func (o *onDisk) Directory() *directory.Directory { return o.d }
func (o *onDisk) Close() error                    { return errors.Join(o.d.Close(), os.RemoveAll(o.dir)) }

func (o *onDisk) file() string {
	return filepath.Join(o.dir, fmt.Sprintf("life %d", o.crashes), "directory.db")
}

func (o *onDisk) open() (err error) {
	if err := os.MkdirAll(filepath.Dir(o.file()), 0o700); err != nil {
		return err
	}
	o.d, err = directory.Open(context.Background(), o.file(), o.now, nil)
	return err
}

// Crash goes on with copies of the files as they are under the open directory;
// what SQLite does when it is closed in order comes too late for them. Every
// other crash has the start of a commit that never ended at the end of its log.
func (o *onDisk) Crash() error {
	old, was := o.file(), o.d
	o.crashes++
	if err := os.MkdirAll(filepath.Dir(o.file()), 0o700); err != nil {
		return err
	}
	for _, end := range []string{"", "-wal"} { // not -shm: it does not outlive a machine
		err := copyFile(old+end, o.file()+end)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if o.crashes%2 == 0 {
		if err := tear(o.file() + "-wal"); err != nil {
			return err
		}
	}
	if err := was.Close(); err != nil {
		return err
	}
	return o.open()
}

// tear writes the last frame of a log again, cut short and without a valid sum.
func tear(file string) error {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(b[max(0, len(b)-3000):])
	return errors.Join(err, f.Close())
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // it was read only
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func TestSQLite(t *testing.T) {
	directorytest.Run(t, func(now func() time.Time) (directorytest.Instance, error) {
		o := &onDisk{dir: t.TempDir(), now: now}
		return o, o.open()
	})
}

func TestOpen_Refuses(t *testing.T) {
	if _, err := directory.Open(t.Context(), "", time.Now, nil); !problem.Is(err, problem.Invalid) {
		t.Errorf("no file: %v", err)
	}
	if _, err := directory.Open(t.Context(), filepath.Join(t.TempDir(), "missing", "d.db"), time.Now, nil); !problem.Is(err, problem.Unavailable) {
		t.Errorf("no such folder: %v", err)
	}
	garbage := filepath.Join(t.TempDir(), "d.db")
	if err := os.WriteFile(garbage, []byte("this is no database, and it is longer than a header of one hundred bytes would have to be, to be sure"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := directory.Open(t.Context(), garbage, time.Now, nil); !problem.Is(err, problem.Unavailable) {
		t.Errorf("garbage: %v", err)
	}
}

// A path may have what ends a path in a URI.
func TestOpen_AnyPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "what?mode=memory#100%25")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "d.db")
	d, err := directory.Open(t.Context(), file, time.Now, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.PutWorkspace(t.Context(), directory.Workspace{ID: "W1", Epoch: 1, State: directory.StateOpen}); err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	if d, err = directory.Open(t.Context(), file, time.Now, nil); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	if w, err := d.Workspace(t.Context(), "W1"); err != nil || w.ID != topology.WorkspaceID("W1") {
		t.Errorf("opened again: %+v, %v", w, err)
	}
}
