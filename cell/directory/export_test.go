package directory

import (
	"context"
	"errors"
	"time"
)

// Kept is how many users a cache holds.
func (c *Cache) Kept() int { return c.users.kept() }

// AskAhead asks what an outage would leave unknown.
func (c *Cache) AskAhead(ctx context.Context) { c.askAhead(ctx) }

// Outage makes a directory on SQLite one whose engine can go away. Nothing looks at
// the engine but Poll.
type Outage struct {
	w *watch
	d *Directory
}

// Watch begins before the directory's cache is made.
func (d *Directory) Watch(ctx context.Context, staleMax time.Duration) (Outage, error) {
	w := &watch{db: d.read, callMax: time.Minute, awayMax: time.Minute, staleMax: staleMax, renew: func() {}, now: d.now, log: d.log}
	if err := w.start(ctx); err != nil {
		return Outage{}, err
	}
	w.cancel() // no ticks of a real clock
	w.work.Wait()
	d.watch = w
	return Outage{w, d}, nil
}

// Begin takes the engine away.
func (o Outage) Begin() { o.w.gone(errors.New("a test took it away")) }

// Poll looks at the engine.
func (o Outage) Poll(ctx context.Context) { o.w.poll(ctx) }

// Enter begins a call.
func (o Outage) Enter(ctx context.Context) (context.Context, func(), error) { return o.w.enter(ctx) }

// FollowMax is how many changes are followed one by one.
const FollowMax = followMax

// Skip raises the counter, as so many changes would.
func (o Outage) Skip(ctx context.Context, n int) error {
	_, err := o.d.write.ExecContext(ctx, `UPDATE counters SET value = value + $1 WHERE name = 'outbox'`, n)
	return err
}

// Away reports whether the engine counts as away.
func (d *Directory) Away() bool {
	d.watch.mu.Lock()
	defer d.watch.mu.Unlock()
	return d.watch.away != nil
}
