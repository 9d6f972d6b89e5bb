package regions

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/zap"
)

// What would end the process ends the goroutine, and is told.
func TestZap_FatalIsTold(t *testing.T) {
	heard := make(chan error, 1)
	log := newZap(slog.New(slog.DiscardHandler), func(err error) { heard <- err })
	cause := errors.New("no space left on device")
	ended, went := make(chan struct{}), false
	go func() {
		defer close(ended)
		log.Fatal("failed to commit tx", zap.Error(cause))
		went = true
	}()
	<-ended
	if err := <-heard; !errors.Is(err, cause) || !strings.Contains(err.Error(), "failed to commit tx") {
		t.Errorf("heard of %v", err)
	}
	if went {
		t.Error("the goroutine went on")
	}
}
