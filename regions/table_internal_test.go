package regions

import (
	"math/bits"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"parley/internal/topology"
)

func TestPackedIDKeepsEveryCharacter(t *testing.T) {
	d := newDigits()
	rapid.Check(t, func(t *rapid.T) {
		ws := topology.WorkspaceID(rapid.StringMatching(`W[0-7][0-9A-HJKMNP-TV-Z]{25}`).Draw(t, "ws"))
		p, ok := d.pack(ws)
		if !ok || p.id() != ws {
			t.Fatalf("%s packs to %x, which is %s (%v)", ws, p, p.id(), ok)
		}
	})
	for _, odd := range []topology.WorkspaceID{
		"", "W", "W8" + topology.WorkspaceID(strings.Repeat("0", 25)), "C" + topology.WorkspaceID(strings.Repeat("0", 26)),
		"W" + topology.WorkspaceID(strings.Repeat("0", 25)) + "a", "W" + topology.WorkspaceID(strings.Repeat("0", 25)) + "U",
		"W" + topology.WorkspaceID(strings.Repeat("0", 27)),
	} {
		if _, ok := d.pack(odd); ok {
			t.Errorf("%q was packed", odd)
		}
	}
}

// TestRoutesAgainstModel runs random steps on the route table and on a plain map.
func TestRoutesAgainstModel(t *testing.T) {
	type known struct {
		topology.Route
		learned bool
		round   uint16
	}
	ids := []topology.WorkspaceID{"Wodd", "Wodd2", "W01ARZ3NDEKTSV4RRFFQ69G5FAV", "W01ARZ3NDEKTSV4RRFFQ69G5FAW", "W00000000000000000000000000"}
	rapid.Check(t, func(t *rapid.T) {
		rs, model, round := newRoutes(), map[topology.WorkspaceID]known{}, uint16(0)
		draw := func() topology.Route {
			return topology.Route{
				Workspace: rapid.SampledFrom(ids).Draw(t, "ws"), Epoch: topology.Epoch(rapid.IntRange(1, 4).Draw(t, "epoch")),
				Cell: rapid.SampledFrom([]topology.CellID{"a", "b"}).Draw(t, "cell"),
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"published": func(*rapid.T) {
				r := draw()
				rs.published(r, round)
				old := model[r.Workspace]
				if old.Epoch > r.Epoch {
					old.round = round
					model[r.Workspace] = old
				} else {
					model[r.Workspace] = known{Route: r, round: round}
				}
			},
			"prefer": func(t *rapid.T) {
				r := draw()
				old := model[r.Workspace]
				if won := rs.prefer(r); won != (old.Epoch < r.Epoch) {
					t.Fatalf("prefer %+v over %+v: %v", r, old, won)
				} else if won {
					model[r.Workspace] = known{Route: r, learned: true, round: old.round}
				}
			},
			"remove": func(*rapid.T) {
				r := draw()
				rs.remove(r.Workspace)
				delete(model, r.Workspace)
			},
			"load": func(*rapid.T) {
				round++
				for ws, k := range model {
					if rapid.Bool().Draw(t, "seen") {
						rs.published(k.Route, round)
						model[ws] = known{Route: k.Route, round: round}
					} else if !k.learned {
						delete(model, ws)
					}
				}
				rs.sweep(round)
			},
			"": func(t *rapid.T) {
				want, learned := map[topology.WorkspaceID]topology.Route{}, 0
				for ws, k := range model {
					want[ws] = k.Route
					if k.learned {
						learned++
					}
				}
				got := map[topology.WorkspaceID]topology.Route{}
				for r := range rs.all() {
					got[r.Workspace] = r
					if one, ok := rs.get(r.Workspace); !ok || one != r {
						t.Fatalf("get %+v, all %+v", one, r)
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("routes (-want +got):\n%s", diff)
				}
				if rs.len() != len(want) || rs.learned != learned {
					t.Fatalf("counts %d routes, %d learned; want %d, %d", rs.len(), rs.learned, len(want), learned)
				}
			},
		})
	})
}

func TestDamagedCopyIsNotTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), copyName)
	from := NewTable("eu")
	for _, r := range []topology.Route{{Workspace: "Wodd", Cell: "a", Epoch: 1}, {Workspace: "W01ARZ3NDEKTSV4RRFFQ69G5FAV", Cell: "b", Epoch: 2}} {
		from.routes.published(r, 0)
	}
	if err := writeCopy(path, headerOf("eu", Contents{Index: 4, Cells: []Cell{{ID: "a"}}}), from.routes); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if to := NewTable("eu"); true {
		if _, err := readCopy(path, to); err != nil || to.Len() != 2 || to.Index() != 4 {
			t.Fatalf("the good copy: %v, %d routes", err, to.Len())
		}
	}
	try := func(name string, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		to := NewTable("eu")
		if _, err := readCopy(path, to); err == nil || to.Known() || to.Len() != 0 {
			t.Errorf("%s: taken, %d routes, %v", name, to.Len(), err)
		}
	}
	for i := range good {
		bad := append([]byte(nil), good...)
		bad[i] ^= 0x20
		try("flipped bit", bad)
		try("cut", good[:i])
	}
	try("longer", append(append([]byte(nil), good...), 0))
	other := NewTable("us")
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readCopy(path, other); err == nil || other.Len() != 0 {
		t.Errorf("another region's copy was taken: %d routes, %v", other.Len(), err)
	}
}

func FuzzEntries(f *testing.F) {
	f.Add("routes/W1", []byte("7 eu-1"))
	f.Add("meta", []byte(meta{Index: 3, Complete: true}.text()))
	f.Add("cells/eu-1", []byte(`{"id":"eu-1"}`))
	f.Add("keys/k", []byte(`{"kid":"k","public":"AAAA"}`))
	f.Add("live/gateways/c/g", []byte(`{"id":"g","cell":"c"}`))
	f.Add("edges-all", []byte(`[{"id":"e"}]`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		table := NewTable("eu")
		for _, bad := range table.apply([]update{{key: key, value: value}}) {
			if bad != key || table.Known() {
				t.Errorf("%q: told as %q, known %v", key, bad, table.Known())
			}
		}
		table.apply([]update{{key: key, deleted: true}})
		if liveGroup(key) != "" { // silent, not gone
			table.apply([]update{{key: key, value: []byte(farewell)}})
		}
		if c := table.Contents(); table.Len() != 0 || len(c.Gateways)+len(c.Cells)+len(c.Keys)+len(c.Live)+len(c.Servers)+len(c.Loads) != 0 {
			t.Errorf("%q: left after its delete: %+v", key, c)
		}
	})
}

const benchRoutes = 1_000_000

func benchID(n int) topology.WorkspaceID {
	return packedID{hi: 1 << 56, lo: bits.ReverseBytes64(uint64(n) * 0x9e3779b97f4a7c15)}.id()
}

func BenchmarkRoute1M(b *testing.B) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	t := NewTable("eu")
	for n := range benchRoutes {
		t.routes.published(topology.Route{Workspace: benchID(n), Cell: topology.CellID("eu-" + string(rune('a'+n%20))), Epoch: 3}, 1)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	ids := make([]topology.WorkspaceID, 4096)
	for i := range ids {
		ids[i] = benchID(i * 199)
	}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, ok := t.Route(ids[i%len(ids)]); !ok {
				b.Error("a route is missing")
				return
			}
		}
	})
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/benchRoutes, "bytes/route")
}

func TestRouteMakesNoGarbage(t *testing.T) {
	table := NewTable("eu")
	ws := benchID(1)
	table.Merge([]topology.Route{{Workspace: ws, Cell: "a", Epoch: 1}})
	if n := testing.AllocsPerRun(100, func() { table.Route(ws) }); n != 0 {
		t.Errorf("Route allocates %v times", n)
	}
}

// TestTable_GatewaysOfOtherRegions: they come with the cell's entry, and stay when
// the control plane lost sight of them.
func TestTable_GatewaysOfOtherRegions(t *testing.T) {
	table := NewTable("eu")
	put := func(c Cell) {
		t.Helper()
		ch := PutCell(c)
		if bad := table.apply([]update{{key: ch.key, value: []byte(ch.value)}}); len(bad) > 0 {
			t.Fatal(bad)
		}
	}
	gw := Gateway{ID: "us-1-gw-1", Cell: "us-1", APIAddr: "a:1", LinkAddr: "a:2"}
	put(Cell{ID: "us-1", Region: "us", Gateways: []Gateway{gw}})
	put(Cell{ID: "us-1", Region: "us", State: "cordoned"})
	if got := table.Gateways("us-1"); len(got) != 1 || got[0] != gw {
		t.Errorf("another region's cell has gateways %v", got)
	}
	put(Cell{ID: "eu-1", Region: "eu", Gateways: []Gateway{{ID: "eu-1-gw-1", Cell: "eu-1"}}})
	if got := table.Gateways("eu-1"); len(got) != 0 {
		t.Errorf("this region's cell has gateways %v without their registration", got)
	}
}
