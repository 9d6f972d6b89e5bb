// Package ids makes the ids that Parley gives out: a letter for the kind and a
// ULID, so that they sort by the time they were made.
package ids

import (
	"time"

	"github.com/oklog/ulid/v2"
)

// Kind is the first letter of an id.
type Kind byte

// The kinds.
const (
	Workspace Kind = 'W'
	Channel   Kind = 'C'
	User      Kind = 'U'
	Audit     Kind = 'A'
	Operator  Kind = 'O'
)

// Len is the length of an id: the letter and 26 characters.
const Len = 1 + ulid.EncodedSize

// New makes an id of the kind.
func New(k Kind) string { return string(rune(k)) + ulid.Make().String() }

// Valid reports whether s has the form of an id of the kind.
func Valid(k Kind, s string) bool {
	if len(s) != Len || s[0] != byte(k) {
		return false
	}
	_, err := ulid.ParseStrict(s[1:])
	return err == nil
}

// Made is when an id of the kind was made, to the millisecond; false if it has not
// that form.
func Made(k Kind, s string) (time.Time, bool) {
	if !Valid(k, s) {
		return time.Time{}, false
	}
	return ulid.MustParse(s[1:]).Timestamp(), true
}
