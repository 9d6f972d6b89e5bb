package hub

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // RFC 6455 asks for it
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// conn is one socket. One that is idle owns no buffer.
type conn struct {
	fd      int
	greeted bool
	dirty   bool
	part    []byte   // of a request or frame that is not here yet as a whole
	pending [][]byte // frames for the end of the turn
	blocked []byte   // what the kernel did not take
	follows []*channel
}

func (h *hub) accept() {
	for {
		fd, _, err := unix.Accept4(h.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return // none left, or no descriptor: the client will see
		}
		if unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) != nil || h.watch(fd) != nil {
			_ = unix.Close(fd) // the client will see
			continue
		}
		h.conns[int32(fd)] = &conn{fd: fd} //nolint:gosec // descriptors are small
	}
}

func (h *hub) drop(c *conn) {
	delete(h.conns, int32(c.fd)) //nolint:gosec // descriptors are small
	_ = unix.Close(c.fd)         // nothing depends on it any more
	for _, ch := range c.follows {
		for i, o := range ch.conns {
			if o == c {
				ch.conns[i] = ch.conns[len(ch.conns)-1]
				ch.conns = ch.conns[:len(ch.conns)-1]
				break
			}
		}
	}
	c.follows, c.fd = nil, -1
}

func (h *hub) read(c *conn) {
	n, err := unix.Read(c.fd, h.buf)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return
	}
	if err != nil || n <= 0 {
		h.drop(c)
		return
	}
	b := h.buf[:n]
	if len(c.part) > 0 {
		c.part = append(c.part, b...)
		b = c.part
	}
	rest, ok := h.take(c, b)
	if !ok {
		h.drop(c)
		return
	}
	if len(rest) == 0 {
		c.part = nil
		return
	}
	c.part = append(c.part[:0], rest...)
}

// take handles what is whole in b and returns the rest.
func (h *hub) take(c *conn, b []byte) (rest []byte, ok bool) {
	if !c.greeted {
		head, rest, whole := bytes.Cut(b, []byte("\r\n\r\n"))
		if !whole {
			return b, len(b) < requestMax
		}
		if !h.greet(c, string(head)) {
			return nil, false
		}
		b = rest
	}
	for len(b) >= 2 {
		body, op, size := unmask(b)
		switch {
		case size < 0 || op == 8:
			return nil, false
		case size == 0:
			return b, true
		case op == 1:
			h.post(c, body)
		}
		b = b[size:]
	}
	return b, true
}

// unmask is the first frame of b, unmasked in place.
func unmask(b []byte) (body []byte, op byte, size int) {
	head, n := 2, int(b[1]&0x7f)
	switch {
	case b[1]&0x80 == 0 || n == 127: // clients mask, and posts are short
		return nil, 0, -1
	case n == 126:
		if len(b) < 4 {
			return nil, 0, 0
		}
		head, n = 4, int(binary.BigEndian.Uint16(b[2:]))
	}
	if len(b) < head+4+n {
		return nil, 0, 0
	}
	mask, body := b[head:head+4], b[head+4:head+4+n]
	if mask[0]|mask[1]|mask[2]|mask[3] != 0 {
		for i := range body {
			body[i] ^= mask[i&3]
		}
	}
	return body, b[0] & 15, head + 4 + n
}

const websocketGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// greet answers the handshake. The token names the channels that the socket
// follows, with dots between them.
func (h *hub) greet(c *conn, head string) bool {
	lines := strings.Split(head, "\r\n")
	_, token, ok := strings.Cut(lines[0], "token=")
	token, _, _ = strings.Cut(token, " ")
	key := ""
	for _, line := range lines[1:] {
		if name, value, found := strings.Cut(line, ":"); found && strings.EqualFold(name, "Sec-WebSocket-Key") {
			key = strings.TrimSpace(value)
		}
	}
	if !ok || key == "" {
		return false
	}
	sum := sha1.Sum([]byte(key + websocketGUID)) //nolint:gosec // RFC 6455 asks for it
	answer := fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	hello := chat.Hello{Type: chat.TypeHello, SessionID: "hub", HeartbeatS: heartbeatSecs}
	for id := range strings.SplitSeq(token, ".") {
		ch := h.channels[id]
		if ch == nil {
			ch = &channel{id: id}
			h.channels[id] = ch
		}
		ch.conns = append(ch.conns, c)
		c.follows = append(c.follows, ch)
		hello.Channels = append(hello.Channels, chat.HelloChannel{ID: topology.ChannelID(id), Rev: topology.Rev(ch.rev)})
	}
	c.greeted = true
	h.push(c, append(answer, framed(chat.Encode(hello))...))
	return true
}

func framed(body []byte) []byte {
	b := make([]byte, 0, len(body)+10)
	switch {
	case len(body) < 126:
		b = append(b, 0x81, byte(len(body))) //nolint:gosec // bounded above
	case len(body) <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, 0x81, 126), uint16(len(body))) //nolint:gosec // bounded above
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x81, 127), uint64(len(body)))
	}
	return append(b, body...)
}

func (h *hub) push(c *conn, f []byte) {
	if c.fd < 0 {
		return
	}
	c.pending = append(c.pending, f)
	if !c.dirty {
		c.dirty = true
		h.dirty = append(h.dirty, c)
	}
}

// flush writes what is pending: one frame without a copy, several joined.
func (h *hub) flush(c *conn) {
	c.dirty = false
	var b []byte
	switch {
	case c.fd < 0:
		return
	case len(c.pending) == 1:
		b = c.pending[0]
	default:
		h.scratch = h.scratch[:0]
		for _, f := range c.pending {
			h.scratch = append(h.scratch, f...)
		}
		b = h.scratch
	}
	clear(c.pending)
	c.pending = c.pending[:0]
	if len(c.blocked) > 0 {
		c.blocked = append(c.blocked, b...)
		if len(c.blocked) > blockedMax {
			h.drop(c)
		}
		return
	}
	n, err := unix.Write(c.fd, b)
	if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
		h.drop(c)
		return
	}
	if n = max(n, 0); n < len(b) {
		c.blocked = append(c.blocked, b[n:]...)
		h.arm(c, unix.EPOLLIN|unix.EPOLLOUT)
	}
}

func (h *hub) unblock(c *conn) {
	n, err := unix.Write(c.fd, c.blocked)
	if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
		h.drop(c)
		return
	}
	c.blocked = append(c.blocked[:0], c.blocked[max(n, 0):]...)
	if len(c.blocked) == 0 {
		c.blocked = nil
		h.arm(c, unix.EPOLLIN)
	}
}

func (h *hub) arm(c *conn, what uint32) {
	if unix.EpollCtl(h.poll, unix.EPOLL_CTL_MOD, c.fd, event(c.fd, what)) != nil {
		h.drop(c)
	}
}
