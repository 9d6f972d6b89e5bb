//go:build failpoints

package roles

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"time"

	"parley/cell/change"
	"parley/cell/msglog"
	"parley/internal/failpoint"
	"parley/internal/problem"
	"parley/internal/topology"
)

// breakable is a channel server's message store as a drill may break it.
func breakable(s msglog.Store, of topology.ServerID) msglog.Store {
	return &brokenStore{Store: s, of: string(of)}
}

type brokenStore struct {
	msglog.Store
	of string
}

// Append may be held up for longer than any deadline: a process that was paused
// before it wrote writes late.
func (s *brokenStore) Append(ctx context.Context, sh topology.Shard, t topology.Token, ws []msglog.Write) error {
	if err := failpoint.Hang(failpoint.ChannelCommit, s.of); err != nil {
		return err
	}
	return s.Store.Append(context.WithoutCancel(ctx), sh, t, ws)
}

// Fences implements msglog.Store.
func (s *brokenStore) Fences(ctx context.Context) ([]msglog.Fence, error) {
	if err := failpoint.At(ctx, failpoint.ChannelConfirm, s.of); err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "the fence rows can't be read")
	}
	return s.Store.Fences(ctx)
}

// tap writes down what was confirmed, as parley/chaos/history reads it, one write
// a commit: what was shown must be there after a kill.
type tap struct {
	cell topology.CellID
	file *os.File
	mu   *sync.Mutex
}

// TapFile is the name of the append log in a cell's directory.
const TapFile = "append.jsonl"

func openTap(dir string, cell topology.CellID) (tap, error) {
	f, err := os.OpenFile(filepath.Join(dir, TapFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return tap{cell, f, new(sync.Mutex)}, err
}

type appended struct {
	AtUS      int64                `json:"at_us"`
	Kind      string               `json:"kind"`
	Workspace topology.WorkspaceID `json:"workspace"`
	Cell      topology.CellID      `json:"cell"`
	Channel   topology.ChannelID   `json:"channel"`
	Rev       topology.Rev         `json:"rev"`
	Token     topology.Token       `json:"token"`
	Server    topology.ServerID    `json:"server"`
	MessageID topology.MessageID   `json:"message_id,omitempty"`
}

func (t tap) of(id topology.ServerID) func(topology.ChannelRef, topology.Token, []change.Change) {
	return func(ch topology.ChannelRef, token topology.Token, cs []change.Change) {
		var out []byte
		for _, c := range cs {
			b, err := json.Marshal(appended{
				AtUS: time.Now().UnixMicro(), Kind: "append", Workspace: ch.Workspace, Cell: t.cell, Channel: ch.Channel,
				Rev: c.Rev, Token: token, Server: id, MessageID: c.ID,
			})
			if err == nil {
				out = append(append(out, b...), '\n')
			}
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		_, _ = t.file.Write(out) // a full disk is a drill, too
	}
}

func (t tap) close() error { return t.file.Close() }
