package regions

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"parley/internal/failpoint"
	"parley/internal/problem"
	"parley/internal/topology"
)

// Registration is one leased entry that this process keeps alive.
type Registration struct {
	key  string // without the prefix
	done chan struct{}
	wake chan struct{} // one slot: the value changed

	mu    sync.Mutex
	value []byte
	inc   topology.Incarnation
}

// Done is closed when the registration has ended: its ctx ended, or the
// Registry's Run, and the entry was revoked if etcd could be reached.
func (g *Registration) Done() <-chan struct{} { return g.done }

func (g *Registration) set(v any, inc topology.Incarnation) error {
	b, err := json.Marshal(v)
	if err != nil {
		return problem.Wrap(err, problem.Internal, "the entry %s cannot be encoded", g.key)
	}
	g.mu.Lock()
	g.value, g.inc = b, inc
	g.mu.Unlock()
	select {
	case g.wake <- struct{}{}:
	default: // a wake is pending; its reader will see the new value
	}
	return nil
}

func (g *Registration) get() ([]byte, topology.Incarnation) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.value, g.inc
}

// RegisterGateway keeps a gateway's entry alive, in the background, until ctx
// ends; then it is revoked. It works through any absence of etcd. Its Update
// changes the entry.
func (r *Registry) RegisterGateway(ctx context.Context, g Gateway) (*Registration, error) {
	if err := checkIDs("gateway", string(g.ID), "cell", string(g.Cell)); err != nil {
		return nil, err
	}
	return r.register(ctx, gatewayKey(g), g, g.Incarnation)
}

// RegisterServer does so for a channel server.
func (r *Registry) RegisterServer(ctx context.Context, s Server) (*Registration, error) {
	if err := checkIDs("server", string(s.ID), "cell", string(s.Cell)); err != nil {
		return nil, err
	}
	return r.register(ctx, serverKey(s), s, s.Incarnation)
}

// RegisterEdge does so for an edge of this region.
func (r *Registry) RegisterEdge(ctx context.Context, e Edge) (*Registration, error) {
	if err := checkIDs("edge", string(e.ID), "url", e.URL); err != nil {
		return nil, err
	}
	if e.Region != r.cfg.Region {
		return nil, problem.Field("region", "is %q; an edge registers in its own region's etcd, here %q", e.Region, r.cfg.Region)
	}
	return r.register(ctx, underLiveEdges+string(e.ID), e, 0)
}

// UpdateGateway changes a registered gateway's entry, to say that it drains.
func (g *Registration) UpdateGateway(v Gateway) error {
	if gatewayKey(v) != g.key {
		return problem.Field("gateway", "is %s of %s; this registration is for %s", v.ID, v.Cell, g.key)
	}
	return g.set(v, v.Incarnation)
}

// ReportLoad takes the latest report of a cell, or of one of its processes, and
// writes it in the background; a report not yet written is replaced. The entry
// lives until Run ends.
func (r *Registry) ReportLoad(l Load) error {
	if err := checkIDs("cell", string(l.Cell)); err != nil {
		return err
	}
	if strings.Contains(l.Process, "/") {
		return problem.Field("process", "is %q; it must be a name without a slash", l.Process)
	}
	l.Top = l.Top[:min(len(l.Top), maxTop)]
	key := loadKey(l)
	r.mu.Lock()
	g := r.loads[key]
	r.mu.Unlock()
	if g != nil {
		return g.set(l, 0)
	}
	g, err := r.register(r.life, key, l, 0)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.loads[key] = g
	r.mu.Unlock()
	return nil
}

// checkIDs checks pairs of a field and the id in it.
func checkIDs(pairs ...string) error {
	for pair := range slices.Chunk(pairs, 2) {
		field, v := pair[0], pair[1]
		if v == "" || (field != "url" && strings.Contains(v, "/")) {
			return problem.Field(field, "is %q; it must be a name without a slash", v)
		}
	}
	return nil
}

func (r *Registry) register(ctx context.Context, key string, v any, inc topology.Incarnation) (*Registration, error) {
	g := &Registration{key: key, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	if err := g.set(v, inc); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closing:
		return nil, problem.New(problem.Unavailable, "the registry of region %s is closed", r.cfg.Region)
	case r.leases == maxRegistrations:
		return nil, problem.New(problem.Exhausted, "a registry keeps at most %d registrations", maxRegistrations)
	}
	r.leases++
	r.holders.Go(func() {
		defer close(g.done)
		r.hold(ctx, g)
		r.mu.Lock()
		r.leases--
		r.mu.Unlock()
	})
	return g, nil
}

// hold keeps g registered until ctx or Run ends.
func (r *Registry) hold(ctx context.Context, g *Registration) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.life, cancel)()
	select {
	case <-r.opened:
	case <-ctx.Done():
		return
	}
	wait := backoffMin
	for {
		lease, err := r.holdOnce(ctx, g, &wait)
		if ctx.Err() != nil {
			r.leave(ctx, g, lease)
			return
		}
		r.log.Warn("registration lost; registering again", "entry", g.key, "err", err)
		if !pause(ctx, &wait) {
			return
		}
	}
}

// holdOnce registers g under a new lease and keeps it until that is lost.
func (r *Registry) holdOnce(ctx context.Context, g *Registration, wait *time.Duration) (clientv3.LeaseID, error) {
	lease, err := r.grant(ctx)
	if err != nil {
		return 0, err
	}
	// A context of its own, so that the client forgets the lease with this call.
	own, cancel := context.WithCancel(ctx)
	defer cancel()
	alive, err := r.client.KeepAlive(own, lease)
	if err != nil {
		return lease, err
	}
	for {
		if err := r.putLeased(ctx, g, lease); err != nil {
			if ctx.Err() == nil {
				r.revoke(ctx, g, lease)
			}
			return lease, err
		}
		*wait = backoffMin
		if err := keepUntilWoken(ctx, g, alive); err != nil {
			return lease, err
		}
	}
}

// keepUntilWoken returns nil when the value changed, and an error when the lease
// was lost or ctx ended.
func keepUntilWoken(ctx context.Context, g *Registration, alive <-chan *clientv3.LeaseKeepAliveResponse) error {
	for {
		select {
		case _, ok := <-alive:
			if !ok {
				return errors.New("the lease has expired")
			}
		case <-g.wake:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *Registry) grant(ctx context.Context) (clientv3.LeaseID, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := r.client.Grant(ctx, int64(r.cfg.LeaseTTL/time.Second))
	if err != nil {
		return 0, err
	}
	return resp.ID, nil
}

// putLeased writes g's entry, unless a later run of the same process is there:
// a process that was thought dead must not push its successor out.
func (r *Registry) putLeased(ctx context.Context, g *Registration, lease clientv3.LeaseID) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	key := prefix + g.key
	value, inc := g.get()
	old, err := r.client.Get(ctx, key)
	if err != nil {
		return err
	}
	seen := int64(0)
	if len(old.Kvs) > 0 {
		seen = old.Kvs[0].ModRevision
		if later := incarnationOf(old.Kvs[0].Value); later > inc {
			return problem.New(problem.Conflict, "a later run (incarnation %d) of %s is registered; this one is %d", later, g.key, inc)
		}
	}
	resp, err := r.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", seen)).
		Then(clientv3.OpPut(key, string(value), clientv3.WithLease(lease))).Commit()
	if err != nil {
		return err
	}
	if !resp.Succeeded {
		return problem.New(problem.Conflict, "the entry %s was written by another process at the same time", g.key)
	}
	return nil
}

func incarnationOf(b []byte) topology.Incarnation {
	var v struct {
		Incarnation topology.Incarnation `json:"incarnation"`
	}
	if json.Unmarshal(b, &v) != nil {
		return 0 // unreadable: overwrite it
	}
	return v.Incarnation
}

// leaveMax bounds the calls at the end of a registration.
const leaveMax = time.Second

// leave ends a registration in order: others see at once that the holder left,
// and did not just fall silent.
func (r *Registry) leave(ctx context.Context, g *Registration, lease clientv3.LeaseID) {
	if lease == 0 || failpoint.Crashed(ctx) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveMax)
	defer cancel()
	key := prefix + g.key
	// Only while the entry is this holder's: a later run may have taken it over.
	_, err := r.client.Txn(ctx).If(clientv3.Compare(clientv3.LeaseValue(key), "=", lease)).
		Then(clientv3.OpPut(key, farewell, clientv3.WithLease(lease))).Commit()
	if err != nil {
		r.log.Debug("leaving without a farewell", "entry", g.key, "err", err)
		return // the lease will expire
	}
	r.revoke(ctx, g, lease)
}

// revoke gives a lease back.
func (r *Registry) revoke(ctx context.Context, g *Registration, lease clientv3.LeaseID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveMax)
	defer cancel()
	if _, err := r.client.Revoke(ctx, lease); err != nil {
		r.log.Debug("lease not revoked; it will expire", "entry", g.key, "err", err)
	}
}
