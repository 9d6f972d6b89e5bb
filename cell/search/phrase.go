package search

import (
	"cmp"
	"slices"
	"strings"

	"parley/cell/search/text"
)

// Phrase is what one word or one quotation of a query looks for: words beside
// each other, or one of some terms that a text has otherwise.
type Phrase struct {
	Words []string // neighbours in text.Text.Words, in order
	Any   []string // any of text.Text.Extras
}

// Span is bytes of a text.
type Span struct{ Start, End int }

// PhraseOf is what a word or a quotation looks for; ok is false if there is
// nothing in it to look for.
func PhraseOf(s string) (p Phrase, ok bool) {
	s = strings.TrimSpace(s)
	t := text.Analyse(s)
	for _, e := range t.Extras {
		if e.Start == 0 && e.End == len(s) && strings.ContainsAny(e.Term[:1], ":@#") {
			return Phrase{Any: []string{e.Term}}, true
		}
	}
	for _, w := range t.Words {
		p.Words = append(p.Words, w.Term)
	}
	if len(p.Words) == 1 {
		p.Any = p.Words
	}
	return p, len(p.Words) > 0
}

// In is where the phrase is in a text: empty if it is not.
func (p Phrase) In(t text.Text) (found []Span) {
	n := len(p.Words)
	for i := 0; n > 0 && i+n <= len(t.Words); i++ {
		if p.at(t.Words[i : i+n]) {
			found = append(found, Span{t.Words[i].Start, t.Words[i+n-1].End})
		}
	}
	for _, e := range t.Extras {
		if slices.Contains(p.Any, e.Term) {
			found = append(found, Span{e.Start, e.End})
		}
	}
	return found
}

func (p Phrase) at(words []text.Token) bool {
	for i, w := range words {
		if w.Term != p.Words[i] {
			return false
		}
	}
	return true
}

// merged sorts spans and joins those that touch.
func merged(spans []Span) []Span {
	slices.SortFunc(spans, func(a, b Span) int { return cmp.Or(a.Start-b.Start, a.End-b.End) })
	out := spans[:0]
	for _, s := range spans {
		if n := len(out); n > 0 && s.Start <= out[n-1].End {
			out[n-1].End = max(out[n-1].End, s.End)
			continue
		}
		out = append(out, s)
	}
	return out
}
