package slack

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"parley/internal/wire/chat"
)

// aheadMax is how far in the future a message may be: clocks differ.
const aheadMax = 5 * time.Minute

// entry is a message with where it was found, until the channel is in order.
type entry struct {
	Message
	thread chat.Timestamp // of the root; 0 = none
	file   string
	line   int
}

// notices are what Slack writes itself about a channel's life: membership and
// settings are kept elsewhere, so these are not conversations.
var notices = map[string]bool{ //nolint:gochecknoglobals // a constant table
	"channel_join": true, "channel_leave": true, "channel_topic": true, "channel_purpose": true, "channel_name": true,
	"channel_archive": true, "channel_unarchive": true, "channel_convert_to_private": true, "channel_posting_permissions": true,
	"group_join": true, "group_leave": true, "group_topic": true, "group_purpose": true, "group_name": true,
	"group_archive": true, "group_unarchive": true, "pinned_item": true, "unpinned_item": true, "bot_add": true,
	"bot_remove": true, "tombstone": true, "reminder_add": true, "huddle_thread": true, "sh_room_created": true,
}

func (r *reader) readMessages(ch *Channel) error {
	var es []entry
	for _, file := range r.days(ch.Name) {
		err := each(r, file, func(line int, m messageJSON) error {
			e, ok, err := r.message(file, line, m)
			if err != nil || !ok {
				return err
			}
			if r.total++; r.total > messagesMax {
				return fault(file, line, "the export holds more than %d messages: export fewer days at a time", messagesMax)
			}
			es = append(es, e)
			return nil
		})
		if err != nil {
			return err
		}
	}
	slices.SortStableFunc(es, func(a, b entry) int { return cmp.Compare(a.TS, b.TS) })
	ch.Messages = make([]Message, len(es))
	for i, e := range es {
		if i > 0 && e.TS == es[i-1].TS {
			return fault(e.file, e.line, "ts: %s is that of %s:%d, too", slackTS(e.TS), es[i-1].file, es[i-1].line)
		}
		e.Root = r.root(e, ch.Messages[:i], es)
		ch.Messages[i] = e.Message
	}
	return nil
}

// root finds the top-level message that a reply stands under, among those before
// it; -1 makes the reply a top-level message.
func (r *reader) root(e entry, before []Message, all []entry) int {
	if e.thread == 0 || e.thread == e.TS {
		return -1
	}
	at, found := slices.BinarySearchFunc(all, e.thread, func(o entry, ts chat.Timestamp) int { return cmp.Compare(o.TS, ts) })
	switch {
	case !found:
		r.export.Changed["replies to messages that are not in the export, made top-level messages"]++
		return -1
	case at >= len(before):
		r.export.Changed["replies to messages that are later than they are, made top-level messages"]++
		return -1
	case before[at].Root >= 0:
		r.export.Changed["replies to a reply, put into the thread of that reply"]++
		return before[at].Root
	}
	return at
}

// message checks one message; ok is false for what is no conversation.
func (r *reader) message(file string, line int, m messageJSON) (e entry, ok bool, err error) {
	if m.Type != "" && m.Type != "message" {
		r.export.Skipped[fmt.Sprintf("entries of type %.40q", m.Type)]++
		return e, false, nil
	}
	if notices[m.Subtype] {
		r.export.Skipped["notices ("+m.Subtype+")"]++
		return e, false, nil
	}
	ts, err := parseTS(m.TS)
	if err != nil {
		return e, false, fault(file, line, "ts: %q must be seconds with six decimals", m.TS)
	}
	switch at := ts.Time(); {
	case at.Before(earliest):
		return e, false, fault(file, line, "ts: %s is before %s: it must be in seconds since 1970", m.TS, earliest.Format(time.DateOnly))
	case at.After(r.now.Add(aheadMax)):
		return e, false, fault(file, line, "ts: %s is in the future", m.TS)
	}
	text := m.body()
	switch n := utf8.RuneCountInString(text); {
	case n == 0:
		r.export.Skipped["messages without a text"]++
		return e, false, nil
	case n > chat.TextRunesMax:
		return e, false, fault(file, line, "text: has %d characters, at most %d are taken", n, chat.TextRunesMax)
	}
	var thread chat.Timestamp
	if m.ThreadTS != "" {
		if thread, err = parseTS(m.ThreadTS); err != nil {
			return e, false, fault(file, line, "thread_ts: %q must be seconds with six decimals", m.ThreadTS)
		}
	}
	user, err := r.author(file, line, m)
	if err != nil {
		return e, false, err
	}
	return entry{Message: Message{User: user, TS: ts, Text: text}, thread: thread, file: file, line: line}, true, nil
}

// author is the message's user; bots, which are in no list, are added.
func (r *reader) author(file string, line int, m messageJSON) (string, error) {
	switch {
	case m.User != "":
		return m.User, r.known(file, line, m.User, m.Username)
	case m.BotID == "":
		return "", fault(file, line, "user: is missing, and there is no bot_id either")
	}
	if _, ok := r.users[m.BotID]; ok {
		return m.BotID, nil
	}
	shown := cmp.Or(strings.TrimSpace(m.Username), m.BotID)
	return m.BotID, r.addUser(file, line, User{ID: m.BotID, Name: "bot-" + m.BotID, DisplayName: r.clip(shown)})
}

// known makes a user of those who are not in users.json: Slack's own (USLACKBOT),
// people of other workspaces, who is gone.
func (r *reader) known(file string, line int, id, shown string) error {
	if _, ok := r.users[id]; ok {
		return nil
	}
	r.export.Changed["people who are not in users.json, named by their ids"]++
	return r.addUser(file, line, User{ID: id, Name: id, DisplayName: r.clip(cmp.Or(strings.TrimSpace(shown), id))})
}

// clip cuts a display name to the length that Parley takes.
func (r *reader) clip(s string) string {
	if utf8.RuneCountInString(s) <= chat.NameRunesMax {
		return s
	}
	r.export.Changed["display names cut to "+strconv.Itoa(chat.NameRunesMax)+" characters"]++
	return strings.TrimSpace(string([]rune(s)[:chat.NameRunesMax]))
}

// parseTS reads Slack's "seconds.micros".
func parseTS(s string) (chat.Timestamp, error) {
	whole, part, found := strings.Cut(s, ".")
	if !found || len(part) != 6 {
		return 0, strconv.ErrSyntax
	}
	sec, err := strconv.ParseUint(whole, 10, 40)
	if err != nil {
		return 0, err
	}
	micros, err := strconv.ParseUint(part, 10, 32)
	if err != nil {
		return 0, err
	}
	if sec == 0 && micros == 0 {
		return 0, strconv.ErrRange
	}
	return chat.Timestamp(sec*1_000_000 + micros), nil
}

func slackTS(t chat.Timestamp) string {
	return time.UnixMicro(int64(t)).UTC().Format("2006-01-02 15:04:05.000000")
}
