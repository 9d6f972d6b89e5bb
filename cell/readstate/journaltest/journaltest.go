// Package journaltest runs the contract of readstate.Journal, clause by clause,
// against a driver.
//
//nolint:thelper // clauses are tests, whose lines should be told
package journaltest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/cell/readstate"
)

// patience bounds calls that should end soon.
const patience = 30 * time.Second

// Run runs the contract. open gives an empty journal; the driver's test closes it.
func Run(t *testing.T, open func(t *testing.T) readstate.Journal) {
	t.Helper()
	for _, s := range []struct {
		name string
		run  func(*testing.T, readstate.Journal)
	}{
		{"J1_AppendIsThereAtOnce", appendIsThere},
		{"J1_OrderPerKey", orderPerKey},
		{"J1_ConcurrentAppends", concurrentAppends},
		{"J1_AppendAgain", appendAgain},
		{"J1_EmptyValuesStay", emptyValues},
		{"J2_NothingIsNothing", nothing},
		{"J2_FirstErrorEndsIt", firstError},
		{"J2_EndsWhileOthersAppend", endsWhileOthersAppend},
		{"J2_EndsWithContext", endsWithContext},
	} {
		t.Run(s.name, func(t *testing.T) { s.run(t, open(t)) })
	}
}

func entry(key, value string) readstate.Entry {
	return readstate.Entry{Key: []byte(key), Value: []byte(value)}
}

func add(t *testing.T, j readstate.Journal, es ...readstate.Entry) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := j.Append(ctx, es); err != nil {
		t.Fatalf("Append: %v", err)
	}
}

// replay gives what a replay hands over, by key, in its order.
func replay(t *testing.T, j readstate.Journal) map[string][]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got := map[string][]string{}
	err := j.Replay(ctx, func(es []readstate.Entry) error {
		if len(es) == 0 {
			t.Error("Replay hands over nothing")
		}
		for _, e := range es {
			got[string(e.Key)] = append(got[string(e.Key)], string(e.Value))
		}
		return nil
	})
	if err != nil {
		t.Fatalf("Replay: %v", err)
	}
	return got
}

// last is each key's last entry of a replay.
func last(got map[string][]string) map[string]string {
	out := map[string]string{}
	for k, vs := range got {
		out[k] = vs[len(vs)-1]
	}
	return out
}

func wantLast(t *testing.T, j readstate.Journal, want map[string]string) {
	t.Helper()
	if d := cmp.Diff(want, last(replay(t, j))); d != "" {
		t.Fatalf("last entries (-want +got):\n%s", d)
	}
}

func appendIsThere(t *testing.T, j readstate.Journal) {
	want := map[string]string{}
	for i := range 20 {
		k, v := fmt.Sprintf("user%d", i%7), strconv.Itoa(i)
		add(t, j, entry(k, v))
		want[k] = v
		wantLast(t, j, want)
	}
}

func orderPerKey(t *testing.T, j readstate.Journal) {
	const keys, each = 50, 40
	var es []readstate.Entry
	for v := range each {
		for k := range keys {
			es = append(es, entry(fmt.Sprintf("k%d", k), fmt.Sprintf("%03d", v)))
		}
	}
	for len(es) > 0 {
		n := min(333, len(es))
		add(t, j, es[:n]...)
		es = es[n:]
	}
	got := replay(t, j)
	if len(got) != keys {
		t.Fatalf("%d keys, want %d", len(got), keys)
	}
	for k, vs := range got {
		for i := range vs[1:] { // older ones may be gone
			if vs[i+1] <= vs[i] {
				t.Fatalf("%s: %s comes after %s", k, vs[i+1], vs[i])
			}
		}
		if vs[len(vs)-1] != fmt.Sprintf("%03d", each-1) {
			t.Fatalf("%s ends with %s", k, vs[len(vs)-1])
		}
	}
}

func concurrentAppends(t *testing.T, j readstate.Journal) {
	const writers, each = 8, 30
	want := map[string]string{}
	var wg sync.WaitGroup
	for w := range writers {
		key := fmt.Sprintf("writer%d", w)
		want[key] = strconv.Itoa(each - 1)
		wg.Go(func() {
			for i := range each {
				if err := j.Append(t.Context(), []readstate.Entry{entry(key, strconv.Itoa(i))}); err != nil {
					t.Errorf("Append: %v", err)
				}
			}
		})
	}
	wg.Wait()
	wantLast(t, j, want)
}

func appendAgain(t *testing.T, j readstate.Journal) {
	es := []readstate.Entry{entry("a", "1"), entry("b", "1"), entry("a", "2")}
	add(t, j, es...)
	add(t, j, es...)
	wantLast(t, j, map[string]string{"a": "2", "b": "1"})
}

// emptyValues: an entry without a value is an entry, not the end of its key.
func emptyValues(t *testing.T, j readstate.Journal) {
	add(t, j, entry("a", "1"), readstate.Entry{Key: []byte("a")}, readstate.Entry{Key: []byte("b"), Value: []byte{}})
	wantLast(t, j, map[string]string{"a": "", "b": ""})
}

func nothing(t *testing.T, j readstate.Journal) {
	if got := replay(t, j); len(got) != 0 {
		t.Fatalf("an empty journal has %v", got)
	}
	add(t, j)
	if got := replay(t, j); len(got) != 0 {
		t.Fatalf("a journal without entries has %v", got)
	}
}

func firstError(t *testing.T, j readstate.Journal) {
	add(t, j, entry("a", "1"), entry("b", "1"), entry("c", "1"))
	errHere := errors.New("enough")
	calls := 0
	err := j.Replay(t.Context(), func([]readstate.Entry) error { calls++; return errHere })
	if !errors.Is(err, errHere) || calls != 1 {
		t.Fatalf("Replay = %v after %d calls, want %v after one", err, calls, errHere)
	}
}

// endsWhileOthersAppend: what comes after a replay began does not keep it going.
func endsWhileOthersAppend(t *testing.T, j readstate.Journal) {
	add(t, j, entry("a", "1"))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ctx.Err() == nil; i++ {
			_ = j.Append(ctx, []readstate.Entry{entry(fmt.Sprintf("other%d", i%100), "1")}) // its end cuts the last one short
		}
	}()
	for range 3 {
		if got := last(replay(t, j)); got["a"] != "1" {
			t.Errorf("the replay lacks what was there: %v", got)
		}
	}
	cancel()
	<-ended
}

func endsWithContext(t *testing.T, j readstate.Journal) {
	add(t, j, entry("a", "1"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := j.Replay(ctx, func([]readstate.Entry) error { return nil }); err == nil {
		t.Error("Replay goes on after its context ended")
	}
}
