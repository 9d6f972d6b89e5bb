// Package query reads what a person types into a search box.
//
//	deploy failed            both words, in any order
//	"deploy failed"          beside each other
//	-staging -"dry run"      not these
//	from:ann in:#ops         by a user, in a channel; several: any of them
//	before:2026-03-01        older than the day, the month (2026-03) or the year
//	after:2026-03            newer than it; also a time, 2026-03-01T12:00:00Z
package query

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"parley/cell/search"
	"parley/internal/problem"
)

// Limits of a query.
const (
	RunesMax   = 500 // of the whole
	PhrasesMax = 30  // words and quotations
	WordsMax   = 100 // in all of them together
	NamesMax   = 20  // of from: and of in: each
)

// Query is what was typed; names are not looked up yet.
type Query struct {
	All, None []search.Phrase
	From, In  []string // as typed, without @ and #
	After     time.Time
	Before    time.Time // zero = no bound
}

// Parse reads a query. What is wrong is kind Invalid and named.
func Parse(s string) (Query, error) {
	if n := utf8.RuneCountInString(s); n > RunesMax {
		return Query{}, problem.Field("q", "has %d characters; at most %d are searched for", n, RunesMax)
	}
	if !utf8.ValidString(s) {
		return Query{}, problem.Field("q", "is not valid UTF-8")
	}
	var q Query
	for p := (parser{rest: s}); ; {
		t, more, err := p.next()
		if err != nil {
			return Query{}, err
		}
		if !more {
			break
		}
		if err := q.add(t); err != nil {
			return Query{}, err
		}
	}
	return q, q.check()
}

func (q *Query) check() error {
	words := 0
	for _, ps := range [][]search.Phrase{q.All, q.None} {
		for _, p := range ps {
			words += max(len(p.Words), 1)
		}
	}
	switch {
	case len(q.All)+len(q.None) > PhrasesMax:
		return problem.Field("q", "has more than %d words and quotations", PhrasesMax)
	case words > WordsMax:
		return problem.Field("q", "its quotations have more than %d words", WordsMax)
	case len(q.From) > NamesMax || len(q.In) > NamesMax:
		return problem.Field("q", "has more than %d from: or in:", NamesMax)
	case len(q.All)+len(q.From)+len(q.In) > 0:
		return nil
	case len(q.None) > 0:
		return problem.Field("q", "only says what to leave out; add a word to look for, from: or in:")
	default:
		return problem.Field("q", "must hold a word to look for, from: or in:")
	}
}

// term is one part of a query.
type term struct {
	minus bool
	op    string // "from", "in", "before", "after"; "" = a word or a quotation
	value string
	said  string // as it was typed
}

// parser cuts a query into terms.
type parser struct{ rest string }

// next is the next term; more is false at the end.
func (p *parser) next() (t term, more bool, err error) {
	p.rest = strings.TrimLeftFunc(p.rest, unicode.IsSpace)
	if p.rest == "" {
		return t, false, nil
	}
	begin := p.rest
	if len(p.rest) > 1 && p.rest[0] == '-' && p.rest[1] != '-' {
		t.minus, p.rest = true, p.rest[1:]
	}
	for _, op := range []string{"from", "in", "before", "after"} {
		if len(p.rest) > len(op) && p.rest[len(op)] == ':' && strings.EqualFold(p.rest[:len(op)], op) {
			t.op, p.rest = op, p.rest[len(op)+1:]
			break
		}
	}
	t.value, err = p.value()
	t.said = begin[:len(begin)-len(p.rest)]
	return t, true, err
}

// value takes a quotation, or what stands up to the next space.
func (p *parser) value() (v string, err error) {
	if q, ok := openQuote(p.rest); ok {
		inner := p.rest[len(q):]
		end := strings.IndexFunc(inner, isCloseQuote)
		if end < 0 {
			return "", problem.Field("q", "the quotation %s is not closed", shorten(p.rest))
		}
		_, n := utf8.DecodeRuneInString(inner[end:])
		p.rest = inner[end+n:]
		return inner[:end], nil
	}
	end := strings.IndexFunc(p.rest, func(r rune) bool { return unicode.IsSpace(r) || r == '"' })
	if end < 0 {
		end = len(p.rest)
	}
	v, p.rest = p.rest[:end], p.rest[end:]
	return v, nil
}

// openQuote is the quotation mark that s begins with; phones type the curly ones.
func openQuote(s string) (string, bool) {
	for _, q := range []string{`"`, "“", "„", "”"} {
		if strings.HasPrefix(s, q) {
			return q, true
		}
	}
	return "", false
}

func isCloseQuote(r rune) bool { return r == '"' || r == '”' || r == '“' }

const shownMax = 40

// shorten is a piece of a query as an error shows it.
func shorten(s string) string {
	if r := []rune(s); len(r) > shownMax {
		return string(r[:shownMax]) + "…"
	}
	return s
}

func (q *Query) add(t term) error {
	if t.op != "" && t.minus {
		return problem.Field("q", "%s: only words and quotations can be left out with -", shorten(t.said))
	}
	if t.op != "" && strings.TrimSpace(t.value) == "" {
		return problem.Field("q", "%s: names nothing; write it without a space behind the colon", t.op)
	}
	switch t.op {
	case "from":
		q.From = append(q.From, strings.TrimPrefix(t.value, "@"))
	case "in":
		q.In = append(q.In, strings.TrimPrefix(t.value, "#"))
	case "before", "after":
		first, end, ok := Moment(t.value)
		switch {
		case !ok:
			return problem.Field("q", "%s:%s is no date: write %s", t.op, shorten(t.value), MomentForms)
		case t.op == "after" && end.After(q.After):
			q.After = end
		case t.op == "before" && (q.Before.IsZero() || first.Before(q.Before)):
			q.Before = first
		}
	default:
		q.phrase(t)
	}
	return nil
}

// phrase adds a word or a quotation. What holds nothing to look for, such as a
// dash between words, is passed over.
func (q *Query) phrase(t term) {
	p, ok := search.PhraseOf(t.value)
	switch {
	case !ok:
	case t.minus:
		q.None = append(q.None, p)
	default:
		q.All = append(q.All, p)
	}
}

// Moment reads a year, a month, a day or a time, and says where it begins and
// ends. Days are UTC's.
func Moment(s string) (first, end time.Time, ok bool) {
	for _, f := range []struct {
		layout        string
		years, months int
		days          int
	}{{layout: "2006", years: 1}, {layout: "2006-01", months: 1}, {layout: "2006-01-02", days: 1}} {
		if t, err := time.Parse(f.layout, s); err == nil {
			return t, t.AddDate(f.years, f.months, f.days), true
		}
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	return t, t.Add(time.Microsecond), err == nil
}

// MomentForms is how to write a moment, for errors.
const MomentForms = "2026, 2026-03, 2026-03-01 or 2026-03-01T12:00:00Z"
