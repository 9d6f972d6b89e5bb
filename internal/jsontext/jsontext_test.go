package jsontext_test

import (
	"errors"
	"testing"

	"parley/internal/jsontext"
)

func TestCheck(t *testing.T) {
	for in, want := range map[string]struct {
		at  int
		err error
	}{
		`"é \ufffd \\ud800 \ud83d\ude00 \"\\"`: {},
		"\"a\xff\"":                            {2, jsontext.ErrUTF8},
		"\"\ufffd\xc3\"":                       {4, jsontext.ErrUTF8},
		`"\ud800"`:                             {1, jsontext.ErrHalved},
		`"\ud83d\ude00\ude00"`:                 {13, jsontext.ErrHalved},
		`"\ud800\u0041"`:                       {1, jsontext.ErrHalved},
		`\`:                                    {},
		`\u12`:                                 {},
		`\\\ud800`:                             {2, jsontext.ErrHalved},
	} {
		if at, err := jsontext.Check([]byte(in)); at != want.at || !errors.Is(err, want.err) {
			t.Errorf("%q: %v at %d", in, err, at)
		}
	}
}
