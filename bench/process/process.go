// Package process runs a server that is measured as a child process, and reads
// what it costs from /proc.
package process

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"parley/internal/problem"
)

// Config says what to run.
type Config struct {
	Name, Path string // the name is for errors
	Args       []string
	// Ready looks at each line of its output; true = it serves.
	Ready func(line string) bool
	// Serves, in place of Ready, is asked until it has no error.
	Serves func(ctx context.Context) error
	// Log, if not "", is a file that its errors are appended to.
	Log string
}

// Bounds of a child.
const (
	readyMax  = 2 * time.Minute
	askEvery  = 25 * time.Millisecond
	stopMax   = 15 * time.Second
	tailBytes = 4 << 10
	lineBytes = 64 << 10
)

// Process is a running child.
type Process struct {
	cmd    *exec.Cmd
	name   string
	cancel context.CancelFunc
	ended  chan struct{} // closed when it is gone
	errs   tail
}

// Start runs a child and waits until it serves. It ends with ctx, at Stop, or
// with this process.
func Start(ctx context.Context, cfg Config) (*Process, error) {
	ctx, cancel := context.WithCancel(ctx)
	p := &Process{cmd: exec.CommandContext(ctx, cfg.Path, cfg.Args...), name: cfg.Name, cancel: cancel, ended: make(chan struct{})} //nolint:gosec // the operator names it
	p.cmd.Stderr = &p.errs
	if cfg.Log != "" {
		log, err := os.OpenFile(cfg.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			cancel()
			return nil, problem.Wrap(err, problem.Unavailable, "%s: no log", cfg.Name)
		}
		defer func() { _ = log.Close() }() // the child has its own
		p.cmd.Stderr = log
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = stopMax
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, problem.Wrap(err, problem.Unavailable, "%s can't be started", cfg.Path)
	}
	ready := make(chan struct{})
	go func() {
		defer close(p.ended)
		follow(out, cfg.Ready, ready)
		_ = p.cmd.Wait() // why it ended is in its output
	}()
	if cfg.Serves != nil {
		go p.ask(ctx, cfg.Serves, ready)
	}
	late := time.NewTimer(readyMax)
	defer late.Stop()
	select {
	case <-ready:
		return p, nil
	case <-p.ended:
		err = problem.New(problem.Unavailable, "%s ended before it served: %s%s", cfg.Name, p.errs.text(), cfg.Log)
	case <-late.C:
		err = problem.New(problem.Unavailable, "%s did not serve within %s: %s%s", cfg.Name, readyMax, p.errs.text(), cfg.Log)
	case <-ctx.Done():
		err = ctx.Err()
	}
	p.Stop()
	return nil, err
}

// follow reads a child's output to its end and closes ready at the line.
func follow(out io.Reader, is func(string) bool, ready chan struct{}) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, lineBytes)
	for once := is == nil; lines.Scan(); {
		if !once && is(lines.Text()) {
			once = true
			close(ready)
		}
	}
	_, _ = io.Copy(io.Discard, out) // after a line that is too long
}

// ask closes ready once the child serves.
func (p *Process) ask(ctx context.Context, serves func(context.Context) error, ready chan struct{}) {
	t := time.NewTicker(askEvery)
	defer t.Stop()
	for serves(ctx) != nil {
		select {
		case <-p.ended:
			return
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
	close(ready)
}

// Stop ends the child in order, or by force after a while, and waits.
func (p *Process) Stop() {
	p.cancel()
	<-p.ended
}

// Alive is nil while the child runs, else what it said last.
func (p *Process) Alive() error {
	select {
	case <-p.ended:
		return problem.New(problem.Unavailable, "%s has ended: %s", p.name, p.errs.text())
	default:
		return nil
	}
}

// RSS is the child's resident memory in bytes.
func (p *Process) RSS() (int64, error) {
	n, err := rss(p.cmd.Process.Pid)
	if err != nil {
		return 0, p.gone(err)
	}
	return n, nil
}

func rss(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0, problem.New(problem.Internal, "/proc/%d/statm reads %q", pid, b)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// CPU is the CPU time that the child has used, user and system.
func (p *Process) CPU() (time.Duration, error) {
	d, err := CPUOf(p.cmd.Process.Pid)
	if err != nil {
		return 0, p.gone(err)
	}
	return d, nil
}

// CPUOf is the CPU time that any process has used.
func CPUOf(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// Behind the name, which may hold anything, user and system time are the
	// 12th and 13th field, in hundredths of a second.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	var ticks int64
	for _, f := range fields[min(11, len(fields)):min(13, len(fields))] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// gone is an error of /proc, or why the child is no longer there.
func (p *Process) gone(err error) error {
	if ended := p.Alive(); ended != nil {
		return ended
	}
	return problem.Wrap(err, problem.Unavailable, "%s can't be looked at", p.name)
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if over := len(t.b) - tailBytes; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(b), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}
