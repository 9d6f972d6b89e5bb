package elastic

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/elastic/go-elasticsearch/v8/esapi"

	"parley/internal/problem"
)

// checkMax bounds the look at one address.
const checkMax = 10 * time.Second

// Check connects and changes nothing. It says everything that is wrong at once: of
// the config, of each address, and, if one of them is good, of the indexes.
func Check(ctx context.Context, cfg Config) error {
	cfg = cfg.defaults()
	if err := cfg.Validate(); err != nil {
		return err
	}
	s, err := cfg.secrets()
	if err != nil {
		return err
	}
	var faults []error
	var good *client
	for _, a := range cfg.Addresses {
		c, err := newClient(&cfg, &s, []string{a})
		if err != nil {
			return err
		}
		defer c.close()
		if err := c.checkNode(ctx, a); err != nil {
			faults = append(faults, err)
		} else if good == nil {
			good = c
		}
	}
	if good != nil {
		faults = append(faults, good.checkIndexes(ctx, cfg.Prefix))
	}
	return errors.Join(faults...)
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
	case strings.Contains(err.Error(), "certificate"):
		return problem.Wrap(err, problem.Invalid, "elasticsearch %s: its certificate is not trusted; check ca_file: %v", address, err)
	default:
		return problem.Wrap(err, problem.Unavailable, "elasticsearch %s: it can't be reached, or what answers is no HTTP: %v", address, err)
	}
}

// checkIndexes looks whether what is there under our names is ours.
func (c *client) checkIndexes(ctx context.Context, prefix string) error {
	ctx, cancel := context.WithTimeout(ctx, checkMax)
	defer cancel()
	found, err := c.schemas(ctx, prefix)
	if err != nil {
		err = problem.Wrap(err, problem.Unavailable, "elasticsearch: can't look at the indexes of %s: %v", prefix, err)
	} else {
		err = foreign(found, prefix)
	}
	return errors.Join(err, c.templateFault(ctx, prefix))
}
