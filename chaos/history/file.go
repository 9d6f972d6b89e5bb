package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Recorder writes a history. It may be used from any goroutine; the first error
// of the file is kept and told by Close.
type Recorder struct {
	now func() time.Time

	mu  sync.Mutex
	out *bufio.Writer
	enc *json.Encoder
	f   io.Closer
	err error
}

// Create makes a history's file, which must not exist.
func Create(name string) (*Recorder, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return NewRecorder(f, f), nil
}

// NewRecorder writes to w, and closes c, if not nil, in the end.
func NewRecorder(w io.Writer, c io.Closer) *Recorder {
	out := bufio.NewWriterSize(w, 256<<10)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	return &Recorder{now: time.Now, out: out, enc: enc, f: c}
}

// Add writes a record down, at the present time if it has none.
func (r *Recorder) Add(rec Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec.AtUS == 0 {
		rec.AtUS = r.now().UnixMicro() // under the lock: lines and times rise together
	}
	if err := r.enc.Encode(rec); err != nil && r.err == nil {
		r.err = err
	}
}

// Close writes out what is left.
func (r *Recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := errors.Join(r.err, r.out.Flush())
	if r.f != nil {
		err = errors.Join(err, r.f.Close())
	}
	return err
}

// lineBytesMax bounds a line: the largest event is a hello of 10,000 channels.
const lineBytesMax = 8 << 20

// Read calls do with each record of a history, in order, until it fails.
func Read(name string, do func(Record) error) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	lines := bufio.NewScanner(f)
	lines.Buffer(make([]byte, 0, 64<<10), lineBytesMax)
	for n := 1; lines.Scan(); n++ {
		var r Record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return fmt.Errorf("%s:%d: is no record of a history: %w", name, n, err)
		}
		if err := do(r); err != nil {
			return fmt.Errorf("%s:%d: %w", name, n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
