package process_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"parley/chaos/process"
)

// TestMain is, with the variable set, the process that the tests run.
func TestMain(m *testing.M) {
	addr := os.Getenv("PROCESS_TEST_ADDR")
	if addr == "" {
		os.Exit(m.Run())
	}
	if addr == "broken" {
		_, _ = os.Stdout.WriteString("this can't work\n")
		os.Exit(7)
	}
	term := make(chan os.Signal, 1)
	if os.Getenv("PROCESS_TEST_DEAF") == "" {
		signal.Notify(term, syscall.SIGTERM)
	} else {
		signal.Ignore(syscall.SIGTERM)
	}
	go func() { _ = http.ListenAndServe(addr, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})) }()
	<-term
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func newProcess(t *testing.T, addr string, env ...string) (*process.Process, string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	p := process.New(process.Config{
		Name: "it", Binary: self, LogFile: log, Env: append(env, "PROCESS_TEST_ADDR="+addr), Ready: process.URL("http://" + addr),
	})
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	return p, log
}

func answers(addr string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	return process.URL("http://"+addr)(ctx) == nil
}

func TestProcess_LivesDiesAndLivesAgain(t *testing.T) {
	addr := free(t)
	p, _ := newProcess(t, addr)
	for range 2 {
		for range 2 { // twice is once
			if err := p.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if !answers(addr) || p.Unasked() != nil {
			t.Fatal("it does not run")
		}
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		if answers(addr) || p.Unasked() != nil {
			t.Fatal("it lives on, or is said to have ended by itself")
		}
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(t.Context(), 10*time.Second); err != nil {
		t.Fatal(err)
	}
}

func TestProcess_StandsStill(t *testing.T) {
	addr := free(t)
	p, _ := newProcess(t, addr)
	if err := errors.Join(p.Start(t.Context()), p.Pause()); err != nil {
		t.Fatal(err)
	}
	if answers(addr) {
		t.Error("it answers while it stands still")
	}
	if err := p.Continue(); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err != nil { // waits until it answers
		t.Fatal(err)
	}
}

func TestProcess_TellsHowItEnded(t *testing.T) {
	p, log := newProcess(t, "broken")
	err := p.Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "exit status 7") || !strings.Contains(err.Error(), log) {
		t.Errorf("%v", err)
	}
	if err := p.Unasked(); err == nil {
		t.Error("nobody ended it, and nobody is told")
	}
	if b, err := os.ReadFile(log); err != nil || !strings.Contains(string(b), "this can't work") {
		t.Errorf("the log has %q, %v", b, err)
	}
}

func TestProcess_WhoDoesNotHearIsKilled(t *testing.T) {
	addr := free(t)
	p, _ := newProcess(t, addr, "PROCESS_TEST_DEAF=1")
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(t.Context(), 50*time.Millisecond); err == nil || answers(addr) {
		t.Errorf("%v", err)
	}
}
