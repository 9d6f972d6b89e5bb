package fault_test

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"parley/chaos/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers every datagram with itself.
func echo(t *testing.T) string {
	t.Helper()
	c := listen(t)
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFromUDP(buf)
			if err != nil {
				return // closed
			}
			_, _ = c.WriteToUDP(buf[:n], from) // the test notices
		}
	}()
	return c.LocalAddr().String()
}

func listen(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// through is a relay before an echo, and a client of it.
func through(t *testing.T) (*fault.Relay, *net.UDPConn) {
	t.Helper()
	free := listen(t)
	at := free.LocalAddr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := fault.NewRelay(map[string]string{at: echo(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	addr, err := net.ResolveUDPAddr("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.DialUDP("udp", nil, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return r, c
}

func send(t *testing.T, c *net.UDPConn, n uint32) {
	t.Helper()
	if _, err := c.Write(binary.BigEndian.AppendUint32(nil, n)); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, c *net.UDPConn, within time.Duration) (n uint32, ok bool) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1500)
	k, err := c.Read(buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, false
	}
	if err != nil || k != 4 {
		t.Fatalf("%d bytes, %v", k, err)
	}
	return binary.BigEndian.Uint32(buf), true
}

const patience = 10 * time.Second

func TestRelay_DelaysInOrder(t *testing.T) {
	r, c := through(t)
	send(t, c, 0)
	if _, ok := receive(t, c, patience); !ok {
		t.Fatal("nothing came back")
	}
	r.Set(fault.Both, fault.Conditions{Delay: 60 * time.Millisecond, Jitter: 40 * time.Millisecond})
	began := time.Now()
	const count = 100
	for i := range uint32(count) {
		send(t, c, i+1)
	}
	for i := range uint32(count) {
		n, ok := receive(t, c, patience)
		if !ok || n != i+1 {
			t.Fatalf("datagram %d came where %d was due (%v)", n, i+1, ok)
		}
	}
	if took := time.Since(began); took < 2*(60-40)*time.Millisecond {
		t.Errorf("all of it took %s: nothing was delayed", took)
	}
}

func TestRelay_CutsOneWay(t *testing.T) {
	r, c := through(t)
	r.Set(fault.Down, fault.Conditions{Cut: true})
	send(t, c, 1)
	if n, ok := receive(t, c, 100*time.Millisecond); ok {
		t.Fatalf("%d came through a cut", n)
	}
	r.Set(fault.Down, fault.Conditions{})
	send(t, c, 2)
	if n, ok := receive(t, c, patience); !ok || n != 2 {
		t.Fatalf("after the cut came %d (%v)", n, ok)
	}
}

func TestRelay_LosesAbout(t *testing.T) {
	r, c := through(t)
	r.Set(fault.Up, fault.Conditions{Loss: 0.5})
	const count = 100
	got := 0
	for i := range uint32(count) { // one by one: a kernel's buffer loses, too
		send(t, c, i)
		if _, ok := receive(t, c, 20*time.Millisecond); ok {
			got++
		}
	}
	if got < count/5 || got > count*4/5 {
		t.Errorf("%d of %d came through a loss of a half", got, count)
	}
	r.Set(fault.Up, fault.Conditions{Loss: 1})
	send(t, c, count)
	if n, ok := receive(t, c, 100*time.Millisecond); ok && n == count {
		t.Error("one came through a loss of all")
	}
}

func TestNewRelay_NamesWhatIsWrong(t *testing.T) {
	for _, targets := range []map[string]string{{"127.0.0.1:0": "nowhere"}, {"256.0.0.1:1": "127.0.0.1:1"}} {
		if _, err := fault.NewRelay(targets); err == nil {
			t.Errorf("%v was taken", targets)
		}
	}
}
