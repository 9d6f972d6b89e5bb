package directory

import (
	"context"
	"slices"
	"time"

	"parley/internal/problem"
	"parley/internal/topology"
)

// CacheConfig is a Cache's.
type CacheConfig struct {
	// TTL is how old an answer may be: 0 to 2 s, the bound on how long a person
	// taken out of a channel may still read. Default 2 s; less costs queries.
	TTL time.Duration
	// EntriesMax bounds each kind of answer. Default 50,000, some 10 MB; lists of
	// channels have ten times as many rows in all, some 40 MB.
	EntriesMax int
}

const (
	ttlMax        = 2 * time.Second
	entriesNormal = 50_000
	// rowsOfEntry is how many rows of lists are kept for each entry.
	rowsOfEntry = 10
	// aheadMax lists, and as many rows, wait to be asked for, and are in a watchEvery.
	aheadMax = 1024
)

// Cache is a Directory whose most asked questions are answered from memory for a
// short time. What this process writes itself shows at once.
//
// While the engine is away (Config.StaleMax bounds it) it answers what it was asked
// before. That leaks nothing: a change of who may read what has to go through the
// engine, so none is made while that is away; and what was changed before that, by
// any process, is dropped from here within a second (see watch), which is sooner
// than an answer may be old at any time. Two things can't be known: what another
// process changed in the last second before, and what others change while it is
// this process alone that can't reach the engine. StaleMax bounds both.
//
//	S1 An answer from memory that is older than TTL is given only when the engine
//	   could not be reached, never when it answered; or when all changes of its kind up
//	   to a TTL ago are known, which goes for memberships, workspaces and people.
//	S2 It is given for at most StaleMax from when the engine was last heard of, also
//	   by those who keep it for a time.
//	S3 Only what allows something is: a refusal is asked for again.
//	S4 What others changed before the outage is not.
type Cache struct {
	*Directory

	workspaces *answers[topology.WorkspaceID, Workspace]
	users      *answers[userKey, User]
	channels   *answers[channelKey, Channel]
	members    *answers[memberKey, member]
	// These are always asked for; they are kept for an outage.
	lists  *answers[userKey, []Membership]
	urevs  *answers[userKey, topology.URev]
	names  *answers[nameKey, topology.UserID]
	counts *answers[channelKey, int]
	// What is to be known when the engine goes away, and was not asked for: lists that
	// were known until somebody changed them, and rows of channels that are in lists.
	relist chan userKey
	unseen chan channelKey
}

type (
	userKey struct {
		topology.Place
		user topology.UserID
	}
	nameKey struct {
		topology.Place
		name string
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

func always[V any](V) bool { return true }

// NewCache puts a cache before a directory.
func NewCache(d *Directory, cfg CacheConfig) *Cache {
	if cfg.TTL <= 0 || cfg.TTL > ttlMax {
		cfg.TTL = ttlMax
	}
	if cfg.EntriesMax <= 0 {
		cfg.EntriesMax = entriesNormal
	}
	rows := cfg
	rows.EntriesMax *= rowsOfEntry
	c := &Cache{
		Directory:  d,
		workspaces: newAnswers[topology.WorkspaceID](cfg, d, Workspace.Open),
		users:      newAnswers[userKey](cfg, d, always[User]),
		channels:   newAnswers[channelKey](cfg, d, func(c Channel) bool { return !c.Importing }),
		members:    newAnswers[memberKey](cfg, d, func(member) bool { return false }), // see known
		lists:      newAnswers[userKey](rows, d, always[[]Membership]),
		urevs:      newAnswers[userKey](cfg, d, always[topology.URev]),
		names:      newAnswers[nameKey](cfg, d, always[topology.UserID]),
		counts:     newAnswers[channelKey](cfg, d, always[int]),
	}
	c.workspaces.followed = func(Workspace) bool { return d.watch.heardWithin(cfg.TTL) }
	// A person's row is written once: there are no changes of it.
	c.users.followed = func(User) bool { return d.watch.heardWithin(cfg.TTL) }
	c.members.followed = func(m member) bool { // where somebody joined is not told again when it is known
		return m.JoinedSeq != pending && d.watch.heardWithin(cfg.TTL)
	}
	c.lists.size = func(ms []Membership) int { return 1 + len(ms) }
	c.relist, c.unseen = make(chan userKey, aheadMax), make(chan channelKey, aheadMax)
	d.watch.listen(c)
	d.watch.beside(c.askingAhead)
	return c
}

// askingAhead asks what an outage would leave unknown: somebody joins a channel and asks
// for nothing since; somebody connects and then is the first here to open a channel.
func (c *Cache) askingAhead(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.askAhead(ctx)
		}
	}
}

// askAhead asks for what has come so far; what comes meanwhile has the next turn. It
// gives up when the engine is away.
func (c *Cache) askAhead(ctx context.Context) {
	for range len(c.relist) {
		k := <-c.relist
		if c.lists.has(k) {
			continue
		}
		if _, err := c.ChannelsOf(ctx, k.Place, k.user); isUnreachable(err) {
			return
		}
	}
	for range len(c.unseen) {
		k := <-c.unseen
		if c.channels.has(k) {
			continue
		}
		if _, err := c.Channel(ctx, k.Place, k.channel); isUnreachable(err) {
			return
		}
	}
}

// soon has something asked ahead, or, if much is, not before it is needed.
func soon[K any](queue chan K, k K) {
	select {
	case queue <- k:
	default:
	}
}

// Fresh is the cache for those who must not have an old answer while there is a
// new one: it asks the engine each time.
func (c *Cache) Fresh() *Fresh { return &Fresh{Cache: c} }

// Workspace is the workspace's row.
func (c *Cache) Workspace(ctx context.Context, ws topology.WorkspaceID) (Workspace, error) {
	return c.workspaces.get(ws, func() (Workspace, error) { return c.Directory.Workspace(ctx, ws) })
}

// PutWorkspace stores a workspace's row.
func (c *Cache) PutWorkspace(ctx context.Context, w Workspace) error {
	err := c.Directory.PutWorkspace(ctx, w)
	if mayBeDone(err) {
		c.workspaces.drop(w.ID)
	}
	return err
}

// mayBeDone reports whether a write may have changed something: the failed ones
// too, but not those that were refused since the engine is away. Who tries in vain
// to join must not be forgotten as a member.
func mayBeDone(err error) bool { return !isUnreachable(err) || problem.Is(err, problem.Unknown) }

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
	err := c.Directory.FinishImport(ctx, p, ch)
	if mayBeDone(err) {
		c.channels.drop(channelKey{p, ch})
	}
	return err
}

// Member is a user's membership.
func (c *Cache) Member(ctx context.Context, p topology.Place, ch topology.ChannelID, u topology.UserID) (Membership, bool, error) {
	k := memberKey{p, ch, u}
	return c.known(k, 0)(c.members.get(k, c.askMember(ctx, k)))
}

func (c *Cache) askMember(ctx context.Context, k memberKey) func() (member, error) {
	return func() (member, error) {
		m, ok, err := c.Directory.Member(ctx, k.Place, k.channel, k.user)
		return member{m, ok}, err
	}
}

// known answers while the engine is away by what was heard last of a membership:
// itself, or the user's list.
func (c *Cache) known(k memberKey, keptFor time.Duration) func(m member, err error) (Membership, bool, error) {
	return func(m member, err error) (Membership, bool, error) {
		if err == nil || !isUnreachable(err) || !c.watch.mayServe(keptFor) {
			return m.Membership, m.ok, err
		}
		last, _ := c.members.look(k)
		list, listed := c.lists.look(userKey{k.Place, k.user})
		if listed && !list.until.Before(last.until) {
			i := slices.IndexFunc(list.value, func(m Membership) bool { return m.Channel == k.channel })
			if last.value.ok = i >= 0; i >= 0 {
				last.value.Membership = list.value[i]
			}
		}
		if !last.value.ok {
			return Membership{}, false, err
		}
		return last.value.Membership, true, nil
	}
}

// MemberCount is how many members a channel has.
func (c *Cache) MemberCount(ctx context.Context, p topology.Place, ch topology.ChannelID) (int, error) {
	return c.counts.fresh(channelKey{p, ch}, 0, func() (int, error) { return c.Directory.MemberCount(ctx, p, ch) })
}

// ChannelsOf are all of a user's memberships, by channel. The caller does not
// change them.
func (c *Cache) ChannelsOf(ctx context.Context, p topology.Place, u topology.UserID) ([]Membership, error) {
	k := userKey{p, u}
	ms, err := c.lists.fresh(k, 0, func() ([]Membership, error) { return c.Directory.ChannelsOf(ctx, p, u) })
	if err != nil || c.watch == nil {
		return ms, err
	}
	if !c.lists.has(k) { // something changed meanwhile
		soon(c.relist, k)
	}
	for _, m := range ms {
		if ch := (channelKey{p, m.Channel}); !c.channels.has(ch) {
			soon(c.unseen, ch)
		}
	}
	return ms, nil
}

// URevs are the urevs of users; who is not known is left out. While the engine is
// away all have to have been asked for before.
func (c *Cache) URevs(ctx context.Context, p topology.Place, us []topology.UserID) (map[topology.UserID]topology.URev, error) {
	version := c.urevs.begin()
	out, err := c.Directory.URevs(ctx, p, us)
	if err == nil {
		for u, r := range out {
			c.urevs.keep(userKey{p, u}, answer[topology.URev]{value: r}, version)
		}
		return out, nil
	}
	known := make(map[topology.UserID]topology.URev, len(us))
	for _, u := range us {
		r, ok := c.urevs.without(userKey{p, u}, 0, err)
		if !ok {
			return nil, err
		}
		known[u] = r
	}
	return known, nil
}

// UserChanges are the changes of a user's list of channels after a urev, rising.
// Who has had all of them can be told so while the engine is away.
func (c *Cache) UserChanges(ctx context.Context, p topology.Place, u topology.UserID, after topology.URev, limit int) ([]UserChange, error) {
	changes, err := c.Directory.UserChanges(ctx, p, u, after, limit)
	if err == nil {
		return changes, nil
	}
	if at, ok := c.urevs.without(userKey{p, u}, 0, err); ok && after >= at {
		return nil, nil
	}
	return nil, err
}

// UsersByName finds people by name or by id; who is not found is left out. A name is
// its user's for good, so only those are asked for that are not known. While the engine
// is away they are left out: a post goes on without a mention rather than not at all.
func (c *Cache) UsersByName(ctx context.Context, p topology.Place, names []string) (map[string]topology.UserID, error) {
	found := make(map[string]topology.UserID, len(names))
	var unknown []string
	for _, name := range names {
		if known, ok := c.names.look(nameKey{p, name}); ok && c.watch.mayServe(0) {
			found[name] = known.value
		} else {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) == 0 {
		return found, nil
	}
	asked, err := c.Directory.UsersByName(ctx, p, unknown)
	if err != nil && (!isUnreachable(err) || !c.watch.mayServe(0)) {
		return nil, err
	}
	for name, u := range asked {
		c.names.keep(nameKey{p, name}, answer[topology.UserID]{value: u}, 0)
		found[name] = u
	}
	return found, nil
}

// CreateChannel makes a channel.
func (c *Cache) CreateChannel(ctx context.Context, p topology.Place, ch Channel, members []topology.UserID) (Channel, Entry, error) {
	row, e, err := c.Directory.CreateChannel(ctx, p, ch, members)
	c.dropMembers(p, ch.ID, members, err)
	return row, e, err
}

// AddMembers makes users members.
func (c *Cache) AddMembers(ctx context.Context, p topology.Place, ch topology.ChannelID, us []topology.UserID, by topology.UserID, now time.Time) (Entry, error) {
	e, err := c.Directory.AddMembers(ctx, p, ch, us, by, now)
	c.dropMembers(p, ch, us, err)
	return e, err
}

// RemoveMember takes a user out.
func (c *Cache) RemoveMember(ctx context.Context, p topology.Place, ch topology.ChannelID, u, by topology.UserID, now time.Time) (Entry, error) {
	e, err := c.Directory.RemoveMember(ctx, p, ch, u, by, now)
	c.dropMembers(p, ch, []topology.UserID{u}, err)
	return e, err
}

// OutboxDone takes an entry out of the outbox.
func (c *Cache) OutboxDone(ctx context.Context, e Entry, rev topology.Rev, seq topology.Seq) error {
	err := c.Directory.OutboxDone(ctx, e, rev, seq)
	c.dropMembers(e.Place, e.Channel, e.Subjects, err) // where they joined
	return err
}

// dropMembers follows every write.
func (c *Cache) dropMembers(p topology.Place, ch topology.ChannelID, us []topology.UserID, err error) {
	if !mayBeDone(err) {
		return
	}
	for _, u := range us {
		c.dropMember(memberKey{p, ch, u})
	}
}

func (c *Cache) dropMember(k memberKey) {
	c.members.drop(k)
	if u := (userKey{k.Place, k.user}); c.lists.drop(u) {
		soon(c.relist, u)
	}
	c.urevs.drop(userKey{k.Place, k.user})
	c.counts.drop(channelKey{k.Place, k.channel})
}

// changed drops what this or another process changed (S4).
func (c *Cache) changed(what changes) {
	for _, ws := range what.workspaces {
		c.workspaces.drop(ws)
	}
	for _, k := range what.members {
		c.dropMember(k)
	}
}

// changedAny drops all that can change.
func (c *Cache) changedAny() {
	c.workspaces.dropAll()
	c.channels.dropAll()
	c.members.dropAll()
	c.lists.dropAll()
	c.urevs.dropAll()
	c.counts.dropAll()
}

// Fresh is a Cache that asks the engine each time, and has an old answer only while
// that is away.
type Fresh struct {
	*Cache

	keptFor time.Duration // how long whoever asks goes by the answer
}

// Workspace is the workspace's row.
func (f *Fresh) Workspace(ctx context.Context, ws topology.WorkspaceID) (Workspace, error) {
	return f.workspaces.fresh(ws, f.keptFor, func() (Workspace, error) { return f.Directory.Workspace(ctx, ws) })
}

// User is one person.
func (f *Fresh) User(ctx context.Context, p topology.Place, u topology.UserID) (User, error) {
	return f.users.fresh(userKey{p, u}, f.keptFor, func() (User, error) { return f.Directory.User(ctx, p, u) })
}

// Channel is a channel's row.
func (f *Fresh) Channel(ctx context.Context, p topology.Place, ch topology.ChannelID) (Channel, error) {
	return f.channels.fresh(channelKey{p, ch}, f.keptFor, func() (Channel, error) { return f.Directory.Channel(ctx, p, ch) })
}

// Member is a user's membership.
func (f *Fresh) Member(ctx context.Context, p topology.Place, ch topology.ChannelID, u topology.UserID) (Membership, bool, error) {
	k := memberKey{p, ch, u}
	return f.known(k, f.keptFor)(f.members.fresh(k, f.keptFor, f.askMember(ctx, k)))
}

// keepList sees to it that the user's list of channels is known. It is for an outage:
// without one a failure tells nothing.
func (f *Fresh) keepList(ctx context.Context, p topology.Place, u topology.UserID) {
	if _, known := f.lists.look(userKey{p, u}); f.watch == nil || known {
		return
	}
	_, _ = f.ChannelsOf(ctx, p, u)
}
