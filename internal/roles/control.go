package roles

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"parley/controlplane"
	"parley/internal/pki"
)

// Control is the config of a control-plane node.
type Control struct {
	controlplane.Config
	CertDir string // of the role control: ca.pem, cert.pem, key.pem
}

// RunControl runs a control-plane node until ctx ends.
func RunControl(ctx context.Context, ready func(), c Control, log *slog.Logger) error {
	if err := makeDir(c.Dir); err != nil {
		return err
	}
	identity, err := pki.LoadBundle(c.CertDir)
	if err != nil {
		return err
	}
	n, err := controlplane.New(c.Config, controlplane.Deps{Identity: identity, Now: time.Now, Log: log, Metrics: prometheus.NewRegistry()})
	if err != nil {
		return err
	}
	return n.Run(ctx, ready)
}
