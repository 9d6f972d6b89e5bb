package controlplane

import (
	"io"
	"net/http"
	"sync"
	"time"
)

// unhurried cuts off who stalls in the middle of a message, in either direction,
// and leaves alone who only waits: a watch may be silent for days.
func unhurried(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l := &limits{c: http.NewResponseController(w)}
		defer l.end()
		r.Body = steadyBody{r.Body, l}
		next.ServeHTTP(steadyWriter{w, l}, r)
	})
}

// limits sets the deadlines of a call's connection, as long as it is the call's:
// who forwards a call may read its body for a moment after the handler has
// returned, when a deadline would be somebody else's, or nobody's. They can't be
// set where there is no connection, as in a test's recorder.
type limits struct {
	c *http.ResponseController

	mu   sync.Mutex
	over bool
}

func (l *limits) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
}

func (l *limits) set(of func(time.Time) error, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		_ = of(at)
	}
}

// steadyBody bounds each read.
type steadyBody struct {
	io.ReadCloser
	l *limits
}

// Read implements io.Reader.
func (b steadyBody) Read(p []byte) (int, error) {
	b.l.set(b.l.c.SetReadDeadline, time.Now().Add(stallMax))
	defer b.l.set(b.l.c.SetReadDeadline, time.Time{})
	return b.ReadCloser.Read(p)
}

// steadyWriter bounds each write.
type steadyWriter struct {
	http.ResponseWriter
	l *limits
}

// Write implements io.Writer.
func (w steadyWriter) Write(p []byte) (int, error) {
	w.l.set(w.l.c.SetWriteDeadline, time.Now().Add(stallMax))
	defer w.l.set(w.l.c.SetWriteDeadline, time.Time{})
	return w.ResponseWriter.Write(p)
}

// Flush implements http.Flusher, which connect asks for.
func (w steadyWriter) Flush() {
	w.l.set(w.l.c.SetWriteDeadline, time.Now().Add(stallMax))
	defer w.l.set(w.l.c.SetWriteDeadline, time.Time{})
	_ = w.l.c.Flush() // the next write tells
}

// Unwrap lets an http.ResponseController through.
func (w steadyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
