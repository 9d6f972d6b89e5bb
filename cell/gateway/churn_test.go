package gateway_test

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"parley/internal/topology"
)

// People come into a private channel and go while others post, and the router
// loses some of everything: each gets exactly what was said from each joining to
// the leaving after it.
func TestGateway_G2_MembershipIsExactUnderLoad(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	c := newCell(t)
	us := c.people(4)
	ref := c.channel("C1", true, us[0])
	c.channel("C2", false, us...)
	dropping := rand.New(rand.NewPCG(seed, 1))
	c.bus.losing(func(topic string, _ []byte) bool {
		return (topic == "channel:C1" || strings.HasPrefix(topic, "user:")) && dropping.IntN(10) == 0
	})
	edges := []*edge{c.edge(c.gateway("gw0"), 1), c.edge(c.gateway("gw1"), 1)}
	type interval struct {
		from, to topology.Rev
		waits    bool // the session was in before the user left
	}
	in := make([][]interval, len(us))
	all := make([]*client, len(us))
	for i, u := range us {
		all[i] = edges[i%2].open(u, nil)
		all[i].live("C2")
	}
	done := make(chan struct{})
	var posting, moving sync.WaitGroup
	posting.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
				c.say(ref, us[0], strconv.Itoa(i))
			}
		}
	})
	for i := 1; i < len(us); i++ {
		moving.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)+2))
			for n := range 6 {
				from := c.join(ref, us[0], us[i])
				waits := r.IntN(2) == 0 || n == 5
				if waits {
					all[i].reach("C1", from)
				}
				to := c.leave(ref, us[i])
				if waits {
					all[i].see("is out", func() bool { return all[i].in["C1"] == nil && slices.Contains(all[i].revs["C1"], to) })
				}
				in[i] = append(in[i], interval{from, to, waits})
			}
		})
	}
	moving.Wait()
	close(done)
	posting.Wait()
	head := c.head(ref)
	all[0].reach("C1", head)
	all[0].exactly("C1", 2, head)
	for i := 1; i < len(us); i++ {
		s := all[i]
		s.e.mu.Lock()
		got := slices.Clone(s.revs["C1"])
		s.e.mu.Unlock()
		if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
			t.Errorf("%s: out of order or double: %v", us[i], got)
		}
		for _, iv := range in[i] { // who came and went unseen may have nothing, but never a part
			from, _ := slices.BinarySearch(got, iv.from)
			to, _ := slices.BinarySearch(got, iv.to+1)
			if n := topology.Rev(to - from); n != iv.to-iv.from+1 && (n > 0 || iv.waits) {
				t.Errorf("%s got %v of %+v", us[i], got[from:to], iv)
			}
			got = slices.Delete(got, from, to)
		}
		if len(got) > 0 {
			t.Errorf("%s got %v, from times when it was not in", us[i], got)
		}
		if s.refused != nil {
			t.Errorf("%s was refused: %+v", us[i], *s.refused)
		}
	}
}
