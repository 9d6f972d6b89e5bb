package edge

import (
	"encoding/json"
	"log/slog"
	"net"
	"testing"
	"time"
	"unicode/utf8"

	"parley/internal/wire/chat"
	"parley/internal/wire/frame"
)

// Whatever a client sends is held within its bounds or answered with an error,
// and what is held can be sent on.
func FuzzClientFrame(f *testing.F) {
	for _, seed := range []string{
		`{"type":"resume","cursors":{"C1":7,"@user":2}}`, `{"type":"post","id":"1","channel_id":"C1","text":"x","client_msg_id":"k","thread_root":"M1"}`,
		`{"type":"typing_start","channel_id":"C1"}`, `{"type":"mark_read","channel_id":"C1","last_read_message_id":"M1"}`,
		`{"type":"ping","active":false}`, `{"type":"post","text":5}`, `{"type":null}`, `[]`, ``, `{"cursors":{"":-1}}`, "{\"type\":\"\xff\"}", `{"id":` + `"\ud800"}`,
	} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, resume bool) {
		a, b := net.Pipe()
		defer func() { _, _ = a.Close(), b.Close() }()
		cfg := Config{}.withDefaults()
		k := newSockets(cfg, newPool(cfg, nil, nil, newMetrics(nil), slog.New(slog.DiscardHandler)), newMetrics(nil), slog.New(slog.DiscardHandler))
		s := &session{raw: a, owner: k, resume: resume}
		s.bucket = bucket{perS: 1, burst: 2, tokens: 2, at: time.Now()}
		s.out = queue{conn: a, writeMax: time.Millisecond, gated: true, bytesMax: 1 << 20, framesMax: 16} // gated: queued, not written
		for range 2 {
			s.take(data)
		}
		k.writers.Wait()
		for _, h := range s.held {
			got := h.build(1)
			if _, err := frame.Append(nil, got); err != nil {
				t.Fatalf("%+v can't be sent: %v", got, err)
			}
			if p, ok := got.(frame.Post); ok && (!utf8.ValidString(p.Text) || p.Text == "" || p.Key == "" || p.Channel == "") {
				t.Fatalf("held %+v", p)
			}
		}
		for _, fs := range [][]frame.Frame{resumeFrames(1, cursorList(s.cursors))} {
			for _, fr := range fs {
				if _, err := frame.Append(nil, fr); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, w := range s.out.waiting {
			if w[0]&0xf == opText && !json.Valid(w[headerLen(w):]) {
				t.Fatalf("queued %q", w)
			}
		}
		if len(s.cursors) > chat.CursorsMax {
			t.Fatalf("%d cursors", len(s.cursors))
		}
	})
}

func headerLen(w []byte) int {
	switch w[1] {
	case 126:
		return 4
	case 127:
		return 10
	default:
		return 2
	}
}
