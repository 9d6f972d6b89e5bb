package redisdb

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/internal/problem"
)

// slotCount is Redis Cluster's number of hash slots.
const slotCount = 16384

// layout says which node has which slot; without a cluster one has all.
type layout struct {
	nodes []string // addresses, sorted
	slots []string // by slot; nil = nodes[0] has all; "" = nobody has it
}

// node is the address of the node that has a slot.
func (l *layout) node(slot int) string {
	if l.slots == nil {
		return l.nodes[0]
	}
	return l.slots[slot]
}

// slotOf is the slot of names with a hash tag: CRC-16/XMODEM of the tag.
func slotOf(tag string) int {
	var crc uint16
	for i := range len(tag) {
		crc ^= uint16(tag[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc % slotCount)
}

// bucketed gives names a few hash tags instead of one each. In a cluster commands
// must name one slot: with few tags they can name many keys or topics, so
// subscribing again, or marking in batches, takes hundreds of commands and not
// hundreds of thousands.
type bucketed struct {
	tags  []string // with their braces
	slots []int
}

func newBuckets(prefix string, n int) bucketed {
	b := bucketed{tags: make([]string, n), slots: make([]int, n)}
	for i := range n {
		tag := prefix + strconv.Itoa(i)
		b.tags[i], b.slots[i] = "{"+tag+"}", slotOf(tag)
	}
	return b
}

// of is the bucket of a name, by its FNV-1a.
func (b bucketed) of(name string) int { return b.ofHash(hashOf(name)) }

func (b bucketed) ofHash(h uint32) int { return int(h % uint32(len(b.tags))) } //nolint:gosec // a few hundred

func hashOf[T string | []byte](name T) uint32 {
	h := uint32(2166136261)
	for i := range len(name) {
		h = (h ^ uint32(name[i])) * 16777619
	}
	return h
}

// findLayout asks the servers where things are.
func (a access) findLayout(ctx context.Context, mode string, known *layout) (*layout, error) {
	addrs := slices.Clone(a.Addrs)
	if known != nil && mode == modeCluster {
		addrs = append(slices.Clone(known.nodes), addrs...)
	}
	var faults []error
	for _, addr := range addrs {
		l, err := a.askLayout(ctx, mode, addr)
		if err == nil {
			return l, nil
		}
		faults = append(faults, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(faults...)
}

func (a access) askLayout(ctx context.Context, mode, addr string) (*layout, error) {
	switch mode {
	case modeSentinel:
		o := a.options(addr)
		o.Username, o.Password = "", a.sentinel
		s := redis.NewSentinelClient(o)
		defer s.Close() //nolint:errcheck // a connection for one question
		at, err := s.GetMasterAddrByName(ctx, a.MasterName).Result()
		if err != nil {
			return nil, problem.Wrap(err, problem.Unavailable, "sentinel %s knows no primary %q", addr, a.MasterName)
		}
		return &layout{nodes: []string{net.JoinHostPort(at[0], at[1])}}, nil
	case modeCluster:
		c := redis.NewClient(a.options(addr))
		defer c.Close()                             //nolint:errcheck // a connection for one question
		ranges, err := c.ClusterSlots(ctx).Result() //nolint:staticcheck // CLUSTER SHARDS names no primaries by slot in one place
		if err != nil {
			return nil, problem.Wrap(err, problem.Unavailable, "%s does not tell the cluster's slots", addr)
		}
		return layoutOf(addr, ranges), nil
	default:
		return &layout{nodes: []string{addr}}, nil
	}
}

// layoutOf takes a node's answer; a node that does not know its own name is meant
// by an empty host.
func layoutOf(asked string, ranges []redis.ClusterSlot) *layout {
	l := &layout{slots: make([]string, slotCount)}
	for _, r := range ranges {
		if len(r.Nodes) == 0 || r.Start < 0 || r.End >= slotCount {
			continue
		}
		addr := r.Nodes[0].Addr
		if strings.HasPrefix(addr, ":") {
			host, _, _ := net.SplitHostPort(asked)
			addr = net.JoinHostPort(host, addr[1:])
		}
		for s := r.Start; s <= r.End; s++ {
			l.slots[s] = addr
		}
		if !slices.Contains(l.nodes, addr) {
			l.nodes = append(l.nodes, addr)
		}
	}
	slices.Sort(l.nodes)
	return l
}

func (l *layout) equal(o *layout) bool {
	return slices.Equal(l.nodes, o.nodes) && slices.Equal(l.slots, o.slots)
}

// layoutEvery is how often the layout is looked at without a reason; a failure is
// a reason to look at once.
const layoutEvery = 5 * time.Second

// watchLayout keeps d.layout fresh until ctx ends.
func (d *DB) watchLayout(ctx context.Context) {
	t := time.NewTicker(layoutEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-d.doubted:
		}
		if d.mode == modeSingle {
			continue
		}
		ask, cancel := context.WithTimeout(ctx, answerMax)
		l, err := d.access.findLayout(ask, d.mode, d.layout.Load())
		cancel()
		switch {
		case err != nil:
			if ctx.Err() == nil {
				d.log.Warn("Redis does not say where things are; trying again", "err", err)
			}
		case len(l.nodes) > 0 && !l.equal(d.layout.Load()):
			d.log.Info("Redis has changed its layout", "nodes", l.nodes)
			d.layout.Store(l)
			d.bus.relayout(l)
		}
		if !pause(ctx, doubtPause) {
			return
		}
	}
}

// doubtPause bounds how often doubts lead to questions.
const doubtPause = 200 * time.Millisecond

// doubt has the layout looked at soon.
func (d *DB) doubt() {
	select {
	case d.doubted <- struct{}{}:
	default: // it will be
	}
}
