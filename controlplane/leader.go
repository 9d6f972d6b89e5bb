package controlplane

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"maps"
	"math/big"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"parley/controlplane/state"
	"parley/internal/ids"
	"parley/internal/token"
	"parley/internal/topology"
	"parley/regions"
)

// leader is what only the leader does, while it leads: keys, publishing, opening
// workspaces in their cells.
type leader struct {
	n *Node

	mu        sync.Mutex
	seen      map[string]sighting // by region, since this node leads
	recalled  map[string]sighting // by region: what an earlier leader had published
	sightings uint64              // counts changes of the two
	moved     chan struct{}       // closed and renewed with sightings
	published map[string]uint64   // by region: the index its etcd reflects
}

// sighting is what lives in a region, as its etcd last told.
type sighting struct {
	edges    []regions.Edge
	gateways map[topology.CellID][]regions.Gateway
	loads    []regions.Load
	at       time.Time
}

func newLeader(n *Node) *leader {
	l := &leader{n: n, moved: make(chan struct{})}
	l.forget()
	return l
}

// forget drops what was seen while this node led: it is old when it leads again.
func (l *leader) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen, l.recalled, l.published = map[string]sighting{}, map[string]sighting{}, map[string]uint64{}
}

// forgetRegion drops what was seen of a region that is no longer published to.
func (l *leader) forgetRegion(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.seen, id)
	delete(l.published, id)
}

// follow runs the tasks while this node leads, until ctx ends.
func (l *leader) follow(ctx context.Context, elected <-chan bool) {
	stop := func() {}
	defer func() { stop() }()
	for {
		select {
		case <-ctx.Done():
			return
		case leads := <-elected:
			stop()
			stop = func() {}
			if leads {
				l.n.log.Info("leading")
				stop = l.start(ctx)
			}
		}
	}
}

// start begins the tasks, once the state holds what earlier leaders recorded; stop
// ends them and waits.
func (l *leader) start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	l.forget()
	var tasks sync.WaitGroup
	tasks.Go(func() {
		if !l.catchUp(ctx) {
			return
		}
		tasks.Go(func() { l.keepKeys(ctx) })
		tasks.Go(func() { l.keepPublishing(ctx) })
		tasks.Go(func() { l.keepOpening(ctx) })
	})
	return func() {
		cancel()
		tasks.Wait()
		l.forget()
	}
}

// catchUp waits until the state is that of the log's end; false if ctx ended first.
func (l *leader) catchUp(ctx context.Context) bool {
	for l.n.linearizable() != nil {
		if !pause(ctx, l.n.cfg.Election) {
			return false
		}
	}
	return ctx.Err() == nil
}

// Lives of signing keys. The next one is published a week before it signs, so
// that every edge has it by then, also after days without etcd. A key's tokens
// outlive it by their own life at most, and so does its public half.
const (
	keyLife    = 90 * 24 * time.Hour
	keyAhead   = 7 * 24 * time.Hour
	keysLook   = time.Hour
	retryPause = time.Second
)

// keepKeys initialises the cluster once and has the next signing key ready in time.
func (l *leader) keepKeys(ctx context.Context) {
	for {
		err := l.tendKeys()
		wait := keysLook
		if err != nil {
			l.n.log.Warn("signing keys not tended; trying again", "err", err)
			wait = retryPause
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (l *leader) tendKeys() error {
	if err := l.n.linearizable(); err != nil {
		return err
	}
	now := l.n.deps.Now()
	var initialised, next bool
	var old []string
	var last int64
	l.n.fsm.read(func(s *state.State) {
		initialised = s.Initialised()
		for kid, k := range s.Keys {
			last = max(last, k.NotAfter)
			if time.UnixMicro(k.NotAfter).Add(ttlMax).Before(now) {
				old = append(old, kid)
			}
		}
		next = initialised && time.UnixMicro(last).Add(-keyAhead-keysLook).Before(now) // a look early, so that no look is late
	})
	if !initialised {
		_, _, err := l.n.propose(state.Initialise, by{}, l.firstEntry(now))
		return err
	}
	if next {
		k, err := newSigningKey(time.UnixMicro(max(last, now.UnixMicro())))
		if err != nil {
			return err
		}
		if _, _, err := l.n.propose(state.AddKey, by{}, k); err != nil {
			return err
		}
	}
	for _, kid := range old {
		if _, _, err := l.n.propose(state.DropKey, by{}, state.RevokeBody{ID: kid}); err != nil {
			return err
		}
	}
	return nil
}

func (l *leader) firstEntry(now time.Time) state.InitBody {
	secret := l.n.cfg.BootstrapToken
	if secret == "" {
		secret = newSecret()
		l.n.log.Warn("no bootstrap token is configured, and this is the first start: no operator will ever get in; stop all nodes, empty their directories, and start with one")
	}
	k, err := newSigningKey(now)
	if err != nil {
		k = state.SigningKey{} // refused by the state: tried again
	}
	return state.InitBody{
		Token: state.OperatorToken{ID: ids.New(ids.Operator), Name: "bootstrap", Hash: state.HashSecret(secret)},
		Key:   k,
	}
}

func newSigningKey(from time.Time) (state.SigningKey, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := rand.Read(seed); err != nil {
		return state.SigningKey{}, err
	}
	return state.SigningKey{
		KID: ulid.Make().String(), Seed: seed, NotBefore: from.UnixMicro(), NotAfter: from.Add(keyLife).UnixMicro(),
	}, nil
}

// newSecret is an operator token's secret: 256 random bits in letters and digits.
func newSecret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // crypto/rand's Read never fails
	return "pot_" + new(big.Int).SetBytes(b).Text(62)
}

// signing is a state's key as package token has it.
func signing(k state.SigningKey) token.Key {
	private := ed25519.NewKeyFromSeed(k.Seed)
	public, _ := private.Public().(ed25519.PublicKey) // by its making
	return token.Key{
		KID: k.KID, Private: private, Public: public,
		NotBefore: time.UnixMicro(k.NotBefore), NotAfter: time.UnixMicro(k.NotAfter),
	}
}

// see notes what lives in a region. Where all edges of the region, or all gateways
// of a cell, are gone at once, those that were there last are kept: an etcd that was
// wiped, or a cell that is cut off from it, looks the same, and silence is not death.
func (l *leader) see(region string, s sighting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old, known := l.seen[region]
	if !known {
		old = l.recalled[region]
	}
	if len(s.edges) == 0 {
		s.edges = old.edges
	}
	for cell, gs := range old.gateways {
		if len(s.gateways[cell]) == 0 {
			s.gateways[cell] = gs
		}
	}
	l.seen[region] = s
	if known && slices.Equal(old.edges, s.edges) && maps.EqualFunc(old.gateways, s.gateways, slices.Equal) {
		return
	}
	l.stir()
}

// stir wakes who waits for what lives. The caller holds l.mu.
func (l *leader) stir() {
	l.sightings++
	close(l.moved)
	l.moved = make(chan struct{})
}

// recall takes what an etcd holds of an earlier leader's publication for what lives
// in regions that were not looked at yet: without it, a leader that can't reach one
// region's etcd would tell the other regions that nothing lives there.
func (l *leader) recall(cells []regions.Cell, edges []regions.Edge) {
	found := map[string]sighting{}
	of := func(region topology.RegionID) sighting {
		s, ok := found[string(region)]
		if !ok {
			s.gateways = map[topology.CellID][]regions.Gateway{}
		}
		return s
	}
	for _, c := range cells {
		if len(c.Gateways) > 0 {
			s := of(c.Region)
			s.gateways[c.ID] = c.Gateways
			found[string(c.Region)] = s
		}
	}
	for _, e := range edges {
		s := of(e.Region)
		s.edges = append(s.edges, e)
		found[string(e.Region)] = s
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh := false
	for region, s := range found {
		if _, ok := l.recalled[region]; !ok {
			l.recalled[region] = s
			fresh = true
		}
	}
	if fresh {
		l.stir()
	}
}

// union is the edges of all regions that are known, and each cell's gateways.
func (l *leader) union() (edges []regions.Edge, gateways map[topology.CellID][]regions.Gateway, n uint64, moved <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	gateways = map[topology.CellID][]regions.Gateway{}
	known := maps.Clone(l.recalled)
	maps.Copy(known, l.seen)
	for _, r := range slices.Sorted(maps.Keys(known)) {
		edges = append(edges, known[r].edges...)
		maps.Copy(gateways, known[r].gateways)
	}
	return edges, gateways, l.sightings, l.moved
}

// reportMax is how old a cell's report may be before the cell counts as silent.
const reportMax = 30 * time.Second

// loads are the cells' reports that are not old.
func (l *leader) loads() map[topology.CellID]regions.Load {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[topology.CellID]regions.Load{}
	for _, s := range l.seen {
		for _, load := range s.loads {
			if l.n.deps.Now().Sub(load.At) < reportMax {
				out[load.Cell] = load
			}
		}
	}
	return out
}

func (l *leader) setPublished(region string, index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.published[region] = index
}

func (l *leader) publishedIndexes() map[string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.published)
}
