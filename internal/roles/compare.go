package roles

import (
	"context"
	"errors"
	"log/slog"

	"parley/cell/agree"
)

// CompareStores compares what the stores of a cell say of each other. Embedded ones
// belong to one process, so their cell must not run meanwhile; nobody should write
// to the others.
func CompareStores(ctx context.Context, c Cell, log *slog.Logger, progress func(agree.Counts)) (_ agree.Report, err error) {
	if err := c.Validate(); err != nil {
		return agree.Report{}, err
	}
	if !c.sharedStores() {
		unlock, err := lock(c.Dir, c.who())
		if err != nil {
			return agree.Report{}, err
		}
		defer unlock()
	}
	s, err := c.openStores(ctx, log, newMetricSet())
	if err != nil {
		return agree.Report{}, err
	}
	defer func() { err = errors.Join(err, s.closeAll()) }()
	return agree.Compare(ctx, agree.Stores{Directory: s.rows, Log: s.messages, History: s.history, Events: s.events, Marks: s.marks, Index: s.index}, progress)
}
