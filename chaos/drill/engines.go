package drill

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"parley/internal/engineset"
	"parley/internal/roles"
)

// engineSets are the sets of engines that the cells store in, in the order of the
// regions; see tools/engines. They must be up, and empty.
var engineSets = [...]string{"cell-1", "cell-2"} //nolint:gochecknoglobals // a constant table

// engines is what a cell's config says of a set's engines.
func (l *layout) engines(ctx context.Context, script, set string) (roles.Engines, error) {
	return engineset.Set{Script: script, Name: set}.Stores(ctx, l.Dir)
}

// away is how long an engine is away in a drill that has it be away for d.
func (w *world) away(d time.Duration) time.Duration {
	if w.cfg.Away > 0 {
		return w.cfg.Away
	}
	return w.scaled(d)
}

// agreeMax is how long the target's workers may take to catch up after the last drill.
const (
	agreeMax   = 3 * time.Minute
	agreeEvery = 5 * time.Second
)

// storesAgree compares the target's stores after all drills, until they agree: what
// was acked is in the log and, once the workers have caught up, everywhere else, once.
func (w *world) storesAgree(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, agreeMax)
	defer cancel()
	for {
		out, err := w.cli(ctx, "check", "stores", "--config", w.ConfigFile(w.targetCell().units[0].name))
		if err == nil {
			fmt.Fprintf(w.cfg.Out, "the stores of %s agree:\n%s", w.targetCell().id, out)
			return nil
		}
		if w.wait(ctx, agreeEvery) != nil {
			return fmt.Errorf("the stores of %s do not agree: %w: %s", w.targetCell().id, err, out)
		}
	}
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
