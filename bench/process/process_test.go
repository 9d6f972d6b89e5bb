package process_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"parley/bench/process"
)

func start(t *testing.T, script string) (*process.Process, error) {
	t.Helper()
	return process.Start(t.Context(), process.Config{
		Name: "the child", Path: "/bin/sh", Args: []string{"-c", script}, Ready: func(line string) bool { return line == "ready" },
	})
}

func TestProcess_IsReadyMeasuredAndStopped(t *testing.T) {
	p, err := start(t, "echo booting; echo ready; exec sleep 60")
	if err != nil {
		t.Fatal(err)
	}
	if rss, err := p.RSS(); err != nil || rss < 4096 {
		t.Errorf("resident %d, %v", rss, err)
	}
	if cpu, err := p.CPU(); err != nil || cpu < 0 || cpu > time.Minute {
		t.Errorf("CPU %s, %v", cpu, err)
	}
	if err := p.Alive(); err != nil {
		t.Error(err)
	}
	p.Stop()
	if p.Alive() == nil {
		t.Error("alive after Stop")
	}
	if _, err := p.RSS(); err == nil {
		t.Error("memory of the dead")
	}
}

func TestProcess_SaysWhyItEnded(t *testing.T) {
	if _, err := start(t, "echo no disk >&2; exit 3"); err == nil || !strings.Contains(err.Error(), "no disk") {
		t.Errorf("got %v", err)
	}
	if _, err := process.Start(t.Context(), process.Config{Name: "none", Path: "/nowhere"}); err == nil {
		t.Error("a program that is not there runs")
	}
}

func TestProcess_CountsCPU(t *testing.T) {
	p, err := start(t, "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo ready; exec sleep 60")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	if cpu, err := p.CPU(); err != nil || cpu == 0 {
		t.Errorf("CPU %s, %v", cpu, err)
	}
}

// A child may be asked whether it serves, and its errors go to its log.
func TestProcess_IsAskedWhetherItServes(t *testing.T) {
	log := filepath.Join(t.TempDir(), "child.log")
	asked := 0
	p, err := process.Start(t.Context(), process.Config{
		Name: "the child", Path: "/bin/sh", Args: []string{"-c", "echo starting >&2; exec sleep 60"}, Log: log,
		Serves: func(context.Context) error {
			if asked++; asked < 3 {
				return errors.New("not yet")
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	p.Stop()
	if said, err := os.ReadFile(log); err != nil || string(said) != "starting\n" || asked != 3 {
		t.Errorf("the log has %q, %v; asked %d times", said, err, asked)
	}
}
