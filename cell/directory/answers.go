package directory

import (
	"sync"
	"time"

	"parley/internal/problem"
)

// answers keeps answers of one kind: young ones to be given again, older ones for
// the time when the engine is away. A write under way may end between a read and
// its being kept: drop therefore raises the version, and a read that began at an
// older one is not kept.
//
// It holds two halves. When the younger one is full it becomes the older, and what
// was the older is forgotten: what is asked for stays.
type answers[K comparable, V any] struct {
	ttl      time.Duration
	half     int
	now      func() time.Time
	mayServe func(keptFor time.Duration) bool
	// yes reports whether a value allows something: others are not given while the
	// engine is away, since that would keep a refusal up for longer than it may be.
	yes  func(V) bool
	size func(V) int
	// followed reports whether all changes of such an answer up to a TTL ago are known
	// here: then it is right, however old. nil = they are not followed.
	followed func(V) bool

	mu         sync.Mutex
	young, old map[K]answer[V]
	filled     int // the sizes in young
	version    uint64
}

type answer[V any] struct {
	value V
	until time.Time
}

func newAnswers[K comparable, V any](cfg CacheConfig, d *Directory, yes func(V) bool) *answers[K, V] {
	return &answers[K, V]{
		ttl: cfg.TTL, half: max(cfg.EntriesMax/2, 1), now: d.now, mayServe: d.watch.mayServe, yes: yes,
		size:  func(V) int { return 1 },
		young: map[K]answer[V]{}, old: map[K]answer[V]{},
	}
}

// get answers from memory or asks.
func (a *answers[K, V]) get(k K, ask func() (V, error)) (V, error) {
	if got, ok := a.look(k); ok && (a.now().Before(got.until) || a.followed != nil && a.followed(got.value)) {
		return got.value, nil
	}
	return a.fresh(k, 0, ask)
}

// fresh asks. Only while the engine can't be reached it gives what was known then,
// to somebody who will go by it for keptFor.
func (a *answers[K, V]) fresh(k K, keptFor time.Duration, ask func() (V, error)) (V, error) {
	began, version := a.now(), a.begin()
	v, err := ask()
	switch {
	case err == nil:
		a.keep(k, answer[V]{v, began.Add(a.ttl)}, version)
	case problem.Is(err, problem.NotFound):
		a.drop(k)
	default:
		if known, ok := a.without(k, keptFor, err); ok {
			return known, nil
		}
	}
	return v, err
}

// begin is for who asks and may keep the answer.
func (a *answers[K, V]) begin() (version uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.version
}

// without is what was known when the engine was last heard of, if err says that it
// can't be reached now.
func (a *answers[K, V]) without(k K, keptFor time.Duration, err error) (v V, ok bool) {
	if !isUnreachable(err) || !a.mayServe(keptFor) {
		return v, false
	}
	got, ok := a.look(k)
	return got.value, ok && a.yes(got.value)
}

func (a *answers[K, V]) look(k K) (answer[V], bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	got, ok := a.young[k]
	if !ok {
		if got, ok = a.old[k]; ok {
			a.put(k, got)
		}
	}
	return got, ok
}

func (a *answers[K, V]) has(k K) bool {
	_, ok := a.look(k)
	return ok
}

func (a *answers[K, V]) keep(k K, v answer[V], version uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.version == version {
		a.put(k, v)
	}
}

// put keeps an answer. The caller holds mu.
func (a *answers[K, V]) put(k K, v answer[V]) {
	a.forget(k)
	size := a.size(v.value)
	if a.filled+size > a.half {
		a.young, a.old, a.filled = map[K]answer[V]{}, a.young, 0
	}
	a.young[k] = v
	a.filled += size
}

// forget is drop for who holds mu.
func (a *answers[K, V]) forget(k K) bool {
	got, young := a.young[k]
	if young {
		a.filled -= a.size(got.value)
	}
	_, old := a.old[k]
	delete(a.young, k)
	delete(a.old, k)
	return young || old
}

// drop forgets an answer, and reports whether there was one.
func (a *answers[K, V]) drop(k K) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version++
	return a.forget(k)
}

func (a *answers[K, V]) dropAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.young, a.old, a.filled = map[K]answer[V]{}, map[K]answer[V]{}, 0
	a.version++
}

func (a *answers[K, V]) kept() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.young) + len(a.old)
}
