// Package network is where roles listen and what they dial with. The zero Network
// is the operating system's; a simulation puts its own in its place, so that the
// same code runs in simulated time.
package network

import (
	"context"
	"net"
)

// Network listens and dials. What is nil is done by the operating system.
type Network struct {
	Listen func(ctx context.Context, addr string) (net.Listener, error)
	Dial   func(ctx context.Context, addr string) (net.Conn, error)
	// Packets opens a UDP socket; a nil addr takes any.
	Packets func(addr *net.UDPAddr) (net.PacketConn, error)
}

// ListenTCP listens for streams at host:port.
func (n Network) ListenTCP(ctx context.Context, addr string) (net.Listener, error) {
	if n.Listen != nil {
		return n.Listen(ctx, addr)
	}
	return new(net.ListenConfig).Listen(ctx, "tcp", addr)
}

// DialTCP opens a stream to host:port; ctx bounds it.
func (n Network) DialTCP(ctx context.Context, addr string) (net.Conn, error) {
	if n.Dial != nil {
		return n.Dial(ctx, addr)
	}
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

// DialContext is DialTCP as net/http and gorilla ask for it.
func (n Network) DialContext(ctx context.Context, _, addr string) (net.Conn, error) {
	return n.DialTCP(ctx, addr)
}

// UDP opens a socket at addr, or anywhere if it is nil.
func (n Network) UDP(addr *net.UDPAddr) (net.PacketConn, error) {
	if n.Packets != nil {
		return n.Packets(addr)
	}
	return net.ListenUDP("udp", addr)
}
