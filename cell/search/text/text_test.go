package text_test

import (
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"parley/cell/search/text"
)

func terms(ts []text.Token) (out []string) {
	for _, t := range ts {
		out = append(out, t.Term)
	}
	return out
}

func TestAnalyse(t *testing.T) {
	for _, c := range []struct{ in, words, extras string }{
		{"", "", ""},
		{"Hello, World!", "hello world", ""},
		{"Ärger über Øre, straße, ŒUVRE, naïve, İstanbul, Łódź", "arger uber ore strasse oeuvre naive istanbul lodz", ""},
		{"e\u0301te\u0301", "ete", ""},
		{"ΣΊΣΥΦΟΣ σίσυφος", "σισυφοσ σισυφοσ", ""},
		{"Ёлка Привет", "елка привет", ""},
		{"ﬁne ＡＢＣ１２", "fine abc12", ""},
		{"foo_bar.baz()", "foo bar baz", ""},
		{"err-42 don't", "err 42 don t", ""},
		{"CamelCase parseHTTPBody v2Beta ABC", "camelcase parsehttpbody v2beta abc", "camel case parse http body v2 beta"},
		{"/usr/lib/x.so 10.0.0.1:8080", "usr lib x so 10 0 0 1 8080", ""},
		{"https://Example.com/a?b=ç", "https example com a b c", ""},
		{"日本語", "日本 本語", "日 本 語"},
		{"x日y", "x 日 y", "日"},
		{"がか", "がか", "が か"},
		{"한국어", "한국 국어", "한 국 어"},
		{"ship it :tada: 🎉👍🏽", "ship it tada 🎉 👍", ":tada:"},
		{"12:30:45 a:b:c", "12 30 45 a b c", ""},
		{"@ann <@U01AB> hi@x.org <!channel>", "ann u01ab hi x org channel", "@ann @u01ab @channel"},
		{"ask @ann.lee. in #general,", "ask ann lee in general", "@ann.lee #general"},
		{"\xff\xfea\xffb", "a b", ""},
	} {
		got := text.Analyse(c.in)
		if w, e := strings.Join(terms(got.Words), " "), strings.Join(terms(got.Extras), " "); w != c.words || e != c.extras {
			t.Errorf("%q: words %q, extras %q; want %q, %q", c.in, w, e, c.words, c.extras)
		}
	}
}

func TestAnalyse_LongTermsAreCut(t *testing.T) {
	long := strings.Repeat("ab", 5000)
	got := text.Analyse(long)
	if len(got.Words) != 1 || len(got.Words[0].Term) != 64 || got.Words[0].End != len(long) {
		t.Errorf("%d words, the first %d bytes", len(got.Words), len(got.Words[0].Term))
	}
}

func FuzzAnalyse(f *testing.F) {
	for _, s := range []string{"Hello :tada: 日本 CamelCase <@U1> #x", "a\u0301\u200d\xff", "½ ㎏ … \u00a8", "กำ", "ﷺ"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := text.Analyse(s)
		last := 0
		for _, w := range got.Words {
			if w.Start < last {
				t.Fatalf("%q: word %+v begins before the one before it", s, w)
			}
			last = w.Start
		}
		for _, tok := range slices.Concat(got.Words, got.Extras) {
			if tok.Start < 0 || tok.Start >= tok.End || tok.End > len(s) {
				t.Fatalf("%q: %+v is not in it", s, tok)
			}
			if tok.Term == "" || utf8.RuneCountInString(tok.Term) > 64 || !utf8.ValidString(tok.Term) || strings.ContainsFunc(tok.Term, unicode.IsSpace) {
				t.Fatalf("%q: the term %q", s, tok.Term)
			}
			if again := text.Fold(tok.Term); again != tok.Term {
				t.Fatalf("%q: the term %q folds to %q", s, tok.Term, again)
			}
		}
	})
}

func BenchmarkAnalyse(b *testing.B) {
	s := "The deploy of checkout-api failed again: see https://ci.example.com/job/4711 and ask @ann about parseHTTPBody, naïve as it is"
	b.ReportAllocs()
	for b.Loop() {
		text.Analyse(s)
	}
}
