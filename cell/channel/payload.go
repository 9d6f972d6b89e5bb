package channel

import (
	"parley/cell/change"
	"parley/cell/router"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

func topicOf(ref topology.ChannelRef) string { return router.ChannelTopic(ref.Channel) }

// payloadOf is the client event of a change. It depends on the change alone, so
// that one read from the log has the same bytes as it had live.
func payloadOf(ch topology.ChannelID, c *change.Change) []byte {
	switch c.Kind {
	case change.Message, change.Reply:
		m := chat.Message{
			MessageID: c.ID, ChannelID: ch, Seq: c.Seq, TS: chat.Timestamp(c.TS), UserID: c.Author, Text: c.Text,
			ClientMsgID: c.ClientMsgID,
		}
		if c.Root != "" {
			m.ThreadRoot = &c.Root
		}
		return chat.Encode(chat.MessageEvent{Type: chat.TypeMessage, ChannelID: ch, Rev: c.Rev, Message: m})
	case change.Created:
		return memberPayload(ch, c, chat.ChannelCreated)
	case change.Joined:
		return memberPayload(ch, c, chat.MemberJoined)
	case change.Left:
		return memberPayload(ch, c, chat.MemberLeft)
	default: // of a later release: it has a rev, which is what must not be missed
		return memberPayload(ch, c, "unknown")
	}
}

func memberPayload(ch topology.ChannelID, c *change.Change, what string) []byte {
	ts := chat.Timestamp(c.TS)
	return chat.Encode(chat.ChannelEvent{
		Type: chat.TypeChannel, Event: what, ChannelID: ch, Rev: c.Rev, UserIDs: c.Subjects, By: c.Author, TS: &ts,
	})
}
