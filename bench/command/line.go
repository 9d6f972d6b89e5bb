package command

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// line is what goes on, in one line that is written over on a terminal, and in
// one now and then elsewhere.
type line struct {
	mu   sync.Mutex
	out  io.Writer
	tty  bool
	last time.Time
}

const lineEvery = 5 * time.Second

func newLine(out io.Writer) *line {
	f, ok := out.(*os.File)
	return &line{out: out, tty: ok && term.IsTerminal(int(f.Fd()))}
}

func (l *line) say(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.tty:
		fmt.Fprintf(l.out, "\r\x1b[K%s", text)
	case time.Since(l.last) >= lineEvery:
		l.last = time.Now()
		fmt.Fprintln(l.out, text)
	}
}

func (l *line) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tty {
		fmt.Fprint(l.out, "\r\x1b[K")
	}
}
