package edge

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"parley/internal/link"
	"parley/internal/pki"
	"parley/internal/problem"
	"parley/internal/token"
	"parley/internal/topology"
	"parley/regions"
)

// The headers in which a cell is told who asks; package cell/api reads them.
const (
	headerWorkspace = "Parley-Workspace"
	headerUser      = "Parley-User"
	headerRole      = "Parley-Role"
	headerEpoch     = "Parley-Epoch"
	headerRequestID = "Parley-Request-Id"
	headerKey       = "Idempotency-Key"
)

// cells sends requests to gateways of cells, over HTTP/3.
type cells struct {
	pool     *pool
	routes   *table
	requests *link.Requests
	// keysLearned is called when a cell has told signing keys.
	keysLearned func()

	mu       sync.Mutex
	suspects map[topology.GatewayID]time.Time // until when; by its requests, apart from its link
}

func newCells(p *pool, id *pki.Bundle) *cells {
	return &cells{
		pool: p, routes: p.routes, requests: link.NewRequests(id.Client(pki.RoleGateway, pki.RoleCell), p.cfg.Net),
		suspects: map[topology.GatewayID]time.Time{},
	}
}

func (c *cells) close() { _ = c.requests.Close() } // on the way out: nothing depends on it

const (
	// tryFirst and tryMax bound one try at one gateway, when another may be asked
	// after it: the first is the likeliest to wait for the dead.
	tryFirst = 2 * time.Second
	tryMax   = 4 * time.Second
	// triesMax bounds the gateways and epochs that one request goes through.
	triesMax = 5
	// answerBytesMax is what is read of an answer before the client gets any of
	// it: pages are far smaller, and up to there another gateway can take over.
	answerBytesMax = 1 << 20
)

// ask is one request as it is sent, perhaps several times.
type ask struct {
	workspace topology.WorkspaceID
	user      topology.UserID
	method    string
	uri       string // path and query
	header    http.Header
	body      []byte
	again     bool // may be repeated though it may have been done
}

// answer is what came back: head bytes in memory, the rest to be read from body
// by who closes it.
type answer struct {
	*http.Response
	head []byte
}

// send finds the workspace's cell and one of its gateways, and tries others as
// far as that is safe.
func (c *cells) send(ctx context.Context, a ask) (answer, error) {
	failed := map[topology.GatewayID]bool{}
	for try := 1; ; try++ {
		r, ok := c.routes.Route(a.workspace)
		if !ok {
			return answer{}, problem.New(problem.Unavailable, "no cell is known for the workspace yet; try again")
		}
		g, others := c.choose(r.Cell, a.user, failed)
		if g.ID == "" {
			return answer{}, problem.New(problem.Unavailable, "no gateway is known of the workspace's cell; try again")
		}
		res, err := c.try(ctx, g, r.Epoch, a, try)
		again, wait := c.judge(&res, err, g, r, a, others)
		if err != nil {
			c.pool.log.Info("a gateway did not answer a request", "gateway", string(g.ID), "addr", g.APIAddr, "step", try, "err", err)
		}
		if !again || try == triesMax {
			return c.settle(res, err, a)
		}
		c.pool.metrics.retries.Inc()
		if err != nil || res.StatusCode != http.StatusMisdirectedRequest {
			failed[g.ID] = true
		}
		if errors.Is(err, link.ErrNotSent) {
			c.suspect(g.ID)
		}
		if !c.pause(ctx, wait, a.workspace, r.Epoch) {
			return c.settle(res, err, a)
		}
		if err == nil {
			_ = res.Body.Close() // it is asked again
		}
	}
}

// choose takes the user's first gateway that has not failed this request; if all
// have, the first again. others says that one would be left to fall back on.
func (c *cells) choose(cell topology.CellID, u topology.UserID, failed map[topology.GatewayID]bool) (g regions.Gateway, others bool) {
	now := time.Now()
	fresh := 0
	ranked := rank(c.routes.gateways(cell), u, func(g regions.Gateway) bool { return c.suspected(g.ID, now) || c.pool.avoid(g, now) })
	for _, x := range ranked {
		if failed[x.ID] {
			continue
		}
		if fresh++; fresh == 1 {
			g = x
		}
	}
	if fresh == 0 && len(ranked) > 0 {
		g = ranked[0]
	}
	return g, fresh > 1
}

// suspect makes a gateway that can't be reached the last choice for a while.
func (c *cells) suspect(id topology.GatewayID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.suspects[id] = time.Now().Add(suspectMax)
}

func (c *cells) suspected(id topology.GatewayID, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	until, ok := c.suspects[id]
	if ok && now.After(until) {
		delete(c.suspects, id)
	}
	return ok && now.Before(until)
}

func (c *cells) try(ctx context.Context, g regions.Gateway, e topology.Epoch, a ask, try int) (answer, error) {
	cancel := func() {}
	if a.again {
		within := tryMax
		if try == 1 {
			within = tryFirst
		}
		ctx, cancel = context.WithTimeout(ctx, within)
		if gone := c.pool.linkEnds(g); gone != nil {
			go func() { // the link's pings find a dead gateway sooner than a request does
				select {
				case <-gone:
					cancel()
				case <-ctx.Done():
				}
			}()
		}
	}
	q, err := http.NewRequestWithContext(ctx, a.method, "https://"+g.APIAddr+a.uri, bytes.NewReader(a.body))
	if err != nil {
		cancel()
		return answer{}, errors.Join(link.ErrNotSent, err)
	}
	q.Header = a.header.Clone()
	q.Header.Set(headerEpoch, strconv.FormatUint(uint64(e), 10))
	res, err := c.requests.RoundTrip(q)
	if err != nil {
		cancel()
		return answer{}, err
	}
	head, err := io.ReadAll(io.LimitReader(res.Body, answerBytesMax))
	if err != nil {
		cancel()
		_ = res.Body.Close() // the read has failed before
		return answer{}, err
	}
	res.Body = &cancelling{ReadCloser: res.Body, cancel: cancel}
	return answer{Response: res, head: head}, nil
}

// cancelling ends a request's context with its body.
type cancelling struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *cancelling) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}

// judge decides whether to go on to another try, and how long to wait for a
// change of the route before it.
func (c *cells) judge(res *answer, err error, g regions.Gateway, r topology.Route, a ask, others bool) (again bool, wait time.Duration) {
	const soon, later = 10 * time.Millisecond, 500 * time.Millisecond
	wait = later
	if others {
		wait = soon
	}
	if err != nil {
		return a.again || errors.Is(err, link.ErrNotSent), wait
	}
	switch res.StatusCode {
	case http.StatusMisdirectedRequest:
		epoch, perr := strconv.ParseUint(res.Header.Get(headerEpoch), 10, 64)
		if perr == nil && topology.Epoch(epoch) > r.Epoch {
			c.routes.Prefer(topology.Route{Workspace: r.Workspace, Cell: g.Cell, Epoch: topology.Epoch(epoch)})
			return true, 0
		}
		return true, later // nothing was done, and the table will know more
	case http.StatusServiceUnavailable, http.StatusBadGateway:
		return a.again && others, wait
	default:
		return false, 0
	}
}

// pause waits, at most until the route has a higher epoch.
func (c *cells) pause(ctx context.Context, wait time.Duration, ws topology.WorkspaceID, e topology.Epoch) bool {
	t := time.NewTimer(wait)
	defer t.Stop()
	for {
		changed := c.routes.Changed()
		if r, ok := c.routes.Route(ws); ok && r.Epoch > e {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
			return true
		case <-changed:
		}
	}
}

// settle is how the last try ends: with its answer, or with what the client is
// told in its place. Which cell it should have been is no business of a client.
func (c *cells) settle(res answer, err error, a ask) (answer, error) {
	switch {
	case err == nil && res.StatusCode != http.StatusMisdirectedRequest:
		return res, nil
	case err == nil:
		_ = res.Body.Close() // nothing in it is for the client
		return answer{}, &problem.Error{Kind: problem.Unavailable, Msg: "the workspace is being moved; try again", RetryAfter: time.Second}
	case a.method == http.MethodGet || a.method == http.MethodHead || errors.Is(err, link.ErrNotSent):
		return answer{}, problem.Wrap(err, problem.Unavailable, "the workspace's cell did not answer; try again")
	default:
		return answer{}, problem.Wrap(err, problem.Unknown, "the cell did not answer in time: it may have been done")
	}
}

// anyCell asks the cells, one after the other, for something that they all know.
func (c *cells) anyCell(ctx context.Context, uri string) (answer, error) {
	err := error(problem.New(problem.Unavailable, "no cell is known yet; try again"))
	tried := 0
	for _, id := range c.routes.cellIDs() {
		for _, g := range c.routes.gateways(id) {
			if tried++; tried > triesMax {
				return answer{}, err
			}
			var res answer
			res, err = c.try(ctx, g, 0, ask{method: http.MethodGet, uri: uri, header: http.Header{}, again: true}, 1)
			if err == nil && res.StatusCode == http.StatusOK {
				return res, nil
			}
			if err == nil {
				_ = res.Body.Close() // another is asked
				err = problem.New(problem.Unavailable, "a cell answered %d", res.StatusCode)
				continue
			}
			err = problem.Wrap(err, problem.Unavailable, "no cell answered; try again")
		}
	}
	return answer{}, err
}

// coldPage is how many routes a cell is asked for at once.
const (
	coldPage     = 1000
	coldPagesMax = 2000 // more workspaces than a cell ever has
)

// coldRoute is one row of a cell's GET /internal/v1/workspaces.
type coldRoute struct {
	Workspace topology.WorkspaceID `json:"workspace"`
	Epoch     topology.Epoch       `json:"epoch"`
	Cell      topology.CellID      `json:"cell"`
}

// learnCold asks the cells of the config for their open workspaces, each until it
// has answered once, as long as etcd is away. Cells tell what is theirs, so this
// does no harm beside a table from disk.
func (c *cells) learnCold(ctx context.Context, every time.Duration) {
	asked := map[topology.CellID]bool{}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for len(asked) < len(c.routes.seeds) {
		for _, s := range c.routes.seeds {
			if asked[s.Cell] || c.routes.Connected() || ctx.Err() != nil {
				continue
			}
			n, err := c.learn(ctx, s)
			if err != nil {
				c.pool.log.Info("a cell of the config did not tell its workspaces", "cell", string(s.Cell), "err", err)
				continue
			}
			asked[s.Cell] = true
			c.pool.log.Info("routes learned from a cell", "cell", string(s.Cell), "step", n)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// learn asks one cell, by whichever of its gateways answers.
func (c *cells) learn(ctx context.Context, s CellSeed) (n int, err error) {
	for _, g := range s.gateways() {
		if n, err = c.learnFrom(ctx, g); err == nil {
			return n, c.learnKeys(ctx, g)
		}
	}
	return 0, err
}

func (c *cells) learnFrom(ctx context.Context, g regions.Gateway) (int, error) {
	after, n := topology.WorkspaceID(""), 0
	for range coldPagesMax {
		rows, err := c.coldPage(ctx, g, after)
		if err != nil {
			return n, err
		}
		rs := make([]topology.Route, len(rows))
		for i, r := range rows {
			rs[i] = topology.Route{Workspace: r.Workspace, Cell: r.Cell, Epoch: r.Epoch}
		}
		c.routes.Merge(rs)
		n += len(rows)
		if len(rows) < coldPage {
			break
		}
		after = rows[len(rows)-1].Workspace
	}
	return n, nil
}

// coldKey is one row of a cell's GET /internal/v1/keys.
type coldKey struct {
	KID       string    `json:"kid"`
	Public    []byte    `json:"public"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

// learnKeys asks a gateway for the signing keys.
func (c *cells) learnKeys(ctx context.Context, g regions.Gateway) error {
	res, err := c.try(ctx, g, 0, ask{method: http.MethodGet, uri: "/internal/v1/keys", header: http.Header{}, again: true}, 1)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // read as far as it counts
	if res.StatusCode == http.StatusNotFound {
		return nil // a cell of an earlier version
	}
	var rows []coldKey
	if err := json.Unmarshal(res.head, &rows); err != nil || res.StatusCode != http.StatusOK {
		return problem.New(problem.Unavailable, "status %d, or no keys", res.StatusCode)
	}
	var keys []token.Key
	for _, k := range rows {
		if len(k.Public) == ed25519.PublicKeySize {
			keys = append(keys, token.Key{KID: k.KID, Public: k.Public, NotBefore: k.NotBefore, NotAfter: k.NotAfter})
		}
	}
	if len(keys) > 0 {
		c.routes.learned.Store(&keys)
		c.keysLearned()
	}
	return nil
}

func (c *cells) coldPage(ctx context.Context, g regions.Gateway, after topology.WorkspaceID) ([]coldRoute, error) {
	uri := "/internal/v1/workspaces?limit=" + strconv.Itoa(coldPage) + "&after=" + string(after)
	res, err := c.try(ctx, g, 0, ask{method: http.MethodGet, uri: uri, header: http.Header{}, again: true}, 1)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }() // read as far as it counts
	if res.StatusCode != http.StatusOK {
		return nil, problem.New(problem.Unavailable, "status %d", res.StatusCode)
	}
	var rows []coldRoute
	if err := json.Unmarshal(res.head, &rows); err != nil {
		return nil, problem.Wrap(err, problem.Internal, "the answer can't be read")
	}
	return rows, nil
}
