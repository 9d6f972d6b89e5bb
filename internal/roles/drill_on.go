//go:build failpoints

package roles

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"time"

	"parley/cell/change"
	"parley/internal/topology"
)

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
	State     string               `json:"state,omitempty"`
}

func (t tap) of(id topology.ServerID) func(topology.ChannelRef, topology.Token, []change.Change, bool) {
	return func(ch topology.ChannelRef, token topology.Token, cs []change.Change, recovered bool) {
		state := ""
		if recovered {
			state = "recovered"
		}
		var out []byte
		for _, c := range cs {
			b, err := json.Marshal(appended{
				AtUS: time.Now().UnixMicro(), Kind: "append", Workspace: ch.Workspace, Cell: t.cell, Channel: ch.Channel,
				Rev: c.Rev, Token: token, Server: id, MessageID: c.ID, State: state,
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
