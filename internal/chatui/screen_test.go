package chatui_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"golang.org/x/sync/errgroup"

	"parley/client"
	"parley/internal/chatui"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// patience is how long a test waits for a text to be on the screen.
const patience = 20 * time.Second

// terminal is who sits before a screen: keys in, text out.
type terminal struct {
	t        *testing.T
	model    tea.Model
	messages chan tea.Msg
	gone     <-chan struct{}
	running  sync.WaitGroup
	left     bool
}

func sit(t *testing.T, width, height int, edges ...*edge) *terminal {
	t.Helper()
	var clients []*client.Client
	for _, e := range edges {
		clients = append(clients, e.client())
	}
	ctx, cancel := context.WithCancel(t.Context())
	g, gctx := errgroup.WithContext(ctx)
	model, pump, err := chatui.NewScreen(gctx, g, chatui.Config{Clients: clients, Channel: "general"})
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, model: model, messages: make(chan tea.Msg), gone: ctx.Done()}
	g.Go(func() error { pump(term.send); return nil })
	t.Cleanup(func() {
		cancel()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
		term.running.Wait()
	})
	term.run(model.Init())
	term.update(tea.WindowSizeMsg{Width: width, Height: height})
	return term
}

func (s *terminal) send(msg tea.Msg) {
	select {
	case s.messages <- msg:
	case <-s.gone:
	}
}

func (s *terminal) run(cmd tea.Cmd) {
	if cmd != nil {
		s.running.Go(func() { s.send(cmd()) })
	}
}

func (s *terminal) update(msg tea.Msg) {
	switch v := msg.(type) {
	case nil:
		return
	case tea.BatchMsg:
		for _, cmd := range v {
			s.run(cmd)
		}
		return
	case tea.QuitMsg:
		s.left = true
		return
	}
	var cmd tea.Cmd
	s.model, cmd = s.model.Update(msg)
	s.run(cmd)
}

var steering = regexp.MustCompile("\x1b\\[[0-9;]*m") // colours and the like

func (s *terminal) screen() string {
	return steering.ReplaceAllString(s.model.View().Content, "")
}

func (s *terminal) until(what string, ok func(screen string) bool) {
	s.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for !ok(s.screen()) {
		select {
		case msg := <-s.messages:
			s.update(msg)
		case <-deadline.C:
			s.t.Fatalf("%s: not on the screen\n%s", what, s.screen())
		}
	}
}

func (s *terminal) sees(texts ...string) {
	s.t.Helper()
	for _, text := range texts {
		s.until(text, func(screen string) bool { return strings.Contains(screen, text) })
	}
}

func (s *terminal) misses(text string) {
	s.t.Helper()
	s.until("no "+text, func(screen string) bool { return !strings.Contains(screen, text) })
}

func (s *terminal) press(keys ...tea.KeyPressMsg) {
	for _, k := range keys {
		s.update(k)
	}
}

func (s *terminal) types(text string) {
	for _, r := range text {
		s.press(tea.KeyPressMsg{Code: r, Text: string(r)})
	}
}

func (s *terminal) enters(text string) {
	s.types(text)
	s.press(enter)
}

var (
	enter  = tea.KeyPressMsg{Code: tea.KeyEnter}
	esc    = tea.KeyPressMsg{Code: tea.KeyEscape}
	up     = tea.KeyPressMsg{Code: tea.KeyUp}
	pgUp   = tea.KeyPressMsg{Code: tea.KeyPgUp}
	pgDown = tea.KeyPressMsg{Code: tea.KeyPgDown}
	ctrlN  = tea.KeyPressMsg{Code: 'n', Mod: tea.ModCtrl}
	ctrlU  = tea.KeyPressMsg{Code: 'u', Mod: tea.ModCtrl} // clears the input
	ctrlC  = tea.KeyPressMsg{Code: 'c', Mod: tea.ModCtrl}
)

func TestScreen_Posts(t *testing.T) {
	e := newEdge(t)
	s := sit(t, 100, 20, e)
	s.enters("hello")
	s.sees("ann hello")
	e.say("C1", "hi\x1b[2J there")
	s.sees("bob hi�[2J there")
	e.with(func() { e.send(chat.TypingEvent{Type: chat.TypeTyping, ChannelID: "C1", UserID: "U2"}) })
	s.sees("bob is typing")
}

func TestScreen_Help(t *testing.T) {
	e := newEdge(t)
	s := sit(t, 100, 30, e)
	s.enters("/help")
	s.sees("/join NAME", "/search WORDS")
	s.enters("/nonsense")
	s.sees("there is no command /nonsense")
	s.enters("//slashes")
	s.sees("ann /slashes")
	if len(e.keys) != 1 {
		t.Errorf("%d messages were posted, not one", len(e.keys))
	}
	s.press(ctrlC)
	s.until("the end", func(string) bool { return s.left })
}

func TestScreen_SwitchesChannels(t *testing.T) {
	e := newEdge(t)
	e.say("C1", "in general")
	e.say("C2", "in ops")
	e.say("C3", "in random")
	e.unread["C2"] = chat.ReadState{ChannelID: "C2", UnreadCount: 1}
	s := sit(t, 100, 20, e)
	s.sees("bob in general")
	s.until("#ops 1", listed("#ops", "1"))
	e.say("C2", "look, @ann!")
	s.until("#ops 2 @1", listed("#ops", "2 @1"))

	s.types("half a thought")
	s.press(ctrlN)
	s.sees("bob in ops", "look, @ann!")
	s.until("nothing unread", listed("#ops", ""))
	s.until("the mark", func(string) bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		m := e.unread["C2"].LastReadMessageID
		return m != nil && *m == "C2-000002"
	})
	s.misses("half a thought")
	e.say("C1", "are you there?")
	s.until("#general 1", listed("#general", "1"))

	s.enters("/join general")
	s.sees("are you there?", "half a thought")
	s.until("nothing unread", listed("#general", ""))
	s.press(ctrlU)
	s.enters("/channel random")
	s.sees("bob in random", "#random · 2 members")
	s.enters("/join nowhere")
	s.sees(`there is no channel "nowhere"`)
}

// listed says that the list has a channel with a count.
func listed(name, count string) func(string) bool {
	row := regexp.MustCompile(`(?m)^ ` + name + `\s+` + regexp.QuoteMeta(count) + `\s*│`)
	return func(screen string) bool { return row.MatchString(screen) }
}

func TestScreen_ReadElsewhere(t *testing.T) {
	e := newEdge(t)
	e.unread["C2"] = chat.ReadState{ChannelID: "C2", UnreadCount: 7}
	s := sit(t, 60, 20, e)
	s.sees("7 unread elsewhere")
	e.with(func() {
		e.send(chat.ReadStateEvent{Type: chat.TypeReadState, ReadState: chat.ReadState{ChannelID: "C2", UnreadCount: 2}})
	})
	s.sees("2 unread elsewhere")
}

func TestScreen_Threads(t *testing.T) {
	e := newEdge(t)
	e.say("C1", "first")
	root := e.say("C1", "what do you think?")
	e.say("C1", "last")
	for n := range 5 {
		e.reply("C1", root, fmt.Sprintf("thought %d", n+1))
	}
	s := sit(t, 100, 20, e)
	s.sees("what do you think?", "[5 replies]")
	s.misses("thought 1")
	s.press(up, up, enter)
	s.sees("thread of bob: what do you think?", "thought 1", "thought 5")
	s.misses("bob last")
	e.reply("C1", root, "thought 6")
	s.sees("thought 6")
	s.enters("I agree")
	s.sees("ann I agree", "[7 replies]")
	if m := e.messages["C1"]; len(m) != 3 {
		t.Errorf("the answer went into the channel: %v", m)
	}
	s.press(esc)
	s.sees("bob last", "[7 replies]")
	e.reply("C1", root, "too late")
	s.sees("↳ bob: too late", "[8 replies]")
	s.press(esc)
	s.enters("/thread")
	s.sees("thread of bob: last")
	s.press(esc)
	s.enters("/join ops")
	s.sees("#ops · 2 members")
	s.enters("/join general")
	s.sees("[8 replies]")
}

func TestScreen_ScrollsBack(t *testing.T) {
	e := newEdge(t)
	for n := range 130 {
		e.say("C1", fmt.Sprintf("number %d.", n+1))
	}
	s := sit(t, 100, 24, e)
	s.sees("number 130.")
	if e.pages != 1 {
		t.Errorf("%d pages were loaded at once", e.pages)
	}
	for range 3 {
		s.press(pgUp, pgUp, pgUp, pgUp)
		s.misses("loading")
	}
	s.sees("number 1.")
	s.sees("scrolled back")
	s.press(pgUp)
	e.say("C1", "unseen")
	s.until("the count", listed("#general", "1"))
	s.sees("number 1.")
	s.press(pgDown, pgDown, pgDown, pgDown, pgDown, pgDown, pgDown, pgDown)
	s.sees("unseen")
	s.until("nothing unread", listed("#general", ""))
	if e.pages != 3 {
		t.Errorf("130 messages took %d pages", e.pages)
	}
}

func TestScreen_HoldsSoManyMessages(t *testing.T) {
	e := newEdge(t)
	for n := range 2200 {
		e.say("C1", fmt.Sprintf("number %d.", n+1))
	}
	s := sit(t, 100, 60, e)
	s.sees("number 2200.")
	for !strings.Contains(s.screen(), "number 1.") {
		s.press(pgUp)
		s.misses("loading")
	}
	if n := chatui.Held(s.model); n > 2000 {
		t.Errorf("%d messages are held", n)
	}
	s.press(esc)
	s.sees("number 2200.")
}

func TestScreen_LongMessage(t *testing.T) {
	e := newEdge(t)
	e.say("C1", strings.Repeat("word ", chat.TextRunesMax/5-1)+"end.")
	s := sit(t, 100, 24, e)
	s.sees("more lines: its thread shows them")
	began := time.Now()
	for range 200 {
		s.types("x")
		s.screen()
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("200 characters took %v to type", took)
	}
	s.press(ctrlU, up, enter)
	s.sees("end.")
}

func TestScreen_LostEdge(t *testing.T) {
	e := newEdge(t)
	e.say("C2", "in ops")
	s := sit(t, 100, 24, e)
	s.sees("#general")
	e.fall()
	s.sees("not connected")
	s.enters("said while away")
	s.enters("and this")
	s.sees("sending 2: said while away")
	s.press(ctrlC)
	s.sees("2 not sent yet")
	s.press(ctrlN)
	s.sees("#ops ·", "loading")
	s.misses("loading")
	s.enters("/search you came")
	s.sees("> /search you came")
	s.press(ctrlU)
	e.rise()
	s.sees("bob in ops")
	s.enters("/join general")
	s.sees("ann said while away", "ann and this")
	s.misses("sending")
	s.misses("not connected")
	if len(e.messages["C1"]) != 2 {
		t.Errorf("posted %v", e.messages["C1"])
	}
}

func TestScreen_NextEdge(t *testing.T) {
	first, second := newEdge(t), newEdge(t)
	for n := range 80 {
		for _, e := range []*edge{first, second} {
			e.say("C1", fmt.Sprintf("number %d.", n+1))
		}
	}
	s := sit(t, 100, 24, first, second)
	s.sees("number 80.")
	first.fall()
	s.press(pgUp, pgUp, pgUp, pgUp)
	s.misses("loading")
	s.press(pgUp, pgUp, pgUp, pgUp)
	s.sees("number 1.")
	s.enters("still here")
	s.sees("ann still here")
}

func TestScreen_RefusedTextComesBack(t *testing.T) {
	e := newEdge(t)
	e.with(func() { e.refuse = "not today" })
	s := sit(t, 100, 24, e)
	s.enters("please")
	s.sees("not posted: not today", "> please")
	e.with(func() { e.refuse = "" })
	s.press(enter)
	s.sees("ann please")
	if m := e.messages["C1"]; len(m) != 1 || m[0].ThreadRoot != nil || m[0].MessageID != topology.MessageID("C1-000001") {
		t.Errorf("posted %v", m)
	}
}
