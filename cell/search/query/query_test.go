package query_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"parley/cell/search"
	"parley/cell/search/query"
	"parley/internal/problem"
)

func word(ws ...string) search.Phrase {
	p := search.Phrase{Words: ws}
	if len(ws) == 1 {
		p.Any = ws
	}
	return p
}

func day(y int, m time.Month, d int) time.Time { return time.Date(y, m, d, 0, 0, 0, 0, time.UTC) }

func TestParse(t *testing.T) {
	for in, want := range map[string]query.Query{
		"deploy Failed":                 {All: []search.Phrase{word("deploy"), word("failed")}},
		`"Deploy failed" -staging`:      {All: []search.Phrase{word("deploy", "failed")}, None: []search.Phrase{word("staging")}},
		`x -"dry run"`:                  {All: []search.Phrase{word("x")}, None: []search.Phrase{word("dry", "run")}},
		"“curly quotes”":                {All: []search.Phrase{word("curly", "quotes")}},
		"foo_bar.baz() err-42 - a":      {All: []search.Phrase{word("foo", "bar", "baz"), word("err", "42"), word("a")}},
		"from:@ann FROM:bob in:#ops":    {From: []string{"ann", "bob"}, In: []string{"ops"}},
		`from:"ann lee" x`:              {From: []string{"ann lee"}, All: []search.Phrase{word("x")}},
		"x before:2026-03 after:2025":   {All: []search.Phrase{word("x")}, Before: day(2026, 3, 1), After: day(2026, 1, 1)},
		"x after:2026-02-28":            {All: []search.Phrase{word("x")}, After: day(2026, 3, 1)},
		"x before:2026-03-01T12:00:00Z": {All: []search.Phrase{word("x")}, Before: day(2026, 3, 1).Add(12 * time.Hour)},
		"x before:2026 before:2025":     {All: []search.Phrase{word("x")}, Before: day(2025, 1, 1)},
		"https://a.b/c 10.0.0.1":        {All: []search.Phrase{word("https", "a", "b", "c"), word("10", "0", "0", "1")}},
		":tada: @ann 本":                 {All: []search.Phrase{{Any: []string{":tada:"}}, {Any: []string{"@ann"}}, word("本")}},
		`a"b c"d`:                       {All: []search.Phrase{word("a"), word("b", "c"), word("d")}},
		"note:x":                        {All: []search.Phrase{word("note", "x")}},
		"x --flag":                      {All: []search.Phrase{word("x"), word("flag")}},
	} {
		got, err := query.Parse(in)
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("%q: %v %s", in, err, d)
		}
	}
}

func TestParse_Refused(t *testing.T) {
	for in, says := range map[string]string{
		"":                                    "a word to look for",
		"  -  ()":                             "a word to look for",
		"-x":                                  "only says what to leave out",
		"before:2026":                         "a word to look for",
		`x "open`:                             "not closed",
		"x from: ann":                         "from: names nothing",
		"x -from:ann":                         "can be left out",
		"x before:yesterday":                  "before:yesterday is no date",
		"x after:2026-13":                     "is no date",
		"\xff":                                "UTF-8",
		strings.Repeat("x", 501):              "501 characters",
		strings.Repeat("x ", 31):              "more than 30 words",
		`"` + strings.Repeat("x ", 101):       "not closed",
		`"` + strings.Repeat("x ", 101) + `"`: "more than 100 words",
		strings.Repeat("in:x ", 21):           "more than 20",
	} {
		_, err := query.Parse(in)
		if !problem.Is(err, problem.Invalid) || !strings.Contains(problem.Show(err), says) || !strings.HasPrefix(problem.Show(err), "q: ") {
			t.Errorf("%q: %v; want kind invalid, %q", in, err, says)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`a "b c" -d from:e in:#f before:2026 after:2025-01-02`, `“x”`, `--`, `-"`, "in:", ":tada: 日本語 @x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q, err := query.Parse(s)
		if err != nil {
			if !problem.Is(err, problem.Invalid) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		if len(q.All)+len(q.From)+len(q.In) == 0 {
			t.Fatalf("%q looks for nothing", s)
		}
		for _, p := range append(q.All, q.None...) {
			if len(p.Words)+len(p.Any) == 0 {
				t.Fatalf("%q has an empty phrase", s)
			}
		}
	})
}
