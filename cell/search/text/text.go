// Package text cuts messages and queries into the terms that are searched for. It
// is the only place where search knows about letters: indexes store its terms as
// they are, so that every index gives the same answers.
//
// A text has two kinds of terms. Words are in order, and neighbours in the text
// are neighbours there, so that phrases can be found: "err-42" is the words err
// and 42. Extras are in no order, what a word can also be found by: the parts of
// CamelCase, single characters of scripts that are written without spaces, and
// what is one thing in spite of its signs, such as :tada: or @ann.
package text

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Token is a term and the bytes of the text that it stands for.
type Token struct {
	Term       string
	Start, End int
}

// Text is what a text can be found by.
type Text struct {
	Words  []Token
	Extras []Token
}

const (
	// termRunesMax cuts what no person types: keys, blobs in base64. Engines refuse
	// terms of 32 KiB, and some split them at 255 characters.
	termRunesMax = 64
	// tokensMax bounds each kind of terms. The longest message, in a script of
	// bigrams, has 40,000.
	tokensMax = 50_000
)

// Analyse cuts a text into its terms.
func Analyse(s string) Text {
	c := cutter{s: s}
	for c.at < len(s) {
		c.next()
	}
	return c.out
}

// cutter goes through a text once.
type cutter struct {
	s   string
	at  int
	out Text
}

func (c *cutter) next() {
	r, n := utf8.DecodeRuneInString(c.s[c.at:])
	switch {
	case isDense(r):
		c.dense()
	case isWord(r):
		c.word()
	case r == ':' || r == '@' || r == '#' || r == '!':
		c.thing(r)
		c.at++
	case isPicture(r):
		c.words(Fold(string(r)), c.at, c.at+n)
		c.at += n
	default:
		c.at += n
	}
}

func (c *cutter) words(term string, start, end int) {
	if term != "" && len(c.out.Words) < tokensMax {
		c.out.Words = append(c.out.Words, Token{term, start, end})
	}
}

func (c *cutter) extras(term string, start, end int) {
	if term != "" && len(c.out.Extras) < tokensMax {
		c.out.Extras = append(c.out.Extras, Token{term, start, end})
	}
}

// word takes letters, digits and marks up to what is none of them.
func (c *cutter) word() {
	start := c.at
	c.at = c.while(start, isWord)
	c.words(Fold(c.s[start:c.at]), start, c.at)
	c.camel(start, c.at)
}

// while is where the runes from start on are first not as they should be.
func (c *cutter) while(start int, ok func(rune) bool) int {
	for i, r := range c.s[start:] {
		if !ok(r) {
			return start + i
		}
	}
	return len(c.s)
}

// camel adds the parts of a word like parseHTTPBody: parse, HTTP, Body.
func (c *cutter) camel(start, end int) {
	from, prev, parts := start, rune(0), 0
	for i, r := range c.s[start:end] {
		at := start + i
		if at > from && unicode.IsUpper(r) && (unicode.IsLower(prev) || c.lowerAfter(at, r, end)) {
			c.extras(Fold(c.s[from:at]), from, at)
			from, parts = at, parts+1
		}
		prev = r
	}
	if parts > 0 {
		c.extras(Fold(c.s[from:end]), from, end)
	}
}

// lowerAfter reports whether the rune behind r is of lower case: the last capital
// of HTTPBody begins a word.
func (c *cutter) lowerAfter(at int, r rune, end int) bool {
	after, _ := utf8.DecodeRuneInString(c.s[at+utf8.RuneLen(r) : end])
	return unicode.IsLower(after)
}

// dense takes a run of a script that is written without spaces, and gives each
// two neighbours as a word.
func (c *cutter) dense() {
	end := c.while(c.at, func(r rune) bool { return isDense(r) || unicode.Is(unicode.M, r) })
	var units []Token // a character with its marks each
	for at := c.at; at < end; {
		_, n := utf8.DecodeRuneInString(c.s[at:])
		to := min(end, c.while(at+n, func(r rune) bool { return !isDense(r) }))
		units = append(units, Token{Fold(c.s[at:to]), at, to})
		at = to
	}
	for i, u := range units {
		c.extras(u.Term, u.Start, u.End)
		switch {
		case len(units) == 1:
			c.words(u.Term, u.Start, u.End)
		case i > 0:
			c.words(units[i-1].Term+u.Term, units[i-1].Start, u.End)
		}
	}
	c.at = end
}

// thing adds what is one thing in spite of its signs, and leaves the words in it
// to be found as well: :tada:, @ann, <@U1>, <!channel>, #general, <#C1>.
func (c *cutter) thing(sign rune) {
	if !c.mayBegin(sign) {
		return
	}
	start := c.at
	switch sign {
	case ':':
		if n := shortcode(c.s[start:]); n > 0 {
			c.extras(Fold(c.s[start:start+n]), start, start+n)
		}
	case '!':
		if end := c.name(start + 1); end > start+1 {
			c.extras("@"+Fold(c.s[start+1:end]), start, end)
		}
	default:
		if end := c.name(start + 1); end > start+1 {
			c.extras(string(sign)+Fold(c.s[start+1:end]), start, end)
		}
	}
}

// mayBegin reports whether a thing may begin here: not within a word, as an
// address of e-mail has it.
func (c *cutter) mayBegin(sign rune) bool {
	before, n := utf8.DecodeLastRuneInString(c.s[:c.at])
	if sign == '!' {
		return before == '<'
	}
	return n == 0 || (!isWord(before) && !strings.ContainsRune("_@#.-/&:", before))
}

// name is where a name that begins at start ends, without the signs that end a
// sentence.
func (c *cutter) name(start int) int {
	end := c.while(start, func(r rune) bool { return isWord(r) || isDense(r) || strings.ContainsRune("._-", r) })
	return start + len(strings.TrimRight(c.s[start:end], "._-"))
}

// shortcode is the length of the :name: that s begins with; 0 if it does not.
func shortcode(s string) int {
	for i := 1; i < len(s) && i <= termRunesMax-2; i++ {
		switch b := s[i]; {
		case b == ':' && i > 1:
			return i + 1
		case b >= 'a' && b <= 'z', b >= '0' && b <= '9', b == '_', b == '+', b == '-':
		default:
			return 0
		}
	}
	return 0
}
