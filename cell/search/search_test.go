package search_test

import (
	"slices"
	"testing"

	"parley/cell/search"
	"parley/cell/search/text"
)

func TestPhrase_In(t *testing.T) {
	for _, c := range []struct {
		phrase, in string
		spans      []search.Span
	}{
		{"error", "an ERROR, two Errors: error", []search.Span{{3, 8}, {22, 27}}},
		{"error code", "the error-code here", []search.Span{{4, 14}}},
		{"error", "parseErrorCode", []search.Span{{5, 10}}},
		{"errorCode", "ERRORCODE errorcode", []search.Span{{0, 9}, {10, 19}}},
		{"日本", "在日本語", []search.Span{{3, 9}}},
		{"語", "在日本語", []search.Span{{9, 12}}},
		{"日語", "在日本語", nil},
		{"foo_bar.baz()", "call foo_bar.baz(1)", []search.Span{{5, 16}}},
		{"baz", "call foo_bar.baz(1)", []search.Span{{13, 16}}},
		{":tada:", "tada :tada:", []search.Span{{5, 11}}},
		{"tada", "tada :tada:", []search.Span{{0, 4}, {6, 10}}},
		{"@ann", "ann and @ann", []search.Span{{8, 12}}},
		{"Straße", "strasse", []search.Span{{0, 7}}},
		{"a b", "a c b", nil},
	} {
		p, ok := search.PhraseOf(c.phrase)
		if got := p.In(text.Analyse(c.in)); !ok || !slices.Equal(got, c.spans) {
			t.Errorf("%q in %q: %v, want %v", c.phrase, c.in, got, c.spans)
		}
	}
}

func TestQuery_Match(t *testing.T) {
	of := func(s string) search.Phrase { p, _ := search.PhraseOf(s); return p }
	q := search.Query{All: []search.Phrase{of("a b"), of("b c"), of("d")}, None: []search.Phrase{of("x")}}
	if where, ok := q.Match(text.Analyse("d a b c")); !ok || !slices.Equal(where, []search.Span{{0, 1}, {2, 7}}) {
		t.Errorf("%v %v", where, ok)
	}
	for _, s := range []string{"d a b c x", "a b c", "d a b", "", "d b c a"} {
		if _, ok := q.Match(text.Analyse(s)); ok {
			t.Errorf("%q matches", s)
		}
	}
}
