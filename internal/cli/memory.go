package cli

import (
	"os"
	"runtime/debug"
)

// gcPercent is how much garbage a server lets grow beside what lives, in percent
// of it. Most of what lives belongs to sockets that say nothing: Go's default of
// 100 would have each cost its own size again. Less than 50 costs more CPU than it
// saves memory.
const gcPercent = 50

// thrifty sets the garbage collector for a server, unless $GOGC does.
func thrifty() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
