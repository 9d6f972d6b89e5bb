package elastic

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/elastic/go-elasticsearch/v8/esapi"

	"parley/internal/problem"
)

// checkMax bounds the look at one address.
const checkMax = 5 * time.Second

// Check connects and changes nothing. It says everything that is wrong at once: of
// the config, of each address, and, if one of them is good, of the indexes.
func Check(ctx context.Context, cfg Config) error {
	away, faults := look(ctx, cfg)
	return errors.Join(append(away, faults...)...)
}

// Ready is what Open asks first: as Check, but with several addresses some may be
// away.
func Ready(ctx context.Context, cfg Config) error {
	away, faults := look(ctx, cfg)
	if len(faults) > 0 || len(away) == len(cfg.Addresses) {
		return errors.Join(append(away, faults...)...)
	}
	return nil
}

// look tells addresses that don't answer from what must be mended.
func look(ctx context.Context, cfg Config) (away, faults []error) {
	cfg = cfg.defaults()
	if err := cfg.Validate(); err != nil {
		return nil, []error{err}
	}
	s, err := cfg.secrets()
	if err != nil {
		return nil, []error{err}
	}
	clients, errs := make([]*client, len(cfg.Addresses)), make([]error, len(cfg.Addresses))
	var all sync.WaitGroup
	for i, a := range cfg.Addresses {
		all.Go(func() {
			if clients[i], errs[i] = newClient(&cfg, &s, []string{a}); errs[i] == nil {
				errs[i] = clients[i].checkNode(ctx, a)
			}
		})
	}
	all.Wait()
	var good *client
	for i, err := range errs {
		switch {
		case err == nil:
			good = clients[i]
		case problem.Is(err, problem.Unavailable):
			away = append(away, err)
		default:
			faults = append(faults, err)
		}
	}
	if good != nil {
		if err := good.checkIndexes(ctx, cfg.Prefix); err != nil {
			faults = append(faults, err)
		}
	}
	for _, c := range clients {
		if c != nil {
			c.close()
		}
	}
	return away, faults
}

// checkNode looks whether an address is an Elasticsearch that we can use.
func (c *client) checkNode(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, checkMax)
	defer cancel()
	var got struct {
		Nodes map[string]struct {
			Name    string `json:"name"`
			Version string `json:"version"`
		} `json:"nodes"`
	}
	err := c.do(ctx, esapi.NodesInfoRequest{FilterPath: []string{"nodes.*.name", "nodes.*.version"}}, &got)
	if err != nil {
		return nodeFault(err, address)
	}
	for _, n := range got.Nodes {
		if !strings.HasPrefix(n.Version, "8.") {
			return problem.New(problem.Unsupported, "elasticsearch %s: the node %s is of version %s; version 8 is needed", address, n.Name, n.Version)
		}
	}
	if len(got.Nodes) == 0 {
		return problem.New(problem.Unavailable, "elasticsearch %s: it knows no nodes; its cluster may not have formed yet", address)
	}
	return nil
}

func nodeFault(err error, address string) error {
	switch status := statusOf(err); {
	case errors.Is(err, errNotElastic):
		return problem.Wrap(err, problem.Invalid, "elasticsearch %s: something answers there that is not Elasticsearch; check the address", address)
	case status == http.StatusUnauthorized:
		return problem.Wrap(err, problem.Unauthentic, "elasticsearch %s: the credentials are refused; check username and password_file, or api_key_file", address)
	case status == http.StatusForbidden:
		return problem.Wrap(err, problem.Denied, "elasticsearch %s: the user may not look at the cluster; give it the privilege monitor", address)
	case status != 0:
		return problem.Wrap(err, problem.Unavailable, "elasticsearch %s: it answers %v", address, err)
	case strings.Contains(err.Error(), "does not look like a TLS handshake"), strings.Contains(err.Error(), "HTTP response to HTTPS"):
		return problem.Wrap(err, problem.Invalid, "elasticsearch %s: it speaks http, not https", address)
	case strings.Contains(err.Error(), "remote error: tls"):
		return problem.Wrap(err, problem.Invalid, "elasticsearch %s: it refuses TLS with us; check cert_file and key_file: %v", address, err)
	case strings.Contains(err.Error(), "certificate"):
		return problem.Wrap(err, problem.Invalid, "elasticsearch %s: its certificate is not trusted; check ca_file: %v", address, err)
	case errors.Is(err, context.DeadlineExceeded):
		return problem.Wrap(err, problem.Unavailable, "elasticsearch %s: it takes the connection and does not answer; does it hang, or is it something else?", address)
	default:
		return problem.Wrap(err, problem.Unavailable, "elasticsearch %s: it can't be reached, or what answers is no HTTP: %v", address, err)
	}
}

// checkIndexes looks whether what is there under our names is ours.
func (c *client) checkIndexes(ctx context.Context, prefix string) error {
	ctx, cancel := context.WithTimeout(ctx, checkMax)
	defer cancel()
	found, err := c.schemas(ctx, prefix)
	if err == nil { // what only has a name of ours would be written to in its time
		var named map[string]int
		named, err = c.schemas(ctx, prefix+quarters)
		maps.Copy(named, found)
		found = named
	}
	if err != nil {
		err = problem.Wrap(err, problem.Unavailable, "elasticsearch: can't look at the indexes of %s: %v", prefix, err)
	} else {
		err = foreign(found, prefix)
	}
	return errors.Join(err, c.templateFault(ctx, prefix))
}
