//go:build e2e

package e2e_test

import (
	"context"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/charmbracelet/x/vt"
	"github.com/creack/pty"
	"golang.org/x/term"
)

const (
	// seenMax bounds the wait for something to be on a screen; leftMax for a program
	// to end.
	seenMax = 20 * time.Second
	leftMax = 10 * time.Second
	lookGap = 10 * time.Millisecond
)

// What keys send.
const (
	enterKey = "\r"
	escKey   = "\x1b"
	upKey    = "\x1b[A"
	pgUpKey  = "\x1b[5~"
	ctrlC    = "\x03"
	ctrlP    = "\x10"
	ctrlU    = "\x15"
)

// terminal is a program in a pseudo terminal, and the screen a person has before
// them, drawn by an emulator.
type terminal struct {
	keys    *os.File // the end that a keyboard and a screen are at
	line    *os.File // the program's end, held open to look at its state
	before  *term.State
	cmd     *exec.Cmd
	done    chan error
	reading sync.WaitGroup

	mu     sync.Mutex
	screen *vt.Emulator
}

// sit starts a command in a terminal; it is killed at the end of the test.
func sit(t *testing.T, cmd *exec.Cmd, width, height int) *terminal {
	t.Helper()
	s := &terminal{cmd: cmd, done: make(chan error, 1), screen: vt.NewEmulator(width, height)}
	var err error
	if s.keys, s.line, err = pty.Open(); err != nil {
		t.Fatal(err)
	}
	if err := s.resize(width, height); err != nil {
		t.Fatal(err)
	}
	if s.before, err = term.GetState(int(s.line.Fd())); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(cmd.Env, "TERM=xterm-256color")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.line, s.line, s.line
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.reading.Go(s.draw)
	s.reading.Go(s.reply)
	go func() { s.done <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()                  // it may have ended
		s.done <- <-s.done                      // it has ended, and says so again
		_, _ = s.line.Close(), s.screen.Close() // both readers end
		s.reading.Wait()
		_ = s.keys.Close()
	})
	return s
}

// draw puts what the program writes onto the screen.
func (s *terminal) draw() {
	b := make([]byte, 32<<10)
	for {
		n, err := s.keys.Read(b)
		s.mu.Lock()
		_, _ = s.screen.Write(b[:n])
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// reply sends the program what the terminal answers to its questions.
func (s *terminal) reply() {
	b := make([]byte, 256)
	for {
		n, err := s.screen.Read(b)
		if err != nil {
			return
		}
		_, _ = s.keys.Write(b[:n])
	}
}

// resize is what a window's corner does: the program hears of it by a signal.
func (s *terminal) resize(width, height int) error {
	s.mu.Lock()
	s.screen.Resize(width, height)
	s.mu.Unlock()
	return pty.Setsize(s.keys, &pty.Winsize{Cols: uint16(width), Rows: uint16(height)})
}

func (s *terminal) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.screen.String()
}

// alone says that the program has a screen of its own, and what was on it before
// comes back.
func (s *terminal) alone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.screen.IsAltScreen()
}

// cursor says that there is one to be seen.
func (s *terminal) cursor() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.screen.CursorHidden()
}

// types presses keys.
func (s *terminal) types(t *testing.T, keys ...string) {
	t.Helper()
	if _, err := s.keys.WriteString(strings.Join(keys, "")); err != nil {
		t.Fatal(err)
	}
}

func (s *terminal) enters(t *testing.T, text string) {
	t.Helper()
	s.types(t, text, enterKey)
}

// until waits until the screen is as wanted.
func (s *terminal) until(t *testing.T, what string, ok func(screen string) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), seenMax)
	defer cancel()
	tick := time.NewTicker(lookGap)
	defer tick.Stop()
	for !ok(s.text()) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not on the screen of %v\n%s", what, s.cmd.Args[1:], s.text())
		}
	}
}

func (s *terminal) sees(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		s.until(t, text, func(screen string) bool { return strings.Contains(screen, text) })
	}
}

func (s *terminal) misses(t *testing.T, text string) {
	t.Helper()
	s.until(t, "no "+text, func(screen string) bool { return !strings.Contains(screen, text) })
}

// left waits for the program's end and wants the terminal back as it was.
func (s *terminal) left(t *testing.T) {
	t.Helper()
	select {
	case err := <-s.done:
		s.done <- err
		if err != nil {
			t.Errorf("%v ended with %v\n%s", s.cmd.Args[1:], err, s.text())
		}
	case <-time.After(leftMax):
		t.Fatalf("%v still runs %s after it was left\n%s", s.cmd.Args[1:], leftMax, s.text())
	}
	s.until(t, "the screen and the cursor from before", func(string) bool { return !s.alone() && s.cursor() })
	after, err := term.GetState(int(s.line.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(s.before, after) {
		t.Errorf("the terminal's modes are not those from before: %+v, %+v", s.before, after)
	}
}
