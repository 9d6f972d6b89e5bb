package change_test

import (
	"bytes"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
	"pgregory.net/rapid"

	"parley/cell/change"
	"parley/internal/problem"
	"parley/internal/topology"
)

func sample() change.Change {
	return change.Change{
		Rev: 300, Kind: change.Reply, Seq: 2, TS: 1_700_000_000_123_456, ID: "01HF7YAT00000000000000000A", Author: "U1",
		ClientMsgID: "key", Root: "01HF7YAT000000000000000001", Text: "hello, wörld", Mentions: []topology.UserID{"U2", change.MentionAll},
		Subjects: []topology.UserID{"U3"}, Confirmed: 299, HeadSeq: 120,
	}
}

func drawChange(t *rapid.T) change.Change {
	user := rapid.Custom(func(t *rapid.T) topology.UserID { return topology.UserID(rapid.StringN(0, 30, 255).Draw(t, "user")) })
	users := func(name string) []topology.UserID {
		us := rapid.SliceOfN(user, 0, 5).Draw(t, name)
		if len(us) == 0 {
			return nil
		}
		return us
	}
	id := func(name string) string { return rapid.StringN(0, 60, 255).Draw(t, name) }
	return change.Change{
		Rev: topology.Rev(rapid.Uint64().Draw(t, "rev")), Kind: change.Kind(rapid.Byte().Draw(t, "kind")),
		Seq: topology.Seq(rapid.Uint64().Draw(t, "seq")), TS: rapid.Int64().Draw(t, "ts"),
		ID: topology.MessageID(id("id")), Author: topology.UserID(id("author")), ClientMsgID: id("key"), Root: topology.MessageID(id("root")),
		Text: rapid.String().Draw(t, "text"), Mentions: users("mentions"), Subjects: users("subjects"),
		Confirmed: topology.Rev(rapid.Uint64().Draw(t, "confirmed")), HeadSeq: topology.Seq(rapid.Uint64().Draw(t, "headSeq")),
	}
}

func TestCodec_RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawChange(t)
		if err := c.Check(); err != nil {
			t.Fatal(err)
		}
		front := []byte("front")
		b := c.Append(front)
		if !bytes.HasPrefix(b, front) {
			t.Fatal("Append changed what was there")
		}
		got, err := change.Decode(b[len(front):])
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c, got); d != "" {
			t.Fatal(d)
		}
	})
}

// Decode must not share memory with its input: drivers reuse their buffers.
func TestCodec_SharesNothing(t *testing.T) {
	b := sample().Append(nil)
	got, err := change.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	clear(b)
	if d := cmp.Diff(sample(), got); d != "" {
		t.Fatal(d)
	}
}

func TestCodec_DamageIsRefused(t *testing.T) {
	whole := sample().Append(nil)
	for n := range whole {
		if _, err := change.Decode(whole[:n]); err == nil {
			t.Errorf("cut to %d of %d bytes: no error", n, len(whole))
		}
	}
	if _, err := change.Decode(append(slices.Clone(whole), 0)); !problem.Is(err, problem.Internal) {
		t.Errorf("a byte too many: %v", err)
	}
	newer := slices.Clone(whole)
	newer[0]++
	if _, err := change.Decode(newer); !problem.Is(err, problem.Unsupported) {
		t.Errorf("another version: %v", err)
	}
}

func TestCodec_Bounds(t *testing.T) {
	long := topology.UserID(strings.Repeat("u", 256))
	for name, c := range map[string]change.Change{
		"id":      {ID: topology.MessageID(long)},
		"author":  {Author: long},
		"key":     {ClientMsgID: string(long)},
		"text":    {Text: strings.Repeat("x", 1<<20+1)},
		"mention": {Mentions: []topology.UserID{long}},
		"users":   {Subjects: make([]topology.UserID, 100_001)},
		"bytes":   {Subjects: slices.Repeat([]topology.UserID{long[:255]}, 70_000)},
	} {
		if err := c.Check(); !problem.Is(err, problem.TooLarge) {
			t.Errorf("%s: Check says %v; want kind too_large", name, err)
		}
		if _, err := change.Decode(c.Append(nil)); err == nil {
			t.Errorf("%s: Decode takes what Check refuses", name)
		}
	}
	most := change.Change{Text: strings.Repeat("x", 1<<20), Subjects: slices.Repeat([]topology.UserID{"U01HF7YAT00000000000000000A"}, 100_000)}
	if err := most.Check(); err != nil {
		t.Fatal(err)
	}
	if got, err := change.Decode(most.Append(nil)); err != nil || !cmp.Equal(got, most) {
		t.Fatalf("the largest change does not come back: %v", err)
	}
}

// A damaged count must not make a reader allocate for entries that can't be there.
func TestCodec_AllocatesNoMoreThanIsThere(t *testing.T) {
	b := []byte{1, 1, 1, 1, 2, 0, 0, 0, 0, 0, 0xff, 0xff, 0x03} // 65,535 mentions in no bytes
	if n := testing.AllocsPerRun(10, func() { _, _ = change.Decode(b) }); n > 12 {
		t.Fatalf("%v allocations to refuse %d bytes", n, len(b))
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{})
	f.Add(sample().Append(nil))
	f.Add(change.Change{}.Append(nil))
	f.Add(change.Change{Kind: change.Created, Subjects: []topology.UserID{"U1", "U2", ""}, TS: -1}.Append(nil))
	f.Add([]byte{1, 1, 1, 1, 2, 0, 0, 0, 0, 0, 0xff, 0xff, 0x03})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := change.Decode(b)
		if err != nil {
			return
		}
		if again := c.Append(nil); !bytes.Equal(again, b) {
			t.Fatalf("%x decodes to what encodes to %x", b, again)
		}
		if err := c.Check(); err != nil {
			t.Fatalf("Decode takes what Check refuses: %v", err)
		}
	})
}

func TestID_RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := change.ID{MS: rapid.Int64Range(0, 1<<48-1).Draw(t, "ms"), Number: rapid.Uint64Range(0, 1<<40-1).Draw(t, "number")}
		place := rapid.Uint64Range(1, 1<<39-1).Draw(t, "place")
		if rapid.Bool().Draw(t, "reply") {
			want.ReplyRev = topology.Rev(place)
		} else {
			want.Seq = topology.Seq(place)
		}
		id := change.NewID(want.MS, want.Number, want.Seq, want.ReplyRev)
		got, err := change.ParseID(id)
		if err != nil || got != want {
			t.Fatalf("ParseID(%s) = %+v, %v; want %+v", id, got, err, want)
		}
		u, err := ulid.ParseStrict(string(id)) // others must find their ULIDs in it
		if err != nil || u.Time() != uint64(want.MS) || u.String() != string(id) {
			t.Fatalf("as a ULID %s is %v, %v", id, u, err)
		}
	})
}

func TestID_SortsByTimeThenSeq(t *testing.T) {
	ids := []topology.MessageID{
		change.NewID(0, 5, 1, 0), change.NewID(0, 5, 2, 0), change.NewID(0, 5, 1<<38, 0), change.NewID(0, 5, 0, 1),
		change.NewID(1, 5, 3, 0), change.NewID(1<<40, 5, 4, 0), change.NewID(1<<48-1, 5, 5, 0),
	}
	if !slices.IsSorted(ids) {
		t.Fatalf("not in order: %v", ids)
	}
}

func TestID_KnownText(t *testing.T) {
	for id, want := range map[topology.MessageID]change.ID{
		"00000000000000000000000001": {Seq: 1},
		"7ZZZZZZZZZZZZZZZZZZZZZZZZZ": {MS: 1<<48 - 1, Number: 1<<40 - 1, ReplyRev: 1<<39 - 1},
		"01HF7YAT00000000010000000A": {MS: 1_700_000_000_000, Number: 1, Seq: 10},
		"01HF7YAT0000000001G000000A": {MS: 1_700_000_000_000, Number: 1, ReplyRev: 10},
	} {
		got, err := change.ParseID(id)
		if err != nil || got != want || change.NewID(want.MS, want.Number, want.Seq, want.ReplyRev) != id {
			t.Errorf("%s: %+v, %v; want %+v, which is %s", id, got, err, want, change.NewID(want.MS, want.Number, want.Seq, want.ReplyRev))
		}
	}
}

func TestID_StrangersAreRefused(t *testing.T) {
	for _, id := range []topology.MessageID{
		"", "0", "01HF7YAT00000000010000000", "01HF7YAT00000000010000000AA", "01hf7yat00000000010000000a",
		"80000000000000000000000001", "01HF7YAT0000000001000000IA", "01HF7YAT0000000001000000LA", "01HF7YAT0000000001000000OA",
		"01HF7YAT0000000001000000UA", "01HF7YAT0000000001000000 A", "01HF7YAT000000000100000é0A",
		"01HF7YAT000000000100000000", "01HF7YAT0000000001G0000000", // place 0
	} {
		if p, err := change.ParseID(id); !problem.Is(err, problem.Invalid) {
			t.Errorf("ParseID(%q) = %+v, %v; want kind invalid", id, p, err)
		}
	}
	if id := change.NewID(math.MaxInt64, math.MaxUint64, math.MaxUint64, 0); len(id) != 26 || id[0] > '7' {
		t.Errorf("an id out of what does not fit: %s", id)
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("01HF7YAT00000000010000000A")
	f.Add("7ZZZZZZZZZZZZZZZZZZZZZZZZZ")
	f.Add("01hf7yat00000000010000000a")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := change.ParseID(topology.MessageID(s))
		if err == nil && string(change.NewID(p.MS, p.Number, p.Seq, p.ReplyRev)) != s {
			t.Fatalf("%q parses to %+v, which is another id", s, p)
		}
	})
}

func BenchmarkCodec(b *testing.B) {
	c, buf := sample(), make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		buf = c.Append(buf[:0])
		if _, err := change.Decode(buf); err != nil {
			b.Fatal(err)
		}
	}
}
