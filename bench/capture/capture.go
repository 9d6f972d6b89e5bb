// Package capture counts the UDP bytes that come over loopback from given ports,
// per pair of ports. A tap on one protocol sees each packet once, as it arrives.
package capture

import (
	"encoding/binary"
	"errors"
	"maps"
	"net"
	"sync"

	"golang.org/x/sys/unix"

	"parley/internal/problem"
)

// Pair is one direction of a link.
type Pair struct{ From, To uint16 }

// Tap is an open capture.
type Tap struct {
	fd    int
	from  map[uint16]bool
	ended chan struct{}

	mu    sync.Mutex
	bytes map[Pair]int64
}

const (
	bufferBytes = 32 << 20
	headBytes   = 64 // of a packet: its IP and UDP headers
	ipBytes     = 20
	udpBytes    = 8
	waitMs      = 100
)

// Open starts counting. It needs the right to read packets (CAP_NET_RAW).
func Open(from []uint16) (*Tap, error) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "there is no loopback")
	}
	const ip = 0x0008 // ETH_P_IP in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, ip)
	if err != nil {
		return nil, problem.Wrap(err, problem.Denied, "counting packets needs CAP_NET_RAW")
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bufferBytes),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: ip, Ifindex: lo.Index}),
	)
	if err != nil {
		_ = unix.Close(fd) // the reason is in err
		return nil, problem.Wrap(err, problem.Unavailable, "packets can't be counted")
	}
	t := &Tap{fd: fd, from: map[uint16]bool{}, ended: make(chan struct{}), bytes: map[Pair]int64{}}
	for _, p := range from {
		t.from[p] = true
	}
	go t.run()
	return t, nil
}

// Close ends the capture.
func (t *Tap) Close() {
	_ = unix.Shutdown(t.fd, unix.SHUT_RDWR) // not every kernel can; the loop looks at fd, too
	t.mu.Lock()
	fd := t.fd
	t.fd = -1
	t.mu.Unlock()
	<-t.ended
	_ = unix.Close(fd) // nothing depends on it any more
}

// Count is the UDP payload so far, per pair.
func (t *Tap) Count() map[Pair]int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.bytes)
}

func (t *Tap) run() {
	defer close(t.ended)
	var head [headBytes]byte
	for {
		t.mu.Lock()
		fd := t.fd
		t.mu.Unlock()
		if fd < 0 {
			return
		}
		n, from, err := unix.Recvfrom(fd, head[:], 0)
		if err != nil {
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, waitMs) //nolint:gosec // descriptors are small
			continue
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_HOST {
			t.take(head[:n])
		}
	}
}

// take counts one packet: IPv4 without options, UDP.
func (t *Tap) take(b []byte) {
	if len(b) < ipBytes+udpBytes || b[0] != 0x45 || b[9] != unix.IPPROTO_UDP {
		return
	}
	p := Pair{binary.BigEndian.Uint16(b[ipBytes:]), binary.BigEndian.Uint16(b[ipBytes+2:])}
	if !t.from[p.From] {
		return
	}
	t.mu.Lock()
	t.bytes[p] += int64(binary.BigEndian.Uint16(b[2:])) - ipBytes - udpBytes
	t.mu.Unlock()
}
