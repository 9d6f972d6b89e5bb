package api

import (
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
)

// jsonOnly is the one body format. encoding/json puts U+FFFD in the place of
// invalid UTF-8, and of half a surrogate pair (\ud800); a message must not change
// silently, so both are refused instead.
func jsonOnly() map[string]huma.Format {
	f := huma.Format{
		Marshal: func(w io.Writer, v any) error {
			e := json.NewEncoder(w)
			e.SetEscapeHTML(false)
			return e.Encode(v)
		},
		Unmarshal: func(b []byte, v any) error {
			if !utf8.Valid(b) {
				return errors.New("the body is not valid UTF-8")
			}
			if halved(b) {
				return errors.New("the body has half a surrogate pair, which is no character")
			}
			return json.Unmarshal(b, v)
		},
	}
	return map[string]huma.Format{"application/json": f, "json": f}
}

// halved reports whether an escape \uXXXX in JSON is half of a surrogate pair
// without the other half beside it.
func halved(b []byte) bool {
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' {
			continue
		}
		r, ok := escaped(b[i:])
		if !ok {
			i++ // the escape of one character, maybe of a backslash
			continue
		}
		i += escapeLen - 1
		if !utf16.IsSurrogate(r) {
			continue
		}
		low, ok := escaped(b[i+1:])
		if !ok || utf16.DecodeRune(r, low) == utf8.RuneError {
			return true
		}
		i += escapeLen
	}
	return false
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
