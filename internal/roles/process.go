package roles

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"parley/internal/admin"
	"parley/internal/lifecycle"
	"parley/internal/problem"
)

// Process is what the configs of all roles have.
type Process struct {
	Dir     string `yaml:"dir" doc:"directory for what the role keeps"`
	CertDir string `yaml:"cert_dir" doc:"directory with ca.pem, cert.pem and key.pem of this role"`
	Admin   string `yaml:"admin" doc:"host:port for health, readiness, metrics and profiles; empty serves none"`
	// DrainMax bounds the orderly part of a stop: 0 to 5 min. Less cuts who has not
	// left yet, more makes a deployment wait.
	DrainMax time.Duration `yaml:"drain_max" doc:"how long a stop may hand work over"`
}

const (
	drainNormal = 30 * time.Second
	drainMost   = 5 * time.Minute
)

// faults collects what is wrong with a config, so that all of it is told at once.
type faults struct{ list []error }

func (f *faults) check(ok bool, field, format string, args ...any) {
	if !ok {
		f.list = append(f.list, problem.Field(field, format, args...))
	}
}

func (f *faults) addr(field, addr string) {
	_, _, err := net.SplitHostPort(addr)
	f.check(err == nil, field, "%q must be host:port", addr)
}

func (f *faults) err() error { return errors.Join(f.list...) }

func (p Process) validate(f *faults) {
	f.check(p.Dir != "", "dir", "must name a directory")
	f.check(p.CertDir != "", "cert_dir", "must name the directory of ca.pem, cert.pem and key.pem; `parley pki issue` makes them")
	f.check(p.DrainMax >= 0 && p.DrainMax <= drainMost, "drain_max", "must be 0 to %s", drainMost)
	if p.Admin != "" {
		f.addr("admin", p.Admin)
	}
}

// serve runs a role's parts below its admin listener.
func (p Process) serve(ctx context.Context, ready func(), a *admin.Server, log *slog.Logger, parts []lifecycle.Part) error {
	a.Addr = p.Admin
	stop := context.AfterFunc(ctx, a.MarkDraining)
	defer stop()
	all := append([]lifecycle.Part{{Name: "admin", Run: a.Run}}, parts...)
	return lifecycle.Run(ctx, func() { a.MarkReady(); ready() }, p.DrainMax, log, all...)
}

// newMetrics is a registry that tells of the process, too.
func newMetrics() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}
