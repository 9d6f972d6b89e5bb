package controlplane

import (
	"io"
	"net/http"
	"time"
)

// unhurried cuts off who stalls in the middle of a message, in either direction,
// and leaves alone who only waits: a watch may be silent for days.
func unhurried(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		r.Body = steadyBody{r.Body, c}
		next.ServeHTTP(steadyWriter{w, c}, r)
	})
}

// steadyBody bounds each read. Deadlines can't be set only where there is no
// connection, as in a test's recorder.
type steadyBody struct {
	io.ReadCloser
	c *http.ResponseController
}

// Read implements io.Reader.
func (b steadyBody) Read(p []byte) (int, error) {
	_ = b.c.SetReadDeadline(time.Now().Add(stallMax))
	defer func() { _ = b.c.SetReadDeadline(time.Time{}) }()
	return b.ReadCloser.Read(p)
}

// steadyWriter bounds each write.
type steadyWriter struct {
	http.ResponseWriter
	c *http.ResponseController
}

// Write implements io.Writer.
func (w steadyWriter) Write(p []byte) (int, error) {
	_ = w.c.SetWriteDeadline(time.Now().Add(stallMax))
	defer func() { _ = w.c.SetWriteDeadline(time.Time{}) }()
	return w.ResponseWriter.Write(p)
}

// Flush implements http.Flusher, which connect asks for.
func (w steadyWriter) Flush() {
	_ = w.c.SetWriteDeadline(time.Now().Add(stallMax))
	defer func() { _ = w.c.SetWriteDeadline(time.Time{}) }()
	_ = w.c.Flush() // the next write tells
}

// Unwrap lets an http.ResponseController through.
func (w steadyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
