package drill

import (
	"context"
	"fmt"
	"os/exec"

	"parley/internal/engineset"
	"parley/internal/roles"
)

// engineSets are the sets of engines that the cells store in, in the order of the
// regions; see tools/engines. They must be up, and empty.
var engineSets = [...]string{"cell-1", "cell-2"} //nolint:gochecknoglobals // a constant table

// engines is what a cell's config says of a set's engines.
func (l *layout) engines(ctx context.Context, script, set string) (roles.Engines, error) {
	return engineset.Set{Script: script, Name: set}.Stores(ctx, l.dir)
}

// engine does something to an engine of the target, or to one of its nodes. Who
// dials one that was killed is refused, as without a wire.
func (w *world) engine(ctx context.Context, do, what string) error {
	ctx, cancel := context.WithTimeout(ctx, engineMax)
	defer cancel()
	if do == "start" {
		for _, to := range w.wiresTo(what) {
			if err := to.Accept(); err != nil {
				return err
			}
		}
	}
	out, err := exec.CommandContext(ctx, w.cfg.Engines, do, engineSets[0], what).CombinedOutput() //nolint:gosec // drills say what to run
	if err != nil {
		return fmt.Errorf("%s %s %s: %w: %s", do, engineSets[0], what, err, out)
	}
	if do == "kill" {
		for _, to := range w.wiresTo(what) {
			to.Refuse()
		}
	}
	return nil
}
