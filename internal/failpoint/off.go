//go:build !failpoints

package failpoint

import (
	"context"
	"net/http"
	"time"
)

// Enabled says whether this build can be broken.
const Enabled = false

// At does what is set at a place: it may block, wait, or end the process, and
// returns the error that is set.
func At(context.Context, string, string) error { return nil }

// Hang is At for what a pause holds up for longer than any deadline: what was
// about to be done is done late.
func Hang(string, string) error { return nil }

// Drop reports whether what is about to leave a place should be lost.
func Drop(string, string) bool { return false }

// Mutant reports whether a step is to be left out.
func Mutant(string) bool { return false }

// Clock is the clock of one part.
func Clock(string) func() time.Time { return time.Now }

// Crashed reports whether ctx was ended by ErrCrash.
func Crashed(context.Context) bool { return false }

// Handler sets and lists failpoints; nil in this build.
func Handler() http.Handler { return nil }
