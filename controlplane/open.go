package controlplane

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"parley/controlplane/state"
	"parley/internal/link"
	"parley/internal/pki"
	"parley/internal/problem"
	"parley/internal/topology"
)

// keepOpening tells cells to open the workspaces that were placed in them, until
// each has said that it did. Each cell has a task of its own: one that does not
// answer must not hold up the others.
func (l *leader) keepOpening(ctx context.Context) {
	requests := link.NewRequests(l.n.deps.Identity.Client(pki.RoleGateway), l.n.deps.Net)
	defer func() { _ = requests.Close() }() // nothing is under way
	web := &http.Client{Transport: requests, Timeout: orderMax}
	running := map[string]bool{}
	var all sync.WaitGroup
	defer all.Wait()
	for {
		grown := l.n.fsm.growing()
		var cells []string
		l.n.fsm.read(func(s *state.State) { cells = slices.Collect(maps.Keys(s.Cells)) })
		for _, cell := range cells {
			if !running[cell] {
				running[cell] = true
				all.Go(func() { l.openAllIn(ctx, web, cell) })
			}
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return
		}
	}
}

const (
	orderMax     = 5 * time.Second // one order to a gateway
	openRetryMin = 100 * time.Millisecond
	openRetryMax = 5 * time.Second
)

// openAllIn has a cell open its workspaces, as they come, until ctx ends.
func (l *leader) openAllIn(ctx context.Context, web *http.Client, cell string) {
	wait := openRetryMin
	for {
		grown := l.n.fsm.growing()
		_, _, _, moved := l.union()
		if l.openRound(ctx, web, cell) {
			wait = openRetryMin
			select {
			case <-grown:
			case <-ctx.Done():
				return
			}
			continue
		}
		again := time.NewTimer(wait)
		wait = min(2*wait, openRetryMax)
		select {
		case <-moved:
		case <-again.C:
		case <-ctx.Done():
		}
		again.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// errRefused is a cell's answer that it does not open a workspace.
var errRefused = errors.New("the cell refused")

// openRound tries each workspace once, and reports whether all are open. A cell
// that does not answer for one is not asked about the rest.
func (l *leader) openRound(ctx context.Context, web *http.Client, cell string) (all bool) {
	var todo []state.Workspace
	l.n.fsm.read(func(s *state.State) { todo = s.Creating(cell) })
	all = true
	for _, w := range todo {
		err := l.openIn(ctx, web, w)
		if err == nil {
			continue
		}
		all = false
		if ctx.Err() != nil {
			break
		}
		l.n.log.Info("a cell has not opened a workspace yet; trying again", "workspace", w.ID, "cell", cell, "err", err)
		if !errors.Is(err, errRefused) {
			break
		}
	}
	return all
}

// openIn asks the cell's gateways, one after the other, to open a workspace, and
// records that it is open.
func (l *leader) openIn(ctx context.Context, web *http.Client, w state.Workspace) error {
	_, gateways, _, _ := l.union()
	order, err := json.Marshal(map[string]any{
		"epoch": w.Epoch, "generation": w.Generation, "slug": w.Slug, "name": w.Name, "state": "open",
	})
	if err != nil {
		return err
	}
	err = problem.New(problem.Unavailable, "no gateway of the cell is registered")
	for _, g := range gateways[topology.CellID(w.Cell)] {
		if err = sendOrder(ctx, web, "https://"+g.APIAddr+"/internal/v1/workspaces/"+w.ID, order); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	_, _, err = l.n.propose(state.Activate, by{}, state.ActivateBody{ID: w.ID, Epoch: w.Epoch})
	return err
}

// orderAnswerMax bounds what is read of a cell's answer.
const orderAnswerMax = 4 << 10

func sendOrder(ctx context.Context, web *http.Client, url string, body []byte) (err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := web.Do(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	text, err := io.ReadAll(io.LimitReader(res.Body, orderAnswerMax))
	if err != nil {
		return err
	}
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("%w: %s: %s", errRefused, res.Status, text)
	}
	return nil
}
