package fault_test

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"parley/chaos/fault"
)

// target is a server that answers every byte with itself, and says when a
// connection to it ends.
type target struct {
	at    string
	ended chan error
}

func newTarget(t *testing.T) target {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := target{at: l.Addr().String(), ended: make(chan error, 100)}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			all.Go(func() {
				_, err := io.Copy(c, c)
				_ = c.Close() // as it is, mostly
				s.ended <- err
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	return s
}

func newWire(t *testing.T, to target) (*fault.Wire, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	w, err := fault.NewWire(at, to.at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w, at
}

func dial(t *testing.T, at string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// exchange sends a byte and waits for its answer.
func exchange(t *testing.T, c net.Conn, within time.Duration) error {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte{1}); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func TestWire_DelaysAnswers(t *testing.T) {
	w, at := newWire(t, newTarget(t))
	c := dial(t, at)
	if err := exchange(t, c, patience); err != nil {
		t.Fatal(err)
	}
	const delay = 150 * time.Millisecond
	w.Set(fault.Weather{Delay: delay})
	began := time.Now()
	if err := exchange(t, c, patience); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < delay {
		t.Errorf("an answer came after %s", took)
	}
	if met := w.Set(fault.Weather{}); met != 1 {
		t.Errorf("%d pieces were delayed, not the one answer", met)
	}
}

func TestWire_Resets(t *testing.T) {
	to := newTarget(t)
	w, at := newWire(t, to)
	c := dial(t, at)
	if err := exchange(t, c, patience); err != nil {
		t.Fatal(err)
	}
	w.Set(fault.Weather{Reset: 1})
	if err := exchange(t, c, patience); !isReset(err) {
		t.Errorf("the client got %v", err)
	}
	if err := <-to.ended; !isReset(err) {
		t.Errorf("the target got %v", err)
	}
}

func TestWire_ResetsAbout(t *testing.T) {
	w, at := newWire(t, newTarget(t))
	w.Set(fault.Weather{Reset: 0.1})
	const count = 300
	reset, c := 0, dial(t, at)
	for range count {
		if exchange(t, c, patience) != nil {
			reset++
			_ = c.Close() // it is
			c = dial(t, at)
		}
	}
	if reset < count/10 || reset > count*3/10 { // 19 in a hundred are due: two pieces each
		t.Errorf("%d of %d exchanges were reset", reset, count)
	}
}

func TestWire_CutIsSilent(t *testing.T) {
	w, at := newWire(t, newTarget(t))
	busy, idle := dial(t, at), dial(t, at)
	for _, c := range []net.Conn{busy, idle} {
		if err := exchange(t, c, patience); err != nil {
			t.Fatal(err)
		}
	}
	w.Set(fault.Weather{Cut: true})
	late := dial(t, at)
	for _, c := range []net.Conn{busy, late} {
		if err := exchange(t, c, 50*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("in a cut came %v", err)
		}
	}
	w.Set(fault.Weather{})
	if err := exchange(t, busy, patience); !isReset(err) {
		t.Errorf("a connection that lost something got %v", err)
	}
	for _, c := range []net.Conn{idle, dial(t, at)} {
		if err := exchange(t, c, patience); err != nil {
			t.Error(err)
		}
	}
}

func TestWire_CutHidesAnEnd(t *testing.T) {
	to := newTarget(t)
	w, at := newWire(t, to)
	c := dial(t, at)
	if err := exchange(t, c, patience); err != nil {
		t.Fatal(err)
	}
	w.Set(fault.Weather{Cut: true})
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-to.ended:
		t.Fatalf("in a cut the target saw the end: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	w.Set(fault.Weather{})
	t.Log("after the cut the target saw", <-to.ended)
}

func TestWire_Refuses(t *testing.T) {
	w, at := newWire(t, newTarget(t))
	c := dial(t, at)
	if err := exchange(t, c, patience); err != nil {
		t.Fatal(err)
	}
	w.Refuse()
	w.Refuse()
	if err := exchange(t, c, patience); err == nil {
		t.Error("a connection outlived it")
	}
	if _, err := net.Dial("tcp", at); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dialling gave %v", err)
	}
	for range 2 {
		if err := w.Accept(); err != nil {
			t.Fatal(err)
		}
	}
	if err := exchange(t, dial(t, at), patience); err != nil {
		t.Error(err)
	}
}

func TestNewWire_NamesWhatIsWrong(t *testing.T) {
	taken := newTarget(t)
	if _, err := fault.NewWire(taken.at, taken.at); err == nil {
		t.Error("an address that is in use was taken")
	}
}
