package chatui_test

import (
	"bytes"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"parley/client"
	"parley/internal/chatui"
	"parley/internal/wire/chat"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func TestPlain(t *testing.T) {
	e := newEdge(t)
	e.say("C1", "before \x1b[2Jyou came")
	e.unread["C2"] = chat.ReadState{ChannelID: "C2", UnreadCount: 3, MentionCount: 1}
	var out bytes.Buffer
	typed := "hello\n\n/search you came\n/channels\n/nothing at all\n//shrug\n/help\n"
	err := chatui.Plain(t.Context(), chatui.Config{Clients: []*client.Client{e.client()}, Channel: "#general"}, strings.NewReader(typed), &out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"#general · 2 members · you are ann\n", " bob: before �[2Jyou came\n", " ann: hello\n", " #general bob: before �[2Jyou came\n",
		"      * 1 found for you came, and more\n", "      * #ops 3 @1\n", "there is no command /nothing here", " ann: /shrug\n", "      * /search WORDS",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	if strings.ContainsRune(out.String(), '\x1b') {
		t.Error("a message steers the terminal")
	}
	if len(e.keys) != 2 {
		t.Errorf("%d messages were posted, not 2", len(e.keys))
	}
}

func TestPlain_NoSuchChannel(t *testing.T) {
	var out bytes.Buffer
	err := chatui.Plain(t.Context(), chatui.Config{Clients: []*client.Client{newEdge(t).client()}, Channel: "nowhere"}, strings.NewReader(""), &out)
	if err == nil || !strings.Contains(err.Error(), `"nowhere"`) {
		t.Errorf("got %v", err)
	}
}

func TestPlain_AsksTheNextEdge(t *testing.T) {
	gone, there := newEdge(t), newEdge(t)
	gone.fall()
	var out bytes.Buffer
	err := chatui.Plain(t.Context(), chatui.Config{Clients: []*client.Client{gone.client(), there.client()}}, strings.NewReader("hello\n"), &out)
	if err != nil || !strings.Contains(out.String(), " ann: hello\n") {
		t.Errorf("got %v and\n%s", err, out.String())
	}
}
