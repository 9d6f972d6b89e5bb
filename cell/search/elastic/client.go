package elastic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/elastic/elastic-transport-go/v8/elastictransport"
	"github.com/elastic/go-elasticsearch/v8/esapi"

	"parley/internal/problem"
)

// client speaks to one cluster.
type client struct {
	transport *elastictransport.Client
	web       *http.Transport
	max       time.Duration
}

// newClient makes a client of some of the config's addresses. It connects to
// nothing. A node that can't be reached is passed over: all that we send may be
// sent twice.
func newClient(c *Config, s *secrets, addresses []string) (*client, error) {
	web := s.transport()
	opts := []elastictransport.Option{elastictransport.WithTransport(web)}
	if c.Username != "" {
		opts = append(opts, elastictransport.WithBasicAuth(c.Username, s.password))
	}
	if s.apiKey != "" {
		opts = append(opts, elastictransport.WithAPIKey(s.apiKey))
	}
	if len(addresses) > 1 {
		opts = append(opts, elastictransport.WithMaxRetries(len(addresses)-1))
	} else {
		opts = append(opts, elastictransport.WithDisableRetry())
	}
	urls := make([]*url.URL, len(addresses))
	for i, a := range addresses {
		var err error
		if urls[i], err = url.Parse(a); err != nil {
			return nil, problem.Field("addresses", "%q is no URL", a)
		}
	}
	t, err := elastictransport.NewClient(append(opts, elastictransport.WithURLs(urls...))...)
	if err != nil {
		return nil, problem.Wrap(err, problem.Invalid, "elasticsearch: the settings make no client")
	}
	return &client{transport: t, web: web, max: c.RequestMax}, nil
}

func (c *client) close() { c.web.CloseIdleConnections() }

const (
	// productHeader is on every answer of Elasticsearch, and of nothing else.
	productHeader = "X-Elastic-Product"
	product       = "Elasticsearch"
	// answerBytesMax bounds an answer: 5,000 hits of some 500 bytes are the longest.
	answerBytesMax = 32 << 20
	saidBytesMax   = 64 << 10
)

// said is an answer that is a refusal.
type said struct {
	status int
	kind   string // Elasticsearch's name of the error
	reason string
}

// Error implements error.
func (s *said) Error() string { return fmt.Sprintf("%d %s: %s", s.status, s.kind, s.reason) }

// request is any of esapi's.
type request interface {
	Do(ctx context.Context, transport esapi.Transport) (*esapi.Response, error)
}

var errNotElastic = errors.New("what answers is not Elasticsearch: there is no " + productHeader + " header")

// do sends a request and decodes its answer into out (nil = dropped). Its error is
// a *said, errNotElastic, or that of the network.
func (c *client) do(ctx context.Context, r request, out any) error {
	ctx, cancel := context.WithTimeout(ctx, c.max)
	defer cancel()
	res, err := r.Do(ctx, c.transport)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // all that matters was read
	if res.Header.Get(productHeader) != product {
		return errNotElastic
	}
	if res.IsError() {
		return refusal(res)
	}
	if out == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(res.Body, answerBytesMax))
		return err
	}
	return json.NewDecoder(io.LimitReader(res.Body, answerBytesMax)).Decode(out)
}

func refusal(res *esapi.Response) error {
	s := &said{status: res.StatusCode, kind: "error", reason: http.StatusText(res.StatusCode)}
	b, err := io.ReadAll(io.LimitReader(res.Body, saidBytesMax))
	var body struct {
		Error struct {
			Type   string `json:"type"`
			Reason string `json:"reason"`
		} `json:"error"`
	}
	if err == nil && json.Unmarshal(b, &body) == nil && body.Error.Type != "" {
		s.kind, s.reason = body.Error.Type, body.Error.Reason
	}
	return s
}

// statusOf is the status of a refusal; 0 for any other error.
func statusOf(err error) int {
	if s, ok := errors.AsType[*said](err); ok {
		return s.status
	}
	return 0
}

// failed gives an error of do a kind. What Elasticsearch calls our own fault is
// one; everything else may be over in a while.
func failed(err error, doing string) error {
	if err == nil {
		return nil
	}
	if s := statusOf(err); s == http.StatusBadRequest {
		return problem.Wrap(err, problem.Internal, "elasticsearch refuses %s", doing)
	}
	return &problem.Error{Kind: problem.Unavailable, Msg: "the search index does not answer; try again", RetryAfter: time.Second, Cause: fmt.Errorf("%s: %w", doing, err)}
}
