package regions

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/cespare/xxhash/v2"

	"parley/internal/topology"
)

// The disk copy is a magic line, a length-prefixed JSON header with the small
// entries, one record a route, an end tag and a hash of all of it. It is replaced
// as a whole by a rename, so that there is always the last good one.
const (
	copyName  = "registry.copy"
	copyMagic = "parley registry copy 1\n"
	// maxCopy and maxHeader bound what is read back.
	maxCopy   = 1 << 30
	maxHeader = 64 << 20
	// saveShare keeps the time spent on saving below a hundredth.
	saveShare = 100

	tagPacked = 0x00 // 16 bytes of id follow
	tagOdd    = 0x01 // length and text of the id follow
	tagEnd    = 0xff
)

// header is the small entries as they are on disk: of keys the public half only.
type header struct {
	Region   topology.RegionID `json:"region"`
	SavedAt  time.Time         `json:"saved_at"`
	Index    uint64            `json:"index"`
	Gateways []Gateway         `json:"gateways"`
	Servers  []Server          `json:"servers"`
	Live     []Edge            `json:"live_edges"`
	Edges    []Edge            `json:"edges"`
	Keys     []publicKey       `json:"keys"`
	Cells    []Cell            `json:"cells"`
	Loads    []Load            `json:"loads"`
}

func headerOf(region topology.RegionID, c Contents) header {
	h := header{
		Region: region, SavedAt: time.Now().UTC(), Index: c.Index, Gateways: c.Gateways, Servers: c.Servers,
		Live: c.Live, Edges: c.Edges, Cells: c.Cells, Loads: c.Loads,
	}
	for _, k := range c.Keys {
		h.Keys = append(h.Keys, publicOf(k))
	}
	return h
}

func (h header) contents() (Contents, error) {
	c := Contents{
		Index: h.Index, Gateways: h.Gateways, Servers: h.Servers, Live: h.Live, Edges: h.Edges, Cells: h.Cells, Loads: h.Loads,
	}
	for _, k := range h.Keys {
		key, err := k.key()
		if err != nil {
			return Contents{}, err
		}
		c.Keys = append(c.Keys, key)
	}
	return c, nil
}

func (r *Registry) copyPath() string { return filepath.Join(r.cfg.Dir, copyName) }

// loadDisk fills the table from the disk copy. A missing one is normal; a
// damaged one is as good as missing, but is told of.
func (r *Registry) loadDisk() {
	if r.cfg.Dir == "" {
		return
	}
	began := time.Now()
	saved, err := readCopy(r.copyPath(), r.Table)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		r.log.Error("the disk copy of the registry is unusable; starting without it", "path", r.copyPath(), "err", err)
	default:
		r.whole.Store(true)
		r.log.Info("read the disk copy of the registry", "routes", r.Len(), "saved_at", saved, "dur", time.Since(began))
	}
}

// saveLoop writes the disk copy some time after each change, and at the end;
// saved is the count of changes that the copy on disk has.
func (r *Registry) saveLoop(ctx context.Context, saved uint64) {
	every := r.cfg.SaveEvery
	for {
		changed := r.Changed()
		if ctx.Err() == nil && r.durableChanges() == saved {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
			}
		}
		settle(ctx, every)
		version := r.durableChanges()
		if version != saved && r.whole.Load() {
			began := time.Now()
			if err := writeCopy(r.copyPath(), headerOf(r.cfg.Region, r.Contents()), r.routes); err != nil {
				r.log.Error("the disk copy of the registry was not written; the one before stays", "path", r.copyPath(), "err", err)
			} else {
				saved = version
			}
			every = max(r.cfg.SaveEvery, saveShare*time.Since(began))
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// settle waits d, or until ctx ends.
func settle(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// writeCopy replaces the copy at path.
func writeCopy(path string, h header, rs *routes) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), copyName+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	if err := encodeCopy(f, h, rs); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return errors.Join(f.Close(), syncDir(filepath.Dir(path)))
}

// syncDir makes a rename in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func encodeCopy(f io.Writer, h header, rs *routes) error {
	hash := xxhash.New()
	w := bufio.NewWriterSize(io.MultiWriter(f, hash), 1<<18)
	head, err := json.Marshal(h)
	if err != nil {
		return err
	}
	_, _ = w.WriteString(copyMagic) // bufio keeps the first error for Flush
	b := binary.AppendUvarint(nil, uint64(len(head)))
	_, _ = w.Write(append(b, head...))
	cells := map[topology.CellID]uint64{}
	for rt := range rs.all() {
		b = appendRoute(b[:0], rs.digits, cells, rt)
		_, _ = w.Write(b)
	}
	_ = w.WriteByte(tagEnd)
	if err := w.Flush(); err != nil {
		return err
	}
	_, err = f.Write(binary.BigEndian.AppendUint64(nil, hash.Sum64()))
	return err
}

// appendRoute adds one record: id, epoch and the number of its cell, followed by
// the cell's name at its first use.
func appendRoute(b []byte, d *digits, cells map[topology.CellID]uint64, rt topology.Route) []byte {
	if p, ok := d.pack(rt.Workspace); ok {
		b = p.append(append(b, tagPacked))
	} else {
		b = appendText(append(b, tagOdd), string(rt.Workspace))
	}
	b = binary.AppendUvarint(b, uint64(rt.Epoch))
	n, known := cells[rt.Cell]
	if known {
		return binary.AppendUvarint(b, n)
	}
	n = uint64(len(cells))
	cells[rt.Cell] = n
	return appendText(binary.AppendUvarint(b, n), string(rt.Cell))
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// readCopy fills t from the copy at path, or leaves it as it is: the hash is
// checked before anything is taken.
func readCopy(path string, t *Table) (saved time.Time, err error) {
	f, err := os.Open(path)
	if err != nil {
		return saved, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := checkCopy(f)
	if err != nil {
		return saved, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return saved, err
	}
	in := bufio.NewReaderSize(io.LimitReader(f, size), 1<<18)
	return decodeCopy(in, t)
}

// checkCopy verifies magic, size and hash, and returns the size without the hash.
func checkCopy(f *os.File) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	size := st.Size() - 8
	if size < int64(len(copyMagic)) || size > maxCopy {
		return 0, fmt.Errorf("its size of %d bytes is impossible", st.Size())
	}
	magic := make([]byte, len(copyMagic))
	if _, err := io.ReadFull(f, magic); err != nil {
		return 0, err
	}
	if !bytes.Equal(magic, []byte(copyMagic)) {
		return 0, errors.New("it is not a registry copy of this version")
	}
	hash := xxhash.New()
	_, _ = hash.Write(magic)
	if _, err := io.CopyN(hash, f, size-int64(len(copyMagic))); err != nil {
		return 0, err
	}
	var sum [8]byte
	if _, err := io.ReadFull(f, sum[:]); err != nil {
		return 0, err
	}
	if binary.BigEndian.Uint64(sum[:]) != hash.Sum64() {
		return 0, errors.New("its checksum is wrong")
	}
	return size, nil
}

func decodeCopy(in *bufio.Reader, t *Table) (time.Time, error) {
	var h header
	if _, err := in.Discard(len(copyMagic)); err != nil {
		return h.SavedAt, err
	}
	n, err := binary.ReadUvarint(in)
	if err != nil || n > maxHeader {
		return h.SavedAt, fmt.Errorf("a header of %d bytes: %w", n, err)
	}
	head := make([]byte, n)
	if _, err := io.ReadFull(in, head); err != nil {
		return h.SavedAt, err
	}
	if err := json.Unmarshal(head, &h); err != nil {
		return h.SavedAt, err
	}
	if h.Region != t.region {
		return h.SavedAt, fmt.Errorf("it is of region %q, this is %q", h.Region, t.region)
	}
	c, err := h.contents()
	if err != nil {
		return h.SavedAt, err
	}
	d := copyDecoder{in: in}
	for {
		rt, more, err := d.route()
		if err != nil {
			return h.SavedAt, fmt.Errorf("after %d routes: %w", t.Len(), err)
		}
		if !more {
			break
		}
		t.routes.published(rt, 0)
	}
	t.Fill(c)
	return h.SavedAt, nil
}

// copyDecoder reads the records of routes.
type copyDecoder struct {
	in    *bufio.Reader
	cells []topology.CellID
}

func (d *copyDecoder) route() (rt topology.Route, more bool, err error) {
	tag, err := d.in.ReadByte()
	if err != nil || tag == tagEnd {
		return rt, false, err
	}
	switch tag {
	case tagPacked:
		var b [packedBytes]byte
		if _, err := io.ReadFull(d.in, b[:]); err != nil {
			return rt, false, err
		}
		rt.Workspace = unpacked(b).id()
	case tagOdd:
		s, err := d.text()
		if err != nil {
			return rt, false, err
		}
		rt.Workspace = topology.WorkspaceID(s)
	default:
		return rt, false, fmt.Errorf("unknown tag %#x", tag)
	}
	epoch, err := binary.ReadUvarint(d.in)
	if err != nil {
		return rt, false, err
	}
	rt.Epoch = topology.Epoch(epoch)
	rt.Cell, err = d.cell()
	return rt, err == nil, err
}

func (d *copyDecoder) cell() (topology.CellID, error) {
	n, err := binary.ReadUvarint(d.in)
	if err != nil {
		return "", err
	}
	if n < uint64(len(d.cells)) {
		return d.cells[n], nil
	}
	if n > uint64(len(d.cells)) {
		return "", fmt.Errorf("cell %d of %d", n, len(d.cells))
	}
	s, err := d.text()
	d.cells = append(d.cells, topology.CellID(s))
	return topology.CellID(s), err
}

// maxText bounds one id in the copy.
const maxText = 1 << 12

func (d *copyDecoder) text() (string, error) {
	n, err := binary.ReadUvarint(d.in)
	if err != nil {
		return "", err
	}
	if n > maxText {
		return "", fmt.Errorf("an id of %d bytes", n)
	}
	b := make([]byte, n)
	_, err = io.ReadFull(d.in, b)
	return string(b), err
}
