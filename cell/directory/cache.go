package directory

import (
	"context"
	"sync"
	"time"

	"parley/internal/problem"
	"parley/internal/topology"
)

// CacheConfig is a Cache's.
type CacheConfig struct {
	// TTL is how old an answer may be: 0 to 2 s, the bound on how long a person
	// taken out of a channel may still read. Default 2 s; less costs queries.
	TTL time.Duration
	// EntriesMax bounds each kind of answer. Default 50,000, some 10 MB.
	EntriesMax int
}

const (
	ttlMax        = 2 * time.Second
	entriesNormal = 50_000
)

// Cache is a Directory whose most asked questions are answered from memory for a
// short time. What this process writes itself shows at once.
type Cache struct {
	*Directory

	workspaces *answers[topology.WorkspaceID, Workspace]
	users      *answers[userKey, User]
	channels   *answers[channelKey, Channel]
	members    *answers[memberKey, member]
}

type (
	userKey struct {
		topology.Place
		user topology.UserID
	}
	channelKey struct {
		topology.Place
		channel topology.ChannelID
	}
	memberKey struct {
		topology.Place
		channel topology.ChannelID
		user    topology.UserID
	}
	member struct {
		Membership
		ok bool
	}
)

// NewCache puts a cache before a directory.
func NewCache(d *Directory, cfg CacheConfig) *Cache {
	if cfg.TTL <= 0 || cfg.TTL > ttlMax {
		cfg.TTL = ttlMax
	}
	if cfg.EntriesMax <= 0 {
		cfg.EntriesMax = entriesNormal
	}
	return &Cache{
		Directory:  d,
		workspaces: newAnswers[topology.WorkspaceID, Workspace](cfg, d.now),
		users:      newAnswers[userKey, User](cfg, d.now),
		channels:   newAnswers[channelKey, Channel](cfg, d.now),
		members:    newAnswers[memberKey, member](cfg, d.now),
	}
}

// Workspace is the workspace's row.
func (c *Cache) Workspace(ctx context.Context, ws topology.WorkspaceID) (Workspace, error) {
	return c.workspaces.get(ws, func() (Workspace, error) { return c.Directory.Workspace(ctx, ws) })
}

// PutWorkspace stores a workspace's row.
func (c *Cache) PutWorkspace(ctx context.Context, w Workspace) error {
	defer c.workspaces.drop(w.ID)
	return c.Directory.PutWorkspace(ctx, w)
}

// User is one person.
func (c *Cache) User(ctx context.Context, p topology.Place, u topology.UserID) (User, error) {
	return c.users.get(userKey{p, u}, func() (User, error) { return c.Directory.User(ctx, p, u) })
}

// Channel is a channel's row.
func (c *Cache) Channel(ctx context.Context, p topology.Place, ch topology.ChannelID) (Channel, error) {
	return c.channels.get(channelKey{p, ch}, func() (Channel, error) { return c.Directory.Channel(ctx, p, ch) })
}

// FinishImport shows an imported channel.
func (c *Cache) FinishImport(ctx context.Context, p topology.Place, ch topology.ChannelID) error {
	defer c.channels.drop(channelKey{p, ch})
	return c.Directory.FinishImport(ctx, p, ch)
}

// Member is a user's membership.
func (c *Cache) Member(ctx context.Context, p topology.Place, ch topology.ChannelID, u topology.UserID) (Membership, bool, error) {
	m, err := c.members.get(memberKey{p, ch, u}, func() (member, error) {
		m, ok, err := c.Directory.Member(ctx, p, ch, u)
		return member{m, ok}, err
	})
	return m.Membership, m.ok, err
}

// CreateChannel makes a channel.
func (c *Cache) CreateChannel(ctx context.Context, p topology.Place, ch Channel, members []topology.UserID) (Channel, Entry, error) {
	defer c.dropMembers(p, ch.ID, members)
	return c.Directory.CreateChannel(ctx, p, ch, members)
}

// AddMembers makes users members.
func (c *Cache) AddMembers(ctx context.Context, p topology.Place, ch topology.ChannelID, us []topology.UserID, by topology.UserID, now time.Time) (Entry, error) {
	defer c.dropMembers(p, ch, us)
	return c.Directory.AddMembers(ctx, p, ch, us, by, now)
}

// RemoveMember takes a user out.
func (c *Cache) RemoveMember(ctx context.Context, p topology.Place, ch topology.ChannelID, u, by topology.UserID, now time.Time) (Entry, error) {
	defer c.dropMembers(p, ch, []topology.UserID{u})
	return c.Directory.RemoveMember(ctx, p, ch, u, by, now)
}

// OutboxDone takes an entry out of the outbox.
func (c *Cache) OutboxDone(ctx context.Context, e Entry, rev topology.Rev, seq topology.Seq) error {
	defer c.dropMembers(e.Place, e.Channel, e.Subjects) // where they joined
	return c.Directory.OutboxDone(ctx, e, rev, seq)
}

// dropMembers follows every write, the failed ones too: such a write may have
// been made.
func (c *Cache) dropMembers(p topology.Place, ch topology.ChannelID, us []topology.UserID) {
	for _, u := range us {
		c.members.drop(memberKey{p, ch, u})
	}
}

// answers keeps answers of one kind. A write under way may end between a read and
// its being kept: drop therefore raises the version, and a read that began at an
// older one is not kept.
type answers[K comparable, V any] struct {
	ttl time.Duration
	max int
	now func() time.Time

	mu      sync.Mutex
	kept    map[K]answer[V]
	version uint64
}

type answer[V any] struct {
	value V
	until time.Time
}

func newAnswers[K comparable, V any](cfg CacheConfig, now func() time.Time) *answers[K, V] {
	return &answers[K, V]{ttl: cfg.TTL, max: cfg.EntriesMax, now: now, kept: make(map[K]answer[V])}
}

// get answers from memory or asks; errors other than none are not kept.
func (a *answers[K, V]) get(k K, ask func() (V, error)) (V, error) {
	began := a.now()
	a.mu.Lock()
	got, ok := a.kept[k]
	version := a.version
	a.mu.Unlock()
	if ok && began.Before(got.until) {
		return got.value, nil
	}
	v, err := ask()
	if err != nil {
		if problem.Is(err, problem.NotFound) {
			a.drop(k)
		}
		return v, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.version != version {
		return v, nil
	}
	if len(a.kept) >= a.max {
		a.shrink(began)
	}
	a.kept[k] = answer[V]{v, began.Add(a.ttl)}
	return v, nil
}

func (a *answers[K, V]) drop(k K) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.kept, k)
	a.version++
}

// shrink forgets what is too old, and everything if that makes too little room:
// it goes over all answers, so it must not be needed again soon.
func (a *answers[K, V]) shrink(now time.Time) {
	for k, v := range a.kept {
		if !now.Before(v.until) {
			delete(a.kept, k)
		}
	}
	if len(a.kept) > a.max/2 {
		clear(a.kept)
	}
}
