package controlplane

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"parley/controlplane/state"
	"parley/internal/link"
	"parley/internal/pki"
	"parley/internal/problem"
	"parley/internal/topology"
)

// keepOpening tells cells to open the workspaces that were placed in them, until
// each has said that it did.
func (l *leader) keepOpening(ctx context.Context) {
	requests := link.NewRequests(l.n.deps.Identity.Client(pki.RoleGateway))
	defer func() { _ = requests.Close() }() // nothing is under way
	web := &http.Client{Transport: requests, Timeout: etcdMax}
	wait := openRetryMin
	for {
		_, grown, _ := l.n.fsm.after(^uint64(0))
		_, _, _, moved := l.union()
		var todo []state.Workspace
		l.n.fsm.read(func(s *state.State) {
			for _, w := range s.Workspaces {
				if w.State == state.WorkspaceCreating {
					todo = append(todo, w)
				}
			}
		})
		var failed error
		for _, w := range todo {
			if err := l.openIn(ctx, web, w); err != nil && ctx.Err() == nil {
				failed = err
				l.n.log.Info("a cell has not opened a workspace yet; trying again", "workspace", w.ID, "cell", w.Cell, "err", err)
			}
		}
		var again <-chan time.Time
		if failed != nil {
			again = time.After(wait)
			wait = min(2*wait, openRetryMax)
		} else {
			wait = openRetryMin
		}
		select {
		case <-grown:
		case <-moved:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

const (
	openRetryMin = 100 * time.Millisecond
	openRetryMax = 5 * time.Second
)

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
const orderAnswerMax = 64 << 10

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
		return fmt.Errorf("the cell answered %s: %s", res.Status, text)
	}
	return nil
}
