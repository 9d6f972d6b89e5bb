// Package client is Parley's client library for Go: the HTTP API, and a Stream
// that keeps a socket open, resumes where it broke off, and hands over every
// change of the user's channels exactly once, in order.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"parley/internal/problem"
	"parley/internal/wire/chat"
)

// Config says where to connect and as whom.
type Config struct {
	URL   string      // an edge: http://host:port or https://host:port
	Token string      // a JWT for one user of one workspace, or an admin's
	TLS   *tls.Config // nil = the system's authorities
	// Timeout bounds one try of one request; default 15 s, the edge's own 10 s
	// and a way across an ocean and back.
	Timeout time.Duration
	// Dial opens connections in place of the operating system; nil = it does.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Client speaks the HTTP API. It may be used from any goroutine.
type Client struct {
	base  *url.URL
	token string
	tls   *tls.Config
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	http  *http.Client
}

// connsMax bounds the connections of one Client to its edge.
const connsMax = 64

// New checks the config; it connects to nothing.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, problem.Field("url", "%q must be http://host or https://host", cfg.URL)
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 15 * time.Second
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return &Client{
		base: u, token: cfg.Token, tls: cfg.TLS, dial: cfg.Dial,
		http: &http.Client{Timeout: cfg.Timeout, Transport: &http.Transport{
			DialContext: cfg.Dial, TLSClientConfig: cfg.TLS, MaxConnsPerHost: connsMax, MaxIdleConnsPerHost: connsMax,
			IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
		}},
	}, nil
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// triesMax bounds the tries of a request that is safe to repeat, backoffs the
// waits between them: together about the time of a takeover.
const (
	triesMax   = 6
	backoffMin = 50 * time.Millisecond
	backoffMax = 2 * time.Second
)

// call is one API request.
type call struct {
	method, path string
	query        url.Values
	body         any
	repeatable   bool // safe to send again when its outcome is unknown
}

// do sends a call and decodes its answer into out (nil = dropped). What is safe
// to repeat is tried again while the answer says that nobody could be asked.
func (c *Client) do(ctx context.Context, r call, out any) error {
	var body []byte
	if r.body != nil {
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			return problem.Wrap(err, problem.Invalid, "the request can't be encoded")
		}
	}
	for try := 0; ; try++ {
		wait, err := c.once(ctx, r, body, out)
		if err == nil || try+1 == triesMax || !again(err, r.repeatable) {
			return err
		}
		if pause(ctx, max(wait, backoff(try))) != nil {
			return err // it says more than the end of the time
		}
	}
}

// again reports whether a call that failed may be sent once more.
func again(err error, repeatable bool) bool {
	switch problem.KindOf(err) {
	case problem.Exhausted, problem.Unavailable:
		return true
	case problem.Unknown:
		return repeatable
	default:
		return false
	}
}

// once sends a call and returns how long the server asks to wait on an error.
func (c *Client) once(ctx context.Context, r call, body []byte, out any) (time.Duration, error) {
	u := *c.base
	u.Path += r.path
	u.RawQuery = r.query.Encode()
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), bytes.NewReader(body))
	if err != nil {
		return 0, problem.Wrap(err, problem.Invalid, "%s %s is no request", r.method, r.path)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil { // it may have been done
			return 0, problem.Wrap(ctx.Err(), problem.Unknown, "%s did not answer in the time there was", c.base.Host)
		}
		return 0, problem.Wrap(err, problem.Unknown, "%s did not answer", c.base.Host)
	}
	defer func() { _ = res.Body.Close() }() // all that matters was read
	if res.StatusCode >= http.StatusMultipleChoices {
		return retryAfter(res), decodeProblem(res)
	}
	if out == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(res.Body, answerBytesMax))
	} else {
		err = json.NewDecoder(io.LimitReader(res.Body, answerBytesMax)).Decode(out)
	}
	if err != nil {
		return 0, problem.Wrap(err, problem.Unknown, "the answer of %s broke off", c.base.Host)
	}
	return 0, nil
}

// answerBytesMax bounds an answer: a page of 200 messages of 40,000 characters,
// escaped, is the longest.
const answerBytesMax = chat.PageMax * chat.BodyBytesMax

func retryAfter(res *http.Response) time.Duration {
	s, err := strconv.Atoi(res.Header.Get("Retry-After"))
	if err != nil || s < 0 {
		return 0
	}
	return min(time.Duration(s)*time.Second, time.Minute)
}

func decodeProblem(res *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return problem.Wrap(err, problem.KindForStatus(res.StatusCode), "%s", res.Status)
	}
	var d problem.Document
	if json.Unmarshal(b, &d) != nil || d.Kind == "" {
		return problem.New(problem.KindForStatus(res.StatusCode), "%s: %.200s", res.Status, b)
	}
	return &problem.Error{Kind: d.Kind, Msg: d.Detail, Field: d.Field}
}

// backoff is the wait before try n+1: exponential, with full jitter above the
// least.
func backoff(n int) time.Duration {
	top := min(backoffMax, backoffMin<<min(n, 16))
	return backoffMin/2 + rand.N(top)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// IsGone reports whether an error means that the token or the workspace is no
// longer served at all, so that trying again is of no use.
func IsGone(err error) bool {
	var e *problem.Error
	return errors.As(err, &e) && (e.Kind == problem.Unauthentic || e.Kind == problem.Denied)
}
