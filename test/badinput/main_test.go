//go:build engines

package badinput_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// binary is parley as people run it.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "parley-badinput-")
	if err == nil {
		binary = filepath.Join(dir, "parley")
		cmd := exec.CommandContext(context.Background(), "go", "build", "-o", binary, "parley/cmd/parley")
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		err = cmd.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir) // what is left is in the system's temporary directory
	os.Exit(code)
}

// errorMax is how long any engine may keep people waiting for what is wrong with it,
// on a machine that does much else.
const errorMax = 25 * time.Second

// ran is how a command line went.
type ran struct {
	code int
	errs string
	took time.Duration
}

// parley runs a command line; after errorMax it is killed.
func parley(ctx context.Context, args ...string) ran {
	ctx, cancel := context.WithTimeout(ctx, errorMax)
	defer cancel()
	var errs bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stderr = &errs
	began := time.Now()
	_ = cmd.Run() // the exit code says it
	return ran{cmd.ProcessState.ExitCode(), errs.String(), time.Since(began)}
}

// cell is a cell's config in pieces, by their names in the file.
type cell map[string]string

func (c cell) with(name, value string) cell {
	out := maps.Clone(c)
	out[name] = value
	return out
}

// write makes the config's file.
func (c cell) write(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "id: eu-1\nregion: eu\nservers: [cs-1]\nserver_addr: %s\nworkers: []\ndrain_max: 1s\ndir: %s\n", freeAddr(t), filepath.Join(t.TempDir(), "cell"))
	fmt.Fprintf(&b, "cert_dir: %s\netcd: [%q]\nstores:\n", c["cert_dir"], c["etcd"])
	for _, name := range []string{"cassandra", "kafka", "redis", "postgres", "elasticsearch"} {
		fmt.Fprintf(&b, "  %s: {%s}\n", name, c[name])
	}
	file := filepath.Join(t.TempDir(), "cell.yaml")
	write(t, file, b.String())
	return file
}

func write(t *testing.T, file, text string) string {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
