package chatui

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"parley/client"
	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// drainMax is how long messages that come in are still shown after the input has
// ended, so that a pipe sees the echo of what it wrote.
const drainMax = 2 * time.Second

// Plain posts every line of in and prints what is said, until in ends or ctx.
func Plain(ctx context.Context, cfg Config, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	p, old, err := openPlain(ctx, g, cfg, out)
	if err != nil {
		cancel()
		return errors.Join(err, g.Wait())
	}
	fmt.Fprintf(out, "#%s · %d members · you are %s\n", p.channel.Name, p.channel.MemberCount, p.name(p.me.ID))
	p.print(old...)
	g.Go(func() error {
		for e := range p.stream.Events() {
			if l, ok := p.take(e); ok {
				p.print(l)
			}
		}
		return nil
	})
	// Reading can't be interrupted: this goroutine ends with the input.
	posted := make(chan error, 1)
	go func() { posted <- p.postLines(ctx, in) }()
	select {
	case err = <-posted:
		if err == nil {
			t := time.NewTimer(drainMax)
			defer t.Stop()
			select {
			case <-t.C:
			case <-ctx.Done():
			}
		}
	case <-ctx.Done():
	}
	cancel()
	if failed := g.Wait(); err == nil {
		err = failed
	}
	return err
}

// plain is one channel in lines.
type plain struct {
	*session
	channel chat.Channel
	shown   map[topology.MessageID]bool // history and live overlap at the start

	mu  sync.Mutex
	out io.Writer
}

func openPlain(ctx context.Context, g *errgroup.Group, cfg Config, out io.Writer) (*plain, []line, error) {
	p := &plain{shown: map[topology.MessageID]bool{}, out: out}
	var err error
	if p.session, p.channel, err = open(ctx, g, cfg); err != nil {
		return nil, nil, err
	}
	page, err := p.before(ctx, p.channel.ID, "")
	if err != nil {
		return nil, nil, err
	}
	slices.Reverse(page.Messages)
	var lines []line
	for _, m := range page.Messages {
		lines = append(lines, p.message(m))
	}
	return p, lines, nil
}

// take turns an event into what is to be printed; ok is false if nothing is.
func (p *plain) take(e client.Event) (line, bool) {
	if e.ChannelID != p.channel.ID {
		return line{}, false
	}
	switch e.Type {
	case chat.TypeMessage:
		var m chat.MessageEvent
		if json.Unmarshal(e.Raw, &m) != nil || p.shown[m.Message.MessageID] {
			return line{}, false
		}
		return p.message(m.Message), true
	case chat.TypeTyping:
		var t chat.TypingEvent
		if json.Unmarshal(e.Raw, &t) != nil || t.UserID == p.me.ID {
			return line{}, false
		}
		return line{Text: p.name(t.UserID) + " is typing"}, true
	case chat.TypeChannel:
		var c chat.ChannelEvent
		if json.Unmarshal(e.Raw, &c) != nil {
			return line{}, false
		}
		return line{Text: p.changed(c)}, true
	case chat.TypeReset:
		return line{Text: "you were away for long: older messages are in the history"}, true
	}
	return line{}, false
}

func (p *plain) message(m chat.Message) line {
	p.shown[m.MessageID] = true
	text := printable(m.Text)
	if m.ThreadRoot != nil {
		text = "↳ " + text
	}
	if m.ReplyCount > 0 {
		text += "  " + replies(m.ReplyCount)
	}
	return line{When: clock(m.TS), Who: p.name(m.UserID), Text: text}
}

func (p *plain) postLines(ctx context.Context, in io.Reader) error {
	s := bufio.NewScanner(in)
	s.Buffer(make([]byte, 0, 4096), 4*chat.TextRunesMax)
	for s.Scan() {
		if s.Text() == "" {
			continue
		}
		if err := p.say(ctx, s.Text()); err != nil {
			return err
		}
	}
	if err := s.Err(); err != nil {
		return problem.Wrap(err, problem.Invalid, "the input can't be read: %v", err)
	}
	return nil
}

// say posts a line, or answers it if it is a command.
func (p *plain) say(ctx context.Context, typed string) error {
	name, arg, post := command(typed)
	if name == "" {
		own, cancel := context.WithTimeout(ctx, postMax)
		defer cancel()
		_, err := p.stream.Post(own, p.channel.ID, chat.PostRequest{Text: post})
		return err
	}
	answer, err := p.answer(ctx, name, arg)
	if problem.Is(err, problem.Invalid) {
		answer, err = []string{problem.Show(err)}, nil
	}
	for _, a := range answer {
		p.print(line{Text: a})
	}
	return err
}

// print prints lines whole, whoever they come from.
func (p *plain) print(lines ...line) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range lines {
		if l.Who == "" {
			fmt.Fprintf(p.out, "      * %s\n", l.Text)
			continue
		}
		fmt.Fprintf(p.out, "%s %s: %s\n", l.When, l.Who, l.Text)
	}
}
