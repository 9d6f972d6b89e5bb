//go:build failpoints

package sim_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"parley/controlplane"
	"parley/controlplane/controltest"
	"parley/internal/failpoint"
	controlv1 "parley/internal/gen/parley/control/v1"
	"parley/internal/gen/parley/control/v1/controlv1connect"
	"parley/internal/pki"
)

const (
	nodes    = 3
	raftPort = 4
	ctlPort  = 5
	callers  = 4
	callMax  = 20 * time.Second
	callGap  = 4 * time.Second // between two calls of a caller, at most
)

// council is the control plane's nodes.
type council struct {
	*parts
	ca    *pki.Authority
	net   *wires
	dir   string
	peers []controlplane.Peer
	web   *http.Transport
	stale bool // callers take what the node they ask has: what linearizable reads are for
}

func nodeID(i int) string   { return fmt.Sprintf("n%d", i+1) }
func nodeHost(i int) string { return fmt.Sprintf("10.0.3.%d", i+1) }

func newCouncil(t *testing.T, seed uint64) *council {
	t.Helper()
	dir := t.TempDir()
	c := &council{parts: newParts(t), net: newWires(seed), dir: dir}
	var err error
	c.ca, err = pki.OpenAuthority(filepath.Join(dir, "ca"))
	must(t, err)
	for i := range nodes {
		c.peers = append(c.peers, controlplane.Peer{
			ID: nodeID(i), RaftAddr: fmt.Sprintf("%s:%d", nodeHost(i), raftPort), APIURL: fmt.Sprintf("https://%s:%d", nodeHost(i), ctlPort),
		})
	}
	operator, err := c.ca.Issue(pki.Identity{Role: pki.RoleControl, Name: "operator"}, nil)
	must(t, err)
	tls := operator.Public()
	tls.Certificates, tls.RootCAs = nil, c.ca.CAPool()
	c.web = &http.Transport{DialContext: c.net.of("192.0.2.1").DialContext, TLSClientConfig: tls, ForceAttemptHTTP2: true}
	t.Cleanup(func() {
		c.web.CloseIdleConnections()
		c.stopAll()
	})
	var all sync.WaitGroup // none is ready before there is a leader
	for i := range nodes {
		all.Go(func() { c.startNode(i) })
	}
	all.Wait()
	return c
}

func (c *council) startNode(i int) {
	p := c.peers[i]
	cert, err := c.ca.Issue(pki.Identity{Role: pki.RoleControl, Name: p.ID}, []string{nodeHost(i)})
	must(c.t, err)
	n, err := controlplane.New(controlplane.Config{
		ID: p.ID, RaftAddr: p.RaftAddr, APIAddr: strings.TrimPrefix(p.APIURL, "https://"), Peers: c.peers, Dir: filepath.Join(c.dir, p.ID),
		BootstrapToken: controltest.Secret, SnapshotEvery: 128,
	}, controlplane.Deps{Identity: cert, Now: time.Now, Log: slog.New(slog.DiscardHandler), Net: c.net.of(nodeHost(i))})
	must(c.t, err)
	c.start(p.ID, n.Run)
}

func (c *council) client(i int) controlv1connect.ControlServiceClient {
	return controlv1connect.NewControlServiceClient(&http.Client{Transport: c.web}, c.peers[i].APIURL,
		connect.WithInterceptors(controltest.Bearer(controltest.Secret)))
}

// deed is one creation or revocation of a token, as its caller saw it.
type deed struct {
	name       string
	revoke     bool
	began, end time.Time // end zero: the outcome is unknown
}

// look is one reading of the list.
type look struct {
	began, end time.Time
	names      map[string]bool
}

// ledger is what all callers did and saw.
type ledger struct {
	mu      sync.Mutex
	changes []deed
	looks   []look
}

func (l *ledger) add(c deed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes = append(l.changes, c)
}

// call has a caller create, revoke and list tokens at any node until ctx ends.
func (c *council) call(ctx context.Context, caller int, r *rand.Rand, l *ledger) {
	ids := map[string]string{}
	for n := 0; ctx.Err() == nil; n++ {
		one, cancel := context.WithTimeout(context.Background(), callMax)
		at := c.client(r.IntN(nodes))
		switch began := time.Now(); r.IntN(4) {
		case 0:
			name := fmt.Sprintf("token-%d-%d", caller, n)
			res, err := at.CreateOperatorToken(one, connect.NewRequest(&controlv1.CreateOperatorTokenRequest{Name: name}))
			done := deed{name: name, began: began}
			if err == nil {
				done.end = time.Now()
				ids[name] = res.Msg.GetOperatorToken().GetId()
			}
			l.add(done)
		case 1:
			for name, id := range ids {
				_, err := at.RevokeOperatorToken(one, connect.NewRequest(&controlv1.RevokeOperatorTokenRequest{Id: id}))
				done := deed{name: name, revoke: true, began: began}
				if err == nil {
					done.end = time.Now()
				}
				l.add(done)
				delete(ids, name)
				break
			}
		default:
			c.look(one, at, l)
		}
		cancel()
		time.Sleep(time.Duration(r.Int64N(int64(callGap))))
	}
}

// look reads the whole list, page by page: each page is as fresh as its call, so
// only lists of one page are one reading.
func (c *council) look(ctx context.Context, at controlv1connect.ControlServiceClient, l *ledger) {
	seen := look{began: time.Now(), names: map[string]bool{}}
	req := connect.NewRequest(&controlv1.ListOperatorTokensRequest{Page: &controlv1.Page{Size: pageMax}})
	if c.stale {
		req.Header().Set(controlplane.HeaderConsistency, "stale")
	}
	res, err := at.ListOperatorTokens(ctx, req)
	if err != nil {
		return
	}
	if res.Msg.GetNextPageToken() != "" {
		c.t.Errorf("more than %d tokens live", pageMax)
	}
	seen.end = time.Now()
	for _, t := range res.Msg.GetTokens() {
		seen.names[t.GetName()] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looks = append(l.looks, seen)
}

const pageMax = 500

// wrong is the first reading that no order of the changes explains: a token that
// is missing though it was created before and not revoked, or there though nobody
// created it or its revocation had ended.
func (l *ledger) wrong() error {
	created, revoked := map[string]deed{}, map[string]deed{}
	for _, c := range l.changes {
		if c.revoke {
			revoked[c.name] = c
		} else {
			created[c.name] = c
		}
	}
	for _, k := range l.looks {
		for name := range k.names {
			c, ok := created[name]
			if !ok && name != "bootstrap" || ok && c.began.After(k.end) {
				return fmt.Errorf("at %s a list has %s, which nobody had created", k.began.Format(time.TimeOnly), name)
			}
			if r, ok := revoked[name]; ok && !r.end.IsZero() && r.end.Before(k.began) {
				return fmt.Errorf("at %s a list has %s, which was revoked at %s", k.began.Format(time.TimeOnly), name, r.end.Format(time.TimeOnly))
			}
		}
		for name, c := range created {
			r, gone := revoked[name]
			if c.end.IsZero() || !c.end.Before(k.began) || k.names[name] || (gone && r.began.Before(k.end)) {
				continue
			}
			return fmt.Errorf("at %s a list lacks %s, which was created at %s", k.began.Format(time.TimeOnly), name, c.end.Format(time.TimeOnly))
		}
	}
	return l.back()
}

// back is the first reading that goes back behind one that had ended before it.
func (l *ledger) back() error {
	slices.SortFunc(l.looks, func(a, b look) int { return a.end.Compare(b.end) })
	first, last := map[string]time.Time{}, map[string]time.Time{} // seen there: first end, last end
	gone := map[string]time.Time{}                                // seen gone after it was there
	for _, k := range l.looks {
		for name := range k.names {
			if at, ok := gone[name]; ok && at.Before(k.began) {
				return fmt.Errorf("at %s a list has %s again, which was gone at %s", k.began.Format(time.TimeOnly), name, at.Format(time.TimeOnly))
			}
			if _, ok := first[name]; !ok {
				first[name] = k.end
			}
			last[name] = k.end
		}
		for name := range last {
			if _, ok := gone[name]; !ok && !k.names[name] && last[name].Before(k.began) {
				gone[name] = k.end
			}
		}
	}
	return nil
}

// councilFaults break nodes, and what is between them.
func councilFaults() []func(c *council, r *rand.Rand) {
	return []func(c *council, r *rand.Rand){
		func(c *council, r *rand.Rand) { // a node falls dead
			i := r.IntN(nodes)
			c.stop(nodeID(i), failpoint.ErrCrash)
			time.Sleep(while(r, time.Second, 30*time.Second))
			c.startNode(i)
		},
		func(c *council, r *rand.Rand) { // a node is alone
			i := r.IntN(nodes)
			var heal []func()
			for j := range nodes {
				if j != i {
					heal = append(heal, c.net.cutOff(nodeHost(i), nodeHost(j)), c.net.cutOff(nodeHost(j), nodeHost(i)))
				}
			}
			time.Sleep(while(r, time.Second, 30*time.Second))
			for _, h := range heal {
				h()
			}
		},
		func(c *council, r *rand.Rand) { // one way between two is cut
			i := r.IntN(nodes)
			heal := c.net.cutOff(nodeHost(i), nodeHost((i+1+r.IntN(nodes-1))%nodes))
			time.Sleep(while(r, time.Second, 30*time.Second))
			heal()
		},
		func(c *council, r *rand.Rand) { // leadership is handed over
			ctx, cancel := context.WithTimeout(context.Background(), callMax)
			defer cancel()
			_, _ = c.client(r.IntN(nodes)).TransferLeader(ctx, connect.NewRequest(&controlv1.TransferLeaderRequest{})) // or not
		},
		func(c *council, r *rand.Rand) { // the disk of a node stalls
			undo, err := failpoint.Set(failpoint.Order{Name: failpoint.RaftAppend, Of: nodeID(r.IntN(nodes)), Do: "block"})
			must(c.t, err)
			time.Sleep(while(r, time.Second, 20*time.Second))
			undo()
		},
		func(c *council, r *rand.Rand) { // everybody is away
			for i := range nodes {
				c.stop(nodeID(i), failpoint.ErrCrash)
			}
			time.Sleep(while(r, 0, 10*time.Second))
			var all sync.WaitGroup
			for i := range nodes {
				all.Go(func() { c.startNode(i) })
			}
			all.Wait()
		},
	}
}

// govern plays a control plane under faults and says what was wrong.
func govern(t *testing.T, seed uint64, lasts time.Duration, stale bool) (wrong error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCouncil(t, seed)
		c.stale = stale
		var l ledger
		ctx, cancel := context.WithCancel(context.Background())
		var all sync.WaitGroup
		for i := range callers {
			r := rand.New(rand.NewPCG(seed, uint64(10+i)))
			all.Go(func() { c.call(ctx, i, r, &l) })
		}
		r := rand.New(rand.NewPCG(seed, 4))
		faults := councilFaults()
		for began := time.Now(); time.Since(began) < lasts; {
			faults[r.IntN(len(faults))](c, r)
			time.Sleep(while(r, 0, 15*time.Second))
		}
		time.Sleep(stateMax)
		cancel()
		all.Wait()
		for i := range nodes { // in the end all answer, and alike
			end, stop := context.WithTimeout(context.Background(), callMax)
			before := len(l.looks)
			c.look(end, c.client(i), &l)
			stop()
			if len(l.looks) == before {
				t.Errorf("%s does not answer, a minute after the last fault", nodeID(i))
			}
		}
		done := 0
		for _, c := range l.changes {
			if !c.end.IsZero() {
				done++
			}
		}
		if done*3 < len(l.changes)*2 || len(l.looks) < int(lasts/time.Minute) {
			t.Errorf("of %d changes %d were done, and %d lists read: too few to mean anything", len(l.changes), done, len(l.looks))
		}
		t.Logf("%d changes, %d lists", len(l.changes), len(l.looks))
		wrong = l.wrong()
		c.web.CloseIdleConnections()
		c.stopAll()
	})
	return wrong
}

// TestControl_IsOneForHours changes leaders, cuts nodes off, lets them fall dead
// and stalls their disks, for simulated hours: what callers see is one list.
func TestControl_IsOneForHours(t *testing.T) {
	for seed := range uint64(seeds(t, 1)) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			if err := govern(t, seed, hour(t), false); err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
		})
	}
}

// TestControl_StaleReadsAreNoticed: without the reading of the leader's term the
// same callers see the past.
func TestControl_StaleReadsAreNoticed(t *testing.T) {
	const tries = 5
	for seed := range uint64(tries) {
		if err := govern(t, seed, 10*time.Minute, true); err != nil {
			t.Logf("seed %d: %v", seed, err)
			return
		}
	}
	t.Error(errors.New("nobody noticed"))
}
