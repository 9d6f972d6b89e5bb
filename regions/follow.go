package regions

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"parley/internal/problem"
)

const (
	backoffMin = 50 * time.Millisecond
	backoffMax = 2 * time.Second
)

// errReload ends a watch that cannot go on: everything must be read again.
var errReload = errors.New("the registry must be read again")

// point is the moment of etcd that a load saw. A later answer from before it
// means that etcd has lost data.
type point struct {
	cluster  uint64
	revision int64
	term     uint64
}

// follow loads and watches until ctx ends; loaded is closed after the first
// load. Each return of the watch, whatever the cause, means to load again: that
// is always right, and rare.
func (r *Registry) follow(ctx context.Context, loaded chan<- struct{}) {
	first, wait := true, backoffMin
	for ctx.Err() == nil {
		at, err := r.load(ctx)
		if err == nil {
			if first {
				first = false
				close(loaded)
			}
			wait = backoffMin
			err = r.watch(ctx, at)
		}
		if ctx.Err() != nil {
			return
		}
		r.setConnected(false)
		r.log.Debug("reading the region's etcd again", "err", err)
		if !pause(ctx, &wait) {
			return
		}
	}
}

// pause waits, with jitter, and doubles the next wait up to backoffMax. It
// reports whether ctx still lives.
func pause(ctx context.Context, wait *time.Duration) bool {
	t := time.NewTimer(*wait/2 + rand.N(*wait))
	defer t.Stop()
	*wait = min(*wait*2, backoffMax)
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// rangeEnd is the end of the range of keys that this registry reads.
func (r *Registry) rangeEnd() string {
	if r.cfg.WithoutRoutes {
		return prefix + underRoutes
	}
	return clientv3.GetPrefixRangeEnd(prefix)
}

// load reads everything page by page at one revision, and sweeps what is gone.
func (r *Registry) load(ctx context.Context) (point, error) {
	began := time.Now()
	r.begin()
	var at point
	from, keys := prefix, 0
	for {
		resp, err := r.page(ctx, from, at.revision)
		if err != nil {
			return at, err
		}
		if at.revision == 0 {
			at = point{cluster: resp.Header.ClusterId, revision: resp.Header.Revision, term: resp.Header.RaftTerm}
		}
		us := make([]update, len(resp.Kvs))
		for i, kv := range resp.Kvs {
			us[i] = update{key: strings.TrimPrefix(string(kv.Key), prefix), value: kv.Value}
		}
		r.take(us)
		r.pages.Add(1)
		keys += len(us)
		if !resp.More || len(us) == 0 {
			break
		}
		from = string(resp.Kvs[len(us)-1].Key) + "\x00"
	}
	swept := r.sweepPublished(!r.cfg.WithoutRoutes)
	r.whole.Store(true)
	r.setConnected(true)
	r.log.Info("loaded the region's registry", "rev", at.revision, "keys", keys, "swept", swept, "dur", time.Since(began))
	return at, nil
}

func (r *Registry) page(ctx context.Context, from string, rev int64) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := r.client.Get(ctx, from, clientv3.WithRange(r.rangeEnd()), clientv3.WithLimit(int64(r.cfg.PageSize)), clientv3.WithRev(rev))
	if err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "region %s's etcd cannot be read", r.cfg.Region)
	}
	return resp, nil
}

func (r *Registry) take(us []update) {
	for _, key := range r.apply(us) {
		r.log.Error("unreadable entry in the region's etcd; keeping what was known of it", "key", key)
	}
}

// watch applies what happens after at until it cannot go on, and notices when
// etcd is away or has lost data.
func (r *Registry) watch(ctx context.Context, at point) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lost := make(chan struct{})
	go func() { // ends with cancel, and is waited for below
		defer close(lost)
		r.probe(ctx, at)
	}()
	defer func() { cancel(); <-lost }()

	grace := time.NewTimer(2 * r.cfg.LeaseTTL)
	defer grace.Stop()
	events := r.client.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithRange(r.rangeEnd()), clientv3.WithRev(at.revision+1))
	for {
		select {
		case resp, ok := <-events:
			if !ok {
				return errReload
			}
			if err := resp.Err(); err != nil {
				return err
			}
			r.takeEvents(resp.Events)
		case <-grace.C:
			// Only while etcd is there: its lack of an entry must mean something.
			if r.Connected() {
				r.sweepLive()
			} else {
				grace.Reset(2 * r.cfg.LeaseTTL)
			}
		case <-lost:
			return errReload
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *Registry) takeEvents(events []*clientv3.Event) {
	us := make([]update, len(events))
	for i, e := range events {
		us[i] = update{
			key: strings.TrimPrefix(string(e.Kv.Key), prefix), value: e.Kv.Value,
			deleted: e.Type == clientv3.EventTypeDelete,
		}
	}
	r.take(us)
}

// probe asks etcd every probeEvery whether it is there, and keeps Connected. It
// returns when ctx ends, or when etcd turns out to be another one than at: wiped
// or restored from a backup, so that the watch would wait for revisions that
// were already given out.
func (r *Registry) probe(ctx context.Context, at point) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, err := r.look(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.setConnected(false)
			continue
		}
		if now.cluster != at.cluster || now.revision < at.revision || now.term < at.term {
			r.log.Warn("region's etcd has lost data; reading it again", "rev", now.revision, "before", at.revision)
			return
		}
		at = now
		r.setConnected(true)
	}
}

// look is a linearizable read of one key: only a majority can answer it.
func (r *Registry) look(ctx context.Context) (point, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	resp, err := r.client.Get(ctx, prefix+keyMeta, clientv3.WithCountOnly())
	if err != nil {
		return point{}, err
	}
	return point{cluster: resp.Header.ClusterId, revision: resp.Header.Revision, term: resp.Header.RaftTerm}, nil
}
