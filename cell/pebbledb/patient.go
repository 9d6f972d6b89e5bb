package pebbledb

import (
	"github.com/cockroachdb/pebble/v2/vfs"

	"parley/internal/disk"
)

// patientFS is a file system whose writes wait while the disk is full. Pebble does
// not get over a write that failed: its log, or its manifest, would be out of use
// until a restart, and reading with them. So it never sees one fail for want of
// room; it only sees it take long. Syncs are not repeated: what a failed one leaves
// is unknown.
type patientFS struct {
	vfs.FS

	patience *disk.Patience
}

// Unwrap implements vfs.FS.
func (p patientFS) Unwrap() vfs.FS { return p.FS } //nolint:ireturn // as vfs.FS asks

func (p patientFS) file(open func() (vfs.File, error)) (f vfs.File, err error) { //nolint:ireturn // as vfs.FS asks
	err = p.patience.Do(func() (err error) { f, err = open(); return err })
	if err != nil {
		return nil, err
	}
	return patientFile{f, p.patience}, nil
}

// Create implements vfs.FS.
func (p patientFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) { //nolint:ireturn // as vfs.FS asks
	return p.file(func() (vfs.File, error) { return p.FS.Create(name, c) })
}

// OpenReadWrite implements vfs.FS.
func (p patientFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) { //nolint:ireturn // as vfs.FS asks
	return p.file(func() (vfs.File, error) { return p.FS.OpenReadWrite(name, c, opts...) })
}

// ReuseForWrite implements vfs.FS.
func (p patientFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) { //nolint:ireturn // as vfs.FS asks
	return p.file(func() (vfs.File, error) { return p.FS.ReuseForWrite(from, to, c) })
}

// Link implements vfs.FS.
func (p patientFS) Link(from, to string) error {
	return p.patience.Do(func() error { return p.FS.Link(from, to) })
}

// Rename implements vfs.FS.
func (p patientFS) Rename(from, to string) error {
	return p.patience.Do(func() error { return p.FS.Rename(from, to) })
}

type patientFile struct {
	vfs.File

	patience *disk.Patience
}

// Write implements vfs.File. A disk that runs full in the middle takes the rest
// later.
func (f patientFile) Write(b []byte) (n int, err error) {
	err = f.patience.Do(func() error {
		wrote, err := f.File.Write(b[n:])
		n += wrote
		return err
	})
	return n, err
}

// WriteAt implements vfs.File.
func (f patientFile) WriteAt(b []byte, at int64) (n int, err error) {
	err = f.patience.Do(func() error {
		wrote, err := f.File.WriteAt(b[n:], at+int64(n))
		n += wrote
		return err
	})
	return n, err
}
