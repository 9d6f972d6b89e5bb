package hub

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"parley/internal/problem"
)

// post is one post and who sent it.
type post struct {
	from              *conn
	raw               []byte
	id, channel       []byte
	text, clientMsgID []byte
}

// post takes a client's frame, if it is a post.
func (h *hub) post(c *conn, body []byte) {
	if !bytes.HasPrefix(body, []byte(`{"type":"post"`)) {
		return
	}
	raw := bytes.Clone(body)
	h.turn = append(h.turn, post{
		from: c, raw: raw, id: field(raw, `"id":"`), channel: field(raw, `"channel_id":"`),
		text: field(raw, `"text":"`), clientMsgID: field(raw, `"client_msg_id":"`),
	})
}

// field cuts a string out of an object as the load generator writes it: no
// escaped quotes, each name once.
func field(b []byte, name string) []byte {
	_, rest, _ := bytes.Cut(b, []byte(name))
	value, _, _ := bytes.Cut(rest, []byte{'"'})
	return value
}

// Stand-ins as long as the real thing.
const (
	fakeUser = "U01ARZ3NDEKTSV4RRFFQ69G5FAV"
	fakeTime = "2026-01-02T15:04:05.000000Z"
)

// show numbers posts, acks them and gives them to every socket of their channel.
func (h *hub) show(ps []post) {
	for _, p := range ps {
		ch := h.channels[string(p.channel)]
		if ch == nil {
			continue
		}
		ch.rev++
		rev := strconv.FormatUint(ch.rev, 10)
		message := fmt.Sprintf("%026d", ch.rev)
		h.push(p.from, framed(fmt.Appendf(nil, `{"type":"ack","id":"%s","channel_id":"%s","message_id":"%s","ts":"%s","seq":%s,"rev":%s}`,
			p.id, ch.id, message, fakeTime, rev, rev)))
		b := make([]byte, 0, len(p.text)+512)
		for _, part := range [...]string{
			`{"type":"message","channel_id":"`, ch.id, `","rev":`, rev, `,"message":{"message_id":"`, message, `","channel_id":"`, ch.id,
			`","seq":`, rev, `,"ts":"` + fakeTime + `","user_id":"` + fakeUser + `","text":"`,
		} {
			b = append(b, part...)
		}
		b = append(b, p.text...)
		b = append(b, `","thread_root":null,"reply_count":0,"last_reply_ts":null,"client_msg_id":"`...)
		b = append(b, p.clientMsgID...)
		f := framed(append(b, `"}}`...))
		for _, c := range ch.conns {
			h.push(c, f)
		}
	}
}

// disk commits posts in groups: one write and one fdatasync for what has come in
// during the last.
type disk struct {
	file  *os.File
	rouse func()
	work  chan []post // holds one group; closed by close
	ended sync.WaitGroup

	waiting []post // the loop's
	mu      sync.Mutex
	busy    bool
	done    []post
}

func openDisk(name string, rouse func()) (*disk, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "--sync: %s can't be written", name)
	}
	d := &disk{file: f, rouse: rouse, work: make(chan []post, 1)}
	d.ended.Go(d.run)
	return d, nil
}

func (d *disk) close() {
	close(d.work)
	d.ended.Wait()
	_ = d.file.Close() // what counts is synced
}

func (d *disk) run() {
	var buf []byte
	for ps := range d.work {
		buf = buf[:0]
		for _, p := range ps {
			buf = append(buf, p.raw...)
		}
		_, err := d.file.Write(buf)
		if err == nil {
			err = unix.Fdatasync(int(d.file.Fd()))
		}
		d.mu.Lock()
		d.busy = false
		if err == nil { // else nothing of it is ever shown, and the run shows the loss
			d.done = append(d.done, ps...)
		}
		d.mu.Unlock()
		d.rouse()
	}
}

// exchange takes new posts and gives back those that are safe by now.
func (d *disk) exchange(in []post) (safe []post) {
	d.waiting = append(d.waiting, in...)
	d.mu.Lock()
	defer d.mu.Unlock()
	safe, d.done = d.done, in[:0]
	if !d.busy && len(d.waiting) > 0 {
		d.busy = true
		d.work <- d.waiting
		d.waiting = nil
	}
	return safe
}
