package check_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/chaos/check"
	"parley/chaos/history"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

func options() check.Options {
	return check.Options{Key: key, Budgets: map[string]check.Budget{"f": {P99: 4 * time.Second, Max: 4 * time.Second}}}
}

func examine(t *testing.T, rs []history.Record) check.Report {
	t.Helper()
	run, err := check.Load(write(t, rs))
	if err != nil {
		t.Fatal(err)
	}
	return run.Check(options())
}

const seeds = 12

func TestCheck_AGoodHistoryIsGreen(t *testing.T) {
	for seed := range uint64(seeds) {
		r := examine(t, newGood(seed).make())
		for _, c := range r.Checks {
			if c.Verdict != check.OK {
				t.Errorf("seed %d: %s is %s: %s", seed, c.Name, c.Verdict, c.First)
			}
		}
		if r.Good != 1 {
			t.Errorf("seed %d: %f of the time was good", seed, r.Good)
		}
	}
}

// anomaly plants one thing that must not be into a good history.
type anomaly struct {
	check, name string
	plant       func(rs []history.Record) []history.Record
}

// pick is the index of the n-th record from the middle on that a rule wants.
func pick(rs []history.Record, want func(i int, r history.Record) bool) int {
	for i := len(rs) / 2; i < len(rs); i++ {
		if want(i, rs[i]) {
			return i
		}
	}
	panic("the good history has no such record")
}

func kind(k history.Kind, do string) func(int, history.Record) bool {
	return func(_ int, r history.Record) bool { return r.Kind == k && r.Do == do && r.Client != "apart" }
}

// message is a frame of a message to a swarm's client, with what follows it in its
// channel for that client: more is true if another one does.
func message(rs []history.Record, more bool) func(int, history.Record) bool {
	return func(i int, r history.Record) bool {
		e, ok := decode(r)
		if !ok || r.Client == "apart" {
			return false
		}
		for _, later := range rs[i+1:] {
			if l, ok := decode(later); ok && later.Client == r.Client && l.ChannelID == e.ChannelID {
				return more
			}
		}
		return !more
	}
}

func decode(r history.Record) (e chat.MessageEvent, ok bool) {
	if r.Kind != history.Frame || json.Unmarshal(r.Raw, &e) != nil || e.Type != chat.TypeMessage {
		return e, false
	}
	return e, true
}

func reframe(r history.Record, change func(*chat.MessageEvent)) history.Record {
	e, _ := decode(r)
	change(&e)
	r.Raw, _ = json.Marshal(e)
	return r
}

func invokeOf(rs []history.Record, end int) int {
	for i := end; i >= 0; i-- {
		if rs[i].Kind == history.Invoke && rs[i].Client == rs[end].Client && rs[i].Op == rs[end].Op {
			return i
		}
	}
	panic("an end without an invocation")
}

func anomalies() []anomaly {
	return []anomaly{
		{"kept", "an acked message is not in history", func(rs []history.Record) []history.Record {
			i := pick(rs, func(_ int, r history.Record) bool { return r.Kind == history.End })
			head := topology.Rev(0)
			for _, r := range rs {
				if r.Kind == history.FinalHead && r.Channel == "C1" {
					head = r.Rev
				}
			}
			base := history.Record{AtUS: rs[i].AtUS - 3, Client: "p0", Op: 9999, Do: history.DoPost, Channel: "C1", ClientMsgID: "lost"}
			begin, ok := base, base
			begin.Kind, begin.Text = history.Invoke, "lost"
			app := history.Record{AtUS: base.AtUS + 1, Kind: history.Append, Workspace: here, Cell: "eu-1", Channel: "C1", Rev: head + 1, Token: 2, By: "cs-2", MessageID: "M999999"}
			ok.Kind, ok.AtUS, ok.MessageID, ok.Seq, ok.Rev = history.OK, base.AtUS+2, "M999999", 999, head+1
			return slices.Insert(rs, i, begin, app, ok)
		}},
		{"kept", "a refused post is in history", func(rs []history.Record) []history.Record {
			rs[pick(rs, kind(history.OK, history.DoPost))].Kind = history.Fail
			return rs
		}},
		{"order", "a later post comes first", func(rs []history.Record) []history.Record {
			a := pick(rs, kind(history.OK, history.DoPost))
			b := pick(rs, func(i int, r history.Record) bool {
				return i > a && r.Kind == history.OK && r.Do == history.DoPost && r.Channel == rs[a].Channel
			})
			rs[invokeOf(rs, a)].AtUS, rs[a].AtUS = rs[b].AtUS+1, rs[b].AtUS+2
			return rs
		}},
		{"order", "a frame has another seq", func(rs []history.Record) []history.Record {
			i := pick(rs, message(rs, true))
			rs[i] = reframe(rs[i], func(e *chat.MessageEvent) { e.Message.Seq += 100 })
			return rs
		}},
		{"stream", "a frame in the middle is missing", func(rs []history.Record) []history.Record {
			i := pick(rs, message(rs, true))
			return slices.Delete(rs, i, i+1)
		}},
		{"stream", "the last frame is missing", func(rs []history.Record) []history.Record {
			i := pick(rs, message(rs, false))
			return slices.Delete(rs, i, i+1)
		}},
		{"stream", "a frame comes twice", func(rs []history.Record) []history.Record {
			i := pick(rs, message(rs, true))
			return slices.Insert(rs, i+1, rs[i])
		}},
		{"stream", "a client resumes too far on", func(rs []history.Record) []history.Record {
			i := 0
			for ; i < len(rs); i++ {
				if rs[i].Kind == history.Resume && resumeMissed(rs, i) {
					break
				}
			}
			for ch, rev := range rs[i].Cursors {
				for n, r := range rs[i:] {
					if e, ok := decode(r); ok && r.Client == rs[i].Client && e.ChannelID == ch && e.Rev == rev+1 {
						rs[i].Cursors[ch] = rev + 1
						return slices.Delete(rs, i+n, i+n+1)
					}
				}
			}
			return rs
		}},
		{"published", "a frame has another text", func(rs []history.Record) []history.Record {
			i := pick(rs, func(i int, r history.Record) bool {
				e, ok := decode(r)
				return ok && message(rs, true)(i, r) && !strings.Contains(e.Message.Text, "⟦")
			})
			rs[i] = reframe(rs[i], func(e *chat.MessageEvent) { e.Message.Text = "never said" })
			return rs
		}},
		{"published", "what was shown is not in history", func(rs []history.Record) []history.Record {
			acked := map[topology.MessageID]bool{}
			for _, r := range rs {
				acked[r.MessageID] = acked[r.MessageID] || r.Kind == history.OK
			}
			i := pick(rs, func(_ int, r history.Record) bool {
				return r.Kind == history.Final && !acked[r.MessageID] && r.User != "U9"
			})
			rs[i].MessageID += "x"
			return rs
		}},
		{"owner", "two servers write under one token", func(rs []history.Record) []history.Record {
			rs[pick(rs, kind(history.Append, ""))].By = "cs-9"
			return rs
		}},
		{"owner", "a lower token comes later", func(rs []history.Record) []history.Record {
			i := pick(rs, func(_ int, r history.Record) bool { return r.Kind == history.Append && r.Token == 2 })
			later := pick(rs, func(n int, r history.Record) bool {
				return n > i && r.Kind == history.Append && r.Channel == rs[i].Channel
			})
			rs[later].Token, rs[later].By = 1, "cs-1"
			return rs
		}},
		{"owner", "an ack that nobody confirmed", func(rs []history.Record) []history.Record {
			ok := pick(rs, kind(history.OK, history.DoPost))
			i := slices.IndexFunc(rs, func(r history.Record) bool { return r.Kind == history.Append && r.MessageID == rs[ok].MessageID })
			return slices.Delete(rs, i, i+1)
		}},
		{"retry", "a key gives another message back", func(rs []history.Record) []history.Record {
			i := pick(rs, kind(history.OK, history.DoPost))
			other := pick(rs, func(n int, r history.Record) bool {
				return n > i && kind(history.OK, history.DoPost)(n, r) && r.Channel == rs[i].Channel
			})
			begin, ok := rs[invokeOf(rs, i)], rs[other]
			begin.Op, begin.AtUS = 9999, rs[other].AtUS
			ok.Client, ok.Op, ok.ClientMsgID = begin.Client, 9999, begin.ClientMsgID
			return slices.Insert(rs, other+1, begin, ok)
		}},
		{"readstate", "a mark goes back", func(rs []history.Record) []history.Record {
			i := pick(rs, func(_ int, r history.Record) bool {
				return r.Kind == history.Frame && strings.Contains(string(r.Raw), "last_read")
			})
			back := rs[i]
			var e map[string]any
			_ = json.Unmarshal(back.Raw, &e)
			e["last_read_message_id"] = "M000000"
			back.Raw, _ = json.Marshal(e)
			return slices.Insert(rs, i+1, back)
		}},
		{"readstate", "a mark is not there in the end", func(rs []history.Record) []history.Record {
			i := pick(rs, func(_ int, r history.Record) bool { return r.Kind == history.FinalMark })
			return slices.Delete(rs, i, i+1)
		}},
		{"leak", "bytes of another workspace", func(rs []history.Record) []history.Record {
			i := pick(rs, message(rs, true))
			odd := rs[i]
			text := history.NewSealer(key).Seal("secret", history.Origin{Workspace: there, Channel: "X1", ClientMsgID: "k"})
			odd.Raw, _ = json.Marshal(map[string]any{"type": "presence", "channel_id": "X1", "status": text})
			return slices.Insert(rs, i, odd)
		}},
		{"leak", "a private channel's message after the leave", func(rs []history.Record) []history.Record {
			last := -1
			for i, r := range rs {
				if e, ok := decode(r); ok && e.ChannelID == "P1" {
					last = i
				}
			}
			odd := rs[last]
			odd.Client, odd.Socket = "p3", 999
			return slices.Insert(rs, last+1, odd)
		}},
		{"walls", "a control client is refused", func(rs []history.Record) []history.Record {
			i := pick(rs, func(_ int, r history.Record) bool { return r.Kind == history.OK && r.Client == "apart" })
			begin, fail := rs[invokeOf(rs, i)], rs[i]
			begin.Op, begin.ClientMsgID, fail.Op, fail.Kind = 9999, "none", 9999, history.Fail
			return slices.Insert(rs, i+1, begin, fail)
		}},
		{"walls", "a control client waits", func(rs []history.Record) []history.Record {
			for i := len(rs) - 1; ; i-- {
				if rs[i].Kind == history.OK && rs[i].Client == "apart" {
					rs[i].AtUS += 3_000_000
					return rs
				}
			}
		}},
		{"avail", "a client waits for an ack", func(rs []history.Record) []history.Record {
			rs[pick(rs, kind(history.OK, history.DoPost))].AtUS += 5_000_000
			return rs
		}},
		{"live", "a post after the healing is never acked", func(rs []history.Record) []history.Record {
			for i := len(rs) - 1; ; i-- {
				if kind(history.OK, history.DoPost)(i, rs[i]) {
					rs[i].Kind = history.Unknown
					return rs
				}
			}
		}},
		{"live", "a socket stays closed", func(rs []history.Record) []history.Record {
			i := pick(rs, func(_ int, r history.Record) bool { return r.Kind == history.End })
			return slices.Insert(rs, i, history.Record{AtUS: rs[i].AtUS - 1, Kind: history.Close, Client: "p1", Socket: 999})
		}},
		{"registry", "an epoch goes back", func(rs []history.Record) []history.Record {
			return slices.Insert(rs, len(rs)/2, history.Record{AtUS: rs[len(rs)/2].AtUS, Kind: history.Placed, Workspace: here, Cell: "eu-1", Epoch: 0})
		}},
		{"registry", "two cells write a workspace", func(rs []history.Record) []history.Record {
			rs[pick(rs, kind(history.Append, ""))].Cell = "eu-9"
			return rs
		}},
	}
}

// resumeMissed reports whether a resume was given a message that it had missed.
func resumeMissed(rs []history.Record, i int) bool {
	for _, r := range rs[i+1:] {
		if r.Client != rs[i].Client {
			continue
		}
		if r.Kind == history.Close || strings.Contains(string(r.Raw), `"resumed"`) {
			return false
		}
		if _, ok := decode(r); ok {
			return true
		}
	}
	return false
}

// TestCheck_EachAnomalyFiresItsCheckAndNoOther: a check that can't fail, or fails
// for everything, says nothing.
func TestCheck_EachAnomalyFiresItsCheckAndNoOther(t *testing.T) {
	for _, a := range anomalies() {
		t.Run(a.check+"/"+strings.ReplaceAll(a.name, " ", "_"), func(t *testing.T) {
			for seed := range uint64(seeds) {
				r := examine(t, a.plant(newGood(seed).make()))
				var fired []string
				for _, c := range r.Checks {
					if c.Verdict != check.OK {
						fired = append(fired, c.Name)
						if c.Verdict == check.Violated && !strings.Contains(c.First, "history.jsonl:") {
							t.Errorf("seed %d: %s names no evidence: %s", seed, c.Name, c.First)
						}
					}
				}
				if d := cmp.Diff([]string{a.check}, fired); d != "" {
					t.Errorf("seed %d: %s\n%+v", seed, d, r.Checks)
				}
			}
		})
	}
}

func TestCheck_TooLittleIsInconclusive(t *testing.T) {
	all := newGood(1).make()
	without := func(drop func(history.Record) bool) []history.Record {
		return slices.DeleteFunc(slices.Clone(all), drop)
	}
	for _, s := range []struct {
		check string
		rs    []history.Record
	}{
		{"kept", without(func(r history.Record) bool { return r.Kind == history.FinalHead })},
		{"owner", without(func(r history.Record) bool { return r.Kind == history.Append })},
		{"live", without(func(r history.Record) bool { return r.Kind == history.Healed })},
		{"avail", without(func(r history.Record) bool { return r.Kind == history.Fault })},
		{"walls", without(func(r history.Record) bool { return r.Client == "apart" })},
	} {
		i := slices.Index(check.Names(), s.check)
		if c := examine(t, s.rs).Checks[i]; c.Verdict != check.Inconclusive {
			t.Errorf("%s is %s: %s", s.check, c.Verdict, c.First)
		}
	}
}

func TestLoad_NamesTheLine(t *testing.T) {
	for _, bad := range []history.Record{
		{Kind: history.OK, Client: "p", Op: 3},
		{Kind: history.Frame, Client: "p", Raw: json.RawMessage(`[]`)},
		{Kind: history.Open},
	} {
		_, err := check.Load(write(t, []history.Record{{Kind: history.End}, bad}))
		if err == nil || !strings.Contains(err.Error(), "history.jsonl:2") {
			t.Errorf("%s: %v", bad.Kind, err)
		}
	}
	if _, err := check.Load("nowhere"); err == nil {
		t.Error("a file that is not there was read")
	}
}
