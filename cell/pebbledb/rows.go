package pebbledb

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"parley/internal/problem"
)

// get reads one row; nil without one.
func (d *DB) get(key []byte) ([]byte, error) {
	v, closer, err := d.pebble.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, d.read(err)
	}
	out := slices.Clone(v)
	if out == nil {
		out = []byte{}
	}
	return out, d.read(closer.Close())
}

// scan calls do with the rows from lower up to upper (nil = the end), rising, as
// of one moment, until do returns false. What do gets is good until it returns.
func (d *DB) scan(lower, upper []byte, do func(k, v []byte) (bool, error)) error {
	return d.walk(lower, upper, (*pebble.Iterator).First, (*pebble.Iterator).Next, do)
}

// scanBack is scan, falling.
func (d *DB) scanBack(lower, upper []byte, do func(k, v []byte) (bool, error)) error {
	return d.walk(lower, upper, (*pebble.Iterator).Last, (*pebble.Iterator).Prev, do)
}

func (d *DB) walk(lower, upper []byte, first, next func(*pebble.Iterator) bool, do func(k, v []byte) (bool, error)) (err error) {
	it, err := d.pebble.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return d.read(err)
	}
	defer func() { err = errors.Join(err, d.read(it.Close())) }()
	for ok := first(it); ok; ok = next(it) {
		v, err := it.ValueAndErr()
		if err != nil {
			return d.read(err)
		}
		more, err := do(it.Key(), v)
		if err != nil || !more {
			return err
		}
	}
	return d.read(it.Error())
}

// fields reads the fields of a row's value. After a fault every field is zero.
type fields struct {
	rest []byte
	bad  bool
}

func (f *fields) uvarint() uint64 {
	v, n := binary.Uvarint(f.rest)
	if n <= 0 {
		f.bad = true
	}
	if f.bad {
		return 0
	}
	f.rest = f.rest[n:]
	return v
}

func (f *fields) varint() int64 {
	v, n := binary.Varint(f.rest)
	if n <= 0 {
		f.bad = true
	}
	if f.bad {
		return 0
	}
	f.rest = f.rest[n:]
	return v
}

func (f *fields) take(n int) []byte {
	if len(f.rest) < n {
		f.bad = true
	}
	if f.bad {
		return nil
	}
	v := f.rest[:n]
	f.rest = f.rest[n:]
	return v
}

func (f *fields) byte() byte {
	if b := f.take(1); b != nil {
		return b[0]
	}
	return 0
}

// err tells of a row that was not written by this program, or by another version.
func (f *fields) err(what string) error {
	if f.bad {
		return problem.New(problem.Internal, "a %s row in the database can't be decoded", what)
	}
	return nil
}
