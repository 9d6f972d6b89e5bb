package client

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"parley/internal/problem"
	"parley/internal/topology"
	"parley/internal/wire/chat"
)

// Socket is one connection to /connect. One goroutine may call Read, and any may
// call Send.
type Socket struct {
	ws      *websocket.Conn
	silence time.Duration // how long it may say nothing; Read's caller alone changes it
	send    sync.Mutex    // gorilla allows one writer at a time
}

const (
	handshakeMax = 15 * time.Second
	writeMax     = 10 * time.Second
	// silenceMax is how long a socket may say nothing: each 10 s the edge answers a
	// ping, or pings.
	silenceMax = 25 * time.Second
	// eventBytesMax bounds an event: a hello with 10,000 channels has about 1 MB.
	eventBytesMax = 4 << 20
)

// Dial opens a socket. With resume, the first frame sent must be Resume; nothing
// but hello comes before it.
func (c *Client) Dial(ctx context.Context, resume bool) (*Socket, error) {
	u := *c.base
	u.Scheme = map[string]string{"http": "ws", "https": "wss"}[u.Scheme]
	u.Path += "/connect"
	if resume {
		u.RawQuery = url.Values{"resume": {"1"}}.Encode()
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeMax)
	defer cancel()
	d := websocket.Dialer{NetDialContext: c.dial, TLSClientConfig: c.tls, HandshakeTimeout: handshakeMax, ReadBufferSize: 16 << 10}
	ws, res, err := d.DialContext(ctx, u.String(), http.Header{"Authorization": {"Bearer " + c.token}})
	if err != nil {
		if res != nil && errors.Is(err, websocket.ErrBadHandshake) {
			defer func() { _ = res.Body.Close() }() // gorilla has read what there is
			return nil, decodeProblem(res)
		}
		return nil, problem.Wrap(err, problem.Unavailable, "%s did not open a socket", c.base.Host)
	}
	ws.SetReadLimit(eventBytesMax)
	s := &Socket{ws: ws, silence: silenceMax}
	pong := ws.PingHandler()
	ws.SetPingHandler(func(data string) error {
		_ = ws.SetReadDeadline(time.Now().Add(s.silence)) // fails only on a closed socket, as the next read will
		return pong(data)
	})
	return s, nil
}

// Read returns the next event as it came and what it starts with.
func (s *Socket) Read() ([]byte, chat.Envelope, error) {
	var e chat.Envelope
	if err := s.ws.SetReadDeadline(time.Now().Add(s.silence)); err != nil {
		return nil, e, problem.Wrap(err, problem.Unavailable, "the socket is closed")
	}
	_, b, err := s.ws.ReadMessage()
	if err != nil {
		if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
			return nil, e, problem.Wrap(err, problem.Unavailable, "the edge closed the socket: %d %s", closed.Code, closed.Text)
		}
		if timedOut(err) {
			return nil, e, problem.Wrap(err, problem.Unavailable, "the edge said nothing for %v", s.silence.Round(time.Millisecond))
		}
		return nil, e, problem.Wrap(err, problem.Unavailable, "the socket broke")
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return nil, e, problem.Wrap(err, problem.Internal, "the edge sent an event that is not JSON")
	}
	return b, e, nil
}

// timedOut reports whether the peer was silent for too long.
func timedOut(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// Send sends a client frame.
func (s *Socket) Send(f chat.ClientFrame) error {
	b, err := json.Marshal(f)
	if err != nil {
		return problem.Wrap(err, problem.Invalid, "the frame can't be encoded")
	}
	s.send.Lock()
	defer s.send.Unlock()
	if err := s.ws.SetWriteDeadline(time.Now().Add(writeMax)); err != nil {
		return problem.Wrap(err, problem.Unavailable, "the socket is closed")
	}
	if err := s.ws.WriteMessage(websocket.TextMessage, b); err != nil {
		return problem.Wrap(err, problem.Unavailable, "the socket broke")
	}
	return nil
}

// Resume sends the cursors: the last rev the user has had of each channel, and
// chat.UserCursor for the list of channels.
func (s *Socket) Resume(cursors map[topology.ChannelID]topology.Rev) error {
	if cursors == nil {
		cursors = map[topology.ChannelID]topology.Rev{}
	}
	return s.Send(chat.ClientFrame{Type: chat.TypeResume, Cursors: cursors})
}

// Close ends the socket; a Read under way returns.
func (s *Socket) Close() error {
	_ = s.ws.WriteControl(websocket.CloseMessage, // a courtesy: the peer may be gone
		websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
	if err := s.ws.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
