package frame_test

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/frame"
)

// zero has one value of every frame type; the generators fill them by field.
var zero = []frame.Frame{
	frame.Hello{},
	frame.Open{},
	frame.Resume{},
	frame.ResumeGroup{},
	frame.Close{},
	frame.Activity{},
	frame.Post{},
	frame.MarkRead{},
	frame.Typing{},
	frame.Welcome{},
	frame.Opened{},
	frame.Refused{},
	frame.Draining{},
	frame.Moved{},
	frame.GroupOpen{},
	frame.Join{},
	frame.Leave{},
	frame.GroupFrame{},
	frame.GroupClose{},
	frame.SessionFrame{},
	frame.Answer{},
	frame.Ping{},
	frame.Pong{},
}

func drawFrame(t *rapid.T) frame.Frame {
	v := reflect.New(reflect.TypeOf(rapid.SampledFrom(zero).Draw(t, "type"))).Elem()
	fill(t, v)
	f, ok := reflect.TypeAssert[frame.Frame](v)
	if !ok {
		t.Fatalf("%s is no frame", v.Type())
	}
	return f
}

func fill(t *rapid.T, v reflect.Value) {
	if v.Type() == reflect.TypeFor[frame.AnswerBody]() {
		v.Set(reflect.ValueOf(drawAnswer(t)))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for _, field := range v.Fields() {
			fill(t, field)
		}
	case reflect.String:
		v.SetString(rapid.StringN(0, 60, 200).Draw(t, "s"))
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(t, "b"))
	case reflect.Uint64:
		v.SetUint(rapid.Uint64().Draw(t, "n"))
	case reflect.Slice:
		n := rapid.IntRange(0, 300).Draw(t, "len")
		if n == 0 {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			if v.Type().Elem().Kind() == reflect.Uint8 {
				v.Index(i).SetUint(uint64(i % 251))
				continue
			}
			fill(t, v.Index(i))
		}
	default:
		t.Fatalf("a frame has a field of kind %s, which this test can't fill", v.Kind())
	}
}

func drawAnswer(t *rapid.T) frame.AnswerBody {
	a := frame.AnswerBody{Channel: "C1"}
	if rapid.Bool().Draw(t, "refused") {
		a.Kind, a.Detail, a.Field = problem.Denied, rapid.String().Draw(t, "detail"), "text"
		a.RetryMS = rapid.Uint64().Draw(t, "retry")
		return a
	}
	a.Message, a.TS = "01J", rapid.Int64().Draw(t, "ts")
	a.Seq, a.Rev = topology.Seq(rapid.Uint64().Draw(t, "seq")), topology.Rev(rapid.Uint64().Draw(t, "rev"))
	return a
}

// What is appended is decoded again, however the bytes are cut on the way.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want, got []frame.Frame
		var wire []byte
		for range rapid.IntRange(1, 6).Draw(t, "frames") {
			f := drawFrame(t)
			var err error
			if wire, err = frame.Append(wire, f); err != nil {
				t.Fatal(err)
			}
			want = append(want, f)
		}
		var buf []byte
		for len(wire) > 0 {
			n := rapid.IntRange(1, len(wire)).Draw(t, "cut")
			buf = append(buf, wire[:n]...)
			wire = wire[n:]
			var rest []byte
			var err error
			if got, rest, err = frame.Decode(got, buf); err != nil {
				t.Fatal(err)
			}
			buf = append([]byte(nil), rest...)
		}
		if len(buf) > 0 {
			t.Fatalf("%d bytes left over", len(buf))
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}

// Decoded frames don't share memory with the buffer: it is used again.
func TestDecodeCopies(t *testing.T) {
	wire, err := frame.Append(nil, frame.GroupFrame{Group: 1, From: 2, To: 2, Payload: []byte("hello")})
	if err != nil {
		t.Fatal(err)
	}
	fs, _, err := frame.Decode(nil, wire)
	if err != nil {
		t.Fatal(err)
	}
	clear(wire)
	if got := string(fs[0].(frame.GroupFrame).Payload); got != "hello" {
		t.Fatalf("payload became %q", got)
	}
}

func TestAppendRefusesWhatDecodeWould(t *testing.T) {
	many := make([]topology.SessionID, frame.SessionsMax+1)
	for name, f := range map[string]frame.Frame{
		"payload":  frame.Opened{Payload: make([]byte, frame.BytesMax)},
		"sessions": frame.Join{Sessions: many},
		"cursors":  frame.Resume{Cursors: make([]frame.Cursor, frame.CursorsMax+1)},
		"string":   frame.Typing{Channel: topology.ChannelID(strings.Repeat("x", frame.StringBytesMax+1))},
		"nil":      nil,
	} {
		t.Run(name, func(t *testing.T) {
			dst := []byte("before")
			got, err := frame.Append(dst, f)
			if err == nil {
				t.Fatal("no error")
			}
			if !bytes.Equal(got, dst) {
				t.Fatalf("dst became %d bytes", len(got))
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	body := func(b ...byte) []byte { return append([]byte{byte(len(b))}, b...) }
	for name, c := range map[string]struct {
		wire []byte
		says string
	}{
		"no type":             {[]byte{0}, "length 0"},
		"too long":            {[]byte{0xff, 0xff, 0xff, 0x7f}, "length"},
		"length overflows":    {bytes.Repeat([]byte{0xff}, 11), "length"},
		"unknown type":        {body(200), "type 200: unknown"},
		"left over":           {body(22, 1, 9), "Ping: 1 bytes left over"},
		"number cut short":    {body(22, 0x80), "Ping: a number"},
		"string beyond frame": {body(9, 1, 50, 'C'), "Typing: a text"},
		"list beyond frame":   {body(16, 1, 1, 100, 1), "Join: a list"},
		"unknown flag":        {body(6, 1, 2), "Activity: unknown flag"},
		"unknown flags":       {body(2, 1, 0, 0, 0, 9), "Open: flags"},
	} {
		t.Run(name, func(t *testing.T) {
			good, err := frame.Append(nil, frame.Ping{N: 7})
			if err != nil {
				t.Fatal(err)
			}
			fs, _, err := frame.Decode(nil, append(good, c.wire...))
			if !errors.Is(err, frame.ErrMalformed) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("error %v, want one that says %q", err, c.says)
			}
			if len(fs) != 1 {
				t.Fatalf("%d frames before the fault, want 1", len(fs))
			}
		})
	}
}

func TestLaneOfSpreads(t *testing.T) {
	seen := map[int]int{}
	for i := range 1600 {
		l := frame.LaneOf("C" + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + string(rune('0'+i%10)) + string(rune('A'+i/26%26)))
		if l < 1 || l > frame.Lanes {
			t.Fatalf("lane %d is not in 1 … %d", l, frame.Lanes)
		}
		seen[l]++
	}
	if len(seen) != frame.Lanes {
		t.Fatalf("only %d of %d lanes are used", len(seen), frame.Lanes)
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	var f frame.Frame = frame.GroupFrame{Group: 5, From: 9, To: 9, Payload: make([]byte, 300)}
	buf := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() { buf, _ = frame.Append(buf[:0], f) }); n > 0 {
		t.Fatalf("%v allocations a frame, want 0", n)
	}
}

func FuzzDecode(f *testing.F) {
	for _, z := range zero {
		b, err := frame.Append(nil, z)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	b, _ := frame.Append(nil, frame.Join{Group: 3, Rev: 300, Sessions: []topology.SessionID{1, 2, 1 << 40}})
	f.Add(append(b, 0x80, 0x80))
	f.Add([]byte{0xff, 0xff, 0x3f, 3})
	f.Fuzz(func(t *testing.T, data []byte) {
		fs, rest, err := frame.Decode(nil, data)
		if err == nil && len(rest) > frame.BytesMax+10 {
			t.Fatalf("%d bytes left over without an error", len(rest))
		}
		var again []byte
		for _, fr := range fs {
			var err error
			if again, err = frame.Append(again, fr); err != nil {
				t.Fatalf("decoded but can't be encoded: %v", err)
			}
		}
		back, rest, err := frame.Decode(nil, again)
		if err != nil || len(rest) > 0 {
			t.Fatalf("encoded but can't be decoded: %v, %d left", err, len(rest))
		}
		if d := cmp.Diff(fs, back); d != "" {
			t.Fatal(d)
		}
	})
}

func BenchmarkAppendGroupFrame(b *testing.B) {
	var f frame.Frame = frame.GroupFrame{Group: 5, From: 9, To: 9, Payload: make([]byte, 300)}
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf, _ = frame.Append(buf[:0], f)
	}
}
