package capture_test

import (
	"net"
	"testing"
	"time"

	"parley/bench/capture"
	"parley/internal/problem"
)

func TestTap_CountsThePayloadOfItsPortsOnly(t *testing.T) {
	listen := func() *net.UDPConn {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	port := func(c *net.UDPConn) uint16 { return c.LocalAddr().(*net.UDPAddr).AddrPort().Port() }
	from, other, to := listen(), listen(), listen()
	tap, err := capture.Open([]uint16{port(from)})
	if problem.Is(err, problem.Denied) {
		t.Skip("needs CAP_NET_RAW")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	for range 3 {
		for _, c := range []*net.UDPConn{other, from} {
			if _, err := c.WriteTo(make([]byte, 700), to.LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
	}
	pair := capture.Pair{From: port(from), To: port(to)}
	for deadline := time.After(5 * time.Second); tap.Count()[pair] < 2100; {
		select {
		case <-deadline:
			t.Fatalf("counted %v", tap.Count())
		case <-time.After(time.Millisecond):
		}
	}
	if got := tap.Count(); len(got) != 1 || got[pair] != 2100 {
		t.Errorf("counted %v, want 2100 bytes of one pair", got)
	}
}
