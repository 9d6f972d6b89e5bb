package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/term"
)

// progress shows how far something has come: a bar with its ETA on a terminal, a
// line now and then elsewhere.
type progress struct {
	out   io.Writer
	what  string
	total int64
	done  func() int64
	count atomic.Int64
	began time.Time
	tty   bool
	quit  chan struct{}
	ended sync.WaitGroup
	once  sync.Once
}

const (
	barEvery  = 100 * time.Millisecond
	lineEvery = 5 * time.Second
	barWidth  = 30
)

// newProgress shows counts given to add; stop ends it.
func newProgress(out io.Writer, what string, total int64) *progress {
	p := &progress{out: out, what: what, total: total}
	p.done = p.count.Load
	p.start()
	return p
}

// watchProgress shows what done says.
func watchProgress(out io.Writer, what string, total int64, done func() int64) *progress {
	p := &progress{out: out, what: what, total: total, done: done}
	p.start()
	return p
}

func (p *progress) start() {
	f, ok := p.out.(*os.File)
	p.tty = ok && term.IsTerminal(int(f.Fd()))
	p.began, p.quit = time.Now(), make(chan struct{})
	every := lineEvery
	if p.tty {
		every = barEvery
	}
	p.ended.Go(func() {
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				p.show()
			case <-p.quit:
				if p.tty {
					p.show()
					fmt.Fprintln(p.out)
				}
				return
			}
		}
	})
}

func (p *progress) add(n int64) { p.count.Add(n) }

func (p *progress) stop() {
	p.once.Do(func() {
		close(p.quit)
		p.ended.Wait()
	})
}

func (p *progress) show() {
	done := p.done()
	took := time.Since(p.began)
	rate := float64(done) / took.Seconds()
	eta := "-"
	if done > 0 && done <= p.total {
		eta = (time.Duration(float64(p.total-done)/rate*1e9) * time.Nanosecond).Round(time.Second).String()
	}
	text := fmt.Sprintf("%s %d of %d, %.0f/s, ETA %s", p.what, done, p.total, rate, eta)
	if !p.tty {
		fmt.Fprintln(p.out, text)
		return
	}
	full := 0
	if p.total > 0 {
		full = int(min(done, p.total) * barWidth / p.total)
	}
	fmt.Fprintf(p.out, "\r\x1b[K[%s%s] %s", strings.Repeat("█", full), strings.Repeat("·", barWidth-full), text)
}
