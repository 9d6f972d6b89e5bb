// Package jsontext finds what encoding/json would change silently: it puts U+FFFD
// in the place of invalid UTF-8, and of half a surrogate pair (\ud800).
package jsontext

import (
	"bytes"
	"errors"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// What is wrong with a text.
var (
	ErrUTF8   = errors.New("is not valid UTF-8")
	ErrHalved = errors.New("has half a surrogate pair, which is no character")
)

// Check says what is wrong with JSON as a text, and at which byte.
func Check(b []byte) (offset int, err error) {
	if !utf8.Valid(b) {
		return invalid(b), ErrUTF8
	}
	if at, ok := halved(b); ok {
		return at, ErrHalved
	}
	return 0, nil
}

func invalid(b []byte) int {
	at := 0
	for at < len(b) {
		r, n := utf8.DecodeRune(b[at:])
		if r == utf8.RuneError && n == 1 {
			break
		}
		at += n
	}
	return at
}

// halved finds an escape \uXXXX that is half of a surrogate pair without the other
// half beside it.
func halved(b []byte) (at int, found bool) {
	for i := 0; i < len(b); i++ {
		next := bytes.IndexByte(b[i:], '\\')
		if next < 0 {
			return 0, false
		}
		i += next
		r, ok := escaped(b[i:])
		if !ok {
			i++ // the escape of one character, maybe of a backslash
			continue
		}
		at = i
		i += escapeLen - 1
		if !utf16.IsSurrogate(r) {
			continue
		}
		low, ok := escaped(b[i+1:])
		if !ok || utf16.DecodeRune(r, low) == utf8.RuneError {
			return at, true
		}
		i += escapeLen
	}
	return 0, false
}

// escapeLen is the length of \uXXXX.
const escapeLen = 6

func escaped(b []byte) (rune, bool) {
	if len(b) < escapeLen || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[2:escapeLen]), 16, 16)
	return rune(n), err == nil
}
