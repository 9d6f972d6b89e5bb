package regions

import (
	"context"
	"log/slog"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap/zapcore"

	"parley/internal/disk"
	"parley/internal/problem"
)

// EtcdConfig describes an etcd of one member inside this process, for
// development and tests. Regions in earnest run an etcd of their own.
type EtcdConfig struct {
	Dir        string
	ClientAddr string // host:port
	PeerAddr   string // host:port; must be set though a single member has no peers
	// TLSDir holds ca.pem, cert.pem and key.pem; clients must then show a
	// certificate of that authority. "" = plain text, for tests.
	TLSDir string
	Log    *slog.Logger

	free func(dir string) (uint64, error) // tests'; default disk.Free
}

// etcdQuota bounds the embedded etcd's disk: enough for a million routes.
const etcdQuota = 1 << 30

// Etcd is a running embedded etcd.
type Etcd struct {
	endpoint string
	server   *embed.Etcd
	log      *slog.Logger
	failed   chan error
	broken   atomic.Bool // it would have ended the process, and may hold locks
	close    sync.Once
}

// Endpoint is where clients reach it.
func (e *Etcd) Endpoint() string { return e.endpoint }

// Err gives the errors that end the server by itself.
func (e *Etcd) Err() <-chan error { return e.failed }

// watch passes on why the server ended by itself.
func (e *Etcd) watch() {
	select {
	case err := <-e.server.Err():
		e.fail(err)
	case <-e.server.Server.StopNotify():
	}
}

func (e *Etcd) fail(err error) {
	select {
	case e.failed <- err:
	default: // the first says why
	}
}

// Close stops it and waits until it has stopped. What it holds stays in Dir. One that has
// failed is left as it is.
func (e *Etcd) Close() {
	e.close.Do(func() {
		if e.broken.Load() {
			return
		}
		// First the store: an orderly stop waits for the watches of clients, and
		// meanwhile leases would end whose renewals it no longer takes.
		e.server.Server.HardStop()
		e.server.Close()
		<-e.server.Server.StopNotify()
	})
}

// StartEtcd starts an etcd and waits until it serves.
func StartEtcd(ctx context.Context, cfg EtcdConfig) (*Etcd, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.free == nil {
		cfg.free = disk.Free
	}
	e := &Etcd{log: cfg.Log.With("dir", cfg.Dir), failed: make(chan error, 1)}
	conf, err := embedConfig(cfg, func(err error) {
		e.broken.Store(true)
		e.fail(problem.Wrap(err, problem.Unavailable, "the embedded etcd in %s can't go on: %v", cfg.Dir, err))
	})
	if err != nil {
		return nil, err
	}
	server, err := e.start(conf)
	if err != nil {
		return nil, problem.Wrap(err, problem.Unavailable, "the embedded etcd in %s cannot start on %s: %v", cfg.Dir, cfg.ClientAddr, err)
	}
	e.endpoint, e.server = conf.AdvertiseClientUrls[0].String(), server
	go e.watch() // ends with the server
	select {
	case <-server.Server.ReadyNotify():
		go (&room{etcd: e, dir: conf.Dir, free: cfg.free}).keep() // ends with the server
		return e, nil
	case err = <-e.failed:
	case <-server.Server.StopNotify():
		err = problem.New(problem.Unavailable, "it stopped")
	case <-ctx.Done():
		err = ctx.Err()
	}
	e.Close()
	return nil, problem.Wrap(err, problem.Unavailable, "the embedded etcd in %s did not become ready", cfg.Dir)
}

// start starts the server in a goroutine of its own, which is ended by what would end the
// process.
func (e *Etcd) start(conf *embed.Config) (*embed.Etcd, error) {
	type started struct {
		server *embed.Etcd
		err    error
	}
	done := make(chan started, 1)
	go func() {
		server, err := embed.StartEtcd(conf)
		done <- started{server, err}
	}()
	select {
	case s := <-done:
		return s.server, s.err
	case err := <-e.failed:
		return nil, err
	}
}

func embedConfig(cfg EtcdConfig, fatal func(error)) (*embed.Config, error) {
	for field, v := range map[string]string{"dir": cfg.Dir, "client_addr": cfg.ClientAddr, "peer_addr": cfg.PeerAddr} {
		if v == "" {
			return nil, problem.Field(field, "is empty")
		}
	}
	conf := embed.NewConfig()
	conf.Name = "parley"
	conf.Dir = filepath.Join(cfg.Dir, "etcd")
	scheme := "http"
	if cfg.TLSDir != "" {
		scheme = "https"
		info := transport.TLSInfo{
			CertFile: filepath.Join(cfg.TLSDir, "cert.pem"), KeyFile: filepath.Join(cfg.TLSDir, "key.pem"),
			TrustedCAFile: filepath.Join(cfg.TLSDir, "ca.pem"), ClientCertAuth: true,
		}
		conf.ClientTLSInfo, conf.PeerTLSInfo = info, info
	}
	client, peer := url.URL{Scheme: scheme, Host: cfg.ClientAddr}, url.URL{Scheme: scheme, Host: cfg.PeerAddr}
	conf.ListenClientUrls, conf.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	conf.ListenPeerUrls, conf.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	conf.InitialCluster = conf.InitialClusterFromName(conf.Name)
	conf.QuotaBackendBytes = etcdQuota
	conf.SnapshotCount = 10_000
	conf.AutoCompactionMode, conf.AutoCompactionRetention = "periodic", "10m"
	conf.TickMs, conf.ElectionMs = 50, 500  // one member: its first election should not take a second
	conf.GRPCKeepAliveMinTime = time.Second // clients ping every 3 s
	conf.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newZap(cfg.Log, fatal))
	conf.LogLevel = zapcore.WarnLevel.String()
	return conf, nil
}
