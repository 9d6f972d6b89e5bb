package router_test

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"parley/cell/router"
	"parley/internal/problem"
	"parley/internal/topology"
)

func ref() topology.ChannelRef {
	return topology.ChannelRef{Place: topology.Place{Workspace: "W1", Generation: 3}, Channel: "C1"}
}

func events() []router.Event {
	return []router.Event{
		{},
		{Channel: ref(), Token: 9, From: 41, To: 42, Payload: []byte(`{"type":"message"}`)},
		{Channel: ref(), Token: math.MaxUint64, From: math.MaxUint64, To: math.MaxUint64, Joined: []topology.UserID{"U1", ""}, Left: []topology.UserID{"U2"}},
	}
}

func beacons() [][]router.Beacon {
	return [][]router.Beacon{
		nil,
		{{Shard: 127, Token: 1, Owner: "eu-1-cs-1", Number: 1}},
		{{Owner: "a"}, {Shard: 5, Token: 7, Owner: "b", Number: 9, Changed: []router.Head{{Channel: ref(), Rev: 3, Seq: 2}, {}}}},
	}
}

func notices() []router.Notice {
	return []router.Notice{{}, {Kind: router.NoticeURev, Channel: "C1"}, {Kind: router.NoticeReadState, Channel: "C2"}}
}

// damage checks that no cut, lengthened or newer payload is taken.
func damage(t *testing.T, whole []byte, decode func([]byte) error) {
	t.Helper()
	if err := decode(whole); err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if err := decode(whole[:n]); !problem.Is(err, problem.Invalid) {
			t.Errorf("cut to %d of %d bytes: %v", n, len(whole), err)
		}
	}
	if err := decode(append(slices.Clone(whole), 0)); err == nil {
		t.Error("a byte too many is taken")
	}
	newer := slices.Clone(whole)
	newer[0]++
	if err := decode(newer); err == nil {
		t.Error("another version is taken")
	}
}

func decodesEvent(b []byte) error   { _, err := router.DecodeEvent(b); return err }
func decodesBeacons(b []byte) error { _, err := router.DecodeBeacons(b); return err }
func decodesNotice(b []byte) error  { _, err := router.DecodeNotice(b); return err }

func TestCodec_RoundTripAndDamage(t *testing.T) {
	for _, e := range events() {
		got, err := router.DecodeEvent(e.Encode())
		if d := cmp.Diff(e, got, cmpopts.EquateEmpty()); err != nil || d != "" {
			t.Errorf("%v\n%s", err, d)
		}
		damage(t, e.Encode(), decodesEvent)
	}
	for _, bs := range beacons() {
		got, err := router.DecodeBeacons(router.EncodeBeacons(bs))
		if d := cmp.Diff(bs, got, cmpopts.EquateEmpty()); err != nil || d != "" {
			t.Errorf("%v\n%s", err, d)
		}
		damage(t, router.EncodeBeacons(bs), decodesBeacons)
	}
	for _, n := range notices() {
		got, err := router.DecodeNotice(n.Encode())
		if d := cmp.Diff(n, got); err != nil || d != "" {
			t.Errorf("%v\n%s", err, d)
		}
		damage(t, n.Encode(), decodesNotice)
	}
}

// A damaged count must not make a reader allocate for what can't be there.
func TestCodec_AllocatesNoMoreThanIsThere(t *testing.T) {
	users := append([]byte{1, 0, 0, 0, 0, 0, 0}, 0xa0, 0x8d, 0x06)                                  // 100,000 users in no bytes
	heads := append([]byte{1, 1, 0, 0, 0, 0}, 0x80, 0x80, 0x40)                                     // 2^20 heads in no bytes
	many := append([]byte{1, 0x80, 0x01}, bytes.Repeat([]byte{0, 0, 0, 0, 0x80, 0x80, 0x40}, 9)...) // in every beacon
	for name, decode := range map[string]func(){
		"users": func() { _, _ = router.DecodeEvent(users) },
		"heads": func() { _, _ = router.DecodeBeacons(heads) },
		"many":  func() { _, _ = router.DecodeBeacons(many) },
	} {
		if n := testing.AllocsPerRun(10, decode); n > 16 {
			t.Errorf("%s: %v allocations to refuse a few bytes", name, n)
		}
	}
	for _, b := range [][]byte{users, heads, many} {
		if decodesEvent(b) == nil || decodesBeacons(b) == nil {
			t.Errorf("%x is taken", b)
		}
	}
}

func FuzzDecodeEvent(f *testing.F) {
	for _, e := range events() {
		f.Add(e.Encode())
	}
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0xa0, 0x8d, 0x06})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := router.DecodeEvent(b)
		if err != nil {
			return
		}
		again, err := router.DecodeEvent(e.Encode())
		if d := cmp.Diff(e, again, cmpopts.EquateEmpty()); err != nil || d != "" {
			t.Fatalf("%x does not come back: %v\n%s", b, err, d)
		}
	})
}

func FuzzDecodeBeacons(f *testing.F) {
	for _, bs := range beacons() {
		f.Add(router.EncodeBeacons(bs))
	}
	f.Add([]byte{1, 1, 0, 0, 0, 0, 0x80, 0x80, 0x40})
	f.Fuzz(func(t *testing.T, b []byte) {
		bs, err := router.DecodeBeacons(b)
		if err != nil {
			return
		}
		for _, x := range bs {
			if x.Shard >= topology.Shards {
				t.Fatalf("shard %d", x.Shard)
			}
		}
		again, err := router.DecodeBeacons(router.EncodeBeacons(bs))
		if d := cmp.Diff(bs, again, cmpopts.EquateEmpty()); err != nil || d != "" {
			t.Fatalf("%x does not come back: %v\n%s", b, err, d)
		}
	})
}

func FuzzDecodeNotice(f *testing.F) {
	for _, n := range notices() {
		f.Add(n.Encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := router.DecodeNotice(b)
		if err != nil {
			return
		}
		again, err := router.DecodeNotice(n.Encode())
		if err != nil || again != n {
			t.Fatalf("%x does not come back: %+v, %v", b, again, err)
		}
	})
}
