// Package process runs operating-system processes for drills: it starts them with
// a log of their own, knows when they are ready, and ends, kills, stops and
// continues them, by pid, and only those that it started.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// Config is one process.
type Config struct {
	Name    string
	Binary  string
	Args    []string
	Env     []string // beside this process's own
	LogFile string   // both outputs, appended
	Ready   func(ctx context.Context) error
}

// Process is one process, which may be started again after its end.
type Process struct {
	cfg Config

	mu    sync.Mutex
	cmd   *exec.Cmd
	done  chan struct{} // closed when it has ended
	asked bool          // we ended it
	last  error         // how it ended
}

// New checks nothing and starts nothing.
func New(cfg Config) *Process { return &Process{cfg: cfg} }

// URL says that a process is ready when a GET of url is answered with 200.
func URL(url string) func(context.Context) error {
	web := &http.Client{Timeout: askMax, Transport: &http.Transport{DisableKeepAlives: true}}
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		res, err := web.Do(req)
		if err != nil {
			return err
		}
		if err := res.Body.Close(); err != nil {
			return err
		}
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", url, res.Status)
		}
		return nil
	}
}

// Port says that a process is ready when it listens at addr.
func Port(addr string) func(context.Context) error {
	return func(ctx context.Context) error {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		return c.Close()
	}
}

// readyEvery is how often a starting process is asked.
const (
	readyEvery = 25 * time.Millisecond
	askMax     = time.Second
)

// Start starts the process and waits until it is ready, it ends, or ctx does.
// One that runs is left alone.
func (p *Process) Start(ctx context.Context) error {
	done, err := p.launch()
	if err != nil {
		return fmt.Errorf("%s: %w", p.cfg.Name, err)
	}
	t := time.NewTicker(readyEvery)
	defer t.Stop()
	for {
		ask, cancel := context.WithTimeout(ctx, askMax)
		err := p.cfg.Ready(ask)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-done:
			return fmt.Errorf("%s ended before it was ready: %w; see %s", p.cfg.Name, p.how(), p.cfg.LogFile)
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; see %s", p.cfg.Name, err, p.cfg.LogFile)
		case <-t.C:
		}
	}
}

func (p *Process) launch() (done chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running() {
		return p.done, nil
	}
	log, err := os.OpenFile(p.cfg.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(p.cfg.Binary, p.cfg.Args...) //nolint:noctx,gosec // it outlives the call that starts it; drills say what to run
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), p.cfg.Env...)
	// It dies with this process. Pdeathsig watches the thread that forked, so that
	// thread must not end before the process does.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	p.cmd, p.done, p.asked = cmd, make(chan struct{}), false
	ended := p.done
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := cmd.Start()
		started <- err
		if err == nil {
			err = cmd.Wait()
		}
		err = errors.Join(err, log.Close())
		p.mu.Lock()
		p.last = err
		p.mu.Unlock()
		close(ended)
	}()
	return p.done, <-started
}

// running reports whether the process lives. The caller holds p.mu.
func (p *Process) running() bool {
	if p.done == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *Process) how() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil {
		return errors.New("with status 0")
	}
	return p.last
}

// Unasked is how the process ended if nobody ended it here; nil while it runs.
func (p *Process) Unasked() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done == nil || p.running() || p.asked {
		return nil
	}
	return fmt.Errorf("%s ended by itself: %w; see %s", p.cfg.Name, p.last, p.cfg.LogFile)
}

func (p *Process) signal(s syscall.Signal, end bool) (done chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return nil, nil
	}
	p.asked = p.asked || end
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return nil, fmt.Errorf("%s: %w", p.cfg.Name, err)
	}
	return p.done, nil
}

// Kill ends the process by SIGKILL and waits for its end.
func (p *Process) Kill() error {
	done, err := p.signal(syscall.SIGKILL, true)
	if done != nil {
		<-done
	}
	return err
}

// Stop ends the process by SIGTERM, and kills it if it has not ended in time.
func (p *Process) Stop(ctx context.Context, grace time.Duration) error {
	done, err := p.signal(syscall.SIGTERM, true)
	if done == nil || err != nil {
		return err
	}
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	case <-t.C:
	}
	return errors.Join(fmt.Errorf("%s did not end within %s of SIGTERM", p.cfg.Name, grace), p.Kill())
}

// Pause stops the process where it stands (SIGSTOP), and returns when each of its
// threads does stand: the signal alone lets those that run go on for a moment.
func (p *Process) Pause() error {
	p.mu.Lock()
	cmd := p.cmd
	p.mu.Unlock()
	done, err := p.signal(syscall.SIGSTOP, false)
	if done == nil || err != nil {
		return err
	}
	late := time.After(askMax)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !stands(cmd.Process.Pid) {
		select {
		case <-done:
			return nil
		case <-late:
			return fmt.Errorf("%s runs on, %s after SIGSTOP", p.cfg.Name, askMax)
		case <-tick.C:
		}
	}
	return nil
}

// stands reports whether all threads of a process are stopped. See proc(5) for
// the state's place: after the name in parentheses, which may hold any character.
func stands(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return false
	}
	for _, f := range threads {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		_, after, _ := bytes.Cut(b[max(0, bytes.LastIndexByte(b, ')')):], []byte(") "))
		if !bytes.HasPrefix(after, []byte("T")) {
			return false
		}
	}
	return len(threads) > 0
}

// Continue lets a paused process go on.
func (p *Process) Continue() error {
	_, err := p.signal(syscall.SIGCONT, false)
	return err
}
