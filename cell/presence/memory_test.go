package presence_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/cell/presence"
	"parley/cell/presence/presencetest"
)

func TestMemory(t *testing.T) {
	presencetest.Run(t, presencetest.Harness{New: func(*testing.T) (presence.Store, func(time.Duration)) {
		now := time.Unix(1_700_000_000, 0)
		return presence.NewMemory(func() time.Time { return now }), func(d time.Duration) { now = now.Add(d) }
	}})
}

func TestCodec(t *testing.T) {
	want := []presence.Change{{User: "ann", Status: presence.Away}}
	got, err := presence.Decode(presence.Encode(want))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, err := presence.Decode([]byte("junk")); err == nil {
		t.Error("junk is taken")
	}
}
