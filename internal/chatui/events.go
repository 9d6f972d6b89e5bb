package chatui

import (
	"encoding/json"

	tea "charm.land/bubbletea/v2"

	"parley/client"
	"parley/internal/wire/chat"
)

// event takes what the stream says. What can't be decoded is of a later version,
// and nothing to a reader.
func (m *screen) event(e client.Event) tea.Cmd {
	open := e.ChannelID == m.at.channel.ID
	switch e.Type {
	case chat.TypeHello: // of a new socket: other sessions may have read, and what failed may work
		m.marked, m.status = "", ""
		m.at.pane.stalled, m.pane().stalled = false, false
		return m.askUnread()
	case chat.TypeMessage:
		var v chat.MessageEvent
		if json.Unmarshal(e.Raw, &v) == nil {
			m.message(v.Message, open)
		}
	case chat.TypeReadState:
		var v chat.ReadStateEvent
		if json.Unmarshal(e.Raw, &v) == nil {
			m.list.set(v.ReadState)
		}
	case chat.TypeTyping:
		var v chat.TypingEvent
		if open && json.Unmarshal(e.Raw, &v) == nil && v.UserID != m.s.me.ID {
			return m.typing.start(m.ctx, v.UserID)
		}
	case chat.TypeChannel:
		var v chat.ChannelEvent
		if json.Unmarshal(e.Raw, &v) == nil {
			return m.channelEvent(v, open)
		}
	case chat.TypeReset: // more was missed than is told
		if open {
			return tea.Batch(m.reload(), m.askUnread())
		}
		return m.askUnread()
	}
	return nil
}

func (m *screen) message(msg chat.Message, open bool) {
	mine := msg.UserID == m.s.me.ID
	if m.list.came(msg, mine); mine {
		m.out.seen(msg)
	}
	if open {
		delete(m.typing, msg.UserID)
		m.show(msg)
	}
}

func (m *screen) channelEvent(v chat.ChannelEvent, open bool) tea.Cmd {
	switch v.Event {
	case chat.ChannelGained:
		if v.Channel != nil {
			ch := *v.Channel
			ch.IsMember = true
			m.list.add(ch)
		}
	case chat.ChannelLost:
		m.list.remove(v.ChannelID)
		if !open {
			return nil
		}
		m.at.pane.note("you are no longer in this channel", true)
	default:
		if open {
			m.at.pane.note(m.s.changed(v), false)
		}
	}
	return nil
}
