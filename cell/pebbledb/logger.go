package pebbledb

import (
	"errors"
	"fmt"
)

// pebbleLogger turns Pebble's logging into slog records. Pebble expects Fatalf
// to end the process; here it takes the database out of use, and whoever runs
// the process decides (DB.Failed).
type pebbleLogger struct{ db *DB }

// Infof drops Pebble's account of flushes and compactions to the debug level.
func (l pebbleLogger) Infof(format string, args ...any) {
	l.db.log.Debug("pebble", "step", fmt.Sprintf(format, args...))
}

// Errorf logs what Pebble could not do in the background and will try again.
func (l pebbleLogger) Errorf(format string, args ...any) {
	l.db.log.Error("pebble", "err", fmt.Sprintf(format, args...))
}

// Fatalf latches the database. The cause is among the arguments as an error, but
// formatted with %v: it is joined, so that a full disk is known as one.
func (l pebbleLogger) Fatalf(format string, args ...any) {
	errs := []error{fmt.Errorf(format, args...)}
	for _, a := range args {
		if err, ok := a.(error); ok {
			errs = append(errs, err)
		}
	}
	l.db.fail(errors.Join(errs...))
}
