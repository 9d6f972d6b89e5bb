package api

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/danielgtaylor/huma/v2"

	"parley/internal/jsontext"
)

// jsonOnly is the one body format. A message must not change silently, so what
// encoding/json would change is refused.
func jsonOnly() map[string]huma.Format {
	f := huma.Format{
		Marshal: func(w io.Writer, v any) error {
			e := json.NewEncoder(w)
			e.SetEscapeHTML(false)
			return e.Encode(v)
		},
		Unmarshal: func(b []byte, v any) error {
			if _, err := jsontext.Check(b); err != nil {
				return fmt.Errorf("the body %w", err)
			}
			return json.Unmarshal(b, v)
		},
	}
	return map[string]huma.Format{"application/json": f, "json": f}
}
