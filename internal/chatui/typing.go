package chatui

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// typingEvery is how often typing is told: a typing event counts for longer.
const typingEvery = 3 * time.Second

// typists are the others who type in the open channel, and until when that counts.
type typists map[topology.UserID]time.Time

// quietMsg says that somebody may have stopped.
type quietMsg struct{}

func (t typists) start(ctx context.Context, u topology.UserID) tea.Cmd {
	t[u] = time.Now().Add(chat.TypingTTL)
	return after(ctx, chat.TypingTTL, quietMsg{})
}

// quiet forgets those who have not typed for a while.
func (t typists) quiet() {
	now := time.Now()
	maps.DeleteFunc(t, func(_ topology.UserID, until time.Time) bool { return !now.Before(until) })
}

// stop forgets all.
func (t typists) stop() { clear(t) }

func (t typists) say(name func(topology.UserID) string) string {
	var who []string
	for u := range t {
		who = append(who, name(u))
	}
	slices.Sort(who)
	switch {
	case len(who) == 0:
		return ""
	case len(who) == 1:
		return who[0] + " is typing"
	case len(who) > 3:
		return "several people are typing"
	default:
		return strings.Join(who, ", ") + " are typing"
	}
}

// after hands over a message later, unless ctx ends.
func after(ctx context.Context, d time.Duration, msg tea.Msg) tea.Cmd {
	return func() tea.Msg {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
			return msg
		case <-ctx.Done():
			return nil
		}
	}
}
