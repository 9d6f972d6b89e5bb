package directory

import (
	"context"
	"database/sql"
	"log/slog"
	"sync"
	"time"

	"parley/internal/topology"
)

const (
	// watchEvery is how often the engine is asked what has changed: caches follow
	// what other processes write that closely.
	watchEvery = time.Second
	// followMax bounds the changes that are followed one by one. What has changed
	// more meanwhile forgets everything.
	followMax = 10_000
)

// watch asks the engine every second what has changed. The answer keeps caches up
// to date, and it, or its absence, tells whether the engine can be reached: while it
// can't, calls are refused at once, and those under way are ended. A call's own
// fault only has the engine looked at sooner, since one broken connection, or one
// slow query, is no outage.
type watch struct {
	db       *sql.DB       // a connection of its own: waiting calls must not look like an outage
	callMax  time.Duration // how long a call may take
	awayMax  time.Duration // silence for longer than this is an outage
	staleMax time.Duration // how long caches may answer without the engine
	renew    func()        // forgets idle connections, which may be dead without knowing
	now      func() time.Time
	log      *slog.Logger
	sooner   chan struct{}
	life     context.Context //nolint:containedctx // ends with stop
	cancel   context.CancelFunc
	work     sync.WaitGroup

	cursor uint64 // the counter at the last look; the looking goroutine's alone

	mu        sync.Mutex
	away      error           // nil while the engine can be reached
	reach     context.Context //nolint:containedctx // ends when it can't be any more
	cut       context.CancelCauseFunc
	asOf      time.Time // when the engine was last asked of those questions that it answered
	listeners []listener
}

// listener hears of changes that this or another process made.
type listener interface {
	changed(c changes)
	changedAny()
}

// changes are what to ask for again.
type changes struct {
	workspaces []topology.WorkspaceID
	members    []memberKey
}

// start looks once, so that the engine's state is known and its statement prepared, and
// then goes on.
func (w *watch) start(ctx context.Context) error {
	w.sooner = make(chan struct{}, 1)
	w.reach, w.cut = context.WithCancelCause(context.WithoutCancel(ctx))
	head, err := w.head(ctx)
	if err != nil {
		return err
	}
	w.cursor, w.asOf = head, w.now()
	if err := w.follow(ctx); err != nil {
		return err
	}
	w.life, w.cancel = context.WithCancel(context.WithoutCancel(ctx))
	w.beside(w.run)
	return nil
}

// beside has something done until the watch stops.
func (w *watch) beside(do func(ctx context.Context)) {
	if w != nil {
		w.work.Go(func() { do(w.life) })
	}
}

// stop ends the looking.
func (w *watch) stop() error {
	if w == nil {
		return nil
	}
	w.cancel()
	w.work.Wait()
	return w.db.Close()
}

func (w *watch) run(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-w.sooner:
		}
		w.poll(ctx)
	}
}

// look has the engine asked now, not at the next second.
func (w *watch) look() {
	select {
	case w.sooner <- struct{}{}:
	default: // it will be
	}
}

func (w *watch) poll(ctx context.Context) {
	asked := w.now()
	ask, cancel := context.WithTimeout(ctx, w.awayMax)
	defer cancel()
	err := w.follow(ask)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		w.gone(err)
	default:
		w.here(asked)
	}
}

func (w *watch) gone(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away != nil {
		return
	}
	w.log.Warn("the directory can't be reached; what is known is served for a while", "err", err)
	w.away = unreachable(err)
	w.cut(w.away)
}

func (w *watch) here(asked time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asOf = asked
	if w.away == nil {
		return
	}
	w.renew()
	w.log.Info("the directory can be reached again")
	w.away = nil
	w.reach, w.cut = context.WithCancelCause(context.WithoutCancel(w.reach))
}

// enter begins a call that ends when the engine goes away; done is to be called.
func (w *watch) enter(ctx context.Context) (_ context.Context, done func(), _ error) {
	w.mu.Lock()
	away, reach := w.away, w.reach
	w.mu.Unlock()
	if away != nil {
		return nil, nil, away
	}
	ctx, cancel := context.WithTimeout(ctx, w.callMax)
	ctx, cut := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(reach, func() { cut(context.Cause(reach)) })
	return ctx, func() {
		unhook()
		cut(nil)
		cancel()
	}, nil
}

// why is the outage that ended a call, if one did.
func (w *watch) why(ctx context.Context) error {
	if err := context.Cause(ctx); isUnreachable(err) {
		return err
	}
	return nil
}

// mayServe reports whether what was known when the engine was last heard of may be
// an answer still, also to somebody who keeps it for a time.
func (w *watch) mayServe(keptFor time.Duration) bool {
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now().Sub(w.asOf)+keptFor <= w.staleMax
}

// heardWithin reports whether the listeners have been told of all changes up to d ago.
func (w *watch) heardWithin(d time.Duration) bool {
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.away == nil && w.now().Sub(w.asOf) < d
}

func (w *watch) listen(l listener) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listeners = append(w.listeners, l)
}

func (w *watch) tell(do func(l listener)) {
	w.mu.Lock()
	ls := w.listeners
	w.mu.Unlock()
	for _, l := range ls {
		do(l)
	}
}

func (w *watch) head(ctx context.Context) (head uint64, err error) {
	err = w.db.QueryRowContext(ctx, `SELECT value FROM counters WHERE name = 'outbox'`).Scan(&head)
	return head, err
}

// follow tells the listeners what has changed since it last did. A number is seen by
// everybody when it is committed, and they are committed in order: up to a head that
// was read, none is missing. It asks once, however much has changed: of a server whose
// answers are slow, more questions would take longer than answers may be old.
func (w *watch) follow(ctx context.Context) error {
	rows, err := rowsOf(ctx, w.db, scanNews, newsQuery, number(w.cursor), followMax+1)
	if err != nil {
		return err
	}
	var head uint64
	var c changes
	for _, n := range rows {
		switch n.kind {
		case newsHead:
			head = n.number
		case newsWorkspace:
			c.workspaces = append(c.workspaces, n.member.Workspace)
		case newsMember:
			c.members = append(c.members, n.member)
		}
	}
	switch {
	case head == w.cursor:
		return nil
	case head > w.cursor && head-w.cursor <= followMax && max(len(c.members), len(c.workspaces)) <= followMax && len(c.members)+len(c.workspaces) > 0:
		w.tell(func(l listener) { l.changed(c) })
	default: // too much, or the database is from a backup
		w.tell(listener.changedAny)
	}
	w.cursor = head
	return nil
}

// The kinds of news.
const (
	newsHead = iota
	newsWorkspace
	newsMember
)

// newsQuery is one statement, so that all its rows are of one moment.
const newsQuery = `SELECT 0, '', 0, '', '', value FROM counters WHERE name = 'outbox'
	UNION ALL SELECT 1, id, 0, '', '', changed FROM (SELECT id, changed FROM workspaces WHERE changed > $1 LIMIT $2) AS w
	UNION ALL SELECT 2, workspace, generation, channel, member, entry FROM
		(SELECT workspace, generation, channel, member, entry FROM user_changes WHERE entry > $1 LIMIT $2) AS m`

type news struct {
	kind   int
	member memberKey
	number uint64
}

func scanNews(s scanner) (n news, err error) {
	err = s.Scan(&n.kind, &n.member.Workspace, &n.member.Generation, &n.member.channel, &n.member.user, &n.number)
	return n, err
}
