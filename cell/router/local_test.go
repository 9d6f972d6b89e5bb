package router_test

import (
	"strconv"
	"testing"

	"go.uber.org/goleak"

	"parley/cell/router"
	"parley/cell/router/routertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type local struct {
	*router.Local
	queueMax int
}

func (l local) Bus() router.Bus { return l.Local }
func (l local) QueueMax() int   { return l.queueMax }
func (l local) Close() error    { return nil }

func TestLocal(t *testing.T) {
	routertest.Run(t, func(queueMax int) (routertest.Instance, error) {
		return local{router.NewLocal(router.LocalConfig{QueueMax: queueMax}), queueMax}, nil
	})
}

// sink takes everything and keeps nothing.
type sink struct{}

func (sink) Deliver([]router.Message) {}
func (sink) Lost()                    {}

// BenchmarkLocal_Publish: per message to every follower; no allocations are aimed
// at, once the queues have grown.
func BenchmarkLocal_Publish(b *testing.B) {
	for _, followers := range []int{1, 100} {
		b.Run(strconv.Itoa(followers), func(b *testing.B) {
			bus := router.NewLocal(router.LocalConfig{QueueMax: 256})
			for range followers {
				a := bus.Attach(sink{})
				defer a.Close()
				a.Follow("a")
			}
			payload := make([]byte, 300)
			for range 2000 {
				bus.Publish("a", payload)
			}
			b.ReportAllocs()
			for b.Loop() {
				bus.Publish("a", payload)
			}
		})
	}
}
