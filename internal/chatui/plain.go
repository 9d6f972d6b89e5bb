package chatui

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"parley/internal/problem"
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
	r, old, err := open(ctx, g, cfg)
	if err != nil {
		cancel()
		return errors.Join(err, g.Wait())
	}
	fmt.Fprintln(out, r.title())
	shown := printer{out: out}
	shown.show(old...)
	g.Go(func() error {
		for e := range r.stream.Events() {
			if l, ok := r.take(e); ok {
				shown.show(l)
			}
		}
		return nil
	})
	// Reading can't be interrupted: this goroutine ends with the input.
	posted := make(chan error, 1)
	go func() { posted <- r.postLines(ctx, in, &shown) }()
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

func (r *room) postLines(ctx context.Context, in io.Reader, out *printer) error {
	s := bufio.NewScanner(in)
	s.Buffer(make([]byte, 0, 4096), 4*chat.TextRunesMax)
	for s.Scan() {
		if s.Text() == "" {
			continue
		}
		lines, err := r.say(ctx, s.Text())
		if err != nil {
			return err
		}
		out.show(lines...)
	}
	if err := s.Err(); err != nil {
		return problem.Wrap(err, problem.Invalid, "the input can't be read: %v", err)
	}
	return nil
}

// printer prints lines whole, whoever they come from.
type printer struct {
	mu  sync.Mutex
	out io.Writer
}

func (p *printer) show(lines ...line) {
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
