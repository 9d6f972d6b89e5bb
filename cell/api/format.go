package api

import (
	"encoding/json"
	"errors"
	"io"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
)

// jsonOnly is the one body format. encoding/json puts U+FFFD in the place of
// invalid UTF-8; a message must not change silently, so it is refused instead.
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
			return json.Unmarshal(b, v)
		},
	}
	return map[string]huma.Format{"application/json": f, "json": f}
}
