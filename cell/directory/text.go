package directory

import (
	"strings"
	"unicode/utf8"

	"parley/internal/problem"
	"parley/internal/topology"
)

// keyBytesMax bounds what is in an index: Postgres takes some 2,700 bytes for all
// of an index's columns.
const keyBytesMax = 800

// storable reports whether every engine can keep the text. SQLite would take
// anything, so what one cell has could not be moved to another.
func storable(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }

// text refuses what can't be kept.
func text(field, s string) error {
	if !storable(s) {
		return problem.Field(field, "must be valid UTF-8 without NUL")
	}
	return nil
}

// key is text for what is in an index.
func key(field, s string) error {
	if len(s) > keyBytesMax {
		return problem.Field(field, "must have at most %d bytes", keyBytesMax)
	}
	return text(field, s)
}

// unstorable reports whether a query asks for what no row can have.
func unstorable(args []any) bool {
	for _, a := range args {
		var s string
		switch a := a.(type) {
		case string:
			s = a
		case topology.WorkspaceID:
			s = string(a)
		case topology.UserID:
			s = string(a)
		case topology.ChannelID:
			s = string(a)
		}
		if !storable(s) {
			return true
		}
	}
	return false
}

// storableOf leaves out what nobody can be called.
func storableOf[S ~string](in []S) []S {
	out := make([]S, 0, len(in))
	for _, s := range in {
		if storable(string(s)) {
			out = append(out, s)
		}
	}
	return out
}
