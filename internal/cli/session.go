package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"parley/client"
	"parley/controlplane"
	"parley/internal/devcluster"
	controlv1 "parley/internal/gen/parley/control/v1"
	"parley/internal/gen/parley/control/v1/controlv1connect"
	"parley/internal/problem"
)

// Names of environment variables.
const (
	envDev     = "PARLEY_DEV"
	envControl = "PARLEY_CONTROL"
	envToken   = "PARLEY_TOKEN" //nolint:gosec // the variable's name, not its value
	envCA      = "PARLEY_CA"
	envEdge    = "PARLEY_EDGE"
)

const devFileNormal = devcluster.InfoFileNormal

func addSessionFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.String("dev-file", "", "take addresses and tokens from this dev.json ($"+envDev+"; default "+devFileNormal+" if it is there)")
	f.StringSlice("control", nil, "control-plane URLs, comma-separated ($"+envControl+")")
	f.String("token", "", "operator token ($"+envToken+")")
	f.String("ca", "", "file of the authority to trust for https ($"+envCA+"; default: the system's)")
	f.StringSlice("edge", nil, "edge URLs, nearest first ($"+envEdge+")")
	f.StringP("output", "o", "table", "table or json")
}

// session is what a command's flags, environment and dev.json say.
type session struct {
	info  devcluster.Info
	token string
	tls   *tls.Config
}

// sessionOf reads flag over environment over dev.json.
func sessionOf(cmd *cobra.Command) (*session, error) {
	s := &session{}
	if _, err := asJSON(cmd); err != nil { // before anything is changed
		return nil, err
	}
	file := setting(cmd, "dev-file", envDev)
	if file == "" {
		if _, err := os.Stat(devFileNormal); err == nil {
			file = devFileNormal
		}
	}
	if file != "" {
		var err error
		if s.info, err = devcluster.LoadInfo(file); err != nil {
			return nil, err
		}
	}
	if urls := setting(cmd, "control", envControl); urls != "" {
		s.info.Control = strings.Split(urls, ",")
	}
	if urls := setting(cmd, "edge", envEdge); urls != "" {
		s.info.Edges = nil
		for u := range strings.SplitSeq(urls, ",") {
			s.info.Edges = append(s.info.Edges, devcluster.EdgeInfo{URL: u})
		}
	}
	if s.token = setting(cmd, "token", envToken); s.token == "" {
		s.token = s.info.OperatorToken
	}
	ca := setting(cmd, "ca", envCA)
	if ca == "" {
		ca = s.info.CA
	}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, usage("--ca: %v", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, usage("--ca: %s holds no certificate", ca)
		}
		s.tls = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return s, nil
}

// EdgesOf is the edges that a command's flags, environment and dev.json name, and
// how to trust them.
func EdgesOf(cmd *cobra.Command) (urls []string, trust *tls.Config, err error) {
	s, err := sessionOf(cmd)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range s.info.Edges {
		urls = append(urls, e.URL)
	}
	if len(urls) == 0 {
		return nil, nil, usage("no edge is known: give --edge, or --dev-file")
	}
	return urls, s.tls, nil
}

func setting(cmd *cobra.Command, flag, env string) string {
	f := cmd.Flags().Lookup(flag)
	switch list, ok := f.Value.(pflag.SliceValue); {
	case f.Changed && ok:
		return strings.Join(list.GetSlice(), ",")
	case f.Changed:
		return f.Value.String()
	default:
		return os.Getenv(env)
	}
}

// Bounds of one call to the control plane, and of reaching one node.
const (
	callMax = 30 * time.Second
	dialMax = 5 * time.Second
)

// control is a client of the control plane that asks one node after the other.
//
//nolint:ireturn // what connect generates is an interface
func (s *session) control() (controlv1connect.ControlServiceClient, error) {
	if len(s.info.Control) == 0 {
		return nil, usage("--control: no control plane is known; start `parley dev`, or give its URLs")
	}
	for _, u := range s.info.Control {
		if !strings.HasPrefix(u, "https://") { // a token never goes out in the clear
			return nil, usage("--control: %q must be https://host:port", u)
		}
	}
	if s.token == "" {
		return nil, usage("--token: no operator token is known")
	}
	web := &http.Client{Transport: &failover{
		urls: s.info.Control, next: &http.Transport{
			TLSClientConfig: s.tls, ForceAttemptHTTP2: true,
			// A node whose host is gone must not eat the time that the next one needs.
			DialContext: (&net.Dialer{Timeout: dialMax}).DialContext, TLSHandshakeTimeout: dialMax,
		},
	}}
	return controlv1connect.NewControlServiceClient(web, "https://control.invalid", connect.WithInterceptors(authorise{s.token})), nil
}

// failover sends a request to the first node that can be reached and takes it. One
// that broke off may have carried it out: what changes something is not sent again.
type failover struct {
	urls []string
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (f *failover) RoundTrip(r *http.Request) (*http.Response, error) {
	var sent []byte
	stream := r.Body != nil && r.GetBody == nil // can be sent once
	if r.Body != nil && !stream {
		var err error
		if sent, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		_ = r.Body.Close() // it is read
	}
	var last error
	for i, base := range f.urls {
		req := r.Clone(r.Context())
		scheme, host, _ := strings.Cut(strings.TrimSuffix(base, "/"), "://") // control looked at it
		req.URL.Scheme, req.URL.Host, req.Host = scheme, host, host
		if r.Body != nil && !stream { // its own: a node that answers early leaves the last one's being read
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(sent)), nil }
			req.Body, _ = req.GetBody()
		}
		res, err := f.next.RoundTrip(req)
		if err == nil && (!refused(res) || stream || i == len(f.urls)-1) {
			return res, nil
		}
		if err == nil { // another may know a leader, or have a disk that works
			_ = res.Body.Close() // it was not wanted
			continue
		}
		last = err
		if stream || !mayRepeat(r, err) {
			break
		}
	}
	return nil, last
}

// refused reports whether a node says that it did nothing, and can't now.
func refused(r *http.Response) bool {
	return r.StatusCode == http.StatusServiceUnavailable && problem.Kind(r.Header.Get(controlplane.HeaderKind)) == problem.Unavailable
}

func mayRepeat(r *http.Request, err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return true // nothing was sent
	}
	name := path.Base(r.URL.Path)
	return strings.HasPrefix(name, "Get") || strings.HasPrefix(name, "List") || strings.HasPrefix(name, "Explain")
}

// authorise puts the operator token into every call, and a deadline over it.
type authorise struct{ token string }

// WrapUnary implements connect.Interceptor.
func (a authorise) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		r.Header().Set("Authorization", "Bearer "+a.token)
		ctx, cancel := context.WithTimeout(ctx, callMax)
		defer cancel()
		return next(ctx, r)
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (a authorise) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, s connect.Spec) connect.StreamingClientConn {
		c := next(ctx, s)
		c.RequestHeader().Set("Authorization", "Bearer "+a.token)
		return c
	}
}

// WrapStreamingHandler implements connect.Interceptor.
func (a authorise) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// at is a client of the edges, the given region's first, as somebody.
func (s *session) at(token, region string) ([]*client.Client, error) {
	var first, rest []*client.Client
	for _, e := range s.info.Edges {
		c, err := client.New(client.Config{URL: e.URL, Token: token, TLS: s.tls})
		if err != nil {
			return nil, err
		}
		if string(e.Region) == region {
			first = append(first, c)
		} else {
			rest = append(rest, c)
		}
	}
	if region != "" && len(first) == 0 {
		return nil, usage("--region: no edge of region %q is known", region)
	}
	if all := append(first, rest...); len(all) > 0 {
		return all, nil
	}
	return nil, usage("--edge: no edge is known; start `parley dev`, or give an edge's URL")
}

// adminTTL is how long a tool works: the longest import there is.
const adminTTL = 12 * time.Hour

// admin is a client that acts as a tool of a workspace's admins.
func (s *session) admin(ctx context.Context, workspace string) (*client.Client, *controlv1.Workspace, error) {
	control, err := s.control()
	if err != nil {
		return nil, nil, err
	}
	found, err := control.GetWorkspace(ctx, connect.NewRequest(&controlv1.GetWorkspaceRequest{Workspace: workspace}))
	if err != nil {
		return nil, nil, err
	}
	token, err := issue(ctx, control, workspace, "", "admin", adminTTL)
	if err != nil {
		return nil, nil, err
	}
	edges, err := s.at(token, "")
	if err != nil {
		return nil, nil, err
	}
	return edges[0], found.Msg.GetWorkspace(), nil
}

func issue(ctx context.Context, c controlv1connect.ControlServiceClient, workspace, user, role string, ttl time.Duration) (string, error) {
	res, err := c.IssueToken(ctx, connect.NewRequest(&controlv1.IssueTokenRequest{
		Workspace: workspace, UserId: user, Role: role, TtlSeconds: int64(ttl.Seconds()),
	}))
	if err != nil {
		return "", err
	}
	return res.Msg.GetToken(), nil
}

// explain is an error as people read it.
func explain(err error) string {
	if call, ok := errors.AsType[*connect.Error](err); ok {
		kind := controlplane.KindOf(err)
		if call.Meta().Get(controlplane.HeaderKind) == "" && kind == problem.Unavailable {
			return "no control-plane node answers: " + call.Message()
		}
		return call.Message()
	}
	if p, ok := err.(*problem.Error); ok { //nolint:errorlint // what it wraps is for the log
		return p.Msg
	}
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		var lines []string
		for _, e := range several.Unwrap() {
			lines = append(lines, explain(e))
		}
		return strings.Join(lines, "\n")
	}
	if p, ok := errors.AsType[*problem.Error](err); ok && err.Error() == p.Error() {
		return p.Msg
	}
	return err.Error()
}
