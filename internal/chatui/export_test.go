package chatui

import (
	"context"

	tea "charm.land/bubbletea/v2"
	"golang.org/x/sync/errgroup"
)

// NewScreen is what Screen runs: a model, and what feeds it the stream's events.
func NewScreen(ctx context.Context, g *errgroup.Group, cfg Config) (tea.Model, func(send func(tea.Msg)), error) {
	m, err := newScreen(ctx, g, cfg)
	if err != nil {
		return nil, nil, err
	}
	return m, m.pump, nil
}

// Held is how many items the open channel's pane has: no text shows it.
func Held(m tea.Model) int {
	if s, ok := m.(*screen); ok {
		return len(s.at.pane.items)
	}
	return -1
}
