package text

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// isWord reports whether a rune belongs to a word.
func isWord(r rune) bool {
	if r < utf8.RuneSelf {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
	}
	return (unicode.IsLetter(r) || unicode.IsNumber(r) || unicode.Is(unicode.M, r)) && !isDense(r) && !isJoiner(r)
}

// isDense reports whether a rune is of a script that is written without spaces
// between words. Korean has spaces, but its words end in many ways.
func isDense(r rune) bool {
	return r >= 0x0e00 && unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul,
		unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar) && !unicode.Is(unicode.M, r)
}

// isJoiner reports whether a rune only changes how the one before it looks.
func isJoiner(r rune) bool {
	return r == 0x200d || r >= 0xfe00 && r <= 0xfe0f || r >= 0x1f3fb && r <= 0x1f3ff || r == 0x20e3
}

// isPicture reports whether a rune is a picture that people look for.
func isPicture(r rune) bool {
	return r > 0x2000 && r != utf8.RuneError && unicode.In(r, unicode.So, unicode.Sk) && !isJoiner(r)
}

// accents are the marks that people leave out when they type. Others make another
// letter: が is not か.
var accents = &unicode.RangeTable{ //nolint:gochecknoglobals // a constant table
	R16: []unicode.Range16{
		{0x0300, 0x036f, 1},                                                                                     // Latin, Greek, Cyrillic
		{0x0591, 0x05bd, 1}, {0x05bf, 0x05bf, 1}, {0x05c1, 0x05c2, 1}, {0x05c4, 0x05c5, 1}, {0x05c7, 0x05c7, 1}, // Hebrew points
		{0x064b, 0x065f, 1}, {0x0670, 0x0670, 1}, // Arabic vowels
		{0x1ab0, 0x1aff, 1}, {0x1dc0, 0x1dff, 1}, {0x20d0, 0x20ff, 1},
	},
}

// spelled are letters that no decomposition takes apart, as people type them.
var spelled = map[rune]string{ //nolint:gochecknoglobals // a constant table
	'ß': "ss", 'ẞ': "ss", 'æ': "ae", 'œ': "oe", 'ø': "o", 'đ': "d", 'ð': "d", 'ħ': "h", 'ı': "i", 'ł': "l", 'þ': "th", 'ŧ': "t", 'ς': "σ",
}

// Fold makes what people take for the same word the same term: without case,
// accents and typographic forms.
func Fold(s string) string {
	if ascii(s) {
		return cut(strings.ToLower(s))
	}
	var b strings.Builder
	for _, r := range norm.NFKD.String(strings.ToValidUTF8(s, "")) {
		switch r = unicode.ToLower(r); {
		case unicode.Is(accents, r), unicode.IsSpace(r), unicode.IsControl(r), isJoiner(r):
		case spelled[r] != "":
			b.WriteString(spelled[r])
		default:
			b.WriteRune(r)
		}
	}
	return cut(norm.NFC.String(b.String()))
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// cut cuts a term to termRunesMax.
func cut(s string) string {
	if len(s) <= termRunesMax {
		return s
	}
	n := 0
	for i := range s {
		if n++; n > termRunesMax {
			return s[:i]
		}
	}
	return s
}
