//go:build engines

package directory_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"parley/cell/directory"
	"parley/internal/problem"
	"parley/internal/topology"
)

// patience is for what has to come, quickly as a rule.
const patience = 30 * time.Second

// peopled is a scratch with the workspace W1, U1 and U2 in it, and U1 in C1.
func peopled(t *testing.T) (scratch, *directory.Directory) {
	t.Helper()
	s := database(t)
	s.cfg.AwayAfter, s.cfg.ConnectTimeout = 500*time.Millisecond, time.Second
	direct := s
	direct.cfg.URL = s.admin.String() // not through the proxy, as a process elsewhere
	if _, secret := s.admin.User.Password(); secret {
		direct.cfg.URL = strings.Replace(s.cfg.URL, s.proxy.Listen, s.proxy.Upstream, 1)
	}
	d := direct.open(t)
	ctx := t.Context()
	if err := d.PutWorkspace(ctx, directory.Workspace{ID: "W1", Epoch: 1, Generation: 1, State: directory.StateOpen}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.PutUsers(ctx, place, []directory.User{{ID: "U1", Name: "ann"}, {ID: "U2", Name: "bob"}}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.CreateChannel(ctx, place, directory.Channel{ID: "C1", Name: "one", CreatedBy: "U1"}, []topology.UserID{"U1"}); err != nil {
		t.Fatal(err)
	}
	return s, d
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	late := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func within(t *testing.T, most time.Duration, what string, do func()) {
	t.Helper()
	began := time.Now()
	do()
	if took := time.Since(began); took > most {
		t.Errorf("%s took %v, more than %v", what, took, most)
	}
}

func isAway(err error) bool {
	p, ok := errors.AsType[*problem.Error](err)
	return ok && p.Kind == problem.Unavailable && p.RetryAfter > 0
}

// Each fault takes the server away in its own way, and gives it back.
func TestPostgres_Outage(t *testing.T) {
	for name, fault := range map[string]struct{ begin, end func(*testing.T, scratch) }{
		"connections cut": {
			func(_ *testing.T, s scratch) { s.proxy.Stop() },
			func(t *testing.T, s scratch) {
				t.Helper()
				if err := s.proxy.Start(); err != nil {
					t.Error(err)
				}
			},
		},
		"silence": { // as of a paused process, or packets that are dropped
			func(t *testing.T, s scratch) { t.Helper(); s.silence(t) },
			func(_ *testing.T, s scratch) { s.proxy.Toxics.ResetToxics(context.Background()) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, elsewhere := peopled(t)
			d := s.open(t)
			cache := directory.NewCache(d, directory.CacheConfig{})
			o := &outage{Cache: cache, t: t, other: elsewhere}
			before := o.askAll()
			fault.begin(t, s)
			within(t, 5*time.Second, "the first answer in an outage", func() {
				eventually(t, "a change is refused", func() bool {
					_, err := cache.AddMembers(t.Context(), place, "C1", []topology.UserID{"U2"}, "U1", time.Now())
					return isAway(err)
				})
			})
			eventually(t, "the outage is known", func() bool { return d.Away() })
			within(t, 5*time.Second, "a thousand answers", func() {
				for range 1000 / len(before) {
					if got := o.askAll(); len(got) != len(before) {
						t.Errorf("%d answers, of %d", len(got), len(before))
					}
				}
			})
			within(t, 2*time.Second, "a hundred refusals", func() {
				for range 100 {
					_, err := cache.User(t.Context(), place, "U2")
					o.wantAway("who is not known", err)
				}
			})
			// A process that still has the server goes on; this one hears of it afterwards.
			if _, err := elsewhere.RemoveMember(t.Context(), place, "C1", "U1", "U1", time.Now()); err != nil {
				t.Fatal(err)
			}
			fault.end(t, s)
			eventually(t, "the directory is back", func() bool { return !d.Away() })
			if _, ok, err := cache.Member(t.Context(), place, "C1", "U1"); ok || err != nil {
				t.Errorf("who was taken out meanwhile is a member: %v, %v", ok, err)
			}
			if _, err := cache.AddMembers(t.Context(), place, "C1", []topology.UserID{"U2"}, "U1", time.Now()); err != nil {
				t.Errorf("a change after the outage: %v", err)
			}
		})
	}
}

// silence lets nothing through, in either direction, and breaks nothing.
func (s scratch) silence(t *testing.T) {
	t.Helper()
	for _, stream := range []string{"upstream", "downstream"} {
		s.toxic(t, `{"name": "`+stream+`", "type": "timeout", "stream": "`+stream+`", "attributes": {"timeout": 0}}`)
	}
}

func (s scratch) toxic(t *testing.T, json string) {
	t.Helper()
	if _, err := s.proxy.Toxics.AddToxicJson(strings.NewReader(json)); err != nil {
		t.Fatal(err)
	}
}

// Slow is not away.
func TestPostgres_SlowAnswers(t *testing.T) {
	s, _ := peopled(t)
	s.cfg.AwayAfter, s.cfg.ConnectTimeout = 5*time.Second, 5*time.Second // a new connection waits for four answers
	d := s.open(t)
	s.toxic(t, `{"name": "slow", "type": "latency", "stream": "downstream", "attributes": {"latency": 300}}`)
	for range 3 {
		if _, err := d.User(t.Context(), place, "U1"); err != nil {
			t.Errorf("a read: %v", err)
		}
	}
	if _, err := d.AddMembers(t.Context(), place, "C1", []topology.UserID{"U2"}, "U1", time.Now()); err != nil {
		t.Errorf("a change: %v", err)
	}
	if d.Away() {
		t.Error("a slow server counts as away")
	}
}

// What changes is heard of in one answer, so caches may go by what they know while each
// answer is slow, and nobody waits for the server who was answered before.
func TestPostgres_SlowAnswersAreFollowed(t *testing.T) {
	s, elsewhere := peopled(t)
	s.cfg.AwayAfter, s.cfg.ConnectTimeout = 2*time.Second, 5*time.Second
	d := s.open(t)
	cache := directory.NewCache(d, directory.CacheConfig{})
	o := &outage{Cache: cache, t: t, other: elsewhere}
	o.askAll()
	s.toxic(t, `{"name": "slow", "type": "latency", "stream": "downstream", "attributes": {"latency": 400}}`)
	ended, cancel := context.WithCancel(t.Context())
	cancel() // it can't be asked
	for _, change := range []func() (directory.Entry, error){
		func() (directory.Entry, error) {
			return elsewhere.RemoveMember(t.Context(), place, "C1", "U1", "U1", time.Now())
		},
		func() (directory.Entry, error) {
			return elsewhere.AddMembers(t.Context(), place, "C1", []topology.UserID{"U1"}, "U1", time.Now())
		},
	} {
		_, was, err := cache.Member(t.Context(), place, "C1", "U1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := change(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a change elsewhere is heard of", func() bool {
			if d.Away() {
				t.Fatal("a slow server counts as away")
			}
			if _, err := cache.User(ended, place, "U1"); err != nil {
				t.Fatalf("a person who was asked for: %v", err)
			}
			if _, err := cache.Workspace(ended, "W1"); err != nil {
				t.Fatalf("a workspace that was asked for: %v", err)
			}
			_, is, err := cache.Member(t.Context(), place, "C1", "U1")
			return err == nil && is != was
		})
	}
}

// onMembers has the server do something when a member's row is made.
func (s scratch) onMembers(t *testing.T, constraint, do string) {
	t.Helper()
	deferred := ""
	if constraint != "" {
		deferred = "DEFERRABLE INITIALLY DEFERRED"
	}
	s.exec(t, `CREATE SEQUENCE tries`,
		`CREATE FUNCTION hook() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN `+do+` RETURN NULL; END $$`,
		`CREATE `+constraint+` TRIGGER hook AFTER INSERT ON members `+deferred+` FOR EACH ROW EXECUTE FUNCTION hook()`)
}

// cutDuring cuts the connection while the server is at a change, and returns how it
// ended for the caller, and whether it was made.
func cutDuring(t *testing.T, constraint string) (err error, made bool) {
	t.Helper()
	s, elsewhere := peopled(t)
	s.onMembers(t, constraint, `PERFORM nextval('tries'); PERFORM pg_sleep(1);`)
	d := s.open(t)
	ended := make(chan error, 1)
	go func() {
		_, err := d.AddMembers(context.WithoutCancel(t.Context()), place, "C1", []topology.UserID{"U2"}, "U1", time.Now())
		ended <- err
	}()
	db, failed := admin(s.admin)
	if failed != nil {
		t.Fatal(failed)
	}
	defer func() { _ = db.Close() }()
	eventually(t, "the server is at the change", func() bool {
		var called bool
		if err := db.QueryRowContext(t.Context(), `SELECT is_called FROM tries`).Scan(&called); err != nil {
			t.Fatal(err)
		}
		return called
	})
	s.proxy.Stop()
	err = <-ended
	eventually(t, "the server has ended it", func() bool { // the counter's lock is free
		_, err := elsewhere.RemoveMember(t.Context(), place, "C1", "U1", "U1", time.Now())
		return err == nil
	})
	_, made, failed = elsewhere.Member(t.Context(), place, "C1", "U2")
	return errors.Join(err, failed), made
}

func TestPostgres_CutBeforeTheCommitIsNotDone(t *testing.T) {
	err, made := cutDuring(t, "")
	if !isAway(err) || made {
		t.Errorf("%v; made: %v", err, made)
	}
}

func TestPostgres_CutDuringTheCommitIsUnknown(t *testing.T) {
	err, made := cutDuring(t, "CONSTRAINT")
	if !problem.Is(err, problem.Unknown) {
		t.Errorf("%v; made: %v", err, made)
	}
	if !made {
		t.Error("the server did not finish the commit: this test shows nothing")
	}
}

// Conflicts between transactions are tried again, a few times.
func TestPostgres_TriesAgain(t *testing.T) {
	for _, state := range []string{"40001", "40P01"} {
		for _, constraint := range []string{"", "CONSTRAINT"} {
			t.Run(state+" "+constraint, func(t *testing.T) {
				s, d := peopled(t)
				s.onMembers(t, constraint, `IF nextval('tries') < 4 THEN RAISE EXCEPTION 'a conflict' USING ERRCODE = '`+state+`'; END IF;`)
				e, err := d.AddMembers(t.Context(), place, "C1", []topology.UserID{"U2"}, "U1", time.Now())
				if err != nil || len(e.Subjects) != 1 {
					t.Errorf("%+v, %v", e, err)
				}
			})
		}
	}
	s, d := peopled(t)
	s.onMembers(t, "", `PERFORM nextval('tries'); RAISE EXCEPTION 'a conflict' USING ERRCODE = '40001';`)
	_, err := d.AddMembers(t.Context(), place, "C1", []topology.UserID{"U2"}, "U1", time.Now())
	if !isAway(err) {
		t.Errorf("conflicts without end: %v", err)
	}
	if n := s.tries(t); n != 4 {
		t.Errorf("tried %d times", n)
	}
}

func (s scratch) tries(t *testing.T) (n int) {
	t.Helper()
	db, err := admin(s.admin)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := db.QueryRowContext(t.Context(), `SELECT last_value FROM tries`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// What takes too long is ended by the server, which is not away for that.
func TestPostgres_Timeouts(t *testing.T) {
	s, elsewhere := peopled(t)
	s.onMembers(t, "", `PERFORM pg_sleep(20);`)
	s.cfg.StatementTimeout, s.cfg.LockTimeout = 300*time.Millisecond, 200*time.Millisecond
	d := s.open(t)
	within(t, 5*time.Second, "a slow statement", func() {
		_, err := d.AddMembers(t.Context(), place, "C1", []topology.UserID{"U2"}, "U1", time.Now())
		if !isAway(err) {
			t.Errorf("a slow statement: %v", err)
		}
	})
	s.exec(t, `DROP TRIGGER hook ON members`)
	if _, err := elsewhere.AddMembers(t.Context(), place, "C1", []topology.UserID{"U2"}, "U1", time.Now()); err != nil {
		t.Fatal(err)
	}
	db, err := admin(s.admin)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.ExecContext(t.Context(), `SELECT 1 FROM workspaces FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "a lock that is not to be had", func() {
		_, err := d.RemoveMember(t.Context(), place, "C1", "U2", "U1", time.Now())
		if !isAway(err) {
			t.Errorf("a locked workspace: %v", err)
		}
	})
	if _, err := d.User(t.Context(), place, "U1"); err != nil || d.Away() {
		t.Errorf("meanwhile a read: %v; away: %v", err, d.Away())
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
}

// The server ends one connection, as an administrator may: nobody notices.
func TestPostgres_EndedConnections(t *testing.T) {
	s, _ := peopled(t)
	d := s.open(t)
	for range 5 {
		s.exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'parley' AND datname = current_database()`)
		if _, err := d.User(t.Context(), place, "U1"); err != nil {
			t.Errorf("a read: %v", err)
		}
		if _, err := d.AddMembers(t.Context(), place, "C1", []topology.UserID{"U2"}, "U1", time.Now()); err != nil {
			t.Errorf("a change: %v", err)
		}
	}
}

func TestPostgres_RostersAtOnce(t *testing.T) {
	s := database(t)
	rostersAtOnce(t, []*directory.Directory{s.open(t), s.open(t), s.open(t)})
}
