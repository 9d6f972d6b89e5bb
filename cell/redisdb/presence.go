package redisdb

import (
	"context"
	"crypto/rand"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/cell/presence"
	"parley/internal/topology"
)

// presenceStore keeps one lease per gateway in a sorted set, by its end on the
// server's clock, and the users of a lease in one hash per place. The hashes are
// named after the lease: when it ends they count no more, wherever they are, and
// vanish later by themselves. All keys have one hash tag, for a write must see
// its lease; presence is small.
type presenceStore struct {
	d      *DB
	tag    string
	leases string // the key of the set

	mu   sync.Mutex
	mine map[topology.GatewayID]*gatewayLease
}

type gatewayLease struct {
	mu     sync.Mutex           // one Set of a gateway at a time
	id     string               // "" = none yet
	places map[string]time.Time // when the hash of a key was last kept from vanishing
}

var _ presence.Store = (*presenceStore)(nil)

// Times of the hashes. They outlive their lease, whose end is what counts.
const (
	placeTTL   = 15 * time.Minute
	placeRenew = 5 * time.Minute
)

func newPresence(d *DB) *presenceStore {
	tag := "{" + d.access.KeyPrefix + ":p}"
	return &presenceStore{d: d, tag: tag, leases: tag + "leases", mine: map[topology.GatewayID]*gatewayLease{}}
}

// setScript renews a lease and writes changes under it: 1, or 0 if it has ended.
// With ARGV[2] = 1 it begins the lease and ends the gateway's earlier ones, whose
// names end in ARGV[5]. Then come, for each key but the first: how many
// users, and for each its name and status ("0" takes it out).
//
//nolint:dupword // it is Lua
const setScript = `
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if ARGV[2] == '1' then
  for _, other in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    if string.sub(other, -#ARGV[5]) == ARGV[5] then redis.call('ZREM', KEYS[1], other) end
  end
elseif not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return 0
end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
local i = 6
for k = 2, #KEYS do
  local n = tonumber(ARGV[i])
  i = i + 1
  for _ = 1, n do
    if ARGV[i+1] == '0' then
      redis.call('HDEL', KEYS[k], ARGV[i])
    else
      redis.call('HSET', KEYS[k], ARGV[i], ARGV[i+1])
    end
    i = i + 2
  end
  redis.call('PEXPIRE', KEYS[k], ARGV[4])
end
return 1`

// gateway is the lease of a gateway of this process.
func (s *presenceStore) gateway(g topology.GatewayID) *gatewayLease {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.mine[g]
	if l == nil {
		l = &gatewayLease{}
		s.mine[g] = l
	}
	return l
}

// Set implements presence.Store.
func (s *presenceStore) Set(ctx context.Context, g topology.GatewayID, cs []presence.Change) (bool, error) {
	if err := hasEnded(ctx); err != nil {
		return false, err
	}
	l := s.gateway(g)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.id != "" {
		done, err := s.set(ctx, l, g, cs, false)
		if done || err != nil {
			return done, err
		}
	}
	// Another id than before: what was written under that one must not count.
	l.id, l.places = rand.Text(), map[string]time.Time{}
	_, err := s.set(ctx, l, g, cs, true)
	return false, err
}

func (s *presenceStore) set(ctx context.Context, l *gatewayLease, g topology.GatewayID, cs []presence.Change, begin bool) (bool, error) {
	byKey := map[string][]any{}
	for _, c := range cs {
		key := s.users(l.id, c.Place)
		byKey[key] = append(byKey[key], string(c.User), strconv.Itoa(int(c.Status)))
	}
	now := time.Now()
	for key, renewed := range l.places {
		if now.Sub(renewed) >= placeRenew && byKey[key] == nil {
			byKey[key] = []any{} // only to be kept
		}
	}
	flag := "0"
	if begin {
		flag = "1"
	}
	keys := []string{s.leases}
	args := []any{member(l.id, g), flag, presence.LeaseTTL.Milliseconds(), placeTTL.Milliseconds(), member("", g)}
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		keys = append(keys, key)
		args = append(append(args, len(byKey[key])/2), byKey[key]...)
	}
	done, err := redis.NewScript(setScript).Run(ctx, s.d.client, keys, args...).Bool()
	if err != nil {
		return false, wrote(err)
	}
	if done {
		for _, key := range keys[1:] {
			l.places[key] = now
		}
	}
	return done, nil
}

// member is a lease's name in the set. Its id has no colon.
func member(id string, g topology.GatewayID) string { return id + ":" + string(g) }

// users is the key of a lease's users of a place.
func (s *presenceStore) users(lease string, p topology.Place) string {
	return s.tag + lease + ":" + strconv.FormatUint(uint64(p.Generation), 10) + ":" + string(p.Workspace)
}

// Leave implements presence.Store.
func (s *presenceStore) Leave(ctx context.Context, g topology.GatewayID) error {
	if err := hasEnded(ctx); err != nil {
		return err
	}
	l := s.gateway(g)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.id == "" {
		return nil
	}
	if err := s.d.client.ZRem(ctx, s.leases, member(l.id, g)).Err(); err != nil {
		return wrote(err)
	}
	l.id = ""
	return nil
}

// live is the ids of the leases that have not ended.
func (s *presenceStore) live(ctx context.Context) ([]string, error) {
	p := s.d.client.Pipeline()
	// Both of one node: the clock that counts is the one of the leases.
	clock := p.EvalRO(ctx, "return redis.call('TIME')", []string{s.leases})
	all := p.ZRangeWithScores(ctx, s.leases, 0, -1)
	if _, err := p.Exec(ctx); err != nil {
		return nil, away(err)
	}
	at, err := clock.StringSlice()
	if err != nil || len(at) != 2 {
		return nil, away(err)
	}
	seconds, err := strconv.ParseInt(at[0], 10, 64)
	if err != nil {
		return nil, away(err)
	}
	micros, err := strconv.ParseInt(at[1], 10, 64)
	if err != nil {
		return nil, away(err)
	}
	now := float64(seconds*1000 + micros/1000)
	var out []string
	for _, z := range all.Val() {
		if name, ok := z.Member.(string); ok && z.Score > now {
			id, _, _ := strings.Cut(name, ":")
			out = append(out, id)
		}
	}
	return out, nil
}

// Read implements presence.Store.
func (s *presenceStore) Read(ctx context.Context, p topology.Place, us []topology.UserID) (map[topology.UserID]presence.Status, error) {
	out := make(map[topology.UserID]presence.Status, len(us))
	if err := hasEnded(ctx); err != nil {
		return nil, err
	}
	if len(us) == 0 {
		return out, nil
	}
	ids, err := s.live(ctx)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(us))
	for i, u := range us {
		names[i], out[u] = string(u), presence.Offline
	}
	pipe := s.d.client.Pipeline()
	answers := make([]*redis.SliceCmd, len(ids))
	for i, id := range ids {
		answers[i] = pipe.HMGet(ctx, s.users(id, p), names...)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, away(err)
	}
	for _, a := range answers {
		for i, v := range a.Val() {
			if text, ok := v.(string); ok {
				out[us[i]] = max(out[us[i]], statusOf(text))
			}
		}
	}
	return out, nil
}

// statusOf reads a status; what another version may have written counts as online.
func statusOf(text string) presence.Status {
	switch text {
	case "0":
		return presence.Offline
	case "1":
		return presence.Away
	default:
		return presence.Online
	}
}

// Present implements presence.Store. Of more than limit it looks at that many per
// lease.
func (s *presenceStore) Present(ctx context.Context, p topology.Place, limit int) (map[topology.UserID]presence.Status, error) {
	if err := hasEnded(ctx); err != nil {
		return nil, err
	}
	ids, err := s.live(ctx)
	if err != nil {
		return nil, err
	}
	found := map[topology.UserID]presence.Status{}
	for _, id := range ids {
		var cursor uint64
		for taken := 0; taken < limit; {
			kv, next, err := s.d.client.HScan(ctx, s.users(id, p), cursor, "", int64(limit)).Result()
			if err != nil {
				return nil, away(err)
			}
			for i := 0; i+1 < len(kv); i += 2 {
				u := topology.UserID(kv[i])
				if _, known := found[u]; known || len(found) < limit {
					found[u] = max(found[u], statusOf(kv[i+1]))
				}
			}
			if taken += len(kv) / 2; next == 0 {
				break
			}
			cursor = next
		}
	}
	return found, nil
}
