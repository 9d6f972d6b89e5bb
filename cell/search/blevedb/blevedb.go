// Package blevedb is the embedded search.Index: Bleve's scorch engine, one index
// per workspace, generation and year. All of scorch stays in here.
//
// A document's year is that of its message's time, which never changes: so every
// version of it meets the former ones in the same index.
package blevedb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	index "github.com/blevesearch/bleve_index_api"

	"parley/cell/search"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Config is the index's settings.
type Config struct {
	// Dir is where the indexes are; it is made if it is not there.
	Dir string `yaml:"dir"`
	// OpenMax is how many indexes are open at once: 1 to 1,000, default 32. Each costs
	// some goroutines, a merger among them, and files; too few are opened and closed
	// all the time.
	OpenMax int          `yaml:"open_max"`
	Log     *slog.Logger `yaml:"-"` // nil = none
}

const (
	openNormal = 32
	openMost   = 1_000
	// analysers is how many documents are prepared at once, over all indexes.
	analysers = 2
)

// Validate lists every fault at once.
func (c Config) Validate() error {
	var faults []error
	if c.Dir == "" {
		faults = append(faults, problem.Field("dir", "must name a directory for the search indexes"))
	}
	if c.OpenMax < 0 || c.OpenMax > openMost {
		faults = append(faults, problem.Field("open_max", "must be 1 to %d, not %d", openMost, c.OpenMax))
	}
	return errors.Join(faults...)
}

// DB is all indexes of a cell.
type DB struct {
	cfg   Config
	queue *index.AnalysisQueue

	// mu guards what follows, and is held while an index is opened or closed, so that
	// none is open twice. Locks are taken in the order mu, part.writes.
	mu     sync.Mutex
	parts  map[key]*part
	uses   uint64 // counts, for part.used
	closed bool
}

var _ search.Index = (*DB)(nil)

// key names an index.
type key struct {
	place topology.Place
	year  int
}

// Open opens the directory. Indexes are opened when they are needed.
func Open(cfg Config) (*DB, error) {
	if cfg.OpenMax == 0 {
		cfg.OpenMax = openNormal
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, problem.Wrap(err, problem.Internal, "the directory %s can't be made", cfg.Dir)
	}
	return &DB{cfg: cfg, queue: index.NewAnalysisQueue(analysers), parts: map[key]*part{}}, nil
}

// Close waits for what is under way and closes all indexes. It is called once.
func (d *DB) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	var err error
	for k, p := range d.parts {
		p.idle.Wait()
		err = errors.Join(err, p.close())
		delete(d.parts, k)
	}
	d.queue.Close()
	return err
}

func yearOf(us int64) int { return time.UnixMicro(us).UTC().Year() }

func (d *DB) placeDir(p topology.Place) (string, error) {
	ws := url.PathEscape(string(p.Workspace))
	if !filepath.IsLocal(ws) || ws == "." {
		return "", problem.Field("workspace", "%q can't name a directory", p.Workspace)
	}
	return filepath.Join(d.cfg.Dir, ws, strconv.FormatUint(uint64(p.Generation), 10)), nil
}

// use gives an index that stays open until done is called. One that is not there
// is made, or, without make, is nil.
func (d *DB) use(k key, create bool) (p *part, done func(), err error) {
	dir, err := d.placeDir(k.place)
	if err != nil {
		return nil, nil, err
	}
	dir = filepath.Join(dir, strconv.Itoa(k.year))
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, nil, problem.New(problem.Unavailable, "the search index is closed")
	}
	if p = d.parts[k]; p != nil && p.broken.Load() {
		if p.users > 0 {
			return nil, nil, problem.New(problem.Unavailable, "the search index failed, and is opened anew when all have left it")
		}
		d.drop(k, p)
		p = nil
	}
	if p == nil {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && !create {
			return nil, func() {}, nil
		}
		d.makeRoom()
		if p, err = openPart(dir, d.queue); err != nil {
			return nil, nil, problem.Wrap(err, problem.Unavailable,
				"the search index %s can't be opened; if it is damaged, remove it and run `parley cell search rebuild`", dir)
		}
		d.parts[k] = p
	}
	d.uses++
	p.used = d.uses
	p.users++
	p.idle.Add(1)
	return p, func() { d.release(p) }, nil
}

func (d *DB) release(p *part) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p.users--
	p.idle.Done()
}

// makeRoom closes the index that was not used for longest, if there are too many
// and one is idle. mu is held.
func (d *DB) makeRoom() {
	for len(d.parts) >= d.cfg.OpenMax {
		var oldest key
		var found *part
		for k, p := range d.parts {
			if p.users == 0 && (found == nil || p.used < found.used) {
				oldest, found = k, p
			}
		}
		if found == nil {
			return // all are at work: their users are bounded elsewhere
		}
		d.drop(oldest, found)
	}
}

// with does something with an index, as use gives it.
//
// Scorch panics when it reads a segment that it could not write, as on a full disk.
// Such an index is closed, and opened anew.
func (d *DB) with(k key, create bool, do func(p *part) error) (err error) {
	p, done, err := d.use(k, create)
	if err != nil || p == nil {
		return err
	}
	defer done()
	defer func() {
		if failed := recover(); failed != nil {
			p.broken.Store(true)
			err = problem.Wrap(fmt.Errorf("%v", failed), problem.Unavailable, "the search index failed; it is opened anew")
		}
	}()
	return do(p)
}

// drop closes an idle index. mu is held.
func (d *DB) drop(k key, p *part) {
	delete(d.parts, k)
	if err := p.close(); err != nil {
		d.cfg.Log.Warn("a search index was not closed cleanly", "workspace", k.place.Workspace, "err", err)
	}
}

// years are those that a place has indexes of, newest first.
func (d *DB) years(p topology.Place) ([]int, error) {
	dir, err := d.placeDir(p)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, problem.Wrap(err, problem.Unavailable, "the search index %s can't be read", dir)
	}
	var years []int
	for _, e := range entries {
		if y, err := strconv.Atoi(e.Name()); err == nil && e.IsDir() {
			years = append(years, y)
		}
	}
	slices.Sort(years)
	slices.Reverse(years)
	return years, nil
}

// Put implements search.Index. It refuses nothing.
func (d *DB) Put(ctx context.Context, docs []search.Doc) error {
	var order []key
	byPart := map[key][]*search.Doc{}
	for i := range docs {
		k := key{docs[i].Channel.Place, yearOf(docs[i].TS)}
		if byPart[k] == nil {
			order = append(order, k)
		}
		byPart[k] = append(byPart[k], &docs[i])
	}
	now := time.Now()
	for _, k := range order {
		if err := ctx.Err(); err != nil {
			return problem.Wrap(err, problem.Unavailable, "the index was not written in the time there was")
		}
		err := d.with(k, true, func(p *part) error {
			if err := p.put(byPart[k], now); err != nil {
				return problem.Wrap(err, problem.Unavailable, "the search index can't be written")
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Sweep implements search.Index.
func (d *DB) Sweep(ctx context.Context, place topology.Place, before time.Time, limit int) (n int, err error) {
	years, err := d.years(place)
	if err != nil {
		return 0, err
	}
	for _, year := range years {
		if err := ctx.Err(); err != nil {
			return n, problem.Wrap(err, problem.Unavailable, "the index was not swept in the time there was")
		}
		swept, err := d.sweepPart(ctx, key{place, year}, before, limit-n)
		if n += swept; err != nil || n >= limit {
			return n, err
		}
	}
	return n, nil
}

func (d *DB) sweepPart(ctx context.Context, k key, before time.Time, limit int) (int, error) {
	var n int
	var empty bool
	err := d.with(k, false, func(p *part) (err error) {
		if n, empty, err = p.sweep(ctx, before, limit); err != nil {
			err = problem.Wrap(err, problem.Unavailable, "the search index can't be swept")
		}
		return err
	})
	if err != nil {
		return n, err
	}
	if empty {
		d.remove(k)
	}
	return n, nil
}

// remove takes an empty index off the disk, unless somebody uses it.
func (d *DB) remove(k key) {
	dir, err := d.placeDir(k.place)
	if err != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.parts[k]
	if p == nil || p.users > 0 || !p.empty() {
		return
	}
	d.drop(k, p)
	if err := os.RemoveAll(filepath.Join(dir, strconv.Itoa(k.year))); err != nil {
		d.cfg.Log.Warn("an empty search index was not removed", "workspace", k.place.Workspace, "err", err)
	}
	_ = os.Remove(dir) // as far as nothing is in it
}
