// Package roles wires each role from its config: it is the only place that knows
// which driver stands behind which interface, and in which order a role's parts
// start and stop.
package roles

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"parley/internal/problem"
	"parley/internal/topology"
)

// incarnation is higher than that of every former run on the same directory,
// whatever the clock does between them.
func incarnation(dir string, now time.Time) (topology.Incarnation, error) {
	file := filepath.Join(dir, "incarnation.json")
	var last topology.Incarnation
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &last)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, problem.Wrap(err, problem.Internal, "%s can't be read", file)
	}
	next := max(last+1, topology.Incarnation(now.UnixMilli()))
	if b, err = json.Marshal(next); err == nil {
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		return 0, problem.Wrap(err, problem.Internal, "%s can't be written", file)
	}
	return next, nil
}

// makeDir makes a role's directory.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return problem.Wrap(err, problem.Internal, "the directory %s can't be made", dir)
	}
	return nil
}

// untilDone is the Run of a part that only has to exist: it begins, is ready, and
// ends with ctx.
func untilDone(begin func(ctx context.Context) (end func(), err error)) func(context.Context, func()) error {
	return func(ctx context.Context, ready func()) error {
		end, err := begin(ctx)
		if err != nil {
			return err
		}
		ready()
		<-ctx.Done()
		end()
		return nil
	}
}
